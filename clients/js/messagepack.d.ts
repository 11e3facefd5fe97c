export const DEPTH_MAX: number;
export class Float {
  constructor(value: number);
  readonly value: number;
  valueOf(): number;
}
export class Extension {
  constructor(type: number, data: Uint8Array);
  readonly type: number;
  readonly data: Uint8Array;
}
/** One value as MessagePack. Throws MessagePackError for what has no form. */
export function encode(value: unknown): Uint8Array;
/** The one value the bytes hold; with `floats`, floats come as Float. Throws MessagePackError. */
export function decode(bytes: Uint8Array, options?: { floats?: boolean }): unknown;
