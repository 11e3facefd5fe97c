/**
 * The client's half of the handshake (docs/protocol.md §4, §7.1): frames in, frames out, no transport.
 *
 * Proofs need WebCrypto, which browsers provide only on https:// pages and on localhost.
 */

import { Code, ConfigurationError, ProtocolError, Rejected, codeFromWire } from "./errors.js";
import {
  DELAY_S_MAX,
  Kind,
  PROTOCOL_VERSION,
  REASON_CHARS_MAX,
  bytes,
  decodeBody,
  encodeBody,
  flag,
  integer,
  map,
  number,
  optional,
  orNil,
  required,
  text,
  writeU64,
} from "./frames.js";

export const NONCE_BYTES = 32;
export const IDENTITY_CHARS_MAX = 200;
export const TOKEN_BYTES_MIN = 16;
const PROOF_BYTES_MAX = 512;
const SEQUENCE_MAX = 2n ** 63n - 1n;
const utf8 = new TextEncoder();

/** The limits in the handshake, `[minimum, maximum, default]` (§3.2). */
export const LIMITS = Object.freeze({
  messageBytes: [1024, 268_435_456, 4_194_304],
  windowBytes: [65_536, 1_073_741_824, 8_388_608],
  windowFrames: [128, 1_000_000, 16_384],
});

const limit = ([least, most, missing]) => optional(integer(least, most), missing);
const LIMITS_MAP = map({
  message_bytes: limit(LIMITS.messageBytes),
  window_bytes: limit(LIMITS.windowBytes),
  window_frames: limit(LIMITS.windowFrames),
});
const seconds = number(0.01, 86_400);

// The version is checked before the other fields of a challenge.
const VERSION = { version: required(integer()) };
const CHALLENGE = {
  ...VERSION,
  nonce: required(bytes(NONCE_BYTES, NONCE_BYTES)),
  server: optional(text(100), ""),
};
const PROOF = { proof: optional(orNil(bytes(0, PROOF_BYTES_MAX)), null) };
const WELCOME = {
  session: required(bytes(16, 16)),
  secret: required(bytes(32, 32)),
  epoch: required(integer(0, SEQUENCE_MAX)),
  resumed: required(flag),
  received: required(integer(0, SEQUENCE_MAX)),
  heartbeat: required(map({ interval_s: optional(seconds, 10), timeout_s: optional(seconds, 5) })),
  limits: required(LIMITS_MAP),
  resume_window_s: required(number(0, 86_400)),
  ...PROOF,
};
const REJECT = {
  code: required(integer()),
  reason: required(text(REASON_CHARS_MAX)),
  retry_after_s: optional(orNil(number(0, DELAY_S_MAX)), null),
  spread_s: optional(number(0, DELAY_S_MAX), 0),
};

/** Return the limits with defaults. Throws ConfigurationError for a value out of range. */
export function checkLimits(wanted = {}) {
  const unknown = Object.keys(wanted).find((name) => !Object.hasOwn(LIMITS, name));
  if (unknown !== undefined) {
    throw new ConfigurationError(`unknown limit ${unknown}; use ${Object.keys(LIMITS).join(", ")}`);
  }
  return Object.fromEntries(
    Object.entries(LIMITS).map(([name, [least, most, missing]]) => {
      const value = wanted[name] ?? missing;
      if (!Number.isInteger(value) || value < least || value > most) {
        throw new ConfigurationError(`limits.${name} is ${value}; it must be from ${least} to ${most}`);
      }
      return [name, value];
    }),
  );
}

function concat(...parts) {
  const joined = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

async function hmac(key, message) {
  const imported = await crypto.subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, message));
}

/** Compare in constant time. */
export function proofsEqual(left, right) {
  let difference = left.length ^ right.length;
  for (let i = 0; i < left.length && i < right.length; i++) difference |= left[i] ^ right[i];
  return difference === 0;
}

/** Return the proof that this client may resume a session (§7.1). */
export function resumeProof(secret, { serverNonce, session, epoch, received }) {
  const numbers = new DataView(new ArrayBuffer(16));
  writeU64(numbers, 0, epoch);
  writeU64(numbers, 8, received);
  const title = utf8.encode("landline/1 resume\0");
  return hmac(secret, concat(title, serverNonce, session, new Uint8Array(numbers.buffer)));
}

/** No authentication: the server accepts the identity without proof, if it accepts such clients. */
export class Anonymous {
  async claim({ identity }) {
    return { method: "none", identity, proof: new Uint8Array(0) };
  }

  async acceptsServer() {
    return true;
  }
}

/**
 * A secret that server and clients share. Each side proves to the other that it knows it, without sending it (§4.5).
 *
 * A token in a public page is public.
 * Throws ConfigurationError when it is shorter than 16 bytes.
 */
export class SharedToken {
  #token;

  constructor(token) {
    this.#token = typeof token === "string" ? utf8.encode(token) : new Uint8Array(token);
    if (this.#token.length < TOKEN_BYTES_MIN) {
      throw new ConfigurationError(
        `a shared token of ${this.#token.length} bytes is too short; use at least ${TOKEN_BYTES_MIN}`,
      );
    }
  }

  async #proof(role, { serverNonce, clientNonce, identity }) {
    const title = utf8.encode("landline/1 shared token\0");
    const key = new Uint8Array(await crypto.subtle.digest("SHA-256", concat(title, this.#token)));
    return hmac(key, concat(utf8.encode(`landline/1 ${role}\0`), serverNonce, clientNonce, utf8.encode(identity)));
  }

  async claim(of) {
    return { method: "token", identity: of.identity, proof: await this.#proof("client", of) };
  }

  async acceptsServer(proof, of) {
    return proof !== null && proofsEqual(proof, await this.#proof("server", of));
  }
}

/**
 * One handshake. Call receiveFrame() with complete frames until `welcome` is set.
 *
 * `ticket` is `{session, secret, epoch, received}` of the session to resume, or null.
 */
export class ClientHandshake {
  #auth;
  #identity;
  #limits;
  #ticket;
  #client;
  #nonce;
  #challenge = null;

  constructor({ auth, identity, limits, ticket = null, client = "", nonce }) {
    this.#auth = auth;
    this.#identity = identity;
    this.#limits = limits;
    this.#ticket = ticket;
    this.#client = client;
    this.#nonce = nonce ?? crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
    /** The WELCOME of the server, or null. */
    this.welcome = null;
  }

  /**
   * Handle a frame. Return the bytes to write, or null.
   * Rejects with Rejected for a REJECT, and ProtocolError for an invalid frame.
   */
  async receiveFrame({ kind, body }) {
    if (kind === Kind.CHALLENGE && this.#challenge === null) return this.#receiveChallenge(body);
    if (kind === Kind.WELCOME && this.#challenge !== null && this.welcome === null) {
      await this.#receiveWelcome(body);
      return null;
    }
    if (kind === Kind.REJECT) {
      const reject = decodeBody("REJECT", body, REJECT);
      throw new Rejected(codeFromWire(reject.code), reject.reason, {
        retryAfterS: reject.retry_after_s,
        spreadS: reject.spread_s,
      });
    }
    throw new ProtocolError(`a frame of kind ${kind} during the handshake`);
  }

  async #receiveChallenge(body) {
    const { version } = decodeBody("CHALLENGE", body, VERSION);
    if (version !== PROTOCOL_VERSION) {
      throw new ProtocolError(
        `the server uses protocol version ${version}, this client version ${PROTOCOL_VERSION}`,
        Code.UNSUPPORTED_VERSION,
      );
    }
    const challenge = decodeBody("CHALLENGE", body, CHALLENGE);
    this.#challenge = challenge;
    const ticket = this.#ticket;
    return encodeBody(Kind.HELLO, {
      version: PROTOCOL_VERSION,
      nonce: this.#nonce,
      limits: {
        message_bytes: this.#limits.messageBytes,
        window_bytes: this.#limits.windowBytes,
        window_frames: this.#limits.windowFrames,
      },
      auth: await this.#auth.claim(this.#facts()),
      resume: ticket && {
        session: ticket.session,
        epoch: ticket.epoch,
        received: ticket.received,
        proof: await resumeProof(ticket.secret, { ...ticket, serverNonce: challenge.nonce }),
      },
      client: this.#client,
    });
  }

  async #receiveWelcome(body) {
    const { proof } = decodeBody("WELCOME", body, PROOF);
    if (!(await this.#auth.acceptsServer(proof, this.#facts()))) {
      throw new ProtocolError("the server did not prove that it knows the token", Code.UNAUTHENTICATED);
    }
    const welcome = decodeBody("WELCOME", body, WELCOME);
    const ticket = this.#ticket;
    if (welcome.resumed && !(ticket && proofsEqual(welcome.session, ticket.session) && welcome.epoch > ticket.epoch)) {
      throw new ProtocolError("the server resumed a session that was not requested");
    }
    this.welcome = welcome;
  }

  #facts() {
    return { serverNonce: this.#challenge.nonce, clientNonce: this.#nonce, identity: this.#identity };
  }
}
