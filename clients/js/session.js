/**
 * The client's side of a session: every message once and in order, over any number of transports.
 *
 * No I/O and no clock: bytes and times (seconds of a monotonic clock) are arguments, bytes and events are results.
 * docs/protocol.md §5 (data), §6 (heartbeat), §7 (resume), §8 (the end).
 */

import { BufferFull, Code, LineClosed, MessageTooLarge, ProtocolError, codeFromWire } from "./errors.js";
import {
  DATA_HEADER_BYTES,
  FLAGS_KNOWN,
  FRAGMENT_BYTES,
  FRAME_BYTES_MAX,
  Flag,
  FrameReader,
  Kind,
  NAME_BYTES_MAX,
  OPERATION_MAX,
  Operation,
  REASON_CHARS_MAX,
  decodeBye,
  decodeDatagram,
  decodeData,
  decodeName,
  decodeNotice,
  decodeNumber,
  decodePing,
  encodeAck,
  encodeDatagram,
  encodeBody,
  encodeEof,
  encodePing,
} from "./frames.js";
import { Liveness } from "./heartbeat.js";
import { Reassembly, checkMessageSize } from "./reassembly.js";
import { ReplayBuffer } from "./replay.js";
import { SendQueue } from "./send_queue.js";

/** An acknowledgement is delayed by at most this long, */
export const ACK_DELAY_S = 0.1;
/** or until there are this many frames to acknowledge, */
const ACK_FRAMES = 64;
/** or this part (one eighth) of the own window. */
const ACK_WINDOW_SHARE = 8;
/** About how much is written to the transport at once, so that control frames never wait for more than that. */
export const WRITE_BYTES = 64 * 1024;
/** Control frames written to a full transport. Without a limit, a peer that never reads would fill it. */
const PAUSED_CONTROL_FRAMES_MAX = 8;
/** Datagrams that wait to be written. */
const DATAGRAMS_MAX = 64;
const LANES = 2;

/** The transition table (§9). */
const TRANSITIONS = {
  detached: { attach: "attached", end: "closed" },
  attached: { attach: "attached", silence: "suspect", deadline: "detached", "link lost": "detached", end: "closed" },
  suspect: { attach: "attached", "bytes received": "attached", deadline: "detached", "link lost": "detached", end: "closed" },
  closed: {},
};

export class Session {
  #peerLimits;
  #sendBuffer;
  #windowBytes;
  #windowFrames;
  #liveness;
  #events = [];

  #replay = new ReplayBuffer();
  #queue = new SendQueue();
  // Fragmented messages by the number of their last fragment, to report them if they stay unconfirmed.
  #fragmented = new Map();
  #control = [];
  #datagrams = [];
  #canWrite = false;
  #pausedFrames = 0;
  #eofWanted = false;
  #eofSent = false;

  #reader = new FrameReader(FRAME_BYTES_MAX);
  #received = 0;
  #acked = 0;
  #ackedOutOfOrder = new Set();
  #ackedToPeer = 0;
  #ackDue = null;
  #unackedBytes = 0;
  #unsentAckBytes = 0;
  // By lane: the flag BULK, or 0.
  #reassemblies = new Map();
  #eofReceived = false;

  /**
   * `limits` are those of this side, `peerLimits` those of the server, `heartbeat` is `{intervalS, timeoutS}`, and
   * `sendBuffer` `{sizeBytes, messages}` limits the unacknowledged messages.
   */
  constructor({ sessionId, secret, limits, peerLimits, heartbeat, sendBuffer }) {
    this.sessionId = sessionId;
    this.secret = secret;
    this.limits = limits;
    this.state = "detached";
    this.epoch = 0;
    this.duplicatesDropped = 0;
    this.datagramsDropped = 0;
    this.#peerLimits = peerLimits;
    this.#sendBuffer = sendBuffer;
    this.#windowBytes = Math.min(peerLimits.windowBytes, sendBuffer.sizeBytes);
    this.#windowFrames = Math.min(peerLimits.windowFrames, sendBuffer.messages);
    this.#liveness = new Liveness(heartbeat);
  }

  // Properties

  get isAttached() {
    return this.state === "attached" || this.state === "suspect";
  }

  get roundTripS() {
    return this.#liveness.roundTripS;
  }

  /** What the handshake needs to resume this session. */
  get ticket() {
    return { session: this.sessionId, secret: this.secret, epoch: this.epoch, received: this.#received };
  }

  get bufferedBytes() {
    return this.#replay.sizeBytes + this.#queue.sizeBytes;
  }

  get bufferedMessages() {
    return this.#replay.count + this.#queue.count;
  }

  /** Whether the peer has acknowledged everything that was sent. */
  get isDrained() {
    return this.bufferedMessages === 0 && !this.#eofWanted;
  }

  /** Whether a message of that size (name and body) can be sent now. An empty buffer accepts any size. */
  hasSpace(sizeBytes) {
    const { messages, sizeBytes: bytesMax } = this.#sendBuffer;
    const count = this.bufferedMessages;
    return count === 0 || (count < messages && this.bufferedBytes + sizeBytes <= bytesMax);
  }

  /** Whether a response can still be sent: not after EOF, and not after the end (§5.4). */
  get canRespond() {
    return this.state !== "closed" && !this.#eofWanted && !this.#eofSent;
  }

  /** Return the unacknowledged messages (not requests or responses) as `{name, body, isPacked}`. */
  unconfirmed() {
    const found = [];
    const add = ({ operation, flags, name, body }) => {
      if (operation === Operation.MESSAGE) {
        found.push({ name: decodeName(name), body, isPacked: (flags & Flag.PACKED) !== 0 });
      }
    };
    for (const frame of this.#replay) {
      if (frame[4] !== Kind.DATA) continue;
      const { sequence, flags, operation, name, payload } = decodeData(frame.subarray(5));
      const whole = this.#fragmented.get(sequence);
      if (whole !== undefined) add(whole);
      else if (operation !== Operation.CONTINUE && !(flags & Flag.MORE)) add({ operation, flags, name, body: payload });
    }
    for (const message of this.#queue) add(message);
    return found;
  }

  // Transports

  /** Attach to a transport after its handshake. Throws ProtocolError, and changes nothing, if `peerReceived` is impossible. */
  attach(now, { epoch, peerReceived, roundTripS = null }) {
    if (!(epoch > this.epoch)) throw new ProtocolError(`epoch ${epoch} after epoch ${this.epoch}`);
    this.#replay.rewind(Number(peerReceived));
    this.#enter("attach");
    this.epoch = epoch;
    // Discard the incomplete frame and the control frames of the old transport, which are never written again (§7.2).
    this.#reader.popTrailingData();
    this.#control = [];
    this.#pausedFrames = 0;
    this.#canWrite = true;
    // The last acknowledgement may be lost with the old transport, so send it again (§5.3).
    this.#ackedToPeer = 0;
    this.#liveness.start(now, roundTripS);
  }

  /** Handle the end of the transport without a BYE. */
  receiveLinkLost() {
    if (this.isAttached) this.#detach("link lost");
  }

  /** Note that the transport is full: until resumeWriting(), only a few control frames are written. */
  pauseWriting() {
    this.#canWrite = false;
  }

  resumeWriting() {
    this.#canWrite = this.isAttached;
    this.#pausedFrames = 0;
  }

  // Sending

  /**
   * Queue a message. `name` and `body` are bytes that must not change afterwards.
   * Throws MessageTooLarge, BufferFull or LineClosed; then nothing was queued.
   */
  send(operation, name, body, { correlation = 0, isPacked = false, isBulk = false } = {}) {
    if (this.state === "closed") throw new LineClosed("the line is closed");
    if (this.#eofWanted || this.#eofSent) throw new LineClosed("nothing can be sent after sendEof()");
    this.checkSizes(name.length, body.length);
    if (!this.hasSpace(name.length + body.length)) {
      throw new BufferFull(
        `${this.bufferedMessages} messages and ${this.bufferedBytes} bytes are already waiting for the peer`,
      );
    }
    const flags = (isPacked ? Flag.PACKED : 0) | (isBulk ? Flag.BULK : 0);
    this.#queue.push({ operation, flags, correlation, name, body, offset: 0 });
  }

  /** Throw MessageTooLarge for a message that exceeds the limits of the peer. */
  checkSizes(nameBytes, bodyBytes) {
    const { messageBytes } = this.#peerLimits;
    if (nameBytes > NAME_BYTES_MAX) {
      throw new MessageTooLarge(`a name of ${nameBytes} bytes; at most ${NAME_BYTES_MAX} are allowed`);
    }
    if (nameBytes + bodyBytes > messageBytes) {
      throw new MessageTooLarge(
        `a message of ${nameBytes + bodyBytes} bytes; the peer takes ${messageBytes} (send it in parts)`,
      );
    }
  }

  /** Queue EOF after all pending data. Idempotent. */
  sendEof() {
    if (this.state === "closed") throw new LineClosed("the line is closed");
    if (!this.#eofSent) this.#eofWanted = true;
  }

  /** Send a datagram with the next write. Return whether it is queued. */
  sendDatagram(flags, name, body) {
    // At most once, never kept for another transport, and dropped first (§5.7).
    if (!this.isAttached || !this.#canWrite || this.#datagrams.length >= DATAGRAMS_MAX) {
      this.datagramsDropped++;
      return false;
    }
    this.#datagrams.push(encodeDatagram(flags, name, body));
    return true;
  }

  /** Send a ping at once and return its number, which the "pong" event will have. */
  sendPing(now) {
    if (!this.isAttached) throw new LineClosed("the line is not connected");
    const number = this.#liveness.nextPing(now);
    this.#control.push(encodePing(Kind.PING, number, BigInt(Math.floor(now * 1e6)), this.#acked));
    this.#noteAckSent();
    return number;
  }

  /** End the session with a BYE at once. Unconfirmed messages stay unconfirmed. */
  close(code, reason = "") {
    if (this.state === "closed") return;
    if (this.isAttached) {
      // Without it the peer would report acknowledged messages as unconfirmed.
      if (this.#acked > this.#ackedToPeer) this.#control.push(encodeAck(this.#acked));
      this.#control.push(encodeBody(Kind.BYE, { code, reason: [...reason].slice(0, REASON_CHARS_MAX).join("") }));
    }
    this.#end();
  }

  /** End the session without a BYE: it has no transport, or is lost. */
  abort() {
    if (this.state !== "closed") this.#end();
  }

  /**
   * Return the bytes to write now, control frames first, or null. Call it until it returns null, or the transport is
   * full; then call pauseWriting().
   */
  dataToSend(now) {
    if (this.state === "detached") return null;
    const frames = [];
    let size = 0;
    if (this.state !== "closed") {
      if (this.#acked > this.#ackedToPeer) this.#scheduleAck(now);
      if (!this.#canWrite) {
        this.#pausedFrames += this.#control.length;
        if (this.#pausedFrames > PAUSED_CONTROL_FRAMES_MAX) {
          // Only the newest ones are useful; they wait with everything else.
          this.#control = this.#control.slice(-2);
          this.#ackedToPeer = 0;
          return null;
        }
      }
    }
    for (const frame of [...this.#control, ...this.#datagrams]) size += frames[frames.push(frame) - 1].length;
    this.#control = [];
    this.#datagrams = [];
    if (this.#canWrite && this.state !== "closed") {
      while (size < WRITE_BYTES) {
        const frame = this.#replay.nextUnwritten() ?? this.#numberNext();
        if (frame === null) break;
        size += frames[frames.push(frame) - 1].length;
      }
    }
    if (frames.length === 0) return null;
    this.#liveness.lastSentAt = now;
    if (frames.length === 1) return frames[0];
    const data = new Uint8Array(size);
    let at = 0;
    for (const frame of frames) {
      data.set(frame, at);
      at += frame.length;
    }
    return data;
  }

  // Receiving

  /**
   * Handle bytes of the transport of that epoch; nextEvents() returns the result. Bytes of an older one are ignored (§7.3).
   * If the peer violates the protocol, it gets a BYE and the session ends with an "ended" event.
   */
  receiveData(data, now, epoch) {
    if (epoch !== this.epoch || !this.isAttached) return;
    this.#liveness.lastReceivedAt = now;
    if (this.state === "suspect") {
      this.#enter("bytes received");
      this.#liveness.isSuspect = false;
      this.#events.push({ type: "recovered" });
    }
    try {
      this.#reader.feed(data);
      let frame;
      while (this.isAttached && (frame = this.#reader.next()) !== null) this.#receiveFrame(frame, now);
      if (this.isAttached) this.#checkWindow();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.fail(error.code, error.message);
    }
  }

  /** End the session because the peer violated the protocol. */
  fail(code, reason) {
    this.close(code, reason);
    this.#events.push({ type: "ended", code, reason, byPeer: false, retryAfterS: null, spreadS: 0, alternatives: [] });
  }

  /** Return the events since the last call, in order: objects with a `type`. */
  nextEvents() {
    const events = this.#events;
    if (events.length > 0) this.#events = [];
    return events;
  }

  /** Acknowledge a message: the peer may discard it, and send more. */
  ack(message) {
    this.#unackedBytes -= message.sizeBytes;
    this.#unsentAckBytes += message.sizeBytes;
    this.#markAcked(message.sequence);
  }

  // Timers

  /** Return the latest time for the next call of handleTimeout(), or null. */
  nextTimeout() {
    if (!this.isAttached) return null;
    const due = this.#liveness.nextTimeout();
    return this.#ackDue === null ? due : Math.min(due, this.#ackDue);
  }

  /** Do what is due: ping, suspect the peer, or detach. Acknowledgements are sent by dataToSend(). */
  handleTimeout(now) {
    while (this.isAttached) {
      const verdict = this.#liveness.handleTimeout(now);
      const silenceS = now - this.#liveness.lastReceivedAt;
      if (verdict === null) return;
      if (verdict === "ping") this.sendPing(now);
      else if (verdict === "suspect") {
        this.#enter("silence");
        this.#events.push({ type: "suspected", silenceS });
      } else {
        this.#detach("deadline");
        this.#events.push({ type: "silent", silenceS });
      }
    }
  }

  // Internals

  #enter(trigger) {
    const next = TRANSITIONS[this.state][trigger];
    if (next === undefined) throw new Error(`${trigger} while ${this.state}`);
    this.state = next;
  }

  #detach(trigger) {
    this.#enter(trigger);
    this.#canWrite = false;
    this.datagramsDropped += this.#datagrams.length;
    this.#datagrams = [];
    this.#ackDue = null;
  }

  #end() {
    this.#enter("end");
    this.#ackDue = null;
  }

  /** Number the next waiting frame and return it, or null if the window has no space. */
  #numberNext() {
    const replay = this.#replay;
    if (replay.count >= this.#windowFrames) return null;
    if (this.#queue.count > 0) {
      if (replay.sizeBytes + FRAME_BYTES_MAX > this.#windowBytes) return null;
      const sequence = replay.lastSequence + 1;
      const { frame, message, isLast } = this.#queue.nextFrame(sequence);
      replay.push(frame);
      if (isLast && message.body.length > FRAGMENT_BYTES) this.#fragmented.set(sequence, message);
    } else if (this.#eofWanted) {
      this.#eofWanted = false;
      this.#eofSent = true;
      replay.push(encodeEof(replay.lastSequence + 1));
    }
    return replay.nextUnwritten();
  }

  #scheduleAck(now) {
    if (!this.#canWrite) {
      // A full transport gets acknowledgements only with its heartbeats, but one at once when it accepts data again:
      // it may soon be full again, and a peer in drain() would wait too long.
      this.#ackDue = null;
      this.#unsentAckBytes = this.limits.windowBytes;
    } else if (
      this.#acked - this.#ackedToPeer >= ACK_FRAMES ||
      this.#unsentAckBytes * ACK_WINDOW_SHARE >= this.limits.windowBytes ||
      (this.#ackDue !== null && now >= this.#ackDue)
    ) {
      this.#control.push(encodeAck(this.#acked));
      this.#noteAckSent();
    } else this.#ackDue ??= now + ACK_DELAY_S;
  }

  #noteAckSent() {
    this.#ackedToPeer = this.#acked;
    this.#unsentAckBytes = 0;
    this.#ackDue = null;
  }

  #markAcked(sequence) {
    if (sequence !== this.#acked + 1) {
      this.#ackedOutOfOrder.add(sequence);
      return;
    }
    this.#acked = sequence;
    while (this.#ackedOutOfOrder.delete(this.#acked + 1)) this.#acked += 1;
  }

  /** Throw ProtocolError if the peer exceeds the window (§3.2 explains the margin). */
  #checkWindow() {
    const { windowBytes, windowFrames, messageBytes } = this.limits;
    const frames = this.#received - this.#acked;
    if (frames > windowFrames) {
      const why = `${frames} frames not acknowledged; at most ${windowFrames} are allowed`;
      throw new ProtocolError(why, Code.LIMIT_EXCEEDED);
    }
    const bytesMax = windowBytes + LANES * (messageBytes + DATA_HEADER_BYTES);
    if (this.#unackedBytes > bytesMax) {
      const why = `messages of ${this.#unackedBytes} bytes not acknowledged; at most ${bytesMax} are allowed`;
      throw new ProtocolError(why, Code.LIMIT_EXCEEDED);
    }
  }

  /** Whether a frame was received before. Throws ProtocolError if one is missing before it (§5.2). */
  #isRepetition(sequence) {
    if (sequence === this.#received + 1) return false;
    if (sequence > this.#received) throw new ProtocolError(`frame ${sequence} after frame ${this.#received}`);
    this.duplicatesDropped += 1;
    return true;
  }

  #receiveFrame({ kind, body, bytes }, now) {
    switch (kind) {
      case Kind.DATA:
        return this.#receiveMessage(decodeData(body), bytes);
      case Kind.ACK:
        return this.#receiveAck(decodeNumber(body));
      case Kind.PING:
        return this.#receivePing(decodePing(body), now);
      case Kind.PONG: {
        const { number, acked } = decodePing(body);
        this.#receiveAck(acked);
        const roundTripS = this.#liveness.receivePong(number, now);
        if (roundTripS !== null) this.#events.push({ type: "pong", number, roundTripS });
        return;
      }
      case Kind.DATAGRAM:
        this.#events.push({ type: "datagram", ...decodeDatagram(body) });
        return;
      case Kind.EOF:
        return this.#receiveEof(decodeNumber(body));
      case Kind.BYE:
        return this.#receiveBye(decodeBye(body));
      case Kind.NOTICE: {
        const { code, reason } = decodeNotice(body);
        this.#events.push({ type: "notice", code: codeFromWire(code), reason });
        return;
      }
      default:
        throw new ProtocolError(`a frame of kind ${kind}, which is unknown or not allowed in a session`);
    }
  }

  #receiveMessage({ sequence, flags, operation, correlation, nameFits, name, payload }, frameBytes) {
    // Of a repeated frame only the number is checked (§5.2).
    if (this.#isRepetition(sequence)) return;
    if (!nameFits) {
      throw new ProtocolError(`a DATA frame of ${frameBytes} bytes with a name that exceeds it`);
    }
    if (this.#eofReceived) throw new ProtocolError("data after EOF");
    if (flags & ~FLAGS_KNOWN || operation > OPERATION_MAX) {
      throw new ProtocolError(`unknown flags ${flags} or operation ${operation} in a DATA frame`);
    }
    this.#received = sequence;
    const text = decodeName(name);
    const lane = flags & Flag.BULK;
    let reassembly = this.#reassemblies.get(lane);
    if (operation === Operation.CONTINUE) {
      if (reassembly === undefined) throw new ProtocolError("a continuation without a first fragment");
    } else {
      if (reassembly !== undefined) {
        throw new ProtocolError("a new message before the end of the last one on its lane");
      }
      checkMessageSize(name.length + payload.length, this.limits.messageBytes);
      if (!(flags & Flag.MORE)) {
        // A copy: a view would keep the whole buffer alive and expose it to the application.
        const body = payload.slice();
        return this.#deliver(sequence, { operation, flags, correlation, name: text, body }, frameBytes);
      }
      reassembly = new Reassembly({ operation, flags, correlation, name: { text, bytes: name.length } });
      this.#reassemblies.set(lane, reassembly);
    }
    reassembly.add(payload, this.limits.messageBytes);
    if (flags & Flag.MORE) {
      // Fragments have a limit of their own: the window counts whole messages.
      this.#markAcked(sequence);
      this.#unsentAckBytes += payload.length;
    } else {
      this.#reassemblies.delete(lane);
      const body = reassembly.body;
      this.#deliver(sequence, { ...reassembly, body }, DATA_HEADER_BYTES + reassembly.nameBytes + body.length);
    }
  }

  #deliver(sequence, { operation, flags, correlation, name, body }, sizeBytes) {
    const isPacked = (flags & Flag.PACKED) !== 0;
    this.#unackedBytes += sizeBytes;
    this.#events.push({ type: "message", sequence, operation, correlation, name, body, isPacked, sizeBytes });
  }

  #receiveAck(acked) {
    const before = this.#replay.acknowledged;
    this.#replay.receiveAck(acked);
    if (this.#replay.acknowledged > before && this.#fragmented.size > 0) {
      for (const last of this.#fragmented.keys()) if (last <= acked) this.#fragmented.delete(last);
    }
  }

  #receivePing({ number, timeUs, acked }, now) {
    this.#receiveAck(acked);
    const tolerance = this.#liveness.receivePing(now);
    if (tolerance === "too many") {
      throw new ProtocolError("far more pings than the heartbeat interval allows", Code.TOO_MANY_PINGS);
    }
    if (tolerance === "warn") {
      const reason = "too many pings: the server sets the interval";
      this.#control.push(encodeBody(Kind.NOTICE, { code: Code.TOO_MANY_PINGS, reason }));
    }
    this.#control.push(encodePing(Kind.PONG, number, timeUs, this.#acked));
    this.#noteAckSent();
  }

  #receiveEof(sequence) {
    if (this.#isRepetition(sequence)) return;
    if (this.#eofReceived) throw new ProtocolError("a second EOF");
    if (this.#reassemblies.size > 0) throw new ProtocolError("EOF in the middle of a message");
    this.#received = sequence;
    this.#markAcked(sequence);
    this.#eofReceived = true;
    this.#events.push({ type: "eof" });
  }

  #receiveBye(bye) {
    const code = codeFromWire(bye.code);
    if (code === Code.LINK_REPLACED) {
      this.#detach("link lost");
      return;
    }
    this.#end();
    this.#events.push({
      type: "ended",
      code,
      reason: bye.reason,
      byPeer: true,
      retryAfterS: bye.retry_after_s,
      spreadS: bye.spread_s,
      alternatives: bye.alternatives,
    });
  }
}
