/** Runs handlers for the peer's messages and requests, and sends the responses (docs/protocol.md §5.6). */

import { decodeValue, encodeValue } from "./codec.js";
import { BufferFull, Code, LineClosed, MessagePackError, MessageTooLarge, RequestError } from "./errors.js";
import { FifoQueue } from "./fifo_queue.js";
import { Operation } from "./frames.js";

/** Requests of the peer that run at the same time. More wait, unacknowledged, so that in the end the peer waits. */
const RUNNING_REQUESTS_MAX = 64;
/** A request starts only if the send buffer has at least this much space for the response. */
const RESPONSE_BYTES_MIN = 1024;
const NO_BYTES = new Uint8Array(0);

/** The running handlers of one line: one message at a time, requests concurrently. */
export class Dispatcher {
  #line;
  #handlers;
  #logger;
  #backlog = new FifoQueue();
  #isRunning = false;
  // All running requests, and by correlation id those that can be cancelled.
  #controllers = new Set();
  #cancellable = new Map();
  // Unacknowledged requests in order, by correlation id.
  #waiting = new Map();

  /** `handlers` is a Map of functions by name; the empty name is for messages without a name. */
  constructor(line, handlers, logger) {
    this.#line = line;
    this.#handlers = handlers;
    this.#logger = logger;
  }

  /** Return the handler for a name, or undefined. */
  find(name) {
    return this.#handlers.get(name);
  }

  /** Return the messages whose handlers have not finished. */
  unacked() {
    return [...this.#backlog].map(({ message }) => message);
  }

  /** Run the handler of a message after those of earlier ones. The message is acknowledged when it has finished. */
  receiveMessage(message, handler) {
    this.#backlog.push({ message, handler });
    if (!this.#isRunning) this.#runMessages();
  }

  /** Run the handler of a request: at once, or when there is space for the response. */
  receiveRequest(message) {
    const { correlation, name } = message;
    const handler = name === "" ? undefined : this.#handlers.get(name);
    if (this.#waiting.has(correlation)) {
      this.#line.abort(Code.PROTOCOL_ERROR, "two requests with the same correlation id");
    } else if (this.#canStart()) this.#start(message, handler);
    else this.#waiting.set(correlation, { message, handler });
  }

  /** Start waiting requests as far as there is space now. */
  resume() {
    for (const [correlation, { message, handler }] of this.#waiting) {
      if (!this.#canStart()) return;
      this.#waiting.delete(correlation);
      this.#start(message, handler);
    }
  }

  /** Handle CANCEL. */
  cancel(correlation) {
    this.#cancellable.get(correlation)?.abort(new RequestError("cancelled", "cancelled by the peer"));
    const waiting = this.#waiting.get(correlation);
    if (waiting !== undefined) {
      this.#waiting.delete(correlation);
      this.#line.ack(waiting.message);
    }
  }

  /** Cancel all requests: the session is lost, and the waiting ones cannot be acknowledged. */
  discard(why) {
    this.#waiting.clear();
    for (const controller of this.#controllers) controller.abort(new LineClosed(why));
    this.#cancellable.clear();
  }

  async #runMessages() {
    this.#isRunning = true;
    while (this.#backlog.length > 0) {
      const { message, handler } = this.#backlog.at(0);
      try {
        const result = handler(decodeValue(message), { line: this.#line, name: message.name });
        // Awaiting a value that is not a promise would delay the next message.
        if (typeof result?.then === "function") await result;
      } catch (error) {
        // A handler that cannot send because the peer has ended the session has not failed.
        const isEnd = (error instanceof LineClosed || error instanceof BufferFull) && this.#line.hasEnded;
        if (!isEnd) this.#logger.error(`landline: the handler for messages ${JSON.stringify(message.name)} failed`, error);
      }
      this.#backlog.shift();
      this.#line.ack(message);
    }
    this.#isRunning = false;
  }

  #canStart() {
    return this.#controllers.size < RUNNING_REQUESTS_MAX && this.#line.hasSpace(RESPONSE_BYTES_MIN);
  }

  #start(message, handler) {
    const { correlation, name } = message;
    this.#line.ack(message);
    // No response could be sent.
    if (!this.#line.canRespond) return;
    if (this.#cancellable.has(correlation)) {
      this.#run(message, refusing("bad_request", "two requests with the same correlation id"));
    } else this.#run(message, handler ?? refusing("no_handler", name));
  }

  /** Run a handler and send its response. What the handler throws is sent to the peer, or logged. */
  async #run(message, handler) {
    const { correlation, name } = message;
    const controller = new AbortController();
    const { signal } = controller;
    this.#controllers.add(controller);
    if (!this.#cancellable.has(correlation)) this.#cancellable.set(correlation, controller);
    try {
      let response;
      let operation = Operation.RESPONSE;
      try {
        response = encodeValue(await handler(decodeBody(message), { line: this.#line, name, signal }));
      } catch (error) {
        operation = Operation.ERROR;
        response = encodeValue(this.#errorOf(error, name, signal));
      }
      await this.#respond(operation, correlation, response, signal);
    } finally {
      this.#controllers.delete(controller);
      // A handler that outlives its session may end while a new request has the same id.
      if (this.#cancellable.get(correlation) === controller) this.#cancellable.delete(correlation);
      this.resume();
    }
  }

  /** Send a response, unless the request was cancelled or its session is lost: a new one does not know it. */
  async #respond(operation, correlation, { body, isPacked }, signal) {
    try {
      if (!signal.aborted) await this.#line.transmit(operation, NO_BYTES, body, { correlation, isPacked, signal });
    } catch (error) {
      if (error instanceof MessageTooLarge) {
        const text = `the response is ${error.message}`;
        await this.#respond(Operation.ERROR, correlation, encodeValue(["too_large", text]), signal);
      } else if (!signal.aborted && !(error instanceof LineClosed)) throw error;
    }
  }

  /** Return the code and text for the peer. Details of unexpected errors are only logged. */
  #errorOf(error, name, signal) {
    if (error instanceof RequestError && !error.isOutcome) {
      return [error.code, error.message].map((text) => String(text).toWellFormed());
    }
    if (!signal.aborted) this.#logger.error(`landline: the handler for ${JSON.stringify(name)} failed`, error);
    return ["failed", `the handler for ${JSON.stringify(name)} failed`];
  }
}

/** Return a handler that fails with an error. */
function refusing(code, text) {
  return () => {
    throw new RequestError(code, text);
  };
}

function decodeBody(message) {
  try {
    return decodeValue(message);
  } catch (error) {
    if (!(error instanceof MessagePackError)) throw error;
    throw new RequestError("bad_request", `cannot decode the body of ${JSON.stringify(message.name)}: ${error.message}`);
  }
}
