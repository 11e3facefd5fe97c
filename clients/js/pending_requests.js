/** The requests of this side that wait for a response (docs/protocol.md §5.6). */

import { encodeName, encodeValue, decodeValue } from "./codec.js";
import {
  BufferFull,
  LineClosed,
  MessagePackError,
  NoHandler,
  RequestError,
  RequestLost,
  RequestTimeout,
  outcome,
} from "./errors.js";
import { Operation } from "./frames.js";
import { startTimer } from "./timers.js";

const NO_BYTES = new Uint8Array(0);

/** The pending requests of one line. Correlation ids are never reused on one line. */
export class PendingRequests {
  #line;
  #next = 1;
  #pending = new Map();

  constructor(line) {
    this.#line = line;
  }

  /** Send a request and return the value of its response; see Line.request. */
  async ask(name, value, timeoutS, signal) {
    signal?.throwIfAborted();
    const { body, isPacked } = encodeValue(value);
    const encodedName = encodeName(name);
    const correlation = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers();
    const cancelling = new AbortController();
    const cancel = (reason) => {
      cancelling.abort(reason);
      reject(reason);
    };
    const onAbort = () => cancel(signal.reason);
    signal?.addEventListener("abort", onAbort);
    const timer = startTimer(timeoutS, () => cancel(outcome(new RequestTimeout(name, timeoutS))));
    try {
      const sent = this.#line.transmit(Operation.REQUEST, encodedName, body, {
        correlation,
        isPacked,
        signal: cancelling.signal,
        onSent: () => this.#pending.set(correlation, { name, resolve, reject }),
      });
      // Together, so that a failure of one while the other is pending is no unhandled rejection.
      const [response] = await Promise.all([promise, sent]);
      if (response.operation === Operation.ERROR) throw outcome(errorOf(name, response));
      return decodeValue(response);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      if (this.#pending.delete(correlation) && cancelling.signal.aborted) this.#sendCancel(correlation);
    }
  }

  /** Handle a response or an error. One to a cancelled request is ignored. */
  receiveResponse(response) {
    const pending = this.#pending.get(response.correlation);
    if (pending === undefined) return;
    this.#pending.delete(response.correlation);
    pending.resolve(response);
  }

  /** Reject all pending requests: no response will arrive. */
  fail(why) {
    const pending = this.#pending;
    this.#pending = new Map();
    for (const { name, reject } of pending.values()) reject(outcome(new RequestLost(name, why)));
  }

  /** Best effort: without a session, or with a full buffer, the peer is not told. */
  #sendCancel(correlation) {
    if (this.#line.isClosed) return;
    try {
      this.#line.transmitNow(Operation.CANCEL, NO_BYTES, NO_BYTES, { correlation });
    } catch (error) {
      if (!(error instanceof LineClosed || error instanceof BufferFull)) throw error;
    }
  }
}

function errorOf(name, response) {
  let parts = null;
  try {
    parts = decodeValue(response);
  } catch (error) {
    if (!(error instanceof MessagePackError)) throw error;
  }
  if (!Array.isArray(parts) || parts.length !== 2 || !parts.every((part) => typeof part === "string")) {
    return new RequestError("failed", `the response to ${JSON.stringify(name)} is an error that cannot be decoded`);
  }
  const [code, text] = parts;
  return code === "no_handler" ? new NoHandler(name) : new RequestError(code, text);
}
