/** One WebSocket as a transport. */

import { Code, ConnectFailed, ProtocolError } from "./errors.js";
import { FifoQueue } from "./fifo_queue.js";
import { MESSAGE_BYTES_MAX, SUBPROTOCOL } from "./frames.js";

/** Return a hint for a WebSocket that was not opened, because browsers give no reason. Often the path is wrong. */
function hintFor(url) {
  const { pathname } = new URL(url);
  const slash = pathname.endsWith("/") ? "" : ` In a web application the path may be ${pathname}/, with the slash.`;
  return ` before it was open. Does a server run there, with the path ${pathname}?${slash}`;
}

/** A WebSocket whose messages are buffered until they are read or handed over to the line. */
export class TransportLink {
  #socket;
  #chunks = new FifoQueue();
  #chunkBytes = 0;
  #pendingBytesMax;
  #reader = null;
  #failure = null;
  #receiver = null;

  /** Throws the WebSocket's error for a URL to which the page may not connect. */
  constructor(url, pendingBytesMax) {
    const socket = (this.#socket = new WebSocket(url, [SUBPROTOCOL]));
    this.#pendingBytesMax = pendingBytesMax;
    socket.binaryType = "arraybuffer";
    let failed = "";
    let isOpen = false;
    this.opened = new Promise((resolve, reject) => {
      socket.onopen = () => {
        isOpen = true;
        resolve();
      };
      socket.onerror = (event) => (failed = event.message ?? "");
      socket.onclose = ({ code, reason }) => {
        const why = [failed, reason].filter(Boolean).join(", ");
        let text = `the connection ended (WebSocket code ${code}${why && `: ${why}`})`;
        if (!isOpen) text += hintFor(url);
        const error = new ConnectFailed(text);
        reject(error);
        this.#fail(error);
      };
    });
    // Only for callers that wait for it: not an unhandled rejection.
    this.opened.catch(() => {});
    socket.onmessage = ({ data }) => this.#receive(data);
  }

  get subprotocol() {
    return this.#socket.protocol;
  }

  get bufferedBytes() {
    return this.#socket.bufferedAmount;
  }

  send(bytes) {
    // A closing or broken socket discards its input; the session still has all frames.
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(bytes);
  }

  /** Return the next bytes. Rejects after the end of the connection. */
  async read() {
    if (this.#chunks.length === 0) {
      if (this.#failure !== null) throw this.#failure;
      await new Promise((resolve, reject) => (this.#reader = { resolve, reject }));
    }
    const chunk = this.#chunks.shift();
    this.#chunkBytes -= chunk.length;
    return chunk;
  }

  /** Pass everything to the receiver from now on: receiveData(link, bytes) and receiveLinkLost(link, why). */
  handOver(receiver, trailingData) {
    this.#receiver = receiver;
    if (trailingData.length > 0) receiver.receiveData(this, trailingData);
    while (this.#chunks.length > 0) receiver.receiveData(this, this.#chunks.shift());
    if (this.#failure !== null) receiver.receiveLinkLost(this, this.#failure.message);
  }

  /** Close after the written data. Nothing is received any more. */
  close() {
    const socket = this.#socket;
    socket.onmessage = null;
    socket.onclose = null;
    socket.onerror = null;
    socket.close();
    this.#fail(new ConnectFailed("the connection was closed by this side"));
    this.#receiver = null;
  }

  /** A browser's WebSocket cannot close with 1003 or 1009 (§2.4), so an invalid message ends the transport. */
  #receive(data) {
    if (this.#failure !== null) return;
    if (typeof data === "string") return this.#fail(new ProtocolError("a WebSocket text message"));
    const chunk = new Uint8Array(data);
    if (chunk.length > MESSAGE_BYTES_MAX) {
      const sizes = `${chunk.length} bytes; ${MESSAGE_BYTES_MAX} are allowed`;
      return this.#fail(new ProtocolError(`a WebSocket message of ${sizes}`, Code.LIMIT_EXCEEDED));
    }
    if (this.#receiver !== null) return this.#receiver.receiveData(this, chunk);
    if (this.#chunkBytes + chunk.length > this.#pendingBytesMax) {
      const why = "more bytes before WELCOME than any window allows";
      return this.#fail(new ProtocolError(why, Code.LIMIT_EXCEEDED));
    }
    this.#chunkBytes += chunk.length;
    this.#chunks.push(chunk);
    this.#reader?.resolve();
    this.#reader = null;
  }

  #fail(error) {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#reader?.reject(error);
    this.#receiver?.receiveLinkLost(this, error.message);
  }
}
