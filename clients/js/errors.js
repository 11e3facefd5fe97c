/**
 * Everything that can go wrong, as classes: catch the one you can do something about, or LandlineError for all.
 */

export class LandlineError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An argument is wrong; nothing was started. */
export class ConfigurationError extends LandlineError {}

/** One attempt to connect failed. A client that may try again does. */
export class ConnectFailed extends LandlineError {}

/** The server said no, with a code (§8.1 of docs/protocol.md) and when to come back, if it said so. */
export class Rejected extends ConnectFailed {
  constructor(code, reason, { retryAfterS = null, spreadS = 0 } = {}) {
    super(`the server said no: ${reason || codeText(code)} (code ${code})`);
    this.code = code;
    this.reason = reason;
    this.retryAfterS = retryAfterS;
    this.spreadS = spreadS;
  }
}

/**
 * The reconnect policy allows no further attempt, or the first connection did not come about in time; `cause` is what the
 * last attempt failed of, if one has failed.
 */
export class GaveUp extends LandlineError {
  constructor(attempts, last, connectTimeoutS = null) {
    const late = connectTimeoutS === null ? "" : `, for the connectTimeoutS of ${connectTimeoutS} s is over`;
    const reason = last?.message ?? "nobody has answered yet";
    super(`gave up after ${attempts} attempt${attempts === 1 ? "" : "s"}${late}: ${reason}`, { cause: last });
    this.attempts = attempts;
  }
}

/** The peer broke the protocol. `code` is what it is told. */
export class ProtocolError extends LandlineError {
  constructor(message, code = 201) {
    super(message);
    this.code = code;
  }
}

/** The line is over, or not there just now. `code` is that of the goodbye, if there was one. */
export class LineClosed extends LandlineError {
  constructor(message, code = null, options) {
    super(message, options);
    this.code = code;
  }
}

/** The line ended, and it is unknown whether the peer's application took the messages in `unconfirmed`. */
export class SessionLost extends LineClosed {
  constructor(message, unconfirmed, code = null, options) {
    super(`${message}; ${unconfirmed.length} messages are unconfirmed`, code, options);
    this.unconfirmed = unconfirmed;
  }
}

/** The peer does not take messages, or names, of that size; the line goes on. */
export class MessageTooLarge extends LandlineError {}

/** The send buffer has no room; nothing was sent. */
export class BufferFull extends LandlineError {}

/**
 * A request failed. Throw one in a handler to answer with a `code` of your own and a sentence; anything else that is
 * thrown there reaches the peer as `failed` without its details. So does what a request of the handler's own ended with.
 */
export class RequestError extends LandlineError {
  /** Whether a request of this side ended with it. */
  isOutcome = false;

  constructor(code, message, options) {
    super(message, options);
    this.code = code;
  }
}

/** Marks what a request of this side ended with, and returns it. */
export function outcome(error) {
  error.isOutcome = true;
  return error;
}

/** The peer has no handler of that name. */
export class NoHandler extends RequestError {
  constructor(name) {
    super("no_handler", `the peer has no handler for ${JSON.stringify(name)}`);
  }
}

/** No answer in time; the peer was told to stop. Whether it acted is unknown. */
export class RequestTimeout extends RequestError {
  constructor(name, timeoutS) {
    super("timeout", `no answer to ${JSON.stringify(name)} within ${timeoutS} s`);
  }
}

/** The session ended before the answer came. Whether the peer acted is unknown. */
export class RequestLost extends RequestError {
  constructor(name, why) {
    super("lost", `no answer to ${JSON.stringify(name)}: ${why}`);
  }
}

/** A value that MessagePack has no form for, or bytes that are no MessagePack. */
export class MessagePackError extends LandlineError {}

/** Codes of REJECT, BYE and NOTICE. Below 200: come back. From 200 on: do not, nothing would change (§8.1). */
export const Code = Object.freeze({
  GOING_AWAY: 100,
  OVERLOADED: 101,
  HANDSHAKE_TIMEOUT: 103,
  TOO_SLOW: 104,
  LINK_REPLACED: 105,
  NORMAL: 200,
  PROTOCOL_ERROR: 201,
  UNSUPPORTED_VERSION: 202,
  UNAUTHENTICATED: 203,
  FORBIDDEN: 204,
  REPLACED: 205,
  TOO_MANY_PINGS: 206,
  LIMIT_EXCEEDED: 207,
});

const NAMES = new Map(Object.entries(Code).map(([name, code]) => [code, name]));

/** The code with that number; an unknown one stands for its range, so that later versions may add codes. */
export function codeFromWire(number) {
  if (NAMES.has(number)) return number;
  return number < 200 ? Code.GOING_AWAY : Code.NORMAL;
}

/** The name of a code. */
export function codeText(code) {
  return NAMES.get(code) ?? String(code);
}

/** Whether a client that was told this code may try again. */
export function mayReturn(code) {
  return code < 200;
}
