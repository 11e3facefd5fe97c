/** When to try again: full jitter from the first try on, under the server's own wishes. Pure: time and dice come in. */

import { ConfigurationError } from "./errors.js";

const DEFAULTS = { firstS: 0.5, capS: 30, attempts: null, stableAfterS: 10 };

/** A reconnect policy with defaults for what is missing. Throws ConfigurationError when it makes no sense. */
export function checkBackoff(wanted = {}) {
  const unknown = Object.keys(wanted).find((name) => !Object.hasOwn(DEFAULTS, name));
  if (unknown !== undefined) {
    throw new ConfigurationError(`backoff.${unknown}: there are ${Object.keys(DEFAULTS).join(", ")}`);
  }
  const backoff = { ...DEFAULTS, ...wanted };
  const { firstS, capS, attempts, stableAfterS } = backoff;
  if (!(firstS > 0 && firstS <= capS && capS <= 86_400)) {
    throw new ConfigurationError(`backoff {firstS: ${firstS}, capS: ${capS}}: 0 < firstS <= capS <= 86400 is needed`);
  }
  if (attempts !== null && !(Number.isInteger(attempts) && attempts >= 1)) {
    throw new ConfigurationError(`backoff.attempts is ${attempts}; at least one attempt is needed, or null for no end`);
  }
  if (!(stableAfterS >= 0)) throw new ConfigurationError(`backoff.stableAfterS is ${stableAfterS}; 0 is the least`);
  return backoff;
}

/** So often in a row a server may call a client back at once; then no sooner than after the policy's first delay. */
const WISHES_AT_ONCE_MAX = 8;

/** One client's course through a policy. */
export class Schedule {
  #backoff;
  #connectedAt = null;
  #delays = 0;

  constructor(backoff) {
    this.#backoff = backoff;
    /** Attempts in a row that led to no stable link. */
    this.failures = 0;
  }

  /** An attempt led to a link. */
  receiveConnected(now) {
    this.#connectedAt = now;
  }

  /**
   * Seconds to wait after a failed attempt or a lost link, null when the policy gives up: drawn from
   * U(0, min(capS, firstS * 2^n)), unless the server named a time. `random` is a number in [0, 1).
   */
  nextDelay(now, random, { retryAfterS = null, spreadS = 0 } = {}) {
    const { firstS, capS, attempts, stableAfterS } = this.#backoff;
    const isLoss = this.#connectedAt !== null;
    if (isLoss && now - this.#connectedAt >= stableAfterS) {
      this.failures = 0;
      this.#delays = 0;
    } else this.failures += 1;
    this.#connectedAt = null;
    // The loss of a link that was not stable counts, but is no attempt that failed: one more is left.
    if (attempts !== null && this.failures >= attempts + (isLoss ? 1 : 0)) return null;
    const ceiling = Math.min(capS, firstS * 2 ** Math.min(this.#delays, 64));
    this.#delays += 1;
    if (retryAfterS === null) return random * ceiling;
    // A server that calls back at once, again and again, does not make its clients spin.
    return Math.max(this.failures > WISHES_AT_ONCE_MAX ? firstS : 0, retryAfterS + random * spreadS);
  }
}
