/**
 * Frames: the bytes of docs/protocol.md §2, §5 and §6. Pure functions, and a reader that buffers incomplete frames.
 */

import { MessagePackError, ProtocolError, Code } from "./errors.js";
import { Float, decode, encode } from "./messagepack.js";

export const PROTOCOL_VERSION = 1;
/** The subprotocol of the WebSocket handshake. */
export const SUBPROTOCOL = "landline.1";
/** The longest message of a WebSocket (§2.4). */
export const MESSAGE_BYTES_MAX = 131_072;

// Limits (§3.1).
export const HANDSHAKE_BYTES_MAX = 8192;
export const FRAME_BYTES_MAX = 17_408;
export const FRAGMENT_BYTES = 16_384;
export const NAME_BYTES_MAX = 255;
/** A datagram without its kind (§5.7). */
export const DATAGRAM_BYTES_MAX = 1200;
export const REASON_CHARS_MAX = 500;

export const LENGTH_BYTES = 4;
/** The length field, the kind, and the fields of a DATA frame before its name. */
export const DATA_HEADER_BYTES = 24;

export const Kind = Object.freeze({
  CHALLENGE: 1,
  HELLO: 2,
  WELCOME: 3,
  REJECT: 4,
  DATA: 16,
  ACK: 17,
  PING: 18,
  PONG: 19,
  DATAGRAM: 20,
  EOF: 21,
  BYE: 22,
  NOTICE: 23,
});

export const Operation = Object.freeze({
  CONTINUE: 0,
  MESSAGE: 1,
  REQUEST: 2,
  RESPONSE: 3,
  ERROR: 4,
  CANCEL: 5,
});
export const OPERATION_MAX = 5;

export const Flag = Object.freeze({ MORE: 1, BULK: 2, PACKED: 4 });
export const FLAGS_KNOWN = 7;

const PING_BYTES = 28;
const CHECKED_BYTES = 24;
const NONE = new Uint8Array(0);

const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// Numbers of 64 bits. Sequence numbers are exact up to 2^53, which no session reaches. A larger one of a hostile peer
// may be rounded, and is far above all numbers it is compared with.

export function readU64(view, at) {
  return view.getUint32(at) * 0x1_0000_0000 + view.getUint32(at + 4);
}

export function writeU64(view, at, value) {
  if (typeof value === "bigint") view.setBigUint64(at, value);
  else {
    view.setUint32(at, Math.floor(value / 0x1_0000_0000));
    view.setUint32(at + 4, value % 0x1_0000_0000);
  }
}

/** As readU64, but return a bigint if a number would not be exact: correlation ids are sent back unchanged. */
function readExactU64(view, at) {
  const number = readU64(view, at);
  return number <= Number.MAX_SAFE_INTEGER ? number : view.getBigUint64(at);
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, index) => {
  let crc = index;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 as in zlib (§6.1). */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

function frame(kind, bodyBytes) {
  const bytes = new Uint8Array(LENGTH_BYTES + 1 + bodyBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 1 + bodyBytes);
  bytes[LENGTH_BYTES] = kind;
  return { bytes, view };
}

/** A frame whose body is a map. */
export function encodeBody(kind, body) {
  const packed = encode(body);
  const { bytes } = frame(kind, packed.length);
  bytes.set(packed, LENGTH_BYTES + 1);
  return bytes;
}

/** DATA (§5.1). `name` and `payload` are bytes. */
export function encodeData(sequence, flags, operation, correlation, name, payload) {
  const { bytes, view } = frame(Kind.DATA, DATA_HEADER_BYTES - LENGTH_BYTES - 1 + name.length + payload.length);
  writeU64(view, 5, sequence);
  bytes[13] = flags;
  bytes[14] = operation;
  writeU64(view, 15, correlation);
  bytes[23] = name.length;
  bytes.set(name, DATA_HEADER_BYTES);
  bytes.set(payload, DATA_HEADER_BYTES + name.length);
  return bytes;
}

/** ACK (§5.3). */
export function encodeAck(acked) {
  return encodeNumber(Kind.ACK, acked);
}

/** EOF (§5.4). */
export function encodeEof(sequence) {
  return encodeNumber(Kind.EOF, sequence);
}

function encodeNumber(kind, number) {
  const { bytes, view } = frame(kind, 8);
  writeU64(view, 5, number);
  return bytes;
}

/** PING or PONG (§6.1). `timeUs` is a bigint, or the 8 bytes of the PING that is answered. */
export function encodePing(kind, number, timeUs, acked) {
  const { bytes, view } = frame(kind, PING_BYTES);
  writeU64(view, 5, number);
  if (typeof timeUs === "bigint") view.setBigUint64(13, timeUs);
  else bytes.set(timeUs, 13);
  writeU64(view, 21, acked);
  view.setUint32(29, crc32(bytes.subarray(5, 29)));
  return bytes;
}

/** Decode the body of a PING or PONG. Throws ProtocolError for a wrong length or checksum. */
export function decodePing(body) {
  if (body.length !== PING_BYTES) throw new ProtocolError(`a ping or pong of ${body.length} bytes`);
  const view = viewOf(body);
  if (view.getUint32(CHECKED_BYTES) !== crc32(body.subarray(0, CHECKED_BYTES))) {
    throw new ProtocolError("a ping or pong with a wrong checksum");
  }
  return { number: readExactU64(view, 0), timeUs: body.slice(8, 16), acked: readU64(view, 16) };
}

/** Decode the body of an ACK or EOF. */
export function decodeNumber(body) {
  if (body.length !== 8) throw new ProtocolError(`a sequence number of ${body.length} bytes`);
  return readU64(viewOf(body), 0);
}

/** Decode the body of a DATA frame, after its kind. The name stays bytes until the sequence number was checked. */
export function decodeData(body) {
  const header = DATA_HEADER_BYTES - LENGTH_BYTES - 1;
  const frameBytes = LENGTH_BYTES + 1 + body.length;
  if (body.length < header) {
    throw new ProtocolError(`a DATA frame of ${frameBytes} bytes, less than its header of ${DATA_HEADER_BYTES}`);
  }
  const nameBytes = body[18];
  const view = viewOf(body);
  return {
    sequence: readU64(view, 0),
    flags: body[8],
    operation: body[9],
    correlation: readExactU64(view, 10),
    nameFits: body.length >= header + nameBytes,
    name: body.subarray(header, header + nameBytes),
    payload: body.subarray(header + nameBytes),
  };
}

/** DATAGRAM (§5.7). */
export function encodeDatagram(flags, name, payload) {
  const { bytes } = frame(Kind.DATAGRAM, 2 + name.length + payload.length);
  bytes[5] = flags;
  bytes[6] = name.length;
  bytes.set(name, 7);
  bytes.set(payload, 7 + name.length);
  return bytes;
}

/** Decode the body of a DATAGRAM. Throws ProtocolError if it is invalid. */
export function decodeDatagram(body) {
  if (body.length > DATAGRAM_BYTES_MAX) {
    throw new ProtocolError(`a datagram of ${body.length} bytes; ${DATAGRAM_BYTES_MAX} are allowed`, Code.LIMIT_EXCEEDED);
  }
  if (body.length < 2 || body.length < 2 + body[1]) {
    throw new ProtocolError(`a datagram of ${body.length} bytes, less than its header and name`);
  }
  if ((body[0] & ~Flag.PACKED) !== 0) throw new ProtocolError(`a datagram with the flags ${body[0]}`);
  return {
    name: decodeName(body.subarray(2, 2 + body[1])),
    isPacked: body[0] === Flag.PACKED,
    body: body.subarray(2 + body[1]).slice(),
  };
}

/** Decode a name. Throws ProtocolError if it is not UTF-8. */
export function decodeName(bytes) {
  if (bytes.length === 0) return "";
  try {
    return fromUtf8.decode(bytes);
  } catch {
    throw new ProtocolError("a name that is not UTF-8");
  }
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Splits the bytes of a transport into frames. Between reads it buffers at most one incomplete frame. */
export class FrameReader {
  #buffer = NONE;
  #bytesMax;

  constructor(bytesMax) {
    this.#bytesMax = bytesMax;
  }

  /** Add bytes. Get all frames with next() before adding more. */
  feed(bytes) {
    if (this.#buffer.length === 0) this.#buffer = bytes;
    else {
      const joined = new Uint8Array(this.#buffer.length + bytes.length);
      joined.set(this.#buffer);
      joined.set(bytes, this.#buffer.length);
      this.#buffer = joined;
    }
  }

  /**
   * Return the next complete frame, `{kind, body, bytes}`, or null. `body` is a view that stays valid; `bytes` is the size
   * with the length field. Throws ProtocolError for an invalid length as soon as its four bytes have arrived.
   */
  next() {
    const buffer = this.#buffer;
    if (buffer.length < LENGTH_BYTES) return null;
    const length = viewOf(buffer).getUint32(0);
    if (length === 0) throw new ProtocolError("a frame of length 0");
    if (length > this.#bytesMax) {
      throw new ProtocolError(`a frame of ${length} bytes; ${this.#bytesMax} are allowed`, Code.LIMIT_EXCEEDED);
    }
    const end = LENGTH_BYTES + length;
    if (buffer.length < end) {
      // A copy, so that a few bytes of the next frame do not keep a large buffer alive.
      if (buffer.byteOffset !== 0) this.#buffer = buffer.slice();
      return null;
    }
    this.#buffer = buffer.subarray(end);
    return { kind: buffer[LENGTH_BYTES], body: buffer.subarray(LENGTH_BYTES + 1, end), bytes: end };
  }

  /** Return the bytes after the last complete frame, and empty the reader. */
  popTrailingData() {
    const buffer = this.#buffer;
    this.#buffer = NONE;
    return buffer;
  }
}

// Maps (§1.2). A field is `{check, required, missing}`; other keys of a map are ignored.

/** Decode a map and check its fields. Throws a ProtocolError that names the field. */
export function decodeBody(what, body, fields) {
  let map;
  try {
    map = decode(body, { floats: true });
  } catch (error) {
    if (error instanceof MessagePackError) throw new ProtocolError(`cannot decode ${what}: ${error.message}`);
    throw error;
  }
  return checkMap(what, map, fields);
}

function checkMap(what, map, fields) {
  const isMap = typeof map === "object" && map !== null && Object.getPrototypeOf(map) === Object.prototype;
  if (!isMap) throw new ProtocolError(`${what} is not a map with string keys`);
  const found = {};
  for (const [name, { check, required, missing }] of Object.entries(fields)) {
    if (Object.hasOwn(map, name)) found[name] = check(map[name], `${what}.${name}`);
    else if (required) throw new ProtocolError(`${what} without ${name}`);
    else found[name] = missing;
  }
  return found;
}

export const required = (check) => ({ check, required: true });
export const optional = (check, missing) => ({ check, required: false, missing });

const refuse = (value, path, wanted) => {
  throw new ProtocolError(`${path} must be ${wanted}`);
};

export const integer = (least = -Infinity, most = Infinity) => (value, path) =>
  (Number.isInteger(value) || typeof value === "bigint") && value >= least && value <= most
    ? value
    : refuse(value, path, Number.isFinite(least) ? `an integer from ${least} to ${most}` : "an integer");

export const number = (least, most) => (value, path) => {
  const plain = value instanceof Float ? value.value : typeof value === "bigint" ? Number(value) : value;
  return typeof plain === "number" && plain >= least && plain <= most
    ? plain
    : refuse(value, path, `a number from ${least} to ${most}`);
};

export const bytes = (least, most) => (value, path) =>
  value instanceof Uint8Array && value.length >= least && value.length <= most
    ? value
    : refuse(value, path, least === most ? `${most} bytes` : `at most ${most} bytes`);

export const text = (most = Infinity) => (value, path) =>
  typeof value === "string" && (value.length <= most || [...value].length <= most)
    ? value
    : refuse(value, path, Number.isFinite(most) ? `a string of at most ${most} characters` : "a string");

export const flag = (value, path) => (typeof value === "boolean" ? value : refuse(value, path, "a bool"));

export const orNil = (check) => (value, path) => (value === null ? null : check(value, path));

export const list = (check, most) => (value, path) =>
  Array.isArray(value) && value.length <= most
    ? value.map((item, index) => check(item, `${path}[${index}]`))
    : refuse(value, path, `an array of at most ${most}`);

export const map = (fields) => (value, path) => checkMap(path, value, fields);

// Maps of a session

export const DELAY_S_MAX = 86_400;

const BYE = {
  code: required(integer()),
  reason: optional(text(REASON_CHARS_MAX), ""),
  retry_after_s: optional(orNil(number(0, DELAY_S_MAX)), null),
  spread_s: optional(number(0, DELAY_S_MAX), 0),
  alternatives: optional(list(text(500), 16), []),
};
const NOTICE = { code: required(integer()), reason: optional(text(), "") };

export const decodeBye = (body) => decodeBody("BYE", body, BYE);
export const decodeNotice = (body) => decodeBody("NOTICE", body, NOTICE);
