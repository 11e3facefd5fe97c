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
 * landline.d.ts documents arguments, results and errors; docs/protocol.md specifies the protocol.
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
 * Open a line. Resolves to it when it is connected for the first time. From then on it reconnects whenever its connection
 * is lost, until it is closed. With several URLs, the next one is tried after each failure.
 *
 * Rejects with ConfigurationError, Rejected (permanently), GaveUp, ProtocolError if the server is not a landline server, or
 * the reason of `signal` if that is aborted.
 */
export async function connect(urls, options = {}) {
  return new Connector(urls, options).start(options.signal);
}
