/** Keeps a line connected: connect, wait, retry, and resume the session if the server still has it. */

import { Schedule, checkBackoff } from "./backoff.js";
import { encodeName } from "./codec.js";
import {
  Code,
  ConfigurationError,
  ConnectFailed,
  GaveUp,
  LandlineError,
  LineClosed,
  ProtocolError,
  Rejected,
  SessionLost,
  codeText,
  mayReturn,
} from "./errors.js";
import { DATA_HEADER_BYTES, FRAGMENT_BYTES, FrameReader, HANDSHAKE_BYTES_MAX, SUBPROTOCOL } from "./frames.js";
import { Anonymous, ClientHandshake, IDENTITY_CHARS_MAX, checkLimits } from "./handshake.js";
import { Line } from "./line.js";
import { TransportLink } from "./link.js";
import { Session } from "./session.js";
import { startTimer } from "./timers.js";

/** How long connect() waits for the first connection, over all attempts. */
const FIRST_CONNECTION_TIMEOUT_S = 60;
const CONNECT_TIMEOUT_S = 10;
const HANDSHAKE_TIMEOUT_S = 5;
const FATAL_CODES = new Set([Code.UNSUPPORTED_VERSION, Code.UNAUTHENTICATED]);
const SEND_BUFFER = { sizeBytes: 16 * 1024 * 1024, messages: 32_768 };
const OPTIONS = new Set([
  "auth",
  "identity",
  "client",
  "connectTimeoutS",
  "backoff",
  "limits",
  "sendBuffer",
  "on",
  "onDatagram",
  "onMessage",
  "onState",
  "onSessionLost",
  "signal",
  "logger",
]);

const now = () => performance.now() / 1000;

/** Return a URL for a WebSocket. Relative URLs, and http and https ones, are resolved against the page's address. */
function webSocketUrl(url) {
  let parsed;
  try {
    parsed = new URL(url, globalThis.location?.href);
  } catch (error) {
    throw new ConfigurationError(`invalid URL ${url}; use ws://host:port/path`, { cause: error });
  }
  if (parsed.protocol === "http:" || parsed.protocol === "https:") {
    parsed.protocol = parsed.protocol.replace("http", "ws");
  }
  if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") {
    throw new ConfigurationError(`unsupported URL ${url}; use ws:// or wss://`);
  }
  parsed.hash = "";
  return parsed.href;
}

function checkSendBuffer(wanted = {}) {
  const { sizeBytes, messages, ...unknown } = { ...SEND_BUFFER, ...wanted };
  const isPossible = sizeBytes >= 4 * FRAGMENT_BYTES && messages >= 128 && Object.keys(unknown).length === 0;
  if (!isPossible) {
    throw new ConfigurationError(
      `invalid sendBuffer; use {sizeBytes, messages} with at least ${4 * FRAGMENT_BYTES} bytes and 128 messages`,
    );
  }
  return { sizeBytes, messages };
}

function handlersOf({ on = {}, onMessage }) {
  const handlers = new Map(on instanceof Map ? on : Object.entries(on));
  for (const [name, handler] of handlers) {
    const bytes = encodeName(name).length;
    if (bytes < 1 || bytes > 255) throw new ConfigurationError(`the name of a handler must have 1 to 255 bytes, not ${bytes}`);
    if (typeof handler !== "function") throw new ConfigurationError(`the handler for ${name} is not a function`);
  }
  if (onMessage !== undefined) handlers.set("", onMessage);
  return handlers;
}

/** Return the handlers of datagrams: one function for those without a name, or functions by name. */
function datagramHandlersOf({ onDatagram = {} }) {
  const given = typeof onDatagram === "function" ? { "": onDatagram } : onDatagram;
  const handlers = new Map(given instanceof Map ? given : Object.entries(given));
  for (const [name, handler] of handlers) {
    if (encodeName(name).length > 255) throw new ConfigurationError("the name of a handler must have at most 255 bytes");
    if (typeof handler !== "function") throw new ConfigurationError(`the handler for datagrams ${name} is not a function`);
  }
  return handlers;
}

export class Connector {
  #configuredUrls;
  #urls;
  #attempts = 0;
  #auth;
  #identity;
  #client;
  #limits;
  #sendBuffer;
  #schedule;
  #connectTimeoutS;
  #lastFailure;
  #onState;
  #onSessionLost;
  #logger;
  #stopping = new AbortController();
  #detached = null;
  #online = Promise.withResolvers();
  #isOnceOnline = false;

  /** See connect(). Throws ConfigurationError. */
  constructor(urls, options) {
    const unknown = Object.keys(options).find((name) => !OPTIONS.has(name));
    if (unknown !== undefined) throw new ConfigurationError(`unknown option ${unknown}`);
    this.#configuredUrls = [urls].flat().map(webSocketUrl);
    if (this.#configuredUrls.length === 0) throw new ConfigurationError("at least one URL is required");
    if (globalThis.WebSocket === undefined) {
      throw new ConfigurationError("WebSocket is not available; use a browser, or Node 22 or later");
    }
    if (globalThis.crypto?.subtle === undefined) {
      throw new ConfigurationError("WebCrypto is not available; browsers provide it on https:// pages and on localhost");
    }
    const { auth = new Anonymous(), identity = "", client = "", onState, onSessionLost, logger = console } = options;
    if (typeof identity !== "string" || [...identity].length > IDENTITY_CHARS_MAX || !identity.isWellFormed()) {
      throw new ConfigurationError(`an identity must be a string of at most ${IDENTITY_CHARS_MAX} characters`);
    }
    this.#urls = this.#configuredUrls;
    this.#auth = auth;
    this.#identity = identity;
    this.#client = client;
    this.#limits = checkLimits(options.limits);
    this.#sendBuffer = checkSendBuffer(options.sendBuffer);
    this.#schedule = new Schedule(checkBackoff(options.backoff));
    const { connectTimeoutS = FIRST_CONNECTION_TIMEOUT_S } = options;
    if (connectTimeoutS !== null && !(connectTimeoutS > 0)) {
      throw new ConfigurationError("connectTimeoutS must be a number of seconds above 0, or null for no limit");
    }
    this.#connectTimeoutS = connectTimeoutS;
    this.#onState = onState;
    this.#onSessionLost = onSessionLost;
    this.#logger = logger;
    const handlers = handlersOf(options);
    this.line = new Line(this, { identity, handlers, onDatagram: datagramHandlersOf(options), logger });
  }

  /** Keep the line connected until it is closed. Resolves to the line when it is online for the first time. */
  async start(signal) {
    const onAbort = () => this.#online.reject(signal.reason);
    signal?.throwIfAborted();
    signal?.addEventListener("abort", onAbort);
    const timer = startTimer(this.#connectTimeoutS, () => this.#online.reject(this.#connectTimedOut()));
    this.#keepConnected();
    try {
      await this.#online.promise;
    } catch (error) {
      if (error instanceof GaveUp) this.line.finish({ state: "closed", cause: "gave up", detail: error.message, code: null }, error);
      this.line.abort(Code.NORMAL);
      throw error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
    }
    return this.line;
  }

  #connectTimedOut() {
    return new GaveUp(this.#schedule.failures, this.#lastFailure, this.#connectTimeoutS);
  }

  // For the line

  now() {
    return now();
  }

  receiveChange(change) {
    if (change.state === "closed") {
      this.#stopping.abort(new ConnectFailed("the line was closed"));
      this.#detached?.resolve({ cause: change.cause, detail: change.detail, ended: null });
    }
    this.#callBack(this.#onState, change, this.line);
  }

  receiveDetached(cause, detail) {
    this.#detached?.resolve({ cause, detail, ended: null });
  }

  receiveEnded(ended) {
    const cause = ended.byPeer ? "closed by peer" : "protocol error";
    this.#detached?.resolve({ cause, detail: ended.reason || codeText(ended.code), ended });
  }

  // Internals

  /** Call a function of the user. An exception is logged. */
  #callBack(callback, ...values) {
    try {
      callback?.(...values);
    } catch (error) {
      this.#logger.error("landline: a callback failed", error);
    }
  }

  /** Never rejects: users of the line get the error that ends it. */
  async #keepConnected() {
    try {
      await this.#run();
      this.#online.reject(new LineClosed("the line was closed before it was connected"));
    } catch (error) {
      const last = this.#finalError(error);
      this.line.finish({ state: "closed", cause: causeOf(error), detail: error.message, code: error.code ?? null }, last);
      this.#online.reject(error);
    }
  }

  /** Return the error that ends the line: SessionLost if messages are unconfirmed, otherwise the error itself. */
  #finalError(error) {
    const lost = this.line.discardSession(error.message);
    if (lost.length === 0) return error;
    if (this.#onSessionLost !== undefined) {
      this.#callBack(this.#onSessionLost, lost, this.line);
      return error;
    }
    return new SessionLost(error.message, lost, error.code ?? null, { cause: error });
  }

  /** Connect, wait for the loss, wait for the next attempt. Returns when the line is closed normally. */
  async #run() {
    const line = this.line;
    while (!line.isClosed) {
      const url = this.#urls[this.#attempts % this.#urls.length];
      this.#attempts += 1;
      let loss;
      try {
        this.#detached = Promise.withResolvers();
        await this.#connect(url);
      } catch (error) {
        if (line.isClosed) return;
        loss = this.#failedAttempt(error, url);
      }
      if (loss === undefined) {
        this.#schedule.receiveConnected(now());
        this.#isOnceOnline = true;
        this.#online.resolve();
        // The next attempt starts with the URL that worked.
        this.#attempts -= 1;
        loss = await this.#detached.promise;
        if (line.isClosed) return;
        const { cause, detail, ended } = loss;
        if (ended !== null) {
          if (!mayReturn(ended.code)) return this.#closeEnded(cause, ended);
          this.#loseSession(`the server ended the session: ${detail}`);
          Object.assign(loss, { code: ended.code, retryAfterS: ended.retryAfterS, spreadS: ended.spreadS });
          this.#preferAlternatives(ended.alternatives);
        }
      }
      await this.#wait(loss);
    }
  }

  /** Return the reason why an attempt failed, or throw an error that makes further attempts useless. */
  #failedAttempt(error, url) {
    if (error instanceof Rejected) {
      if (!mayReturn(error.code)) throw error;
      const { retryAfterS, spreadS } = error;
      return { cause: "rejected", detail: error.message, code: error.code, failure: error, retryAfterS, spreadS };
    }
    // While the server restarts, a proxy or another program may respond in its place. That does not end a line that has
    // worked before.
    const isFatal = error instanceof ProtocolError && (!this.#isOnceOnline || FATAL_CODES.has(error.code));
    if (isFatal || !(error instanceof ConnectFailed || error instanceof ProtocolError)) throw error;
    return { cause: "connect failed", detail: `${url}: ${error.message}`, failure: error };
  }

  /** Try the alternatives that the server named before the configured URLs, unless they give up encryption. */
  #preferAlternatives(alternatives) {
    if (alternatives.length === 0) return;
    const isEncrypted = (url) => url.startsWith("wss:");
    const preferred = [];
    for (const alternative of alternatives) {
      let url;
      try {
        url = webSocketUrl(alternative);
      } catch (error) {
        if (!(error instanceof ConfigurationError)) throw error;
        this.#logger.warn(`landline: ignoring an invalid alternative of the server: ${error.message}`);
        continue;
      }
      if (!isEncrypted(url) && this.#configuredUrls.every(isEncrypted)) {
        this.#logger.warn(`landline: ignoring the alternative ${url} of the server, which is not encrypted`);
      } else preferred.push(url);
    }
    this.#urls = [...preferred, ...this.#configuredUrls.filter((url) => !preferred.includes(url))];
    this.#attempts = 0;
  }

  async #wait({ cause, detail, code, failure, retryAfterS, spreadS }) {
    const schedule = this.#schedule;
    this.#lastFailure = failure ?? new ConnectFailed(detail);
    const delayS = schedule.nextDelay(now(), Math.random(), { retryAfterS, spreadS });
    if (delayS === null) throw new GaveUp(schedule.failures, this.#lastFailure);
    const attempt = schedule.failures + 1;
    this.line.change({ state: "reconnecting", cause, detail, code: code ?? null, attempt, dueInS: delayS });
    await this.#sleep(delayS);
    if (!this.line.isClosed) this.line.change({ state: "connecting", cause, attempt });
  }

  /** Sleep, but only until the line is closed. */
  #sleep(seconds) {
    const { signal } = this.#stopping;
    return new Promise((resolve) => {
      if (signal.aborted) return resolve();
      const wake = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", wake);
        resolve();
      };
      const timer = setTimeout(wake, 1000 * seconds);
      signal.addEventListener("abort", wake);
    });
  }

  /** Return the promise's value. Rejects with ConnectFailed after that many seconds, and when the line is closed. */
  #within(seconds, what, promise) {
    const { signal } = this.#stopping;
    const { promise: given, resolve, reject } = Promise.withResolvers();
    const onAbort = () => reject(signal.reason);
    const timer = setTimeout(() => reject(new ConnectFailed(`no ${what} within ${seconds} s`)), 1000 * seconds);
    signal.addEventListener("abort", onAbort);
    promise.then(resolve, reject);
    return given.finally(() => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
    });
  }

  /** Make one attempt. Returns when the line is attached, or throws. */
  async #connect(url) {
    const line = this.line;
    const { windowBytes, messageBytes } = this.#limits;
    const pendingBytesMax = HANDSHAKE_BYTES_MAX + windowBytes + 2 * (messageBytes + DATA_HEADER_BYTES);
    let link;
    try {
      link = new TransportLink(url, pendingBytesMax);
    } catch (error) {
      throw new ConfigurationError(`${url}: ${error.message}`, { cause: error });
    }
    try {
      await this.#within(CONNECT_TIMEOUT_S, "connection", link.opened);
      if (link.subprotocol !== SUBPROTOCOL) {
        throw new ProtocolError(`the server does not support ${SUBPROTOCOL}; is it a landline server?`);
      }
      const handshake = new ClientHandshake({
        auth: this.#auth,
        identity: this.#identity,
        limits: this.#limits,
        ticket: line.session?.ticket,
        client: this.#client,
      });
      const handshaking = this.#performHandshake(link, handshake);
      const { trailingData, roundTripS } = await this.#within(HANDSHAKE_TIMEOUT_S, "welcome", handshaking);
      if (line.isClosed) throw new ConnectFailed("the line was closed");
      this.#receiveWelcome(link, handshake.welcome, roundTripS);
      link.handOver(line, trailingData);
    } catch (error) {
      link.close();
      throw error;
    }
  }

  async #performHandshake(link, handshake) {
    const reader = new FrameReader(HANDSHAKE_BYTES_MAX);
    let helloAt = 0;
    while (handshake.welcome === null) {
      const frame = reader.next();
      if (frame === null) {
        reader.feed(await link.read());
        continue;
      }
      const output = await handshake.receiveFrame(frame);
      if (output !== null) {
        link.send(output);
        helloAt = now();
      }
    }
    return { trailingData: reader.popTrailingData(), roundTripS: now() - helloAt };
  }

  #receiveWelcome(link, welcome, roundTripS) {
    const line = this.line;
    let session = line.session;
    let peerReceived = welcome.received;
    if (!welcome.resumed) {
      if (session !== null) this.#loseSession("the server no longer has the session");
      const { message_bytes: messageBytes, window_bytes: windowBytes, window_frames: windowFrames } = welcome.limits;
      session = new Session({
        sessionId: welcome.session,
        secret: welcome.secret,
        limits: this.#limits,
        peerLimits: { messageBytes, windowBytes, windowFrames },
        heartbeat: { intervalS: welcome.heartbeat.interval_s, timeoutS: welcome.heartbeat.timeout_s },
        sendBuffer: this.#sendBuffer,
      });
      peerReceived = 0;
    }
    line.attach(session, link, { epoch: welcome.epoch, peerReceived, resumed: welcome.resumed, roundTripS });
  }

  /** Report the messages of a lost session to the callback, or without one end the line if there are any. */
  #loseSession(why) {
    const lost = this.line.discardSession(why);
    if (this.#onSessionLost !== undefined) this.#callBack(this.#onSessionLost, lost, this.line);
    else if (lost.length > 0) throw new SessionLost(why, lost);
  }

  #closeEnded(cause, ended) {
    const why = ended.reason || codeText(ended.code);
    const text = ended.byPeer ? `the server closed the line: ${why}` : `the server violated the protocol: ${why}`;
    const lost = this.line.unconfirmed();
    let error = null;
    if (!ended.byPeer) error = new ProtocolError(text, ended.code);
    else if (lost.length > 0) error = new SessionLost(text, lost, ended.code);
    else if (ended.code !== Code.NORMAL) error = new LineClosed(text, ended.code);
    this.line.finish({ state: "closed", cause, detail: text, code: ended.code }, error);
  }
}

function causeOf(error) {
  if (error instanceof Rejected) return "rejected";
  if (error instanceof GaveUp) return "gave up";
  if (error instanceof SessionLost) return "expired";
  return error instanceof LandlineError && !(error instanceof ConfigurationError) ? "protocol error" : "connect failed";
}
