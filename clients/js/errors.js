/**
 * The error classes. LandlineError is the base of all.
 */

export class LandlineError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An argument is invalid; nothing was started. */
export class ConfigurationError extends LandlineError {}

/** One attempt to connect failed. The client retries if it may. */
export class ConnectFailed extends LandlineError {}

/** The server rejected the client, with a code (§8.1 of docs/protocol.md) and maybe a time to return. */
export class Rejected extends ConnectFailed {
  constructor(code, reason, { retryAfterS = null, spreadS = 0 } = {}) {
    super(`rejected by the server: ${reason || codeText(code)} (code ${code})`);
    this.code = code;
    this.reason = reason;
    this.retryAfterS = retryAfterS;
    this.spreadS = spreadS;
  }
}

/**
 * The reconnect policy allows no further attempt, or the first connection took too long. `cause` is the error of the last
 * failed attempt, if any.
 */
export class GaveUp extends LandlineError {
  constructor(attempts, last, connectTimeoutS = null) {
    const late = connectTimeoutS === null ? "" : ` within connectTimeoutS = ${connectTimeoutS} s`;
    const reason = last?.message ?? "no response yet";
    super(`gave up after ${attempts} attempt${attempts === 1 ? "" : "s"}${late}: ${reason}`, { cause: last });
    this.attempts = attempts;
  }
}

/** The peer violated the protocol. `code` is the one of the BYE. */
export class ProtocolError extends LandlineError {
  constructor(message, code = 201) {
    super(message);
    this.code = code;
  }
}

/** The line is closed, or not connected. `code` is the one of the BYE, if there was one. */
export class LineClosed extends LandlineError {
  constructor(message, code = null, options) {
    super(message, options);
    this.code = code;
  }
}

/** The line ended, and the peer has not acknowledged the messages in `unconfirmed`: it may have handled them. */
export class SessionLost extends LineClosed {
  constructor(message, unconfirmed, code = null, options) {
    super(`${message}; ${unconfirmed.length} messages are unconfirmed`, code, options);
    this.unconfirmed = unconfirmed;
  }
}

/** The message or its name exceeds the limits of the peer. The line stays open. */
export class MessageTooLarge extends LandlineError {}

/** The send buffer is full; nothing was sent. */
export class BufferFull extends LandlineError {}

/**
 * A request failed. Throw one in a handler to respond with a `code` and a message. Any other error in a handler reaches the
 * peer as `failed` without details, as does the error of a request that the handler itself has sent.
 */
export class RequestError extends LandlineError {
  /** Whether it is the result of a request of this side. */
  isOutcome = false;

  constructor(code, message, options) {
    super(message, options);
    this.code = code;
  }
}

/** Mark an error as the result of a request of this side, and return it. */
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

/** No response in time; the request was cancelled. The peer may have handled it. */
export class RequestTimeout extends RequestError {
  constructor(name, timeoutS) {
    super("timeout", `no response to ${JSON.stringify(name)} within ${timeoutS} s`);
  }
}

/** The session ended before the response arrived. The peer may have handled the request. */
export class RequestLost extends RequestError {
  constructor(name, why) {
    super("lost", `no response to ${JSON.stringify(name)}: ${why}`);
  }
}

/** A value that MessagePack cannot encode, or bytes that are not valid MessagePack. */
export class MessagePackError extends LandlineError {}

/** Codes of REJECT, BYE and NOTICE. After a code below 200 a client may return, from 200 on it must not (§8.1). */
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

/** Return the code, or for an unknown one the general code of its range, so that later versions may add codes. */
export function codeFromWire(number) {
  if (NAMES.has(number)) return number;
  return number < 200 ? Code.GOING_AWAY : Code.NORMAL;
}

/** Return the name of a code. */
export function codeText(code) {
  return NAMES.get(code) ?? String(code);
}

/** Whether a client may try again after this code. */
export function mayReturn(code) {
  return code < 200;
}
