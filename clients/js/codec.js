/** Values and names of messages as bytes. */

import { MessagePackError } from "./errors.js";
import { decode, encode } from "./messagepack.js";

const NO_BYTES = new Uint8Array(0);
const utf8 = new TextEncoder();

/** Encode a value as `{body, isPacked}`. Bytes are sent unchanged; they are copied, because the caller may modify them. */
export function encodeValue(value) {
  if (ArrayBuffer.isView(value)) {
    return { body: new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice(), isPacked: false };
  }
  if (value instanceof ArrayBuffer) return { body: new Uint8Array(value.slice(0)), isPacked: false };
  return { body: encode(value), isPacked: true };
}

/** Decode the value of a message. Throws MessagePackError for invalid MessagePack. */
export function decodeValue({ body, isPacked }) {
  return isPacked ? decode(body) : body;
}

/** Encode a name as UTF-8. Throws MessagePackError for a lone surrogate, which UTF-8 cannot encode. */
export function encodeName(name) {
  if (name === "") return NO_BYTES;
  if (typeof name !== "string" || !name.isWellFormed()) {
    throw new MessagePackError("a name must be a string without lone surrogates");
  }
  return utf8.encode(name);
}
