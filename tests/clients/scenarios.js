// Scenarios of the JavaScript client with a real server, in Node and in a browser. test_js.py runs the server and checks the
// results, which are plain JSON.
//
// `url` may lead through a proxy that breaks connections; `direct` does not.

import { BufferFull, RequestError, SessionLost, SharedToken, connect } from "../../clients/js/landline.js";

const TOKEN = "a secret of sixteen bytes";
const QUICK = { firstS: 0.01, capS: 0.05 };
const quiet = { warn() {}, error() {} };

function open(url, options = {}) {
  return connect(url, { auth: new SharedToken(TOKEN), identity: "kiosk-7", backoff: QUICK, logger: quiet, ...options });
}

/** Return the name and the code of the error of a promise. */
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code === undefined || error.code === null ? error.name : `${error.name} ${error.code}`;
  }
  return "nothing";
}

/** Record changes of state, and wait for one. */
function watch() {
  const changes = [];
  const waiting = new Set();
  const onState = (change) => {
    changes.push(change);
    for (const look of waiting) look();
  };
  const until = (condition) =>
    new Promise((resolve) => {
      const look = () => changes.some(condition) && (waiting.delete(look), resolve());
      waiting.add(look);
      look();
    });
  return { changes, onState, until };
}

async function talk({ direct }) {
  const received = [];
  const cancelled = Promise.withResolvers();
  const line = await open(direct, {
    client: "a test",
    on: {
      double: (number) => 2 * number,
      later: async (value, { line, name }) => [await line.request("add", value), name],
      tired: () => {
        throw new RequestError("tired", "not today");
      },
      broken: () => {
        throw new Error("secret details");
      },
      huge: () => new Uint8Array(5_000_000),
      passing: (_, { line }) => line.request("missing"),
      slow: (_, { line }) => line.request("patient", null, { timeoutS: 0.05 }),
      translating: (_, { line }) =>
        line.request("missing").catch((error) => {
          throw new RequestError(`no ${error.code}`, "on purpose");
        }),
      patient: (_, { signal }) => new Promise(() => signal.addEventListener("abort", () => cancelled.resolve("aborted"))),
      note: (value) => received.push(value),
    },
  });
  const ask = (name, value, options) => line.request(name, value, options);
  const values = [null, true, -1, 1.5, "é€😀\ufeff", [], { a: { b: [1] } }, 2 ** 53 - 1, 2n ** 63n, -(2n ** 63n), -0];
  const found = {
    sum: await ask("add", [1, 2, 3]),
    echoed: await Promise.all(values.map(async (value) => Object.is(await ask("echo", value), value) || typeof value)),
    deep: await ask("echo", { a: { b: [1] } }),
    bytes: [...(await ask("echo", Uint8Array.of(1, 2, 3)))],
    moment: (await ask("echo", [new Date(1.6e12 + 1)]))[0].getTime() === 1.6e12 + 1,
    backwards: await ask("ask", ["double", 21]),
    nested: await ask("ask", ["later", [4, 5]]),
    failures: [
      await failure(ask("missing")),
      await failure(ask("tired")),
      await failure(ask("broken")),
      await failure(ask("huge")),
      await failure(ask("patient", null, { timeoutS: 0.05 })),
      await failure(ask("patient", null, { signal: AbortSignal.abort() })),
      await failure(line.send(new Uint8Array(4_194_305))),
      await failure(line.send(new Uint8Array(1), { name: "n".repeat(256) })),
      await failure(line.send(() => {})),
    ],
    theirs: await ask("failures_of", [
      "missing",
      "tired",
      "broken",
      "huge",
      "passing",
      "slow",
      "translating",
    ]),
  };
  const controller = new AbortController();
  const aborted = failure(ask("patient", null, { signal: controller.signal }));
  await line.ping();
  controller.abort();
  found.aborted = await aborted;
  found.cancelled_there = await ask("cancelled");
  await ask("ask_and_cancel", "patient");
  found.cancelled_here = await cancelled.promise;

  const large = new Uint8Array(3_000_000).map((_, index) => index % 251);
  const back = await ask("echo", large);
  found.large = back.length === large.length && back.every((byte, index) => byte === large[index]);
  const many = Array.from({ length: 100_000 }, (_, index) => index);
  found.many = JSON.stringify(await ask("echo", many)) === JSON.stringify(many);

  for (let i = 0; i < 1000; i++) line.sendNow(i);
  await line.send("named", { name: "note" });
  await line.send("of no handler", { name: "missing" });
  found.messages = [];
  for await (const message of line) {
    found.messages.push(message);
    if (found.messages.length === 1000) break;
  }
  found.messages = found.messages.every((message, index) => message === index);
  found.round_trip = (await line.ping()) > 0 && line.roundTripS > 0;
  found.drained = await line.drain();
  await line.sendEof();
  found.after_eof = await failure(line.send(1));
  found.rest = [];
  for await (const message of line) found.rest.push(message);
  found.received = received;
  await line.close({ reason: "done" });
  found.state = [line.state, line.error, line.lastChange.cause, line.epoch];
  found.after_close = [await failure(line.send(1)), await failure(ask("add", [])), await failure(line.ping())];
  return found;
}

/** Send numbered messages of all sizes until the server has sent its last one, while the connection is cut repeatedly. */
async function cuts({ url }) {
  const { changes, onState } = watch();
  const line = await open(url, { onState, sendBuffer: { sizeBytes: 131_072, messages: 128 } });
  let isOver = false;
  let sent = 0;
  const sending = (async () => {
    while (!isOver) await line.send([sent++, new Uint8Array([0, 10, 1000, 5000, 40_000][sent % 5])]);
    await line.sendEof();
  })();
  const seen = [];
  for await (const [number] of line) seen.push(number);
  isOver = true;
  await sending;
  await line.close();
  const online = changes.filter(({ state }) => state === "online");
  return { sent, seen, epoch: line.epoch, online: online.length, resumed: online.slice(1).every(({ resumed }) => resumed) };
}

/** The server loses the session while messages and a request are in flight. */
async function lose({ url, direct, hasCallback }) {
  const control = await open(direct);
  const { changes, onState, until } = watch();
  const lost = [];
  const onSessionLost = (unconfirmed) => lost.push(...unconfirmed.map(({ name, value }) => [name, value]));
  const line = await open(url, hasCallback ? { onState, onSessionLost } : { onState });
  await line.request("add", []);
  await control.request("hold");
  const pending = failure(line.request("add", [1, 2], { timeoutS: null }));
  await line.send("one");
  await line.send("two".repeat(10_000), { name: "note" });
  await line.send(new Uint8Array(3));
  await control.request("restart");
  await control.close();
  const found = { request: await pending };
  if (hasCallback) {
    await until(({ state, resumed }) => state === "online" && resumed === false && changes.length > 2);
    found.sum = await line.request("add", [3, 4]);
  } else {
    await until(({ state }) => state === "closed");
    found.failures = [await failure(line.send(1)), await failure(line[Symbol.asyncIterator]().next())];
    found.is_session_lost = line.error instanceof SessionLost;
    lost.push(...line.error.unconfirmed.map(({ name, value }) => [name, value]));
  }
  found.lost = lost.map(([name, value]) => [name, value.length]);
  found.cause = line.lastChange.cause;
  await line.close();
  return found;
}

/** Each side in turn does not read: the other must wait, and loses nothing. */
async function wait({ url }) {
  const control = await open(url);
  const sendBuffer = { sizeBytes: 65_536, messages: 1000 };
  const limits = { windowBytes: 65_536 };
  const line = await open(url, { sendBuffer, limits, identity: "slow" });
  const body = new Uint8Array(1000);
  let sent = 0;
  let why = "";
  try {
    for (;;) {
      line.sendNow([sent, body]);
      sent += 1;
    }
  } catch (error) {
    why = error instanceof BufferFull ? "full" : String(error);
  }
  const controller = new AbortController();
  const given_up = failure(line.send(["never sent", body], { signal: controller.signal }));
  const waiting = line.send([sent, body]).then(() => "sent");
  const following = line.send([sent + 1, body]);
  controller.abort();
  const found = { why, sent: sent + 2, buffered: line.bufferedBytes, given_up: await given_up };
  found.before = await Promise.race([waiting, control.ping().then(() => "waits")]);
  await control.request("read");
  found.after = await waiting;
  await following;
  const flooding = line.request("flood");
  found.flooded = await control.request("flooded");
  const iterator = line[Symbol.asyncIterator]();
  found.seen = 0;
  while (found.seen < found.flooded) if ((await iterator.next()).value[0] === found.seen) found.seen += 1;
  found.answer = await flooding;
  await line.close();
  await control.close();
  return found;
}

/** The network stops without an error. */
async function silence({ url, direct }) {
  const control = await open(direct);
  const { changes, onState, until } = watch();
  const line = await open(url, { onState });
  await control.request("hold");
  await until(({ state, cause }) => state === "reconnecting" && cause === "silent");
  await control.request("heal");
  await until(({ state, epoch }) => state === "online" && epoch > 1);
  const sum = await line.request("add", [1, 2]);
  await control.close();
  await line.close();
  const index = changes.findIndex(({ state }) => state === "reconnecting");
  const around = changes.slice(index - 1, index + 1).map(({ state, cause }) => [state, cause]);
  const { dueInS, attempt } = changes[index];
  return { sum, around, last: changes.at(-1).state, due: dueInS !== null, attempt };
}

/** Messages for a slow link wait in the session, where heartbeats overtake them, and not in the WebSocket. */
async function thin({ url, direct }) {
  let buffered = 0;
  class Watched extends WebSocket {
    send(bytes) {
      super.send(bytes);
      buffered = Math.max(buffered, this.bufferedAmount);
    }
  }
  globalThis.WebSocket = Watched;
  const control = await open(direct);
  const { changes, onState } = watch();
  const line = await open(url, { onState });
  const body = new Uint8Array(20_000);
  for (let number = 0; number < 400; number++) line.sendNow([number, body]);
  // After the data in the WebSocket, and before the data in the session.
  await line.ping({ timeoutS: null });
  const waiting = line.bufferedBytes;
  await control.request("widen");
  const drained = await line.drain(null);
  await control.close();
  await line.close();
  return { buffered, waiting, drained, states: changes.map(({ state }) => state) };
}

/** This side blocks for longer than the heartbeat time-out. The session is resumed. */
async function hang({ direct }) {
  const line = await open(direct);
  const before = String(line.sessionId);
  const until = performance.now() + 1500;
  while (performance.now() < until);
  const sum = await line.request("add", [1, 2]);
  const found = { sum, is_same: String(line.sessionId) === before };
  await line.close();
  return found;
}

/** The server accepts one client at a time, and tells the others when to return. */
async function crowd({ direct }) {
  const rejections = [];
  const onState = ({ state, cause, code, dueInS }) => state === "reconnecting" && rejections.push([cause, code, dueInS > 0.1]);
  const lines = await Promise.all([1, 2, 3].map(() => open(direct, { onState })));
  const sums = await Promise.all(lines.map((line) => line.request("add", [1])));
  await Promise.all(lines.map((line) => line.close()));
  return { sums, rejections: [...new Set(rejections.map(String))] };
}

/** The server closes and names an alternative. */
async function move({ direct }) {
  const { changes, onState, until } = watch();
  const line = await open(direct, { onState });
  const before = await line.request("who");
  await line.send("go");
  await until(({ state }) => state === "reconnecting");
  const after = await line.request("who");
  await line.close();
  const { cause, code, dueInS } = changes.find(({ state }) => state === "reconnecting");
  return { before, after, cause, code, is_due_at_once: dueInS === 0 };
}

/** Failed connections and their errors. */
async function refuse({ direct, nothing }) {
  const once = { firstS: 0.001, capS: 0.001, attempts: 2 };
  const giving = new AbortController();
  const { onState, until } = watch();
  const given_up = failure(open(nothing, { signal: giving.signal, onState }));
  await until(({ state }) => state === "reconnecting");
  giving.abort();
  const ended = failure(open(nothing, { onState: ({ state }, line) => state === "reconnecting" && line.abort() }));
  return {
    ended: await ended,
    token: await failure(open(direct, { auth: new SharedToken("another secret, just as long") })),
    anonymous: await failure(connect(direct)),
    nothing: await failure(open(nothing, { backoff: once })),
    hint: await open(nothing, { backoff: once }).catch((error) => error.message.split("before it was open. ")[1]),
    late: await failure(open(nothing, { connectTimeoutS: 0.1 })),
    timeout: await failure(open(nothing, { connectTimeoutS: 0 })),
    second: await failure(open([nothing, direct]).then((line) => line.close())),
    given_up: await given_up,
    scheme: await failure(open("tcp://127.0.0.1")),
    url: await failure(open("ws://")),
    relative: await failure(open("/line", { backoff: once })),
    option: await failure(open(direct, { onmessage() {} })),
    limit: await failure(open(direct, { limits: { windowBytes: 1 } })),
    buffer: await failure(open(direct, { sendBuffer: { messages: 1 } })),
    identity: await failure(open(direct, { identity: "x".repeat(201) })),
    handler: await failure(open(direct, { on: { "": () => 1 } })),
  };
}

/** Return the error of a line to a server that violates the protocol. */
async function breach({ direct }) {
  let line;
  try {
    line = await connect(direct, { backoff: { ...QUICK, attempts: 3 }, logger: quiet });
  } catch (error) {
    return { connect: [error.name, error.message] };
  }
  try {
    for await (const message of line) if (message === null) break;
  } catch (error) {
    return { read: [error.name, error.message] };
  } finally {
    line.abort();
  }
  return { read: "nothing" };
}

/** Datagrams in both directions, without a handler, and too large. */
async function datagrams({ direct }) {
  const seen = [];
  const all = Promise.withResolvers();
  const take = (value, { name }) => (seen.push([name, value]), seen.length === 3 && all.resolve());
  const line = await open(direct, { onDatagram: { "": take, state: take } });
  const sent = [line.sendDatagram({ x: 1 }), line.sendDatagram("a", { name: "state" }), line.sendDatagram("b", { name: "state" })];
  await all.promise;
  const unheard = await line.request("unheard");
  const large = await failure(Promise.resolve().then(() => line.sendDatagram(new Uint8Array(1199))));
  const fits = line.sendDatagram(new Uint8Array(1198));
  line.abort();
  const closed = await failure(Promise.resolve().then(() => line.sendDatagram(1)));
  const handler = await failure(open(direct, { onDatagram: { state: 1 } }));
  return { sent, seen, unheard, large, fits, closed, handler };
}

const SCENARIOS = { talk, datagrams, cuts, lose, wait, thin, silence, hang, crowd, move, refuse, breach };

/** Plays one and returns `{found}`, or `{failed}` with the reason. */
export async function play(name, options) {
  try {
    return { found: await SCENARIOS[name](options) };
  } catch (error) {
    return { failed: String(error?.stack ?? error) };
  }
}
