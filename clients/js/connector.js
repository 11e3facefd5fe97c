/** Keeps a line connected: tries, waits, tries again, and goes on with the session where the server still has it. */

import { Schedule, checkBackoff } from "./backoff.js";
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
import { DATA_HEADER_BYTES, FRAGMENT_BYTES, FrameReader, HANDSHAKE_BYTES_MAX, MESSAGE_BYTES_MAX, SUBPROTOCOL } from "./frames.js";
import { Anonymous, ClientHandshake, IDENTITY_CHARACTERS_MAX, checkLimits } from "./handshake.js";
import { Queue } from "./lanes.js";
import { Line } from "./line.js";
import { encodeName, startTimer } from "./requests.js";
import { Session } from "./session.js";

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

/** The URL as a WebSocket takes it. Relative ones, and http and https, are taken as in the page's own address. */
function webSocketUrl(url) {
  let parsed;
  try {
    parsed = new URL(url, globalThis.location?.href);
  } catch (error) {
    throw new ConfigurationError(`${url} is no URL; ws://host:port/path is one`, { cause: error });
  }
  if (parsed.protocol === "http:" || parsed.protocol === "https:") {
    parsed.protocol = parsed.protocol.replace("http", "ws");
  }
  if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") {
    throw new ConfigurationError(`${url}: this client speaks ws:// and wss://`);
  }
  parsed.hash = "";
  return parsed.href;
}

function checkSendBuffer(wanted = {}) {
  const { sizeBytes, messages, ...unknown } = { ...SEND_BUFFER, ...wanted };
  const isPossible = sizeBytes >= 4 * FRAGMENT_BYTES && messages >= 128 && Object.keys(unknown).length === 0;
  if (!isPossible) {
    throw new ConfigurationError(
      `sendBuffer is {sizeBytes, messages}, with ${4 * FRAGMENT_BYTES} bytes and 128 messages at least`,
    );
  }
  return { sizeBytes, messages };
}

function handlersOf({ on = {}, onMessage }) {
  const handlers = new Map(on instanceof Map ? on : Object.entries(on));
  for (const [name, handler] of handlers) {
    const bytes = encodeName(name).length;
    if (bytes < 1 || bytes > 255) throw new ConfigurationError(`a handler's name has 1 to 255 bytes, not ${bytes}`);
    if (typeof handler !== "function") throw new ConfigurationError(`the handler for ${name} is no function`);
  }
  if (onMessage !== undefined) handlers.set("", onMessage);
  return handlers;
}

/** What takes datagrams: one function for those without a name, or functions by name. */
function datagramHandlersOf({ onDatagram = {} }) {
  const given = typeof onDatagram === "function" ? { "": onDatagram } : onDatagram;
  const handlers = new Map(given instanceof Map ? given : Object.entries(given));
  for (const [name, handler] of handlers) {
    if (encodeName(name).length > 255) throw new ConfigurationError("a handler's name has at most 255 bytes");
    if (typeof handler !== "function") throw new ConfigurationError(`the handler for datagrams ${name} is no function`);
  }
  return handlers;
}

/** Browsers do not say why a WebSocket was not opened. What can be wrong although the server is there is its path. */
function hintFor(url) {
  const { pathname } = new URL(url);
  const slash = pathname.endsWith("/") ? "" : ` Mounted in a web application it may be at ${pathname}/, with the slash.`;
  return ` before it was open. Is a server there, at the path ${pathname}?${slash}`;
}

/** One WebSocket: its messages as bytes, kept until they are read or handed over. */
class Link {
  #socket;
  #chunks = new Queue();
  #chunkBytes = 0;
  #pendingBytesMax;
  #reader = null;
  #failure = null;
  #receiver = null;

  /** Throws what the WebSocket does for a URL it may not connect to. */
  constructor(url, pendingBytesMax) {
    const socket = (this.#socket = new WebSocket(url, [SUBPROTOCOL]));
    this.#pendingBytesMax = pendingBytesMax;
    socket.binaryType = "arraybuffer";
    let failed = "";
    let isOpen = false;
    this.opened = new Promise((resolve, reject) => {
      socket.onopen = () => {
        isOpen = true;
        resolve();
      };
      socket.onerror = (event) => (failed = event.message ?? "");
      socket.onclose = ({ code, reason }) => {
        const why = [failed, reason].filter(Boolean).join(", ");
        let text = `the connection ended (WebSocket code ${code}${why && `: ${why}`})`;
        if (!isOpen) text += hintFor(url);
        const error = new ConnectFailed(text);
        reject(error);
        this.#fail(error);
      };
    });
    // Whoever waits for it is told; later it says nothing new.
    this.opened.catch(() => {});
    socket.onmessage = ({ data }) => this.#receive(data);
  }

  get subprotocol() {
    return this.#socket.protocol;
  }

  get bufferedBytes() {
    return this.#socket.bufferedAmount;
  }

  send(bytes) {
    // A closing socket drops what it is given, as does a broken one: the session has it all.
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(bytes);
  }

  /** The next bytes. Rejects once the connection is over. */
  async read() {
    if (this.#chunks.length === 0) {
      if (this.#failure !== null) throw this.#failure;
      await new Promise((resolve, reject) => (this.#reader = { resolve, reject }));
    }
    const chunk = this.#chunks.shift();
    this.#chunkBytes -= chunk.length;
    return chunk;
  }

  /** From now on the receiver gets everything: receiveData(link, bytes) and receiveLinkLost(link, why). */
  handOver(receiver, rest) {
    this.#receiver = receiver;
    if (rest.length > 0) receiver.receiveData(this, rest);
    while (this.#chunks.length > 0) receiver.receiveData(this, this.#chunks.shift());
    if (this.#failure !== null) receiver.receiveLinkLost(this, this.#failure.message);
  }

  /** Closes behind what was written. Nothing is received any more. */
  close() {
    const socket = this.#socket;
    socket.onmessage = null;
    socket.onclose = null;
    socket.onerror = null;
    socket.close();
    this.#fail(new ConnectFailed("the connection was closed here"));
    this.#receiver = null;
  }

  /** A browser's WebSocket can say neither 1003 nor 1009 (§2.4): what is no message of ours ends the transport. */
  #receive(data) {
    if (this.#failure !== null) return;
    if (typeof data === "string") return this.#fail(new ProtocolError("a WebSocket message of text"));
    const chunk = new Uint8Array(data);
    if (chunk.length > MESSAGE_BYTES_MAX) {
      const sizes = `${chunk.length} bytes; ${MESSAGE_BYTES_MAX} are allowed`;
      return this.#fail(new ProtocolError(`a WebSocket message of ${sizes}`, Code.LIMIT_EXCEEDED));
    }
    if (this.#receiver !== null) return this.#receiver.receiveData(this, chunk);
    if (this.#chunkBytes + chunk.length > this.#pendingBytesMax) {
      const why = "more bytes than any window before WELCOME was looked at";
      return this.#fail(new ProtocolError(why, Code.LIMIT_EXCEEDED));
    }
    this.#chunkBytes += chunk.length;
    this.#chunks.push(chunk);
    this.#reader?.resolve();
    this.#reader = null;
  }

  #fail(error) {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#reader?.reject(error);
    this.#receiver?.receiveLinkLost(this, error.message);
  }
}

export class Connector {
  #given;
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
    if (unknown !== undefined) throw new ConfigurationError(`there is no option ${unknown}`);
    this.#given = [urls].flat().map(webSocketUrl);
    if (this.#given.length === 0) throw new ConfigurationError("at least one URL is needed");
    if (globalThis.WebSocket === undefined) {
      throw new ConfigurationError("there is no WebSocket here; browsers have it, and Node from version 22 on");
    }
    if (globalThis.crypto?.subtle === undefined) {
      throw new ConfigurationError("there is no WebCrypto here; browsers have it on https:// pages and on localhost");
    }
    const { auth = new Anonymous(), identity = "", client = "", onState, onSessionLost, logger = console } = options;
    if (typeof identity !== "string" || [...identity].length > IDENTITY_CHARACTERS_MAX || !identity.isWellFormed()) {
      throw new ConfigurationError(`an identity is a string of at most ${IDENTITY_CHARACTERS_MAX} characters`);
    }
    this.#urls = this.#given;
    this.#auth = auth;
    this.#identity = identity;
    this.#client = client;
    this.#limits = checkLimits(options.limits);
    this.#sendBuffer = checkSendBuffer(options.sendBuffer);
    this.#schedule = new Schedule(checkBackoff(options.backoff));
    const { connectTimeoutS = FIRST_CONNECTION_TIMEOUT_S } = options;
    if (connectTimeoutS !== null && !(connectTimeoutS > 0)) {
      throw new ConfigurationError("connectTimeoutS is a number of seconds above 0, or null to wait without end");
    }
    this.#connectTimeoutS = connectTimeoutS;
    this.#onState = onState;
    this.#onSessionLost = onSessionLost;
    this.#logger = logger;
    const handlers = handlersOf(options);
    this.line = new Line(this, { identity, handlers, onDatagram: datagramHandlersOf(options), logger });
  }

  /** Connects, and goes on for as long as the line lives. Resolves to it once it is online for the first time. */
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

  // For the line.

  now() {
    return now();
  }

  receiveChange(change) {
    if (change.state === "closed") {
      this.#stopping.abort(new ConnectFailed("the line was closed meanwhile"));
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

  // Inside.

  /** Calls a function of the user's; what it throws is logged, and upsets nobody. */
  #callBack(callback, ...values) {
    try {
      callback?.(...values);
    } catch (error) {
      this.#logger.error("landline: a callback failed", error);
    }
  }

  /** Never rejects: what ends the line is told to whoever uses it. */
  async #keepConnected() {
    try {
      await this.#run();
      this.#online.reject(new LineClosed("the line was closed before it was connected"));
    } catch (error) {
      const last = this.#lastWord(error);
      this.line.finish({ state: "closed", cause: causeOf(error), detail: error.message, code: error.code ?? null }, last);
      this.#online.reject(error);
    }
  }

  /** What ends the line: the error, or SessionLost because of it when messages went down with it. */
  #lastWord(error) {
    const lost = this.line.abandonSession(error.message);
    if (lost.length === 0) return error;
    if (this.#onSessionLost !== undefined) {
      this.#callBack(this.#onSessionLost, lost, this.line);
      return error;
    }
    return new SessionLost(error.message, lost, error.code ?? null, { cause: error });
  }

  /** Connects, waits for the loss, waits for the next try; returns when the line is closed in order. */
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
        // The address that works is the first one to be tried again.
        this.#attempts -= 1;
        loss = await this.#detached.promise;
        if (line.isClosed) return;
        const { cause, detail, ended } = loss;
        if (ended !== null) {
          if (!mayReturn(ended.code)) return this.#closeEnded(cause, ended);
          this.#loseSession(`the server ended the session: ${detail}`);
          Object.assign(loss, { code: ended.code, retryAfterS: ended.retryAfterS, spreadS: ended.spreadS });
          this.#tryFirst(ended.alternatives);
        }
      }
      await this.#wait(loss);
    }
  }

  /** What an attempt failed of, or throws what makes every further one useless. */
  #failedAttempt(error, url) {
    if (error instanceof Rejected) {
      if (!mayReturn(error.code)) throw error;
      const { retryAfterS, spreadS } = error;
      return { cause: "rejected", detail: error.message, code: error.code, failure: error, retryAfterS, spreadS };
    }
    // Whoever answers in the server's place while it restarts (a proxy, another program) is no reason to give up a line
    // that has worked.
    const isFatal = error instanceof ProtocolError && (!this.#isOnceOnline || FATAL_CODES.has(error.code));
    if (isFatal || !(error instanceof ConnectFailed || error instanceof ProtocolError)) throw error;
    return { cause: "connect failed", detail: `${url}: ${error.message}`, failure: error };
  }

  /** The server named others that can take us: they go before the URLs we were given, unless they give up encryption. */
  #tryFirst(alternatives) {
    if (alternatives.length === 0) return;
    const isEncrypted = (url) => url.startsWith("wss:");
    const named = [];
    for (const alternative of alternatives) {
      let url;
      try {
        url = webSocketUrl(alternative);
      } catch (error) {
        if (!(error instanceof ConfigurationError)) throw error;
        this.#logger.warn(`landline: the server named an alternative that cannot be used: ${error.message}`);
        continue;
      }
      if (!isEncrypted(url) && this.#given.every(isEncrypted)) {
        this.#logger.warn(`landline: the server named ${url}, which is not encrypted; not followed`);
      } else named.push(url);
    }
    this.#urls = [...named, ...this.#given.filter((url) => !named.includes(url))];
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

  /** Sleeps, or until the line is closed. */
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

  /** The promise's value within so many seconds; rejects with ConnectFailed later, and when the line is closed. */
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

  /** One attempt: throws what went wrong, or returns with the line attached. */
  async #connect(url) {
    const line = this.line;
    const { windowBytes, messageBytes } = this.#limits;
    const pendingBytesMax = HANDSHAKE_BYTES_MAX + windowBytes + 2 * (messageBytes + DATA_HEADER_BYTES);
    let link;
    try {
      link = new Link(url, pendingBytesMax);
    } catch (error) {
      throw new ConfigurationError(`${url}: ${error.message}`, { cause: error });
    }
    try {
      await this.#within(CONNECT_TIMEOUT_S, "connection", link.opened);
      if (link.subprotocol !== SUBPROTOCOL) {
        throw new ProtocolError(`the server does not speak ${SUBPROTOCOL}; is it a landline server?`);
      }
      const handshake = new ClientHandshake({
        auth: this.#auth,
        identity: this.#identity,
        limits: this.#limits,
        ticket: line.session?.ticket,
        client: this.#client,
      });
      const shaken = this.#shake(link, handshake);
      const { rest, roundTripS } = await this.#within(HANDSHAKE_TIMEOUT_S, "welcome", shaken);
      if (line.isClosed) throw new ConnectFailed("the line was closed meanwhile");
      this.#receiveWelcome(link, handshake.welcome, roundTripS);
      link.handOver(line, rest);
    } catch (error) {
      link.close();
      throw error;
    }
  }

  async #shake(link, handshake) {
    const reader = new FrameReader(HANDSHAKE_BYTES_MAX);
    let helloAt = 0;
    while (handshake.welcome === null) {
      const frame = reader.next();
      if (frame === null) {
        reader.push(await link.read());
        continue;
      }
      const output = await handshake.receiveFrame(frame);
      if (output !== null) {
        link.send(output);
        helloAt = now();
      }
    }
    return { rest: reader.takeRest(), roundTripS: now() - helloAt };
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

  /** Tells the owner what is lost with a session, by the callback if there is one, else by ending the line. */
  #loseSession(why) {
    const lost = this.line.abandonSession(why);
    if (this.#onSessionLost !== undefined) this.#callBack(this.#onSessionLost, lost, this.line);
    else if (lost.length > 0) throw new SessionLost(why, lost);
  }

  #closeEnded(cause, ended) {
    const why = ended.reason || codeText(ended.code);
    const text = ended.byPeer ? `the server closed the line: ${why}` : `the server broke the protocol: ${why}`;
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
