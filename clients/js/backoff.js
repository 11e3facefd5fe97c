/** When to connect again: full jitter from the first attempt on, unless the server named a time. Pure: time and randomness are arguments. */

import { ConfigurationError } from "./errors.js";

const DEFAULTS = { firstS: 0.5, capS: 30, attempts: null, stableAfterS: 10 };

/** Return a complete reconnect policy. Throws ConfigurationError for an unknown name or a value out of range. */
export function checkBackoff(wanted = {}) {
  const unknown = Object.keys(wanted).find((name) => !Object.hasOwn(DEFAULTS, name));
  if (unknown !== undefined) {
    throw new ConfigurationError(`backoff.${unknown}: there are ${Object.keys(DEFAULTS).join(", ")}`);
  }
  const backoff = { ...DEFAULTS, ...wanted };
  const { firstS, capS, attempts, stableAfterS } = backoff;
  if (!(firstS > 0 && firstS <= capS && capS <= 86_400)) {
    throw new ConfigurationError(`backoff {firstS: ${firstS}, capS: ${capS}}: 0 < firstS <= capS <= 86400 is required`);
  }
  if (attempts !== null && !(Number.isInteger(attempts) && attempts >= 1)) {
    throw new ConfigurationError(`backoff.attempts is ${attempts}; it must be at least 1, or null for no limit`);
  }
  if (!(stableAfterS >= 0)) throw new ConfigurationError(`backoff.stableAfterS is ${stableAfterS}; it must not be negative`);
  return backoff;
}

/** How many times in a row a server may ask a client to return at once. After that, the delay is firstS at least. */
const IMMEDIATE_RETRIES_MAX = 8;

/** The progress of one client through a policy. */
export class Schedule {
  #backoff;
  #connectedAt = null;
  #delays = 0;

  constructor(backoff) {
    this.#backoff = backoff;
    /** Attempts in a row without a stable link. */
    this.failures = 0;
  }

  /** Record that an attempt succeeded. */
  receiveConnected(now) {
    this.#connectedAt = now;
  }

  /**
   * Return the seconds to wait after a failed attempt or a lost link, null when the policy gives up. They are drawn
   * from U(0, min(capS, firstS * 2^n)) unless the server named a time. `random` is a number in [0, 1).
   */
  nextDelay(now, random, { retryAfterS = null, spreadS = 0 } = {}) {
    const { firstS, capS, attempts, stableAfterS } = this.#backoff;
    const isLoss = this.#connectedAt !== null;
    if (isLoss && now - this.#connectedAt >= stableAfterS) {
      this.failures = 0;
      this.#delays = 0;
    } else this.failures += 1;
    this.#connectedAt = null;
    // The loss of an unstable link counts, but leaves one more attempt: it was no failed attempt.
    if (attempts !== null && this.failures >= attempts + (isLoss ? 1 : 0)) return null;
    const ceiling = Math.min(capS, firstS * 2 ** Math.min(this.#delays, 64));
    this.#delays += 1;
    if (retryAfterS === null) return random * ceiling;
    // A server that says "at once" again and again does not make its clients retry without a delay.
    return Math.max(this.failures > IMMEDIATE_RETRIES_MAX ? firstS : 0, retryAfterS + random * spreadS);
  }
}
