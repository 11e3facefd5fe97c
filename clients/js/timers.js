/** Timers that may be switched off. */

/** A longer timer would overflow and fire at once. */
const TIMER_S_MAX = 2_147_483;

/** Call `expire` after that many seconds, or never for null. Return the argument for clearTimeout. */
export function startTimer(seconds, expire) {
  return seconds === null || seconds > TIMER_S_MAX ? undefined : setTimeout(expire, 1000 * seconds);
}
