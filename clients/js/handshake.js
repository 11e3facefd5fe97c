/**
 * The client's half of the handshake (docs/protocol.md §4, §7.1): frames in, frames out, no transport.
 *
 * Proofs come from WebCrypto, which browsers have on https:// pages and on those of localhost only.
 */

import { Code, ConfigurationError, ProtocolError, Rejected, codeFromWire } from "./errors.js";
import {
  DELAY_S_MAX,
  Kind,
  PROTOCOL_VERSION,
  REASON_CHARACTERS_MAX,
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
export const IDENTITY_CHARACTERS_MAX = 200;
export const TOKEN_BYTES_MIN = 16;
const PROOF_BYTES_MAX = 512;
const SEQUENCE_MAX = 2n ** 63n - 1n;
const utf8 = new TextEncoder();

/** What is stated in the handshake, `[least, most, default]` (§3.2). */
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

// The version of a challenge is looked at before the rest of it.
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
  reason: required(text(REASON_CHARACTERS_MAX)),
  retry_after_s: optional(orNil(number(0, DELAY_S_MAX)), null),
  spread_s: optional(number(0, DELAY_S_MAX), 0),
};

/** The limits with defaults for what is missing. Throws ConfigurationError for what is impossible. */
export function checkLimits(wanted = {}) {
  const unknown = Object.keys(wanted).find((name) => !Object.hasOwn(LIMITS, name));
  if (unknown !== undefined) {
    throw new ConfigurationError(`limits.${unknown}: there are ${Object.keys(LIMITS).join(", ")}`);
  }
  return Object.fromEntries(
    Object.entries(LIMITS).map(([name, [least, most, missing]]) => {
      const value = wanted[name] ?? missing;
      if (!Number.isInteger(value) || value < least || value > most) {
        throw new ConfigurationError(`limits.${name} is ${value}; ${least} to ${most} are possible`);
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

/** Compares in a time that does not depend on where they differ. */
export function proofsEqual(left, right) {
  let difference = left.length ^ right.length;
  for (let i = 0; i < left.length && i < right.length; i++) difference |= left[i] ^ right[i];
  return difference === 0;
}

/** What shows that this client may go on with a session (§7.1). */
export function resumeProof(secret, { serverNonce, session, epoch, received }) {
  const numbers = new DataView(new ArrayBuffer(16));
  writeU64(numbers, 0, epoch);
  writeU64(numbers, 8, received);
  const title = utf8.encode("landline/1 resume\0");
  return hmac(secret, concat(title, serverNonce, session, new Uint8Array(numbers.buffer)));
}

/** Nobody proves anything: the server takes the identity as it is, if it takes such clients. */
export class Anonymous {
  async claim({ identity }) {
    return { method: "none", identity, proof: new Uint8Array(0) };
  }

  async acceptsServer() {
    return true;
  }
}

/**
 * One secret that server and clients know; each proves it to the other, and neither sends it (§4.5).
 *
 * It is as secret as the page that holds it: a token in a public page is public.
 * Throws ConfigurationError when it is shorter than 16 bytes.
 */
export class SharedToken {
  #token;

  constructor(token) {
    this.#token = typeof token === "string" ? utf8.encode(token) : new Uint8Array(token);
    if (this.#token.length < TOKEN_BYTES_MIN) {
      throw new ConfigurationError(
        `a shared token of ${this.#token.length} bytes is too short to be a secret; use ${TOKEN_BYTES_MIN} or more`,
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
 * One handshake. Give it whole frames until `welcome` is set.
 *
 * `ticket` is `{session, secret, epoch, received}` of the session to go on with, or null.
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
    /** What the server answered, once it did. */
    this.welcome = null;
  }

  /**
   * Takes a frame and resolves to the bytes to write, or null.
   * Rejects with Rejected for a REJECT and ProtocolError for anything the server must not say.
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
        `the server speaks version ${version} of the protocol, this is version ${PROTOCOL_VERSION}`,
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
      throw new ProtocolError("the server resumed a session that was not asked for");
    }
    this.welcome = welcome;
  }

  #facts() {
    return { serverNonce: this.#challenge.nonce, clientNonce: this.#nonce, identity: this.#identity };
  }
}
