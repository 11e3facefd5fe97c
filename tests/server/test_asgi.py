"""Lines over the WebSockets of an ASGI server: uvicorn with a real port, and each of three frameworks around it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from litestar import Litestar
from litestar import asgi as litestar_asgi
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute
from tests.line_internals import transport_of
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

import landline
from landline.server.asgi import HIGH_WATER_BYTES, AsgiTransport
from landline.testing import FaultProxy
from landline.transports.base import MESSAGE_BYTES_MAX

ONCE = landline.Backoff(attempts=1)
DIRECT = landline.TransportOptions(proxy=False)


class Uvicorn(uvicorn.Server):
    """One of uvicorn's servers, inside the loop of the test."""

    @contextmanager
    def capture_signals(self):
        yield


@asynccontextmanager
async def serve(app, **settings):
    """Serves an ASGI application on a port of the system's choice; yields the port."""
    config = uvicorn.Config(
        app, log_config=None, ws_ping_interval=None, timeout_graceful_shutdown=1, **settings
    )
    server = Uvicorn(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.001)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def alone(server):
    return landline.asgi(server), ["/", "/line", "/line/"]


def in_starlette(server):
    @asynccontextmanager
    async def lifespan(app):
        yield
        await server.close()

    line = landline.asgi(server)
    app = Starlette(routes=[WebSocketRoute("/line", line), Mount("/line", line)], lifespan=lifespan)
    return app, ["/line", "/line/"]


def in_fastapi(server):
    @asynccontextmanager
    async def lifespan(app):
        yield
        await server.close()

    app = FastAPI(lifespan=lifespan)
    line = landline.asgi(server)
    app.router.routes.append(WebSocketRoute("/line", line))
    app.mount("/line", line)
    return app, ["/line", "/line/"]


def in_litestar(server):
    @asynccontextmanager
    async def lifespan(app):
        yield
        await server.close()

    mounted = litestar_asgi("/line", is_mount=True, copy_scope=True)(landline.asgi(server))
    return Litestar([mounted], lifespan=[lifespan]), ["/line", "/line/"]


@pytest.mark.parametrize("mount", [alone, in_starlette, in_fastapi, in_litestar])
async def test_a_line_is_asked_broken_and_resumed(mount, quick):
    server = landline.Server(auth=landline.SharedToken("a secret of sixteen bytes"))
    server.on("add")(lambda line, numbers: sum(numbers))
    app, paths = mount(server)
    async with serve(app) as port:
        for path in paths:
            async with landline.connect(
                f"ws://127.0.0.1:{port}{path}",
                auth=landline.SharedToken("a secret of sixteen bytes"),
                backoff=ONCE,
                options=DIRECT,
            ) as line:
                assert await line.request("add", [2, 3]) == 5
        connector = landline.connect(
            f"ws://127.0.0.1:{port}{paths[0]}",
            auth=landline.SharedToken("a secret of sixteen bytes"),
            identity="kiosk-7",
            backoff=quick,
            options=DIRECT,
        )
        async with connector as line:
            assert await line.request("add", [1, 2, 3]) == 6
            [other] = server.lines
            assert other.identity == "kiosk-7"
            assert other.peer.startswith("127.0.0.1:")
            body = bytes(range(256)) * 4096
            assert len(body) > 4 * MESSAGE_BYTES_MAX
            for breaking, sender, receiver in ((line, other, line), (other, line, other)):
                epoch = line.epoch
                breaking.break_link()
                await sender.send(body)
                async for message in receiver:
                    assert message == body
                    break
                assert line.epoch == epoch + 1
            assert server.lines == [other]
    with pytest.raises(RuntimeError, match="needs a server that listens"):
        await server.serve_forever()


async def test_a_mount_alone_has_a_slash_at_its_end_and_the_client_says_so():
    app = Starlette(routes=[Mount("/line", landline.asgi(landline.Server()))])
    async with serve(app) as port:
        sentence = (
            "the server answered with HTTP 403 Forbidden; a server mounted in a web application may be at /line/, with "
            "a slash at the end"
        )
        with pytest.raises(landline.ConnectFailed) as caught:
            async with landline.connect(f"ws://127.0.0.1:{port}/line", options=DIRECT):
                pytest.fail("connected where nothing is served")
        assert str(caught.value) == f"ws://127.0.0.1:{port}/line: {sentence}"
        async with landline.connect(f"ws://127.0.0.1:{port}/line/", options=DIRECT) as line:
            assert await line.ping() > 0


async def test_a_line_whose_network_broke_is_away_until_it_is_back(quick, until, caplog):
    server = landline.Server()
    async with (
        serve(landline.asgi(server)) as port,
        FaultProxy("127.0.0.1", port) as proxy,
        landline.connect(f"ws://127.0.0.1:{proxy.port}", backoff=quick, options=DIRECT),
    ):
        [other] = server.lines
        await proxy.refuse()
        proxy.reset()
        await until(lambda: other.state is landline.LineState.RECONNECTING)
        proxy.accept()
        await until(lambda: other.state is landline.LineState.ONLINE)
        assert other.epoch == 2
    assert "Exception" not in caplog.text


async def test_a_line_closes_in_order(quick, until):
    server = landline.Server()
    async with serve(landline.asgi(server)) as port:
        connector = landline.connect(f"ws://127.0.0.1:{port}", backoff=quick, options=DIRECT)
        async with connector as line:
            [other] = server.lines
            await line.close(reason="enough")
        await until(lambda: other.is_closed)
        assert other.last_change.detail == "enough"
        async with landline.connect(f"ws://127.0.0.1:{port}", backoff=quick, options=DIRECT) as line:
            [other] = server.lines
            other.abort(landline.Code.NORMAL, "enough of you")
            assert [message async for message in line] == []
            assert "enough of you" in line.last_change.detail


async def test_a_server_may_listen_elsewhere_as_well(quick):
    server = landline.Server()
    async with (
        serve(landline.asgi(server)) as port,
        server.listen("tcp://127.0.0.1:0") as endpoint,
        landline.connect(f"ws://127.0.0.1:{port}", backoff=quick, options=DIRECT),
        landline.connect(str(endpoint), backoff=quick),
    ):
        assert len(server.lines) == 2


async def test_a_closed_server_accepts_nobody(quick):
    server = landline.Server()
    app = landline.asgi(server)
    async with serve(app) as port:
        assert app.endpoint == landline.Endpoint("ws")
        await server.close()
        with pytest.raises(InvalidStatus, match="HTTP 503"):
            await connect_websocket(f"ws://127.0.0.1:{port}", subprotocols=["landline.1"], proxy=None)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ({"subprotocols": None}, 400),
        ({"subprotocols": ["other"]}, 400),
        ({"origin": "https://elsewhere.example"}, 403),
    ],
)
async def test_a_websocket_that_is_not_ours_is_denied(arguments, status):
    async with serve(landline.asgi(landline.Server())) as port:
        with pytest.raises(InvalidStatus, match=f"HTTP {status}"):
            await connect_websocket(
                f"ws://127.0.0.1:{port}", **({"subprotocols": ["landline.1"], "proxy": None} | arguments)
            )


async def test_pages_that_may_connect():
    app = landline.asgi(landline.Server(), origins=("https://elsewhere.example",))
    async with serve(app) as port:
        for origin in ("https://elsewhere.example", f"http://127.0.0.1:{port}"):
            async with connect_websocket(
                f"ws://127.0.0.1:{port}", origin=origin, subprotocols=["landline.1"], proxy=None
            ) as websocket:
                assert (await websocket.recv())[4] == 1


async def test_plain_http_is_told_what_this_is():
    async with serve(landline.asgi(landline.Server())) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
    assert answer.startswith("HTTP/1.1 426 ")
    assert "upgrade: websocket" in answer
    assert "this URL is for WebSocket clients of landline" in answer


@pytest.mark.parametrize(("message", "code"), [("text", 1003), (b"x" * (MESSAGE_BYTES_MAX + 1), 1009)])
async def test_messages_that_are_not_taken(message, code):
    async with (
        serve(landline.asgi(landline.Server())) as port,
        connect_websocket(f"ws://127.0.0.1:{port}", subprotocols=["landline.1"], proxy=None) as websocket,
    ):
        await websocket.recv()
        await websocket.send(message)
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        assert caught.value.rcvd.code == code


async def test_what_uvicorn_does_not_take_pauses_the_line(quick):
    much = 1 << 28
    server = landline.Server(send_buffer=landline.SendBuffer(size_bytes=much))
    async with (
        serve(landline.asgi(server)) as port,
        landline.connect(
            f"ws://127.0.0.1:{port}",
            backoff=quick,
            options=DIRECT,
            limits=landline.Limits(window_bytes=much, window_frames=1_000_000),
        ) as line,
    ):
        [other] = server.lines
        transport = transport_of(other)
        transport_of(line).pause_reading()
        sent = paused_turns = 0
        # The kernel's buffers take some megabytes first; until they are full, every pause is over within a turn.
        while paused_turns < 50:
            if transport._is_paused:
                paused_turns += 1
            else:
                other.send_nowait(b"x" * 100_000)
                sent += 1
                paused_turns = 0
            await asyncio.sleep(0)
        held = transport.get_write_buffer_size()
        assert held > HIGH_WATER_BYTES
        other.send_nowait(b"x" * 100_000)
        await asyncio.sleep(0)
        assert transport.get_write_buffer_size() == held
        transport_of(line).resume_reading()
        count = 0
        async for message in line:
            assert len(message) == 100_000
            count += 1
            if count == sent + 1:
                break
        assert not transport._is_paused


class Asgi:
    """An ASGI server of the test's own: what it takes, and when."""

    def __init__(self):
        self.sent = []
        self.received = asyncio.Queue()
        self.takes = asyncio.Event()
        self.takes.set()
        self.error = None

    async def receive(self):
        return await self.received.get()

    async def send(self, message):
        await self.takes.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(message)


class Recorder(asyncio.Protocol):
    def __init__(self):
        self.events = []

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.events.append(data)

    def connection_lost(self, exc):
        self.events.append("lost")

    def pause_writing(self):
        self.events.append("pause")

    def resume_writing(self):
        self.events.append("resume")


@pytest.fixture
async def carried():
    """A transport that runs, its ASGI server, its protocol, and its task."""
    asgi, protocol = Asgi(), Recorder()
    transport = AsgiTransport({"client": ["10.0.0.1", 5]}, asgi.receive, asgi.send, protocol)
    running = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    yield transport, asgi, protocol, running
    running.cancel()
    await asyncio.wait([running])


async def test_it_is_a_transport_of_asyncio(carried, until):
    transport, asgi, protocol, _ = carried
    assert protocol.transport is transport
    assert transport.get_extra_info("peername") == ("10.0.0.1", 5)
    assert transport.get_extra_info("socket") is None
    assert transport.get_protocol() is protocol
    assert not transport.can_write_eof()
    assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
    transport.set_write_buffer_limits(high=100)
    assert transport.get_write_buffer_limits() == (25, 100)
    transport.set_write_buffer_limits()
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    asgi.received.put_nowait({"type": "websocket.receive", "bytes": b"later"})
    await until(lambda: asgi.received.empty())
    await asyncio.sleep(0)
    assert protocol.events == []
    transport.resume_reading()
    transport.resume_reading()
    await until(lambda: protocol.events == [b"later"])
    asgi.received.put_nowait({"type": "websocket.receive", "bytes": b""})
    other = Recorder()
    transport.set_protocol(other)
    asgi.received.put_nowait({"type": "websocket.receive", "bytes": b"more", "text": None})
    await until(lambda: other.events == [b"more"])


async def test_writing_pauses_above_the_high_mark_and_resumes_at_the_low_one(carried, until):
    transport, asgi, protocol, _ = carried
    asgi.takes.clear()
    transport.write(b"")
    transport.write(b"x" * (HIGH_WATER_BYTES))
    assert protocol.events == []
    transport.write(b"y")
    transport.write(b"z" * (MESSAGE_BYTES_MAX + 1))
    assert protocol.events == ["pause"]
    asgi.takes.set()
    await until(lambda: protocol.events == ["pause", "resume"])
    assert [len(message["bytes"]) for message in asgi.sent] == [HIGH_WATER_BYTES, 1, MESSAGE_BYTES_MAX, 1]
    assert transport.get_write_buffer_size() == 0


async def test_closing_comes_behind_what_was_written(carried, until):
    transport, asgi, protocol, running = carried
    transport.write(b"goodbye")
    transport.close()
    transport.close()
    transport.write(b"too late")
    assert transport.is_closing()
    await until(lambda: len(asgi.sent) == 2)
    assert [message["type"] for message in asgi.sent] == ["websocket.send", "websocket.close"]
    asgi.received.put_nowait({"type": "websocket.receive", "bytes": b"not read any more"})
    asgi.received.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await running
    assert protocol.events == ["lost"]


async def test_an_asgi_server_that_sends_nothing_is_dropped_after_the_time_limit():
    asgi, protocol = Asgi(), Recorder()
    transport = AsgiTransport({}, asgi.receive, asgi.send, protocol, linger_s=0.02)
    running = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    asgi.takes.clear()
    transport.write(b"goodbye")
    transport.close()
    await running
    assert protocol.events == ["lost"]
    assert asgi.sent == []


async def test_aborting_ends_at_once(carried):
    transport, asgi, protocol, running = carried
    asgi.takes.clear()
    transport.write(b"never sent")
    transport.abort()
    transport.abort()
    await running
    assert protocol.events == ["lost"]
    transport.abort()


@pytest.mark.parametrize(("error", "is_logged"), [(OSError("gone"), False), (ValueError("broken"), True)])
async def test_a_server_that_fails_to_send_ends_the_link(carried, error, is_logged, caplog):
    transport, asgi, protocol, running = carried
    asgi.error = error
    transport.write(b"data")
    await running
    assert protocol.events == ["lost"]
    assert ("the ASGI server failed to send" in caplog.text) is is_logged


async def test_who_hears_of_the_end_may_abort(carried):
    transport, asgi, protocol, running = carried
    protocol.connection_lost = lambda exc: transport.abort()
    asgi.received.put_nowait({"type": "websocket.disconnect", "code": 1006})
    await running
    assert transport.is_closing()


async def test_cancelling_breaks_the_link_and_is_not_swallowed(carried):
    _, _, protocol, running = carried
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert protocol.events == ["lost"]


async def test_a_time_out_of_the_servers_own_is_not_swallowed():
    async def receive():
        raise TimeoutError("of the ASGI server")

    transport = AsgiTransport({}, receive, None, Recorder())
    with pytest.raises(TimeoutError, match="of the ASGI server"):
        await transport.run()
    assert transport.get_extra_info("peername") == ""


async def test_without_the_extension_for_answers_a_denial_has_no_text():
    asgi = Asgi()
    asgi.received.put_nowait({"type": "websocket.connect"})
    await landline.asgi(landline.Server())({"type": "websocket", "headers": []}, asgi.receive, asgi.send)
    assert asgi.sent == [{"type": "websocket.close"}]


async def test_a_server_belongs_to_one_event_loop():
    app = landline.asgi(landline.Server())

    async def begin():
        asgi = Asgi()
        asgi.received.put_nowait({"type": "websocket.connect"})
        await app({"type": "websocket", "headers": []}, asgi.receive, asgi.send)

    await begin()
    with pytest.raises(RuntimeError, match="belongs to the event loop in which it started"):
        await asyncio.to_thread(asyncio.run, begin())


# uvicorn as a process, and signals.

APP = """
import contextlib, sys
import landline
from starlette.applications import Starlette
from starlette.routing import Mount

server = landline.Server()

@server.on("farewell")
async def farewell(line, body):
    line.send_nowait("farewell")

@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    await server.close()

alone = landline.asgi(server)
mounted = Starlette(routes=[Mount("/line", landline.asgi(server))], lifespan=lifespan)
untouched = landline.asgi(server, handle_signals=False)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("app", "path", "told"),
    [
        ("alone", "/", ("closed by peer", landline.Code.GOING_AWAY)),
        ("mounted", "/line/", ("closed by peer", landline.Code.GOING_AWAY)),
        ("untouched", "/", ("link lost", None)),
    ],
)
async def test_uvicorn_that_is_told_to_stop_lets_the_server_say_goodbye(
    number, app, path, told, tmp_path, states, until
):
    (tmp_path / "module.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        port = listening.getsockname()[1]
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", f"module:{app}", "--fd", str(listening.fileno())),
            cwd=tmp_path,
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
    seen = states()
    connector = landline.connect(
        f"ws://127.0.0.1:{port}{path}",
        options=DIRECT,
        backoff=landline.Backoff(first_s=0.05, cap_s=0.2),
        on_state=seen,
    )
    line = await connector
    program.send_signal(number)
    _, err = await program.communicate()
    # As uvicorn ends without lines.
    assert program.returncode in {-number, 0, 1}, err.decode()
    assert b"Traceback" not in err or number == signal.SIGINT, err.decode()
    await until(lambda: seen.find(landline.LineState.RECONNECTING))
    [change, *_] = seen.find(landline.LineState.RECONNECTING)
    assert (change.cause.value, change.code) == told
    line.abort(landline.Code.NORMAL)
    await line.close()


async def test_a_second_signal_goes_through_at_once(until):
    """A peer that does not take what was sent holds the goodbye up; who presses Ctrl-C again does not wait for it."""
    server = landline.Server()

    class Held(uvicorn.Server):
        def __init__(self):
            self.heard = []

        def handle_exit(self, number, frame):
            self.heard.append(number)

    held = Held()
    before = {number: signal.signal(number, held.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        async with (
            serve(landline.asgi(server)) as port,
            landline.connect(f"ws://127.0.0.1:{port}", options=DIRECT) as line,
        ):
            [other] = server.lines
            other.send_nowait("nobody reads this")
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: server._host._is_closing)
            assert held.heard == []
            os.kill(os.getpid(), signal.SIGINT)
            await until(lambda: held.heard == [signal.SIGINT])
            async for message in line:
                assert message == "nobody reads this"
                break
            await until(lambda: held.heard == [signal.SIGINT, signal.SIGTERM])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_signals_of_others_are_left_alone():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def live():
        server = landline.Server()
        async with serve(landline.asgi(server)):
            # The loop's own handler of Ctrl-C is none of uvicorn's.
            return {number: signal.getsignal(number) for number in before}

    during = asyncio.run(live())
    assert during[signal.SIGTERM] == before[signal.SIGTERM]
    assert "uvicorn" not in repr(during[signal.SIGINT])
    assert "SignalInterceptor" not in repr(during)
    assert {number: signal.getsignal(number) for number in before} == before
