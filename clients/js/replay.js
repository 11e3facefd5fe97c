/** The numbered frames that are not yet acknowledged (docs/protocol.md §5.2, §7.2). */

import { ProtocolError } from "./errors.js";
import { FifoQueue } from "./fifo_queue.js";

/**
 * Numbered frames in order, from the first unacknowledged one to the last.
 *
 * The first `written` of them were written to the current transport.
 */
export class ReplayBuffer {
  #frames = new FifoQueue();
  #rewoundFrom = 0;
  acknowledged = 0;
  sizeBytes = 0;
  written = 0;

  get count() {
    return this.#frames.length;
  }

  /** The highest sequence number assigned so far. */
  get lastSequence() {
    return this.acknowledged + this.#frames.length;
  }

  /** The highest sequence number written to any transport. */
  get lastWritten() {
    return Math.max(this.#rewoundFrom, this.acknowledged + this.written);
  }

  [Symbol.iterator]() {
    return this.#frames[Symbol.iterator]();
  }

  /** Append the frame with the sequence number `lastSequence + 1`. */
  push(frame) {
    this.#frames.push(frame);
    this.sizeBytes += frame.length;
  }

  /** Return the next frame to write and count it as written, or return null. */
  nextUnwritten() {
    if (this.written === this.#frames.length) return null;
    this.written += 1;
    return this.#frames.at(this.written - 1);
  }

  /** Remove all frames up to `acked`. Throws ProtocolError for a frame that was never written. */
  receiveAck(acked) {
    if (acked > this.acknowledged + this.written) {
      throw new ProtocolError(
        `an acknowledgement of frame ${acked}; the last one sent is ${this.acknowledged + this.written}`,
      );
    }
    while (this.acknowledged < acked) {
      this.sizeBytes -= this.#frames.shift().length;
      this.acknowledged += 1;
      this.written -= 1;
    }
  }

  /** Prepare to write again, on a new transport, what the peer has not received. Throws ProtocolError if impossible. */
  rewind(received) {
    const last = this.lastWritten;
    if (received < this.acknowledged || received > last) {
      throw new ProtocolError(
        `the peer claims to have received ${received} frames; ${this.acknowledged} to ${last} are possible`,
      );
    }
    this.#rewoundFrom = last;
    this.written = received - this.acknowledged;
  }
}
