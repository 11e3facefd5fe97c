/**
 * MessagePack, complete (https://github.com/msgpack/msgpack/blob/master/spec.md).
 *
 * | JavaScript                          | MessagePack                                                |
 * |-------------------------------------|------------------------------------------------------------|
 * | null, undefined                     | nil; an object's undefined properties are left out         |
 * | boolean                             | bool                                                       |
 * | number, a safe integer              | int, in its shortest format                                |
 * | number, any other (-0, NaN, 2 ** 60)| float 64                                                   |
 * | bigint, -2^63 to 2^64 - 1           | int; decoded to a number wherever that is exact            |
 * | Float                               | float 64, even of a whole number                           |
 * | string                              | str                                                        |
 * | Uint8Array, any view, ArrayBuffer   | bin; decoded to a new Uint8Array                           |
 * | Array                               | array                                                      |
 * | plain object                        | map of string keys                                         |
 * | Map                                 | map; decoded to a Map if a key is not a string             |
 * | Date                                | timestamp (-1); decoded to the millisecond                 |
 * | Extension                           | ext of any other type                                      |
 *
 * Decoding is limited by its input: nothing is allocated for a count that the following bytes cannot fill.
 */

import { MessagePackError } from "./errors.js";

/** Maximum depth of nested arrays and maps, for encoding and decoding: deeper values could exhaust the stack. */
export const DEPTH_MAX = 256;

const TIMESTAMP = -1;
const DATE_MS_MAX = 8.64e15;
const INT64_MIN = -(2n ** 63n);
const UINT64_MAX = 2n ** 64n - 1n;
const SHORT_TEXT = 24;

const utf8 = new TextEncoder();
// ignoreBOM: a byte order mark is part of the text.
const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A number that is encoded as a float even if it is whole. */
export class Float {
  constructor(value) {
    this.value = Number(value);
  }

  valueOf() {
    return this.value;
  }
}

/** A value of an extension type: `type` is -128 to 127, `data` its bytes. */
export class Extension {
  constructor(type, data) {
    if (!Number.isInteger(type) || type < -128 || type > 127) {
      throw new MessagePackError(`the type of an extension must be from -128 to 127, not ${type}`);
    }
    this.type = type;
    this.data = data;
  }
}

/** Encode a value. Throws MessagePackError for functions, symbols and strings with lone surrogates. */
export function encode(value) {
  const writer = new Writer();
  writer.write(value, 0);
  return writer.finish();
}

/**
 * Decode one value. With `floats`, floats become Float, to distinguish 1.0 from 1.
 * Throws MessagePackError if the bytes are not exactly one value.
 */
export function decode(bytes, { floats = false } = {}) {
  const reader = new Reader(bytes, floats);
  const value = reader.read(0);
  if (reader.position !== bytes.length) {
    throw new MessagePackError(`${bytes.length - reader.position} bytes after the value`);
  }
  return value;
}

class Writer {
  constructor() {
    this.bytes = new Uint8Array(64);
    this.view = new DataView(this.bytes.buffer);
    this.length = 0;
  }

  finish() {
    return this.bytes.slice(0, this.length);
  }

  /** Reserve that many bytes and return their position. */
  reserve(size) {
    const start = this.length;
    const end = start + size;
    if (end > this.bytes.length) {
      const grown = new Uint8Array(Math.max(end, 2 * this.bytes.length));
      grown.set(this.bytes.subarray(0, start));
      this.bytes = grown;
      this.view = new DataView(grown.buffer);
    }
    this.length = end;
    return start;
  }

  byte(value) {
    const at = this.reserve(1);
    this.bytes[at] = value;
  }

  /** A format byte and an unsigned number of `size` bytes. */
  head(format, size, value) {
    const at = this.reserve(1 + size);
    this.bytes[at] = format;
    if (size === 1) this.view.setUint8(at + 1, value);
    else if (size === 2) this.view.setUint16(at + 1, value);
    else this.view.setUint32(at + 1, value);
  }

  /** The head of something with a length, in the shortest of its formats. `formats` are those of 8, 16 and 32 bits. */
  sized(length, [of8, of16, of32]) {
    if (length <= 0xff && of8 !== null) this.head(of8, 1, length);
    else if (length <= 0xffff) this.head(of16, 2, length);
    else if (length <= 0xffffffff) this.head(of32, 4, length);
    else throw new MessagePackError(`a length of ${length}; the maximum is 2^32 - 1`);
  }

  raw(bytes) {
    const at = this.reserve(bytes.length);
    this.bytes.set(bytes, at);
  }

  write(value, depth) {
    switch (typeof value) {
      case "string":
        return this.writeText(value);
      case "number":
        return Number.isSafeInteger(value) && !Object.is(value, -0) ? this.writeInteger(value) : this.writeFloat(value);
      case "boolean":
        return this.byte(value ? 0xc3 : 0xc2);
      case "undefined":
        return this.byte(0xc0);
      case "bigint":
        return this.writeBig(value);
      case "object":
        return value === null ? this.byte(0xc0) : this.writeObject(value, depth);
      default:
        throw new MessagePackError(`MessagePack cannot encode a ${typeof value}`);
    }
  }

  writeInteger(value) {
    if (value >= 0) {
      if (value < 0x80) this.byte(value);
      else if (value <= 0xff) this.head(0xcc, 1, value);
      else if (value <= 0xffff) this.head(0xcd, 2, value);
      else if (value <= 0xffffffff) this.head(0xce, 4, value);
      else this.writeBig(BigInt(value));
    } else if (value >= -0x20) this.byte(value & 0xff);
    else if (value >= -0x80) this.head(0xd0, 1, value);
    else if (value >= -0x8000) this.head(0xd1, 2, value);
    else if (value >= -0x80000000) this.head(0xd2, 4, value);
    else this.writeBig(BigInt(value));
  }

  writeBig(value) {
    if (value < INT64_MIN || value > UINT64_MAX) {
      throw new MessagePackError(`the integer ${value} is outside -2^63 to 2^64 - 1`);
    }
    const number = Number(value);
    if (number >= -0x80000000 && number <= 0xffffffff) return this.writeInteger(number);
    const at = this.reserve(9);
    this.bytes[at] = value < 0n ? 0xd3 : 0xcf;
    this.view.setBigUint64(at + 1, BigInt.asUintN(64, value));
  }

  writeFloat(value) {
    const at = this.reserve(9);
    this.bytes[at] = 0xcb;
    this.view.setFloat64(at + 1, value);
  }

  writeText(text) {
    if (text.length < SHORT_TEXT && this.writeShortAscii(text)) return;
    if (!text.isWellFormed()) {
      throw new MessagePackError("a string with a lone surrogate cannot be encoded as UTF-8");
    }
    const bytes = utf8.encode(text);
    if (bytes.length < 0x20) this.byte(0xa0 | bytes.length);
    else this.sized(bytes.length, [0xd9, 0xda, 0xdb]);
    this.raw(bytes);
  }

  /** Encode ASCII text, which is faster for short keys than the encoder. Return whether it was ASCII. */
  writeShortAscii(text) {
    const before = this.length;
    const at = this.reserve(1 + text.length);
    this.bytes[at] = 0xa0 | text.length;
    for (let i = 0; i < text.length; i++) {
      const unit = text.charCodeAt(i);
      if (unit >= 0x80) {
        this.length = before;
        return false;
      }
      this.bytes[at + 1 + i] = unit;
    }
    return true;
  }

  writeObject(value, depth) {
    if (ArrayBuffer.isView(value)) {
      return this.writeBytes(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
    }
    if (value instanceof ArrayBuffer) return this.writeBytes(new Uint8Array(value));
    if (value instanceof Float) return this.writeFloat(value.value);
    if (value instanceof Date) return this.writeDate(value);
    if (value instanceof Extension) return this.writeExtension(value.type, value.data);
    if (depth >= DEPTH_MAX) {
      throw new MessagePackError(`values nested more than ${DEPTH_MAX} deep, or in a circle`);
    }
    if (Array.isArray(value)) {
      if (value.length < 0x10) this.byte(0x90 | value.length);
      else this.sized(value.length, [null, 0xdc, 0xdd]);
      for (let i = 0; i < value.length; i++) this.write(value[i], depth + 1);
      return;
    }
    let entries;
    if (value instanceof Map) entries = [...value];
    else {
      const prototype = Object.getPrototypeOf(value);
      if (prototype !== null && Object.getPrototypeOf(prototype) !== null) {
        const name = value.constructor?.name || "class without a name";
        throw new MessagePackError(`MessagePack cannot encode a ${name}; send a plain object`);
      }
      entries = Object.entries(value).filter((entry) => entry[1] !== undefined);
    }
    if (entries.length < 0x10) this.byte(0x80 | entries.length);
    else this.sized(entries.length, [null, 0xde, 0xdf]);
    for (const [key, item] of entries) {
      this.write(key, depth + 1);
      this.write(item, depth + 1);
    }
  }

  writeBytes(bytes) {
    this.sized(bytes.length, [0xc4, 0xc5, 0xc6]);
    this.raw(bytes);
  }

  writeExtension(type, data) {
    const fixed = [1, 2, 4, 8, 16].indexOf(data.length);
    if (fixed >= 0) this.byte(0xd4 + fixed);
    else this.sized(data.length, [0xc7, 0xc8, 0xc9]);
    this.byte(type & 0xff);
    this.raw(data);
  }

  writeDate(date) {
    const ms = date.getTime();
    if (Number.isNaN(ms)) throw new MessagePackError("an invalid Date cannot be encoded");
    const seconds = Math.floor(ms / 1000);
    const nanoseconds = (ms - seconds * 1000) * 1e6;
    let data;
    if (seconds >= 0 && seconds < 2 ** 34) {
      if (nanoseconds === 0 && seconds < 2 ** 32) {
        data = new Uint8Array(4);
        new DataView(data.buffer).setUint32(0, seconds);
      } else {
        data = new Uint8Array(8);
        new DataView(data.buffer).setBigUint64(0, (BigInt(nanoseconds) << 34n) | BigInt(seconds));
      }
    } else {
      data = new Uint8Array(12);
      const view = new DataView(data.buffer);
      view.setUint32(0, nanoseconds);
      view.setBigInt64(4, BigInt(seconds));
    }
    this.writeExtension(TIMESTAMP, data);
  }
}

class Reader {
  constructor(bytes, floats) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.floats = floats;
    this.position = 0;
  }

  /** Consume that many bytes and return their position. */
  advance(size) {
    const start = this.position;
    if (size > this.bytes.length - start) {
      throw new MessagePackError(`the value ends ${size - (this.bytes.length - start)} bytes early`);
    }
    this.position = start + size;
    return start;
  }

  length(size) {
    const at = this.advance(size);
    if (size === 1) return this.view.getUint8(at);
    return size === 2 ? this.view.getUint16(at) : this.view.getUint32(at);
  }

  read(depth) {
    const format = this.bytes[this.advance(1)];
    if (format < 0x80) return format;
    if (format < 0x90) return this.readMap(format & 0x0f, depth);
    if (format < 0xa0) return this.readArray(format & 0x0f, depth);
    if (format < 0xc0) return this.readText(format & 0x1f);
    if (format >= 0xe0) return format - 0x100;
    switch (format) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.readBytes(this.length(1 << (format - 0xc4)));
      case 0xc7:
      case 0xc8:
      case 0xc9:
        return this.readExtension(this.length(1 << (format - 0xc7)));
      case 0xca:
        return this.float(this.view.getFloat32(this.advance(4)));
      case 0xcb:
        return this.float(this.view.getFloat64(this.advance(8)));
      case 0xcc:
        return this.view.getUint8(this.advance(1));
      case 0xcd:
        return this.view.getUint16(this.advance(2));
      case 0xce:
        return this.view.getUint32(this.advance(4));
      case 0xcf:
        return exact(this.view.getBigUint64(this.advance(8)));
      case 0xd0:
        return this.view.getInt8(this.advance(1));
      case 0xd1:
        return this.view.getInt16(this.advance(2));
      case 0xd2:
        return this.view.getInt32(this.advance(4));
      case 0xd3:
        return exact(this.view.getBigInt64(this.advance(8)));
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.readExtension(1 << (format - 0xd4));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.readText(this.length(1 << (format - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.readArray(this.length(2 << (format - 0xdc)), depth);
      case 0xde:
      case 0xdf:
        return this.readMap(this.length(2 << (format - 0xde)), depth);
      default:
        throw new MessagePackError(`invalid format byte 0x${format.toString(16)}`);
    }
  }

  float(value) {
    return this.floats ? new Float(value) : value;
  }

  readText(length) {
    const start = this.advance(length);
    if (length < SHORT_TEXT) {
      let text = "";
      let i = start;
      while (i < this.position && this.bytes[i] < 0x80) text += String.fromCharCode(this.bytes[i++]);
      if (i === this.position) return text;
    }
    try {
      return fromUtf8.decode(this.bytes.subarray(start, this.position));
    } catch (error) {
      throw new MessagePackError("a string that is not UTF-8", { cause: error });
    }
  }

  readBytes(length) {
    const start = this.advance(length);
    return this.bytes.slice(start, this.position);
  }

  /** Check a count of values, each of at least one byte, before allocating anything. */
  check(count, depth, what) {
    if (count > this.bytes.length - this.position) {
      throw new MessagePackError(`${what} of ${count} values in ${this.bytes.length - this.position} bytes`);
    }
    if (depth >= DEPTH_MAX) throw new MessagePackError(`values nested more than ${DEPTH_MAX} deep`);
  }

  readArray(count, depth) {
    this.check(count, depth, "an array");
    const items = [];
    for (let i = 0; i < count; i++) items.push(this.read(depth + 1));
    return items;
  }

  readMap(count, depth) {
    this.check(2 * count, depth, "a map");
    const entries = [];
    let isObject = true;
    for (let i = 0; i < count; i++) {
      const key = this.read(depth + 1);
      isObject &&= typeof key === "string";
      entries.push([key, this.read(depth + 1)]);
    }
    // Unlike an assignment, this works for "__proto__" too.
    return isObject ? Object.fromEntries(entries) : new Map(entries);
  }

  readExtension(length) {
    const type = this.view.getInt8(this.advance(1));
    const data = this.readBytes(length);
    return (type === TIMESTAMP && readDate(data)) || new Extension(type, data);
  }
}

function exact(big) {
  const number = Number(big);
  return Number.isSafeInteger(number) ? number : big;
}

/** Return the Date of a timestamp, or null if it is out of range: then the value stays an Extension. */
function readDate(data) {
  const view = new DataView(data.buffer);
  let seconds;
  let nanoseconds = 0;
  if (data.length === 4) seconds = view.getUint32(0);
  else if (data.length === 8) {
    const both = view.getBigUint64(0);
    nanoseconds = Number(both >> 34n);
    seconds = Number(both & 0x3ffffffffn);
  } else if (data.length === 12) {
    nanoseconds = view.getUint32(0);
    seconds = Number(view.getBigInt64(4));
  } else throw new MessagePackError(`a timestamp of ${data.length} bytes`);
  if (nanoseconds > 999_999_999) throw new MessagePackError(`a timestamp with ${nanoseconds} nanoseconds`);
  const ms = seconds * 1000 + Math.floor(nanoseconds / 1e6);
  return Math.abs(ms) <= DATE_MS_MAX ? new Date(ms) : null;
}
