/**
 * The client's side of a session: every message once and in order, whatever happens to the transports under it.
 *
 * No I/O and no clock: bytes and times (seconds, of any steady clock) come in as arguments, bytes and events go out.
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
  REASON_CHARACTERS_MAX,
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
import { Assembly, ReplayBuffer, SendLanes, checkMessageSize } from "./lanes.js";
import { Liveness } from "./liveness.js";

/** An acknowledgement waits this long for more to acknowledge, */
export const ACK_DELAY_S = 0.1;
/** but not for more frames than this, */
const ACK_FRAMES = 64;
/** nor for more than this part of the own window. */
const ACK_WINDOW_SHARE = 8;
/** About how much is handed to the transport at once, so that control frames need not wait behind more. */
export const WRITE_BYTES = 64 * 1024;
/** Control frames written to a transport that is full; more would let a peer that never reads fill it. */
const PAUSED_CONTROL_FRAMES_MAX = 8;
/** Datagrams that wait to be written in a turn. */
const DATAGRAMS_MAX = 64;
const LANES = 2;

/** What may happen in which state (§9). A pair that is not here cannot happen. */
const TRANSITIONS = {
  detached: { attach: "attached", end: "closed" },
  attached: { attach: "attached", silence: "suspect", deadline: "detached", "link lost": "detached", end: "closed" },
  suspect: { attach: "attached", heard: "attached", deadline: "detached", "link lost": "detached", end: "closed" },
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
  #lanes = new SendLanes();
  // Messages in fragments, by the number of the last one: kept whole to be reported, should they stay unconfirmed.
  #fragmented = new Map();
  #control = [];
  #datagrams = [];
  #canWrite = false;
  #pausedFrames = 0;
  #eofWanted = false;
  #eofSent = false;

  #reader = new FrameReader(FRAME_BYTES_MAX);
  #received = 0;
  #taken = 0;
  #takenEarly = new Set();
  #told = 0;
  #ackDue = null;
  #untakenBytes = 0;
  #untoldBytes = 0;
  // By lane: the flag BULK, or 0.
  #assemblies = new Map();
  #eofReceived = false;

  /**
   * `limits` are what this side stated, `peerLimits` what the server did, `heartbeat` is `{intervalS, timeoutS}`, and
   * `sendBuffer` `{sizeBytes, messages}` bounds what is kept for the peer.
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

  // What the owner asks.

  get isAttached() {
    return this.state === "attached" || this.state === "suspect";
  }

  get roundTripS() {
    return this.#liveness.roundTripS;
  }

  /** What the handshake needs to go on with this session. */
  get ticket() {
    return { session: this.sessionId, secret: this.secret, epoch: this.epoch, received: this.#received };
  }

  get bufferedBytes() {
    return this.#replay.sizeBytes + this.#lanes.sizeBytes;
  }

  get bufferedMessages() {
    return this.#replay.count + this.#lanes.count;
  }

  /** Whether the peer's application has taken everything that was sent. */
  get isDrained() {
    return this.bufferedMessages === 0 && !this.#eofWanted;
  }

  /** Whether a message of that size (name and body) can be sent now. An empty buffer takes any. */
  hasRoom(sizeBytes) {
    const { messages, sizeBytes: bytesMax } = this.#sendBuffer;
    const count = this.bufferedMessages;
    return count === 0 || (count < messages && this.bufferedBytes + sizeBytes <= bytesMax);
  }

  /** Whether an answer can still be sent: not after EOF, and not after the end (§5.4). */
  get canAnswer() {
    return this.state !== "closed" && !this.#eofWanted && !this.#eofSent;
  }

  /** Messages (no requests, no answers) that the peer's application has not confirmed, `{name, body, isPacked}`. */
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
    for (const message of this.#lanes) add(message);
    return found;
  }

  // Transports come and go.

  /** A handshake finished. Throws ProtocolError, and changes nothing, when the peer cannot have received that. */
  attach(now, { epoch, peerReceived, roundTripS = null }) {
    if (!(epoch > this.epoch)) throw new ProtocolError(`epoch ${epoch} after epoch ${this.epoch}`);
    this.#replay.rewind(Number(peerReceived));
    this.#enter("attach");
    this.epoch = epoch;
    // What the old transport left behind: half a frame, and control frames, which are never written again (§7.2).
    this.#reader.takeRest();
    this.#control = [];
    this.#pausedFrames = 0;
    this.#canWrite = true;
    // The last acknowledgement may have gone down with the old transport: say it again (§5.3).
    this.#told = 0;
    this.#liveness.start(now, roundTripS);
  }

  /** The transport ended without a BYE. */
  receiveLinkLost() {
    if (this.isAttached) this.#detach("link lost");
  }

  /** The transport is full: a few control frames are given out, and nothing else, until resumeWriting. */
  pauseWriting() {
    this.#canWrite = false;
  }

  resumeWriting() {
    this.#canWrite = this.isAttached;
    this.#pausedFrames = 0;
  }

  // Sending.

  /**
   * Takes a message; `name` and `body` are bytes that nobody changes any more.
   * Throws MessageTooLarge, BufferFull or LineClosed; then nothing was taken.
   */
  send(operation, name, body, { correlation = 0, isPacked = false, isBulk = false } = {}) {
    if (this.state === "closed") throw new LineClosed("the line is closed");
    if (this.#eofWanted || this.#eofSent) throw new LineClosed("nothing can be sent after sendEof()");
    this.checkSizes(name.length, body.length);
    if (!this.hasRoom(name.length + body.length)) {
      throw new BufferFull(
        `${this.bufferedMessages} messages and ${this.bufferedBytes} bytes wait for the peer already`,
      );
    }
    const flags = (isPacked ? Flag.PACKED : 0) | (isBulk ? Flag.BULK : 0);
    this.#lanes.push({ operation, flags, correlation, name, body, offset: 0 });
  }

  /** Throws MessageTooLarge for a message that the peer never takes. */
  checkSizes(nameBytes, bodyBytes) {
    const { messageBytes } = this.#peerLimits;
    if (nameBytes > NAME_BYTES_MAX) {
      throw new MessageTooLarge(`a name of ${nameBytes} bytes; ${NAME_BYTES_MAX} are allowed`);
    }
    if (nameBytes + bodyBytes > messageBytes) {
      throw new MessageTooLarge(
        `a message of ${nameBytes + bodyBytes} bytes; the peer takes ${messageBytes} (send it in parts)`,
      );
    }
  }

  /** Says, behind everything sent so far, that no more will come. Saying it twice is saying it once. */
  sendEof() {
    if (this.state === "closed") throw new LineClosed("the line is closed");
    if (!this.#eofSent) this.#eofWanted = true;
  }

  /** Pings at once and returns the ping's number; a "pong" event will bear it. */
  sendDatagram(flags, name, body) {
    // At most once, never kept for another transport, and the first to be dropped (§5.7).
    if (!this.isAttached || !this.#canWrite || this.#datagrams.length >= DATAGRAMS_MAX) {
      this.datagramsDropped++;
      return false;
    }
    this.#datagrams.push(encodeDatagram(flags, name, body));
    return true;
  }

  sendPing(now) {
    if (!this.isAttached) throw new LineClosed("the line is not connected just now");
    const number = this.#liveness.nextPing(now);
    this.#control.push(encodePing(Kind.PING, number, BigInt(Math.floor(now * 1e6)), this.#taken));
    this.#countTold();
    return number;
  }

  /** Ends the session with a BYE, at once; what is unconfirmed stays so. */
  close(code, reason = "") {
    if (this.state === "closed") return;
    if (this.isAttached) {
      // Without it the peer would report messages as unconfirmed that were taken.
      if (this.#taken > this.#told) this.#control.push(encodeAck(this.#taken));
      this.#control.push(encodeBody(Kind.BYE, { code, reason: [...reason].slice(0, REASON_CHARACTERS_MAX).join("") }));
    }
    this.#end();
  }

  /** Ends the session without a BYE: no transport carries it, or it is lost already. */
  abandon() {
    if (this.state !== "closed") this.#end();
  }

  /**
   * The bytes to write now, control frames first, or null. Call it again until it is null, or the transport is full:
   * tell that with pauseWriting.
   */
  dataToSend(now) {
    if (this.state === "detached") return null;
    const frames = [];
    let size = 0;
    if (this.state !== "closed") {
      if (this.#taken > this.#told) this.#scheduleAck(now);
      if (!this.#canWrite) {
        this.#pausedFrames += this.#control.length;
        if (this.#pausedFrames > PAUSED_CONTROL_FRAMES_MAX) {
          // Only the newest answers are worth keeping; they wait with everything else.
          this.#control = this.#control.slice(-2);
          this.#told = 0;
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
    this.#liveness.saidAt = now;
    if (frames.length === 1) return frames[0];
    const data = new Uint8Array(size);
    let at = 0;
    for (const frame of frames) {
      data.set(frame, at);
      at += frame.length;
    }
    return data;
  }

  // Receiving.

  /**
   * Takes bytes of the transport of that epoch; fetch events with nextEvents. Bytes of an older one are dropped (§7.3).
   * A peer that breaks the protocol gets a BYE, and the session ends with an "ended" event.
   */
  receiveData(data, now, epoch) {
    if (epoch !== this.epoch || !this.isAttached) return;
    this.#liveness.heardAt = now;
    if (this.state === "suspect") {
      this.#enter("heard");
      this.#liveness.isSuspect = false;
      this.#events.push({ type: "recovered" });
    }
    try {
      this.#reader.push(data);
      let frame;
      while (this.isAttached && (frame = this.#reader.next()) !== null) this.#receiveFrame(frame, now);
      if (this.isAttached) this.#checkWindow();
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.fail(error.code, error.message);
    }
  }

  /** Ends the session because the peer broke the protocol. */
  fail(code, reason) {
    this.close(code, reason);
    this.#events.push({ type: "ended", code, reason, byPeer: false, retryAfterS: null, spreadS: 0, alternatives: [] });
  }

  /** What happened since the last call, in order: objects that tell by their `type`. */
  nextEvents() {
    const events = this.#events;
    if (events.length > 0) this.#events = [];
    return events;
  }

  /** The application has the message: the peer may forget it, and send more in its place. */
  take(message) {
    this.#untakenBytes -= message.sizeBytes;
    this.#untoldBytes += message.sizeBytes;
    this.#markTaken(message.sequence);
  }

  // Time.

  /** When to call handleTimeout, at the latest; null while nothing is due. */
  nextTimeout() {
    if (!this.isAttached) return null;
    const due = this.#liveness.nextTimeout();
    return this.#ackDue === null ? due : Math.min(due, this.#ackDue);
  }

  /** Pings, suspects or gives up, whatever is due; acknowledgements come with dataToSend. */
  handleTimeout(now) {
    while (this.isAttached) {
      const verdict = this.#liveness.handleTimeout(now);
      const silenceS = now - this.#liveness.heardAt;
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

  // Inside.

  #enter(input) {
    const next = TRANSITIONS[this.state][input];
    if (next === undefined) throw new Error(`${input} while ${this.state}`);
    this.state = next;
  }

  #detach(input) {
    this.#enter(input);
    this.#canWrite = false;
    this.datagramsDropped += this.#datagrams.length;
    this.#datagrams = [];
    this.#ackDue = null;
  }

  #end() {
    this.#enter("end");
    this.#ackDue = null;
  }

  /** Numbers what waits first, if the window has room for it, and returns its frame; else null. */
  #numberNext() {
    const replay = this.#replay;
    if (replay.count >= this.#windowFrames) return null;
    if (this.#lanes.count > 0) {
      if (replay.sizeBytes + FRAME_BYTES_MAX > this.#windowBytes) return null;
      const sequence = replay.lastSequence + 1;
      const { frame, message, isLast } = this.#lanes.nextFrame(sequence);
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
      // A transport that is full gets acknowledgements with its heartbeats only, but one at once when it takes data
      // again: it may be full soon after, again and again, and a peer that drains would wait in vain.
      this.#ackDue = null;
      this.#untoldBytes = this.limits.windowBytes;
    } else if (
      this.#taken - this.#told >= ACK_FRAMES ||
      this.#untoldBytes * ACK_WINDOW_SHARE >= this.limits.windowBytes ||
      (this.#ackDue !== null && now >= this.#ackDue)
    ) {
      this.#control.push(encodeAck(this.#taken));
      this.#countTold();
    } else this.#ackDue ??= now + ACK_DELAY_S;
  }

  #countTold() {
    this.#told = this.#taken;
    this.#untoldBytes = 0;
    this.#ackDue = null;
  }

  #markTaken(sequence) {
    if (sequence !== this.#taken + 1) {
      this.#takenEarly.add(sequence);
      return;
    }
    this.#taken = sequence;
    while (this.#takenEarly.delete(this.#taken + 1)) this.#taken += 1;
  }

  /** A peer that keeps to our window cannot get here (§3.2 explains the margin). */
  #checkWindow() {
    const { windowBytes, windowFrames, messageBytes } = this.limits;
    const frames = this.#received - this.#taken;
    if (frames > windowFrames) {
      const why = `${frames} frames received and not taken; ${windowFrames} are allowed`;
      throw new ProtocolError(why, Code.LIMIT_EXCEEDED);
    }
    const bytesMax = windowBytes + LANES * (messageBytes + DATA_HEADER_BYTES);
    if (this.#untakenBytes > bytesMax) {
      const why = `messages of ${this.#untakenBytes} bytes received and not taken; ${bytesMax} are allowed`;
      throw new ProtocolError(why, Code.LIMIT_EXCEEDED);
    }
  }

  /** Whether a frame is one we have, to be dropped; one too high means that one is missing (§5.2). */
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
        return this.#receiveTaken(decodeNumber(body));
      case Kind.PING:
        return this.#receivePing(decodePing(body), now);
      case Kind.PONG: {
        const { number, taken } = decodePing(body);
        this.#receiveTaken(taken);
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
        throw new ProtocolError(`a frame of unknown kind ${kind} or of a kind that has no place in a session`);
    }
  }

  #receiveMessage({ sequence, flags, operation, correlation, nameFits, name, payload }, frameBytes) {
    // Of a frame it has, only the number is looked at (§5.2).
    if (this.#isRepetition(sequence)) return;
    if (!nameFits) {
      throw new ProtocolError(`a DATA frame of ${frameBytes} bytes with a name that does not fit into it`);
    }
    if (this.#eofReceived) throw new ProtocolError("data after EOF");
    if (flags & ~FLAGS_KNOWN || operation > OPERATION_MAX) {
      throw new ProtocolError(`unknown flags ${flags} or operation ${operation} in a DATA frame`);
    }
    this.#received = sequence;
    const text = decodeName(name);
    const lane = flags & Flag.BULK;
    let assembly = this.#assemblies.get(lane);
    if (operation === Operation.CONTINUE) {
      if (assembly === undefined) throw new ProtocolError("a fragment that continues nothing");
    } else {
      if (assembly !== undefined) {
        throw new ProtocolError("a message begun before the last one on its lane was whole");
      }
      checkMessageSize(name.length + payload.length, this.limits.messageBytes);
      if (!(flags & Flag.MORE)) {
        // A copy: a view would keep the whole read alive, and show it to the application.
        const body = payload.slice();
        return this.#deliver(sequence, { operation, flags, correlation, name: text, body }, frameBytes);
      }
      assembly = new Assembly({ operation, flags, correlation, name: { text, bytes: name.length } });
      this.#assemblies.set(lane, assembly);
    }
    assembly.add(payload, this.limits.messageBytes);
    if (flags & Flag.MORE) {
      // Held by the assembly, whose size has a limit of its own: the window is for whole messages.
      this.#markTaken(sequence);
      this.#untoldBytes += payload.length;
    } else {
      this.#assemblies.delete(lane);
      const body = assembly.body;
      this.#deliver(sequence, { ...assembly, body }, DATA_HEADER_BYTES + assembly.nameBytes + body.length);
    }
  }

  #deliver(sequence, { operation, flags, correlation, name, body }, sizeBytes) {
    const isPacked = (flags & Flag.PACKED) !== 0;
    this.#untakenBytes += sizeBytes;
    this.#events.push({ type: "message", sequence, operation, correlation, name, body, isPacked, sizeBytes });
  }

  #receiveTaken(taken) {
    const before = this.#replay.acknowledged;
    this.#replay.receiveTaken(taken);
    if (this.#replay.acknowledged > before && this.#fragmented.size > 0) {
      for (const last of this.#fragmented.keys()) if (last <= taken) this.#fragmented.delete(last);
    }
  }

  #receivePing({ number, timeUs, taken }, now) {
    this.#receiveTaken(taken);
    const tolerance = this.#liveness.receivePing(now);
    if (tolerance === "too many") {
      throw new ProtocolError("far more pings than the heartbeat asks for", Code.TOO_MANY_PINGS);
    }
    if (tolerance === "warn") {
      const reason = "fewer pings, please: the server sets the interval";
      this.#control.push(encodeBody(Kind.NOTICE, { code: Code.TOO_MANY_PINGS, reason }));
    }
    this.#control.push(encodePing(Kind.PONG, number, timeUs, this.#taken));
    this.#countTold();
  }

  #receiveEof(sequence) {
    if (this.#isRepetition(sequence)) return;
    if (this.#eofReceived) throw new ProtocolError("a second EOF");
    if (this.#assemblies.size > 0) throw new ProtocolError("EOF in the middle of a message");
    this.#received = sequence;
    this.#markTaken(sequence);
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
