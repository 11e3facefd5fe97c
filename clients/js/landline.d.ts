import type { Extension, Float } from "./messagepack.js";
export { Extension, Float } from "./messagepack.js";

/**
 * A value of a message: anything that MessagePack can encode. Bytes at the top level are sent unchanged.
 *
 * Whole numbers are sent as integers, and integers beyond 2^53 arrive as bigint; `Float` is sent as a float even if it is
 * whole. Maps with keys that are not strings are Maps. Dates are exact to the millisecond.
 */
export type Value =
  | null
  | undefined
  | boolean
  | number
  | bigint
  | string
  | ArrayBuffer
  | ArrayBufferView
  | Date
  | Float
  | Extension
  | readonly Value[]
  | ReadonlyMap<Value, Value>
  | { readonly [key: string]: Value };

export type LineState = "connecting" | "online" | "suspect" | "reconnecting" | "closed";

/** Why a link or a line ended. */
export type Cause =
  | ""
  | "silent"
  | "link lost"
  | "closed by peer"
  | "closed here"
  | "protocol error"
  | "expired"
  | "connect failed"
  | "rejected"
  | "gave up";

/** A change of the state of a line. */
export interface StateChange {
  readonly state: LineState;
  readonly cause: Cause;
  /** The cause as a sentence. It may contain text of the peer: escape it. */
  readonly detail: string;
  /** The code of the BYE or REJECT, if there was one. */
  readonly code: number | null;
  /** When reconnecting: the number of the next attempt, counted from 1. */
  readonly attempt: number;
  /** When reconnecting: seconds until that attempt. */
  readonly dueInS: number | null;
  /** When online: whether the session was resumed (true) or is new (false). */
  readonly resumed: boolean | null;
  /** When online: the number of the transport within the session, counted from 1. */
  readonly epoch: number;
}

/** A message that the peer has not acknowledged: it may have handled it. */
export interface Unconfirmed {
  readonly name: string;
  readonly value: any;
}

export interface HandlerContext {
  readonly line: Line;
  readonly name: string;
  /** For a request: aborted when the peer cancels it or the session ends. */
  readonly signal?: AbortSignal;
}

/** The result is the response to a request; for a message it is ignored. */
export type Handler = (value: any, context: HandlerContext) => unknown;

/** Called at once; the result is ignored. */
export type DatagramHandler = (value: any, context: { line: Line; name: string }) => void;

export interface Backoff {
  /** Seconds; the n-th delay is drawn from U(0, min(capS, firstS * 2^n)). Default 0.5. */
  firstS?: number;
  /** Seconds; default 30. */
  capS?: number;
  /** How many attempts in a row may fail; default null, no limit. */
  attempts?: number | null;
  /** Seconds after which a link is stable and the delays start at firstS again; default 10. */
  stableAfterS?: number;
}

export interface Options {
  /** Authentication; default Anonymous. */
  auth?: ClientAuth;
  /** The identity of this client, at most 200 characters. */
  identity?: string;
  /** The name of this program, for people; at most 100 characters. */
  client?: string;
  /** Seconds to wait for the first connection, over all attempts; default 60, null for no limit. */
  connectTimeoutS?: number | null;
  backoff?: Backoff;
  /** Limits on what the peer may send (§3.2 of docs/protocol.md). */
  limits?: { messageBytes?: number; windowBytes?: number; windowFrames?: number };
  /** Limits of the send buffer, after which senders wait; default 16 MiB and 32768 messages. */
  sendBuffer?: { sizeBytes?: number; messages?: number };
  /** Handlers by name: for requests (64 concurrently) and messages (one at a time). */
  on?: { [name: string]: Handler } | Map<string, Handler>;
  /** Handler of messages without a name; without it, they wait for `for await`. */
  onMessage?: Handler;
  /** Handler of datagrams without a name, or handlers by name. Without it they are dropped. */
  onDatagram?: DatagramHandler | { [name: string]: DatagramHandler } | Map<string, DatagramHandler>;
  onState?: (change: StateChange, line: Line) => void;
  /** With it the line continues with a new session after a lost one; without it, it ends if messages are unconfirmed. */
  onSessionLost?: (unconfirmed: Unconfirmed[], line: Line) => void;
  /** Cancels connect(). */
  signal?: AbortSignal;
  /** Default: console. */
  logger?: Pick<Console, "warn" | "error">;
}

/**
 * Open a line. Resolves to it when it is connected for the first time; afterwards it reconnects whenever its connection is
 * lost, until it is closed. With several URLs (ws, wss, or relative to the page) the next one is tried after each failure.
 *
 * Rejects with ConfigurationError, Rejected (permanently), GaveUp (policy or time limit), ProtocolError (not a landline
 * server), or the reason of `signal`.
 */
export function connect(urls: string | URL | readonly (string | URL)[], options?: Options): Promise<Line>;

/** A connection that outlives its sockets. */
export class Line implements AsyncIterable<any>, AsyncDisposable {
  private constructor();
  readonly state: LineState;
  /** The last change of state. */
  readonly lastChange: StateChange | null;
  readonly isClosed: boolean;
  /** When closed: the error for readers and senders, or null after a normal end. */
  readonly error: Error | null;
  readonly identity: string;
  /** Datagrams of this session that were not written. */
  readonly datagramsDropped: number;
  /** The number of the current transport within the session, counted from 1. */
  readonly epoch: number;
  readonly sessionId: Uint8Array | null;
  /** Bytes waiting to be sent or acknowledged. */
  readonly bufferedBytes: number;
  /** Number of repeated frames. */
  readonly duplicatesDropped: number;
  /** The last measured round trip in seconds. */
  readonly roundTripS: number | null;

  /**
   * Send a message. It arrives once and in order while the session lives. Waits while the send buffer is full, or while
   * there is no session (from the BYE of a server until the line is connected again); resolves when the message is in the
   * buffer. `signal: AbortSignal.timeout(5000)` limits the wait. With `bulk`, later messages may overtake it.
   * Rejects with MessageTooLarge, MessagePackError, LineClosed or the error that ended the line; after `signal` is aborted
   * with its reason, and then nothing was sent.
   */
  send(value: Value, options?: { name?: string; bulk?: boolean; signal?: AbortSignal }): Promise<void>;
  /** As send(), but throws BufferFull instead of waiting. */
  sendNow(value: Value, options?: { name?: string; bulk?: boolean }): void;
  /**
   * Send a datagram: it arrives at most once, is never kept for another transport, and is dropped first. Returns whether it
   * was queued. Throws MessageTooLarge above 1,200 bytes, and LineClosed.
   */
  sendDatagram(value: Value, options?: { name?: string }): boolean;
  /**
   * Send a request to the peer's handler `name`. `timeoutS` (default 30, null for none) includes reconnecting. After it, or
   * when `signal` is aborted, the peer cancels its handler.
   * Rejects with RequestTimeout, RequestLost, NoHandler, RequestError for the handler's own error, and as send() does.
   */
  request(name: string, value?: Value, options?: { timeoutS?: number | null; signal?: AbortSignal }): Promise<any>;
  /** Announce that no more messages will be sent. The peer can still send. */
  sendEof(options?: { signal?: AbortSignal }): Promise<void>;
  /** Measure the round trip in seconds. Rejects with LineClosed. */
  ping(options?: { timeoutS?: number | null }): Promise<number>;
  /** Wait at most `timeoutS` (default 5) for acknowledgements. Resolves to whether everything is acknowledged. */
  drain(timeoutS?: number | null): Promise<boolean>;
  /** Drop the current transport. The session continues over the next one. */
  breakLink(detail?: string): void;
  /** Drain and close the line. Rejects with SessionLost if messages are unconfirmed; the line is closed in any case. */
  close(options?: { code?: number; reason?: string; timeoutS?: number | null }): Promise<void>;
  /** Close the line at once. Returns the unconfirmed messages. */
  abort(code?: number, reason?: string): Unconfirmed[];
  /** Iterate over messages without a name until EOF. Throws the error that ended the line. Leaving the loop keeps it open. */
  [Symbol.asyncIterator](): AsyncIterator<any>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface HandshakeFacts {
  serverNonce: Uint8Array;
  clientNonce: Uint8Array;
  identity: string;
}

/** Authenticates this client to the server, and the server to this client (§4.5 of docs/protocol.md). */
export interface ClientAuth {
  claim(facts: HandshakeFacts): Promise<{ method: string; identity: string; proof: Uint8Array }>;
  acceptsServer(proof: Uint8Array | null, facts: HandshakeFacts): Promise<boolean>;
}

/** No authentication. */
export class Anonymous implements ClientAuth {
  claim(facts: HandshakeFacts): Promise<{ method: string; identity: string; proof: Uint8Array }>;
  acceptsServer(): Promise<boolean>;
}

/** A shared secret of at least 16 bytes, which neither side sends. A token in a public page is public. */
export class SharedToken implements ClientAuth {
  constructor(token: string | Uint8Array);
  claim(facts: HandshakeFacts): Promise<{ method: string; identity: string; proof: Uint8Array }>;
  acceptsServer(proof: Uint8Array | null, facts: HandshakeFacts): Promise<boolean>;
}

/** Codes of REJECT, BYE and NOTICE (§8.1 of docs/protocol.md). */
export const Code: Readonly<
  Record<
    | "GOING_AWAY"
    | "OVERLOADED"
    | "HANDSHAKE_TIMEOUT"
    | "TOO_SLOW"
    | "LINK_REPLACED"
    | "NORMAL"
    | "PROTOCOL_ERROR"
    | "UNSUPPORTED_VERSION"
    | "UNAUTHENTICATED"
    | "FORBIDDEN"
    | "REPLACED"
    | "TOO_MANY_PINGS"
    | "LIMIT_EXCEEDED",
    number
  >
>;
/** Whether a client may try again after this code. */
export function mayReturn(code: number): boolean;

export class LandlineError extends Error {}
/** An argument is invalid; nothing was started. */
export class ConfigurationError extends LandlineError {}
/** One attempt to connect failed. */
export class ConnectFailed extends LandlineError {}
/** The server rejected the client. */
export class Rejected extends ConnectFailed {
  readonly code: number;
  readonly reason: string;
  readonly retryAfterS: number | null;
  readonly spreadS: number;
}
/** The reconnect policy allows no further attempt; `cause` is the error of the last one. */
export class GaveUp extends LandlineError {
  readonly attempts: number;
}
/** The peer violated the protocol. */
export class ProtocolError extends LandlineError {
  readonly code: number;
}
/** The line is closed, or not connected. */
export class LineClosed extends LandlineError {
  readonly code: number | null;
}
/** The line ended with unconfirmed messages. */
export class SessionLost extends LineClosed {
  readonly unconfirmed: Unconfirmed[];
}
/** The message or its name exceeds the limits of the peer. */
export class MessageTooLarge extends LandlineError {}
/** The send buffer is full; nothing was sent. */
export class BufferFull extends LandlineError {}
/** A value that MessagePack cannot encode, or bytes that are not valid MessagePack. */
export class MessagePackError extends LandlineError {}
/**
 * A request failed. Throw one in a handler to respond with a code of your own. The error of a request that the handler
 * itself has sent reaches the peer as `failed`.
 */
export class RequestError extends LandlineError {
  constructor(code: string, message: string);
  readonly code: string;
  /** Whether it is the result of a request of this side. */
  readonly isOutcome: boolean;
}
/** The peer has no handler of that name. */
export class NoHandler extends RequestError {
  constructor(name: string);
}
/** No response in time. The peer may have handled the request. */
export class RequestTimeout extends RequestError {
  constructor(name: string, timeoutS: number);
}
/** The session ended before the response arrived. The peer may have handled the request. */
export class RequestLost extends RequestError {
  constructor(name: string, why: string);
}
