"""One request without a line to keep. Real sockets, both event loops."""

import asyncio
import contextlib
import gc
import socket

import msgspec
import pytest
import uvloop

import landline
from landline.session.constants import Kind
from landline.session.frames import FrameReader
from landline.testing import FaultProxy

TOKEN = "a secret of sixteen bytes or more"


class Sum(msgspec.Struct):
    total: int


class Desk:
    """A server with handlers that tell what became of them."""

    def __init__(self, **arguments) -> None:
        self.server = landline.Server(**arguments)
        self.started = 0
        self.cancelled = 0
        self.identities = []
        self.server.on("echo")(self.echo)
        self.server.on("add", list[int])(lambda line, numbers: Sum(sum(numbers)))
        self.server.on("refuse")(self.refuse)
        self.server.on("block")(self.block)

    def echo(self, line, body):
        self.started += 1
        self.identities.append(line.identity)
        return body

    def refuse(self, line, body):
        raise landline.RequestError("not_today", "come back tomorrow")

    async def block(self, line, body):
        self.started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def nowhere():
    """The URL of a port where nobody listens, and nobody will: it is bound."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@contextlib.asynccontextmanager
async def recording(endpoint):
    """A relay that records who said which frames, in order; yields its URL and the record."""
    record = []
    tasks = set()

    async def pump(reader, writer, side):
        frames = FrameReader()
        while data := await reader.read(65536):
            record.extend((side, Kind(kind).name) for kind, _ in frames.feed(data))
            writer.write(data)
        writer.close()

    async def connected(reader, writer):
        tasks.add(asyncio.current_task())
        other_reader, other_writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(pump(reader, other_writer, "client"))
            pumps.create_task(pump(other_reader, writer, "server"))

    relay = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{relay.sockets[0].getsockname()[1]}", record
    finally:
        relay.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("scheme", ["tcp", "tls", "unix"])
async def test_a_call_on_every_scheme(desk, scheme, tmp_path, certificates, until):
    url = f"unix://{tmp_path}/line" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    serving = landline.TransportOptions(tls=certificates.server) if scheme == "tls" else None
    calling = landline.TransportOptions(tls=certificates.client) if scheme == "tls" else None
    async with desk.server.listen(url, options=serving) as endpoint:
        assert await landline.call(str(endpoint), "echo", {"a": 1}, options=calling) == {"a": 1}
        assert await landline.call(str(endpoint), "echo", b"raw", options=calling) == b"raw"
        assert await landline.call(str(endpoint), "echo", options=calling) is None
        answer = await landline.call(str(endpoint), "add", [1, 2], options=calling, response_type=Sum)
        assert answer == Sum(3)
        await until(lambda: not desk.server.lines)


async def test_a_program_may_end_with_its_call(desk, certificates):
    """TLS says goodbye in turns; a transport that is still open when its loop closes warns of a leak."""
    calling = landline.TransportOptions(tls=certificates.client)

    async def ask(url):
        return await landline.call(url, "echo", 1, options=calling)

    async with desk.server.listen(
        "tls://127.0.0.1:0", options=landline.TransportOptions(tls=certificates.server)
    ) as endpoint:
        for run in (asyncio.run, uvloop.run):
            assert await asyncio.to_thread(lambda run=run: run(ask(str(endpoint)))) == 1
    gc.collect()


async def test_a_call_returns_when_its_connection_is_closed(desk):
    ended = asyncio.Event()
    async with (
        desk.server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
    ):

        @desk.server.on_state
        def hold_the_end(line, change):
            if change.state is landline.LineState.CLOSED:
                # The server closes its end after this.
                proxy.hold("down")
                ended.set()

        call = asyncio.create_task(landline.call(proxy.url, "echo", 1))
        await ended.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not call.done()
        proxy.heal()
        assert await call == 1


async def test_the_identity_of_a_caller_is_proven():
    desk = Desk(auth=landline.SharedToken(TOKEN))
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        token = landline.SharedToken(TOKEN)
        await landline.call(str(endpoint), "echo", auth=token, identity="kiosk-7")
        assert desk.identities == ["kiosk-7"]
        with pytest.raises(landline.Rejected, match="token is missing or wrong"):
            await landline.call(str(endpoint), "echo")
        with pytest.raises(landline.Rejected):
            await landline.call(
                [str(endpoint), "unix:///nowhere"], "echo", auth=landline.SharedToken("x" * 16)
            )
    assert desk.started == 1


async def test_a_call_sends_only_the_necessary_frames(desk, until):
    ends = []
    desk.server.on_state(lambda line, change: ends.append((change.state.value, change.code)))
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint, recording(endpoint) as (url, record):
        assert await landline.call(url, "echo", 1) == 1
        await until(lambda: len(ends) == 2)
    assert record == [
        ("server", "CHALLENGE"),
        ("client", "HELLO"),
        ("server", "WELCOME"),
        ("client", "DATA"),
        ("server", "DATA"),
        ("client", "ACK"),
        ("client", "BYE"),
    ]
    assert ends == [("online", None), ("closed", landline.Code.NORMAL)]


async def test_an_error_answer_is_raised(desk):
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.NoHandler, match="nonsense"):
            await landline.call(str(endpoint), "nonsense")
        with pytest.raises(landline.RequestError, match="come back tomorrow") as caught:
            await landline.call(str(endpoint), "refuse")
        assert caught.value.code == "not_today"
        with pytest.raises(landline.RequestError, match="does not fit"):
            await landline.call(str(endpoint), "add", "text")
        with pytest.raises(landline.RequestError, match="the answer to 'echo' does not fit") as caught:
            await landline.call(str(endpoint), "echo", "text", response_type=int)
        assert caught.value.code == "bad_response"


async def test_a_message_too_large_is_not_sent(until):
    desk = Desk(limits=landline.Limits(message_bytes=1024))
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.MessageTooLarge):
            await landline.call(str(endpoint), "echo", bytes(2000))
        await until(lambda: not desk.server.lines)
    assert desk.started == 0


async def test_a_value_without_a_form_costs_no_connection(nowhere):
    with pytest.raises(TypeError):
        await landline.call(nowhere, "echo", object())


async def test_unread_messages_do_not_stop_the_answer():
    desk = Desk(
        limits=landline.Limits(window_bytes=65536 * 4), send_buffer=landline.SendBuffer(messages=1000)
    )

    @desk.server.on_line
    async def greet(line):
        for _ in range(300):
            await line.send(bytes(4096))

    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        assert await landline.call(str(endpoint), "echo", 1) == 1


# Failures.


async def test_no_server_answers(nowhere, tmp_path):
    with pytest.raises(landline.ConnectFailed, match=r"tcp://127.*connection refused"):
        await landline.call(nowhere, "echo")
    with pytest.raises(landline.ConnectFailed, match="no such socket"):
        await landline.call([nowhere, f"unix://{tmp_path}/none"], "echo")


async def test_the_next_url_is_for_those_that_cannot_be_reached(desk, nowhere):
    full = landline.Server(max_lines=1)
    async with (
        desk.server.listen("tcp://127.0.0.1:0") as endpoint,
        full.listen("tcp://127.0.0.1:0") as busy,
        landline.connect(str(busy)),
    ):
        assert await landline.call([nowhere, str(busy), str(endpoint)], "echo", 1) == 1
        with pytest.raises(landline.Rejected, match="open already"):
            await landline.call([nowhere, str(busy)], "echo")
        with pytest.raises(landline.NoHandler):
            await landline.call([str(endpoint), nowhere], "nonsense")


async def test_one_that_accepts_and_says_nothing_does_not_take_all_the_time(desk):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
            assert await landline.call([mute, str(endpoint)], "echo", 1, timeout=2) == 1
        with pytest.raises(landline.ConnectFailed, match="no connection within"):
            await landline.call(mute, "echo", timeout=0.05)


async def test_another_kind_of_server_is_a_failed_connection(until):
    over = []

    async def greet(reader, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n" * 10)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        over.append(writer)

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        with pytest.raises(landline.ConnectFailed) as caught:
            await landline.call(f"tcp://127.0.0.1:{other.sockets[0].getsockname()[1]}", "echo")
        assert isinstance(caught.value.__cause__, landline.ProtocolError)
        await until(lambda: over)
    finally:
        other.close()


async def test_no_answer_in_time_cancels_the_handler(desk, until):
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.RequestTimeout, match=r"within 0\.2 s") as caught:
            await landline.call(str(endpoint), "block", timeout=0.2)
        assert isinstance(caught.value, TimeoutError)
        await until(lambda: desk.cancelled == 1 and not desk.server.lines)


async def test_cancelling_cancels_the_handler_and_hangs_up(desk, until):
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        task = asyncio.create_task(landline.call([str(endpoint), str(endpoint)], "block", timeout=None))
        await until(lambda: desk.started == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: desk.cancelled == 1 and not desk.server.lines)
    assert desk.started == 1


@pytest.mark.parametrize("way", ["cut", "reset"])
async def test_a_connection_lost_after_asking_is_an_unknown_fate(desk, until, way):
    async with (
        desk.server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
    ):
        task = asyncio.create_task(landline.call([proxy.url, str(endpoint)], "block"))
        await until(lambda: desk.started == 1)
        getattr(proxy, way)()
        with pytest.raises(landline.RequestLost):
            await task
    assert desk.started == 1, "a request that may have been received was asked again"


async def test_a_server_that_leaves_is_an_unknown_fate(desk, until):
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        task = asyncio.create_task(landline.call([str(endpoint), "unix:///nowhere"], "block"))
        await until(lambda: desk.started == 1)
    with pytest.raises(landline.RequestLost, match="the server stops"):
        await task


async def test_a_server_that_dies_is_noticed_without_a_timeout(until):
    desk = Desk(heartbeat=landline.Heartbeat(interval_s=0.1, timeout_s=0.1))
    async with (
        desk.server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
    ):
        task = asyncio.create_task(landline.call(proxy.url, "block", timeout=None))
        await until(lambda: desk.started == 1)
        proxy.hold("both")
        with pytest.raises(landline.RequestLost, match="nothing heard"):
            await task


async def test_a_connection_that_ends_before_the_request_goes_to_the_next_url(desk):
    other = landline.Server()

    @other.on_state
    def leave(line, change):
        if change.state is landline.LineState.ONLINE:
            line.abort(landline.Code.GOING_AWAY, "moved")

    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint, other.listen("tcp://127.0.0.1:0") as gone:
        assert await landline.call([str(gone), str(endpoint)], "echo", 1) == 1
        with pytest.raises(landline.ConnectFailed, match="before the request was sent: moved"):
            await landline.call(str(gone), "echo", 1)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"url": []}, r"call\(\) needs at least one URL"),
        ({"url": "http://host"}, "does not begin with one of"),
        ({"url": "tcp://host", "identity": "é" * 101}, "the identity has 202 bytes"),
    ],
)
async def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(landline.ConfigurationError, match=text):
        await landline.call(name="echo", **arguments)
