/** When to ping, when to suspect, when to give up (docs/protocol.md §6), for the side that does not dictate the timing. */

/** The part of the timeout after which a silent peer is called suspect. */
const SUSPECT_SHARE = 0.4;
/** This side pings after so many intervals: on a healthy link the server's pings suffice. */
const IDLE_FACTOR = 1.1;
/** A wake-up this much too late means that this side was busy, throttled, stopped or suspended. */
const LAG_TOLERANCE_S = 0.5;
/** A deadline that has passed is looked at once more after this: what has come meanwhile is read first. */
const READ_FIRST_S = 0.02;
export const PINGS_PER_INTERVAL_WARN = 20;
export const PINGS_PER_INTERVAL_MAX = 40;

export class Liveness {
  #intervalS;
  #timeoutS;
  #pingNumber = 0;
  #awaitsPong = false;
  #pingedAt = 0;
  #excusedUntil = 0;
  #excusedFor = null;
  #readFor = null;
  #floodFrom = 0;
  #floodCount = 0;

  constructor({ intervalS, timeoutS }) {
    this.#intervalS = intervalS;
    this.#timeoutS = timeoutS;
    this.roundTripS = null;
    this.heardAt = 0;
    this.saidAt = 0;
    this.isSuspect = false;
  }

  /** A new transport carries the session; `roundTripS` is what its handshake took. */
  start(now, roundTripS = null) {
    this.roundTripS = roundTripS;
    this.heardAt = now;
    this.saidAt = now;
    this.isSuspect = false;
    this.#pingedAt = now;
    this.#awaitsPong = false;
    this.#excusedUntil = 0;
    this.#excusedFor = null;
    this.#readFor = null;
    this.#floodFrom = now;
    this.#floodCount = 0;
  }

  /** When handleTimeout wants to be called, at the latest. */
  nextTimeout() {
    return Math.min(this.#pingDue(), this.isSuspect ? this.#deadDue() : this.#suspectDue());
  }

  /**
   * What is to be done now: "ping", "suspect", "dead" or null; call again until it is null.
   *
   * A deadline noticed much too late is not held against the peer, whose bytes may be waiting unread: it gets a ping and
   * the full timeout once more for the same silence (§6.3). Even one noticed in time is looked at a second time.
   */
  handleTimeout(now) {
    const deadDue = this.#deadDue();
    if (now >= deadDue) {
      if (now - deadDue > LAG_TOLERANCE_S && this.#excusedFor !== this.heardAt) {
        this.#excusedFor = this.heardAt;
        this.#excusedUntil = now + this.#timeoutS;
        return "ping";
      }
      if (this.#readFor === this.heardAt) return "dead";
      this.#readFor = this.heardAt;
      this.#excusedUntil = now + READ_FIRST_S;
    }
    if (!this.isSuspect && now >= this.#suspectDue()) {
      this.isSuspect = true;
      return "suspect";
    }
    return now >= this.#pingDue() ? "ping" : null;
  }

  /** Counts a ping sent now and returns its number. */
  nextPing(now) {
    this.#pingNumber += 1;
    this.#awaitsPong = true;
    this.#pingedAt = now;
    this.saidAt = now;
    return this.#pingNumber;
  }

  /** The round trip in seconds, or null when this does not answer the last ping. */
  receivePong(number, now) {
    if (number !== this.#pingNumber || !this.#awaitsPong) return null;
    this.#awaitsPong = false;
    this.roundTripS = now - this.#pingedAt;
    return this.roundTripS;
  }

  /** Counts a ping of the peer (§6.4): "fine", "warn" or "too many". */
  receivePing(now) {
    if (now - this.#floodFrom >= this.#intervalS) {
      this.#floodFrom = now;
      this.#floodCount = 0;
    }
    this.#floodCount += 1;
    if (this.#floodCount > PINGS_PER_INTERVAL_MAX) return "too many";
    return this.#floodCount === PINGS_PER_INTERVAL_WARN ? "warn" : "fine";
  }

  #pingDue() {
    return Math.max(Math.min(this.heardAt, this.saidAt), this.#pingedAt) + IDLE_FACTOR * this.#intervalS;
  }

  #suspectDue() {
    return Math.max(this.heardAt + this.#intervalS + SUSPECT_SHARE * this.#timeoutS, this.#excusedUntil);
  }

  #deadDue() {
    return Math.max(this.heardAt + this.#intervalS + this.#timeoutS, this.#excusedUntil);
  }
}
