/** Requests: ours that wait for the peer's answer, and the peer's that wait for ours (docs/protocol.md §5.6). */

import {
  BufferFull,
  Code,
  LineClosed,
  MessagePackError,
  MessageTooLarge,
  NoHandler,
  RequestError,
  RequestLost,
  RequestTimeout,
  outcome,
} from "./errors.js";
import { Operation } from "./frames.js";
import { Queue } from "./lanes.js";
import { decode, encode } from "./messagepack.js";

/** The peer's requests answered at once; more wait, unacknowledged, and so in the end make the peer wait. */
const REQUESTS_RUNNING_MAX = 64;
/** A request is not begun while the send buffer has no room for at least this much of an answer. */
const ANSWER_BYTES_ROOM = 1024;
/** A longer timer would overflow and fire at once. */
const TIMER_S_MAX = 2_147_483;
const NO_BYTES = new Uint8Array(0);
const utf8 = new TextEncoder();

/** A value as bytes, `{body, isPacked}`: bytes travel as they are, and are copied, for they may be changed later. */
export function encodeValue(value) {
  if (ArrayBuffer.isView(value)) {
    return { body: new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice(), isPacked: false };
  }
  if (value instanceof ArrayBuffer) return { body: new Uint8Array(value.slice(0)), isPacked: false };
  return { body: encode(value), isPacked: true };
}

/** The value of a message. Throws MessagePackError when it says MessagePack and is not. */
export function decodeValue({ body, isPacked }) {
  return isPacked ? decode(body) : body;
}

/** A name as bytes. Throws MessagePackError for half a character, as UTF-8 has none. */
export function encodeName(name) {
  if (name === "") return NO_BYTES;
  if (typeof name !== "string" || !name.isWellFormed()) {
    throw new MessagePackError("a name is a string without halves of characters");
  }
  return utf8.encode(name);
}

/** Calls `expire` after so many seconds, never for null; returns what clearTimeout takes. */
export function startTimer(seconds, expire) {
  return seconds === null || seconds > TIMER_S_MAX ? undefined : setTimeout(expire, 1000 * seconds);
}

/** The requests of one line that are under way. Correlation ids are never used twice on one line. */
export class Requests {
  #line;
  #next = 1;
  #pending = new Map();

  constructor(line) {
    this.#line = line;
  }

  /** See Line.request. */
  async ask(name, value, timeoutS, signal) {
    signal?.throwIfAborted();
    const { body, isPacked } = encodeValue(value);
    const encodedName = encodeName(name);
    const correlation = this.#next++;
    const { promise, resolve, reject } = Promise.withResolvers();
    const givingUp = new AbortController();
    const giveUp = (reason) => {
      givingUp.abort(reason);
      reject(reason);
    };
    const onAbort = () => giveUp(signal.reason);
    signal?.addEventListener("abort", onAbort);
    const timer = startTimer(timeoutS, () => giveUp(outcome(new RequestTimeout(name, timeoutS))));
    try {
      const sent = this.#line.transmit(Operation.REQUEST, encodedName, body, {
        correlation,
        isPacked,
        signal: givingUp.signal,
        onSent: () => this.#pending.set(correlation, { name, resolve, reject }),
      });
      // Together: one that fails while the other is waited for must not count as a rejection nobody handles.
      const [answer] = await Promise.all([promise, sent]);
      if (answer.operation === Operation.ERROR) throw outcome(errorOf(name, answer));
      return decodeValue(answer);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      if (this.#pending.delete(correlation) && givingUp.signal.aborted) this.#sendCancel(correlation);
    }
  }

  /** A response or an error. One to a request given up meanwhile is of no use to anybody. */
  receiveAnswer(answer) {
    const pending = this.#pending.get(answer.correlation);
    if (pending === undefined) return;
    this.#pending.delete(answer.correlation);
    pending.resolve(answer);
  }

  /** No answer will come any more. */
  fail(why) {
    const pending = this.#pending;
    this.#pending = new Map();
    for (const { name, reject } of pending.values()) reject(outcome(new RequestLost(name, why)));
  }

  /** Best effort: a peer that is gone, or behind a full buffer, has nothing to cancel for us any more. */
  #sendCancel(correlation) {
    if (this.#line.isClosed) return;
    try {
      this.#line.transmitNow(Operation.CANCEL, NO_BYTES, NO_BYTES, { correlation });
    } catch (error) {
      if (!(error instanceof LineClosed || error instanceof BufferFull)) throw error;
    }
  }
}

function errorOf(name, answer) {
  let parts = null;
  try {
    parts = decodeValue(answer);
  } catch (error) {
    if (!(error instanceof MessagePackError)) throw error;
  }
  if (!Array.isArray(parts) || parts.length !== 2 || !parts.every((part) => typeof part === "string")) {
    return new RequestError("failed", `the peer answered ${JSON.stringify(name)} with an error that cannot be read`);
  }
  const [code, text] = parts;
  return code === "no_handler" ? new NoHandler(name) : new RequestError(code, text);
}

/** The handlers at work for one line: messages one after the other, requests at once. */
export class Answers {
  #line;
  #handlers;
  #logger;
  #backlog = new Queue();
  #isWorking = false;
  // All that are at work, and by correlation id those that may be cancelled.
  #controllers = new Set();
  #cancellable = new Map();
  // Untaken, in order, by correlation id.
  #waiting = new Map();

  /** `handlers` is a Map of functions by name; that of the empty name takes messages without one. */
  constructor(line, handlers, logger) {
    this.#line = line;
    this.#handlers = handlers;
    this.#logger = logger;
  }

  /** The function for a name, or undefined. */
  find(name) {
    return this.#handlers.get(name);
  }

  /** Messages whose handlers have not finished. */
  untaken() {
    return [...this.#backlog].map(({ message }) => message);
  }

  /** Runs the handler of a message, after those of the messages before it. It is taken when its handler has finished. */
  receiveMessage(message, handler) {
    this.#backlog.push({ message, handler });
    if (!this.#isWorking) this.#work();
  }

  /** Runs the handler of a request: at once, or when there is room for it and its answer. */
  receiveRequest(message) {
    const { correlation, name } = message;
    const handler = name === "" ? undefined : this.#handlers.get(name);
    if (this.#waiting.has(correlation)) {
      this.#line.abort(Code.PROTOCOL_ERROR, "two requests with one correlation id");
    } else if (this.#canStart()) this.#start(message, handler);
    else this.#waiting.set(correlation, { message, handler });
  }

  /** Starts what waited, as far as there is room now. */
  resume() {
    for (const [correlation, { message, handler }] of this.#waiting) {
      if (!this.#canStart()) return;
      this.#waiting.delete(correlation);
      this.#start(message, handler);
    }
  }

  /** The peer does not want the answer any more. */
  cancel(correlation) {
    this.#cancellable.get(correlation)?.abort(new RequestError("cancelled", "the peer no longer wants the answer"));
    const waiting = this.#waiting.get(correlation);
    if (waiting !== undefined) {
      this.#waiting.delete(correlation);
      this.#line.take(waiting.message);
    }
  }

  /** The session is gone: nobody is left to answer, and what waits cannot be acknowledged. */
  abandon(why) {
    this.#waiting.clear();
    for (const controller of this.#controllers) controller.abort(new LineClosed(why));
    this.#cancellable.clear();
  }

  async #work() {
    this.#isWorking = true;
    while (this.#backlog.length > 0) {
      const { message, handler } = this.#backlog.at(0);
      try {
        const result = handler(decodeValue(message), { line: this.#line, name: message.name });
        // Waiting for what is no promise would put off the next message for nothing.
        if (typeof result?.then === "function") await result;
      } catch (error) {
        // One that cannot send because the peer has ended the session has not failed.
        const isEnd = (error instanceof LineClosed || error instanceof BufferFull) && this.#line.hasEnded;
        if (!isEnd) this.#logger.error(`landline: the handler for messages ${JSON.stringify(message.name)} failed`, error);
      }
      this.#backlog.shift();
      this.#line.take(message);
    }
    this.#isWorking = false;
  }

  #canStart() {
    return this.#controllers.size < REQUESTS_RUNNING_MAX && this.#line.hasRoom(ANSWER_BYTES_ROOM);
  }

  #start(message, handler) {
    const { correlation, name } = message;
    this.#line.take(message);
    // Nobody would learn what became of it.
    if (!this.#line.canAnswer) return;
    if (this.#cancellable.has(correlation)) {
      this.#run(message, refusing("bad_request", "two requests with one correlation id"));
    } else this.#run(message, handler ?? refusing("no_handler", name));
  }

  /** Never rejects, but for a bug of ours: what a handler throws is told to the peer, or logged. */
  async #run(message, handler) {
    const { correlation, name } = message;
    const controller = new AbortController();
    const { signal } = controller;
    this.#controllers.add(controller);
    if (!this.#cancellable.has(correlation)) this.#cancellable.set(correlation, controller);
    try {
      let answer;
      let operation = Operation.RESPONSE;
      try {
        answer = encodeValue(await handler(decodeBody(message), { line: this.#line, name, signal }));
      } catch (error) {
        operation = Operation.ERROR;
        answer = encodeValue(this.#errorOf(error, name, signal));
      }
      await this.#answer(operation, correlation, answer, signal);
    } finally {
      this.#controllers.delete(controller);
      // A handler that outlived its session may end while a new request bears the same id.
      if (this.#cancellable.get(correlation) === controller) this.#cancellable.delete(correlation);
      this.resume();
    }
  }

  /** Says nothing once the request was cancelled, or its session is gone: a new one knows nothing of it. */
  async #answer(operation, correlation, { body, isPacked }, signal) {
    try {
      if (!signal.aborted) await this.#line.transmit(operation, NO_BYTES, body, { correlation, isPacked, signal });
    } catch (error) {
      if (error instanceof MessageTooLarge) {
        const text = `the answer is ${error.message}`;
        await this.#answer(Operation.ERROR, correlation, encodeValue(["too_large", text]), signal);
      } else if (!signal.aborted && !(error instanceof LineClosed)) throw error;
    }
  }

  /** What the peer is told; anything unexpected stays in our own log. */
  #errorOf(error, name, signal) {
    if (error instanceof RequestError && !error.isOutcome) {
      return [error.code, error.message].map((text) => String(text).toWellFormed());
    }
    if (!signal.aborted) this.#logger.error(`landline: the handler for ${JSON.stringify(name)} failed`, error);
    return ["failed", `the handler for ${JSON.stringify(name)} failed`];
  }
}

/** A handler that answers with an error. */
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
    throw new RequestError("bad_request", `the body of ${JSON.stringify(message.name)} cannot be read: ${error.message}`);
  }
}
