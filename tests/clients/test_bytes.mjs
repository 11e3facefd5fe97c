// The core of the JavaScript client against the bytes of docs/protocol.md §11, and against peers that violate the protocol.
// Run by test_js.py with `node --test`.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Schedule, checkBackoff } from "../../clients/js/backoff.js";
import { Code, ConfigurationError, MessageTooLarge, ProtocolError, Rejected } from "../../clients/js/errors.js";
import * as frames from "../../clients/js/frames.js";
import { ClientHandshake, SharedToken, proofsEqual } from "../../clients/js/handshake.js";
import { Liveness } from "../../clients/js/heartbeat.js";
import { decode, encode } from "../../clients/js/messagepack.js";
import { Session } from "../../clients/js/session.js";

const { Flag, FrameReader, Kind, Operation } = frames;
const PAGE = readFileSync(new URL("../../docs/protocol.md", import.meta.url), "utf8");
const EXAMPLE = readExample();
const LIMITS = { messageBytes: 4_194_304, windowBytes: 8_388_608, windowFrames: 16_384 };
const SEND_BUFFER = { sizeBytes: 16 * 1024 * 1024, messages: 32_768 };
const AUTH = new SharedToken("an example, not a secret");
const NONE = new Uint8Array(0);
const utf8 = new TextEncoder();

function readExample() {
  const found = {};
  let title = "";
  for (const line of PAGE.match(/^```hex\n([^]*?)^```/m)[1].split("\n")) {
    if (line.startsWith("# ")) found[(title = line.slice(2))] = [];
    else if (line !== "") found[title].push(...Buffer.from(line.split(";")[0].replaceAll(" ", ""), "hex"));
  }
  return Object.fromEntries(Object.entries(found).map(([name, bytes]) => [name, Uint8Array.from(bytes)]));
}

function range(first, count) {
  return Uint8Array.from({ length: count }, (_, index) => first + index);
}

function joined(...parts) {
  return new Uint8Array(Buffer.concat(parts));
}

function frameOf(bytes) {
  const reader = new FrameReader(frames.FRAME_BYTES_MAX);
  reader.feed(bytes);
  const frame = reader.next();
  assert.equal(reader.popTrailingData().length, 0);
  return frame;
}

function session({ limits = LIMITS, peerLimits = LIMITS, sendBuffer = SEND_BUFFER, attached = true } = {}) {
  const made = new Session({
    sessionId: range(0xa0, 16),
    secret: range(0xc0, 32),
    limits,
    peerLimits,
    heartbeat: { intervalS: 10, timeoutS: 5 },
    sendBuffer,
  });
  if (attached) made.attach(0, { epoch: 1, peerReceived: 0 });
  return made;
}

function data(sequence, payload, { flags = 0, operation = Operation.MESSAGE, correlation = 0, name = "" } = {}) {
  const body = typeof payload === "string" ? utf8.encode(payload) : payload;
  return frames.encodeData(sequence, flags, operation, correlation, utf8.encode(name), body);
}

// The worked example.

test("the example of the page has 14 frames", () => {
  assert.equal(Object.keys(EXAMPLE).length, 14);
});

test("the frames of the example are read whole, byte by byte, and with the next frame after them (§12.1)", () => {
  const every = Object.values(EXAMPLE);
  const expected = every.map((bytes) => [bytes[4], Buffer.from(bytes.subarray(5)).toString("hex")]);
  const all = joined(...every);
  for (const size of [1, 3, 7, 100, all.length]) {
    const reader = new FrameReader(frames.HANDSHAKE_BYTES_MAX);
    const found = [];
    for (let at = 0; at < all.length; at += size) {
      reader.feed(all.slice(at, at + size));
      let frame;
      while ((frame = reader.next()) !== null) found.push([frame.kind, Buffer.from(frame.body).toString("hex")]);
    }
    assert.deepEqual(found, expected);
  }
});

test("the handshake of the example is sent byte by byte", async () => {
  const first = new ClientHandshake({ auth: AUTH, identity: "lab-1", limits: LIMITS, nonce: range(0x20, 32) });
  assert.deepEqual(await first.receiveFrame(frameOf(EXAMPLE["server: CHALLENGE"])), EXAMPLE["client: HELLO"]);
  assert.equal(await first.receiveFrame(frameOf(EXAMPLE["server: WELCOME"])), null);
  const { session: id, secret, epoch, resumed, received, heartbeat, resume_window_s } = first.welcome;
  assert.deepEqual([epoch, resumed, received, resume_window_s], [1, false, 0, 120]);
  assert.deepEqual(heartbeat, { interval_s: 10, timeout_s: 5 });

  const ticket = { session: id, secret, epoch, received: 2 };
  const second = new ClientHandshake({ auth: AUTH, identity: "lab-1", limits: LIMITS, ticket, nonce: range(0x60, 32) });
  const challenge = EXAMPLE["server: CHALLENGE of the second transport"];
  assert.deepEqual(await second.receiveFrame(frameOf(challenge)), EXAMPLE["client: HELLO, which asks to resume"]);
  await second.receiveFrame(frameOf(EXAMPLE["server: WELCOME, resumed"]));
  assert.equal(second.welcome.epoch, 2);
});

test("the session of the example is sent byte by byte", () => {
  const line = session();
  const hello = encode({ hello: "world" });
  line.send(Operation.REQUEST, utf8.encode("echo"), hello, { correlation: 1, isPacked: true });
  assert.deepEqual(line.dataToSend(0), EXAMPLE["client: DATA 1, a request"]);
  line.receiveData(EXAMPLE["server: DATA 1, its response"], 1, 1);
  line.receiveData(EXAMPLE["server: DATA 2, a message without a name, of raw bytes"], 1, 1);
  const [response, message] = line.nextEvents();
  assert.deepEqual([response.operation, response.correlation], [Operation.RESPONSE, 1]);
  assert.deepEqual(decode(response.body), { hello: "world" });
  assert.equal(Buffer.from(message.body).toString(), "raw bytes");
  // Out of order: an early ack is sent together with the ones before it.
  line.ack(message);
  assert.equal(line.dataToSend(1), null);
  line.ack(response);
  line.receiveData(EXAMPLE["server: PING, which acknowledges the request as well"], 7.5, 1);
  assert.deepEqual(line.dataToSend(7.5), EXAMPLE["client: PONG"]);
  assert.ok(line.isDrained);

  line.receiveLinkLost();
  assert.equal(line.ticket.received, 2);
  line.attach(8, { epoch: 2, peerReceived: 1 });
  line.receiveData(EXAMPLE["server: DATA 3, replayed"], 8.001, 2);
  line.ack(line.nextEvents()[0]);
  assert.equal(line.dataToSend(8.001), null, "an acknowledgement is delayed");
  assert.equal(line.nextTimeout(), 8.001 + 0.1);
  assert.deepEqual(line.dataToSend(8.102), EXAMPLE["client: ACK"]);
  line.close(Code.NORMAL, "done");
  const bye = frameOf(line.dataToSend(8.2));
  assert.deepEqual(frames.decodeBye(bye.body), frames.decodeBye(frameOf(EXAMPLE["client: BYE"]).body));
});

test("the frames of the server in the example can be encoded", () => {
  const again = EXAMPLE["server: DATA 3, replayed"];
  assert.deepEqual(data(3, "again"), again);
  const ping = frameOf(EXAMPLE["server: PING, which acknowledges the request as well"]);
  const { number, timeUs, acked } = frames.decodePing(ping.body);
  assert.deepEqual(
    frames.encodePing(Kind.PING, number, timeUs, acked),
    EXAMPLE["server: PING, which acknowledges the request as well"],
  );
});

test("the numbers of the page match the code", () => {
  for (const [name, code] of Object.entries(Code)) assert.match(PAGE, new RegExp(`^\\| ${code} \\| ${name} \\|`, "m"));
  for (const [name, kind] of Object.entries(Kind)) assert.match(PAGE, new RegExp(`^\\| ${kind} \\| ${name} \\|`, "m"));
  for (const [name, number] of Object.entries(Operation)) {
    assert.match(PAGE, new RegExp(`^\\| ${number} \\| ${name} \\|`, "m"));
  }
});

// Invalid handshakes

const CHALLENGE = { version: 1, nonce: range(0, 32) };
const WELCOME = {
  session: range(0, 16),
  secret: range(0, 32),
  epoch: 1,
  resumed: false,
  received: 0,
  heartbeat: {},
  limits: {},
  resume_window_s: 120,
};

async function shake(bodies, { ticket = null, auth } = {}) {
  const handshake = new ClientHandshake({
    auth: auth ?? { claim: async () => null, acceptsServer: async () => true },
    identity: "",
    limits: LIMITS,
    ticket,
  });
  for (const [kind, body] of bodies) await handshake.receiveFrame(frameOf(frames.encodeBody(kind, body)));
  return handshake.welcome;
}

const welcomeWith = (changes, options) =>
  shake([[Kind.CHALLENGE, CHALLENGE], [Kind.WELCOME, { ...WELCOME, ...changes }]], options);

test("unknown and optional fields of a challenge or welcome are accepted", async () => {
  const welcome = await welcomeWith({ unknown: new Map([[1, [null, 1.5, NONE]]]), limits: { window_frames: 128 }, proof: null });
  assert.deepEqual(welcome.heartbeat, { interval_s: 10, timeout_s: 5 });
  assert.deepEqual(welcome.limits, { message_bytes: 4_194_304, window_bytes: 8_388_608, window_frames: 128 });
  assert.equal((await welcomeWith({ epoch: 2n ** 63n - 1n })).epoch, 2n ** 63n - 1n);
  assert.equal((await welcomeWith({ resume_window_s: 0 })).resume_window_s, 0);
});

for (const [what, changes] of Object.entries({
  "a float for an integer": { epoch: 1.5 },
  "an integer too large": { received: 2n ** 63n },
  "a negative integer": { received: -1 },
  "bytes too short": { secret: range(0, 31) },
  "text for bytes": { secret: "x".repeat(32) },
  "a number for a bool": { resumed: 0 },
  "nil for a map": { heartbeat: null },
  "a missing field": { session: undefined },
  "a limit too small": { limits: { window_frames: 127 } },
  "an invalid time": { resume_window_s: NaN },
  "an interval of 0": { heartbeat: { interval_s: 0 } },
  "a session that was not requested": { resumed: true },
})) {
  test(`a welcome with ${what} is refused`, () => assert.rejects(welcomeWith(changes), ProtocolError));
}

test("a whole float is not an integer", async () => {
  const body = joined(encode("version"), Uint8Array.of(0xcb), new Uint8Array(new Float64Array([1]).buffer).reverse());
  const challenge = joined(Uint8Array.of(0x82), body, encode("nonce"), encode(range(0, 32)));
  const handshake = new ClientHandshake({ auth: AUTH, identity: "", limits: LIMITS });
  await assert.rejects(handshake.receiveFrame({ kind: Kind.CHALLENGE, body: challenge }), /version must be an integer/);
});

test("a resumed session must be the requested one, with a higher epoch", async () => {
  const ticket = { session: WELCOME.session, secret: WELCOME.secret, epoch: 4, received: 0 };
  assert.equal((await welcomeWith({ resumed: true, epoch: 5 }, { ticket })).epoch, 5);
  await assert.rejects(welcomeWith({ resumed: true, epoch: 4 }, { ticket }), ProtocolError);
  await assert.rejects(welcomeWith({ resumed: true, epoch: 5, session: range(1, 16) }, { ticket }), ProtocolError);
});

test("another version is reported whatever the other fields are", async () => {
  const error = await shake([[Kind.CHALLENGE, { version: 2, nonce: "another kind" }]]).catch((error) => error);
  assert.ok(error instanceof ProtocolError);
  assert.equal(error.code, Code.UNSUPPORTED_VERSION);
});

test("a server without a valid proof is refused", async () => {
  for (const proof of [null, NONE, range(0, 32)]) {
    const error = await welcomeWith({ proof, epoch: "not looked at" }, { auth: AUTH }).catch((error) => error);
    assert.equal(error.code, Code.UNAUTHENTICATED);
  }
});

test("misplaced frames are refused, a REJECT is not", async () => {
  await assert.rejects(shake([[Kind.WELCOME, WELCOME]]), ProtocolError);
  await assert.rejects(shake([[Kind.CHALLENGE, CHALLENGE], [Kind.CHALLENGE, CHALLENGE]]), ProtocolError);
  await assert.rejects(shake([[Kind.BYE, { code: 200 }]]), ProtocolError);
  const error = await shake([[Kind.REJECT, { code: 101, reason: "full", retry_after_s: 2, spread_s: 3 }]]).catch((e) => e);
  assert.ok(error instanceof Rejected);
  assert.deepEqual([error.code, error.retryAfterS, error.spreadS], [101, 2, 3]);
  const unknown = await shake([[Kind.REJECT, { code: 299, reason: "" }]]).catch((e) => e);
  assert.equal(unknown.code, Code.NORMAL);
});

test("short tokens are refused, and proofs are compared completely", () => {
  assert.throws(() => new SharedToken("fifteen bytes.."), ConfigurationError);
  assert.ok(proofsEqual(range(0, 32), range(0, 32)));
  assert.ok(!proofsEqual(range(0, 32), range(0, 31)));
  assert.ok(!proofsEqual(NONE, range(0, 1)));
});

// Peers that violate the protocol

const pinged = (acked) => frames.encodePing(Kind.PING, 1, 0n, acked);

function corrupted(bytes, at, value) {
  const copy = bytes.slice();
  copy[at] = value;
  return copy;
}

for (const [what, bytes, code = Code.PROTOCOL_ERROR] of [
  ["a length of 0", Uint8Array.of(0, 0, 0, 0)],
  ["a length above the limit, before the frame is there", Uint8Array.of(0, 0, 0x44, 0x01), Code.LIMIT_EXCEEDED],
  ["an unknown kind", Uint8Array.of(0, 0, 0, 1, 99)],
  ["a datagram without its header", Uint8Array.of(0, 0, 0, 2, 20, 0)],
  ["a datagram with an unknown flag", Uint8Array.of(0, 0, 0, 3, 20, 1, 0)],
  ["a kind of the handshake", frames.encodeBody(Kind.CHALLENGE, CHALLENGE)],
  ["a gap", data(2, "x")],
  ["a short header", Uint8Array.of(0, 0, 0, 2, 16, 0)],
  ["a name longer than its frame", corrupted(data(1, "x"), 23, 2)],
  ["a name that is not UTF-8", corrupted(data(1, "x", { name: "n" }), 24, 0xff)],
  ["an unknown flag", data(1, "x", { flags: 8 })],
  ["an unknown operation", data(1, "x", { operation: 6 })],
  ["a continuation without a first fragment", data(1, "x", { operation: Operation.CONTINUE })],
  ["a first fragment without a byte", data(1, "", { flags: Flag.MORE })],
  ["a last fragment without a byte", joined(data(1, "x", { flags: Flag.MORE }), data(2, "", { operation: 0 }))],
  ["a message within another", joined(data(1, "x", { flags: Flag.MORE }), data(2, "y"))],
  ["EOF within a message", joined(data(1, "x", { flags: Flag.MORE | Flag.BULK }), frames.encodeEof(2))],
  ["data after EOF", joined(frames.encodeEof(1), data(2, "x"))],
  ["a second EOF", joined(frames.encodeEof(1), frames.encodeEof(2))],
  ["an acknowledgement of a frame that was never sent", frames.encodeAck(1)],
  ["an acknowledgement of 2^63", frames.encodeAck(2n ** 63n)],
  ["such an acknowledgement in a ping", pinged(1)],
  ["a short acknowledgement", frames.encodeAck(0).with(3, 8).slice(0, 12)],
  ["a wrong checksum", corrupted(pinged(0), 32, pinged(0)[32] ^ 1)],
  ["a ping of another length", joined(Uint8Array.of(0, 0, 0, 28, 18), pinged(0).slice(5, 32))],
  ["a body that is not a map", joined(Uint8Array.of(0, 0, 0, 2, Kind.BYE), encode(1))],
  ["a map with a key that is not a string", frames.encodeBody(Kind.NOTICE, new Map([["code", 100], [1, 2]]))],
  ["a reason too long", frames.encodeBody(Kind.BYE, { code: 200, reason: "é".repeat(501) })],
  ["too many alternatives", frames.encodeBody(Kind.BYE, { code: 100, alternatives: Array(17).fill("ws://a") })],
  ["bytes after a map", joined(Uint8Array.of(0, 0, 0, 9, Kind.NOTICE), encode({ code: 100 }), encode(1))],
  ["too many pings", joined(...Array(41).fill(pinged(0))), Code.TOO_MANY_PINGS],
]) {
  test(`${what}: the session ends with a BYE`, () => {
    const line = session();
    line.receiveData(bytes, 1, 1);
    const ended = line.nextEvents().at(-1);
    assert.deepEqual([ended.type, ended.byPeer, ended.code], ["ended", false, code]);
    const bye = frameOf(lastFrame(line.dataToSend(1)));
    assert.equal(bye.kind, Kind.BYE);
    assert.equal(frames.decodeBye(bye.body).code, code);
    assert.equal(line.state, "closed");
  });
}

function lastFrame(bytes) {
  const reader = new FrameReader(frames.FRAME_BYTES_MAX);
  reader.feed(bytes);
  let last = null;
  let frame;
  while ((frame = reader.next()) !== null) last = frame;
  return bytes.slice(bytes.length - last.bytes);
}

test("only the number of a repeated frame is checked", () => {
  const line = session();
  const impossible = corrupted(data(1, "x", { flags: 0xff, operation: 99 }), 23, 0xff);
  line.receiveData(joined(data(1, "x"), impossible, corrupted(impossible, 12, 0)), 1, 1);
  assert.equal(line.state, "attached");
  assert.equal(line.duplicatesDropped, 2);
});

test("the reason names the limit", () => {
  const reasonOf = (bytes) => {
    const line = session();
    line.receiveData(bytes, 1, 1);
    return line.nextEvents().at(-1).reason;
  };
  assert.equal(reasonOf(Uint8Array.of(0, 0, 0, 2, 16, 0)), "a DATA frame of 6 bytes, less than its header of 24");
});

test("valid but unusual frames are accepted", () => {
  const line = session();
  line.send(Operation.MESSAGE, NONE, utf8.encode("x"));
  line.dataToSend(0);
  const unknownBye = frames.encodeBody(Kind.BYE, { code: 150, reason: "r".repeat(500), new: [1] });
  line.receiveData(
    joined(
      frames.encodeAck(1),
      frames.encodeAck(0),
      data(1, "first", { correlation: 7, name: "" }),
      data(1, "again, with other bytes"),
      data(2, "y", { operation: Operation.CANCEL, correlation: 2n ** 64n - 1n }),
      frames.encodePing(Kind.PONG, 5, 1n, 1),
      frames.encodeBody(Kind.NOTICE, { code: 206 }),
      unknownBye,
      data(3, "after a BYE"),
    ),
    1,
    1,
  );
  const events = line.nextEvents();
  assert.deepEqual(events.map(({ type }) => type), ["message", "message", "notice", "ended"]);
  assert.equal(events[1].correlation, 2n ** 64n - 1n);
  assert.deepEqual([events[3].code, events[3].byPeer, events[3].retryAfterS], [Code.GOING_AWAY, true, null]);
  assert.equal(line.duplicatesDropped, 1);
});

test("the 20th ping gets a NOTICE before its PONG", () => {
  const line = session();
  line.receiveData(joined(...Array(20).fill(pinged(0))), 1, 1);
  const reader = new FrameReader(frames.FRAME_BYTES_MAX);
  reader.feed(line.dataToSend(1));
  const kinds = [];
  for (let frame = reader.next(); frame !== null; frame = reader.next()) kinds.push(frame.kind);
  assert.deepEqual(kinds, [...Array(19).fill(Kind.PONG), Kind.NOTICE, Kind.PONG]);
});

test("a replaced link is lost, and bytes of an older one are ignored", () => {
  const line = session();
  line.receiveData(frames.encodeBody(Kind.BYE, { code: 105 }), 1, 1);
  assert.equal(line.state, "detached");
  line.attach(2, { epoch: 2, peerReceived: 0 });
  line.receiveData(data(1, "late"), 3, 1);
  assert.deepEqual(line.nextEvents(), []);
  assert.throws(() => line.attach(4, { epoch: 2, peerReceived: 0 }), ProtocolError);
});

test("a peer that exceeds the window is refused", () => {
  const limits = { messageBytes: 1024, windowBytes: 65_536, windowFrames: 128 };
  const many = session({ limits });
  many.receiveData(joined(...Array.from({ length: 128 }, (_, index) => data(index + 1, "x"))), 1, 1);
  assert.equal(many.state, "attached");
  many.receiveData(data(129, "x"), 1, 1);
  assert.equal(many.nextEvents().at(-1).code, Code.LIMIT_EXCEEDED);

  const large = session({ limits });
  for (let sequence = 1; sequence <= 64; sequence++) large.receiveData(data(sequence, new Uint8Array(1024)), 1, 1);
  assert.equal(large.state, "attached");
  large.receiveData(data(65, new Uint8Array(1024)), 1, 1);
  assert.equal(large.nextEvents().at(-1).code, Code.LIMIT_EXCEEDED);
});

test("a message above the limit is refused, whole or in fragments", () => {
  const limits = { messageBytes: 1024, windowBytes: 65_536, windowFrames: 128 };
  for (const bytes of [
    data(1, new Uint8Array(1025)),
    data(1, new Uint8Array(1024), { name: "n" }),
    joined(data(1, new Uint8Array(1000), { flags: Flag.MORE }), data(2, new Uint8Array(25), { operation: 0 })),
  ]) {
    const line = session({ limits });
    line.receiveData(bytes, 1, 1);
    assert.equal(line.nextEvents().at(-1).code, Code.LIMIT_EXCEEDED);
  }
});

test("an impossible resume is refused and changes nothing", () => {
  const line = session();
  for (let i = 0; i < 3; i++) line.send(Operation.MESSAGE, NONE, utf8.encode(String(i)));
  line.dataToSend(0);
  line.receiveData(frames.encodeAck(1), 1, 1);
  line.receiveLinkLost();
  assert.throws(() => line.attach(2, { epoch: 2, peerReceived: 0 }), ProtocolError);
  assert.throws(() => line.attach(2, { epoch: 2, peerReceived: 4 }), ProtocolError);
  line.attach(2, { epoch: 2, peerReceived: 2 });
  assert.deepEqual(line.dataToSend(2), data(3, "2"));
  line.receiveData(frames.encodeAck(3), 2, 2);
  assert.ok(line.isDrained);
});

test("the peer may confirm a frame of an earlier transport", () => {
  const line = session();
  for (let i = 0; i < 3; i++) line.send(Operation.MESSAGE, NONE, utf8.encode(String(i)));
  line.dataToSend(0);
  line.attach(1, { epoch: 2, peerReceived: 1 });
  // Nothing was written to the second transport; on the third the peer confirms frames of the first.
  line.attach(2, { epoch: 3, peerReceived: 3 });
  assert.equal(line.dataToSend(2), null);
});

test("an incomplete frame and control frames are discarded with their transport", () => {
  const line = session();
  line.receiveData(joined(data(1, "x"), pinged(0), data(2, "y").slice(0, 20)), 1, 1);
  line.receiveLinkLost();
  assert.equal(line.dataToSend(1), null);
  assert.equal(line.nextTimeout(), null);
  line.attach(2, { epoch: 2, peerReceived: 0 });
  assert.equal(line.dataToSend(2), null);
  line.receiveData(data(2, "y"), 3, 2);
  assert.deepEqual(line.nextEvents().map(({ sequence }) => sequence), [1, 2]);
});

test("a byte order mark is part of a name", () => {
  const line = session();
  line.receiveData(data(1, "x", { name: "\ufeffname" }), 1, 1);
  assert.equal(line.nextEvents()[0].name, "\ufeffname");
});

// Guarantees to the own side

test("acknowledgements are due after 64 frames, an eighth of the window, or a tenth of a second (§5.3)", () => {
  const ackAll = (line) => line.nextEvents().forEach((message) => line.ack(message));
  const limits = { messageBytes: 100_000, windowBytes: 65_536, windowFrames: 128 };
  const frame = session({ limits });
  for (let sequence = 1; sequence < 64; sequence++) frame.receiveData(data(sequence, "x"), 1, 1);
  ackAll(frame);
  assert.equal(frame.dataToSend(1), null);
  frame.receiveData(data(64, "x"), 1, 1);
  ackAll(frame);
  assert.deepEqual(frame.dataToSend(1), frames.encodeAck(64));
  assert.equal(frame.dataToSend(2), null, "acknowledged once");

  const share = session({ limits });
  share.receiveData(data(1, new Uint8Array(8_100)), 1, 1);
  ackAll(share);
  assert.equal(share.dataToSend(1), null);
  share.receiveData(data(2, new Uint8Array(44)), 1, 1);
  ackAll(share);
  assert.deepEqual(share.dataToSend(1), frames.encodeAck(2));

  const fragments = session({ limits });
  fragments.receiveData(data(1, new Uint8Array(16_384), { flags: Flag.MORE }), 1, 1);
  assert.deepEqual(fragments.dataToSend(1), frames.encodeAck(1), "a stored fragment is acknowledged");
});

test("a BYE is sent after the pending acknowledgement", () => {
  const line = session();
  line.receiveData(data(1, "x"), 1, 1);
  line.ack(line.nextEvents()[0]);
  line.close(Code.NORMAL);
  assert.deepEqual(line.dataToSend(1).slice(0, 13), frames.encodeAck(1));
});

test("the peer's window limits bytes as well as frames", () => {
  const peerLimits = { messageBytes: 20_000, windowBytes: 65_536, windowFrames: 128 };
  const line = session({ peerLimits });
  for (let i = 0; i < 10; i++) line.send(Operation.MESSAGE, NONE, new Uint8Array(16_000));
  let written = 0;
  for (let bytes = line.dataToSend(0); bytes !== null; bytes = line.dataToSend(0)) written += bytes.length;
  assert.ok(written <= 65_536 && written > 65_536 - frames.FRAME_BYTES_MAX);
});

test("unconfirmed messages are reported whole and once", () => {
  const line = session({ peerLimits: { messageBytes: 100_000, windowBytes: 65_536, windowFrames: 128 } });
  const send = (name, size, options) => line.send(Operation.MESSAGE, utf8.encode(name), new Uint8Array(size), options);
  send("small", 1, { isPacked: true });
  send("large", 40_000);
  line.send(Operation.REQUEST, utf8.encode("asked"), NONE, { correlation: 1 });
  send("begun", 60_000, { isBulk: true });
  send("waiting", 2);
  while (line.dataToSend(0) !== null);
  const reported = () => line.unconfirmed().map(({ name, body, isPacked }) => [name, body.length, isPacked]);
  const large = ["large", 40_000, false];
  assert.deepEqual(reported(), [["small", 1, true], large, ["waiting", 2, false], ["begun", 60_000, false]]);
  line.receiveData(frames.encodeAck(3), 1, 1);
  assert.deepEqual(reported(), [large, ["waiting", 2, false], ["begun", 60_000, false]], "confirmed with its last fragment");
  line.receiveData(frames.encodeAck(4), 1, 1);
  assert.deepEqual(reported(), [["waiting", 2, false], ["begun", 60_000, false]]);
});

test("sending respects the peer's window and message size, and the own buffer", () => {
  const peerLimits = { messageBytes: 20_000, windowBytes: 65_536, windowFrames: 128 };
  const line = session({ peerLimits, sendBuffer: { sizeBytes: 65_536, messages: 200 } });
  assert.throws(() => line.send(Operation.MESSAGE, NONE, new Uint8Array(20_001)), MessageTooLarge);
  assert.throws(() => line.send(Operation.MESSAGE, new Uint8Array(256), NONE), MessageTooLarge);
  for (let i = 0; i < 200; i++) line.send(Operation.MESSAGE, NONE, NONE);
  assert.ok(!line.hasSpace(0));
  let written = 0;
  for (let bytes = line.dataToSend(0); bytes !== null; bytes = line.dataToSend(0)) written += bytes.length;
  assert.equal(written, 128 * 24);
  line.receiveData(frames.encodeAck(100), 1, 1);
  assert.equal(line.dataToSend(1).length, 72 * 24);
  assert.equal(line.unconfirmed().length, 100);
});

test("normal messages interrupt bulk ones between two fragments", () => {
  const line = session();
  line.send(Operation.MESSAGE, NONE, new Uint8Array(200_000).fill(1), { isBulk: true });
  const before = line.dataToSend(0);
  line.send(Operation.MESSAGE, utf8.encode("quick"), utf8.encode("x"));
  const peer = session();
  peer.receiveData(before, 0, 1);
  assert.deepEqual(peer.nextEvents(), []);
  for (let bytes = line.dataToSend(0); bytes !== null; bytes = line.dataToSend(0)) peer.receiveData(bytes, 0, 1);
  const messages = peer.nextEvents();
  assert.deepEqual(messages.map(({ name, body }) => [name, body.length]), [["quick", 1], ["", 200_000]]);
});

test("a full transport gets only a few control frames", () => {
  const line = session();
  line.pauseWriting();
  line.send(Operation.MESSAGE, NONE, NONE);
  assert.equal(line.dataToSend(0), null);
  let pongs = 0;
  for (let i = 0; i < 19; i++) {
    line.receiveData(pinged(0), 1, 1);
    pongs += line.dataToSend(1) === null ? 0 : 1;
  }
  assert.equal(pongs, 8);
  line.resumeWriting();
  assert.equal(line.dataToSend(1).length, 2 * 33 + 24);
});

test("no message is lost, repeated or reordered over cut transports", () => {
  let seed = 5463;
  const random = () => (seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0) / 2 ** 32;
  const below = (count) => Math.floor(random() * count);
  const limits = { messageBytes: 100_000, windowBytes: 65_536, windowFrames: 128 };
  const sides = [0, 1].map(() => ({
    line: session({ limits, peerLimits: limits, sendBuffer: { sizeBytes: 200_000, messages: 150 }, attached: false }),
    // Bytes in flight to this side, and its messages that are not acknowledged.
    inFlight: [],
    unacked: [],
    sent: [0, 0],
    seen: [0, 0],
  }));
  let now = 0;
  let epoch = 0;
  const attach = () => {
    epoch += 1;
    const received = sides.map(({ line }) => line.ticket.received);
    sides.forEach((side, index) => {
      side.inFlight = [];
      side.line.attach(now, { epoch, peerReceived: received[1 - index] });
    });
  };
  const receive = (side) => {
    for (const event of side.line.nextEvents()) {
      assert.equal(event.type, "message", event.reason);
      const lane = Number(event.name);
      assert.equal(new DataView(event.body.buffer).getUint32(0), side.seen[lane]++);
      assert.ok(event.body.subarray(4).every((byte) => byte === lane));
      side.unacked.push(event);
    }
  };
  const step = (side, other) => {
    const choice = below(5);
    if (choice === 0) {
      const lane = below(2);
      const body = new Uint8Array(random() < 0.2 ? below(90_000) + 4 : 4).fill(lane);
      if (!side.line.hasSpace(1 + body.length)) return;
      new DataView(body.buffer).setUint32(0, side.sent[lane]++);
      side.line.send(Operation.MESSAGE, utf8.encode(String(lane)), body, { isBulk: lane === 1 });
    } else if (choice === 1) {
      const bytes = side.line.dataToSend(now);
      if (bytes !== null) other.inFlight.push(bytes);
    } else if (choice === 2 && side.inFlight.length > 0) {
      const bytes = side.inFlight.shift();
      const cut = below(bytes.length) + 1;
      side.line.receiveData(bytes.subarray(0, cut), now, epoch);
      if (cut < bytes.length) side.inFlight.unshift(bytes.subarray(cut));
    } else if (choice === 3) {
      if (side.unacked.length > 0) side.line.ack(side.unacked.splice(below(side.unacked.length), 1)[0]);
    } else now += 0.01;
    receive(side);
  };
  attach();
  for (let turn = 0; turn < 30_000; turn++) {
    const index = below(2);
    step(sides[index], sides[1 - index]);
    if (random() < 0.005) {
      for (const { line } of sides) line.receiveLinkLost();
      attach();
    }
  }
  for (let turn = 0; turn < 4000; turn++) {
    now += 0.2;
    sides.forEach((side, index) => {
      for (let bytes = side.line.dataToSend(now); bytes !== null; bytes = side.line.dataToSend(now)) {
        sides[1 - index].inFlight.push(bytes);
      }
      for (const bytes of side.inFlight.splice(0)) side.line.receiveData(bytes, now, epoch);
      receive(side);
      for (const message of side.unacked.splice(0)) side.line.ack(message);
    });
    if (sides.every(({ line }) => line.isDrained)) break;
  }
  assert.deepEqual(sides[0].sent, sides[1].seen);
  assert.deepEqual(sides[1].sent, sides[0].seen);
  assert.ok(sides.every(({ sent }) => Math.min(...sent) > 500), `too little happened: ${sides.map(({ sent }) => sent)}`);
  assert.ok(epoch > 100);
  assert.ok(sides.every(({ line }) => line.isDrained && line.duplicatesDropped === 0));
});

// Timers

test("a silent peer is pinged, suspected and dropped at the times of §6", () => {
  const line = session();
  line.handleTimeout(10.9);
  assert.equal(line.dataToSend(10.9), null);
  line.handleTimeout(11);
  assert.equal(frameOf(line.dataToSend(11)).kind, Kind.PING);
  assert.equal(line.nextTimeout(), 12);
  line.handleTimeout(12);
  assert.equal(line.state, "suspect");
  line.receiveData(frames.encodePing(Kind.PONG, 1, 0n, 0), 12.5, 1);
  assert.equal(line.state, "attached");
  assert.equal(line.roundTripS, 1.5);
  line.handleTimeout(24.5);
  line.handleTimeout(27.5);
  assert.equal(line.state, "suspect", "received bytes are read first");
  line.handleTimeout(27.6);
  assert.equal(line.state, "detached");
  const types = line.nextEvents().map(({ type }) => type);
  assert.deepEqual(types, ["suspected", "recovered", "pong", "suspected", "silent"]);
});

test("a late timer gives the peer one period of grace", () => {
  const liveness = new Liveness({ intervalS: 10, timeoutS: 5 });
  liveness.start(0);
  assert.equal(liveness.handleTimeout(100), "ping");
  liveness.nextPing(100);
  assert.equal(liveness.handleTimeout(104.9), null);
  liveness.handleTimeout(105.1);
  liveness.handleTimeout(105.1);
  assert.equal(liveness.handleTimeout(105.2), "dead");

  const always = new Liveness({ intervalS: 10, timeoutS: 5 });
  always.start(0);
  const verdicts = [];
  for (let now = 100; !verdicts.includes("dead") && now < 1000; now += 100) {
    for (let verdict = always.handleTimeout(now); verdict !== null; verdict = always.handleTimeout(now)) {
      verdicts.push(verdict);
      if (verdict === "dead") break;
      if (verdict === "ping") always.nextPing(now);
    }
  }
  assert.equal(verdicts.at(-1), "dead", "a process that is always late still detects a dead peer");
});

test("delays are drawn from a range that doubles, and a delay of the server takes precedence", () => {
  const schedule = new Schedule(checkBackoff({ firstS: 1, capS: 5 }));
  assert.deepEqual([1, 2, 3, 4].map(() => schedule.nextDelay(0, 0.5)), [0.5, 1, 2, 2.5]);
  assert.equal(schedule.nextDelay(0, 0.5, { retryAfterS: 100, spreadS: 10 }), 105);
  schedule.receiveConnected(100);
  assert.equal(schedule.nextDelay(111, 0.5), 0.5);
  const hasty = new Schedule(checkBackoff({ firstS: 0.5 }));
  const waits = Array.from({ length: 10 }, () => hasty.nextDelay(0, 0.5, { retryAfterS: 0 }));
  assert.deepEqual(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0.5], "repeated requests to return at once");
  const few = new Schedule(checkBackoff({ attempts: 2 }));
  assert.notEqual(few.nextDelay(0, 0), null);
  assert.equal(few.nextDelay(0, 0), null);
  const unstable = new Schedule(checkBackoff({ attempts: 1 }));
  unstable.receiveConnected(0);
  assert.notEqual(unstable.nextDelay(1, 0), null, "a lost link is not a failed attempt");
  assert.equal(unstable.nextDelay(2, 0), null);
  assert.throws(() => checkBackoff({ firstS: 0 }), ConfigurationError);
  assert.throws(() => checkBackoff({ first: 1 }), /backoff.first: there are/);
});
