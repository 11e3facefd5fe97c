import type { Extension, Float } from "./messagepack.js";
export { Extension, Float } from "./messagepack.js";

/**
 * What a message can hold: anything MessagePack has a form for. Bytes at the top travel as they are.
 *
 * Whole numbers travel as integers, and integers beyond 2^53 arrive as bigint; `Float` is a float even of a whole number.
 * Maps whose keys are not all strings are Maps. Dates are exact to the millisecond.
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

/** What ended a link or a line, in a word. */
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

/** A line changed its state: the new one, and why. */
export interface StateChange {
  readonly state: LineState;
  readonly cause: Cause;
  /** The cause in a sentence for people. What the peer says of itself is part of it: escape it. */
  readonly detail: string;
  /** The code of the BYE or REJECT, if there was one. */
  readonly code: number | null;
  /** When reconnecting: the attempt that comes next, counted from 1. */
  readonly attempt: number;
  /** When reconnecting: seconds until that attempt. */
  readonly dueInS: number | null;
  /** When online: whether the session went on (true) or is a new one (false). */
  readonly resumed: boolean | null;
  /** When online: how many transports the session has ridden. */
  readonly epoch: number;
}

/** A message of unknown fate: the peer's application took it, or not. */
export interface Unconfirmed {
  readonly name: string;
  readonly value: any;
}

export interface HandlerContext {
  readonly line: Line;
  readonly name: string;
  /** Of a request: aborted when the peer no longer wants the answer, or the session ended. */
  readonly signal?: AbortSignal;
}

/** What it returns, or resolves to, is the answer to a request; for a message it is dropped. */
export type Handler = (value: any, context: HandlerContext) => unknown;

/** Called at once; what it returns is dropped. */
export type DatagramHandler = (value: any, context: { line: Line; name: string }) => void;

export interface Backoff {
  /** Seconds; the n-th delay is drawn from U(0, min(capS, firstS * 2^n)). Default 0.5. */
  firstS?: number;
  /** Seconds; default 30. */
  capS?: number;
  /** How many attempts in a row may fail; null, the default, for no end. */
  attempts?: number | null;
  /** Seconds a link must last before the delays begin again at firstS; default 10. */
  stableAfterS?: number;
}

export interface Options {
  /** Proves who this is; default: an Anonymous. */
  auth?: ClientAuth;
  /** Who this says it is, at most 200 characters. */
  identity?: string;
  /** What this program calls itself, for people; at most 100 characters. */
  client?: string;
  /** Seconds to wait for the first connection, over all attempts; default 60, null for no end. */
  connectTimeoutS?: number | null;
  backoff?: Backoff;
  /** What the peer may make this side hold (§3.2 of docs/protocol.md). */
  limits?: { messageBytes?: number; windowBytes?: number; windowFrames?: number };
  /** What is kept for the peer before senders wait; default 16 MiB and 32768 messages. */
  sendBuffer?: { sizeBytes?: number; messages?: number };
  /** Handlers by name: for requests (64 at once) and messages (one after the other). */
  on?: { [name: string]: Handler } | Map<string, Handler>;
  /** Takes messages without a name; without it, they wait for `for await`. */
  onMessage?: Handler;
  /** Takes datagrams, at once: those without a name, or by name. Without it they are dropped. */
  onDatagram?: DatagramHandler | { [name: string]: DatagramHandler } | Map<string, DatagramHandler>;
  onState?: (change: StateChange, line: Line) => void;
  /** With it the line goes on with a new session when one is lost; without it, it ends if messages went down with it. */
  onSessionLost?: (unconfirmed: Unconfirmed[], line: Line) => void;
  /** Gives up connecting for the first time. */
  signal?: AbortSignal;
  /** Default: console. */
  logger?: Pick<Console, "warn" | "error">;
}

/**
 * Opens a line and resolves to it once it is connected for the first time; afterwards it connects itself again whenever
 * its socket breaks, until it is closed. With several URLs (ws, wss, or relative to the page) the next one is tried after
 * each failure.
 *
 * Rejects with ConfigurationError, Rejected (for good), GaveUp (of the policy or the time), ProtocolError (no landline server), or the signal's reason.
 */
export function connect(urls: string | URL | readonly (string | URL)[], options?: Options): Promise<Line>;

/** A connection that outlives its sockets. */
export class Line implements AsyncIterable<any>, AsyncDisposable {
  private constructor();
  readonly state: LineState;
  /** The last change of state. */
  readonly cause: StateChange | null;
  readonly isClosed: boolean;
  /** Once closed: what readers and senders get, or null after an orderly end. */
  readonly error: Error | null;
  readonly identity: string;
  /** Datagrams of this session that were not written. */
  readonly datagramsDropped: number;
  /** How many transports the session has ridden. */
  readonly epoch: number;
  readonly sessionId: Uint8Array | null;
  /** Bytes waiting to be sent or acknowledged. */
  readonly bufferedBytes: number;
  /** Frames that arrived a second time. */
  readonly duplicatesDropped: number;
  /** The last measured round trip in seconds. */
  readonly roundTripS: number | null;

  /**
   * Sends a message; it arrives once and in order while the session lives. Waits while the send buffer is full, or a lost
   * session has no successor yet (after a server's goodbye, until the line is connected again); resolves once it is in the
   * buffer. `signal: AbortSignal.timeout(5000)` bounds the wait. `bulk`: later messages may overtake it.
   * Rejects with MessageTooLarge, MessagePackError, LineClosed or what ended the line; once `signal` is aborted, with its
   * reason, and nothing was sent.
   */
  send(value: Value, options?: { name?: string; bulk?: boolean; signal?: AbortSignal }): Promise<void>;
  /** As send, but throws BufferFull where that would wait. */
  sendNow(value: Value, options?: { name?: string; bulk?: boolean }): void;
  /**
   * Sends a datagram: at most once, never kept for another transport, the first to be dropped. Returns whether it was
   * written. Throws MessageTooLarge above 1,200 bytes, and LineClosed.
   */
  sendDatagram(value: Value, options?: { name?: string }): boolean;
  /**
   * Asks the peer's handler `name`. `timeoutS` (default 30, null for none) covers everything, reconnecting included; when
   * it is over, or `signal` is aborted, the peer is told to cancel its handler.
   * Rejects with RequestTimeout, RequestLost, NoHandler, RequestError for the handler's own error, and as send does.
   */
  request(name: string, value?: Value, options?: { timeoutS?: number | null; signal?: AbortSignal }): Promise<any>;
  /** Says that no more will be sent; the peer can go on sending. */
  sendEof(options?: { signal?: AbortSignal }): Promise<void>;
  /** Measures a round trip, in seconds. Rejects with LineClosed. */
  ping(options?: { timeoutS?: number | null }): Promise<number>;
  /** Resolves to whether the peer's application has taken everything, after `timeoutS` (default 5) at most. */
  drain(timeoutS?: number | null): Promise<boolean>;
  /** Drops the transport as if the network had; the session goes on over the next one. */
  breakLink(detail?: string): void;
  /** Drains, says goodbye. Rejects with SessionLost when messages stayed unconfirmed; the line is closed all the same. */
  close(options?: { code?: number; reason?: string; timeoutS?: number | null }): Promise<void>;
  /** Says goodbye at once, and returns what stayed unconfirmed. */
  end(code?: number, reason?: string): Unconfirmed[];
  /** Messages without a name, until the peer ends. Throws what ended the line. Leaving the loop leaves the line open. */
  [Symbol.asyncIterator](): AsyncIterator<any>;
  [Symbol.asyncDispose](): Promise<void>;
}

export interface HandshakeFacts {
  serverNonce: Uint8Array;
  clientNonce: Uint8Array;
  identity: string;
}

/** Proves this client to the server, and checks the server's proof in turn (§4.5 of docs/protocol.md). */
export interface ClientAuth {
  claim(facts: HandshakeFacts): Promise<{ method: string; identity: string; proof: Uint8Array }>;
  acceptsServer(proof: Uint8Array | null, facts: HandshakeFacts): Promise<boolean>;
}

/** No authentication. */
export class Anonymous implements ClientAuth {
  claim(facts: HandshakeFacts): Promise<{ method: string; identity: string; proof: Uint8Array }>;
  acceptsServer(): Promise<boolean>;
}

/** One secret of 16 bytes or more that both sides know and neither sends. A token in a public page is public. */
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
/** Whether a client that was told this code may try again. */
export function mayReturn(code: number): boolean;

export class LandlineError extends Error {}
/** An argument is wrong; nothing was started. */
export class ConfigurationError extends LandlineError {}
/** One attempt to connect failed. */
export class ConnectFailed extends LandlineError {}
/** The server said no. */
export class Rejected extends ConnectFailed {
  readonly code: number;
  readonly reason: string;
  readonly retryAfterS: number | null;
  readonly spreadS: number;
}
/** The reconnect policy allows no further attempt; `cause` is what the last one failed of. */
export class GaveUp extends LandlineError {
  readonly attempts: number;
}
/** The peer broke the protocol. */
export class ProtocolError extends LandlineError {
  readonly code: number;
}
/** The line is over, or not there just now. */
export class LineClosed extends LandlineError {
  readonly code: number | null;
}
/** The line ended with messages of unknown fate. */
export class SessionLost extends LineClosed {
  readonly unconfirmed: Unconfirmed[];
}
/** The peer does not take messages, or names, of that size. */
export class MessageTooLarge extends LandlineError {}
/** The send buffer has no room; nothing was sent. */
export class BufferFull extends LandlineError {}
/** A value MessagePack has no form for, or bytes that are no MessagePack. */
export class MessagePackError extends LandlineError {}
/**
 * A request failed. Throw one in a handler to answer with a code of your own. What a request of the handler's own ended
 * with reaches the peer as `failed`.
 */
export class RequestError extends LandlineError {
  constructor(code: string, message: string);
  readonly code: string;
  /** Whether a request of this side ended with it. */
  readonly isOutcome: boolean;
}
/** The peer has no handler of that name. */
export class NoHandler extends RequestError {
  constructor(name: string);
}
/** No answer in time. Whether the peer acted is unknown. */
export class RequestTimeout extends RequestError {
  constructor(name: string, timeoutS: number);
}
/** The session ended before the answer came. Whether the peer acted is unknown. */
export class RequestLost extends RequestError {
  constructor(name: string, why: string);
}
