/**
 * What is on its way out of a session and into it: messages that wait for a number, numbered frames that wait for their
 * acknowledgement, and messages of which not all fragments are here (docs/protocol.md §5.2, §5.5).
 */

import { Code, ProtocolError } from "./errors.js";
import { FRAGMENT_BYTES, Flag, Operation, encodeData } from "./frames.js";

const NO_NAME = new Uint8Array(0);

/** First in, first out, in constant time: an array's shift() moves all that is behind it. */
export class Queue {
  #items = [];
  #head = 0;

  get length() {
    return this.#items.length - this.#head;
  }

  /** The item at that place, counted from the first. */
  at(index) {
    return this.#items[this.#head + index];
  }

  push(item) {
    this.#items.push(item);
  }

  shift() {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head += 1;
    if (this.#head > 32 && 2 * this.#head > this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }

  *[Symbol.iterator]() {
    for (let i = this.#head; i < this.#items.length; i++) yield this.#items[i];
  }
}

/** Messages in two lanes; normal ones go first, and may interrupt bulk ones between two fragments. */
export class SendLanes {
  #normal = new Queue();
  #bulk = new Queue();
  sizeBytes = 0;

  get count() {
    return this.#normal.length + this.#bulk.length;
  }

  *[Symbol.iterator]() {
    yield* this.#normal;
    yield* this.#bulk;
  }

  /** Puts `{operation, flags, correlation, name, body, offset}` at the end of its lane; name and body are bytes. */
  push(message) {
    (message.flags & Flag.BULK ? this.#bulk : this.#normal).push(message);
    this.sizeBytes += message.name.length + message.body.length;
  }

  /** The next frame to send: `{frame, message, isLast}`. There must be one. */
  nextFrame(sequence) {
    const lane = this.#normal.length > 0 ? this.#normal : this.#bulk;
    const message = lane.at(0);
    const isFirst = message.offset === 0;
    const end = message.offset + FRAGMENT_BYTES;
    const payload = message.body.subarray(message.offset, end);
    const isLast = end >= message.body.length;
    const frame = encodeData(
      sequence,
      isLast ? message.flags : message.flags | Flag.MORE,
      isFirst ? message.operation : Operation.CONTINUE,
      isFirst ? message.correlation : 0,
      isFirst ? message.name : NO_NAME,
      payload,
    );
    message.offset = end;
    this.sizeBytes -= payload.length;
    if (isLast) {
      lane.shift();
      this.sizeBytes -= message.name.length;
    }
    return { frame, message, isLast };
  }
}

/**
 * Numbered frames in order, from the first unacknowledged one to the last one numbered.
 *
 * The first `written` of them were handed to the current transport; the rest wait for it.
 */
export class ReplayBuffer {
  #frames = new Queue();
  #rewoundFrom = 0;
  acknowledged = 0;
  sizeBytes = 0;
  written = 0;

  get count() {
    return this.#frames.length;
  }

  /** The highest number given to a frame so far. */
  get lastSequence() {
    return this.acknowledged + this.#frames.length;
  }

  /** The highest number ever written to any transport. */
  get lastWritten() {
    return Math.max(this.#rewoundFrom, this.acknowledged + this.written);
  }

  [Symbol.iterator]() {
    return this.#frames[Symbol.iterator]();
  }

  /** Keeps a frame with the number `lastSequence + 1`. */
  push(frame) {
    this.#frames.push(frame);
    this.sizeBytes += frame.length;
  }

  /** The next frame to write, counted as written, or null. */
  nextUnwritten() {
    if (this.written === this.#frames.length) return null;
    this.written += 1;
    return this.#frames.at(this.written - 1);
  }

  /** Forgets every frame up to `taken`. Throws ProtocolError for one that was never written. */
  receiveTaken(taken) {
    if (taken > this.acknowledged + this.written) {
      throw new ProtocolError(
        `an acknowledgement of frame ${taken} where ${this.acknowledged + this.written} was the last sent`,
      );
    }
    while (this.acknowledged < taken) {
      this.sizeBytes -= this.#frames.shift().length;
      this.acknowledged += 1;
      this.written -= 1;
    }
  }

  /** A new transport: what the peer has not received is written again. Throws ProtocolError for what cannot be. */
  rewind(received) {
    const last = this.lastWritten;
    if (received < this.acknowledged || received > last) {
      throw new ProtocolError(
        `the peer says it received up to ${received}, but ${this.acknowledged} to ${last} are possible`,
      );
    }
    this.#rewoundFrom = last;
    this.written = received - this.acknowledged;
  }
}

/** A message of which not all fragments are here yet. Throws ProtocolError when it cannot become one. */
export class Assembly {
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

  /** Adds a fragment. Empty ones are refused: they would let a peer send for ever without reaching the limit. */
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

/** Throws ProtocolError for a message larger than this side takes. */
export function checkMessageSize(size, messageBytesMax) {
  if (size > messageBytesMax) {
    throw new ProtocolError(`a message of more than the ${messageBytesMax} bytes allowed`, Code.LIMIT_EXCEEDED);
  }
}
