/** Messages of which not all fragments have arrived (docs/protocol.md §5.5). */

import { Code, ProtocolError } from "./errors.js";
import { FRAGMENT_BYTES } from "./frames.js";

/** The fragments of one message so far. */
export class Reassembly {
  #body = new Uint8Array(2 * FRAGMENT_BYTES);
  #length = 0;

  constructor({ operation, flags, correlation, name }) {
    this.operation = operation;
    this.flags = flags;
    this.correlation = correlation;
    this.name = name.text;
    this.nameBytes = name.bytes;
  }

  get body() {
    return this.#body.slice(0, this.#length);
  }

  /** Add a fragment. Throws ProtocolError for an empty one: it would let a peer send without limit. */
  add(payload, messageBytesMax) {
    if (payload.length === 0) throw new ProtocolError("an empty fragment");
    const length = this.#length + payload.length;
    checkMessageSize(this.nameBytes + length, messageBytesMax);
    if (length > this.#body.length) {
      const grown = new Uint8Array(Math.max(length, Math.min(2 * this.#body.length, messageBytesMax)));
      grown.set(this.#body.subarray(0, this.#length));
      this.#body = grown;
    }
    this.#body.set(payload, this.#length);
    this.#length = length;
  }
}

/** Throw ProtocolError for a message above the limit of this side. */
export function checkMessageSize(size, messageBytesMax) {
  if (size > messageBytesMax) {
    throw new ProtocolError(`a message of more than the ${messageBytesMax} bytes allowed`, Code.LIMIT_EXCEEDED);
  }
}
