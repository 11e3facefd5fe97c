/**
 * A line: the public object. It has one session, which uses one transport at a time.
 *
 * The session decides; this file moves bytes between it and the transport, delivers messages, and makes senders wait.
 */

import { decodeValue, encodeName, encodeValue } from "./codec.js";
import { Dispatcher } from "./dispatcher.js";
import {
  BufferFull,
  Code,
  LineClosed,
  MessagePackError,
  MessageTooLarge,
  RequestLost,
  SessionLost,
  codeText,
  outcome,
} from "./errors.js";
import { FifoQueue } from "./fifo_queue.js";
import { DATAGRAM_BYTES_MAX, Flag, NAME_BYTES_MAX, Operation } from "./frames.js";
import { PendingRequests } from "./pending_requests.js";
import { startTimer } from "./timers.js";

const DRAIN_TIMEOUT_S = 5;
/** A WebSocket with this much unsent data is full. It has no event for the end of that, so it is polled. */
const LINK_BYTES_MAX = 256 * 1024;
/** The first interval of polling, which doubles up to the maximum. */
const LINK_POLL_S = 0.004;
const LINK_POLL_S_MAX = 0.064;

/** A message that the peer has not acknowledged: it may have handled it. */
class Unconfirmed {
  #message;

  constructor(message) {
    this.#message = message;
    this.name = message.name;
  }

  /** The value that was sent. */
  get value() {
    return decodeValue(this.#message);
  }
}

/** A connection that outlives its sockets. Created by connect(). */
export class Line {
  #owner;
  #logger;
  #session = null;
  #link = null;
  #state = "connecting";
  #lastChange = null;
  #error = null;
  #isFlushDue = false;
  #isFull = false;
  #pollS = LINK_POLL_S;
  #timer = null;
  #timerDue = Infinity;
  #isEofReceived = false;
  #hasWarned = false;
  #inbox = new FifoQueue();
  #readers = new FifoQueue();
  #senders = new Set();
  #drains = new Set();
  #pings = new Map();
  #pendingRequests;
  #dispatcher;
  #onDatagram;

  /**
   * `owner` has now() in seconds, receiveChange(change), receiveDetached(cause, detail) and receiveEnded(event).
   * `handlers` is a Map of functions by name, with the empty name for messages without one; `onDatagram` is another Map,
   * for datagrams.
   */
  constructor(owner, { identity, handlers, onDatagram, logger }) {
    this.#owner = owner;
    this.#onDatagram = onDatagram;
    this.#logger = logger;
    this.#pendingRequests = new PendingRequests(this);
    this.#dispatcher = new Dispatcher(this, handlers, logger);
    this.identity = identity;
  }

  // Properties

  get state() {
    return this.#state;
  }

  get lastChange() {
    return this.#lastChange;
  }

  get isClosed() {
    return this.#state === "closed";
  }

  get error() {
    return this.#error;
  }

  get epoch() {
    return this.#session?.epoch ?? 0;
  }

  get sessionId() {
    return this.#session?.sessionId.slice() ?? null;
  }

  get bufferedBytes() {
    return this.#session?.bufferedBytes ?? 0;
  }

  get datagramsDropped() {
    return this.#session?.datagramsDropped ?? 0;
  }

  get duplicatesDropped() {
    return this.#session?.duplicatesDropped ?? 0;
  }

  get roundTripS() {
    return this.#session?.roundTripS ?? null;
  }

  // Outgoing

  async send(value, { name = "", bulk: isBulk = false, signal } = {}) {
    const { body, isPacked } = encodeValue(value);
    await this.transmit(Operation.MESSAGE, encodeName(name), body, { isPacked, isBulk, signal });
  }

  sendNow(value, { name = "", bulk: isBulk = false } = {}) {
    const { body, isPacked } = encodeValue(value);
    this.transmitNow(Operation.MESSAGE, encodeName(name), body, { isPacked, isBulk });
  }

  sendDatagram(value, { name = "" } = {}) {
    const { body, isPacked } = encodeValue(value);
    const nameBytes = encodeName(name);
    const size = 2 + nameBytes.length + body.length;
    if (nameBytes.length > NAME_BYTES_MAX || size > DATAGRAM_BYTES_MAX) {
      throw new MessageTooLarge(`a datagram of ${size} bytes; at most ${DATAGRAM_BYTES_MAX} are allowed, so send a message`);
    }
    if (this.isClosed) this.#liveSession();
    if (!this.#hasSession || !this.#session.sendDatagram(isPacked ? Flag.PACKED : 0, nameBytes, body)) return false;
    this.#flushSoon();
    return true;
  }

  async request(name, value = null, { timeoutS = 30, signal } = {}) {
    if (this.#isEofReceived && !this.isClosed) throw outcome(new RequestLost(name, "the peer has sent EOF"));
    return this.#pendingRequests.ask(name, value, timeoutS, signal);
  }

  async sendEof({ signal } = {}) {
    await this.#inTurn(0, signal, () => this.#liveSession().sendEof());
  }

  async ping({ timeoutS = 10 } = {}) {
    const session = this.isClosed ? this.#liveSession() : this.#session;
    if (!session?.isAttached) throw new LineClosed("the line is not connected");
    const number = session.sendPing(this.#owner.now());
    this.#flushSoon();
    const { promise, resolve, reject } = Promise.withResolvers();
    this.#pings.set(number, { resolve, reject });
    const timer = startTimer(timeoutS, () => reject(new LineClosed(`no pong within ${timeoutS} s`)));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#pings.delete(number);
    }
  }

  /** Wait until the peer has acknowledged everything, or `timeoutS` is over. Resolves to whether it has. */
  async drain(timeoutS = DRAIN_TIMEOUT_S) {
    const session = this.#session;
    if (session === null || session.isDrained || (timeoutS !== null && timeoutS <= 0)) return session?.isDrained ?? true;
    const { promise, resolve } = Promise.withResolvers();
    const waiting = { session, resolve };
    this.#drains.add(waiting);
    const timer = startTimer(timeoutS, resolve);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.#drains.delete(waiting);
    }
    return session.isDrained;
  }

  breakLink(detail = "dropped by breakLink()") {
    this.#dropLink("link lost", detail);
  }

  // Incoming

  [Symbol.asyncIterator]() {
    return {
      next: () => this.#nextMessage(),
      return: async () => ({ done: true, value: undefined }),
    };
  }

  // Shutdown

  async close({ code = Code.NORMAL, reason = "", timeoutS = DRAIN_TIMEOUT_S } = {}) {
    if (this.isClosed) return;
    let lost = [];
    try {
      await this.drain(timeoutS);
    } finally {
      lost = this.abort(code, reason);
    }
    if (lost.length > 0) throw new SessionLost(`closed by this side: ${reason || codeText(code)}`, lost, code);
  }

  abort(code = Code.NORMAL, reason = "") {
    if (this.isClosed) return [];
    const lost = this.unconfirmed();
    this.#session?.close(code, reason);
    this.#flush();
    this.finish({ state: "closed", cause: "closed here", detail: reason, code }, null);
    return lost;
  }

  // For the dispatcher and pending requests

  /** Whether a message of that size can be sent at once. */
  hasSpace(sizeBytes) {
    return this.#hasSession && this.#session.hasSpace(sizeBytes);
  }

  /** Whether a response can still be sent. */
  get canRespond() {
    return this.#session?.canRespond ?? false;
  }

  /** Whether the line is closed or has no session. */
  get hasEnded() {
    return this.isClosed || !this.#hasSession;
  }

  /** Send a message of any operation, after waiting for space and for earlier senders. */
  async transmit(operation, name, body, { correlation, isPacked, isBulk, signal, onSent } = {}) {
    this.#session?.checkSizes(name.length, body.length);
    await this.#inTurn(name.length + body.length, signal, () => {
      this.#liveSession().send(operation, name, body, { correlation, isPacked, isBulk });
      onSent?.();
    });
  }

  /** As transmit(), but throw BufferFull instead of waiting; then nothing was sent. */
  transmitNow(operation, name, body, options) {
    const session = this.#liveSession();
    if (this.#senders.size > 0) throw new BufferFull("other senders already wait for space in the send buffer");
    session.send(operation, name, body, options);
    this.#flushSoon();
  }

  /** Acknowledge a message. Messages of a lost session have the sequence number 0. */
  ack(message) {
    if (this.#session !== null && message.sequence > 0 && !this.isClosed) {
      this.#session.ack(message);
      this.#flushSoon();
    }
  }

  // For the connector

  get session() {
    return this.#session;
  }

  /** Attach a session to a transport after its handshake. Throws ProtocolError if the session cannot be resumed. */
  attach(session, link, { epoch, peerReceived, resumed, roundTripS }) {
    session.attach(this.#owner.now(), { epoch, peerReceived, roundTripS });
    this.#session = session;
    this.#link = link;
    this.#isFull = false;
    this.#hasWarned = false;
    this.change({ state: "online", resumed, epoch });
    this.#flush();
    this.#wakeSenders();
  }

  /** Handle bytes of a transport. */
  receiveData(link, data) {
    if (link !== this.#link) return;
    this.#session.receiveData(data, this.#owner.now(), this.#session.epoch);
    this.#receiveEvents(link);
  }

  /** Handle the end of a transport. */
  receiveLinkLost(link, detail) {
    if (link === this.#link) this.#dropLink("link lost", detail);
  }

  /** Enter a state and notify the owner. "closed" is final. */
  change(change) {
    if (this.isClosed) return;
    const blank = { cause: "", detail: "", code: null, attempt: 0, dueInS: null, resumed: null, epoch: 0 };
    this.#lastChange = Object.freeze({ ...blank, ...change });
    this.#state = change.state;
    this.#owner.receiveChange(this.#lastChange);
  }

  /** Return the messages that the peer has not acknowledged. */
  unconfirmed() {
    return (this.#session?.unconfirmed() ?? []).map((message) => new Unconfirmed(message));
  }

  /** Discard a lost session and fail its requests. Return its unconfirmed messages. */
  discardSession(why) {
    const session = this.#session;
    if (session === null) return [];
    // Received messages stay readable, but can no longer be acknowledged.
    for (const message of [...this.#inbox, ...this.#dispatcher.unacked()]) message.sequence = 0;
    const lost = this.unconfirmed();
    session.abort();
    this.#session = null;
    this.#isEofReceived = false;
    this.#pendingRequests.fail(why);
    this.#dispatcher.discard(why);
    this.#wakeDrains();
    return lost;
  }

  /** Close the line: everything that waits gets `error`, or the normal end. */
  finish(change, error) {
    if (this.isClosed) return;
    this.#error = error;
    this.#dropTransport();
    this.#session?.abort();
    this.change(change);
    const why = change.detail || change.cause;
    this.#pendingRequests.fail(why);
    this.#dispatcher.discard(why);
    const ended = error ?? new LineClosed(`the line is closed: ${why}`, change.code ?? null);
    for (const { reject } of this.#senders) reject(ended);
    this.#senders.clear();
    this.#failPings(ended);
    this.#wakeDrains();
    this.#feedReaders();
  }

  // Internals: sending

  #liveSession() {
    if (this.isClosed) throw this.#error ?? new LineClosed(`the line is closed: ${this.#lastChange.detail}`, this.#lastChange.code);
    if (!this.#hasSession) throw new BufferFull("the line has no session at the moment");
    return this.#session;
  }

  /** Whether there is a session. Between the end of one and the beginning of the next there is none. */
  get #hasSession() {
    return this.#session !== null && this.#session.state !== "closed";
  }

  /** Call `act` when there is space for that many bytes and no earlier sender waits. Rejects with its error. */
  #inTurn(sizeBytes, signal, act) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      if (this.isClosed) this.#liveSession();
      const turn = { sizeBytes, act, resolve, reject };
      if (signal !== undefined) {
        const onAbort = () => {
          this.#senders.delete(turn);
          reject(signal.reason);
          this.#wakeSenders();
        };
        signal.addEventListener("abort", onAbort, { once: true });
        turn.resolve = () => (signal.removeEventListener("abort", onAbort), resolve());
        turn.reject = (error) => (signal.removeEventListener("abort", onAbort), reject(error));
      }
      this.#senders.add(turn);
      if (this.#senders.size === 1) this.#wakeSenders();
    });
  }

  /** Wake senders in order while there is space. */
  #wakeSenders() {
    for (const turn of this.#senders) {
      if (!this.hasSpace(turn.sizeBytes)) return;
      this.#senders.delete(turn);
      try {
        turn.act();
        turn.resolve();
      } catch (error) {
        turn.reject(error);
      }
      this.#flushSoon();
    }
  }

  #wakeDrains() {
    for (const { session, resolve } of this.#drains) {
      if (session.isDrained || session !== this.#session || this.isClosed) resolve();
    }
  }

  #failPings(error) {
    for (const { reject } of this.#pings.values()) reject(error);
  }

  /** Write at the end of this turn of the event loop, so that many small messages make one write. */
  #flushSoon() {
    if (this.#isFlushDue) return;
    this.#isFlushDue = true;
    queueMicrotask(() => {
      this.#isFlushDue = false;
      this.#flush();
    });
  }

  #flush() {
    const session = this.#session;
    const link = this.#link;
    if (session === null || link === null) return;
    const now = this.#owner.now();
    if (this.#isFull && link.bufferedBytes < LINK_BYTES_MAX / 2) {
      this.#isFull = false;
      session.resumeWriting();
    }
    for (;;) {
      if (!this.#isFull && link.bufferedBytes >= LINK_BYTES_MAX) {
        this.#isFull = true;
        this.#pollS = LINK_POLL_S;
        session.pauseWriting();
      }
      const data = session.dataToSend(now);
      if (data === null) break;
      link.send(data);
    }
    const due = session.nextTimeout();
    this.#schedule(this.#isFull && due !== null ? Math.min(due, now + this.#pollS) : due);
  }

  // Internals: timers

  #schedule(due) {
    if (due === null || due >= this.#timerDue) return;
    clearTimeout(this.#timer);
    this.#timerDue = due;
    this.#timer = setTimeout(() => this.#receiveTimer(), Math.max(0, 1000 * (due - this.#owner.now())));
  }

  #receiveTimer() {
    this.#timerDue = Infinity;
    const link = this.#link;
    if (link === null) return;
    this.#pollS = Math.min(2 * this.#pollS, LINK_POLL_S_MAX);
    this.#session.handleTimeout(this.#owner.now());
    this.#receiveEvents(link);
  }

  // Internals: receiving

  #receiveEvents(link) {
    const session = this.#session;
    for (const event of session.nextEvents()) {
      if (event.type === "message") this.#dispatch(event);
      else this.#handleEvent(event);
    }
    if (session !== this.#session || this.isClosed) return;
    this.#wakeSenders();
    this.#dispatcher.resume();
    this.#wakeDrains();
    if (session.state === "detached") {
      if (link === this.#link) this.#dropLink("link lost", "the session moved to another transport");
    } else this.#flush();
  }

  #dispatch(message) {
    switch (message.operation) {
      case Operation.MESSAGE: {
        const handler = this.#dispatcher.find(message.name);
        if (handler !== undefined) this.#dispatcher.receiveMessage(message, handler);
        else if (message.name === "") {
          this.#inbox.push(message);
          this.#feedReaders();
        } else {
          this.ack(message);
          this.#logger.warn(`landline: no handler for a message named ${JSON.stringify(message.name)}`);
        }
        return;
      }
      case Operation.REQUEST:
        return this.#dispatcher.receiveRequest(message);
      case Operation.CANCEL:
        this.ack(message);
        return this.#dispatcher.cancel(message.correlation);
      default:
        this.ack(message);
        return this.#pendingRequests.receiveResponse(message);
    }
  }

  #handleEvent(event) {
    switch (event.type) {
      case "pong":
        // Only the pong of the last ping is reported; it also answers the earlier ones.
        for (const [number, { resolve }] of this.#pings) if (number <= event.number) resolve(event.roundTripS);
        return;
      case "datagram":
        this.#handleDatagram(event);
        return;
      case "suspected":
        this.change({ state: "suspect", cause: "silent", detail: `nothing heard for ${event.silenceS.toFixed(1)} s` });
        return;
      case "recovered":
        this.change({ state: "online", resumed: true, epoch: this.epoch });
        return;
      case "silent":
        this.#dropLink("silent", `nothing heard for ${event.silenceS.toFixed(1)} s`);
        return;
      case "eof":
        this.#isEofReceived = true;
        this.#pendingRequests.fail("the peer has sent EOF");
        this.#feedReaders();
        return;
      case "notice":
        // Once per transport, so that the peer cannot fill the log.
        if (this.#hasWarned) return;
        this.#hasWarned = true;
        this.#logger.warn(`landline: the peer warns: ${event.reason} (${codeText(event.code)})`);
        return;
      case "ended":
        this.#flush();
        this.#dropTransport();
        this.#owner.receiveEnded(event);
    }
  }

  /** Call the handler of a datagram. Without a handler it is dropped. */
  #handleDatagram(datagram) {
    const handler = this.#onDatagram.get(datagram.name);
    if (handler === undefined) return;
    try {
      handler(decodeValue(datagram), { line: this, name: datagram.name });
    } catch (error) {
      this.#logger.error(`landline: the handler of a datagram named ${JSON.stringify(datagram.name)} failed`, error);
    }
  }

  #nextMessage() {
    const { promise, resolve, reject } = Promise.withResolvers();
    this.#readers.push({ resolve, reject });
    this.#feedReaders();
    return promise;
  }

  /** Give waiting readers, in order, the received messages or the end. */
  #feedReaders() {
    while (this.#readers.length > 0) {
      if (this.#inbox.length === 0 && !this.isClosed && !this.#isEofReceived) return;
      const { resolve, reject } = this.#readers.shift();
      if (this.#inbox.length > 0) {
        const message = this.#inbox.shift();
        this.ack(message);
        try {
          resolve({ done: false, value: decodeValue(message) });
        } catch (error) {
          if (!(error instanceof MessagePackError)) throw error;
          reject(error);
        }
      } else if (this.isClosed && this.#error !== null) reject(this.#error);
      else resolve({ done: true, value: undefined });
    }
  }

  // Internals: shutdown

  #dropTransport() {
    const link = this.#link;
    this.#link = null;
    clearTimeout(this.#timer);
    this.#timerDue = Infinity;
    link?.close();
  }

  #dropLink(cause, detail) {
    if (this.#link === null) return;
    this.#dropTransport();
    this.#session.receiveLinkLost();
    this.#failPings(new LineClosed(detail));
    this.#owner.receiveDetached(cause, detail);
  }
}

// For `await using line = await connect(...)`, where the engine supports it.
if (Symbol.asyncDispose !== undefined) {
  Line.prototype[Symbol.asyncDispose] = function () {
    return this.close();
  };
}
