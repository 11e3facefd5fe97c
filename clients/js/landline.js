/**
 * landline: connections that survive their sockets. The client for browsers and Node, over WebSocket.
 *
 *     import { connect } from "./landline.js";
 *
 *     const line = await connect("wss://example.org/line", { on: { "add": (numbers) => sum(numbers) } });
 *     await line.send({ temperature: 21.5 });
 *     const answer = await line.request("where", { name: "ada" }, { timeoutS: 5 });
 *     for await (const message of line) console.log(message);
 *
 * The types in landline.d.ts say what everything takes, gives and throws; docs/protocol.md specifies the bytes.
 */

import { Connector } from "./connector.js";

export {
  BufferFull,
  Code,
  ConfigurationError,
  ConnectFailed,
  GaveUp,
  LandlineError,
  LineClosed,
  MessagePackError,
  MessageTooLarge,
  NoHandler,
  ProtocolError,
  Rejected,
  RequestError,
  RequestLost,
  RequestTimeout,
  SessionLost,
  mayReturn,
} from "./errors.js";
export { Anonymous, SharedToken } from "./handshake.js";
export { Line } from "./line.js";
export { Extension, Float } from "./messagepack.js";

/**
 * Opens a line and resolves to it once it is connected for the first time; from then on it connects itself again
 * whenever its socket breaks, until it is closed. With several URLs, the next one is tried after each failure.
 *
 * Rejects with ConfigurationError, Rejected (for good), GaveUp, ProtocolError when it is no landline server, and with
 * the reason of `signal` when that is aborted before.
 */
export async function connect(urls, options = {}) {
  return new Connector(urls, options).start(options.signal);
}
