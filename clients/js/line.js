/**
 * A line: what users hold. One session, riding one transport at a time.
 *
 * The session decides; this file moves bytes between it and the transport, hands messages out, and lets senders wait.
 */

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
import { DATAGRAM_BYTES_MAX, Flag, NAME_BYTES_MAX, Operation } from "./frames.js";
import { Queue } from "./lanes.js";
import { Answers, Requests, decodeValue, encodeName, encodeValue, startTimer } from "./requests.js";

const DRAIN_TIMEOUT_S = 5;
/** A WebSocket that holds so much unsent is full. A WebSocket tells nobody when it is not any more: it is asked. */
const LINK_BYTES_MAX = 256 * 1024;
/** First after so long, then after twice as long each time, and at least this often. */
const LINK_POLL_S = 0.004;
const LINK_POLL_S_MAX = 0.064;

/** A message of unknown fate: the peer's application took it, or not. */
class Unconfirmed {
  #message;

  constructor(message) {
    this.#message = message;
    this.name = message.name;
  }

  /** What was sent. */
  get value() {
    return decodeValue(this.#message);
  }
}

/** A connection that outlives its sockets. Made by connect(). */
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
  #inbox = new Queue();
  #readers = new Queue();
  #senders = new Set();
  #drains = new Set();
  #pings = new Map();
  #requests;
  #answers;
  #onDatagram;

  /**
   * `owner` has now() in seconds, and is told: receiveChange(change), receiveDetached(cause, detail), receiveEnded(event).
   * `handlers` is a Map of functions by name, that of the empty name for messages without one; `onDatagram` another,
   * for datagrams.
   */
  constructor(owner, { identity, handlers, onDatagram, logger }) {
    this.#owner = owner;
    this.#onDatagram = onDatagram;
    this.#logger = logger;
    this.#requests = new Requests(this);
    this.#answers = new Answers(this, handlers, logger);
    this.identity = identity;
  }

  // What it is.

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

  // Sending.

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
      throw new MessageTooLarge(`a datagram of ${size} bytes; ${DATAGRAM_BYTES_MAX} are possible: send a message`);
    }
    if (this.isClosed) this.#liveSession();
    if (!this.#hasSession || !this.#session.sendDatagram(isPacked ? Flag.PACKED : 0, nameBytes, body)) return false;
    this.#flushSoon();
    return true;
  }

  async request(name, value = null, { timeoutS = 30, signal } = {}) {
    if (this.#isEofReceived && !this.isClosed) throw outcome(new RequestLost(name, "the peer said it sends no more"));
    return this.#requests.ask(name, value, timeoutS, signal);
  }

  async sendEof({ signal } = {}) {
    await this.#inTurn(0, signal, () => this.#liveSession().sendEof());
  }

  async ping({ timeoutS = 10 } = {}) {
    const session = this.isClosed ? this.#liveSession() : this.#session;
    if (!session?.isAttached) throw new LineClosed("the line is not connected just now");
    const number = session.sendPing(this.#owner.now());
    this.#flushSoon();
    const { promise, resolve, reject } = Promise.withResolvers();
    this.#pings.set(number, { resolve, reject });
    const timer = startTimer(timeoutS, () => reject(new LineClosed(`no answer to a ping within ${timeoutS} s`)));
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      this.#pings.delete(number);
    }
  }

  /** Resolves to whether the peer's application has taken everything sent, after `timeoutS` at most. */
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

  breakLink(detail = "the link was given up here") {
    this.#dropLink("link lost", detail);
  }

  // Receiving.

  [Symbol.asyncIterator]() {
    return {
      next: () => this.#nextMessage(),
      return: async () => ({ done: true, value: undefined }),
    };
  }

  // Ending.

  async close({ code = Code.NORMAL, reason = "", timeoutS = DRAIN_TIMEOUT_S } = {}) {
    if (this.isClosed) return;
    let lost = [];
    try {
      await this.drain(timeoutS);
    } finally {
      lost = this.abort(code, reason);
    }
    if (lost.length > 0) throw new SessionLost(`closed here: ${reason || codeText(code)}`, lost, code);
  }

  abort(code = Code.NORMAL, reason = "") {
    if (this.isClosed) return [];
    const lost = this.unconfirmed();
    this.#session?.close(code, reason);
    this.#flush();
    this.finish({ state: "closed", cause: "closed here", detail: reason, code }, null);
    return lost;
  }

  // For requests.js.

  /** Whether a message of that size can be sent at once. */
  hasRoom(sizeBytes) {
    return this.#hasSession && this.#session.hasRoom(sizeBytes);
  }

  /** Whether an answer to the peer's requests can still be sent. */
  get canAnswer() {
    return this.#session?.canAnswer ?? false;
  }

  /** Whether nothing can be sent any more in the session that the line has, or had. */
  get hasEnded() {
    return this.isClosed || !this.#hasSession;
  }

  /** Sends a message of any operation, waiting for room and for those who wait already. */
  async transmit(operation, name, body, { correlation, isPacked, isBulk, signal, onSent } = {}) {
    this.#session?.checkSizes(name.length, body.length);
    await this.#inTurn(name.length + body.length, signal, () => {
      this.#liveSession().send(operation, name, body, { correlation, isPacked, isBulk });
      onSent?.();
    });
  }

  /** As transmit, but throws BufferFull where that would wait; then nothing was sent. */
  transmitNow(operation, name, body, options) {
    const session = this.#liveSession();
    if (this.#senders.size > 0) throw new BufferFull("others wait for room in the send buffer already");
    session.send(operation, name, body, options);
    this.#flushSoon();
  }

  /** The application has a message. Those of a lost session have no number any more. */
  take(message) {
    if (this.#session !== null && message.sequence > 0 && !this.isClosed) {
      this.#session.take(message);
      this.#flushSoon();
    }
  }

  // For the connector.

  get session() {
    return this.#session;
  }

  /** Puts a session onto a transport whose handshake is done. Throws ProtocolError when it does not fit. */
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

  /** Bytes of a transport. */
  receiveData(link, data) {
    if (link !== this.#link) return;
    this.#session.receiveData(data, this.#owner.now(), this.#session.epoch);
    this.#receiveEvents(link);
  }

  /** A transport ended. */
  receiveLinkLost(link, detail) {
    if (link === this.#link) this.#dropLink("link lost", detail);
  }

  /** Enters a state and tells everybody. Closed is final. */
  change(change) {
    if (this.isClosed) return;
    const blank = { cause: "", detail: "", code: null, attempt: 0, dueInS: null, resumed: null, epoch: 0 };
    this.#lastChange = Object.freeze({ ...blank, ...change });
    this.#state = change.state;
    this.#owner.receiveChange(this.#lastChange);
  }

  /** The messages their owner must hear of when the session is lost. */
  unconfirmed() {
    return (this.#session?.unconfirmed() ?? []).map((message) => new Unconfirmed(message));
  }

  /** The session is lost: fails what was asked in it, and returns the messages whose fate is unknown. */
  abandonSession(why) {
    const session = this.#session;
    if (session === null) return [];
    // What arrived stays readable, but there is nobody left to acknowledge it to.
    for (const message of [...this.#inbox, ...this.#answers.untaken()]) message.sequence = 0;
    const lost = this.unconfirmed();
    session.abandon();
    this.#session = null;
    this.#isEofReceived = false;
    this.#requests.fail(why);
    this.#answers.abandon(why);
    this.#wakeDrains();
    return lost;
  }

  /** The line is over: everybody who waits gets `error`, or an orderly end. */
  finish(change, error) {
    if (this.isClosed) return;
    this.#error = error;
    this.#dropTransport();
    this.#session?.abandon();
    this.change(change);
    const why = change.detail || change.cause;
    this.#requests.fail(why);
    this.#answers.abandon(why);
    const ended = error ?? new LineClosed(`the line is closed: ${why}`, change.code ?? null);
    for (const { reject } of this.#senders) reject(ended);
    this.#senders.clear();
    this.#failPings(ended);
    this.#wakeDrains();
    this.#feedReaders();
  }

  // Inside: sending.

  #liveSession() {
    if (this.isClosed) throw this.#error ?? new LineClosed(`the line is closed: ${this.#lastChange.detail}`, this.#lastChange.code);
    if (!this.#hasSession) throw new BufferFull("the line has no session just now");
    return this.#session;
  }

  /** Whether there is a session to send in: none between the end of one and the beginning of the next. */
  get #hasSession() {
    return this.#session !== null && this.#session.state !== "closed";
  }

  /** Does it when there is room for so many bytes and nobody waits before us; its error is ours. */
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

  /** Lets senders act in the order in which they came, as long as there is room. */
  #wakeSenders() {
    for (const turn of this.#senders) {
      if (!this.hasRoom(turn.sizeBytes)) return;
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

  /** Writes at the end of this turn, so that many small messages make one write. */
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

  // Inside: time.

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

  // Inside: receiving.

  #receiveEvents(link) {
    const session = this.#session;
    for (const event of session.nextEvents()) {
      if (event.type === "message") this.#dispatch(event);
      else this.#handleEvent(event);
    }
    if (session !== this.#session || this.isClosed) return;
    this.#wakeSenders();
    this.#answers.resume();
    this.#wakeDrains();
    if (session.state === "detached") {
      if (link === this.#link) this.#dropLink("link lost", "the session went on over another transport");
    } else this.#flush();
  }

  #dispatch(message) {
    switch (message.operation) {
      case Operation.MESSAGE: {
        const handler = this.#answers.find(message.name);
        if (handler !== undefined) this.#answers.receiveMessage(message, handler);
        else if (message.name === "") {
          this.#inbox.push(message);
          this.#feedReaders();
        } else {
          this.take(message);
          this.#logger.warn(`landline: a message named ${JSON.stringify(message.name)}, for which there is no handler`);
        }
        return;
      }
      case Operation.REQUEST:
        return this.#answers.receiveRequest(message);
      case Operation.CANCEL:
        this.take(message);
        return this.#answers.cancel(message.correlation);
      default:
        this.take(message);
        return this.#requests.receiveAnswer(message);
    }
  }

  #handleEvent(event) {
    switch (event.type) {
      case "pong":
        // Only the answer to the last ping is reported; it answers those before it as well.
        for (const [number, { resolve }] of this.#pings) if (number <= event.number) resolve(event.roundTripS);
        return;
      case "datagram":
        this.#takeDatagram(event);
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
        this.#requests.fail("the peer said it sends no more");
        this.#feedReaders();
        return;
      case "notice":
        // Once a transport: the log is not the peer's to fill.
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

  /** Hands a datagram to its handler at once; without one it is dropped. */
  #takeDatagram(datagram) {
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

  /** Gives readers, in the order in which they came, the messages there are, or the end. */
  #feedReaders() {
    while (this.#readers.length > 0) {
      if (this.#inbox.length === 0 && !this.isClosed && !this.#isEofReceived) return;
      const { resolve, reject } = this.#readers.shift();
      if (this.#inbox.length > 0) {
        const message = this.#inbox.shift();
        this.take(message);
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

  // Inside: ends.

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

// `await using line = await connect(...)`, where the language has it.
if (Symbol.asyncDispose !== undefined) {
  Line.prototype[Symbol.asyncDispose] = function () {
    return this.close();
  };
}
