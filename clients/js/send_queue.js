/** The priority queue of outgoing messages, cut into fragments (docs/protocol.md §5.5). */

import { FifoQueue } from "./fifo_queue.js";
import { FRAGMENT_BYTES, Flag, Operation, encodeData } from "./frames.js";

const NO_NAME = new Uint8Array(0);

/** Messages in two lanes: normal ones are sent first, also between two fragments of a bulk one. */
export class SendQueue {
  #normal = new FifoQueue();
  #bulk = new FifoQueue();
  sizeBytes = 0;

  get count() {
    return this.#normal.length + this.#bulk.length;
  }

  *[Symbol.iterator]() {
    yield* this.#normal;
    yield* this.#bulk;
  }

  /** Append `{operation, flags, correlation, name, body, offset}` to its lane; name and body are bytes. */
  push(message) {
    (message.flags & Flag.BULK ? this.#bulk : this.#normal).push(message);
    this.sizeBytes += message.name.length + message.body.length;
  }

  /** Return the next frame to send, `{frame, message, isLast}`. There must be one. */
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
