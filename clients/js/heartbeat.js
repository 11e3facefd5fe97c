/** When to ping, to suspect the peer, and to detach (docs/protocol.md §6), for the side that does not set the interval. */

/** The part of the time-out after which a silent peer is suspect. */
const SUSPECT_SHARE = 0.4;
/** This side pings after this many intervals, because on a healthy link the server pings first. */
const IDLE_FACTOR = 1.1;
/** A wake-up later than this means that this side was busy, throttled, stopped or suspended. */
const LAG_TOLERANCE_S = 0.5;
/** A passed deadline is checked again after this delay, so that received bytes are read first. */
const READ_FIRST_S = 0.02;
export const PINGS_PER_INTERVAL_WARN = 20;
export const PINGS_PER_INTERVAL_MAX = 40;

export class Liveness {
  #intervalS;
  #timeoutS;
  #pingNumber = 0;
  #awaitsPong = false;
  #pingedAt = 0;
  #graceUntil = 0;
  #graceUsedFor = null;
  #rereadFor = null;
  #floodFrom = 0;
  #floodCount = 0;

  constructor({ intervalS, timeoutS }) {
    this.#intervalS = intervalS;
    this.#timeoutS = timeoutS;
    this.roundTripS = null;
    this.lastReceivedAt = 0;
    this.lastSentAt = 0;
    this.isSuspect = false;
  }

  /** Start on a new transport; `roundTripS` was measured in its handshake. */
  start(now, roundTripS = null) {
    this.roundTripS = roundTripS;
    this.lastReceivedAt = now;
    this.lastSentAt = now;
    this.isSuspect = false;
    this.#pingedAt = now;
    this.#awaitsPong = false;
    this.#graceUntil = 0;
    this.#graceUsedFor = null;
    this.#rereadFor = null;
    this.#floodFrom = now;
    this.#floodCount = 0;
  }

  /** Return the latest time for the next call of handleTimeout(). */
  nextTimeout() {
    return Math.min(this.#pingDue(), this.isSuspect ? this.#deadDue() : this.#suspectDue());
  }

  /**
   * Return what is due: "ping", "suspect", "dead" or null. Call it again until it returns null.
   *
   * If a deadline is noticed too late, bytes of the peer may be waiting unread: it gets a ping and the full time-out,
   * once per silence (§6.3). A deadline noticed in time is checked a second time.
   */
  handleTimeout(now) {
    const deadDue = this.#deadDue();
    if (now >= deadDue) {
      if (now - deadDue > LAG_TOLERANCE_S && this.#graceUsedFor !== this.lastReceivedAt) {
        this.#graceUsedFor = this.lastReceivedAt;
        this.#graceUntil = now + this.#timeoutS;
        return "ping";
      }
      if (this.#rereadFor === this.lastReceivedAt) return "dead";
      this.#rereadFor = this.lastReceivedAt;
      this.#graceUntil = now + READ_FIRST_S;
    }
    if (!this.isSuspect && now >= this.#suspectDue()) {
      this.isSuspect = true;
      return "suspect";
    }
    return now >= this.#pingDue() ? "ping" : null;
  }

  /** Count a ping that is sent now. Return its number. */
  nextPing(now) {
    this.#pingNumber += 1;
    this.#awaitsPong = true;
    this.#pingedAt = now;
    this.lastSentAt = now;
    return this.#pingNumber;
  }

  /** Handle a pong. Return the round trip in seconds, or null if it does not answer the last ping. */
  receivePong(number, now) {
    if (number !== this.#pingNumber || !this.#awaitsPong) return null;
    this.#awaitsPong = false;
    this.roundTripS = now - this.#pingedAt;
    return this.roundTripS;
  }

  /** Count a ping of the peer (§6.4). Return "fine", "warn" or "too many". */
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
    return Math.max(Math.min(this.lastReceivedAt, this.lastSentAt), this.#pingedAt) + IDLE_FACTOR * this.#intervalS;
  }

  #suspectDue() {
    return Math.max(this.lastReceivedAt + this.#intervalS + SUSPECT_SHARE * this.#timeoutS, this.#graceUntil);
  }

  #deadDue() {
    return Math.max(this.lastReceivedAt + this.#intervalS + this.#timeoutS, this.#graceUntil);
  }
}
