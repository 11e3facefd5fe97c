"""Calls over real UDP sockets, on both event loops."""

import asyncio
import itertools
import logging
import random
import socket
import sys
import time

import pytest

import landline
from landline.codes import Operation
from landline.session.auth import seal_secret
from landline.udp_calls import sockets as udp
from landline.udp_calls.call_client import ClientCall
from landline.udp_calls.wire import Aead, DatagramKind

TOKEN = landline.SharedToken("a secret of sixteen bytes or more")


@pytest.fixture(autouse=True)
def no_cookies(monkeypatch):
    """Start every test without cookies, like a new process."""
    udp._cookies.clear()


class Desk:
    """A server with handlers that record their calls."""

    def __init__(self, **arguments) -> None:
        self.server = landline.Server(**({"auth": TOKEN} | arguments))
        self.started = 0
        self.cancelled = 0
        self.callers = []
        self.go = asyncio.Event()
        self.server.on("echo")(self.echo)
        self.server.on("add", list[int])(lambda caller, numbers: sum(numbers))
        self.server.on("refuse")(self.refuse)
        self.server.on("wait")(self.wait)
        self.server.on("big")(lambda caller, size: bytes(size))
        self.server.on("break")(lambda caller, body: 1 / 0)

    def echo(self, caller, body):
        self.started += 1
        self.callers.append(caller)
        return body

    async def refuse(self, caller, body):
        raise landline.RequestError("not_today", "come back tomorrow")

    async def wait(self, caller, body):
        self.started += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return body


@pytest.fixture
def desk():
    return Desk()


class Relay(asyncio.DatagramProtocol):
    """A relay between clients and a server; ``fate(way, datagram)`` returns how many copies of each arrive."""

    def __init__(self, target, fate=lambda way, datagram: 1) -> None:
        self.target = (target.host, target.port)
        self.fate = fate
        self.seen = []
        self.outward = {}
        self.transport = None

    async def __aenter__(self) -> str:
        loop = asyncio.get_running_loop()
        self.loop = loop
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        return f"udp://127.0.0.1:{self.transport.get_extra_info('sockname')[1]}"

    async def __aexit__(self, *details) -> None:
        self.transport.close()
        for sock in self.outward.values():
            self.loop.remove_reader(sock)
            sock.close()
        await asyncio.sleep(0)

    def datagram_received(self, data, addr) -> None:
        self.seen.append(("up", data))
        if addr not in self.outward:
            sock = self.outward[addr] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            self.loop.add_reader(sock, self.answered, sock, addr)
        for _ in range(self.fate("up", data)):
            self.outward[addr].sendto(data, self.target)

    def answered(self, sock, addr) -> None:
        try:
            data = sock.recv(2000)
        except (BlockingIOError, ConnectionRefusedError):
            return
        self.seen.append(("down", data))
        for _ in range(self.fate("down", data)):
            self.transport.sendto(data, addr)


@pytest.fixture
def impatient(monkeypatch):
    """Clients that repeat a call after some milliseconds instead of half a second."""
    monkeypatch.setattr("landline.udp_calls.call_client.RESEND_FIRST_S", 0.01)
    monkeypatch.setattr("landline.udp_calls.call_client.RESEND_CAP_S", 0.05)


async def call(url, name, value=None, **arguments):
    return await landline.call(str(url), name, value, **({"auth": TOKEN, "timeout": 10} | arguments))


# Successful calls


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_calls_are_answered_by_the_handlers_of_the_server(desk, host):
    async with desk.server.listen(f"udp://{host}:0") as endpoint:
        assert endpoint.scheme == "udp"
        assert endpoint.port
        assert await call(endpoint, "echo", {"a": 1}, identity="kiosk-7") == {"a": 1}
        assert await call(endpoint, "echo", b"raw") == b"raw"
        assert await call(endpoint, "add", [1, 2, 3], response_type=int) == 6
    assert desk.callers[0].identity == "kiosk-7"
    assert desk.callers[0].peer.startswith(host + ":")
    assert desk.server.call_counts == landline.CallCounts(accepted=3, answered=3, retried=1)


async def test_one_datagram_each_way_once_the_address_is_known(desk):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        relay = Relay(endpoint)
        async with relay as url:
            await call(url, "echo")
            await call(url, "echo")
    kinds = [(way, DatagramKind(data[1]).name) for way, data in relay.seen]
    first = [("up", "CALL"), ("down", "RETRY"), ("up", "CALL"), ("down", "REPLY")]
    assert kinds == [*first, ("up", "CALL"), ("down", "REPLY")]


async def test_lines_and_calls_share_a_server_and_its_handlers(desk):
    async with (
        desk.server.listen("tcp://127.0.0.1:0") as lines,
        desk.server.listen("udp://127.0.0.1:0") as calls,
    ):
        assert await call(calls, "echo", 1) == await call(lines, "echo", 1) == 1
    assert [type(caller).__name__ for caller in desk.callers] == ["CallPeer", "Line"]
    assert [caller.peer.split(":")[0] for caller in desk.callers] == ["127.0.0.1"] * 2


async def test_many_at_once(desk):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        answers = await asyncio.gather(*(call(endpoint, "echo", number, timeout=120) for number in range(50)))
    assert answers == list(range(50))
    assert desk.started == 50


async def test_anonymous_calls():
    desk = Desk(auth=None)
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        assert await landline.call(str(endpoint), "echo", 1, identity="anyone") == 1
        with pytest.raises(landline.ConnectFailed, match="no landline server answered"):
            await call(endpoint, "echo", timeout=0.2)
    assert desk.callers[0].identity == "anyone"


# Errors


async def test_error_replies_are_raised(desk, caplog):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.NoHandler, match="nonsense"):
            await call(endpoint, "nonsense")
        with pytest.raises(landline.RequestError, match="come back tomorrow") as caught:
            await call(endpoint, "refuse")
        assert caught.value.code == "not_today"
        with pytest.raises(landline.RequestError, match="does not fit"):
            await call(endpoint, "add", "text")
        with pytest.raises(
            landline.RequestError, match=r"1201 bytes, more than a datagram \(1200\); call over tls://"
        ):
            await call(endpoint, "big", 1153)
        assert await call(endpoint, "big", 1152) == bytes(1152)
        with (
            caplog.at_level(logging.CRITICAL, "landline"),
            pytest.raises(landline.RequestError, match="failed"),
        ):
            await call(endpoint, "break")


@pytest.mark.parametrize("name", ["plain", "async"])
async def test_a_handler_that_awaits_a_cancelled_task_gets_an_answer(desk, name):
    def cancelled():
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        return future

    @desk.server.on("plain")
    def plain(caller, value):
        return cancelled().result()

    @desk.server.on("async")
    async def coroutine(caller, value):
        return await cancelled()

    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.RequestError, match=f"the handler for '{name}' failed"):
            await call(endpoint, name, timeout=5.0)


async def test_a_call_too_large_is_not_sent(desk):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.MessageTooLarge, match="call over tls:// or quic://"):
            await call(endpoint, "echo", bytes(1200))
    assert desk.server.call_counts == landline.CallCounts()


async def test_without_a_server_the_handler_has_not_run(desk):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        nowhere = f"udp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(landline.ConnectFailed, match=r"no landline server answered within 0\.1 s"):
            await call(nowhere, "echo", timeout=0.1)
        async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
            assert await landline.call([nowhere, str(endpoint)], "echo", 1, auth=TOKEN, timeout=1) == 1
    with pytest.raises(landline.ConnectFailed, match=r"udp://nobody\.invalid:5463: "):
        await call("udp://nobody.invalid", "echo", timeout=5)


async def test_another_token_gets_no_answer(desk):
    other = landline.SharedToken("another secret of enough bytes")
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.ConnectFailed):
            await call(endpoint, "echo", auth=other, timeout=0.2)
    assert desk.started == 0
    assert desk.server.call_counts.unreadable >= 1


async def test_without_an_answer_in_time_the_outcome_is_unknown(desk, until, impatient):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.RequestTimeout, match=r"within 0\.3 s"):
            await call(endpoint, "wait", timeout=0.3)
        assert desk.started == 1
        assert desk.server.call_counts.ignored > 0
        task = asyncio.create_task(call(endpoint, "wait"))
        await until(lambda: desk.started == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: desk.cancelled == 2)


@pytest.mark.asyncio_only(reason="uvloop's clock cannot be replaced")
async def test_the_error_names_the_timeout_that_was_asked_for(desk, monkeypatch, impatient):
    """However late this process gets the processor."""
    loop = asyncio.get_running_loop()
    looks = itertools.count()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + next(looks) * 0.002)
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.RequestTimeout, match=r"within 0\.4 s"):
            await call(endpoint, "wait", timeout=0.4)


async def test_closing_the_server_waits_for_cancelled_handlers(desk, until):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        task = asyncio.create_task(call(endpoint, "wait", timeout=0.5))
        await until(lambda: desk.started == 1)
    assert desk.cancelled == 1
    with pytest.raises(landline.RequestTimeout):
        await task


async def test_one_listener_of_several_stops_with_its_handlers(desk, until):
    async with desk.server.listen("tcp://127.0.0.1:0") as lines:
        async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
            task = asyncio.create_task(call(endpoint, "wait", timeout=0.5))
            await until(lambda: desk.started == 1)
        assert desk.cancelled == 1
        assert await call(lines, "echo", 1) == 1
        with pytest.raises(landline.RequestTimeout):
            await task


async def test_a_handler_may_close_the_server(desk):
    closed = []

    @desk.server.on("close")
    async def close(caller, body):
        await desk.server.close()
        closed.append(caller)

    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        serving = asyncio.create_task(desk.server.serve_forever())
        # The closed server sends no answer.
        with pytest.raises(landline.RequestTimeout):
            await call(endpoint, "close", timeout=0.5)
        await serving
    assert len(closed) == 1


async def test_wrong_uses_are_named(desk):
    with pytest.raises(landline.ConfigurationError, match=r"carries single calls .* use another scheme"):
        landline.connect("udp://host")
    with pytest.raises(landline.ConfigurationError, match="over udp:// needs a timeout"):
        await call("udp://host", "echo", timeout=None)

    class Other:
        """Proves itself in a handshake, and has no secret for datagrams."""

        claim = identify = server_proof = accepts_server = lambda self, *_, **__: None

    class Picky(landline.SharedToken):
        """Would let in some, and is not asked for a datagram."""

        def identify(self, claim, *, server_nonce, client_nonce):
            return None

    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with pytest.raises(landline.AddressInUse, match="is already in use by another program"):
            async with landline.Server().listen(str(endpoint)):
                pytest.fail("two servers on one port")
        with pytest.raises(landline.ConfigurationError, match="Other needs a handshake"):
            await call(endpoint, "echo", auth=Other())
    for auth in (Other(), Picky("x" * 16)):
        with pytest.raises(landline.ConfigurationError, match="udp:// needs a SharedToken, or Anonymous"):
            async with landline.Server(auth=auth).listen("udp://127.0.0.1:0"):
                pytest.fail("listens without a key")


async def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "landline.udp_calls.sockets", None)
    with pytest.raises(landline.MissingExtra, match=r"pip install 'landline\[udp\]'"):
        await call("udp://127.0.0.1", "echo")


async def test_a_server_that_names_a_udp_alternative_is_not_followed(desk, until, caplog, states, quick):
    seen = states()
    async with desk.server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), auth=TOKEN, backoff=quick, on_state=seen)
        async with connector:
            [line] = desk.server.lines
            line.abort(landline.Code.GOING_AWAY, "moved", alternatives=("udp://127.0.0.1:1",))
            await until(lambda: seen.names[-1] == "online" and len(seen.names) > 1)
    assert "carries single calls" in caplog.text


# Faulty networks


@pytest.mark.parametrize("seed", range(3))
async def test_a_network_that_loses_and_repeats(desk, seed, impatient):
    rng = random.Random(seed)
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        relay = Relay(endpoint, lambda way, data: rng.choice([0, 0, 1, 1, 2, 3]))
        async with relay as url:
            answers = await asyncio.gather(*(call(url, "echo", number, timeout=20) for number in range(40)))
    assert answers == list(range(40))
    assert desk.started == 40, "a handler ran twice"
    assert desk.server.call_counts.accepted == 40
    assert desk.server.call_counts.repeated > 0


async def test_an_answer_that_is_lost_is_repeated_and_the_handler_is_not(desk, impatient):
    lost = []

    def fate(way, data):
        if data[1] == DatagramKind.REPLY and len(lost) < 3:
            lost.append(data)
            return 0
        return 1

    async with desk.server.listen("udp://127.0.0.1:0") as endpoint, Relay(endpoint, fate) as url:
        assert await call(url, "echo", 7) == 7
    assert len(lost) == 3
    assert len(set(lost)) == 1
    assert desk.started == 1


async def test_a_call_is_repeated_to_a_restarted_server_only_if_safe(desk, until, impatient):
    """The next process has another key for its cookies, and remembers nothing."""
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        assert await call(endpoint, "echo", 1) == 1
    port = endpoint.port
    up_s = 0.0
    after = Desk(clock=lambda: time.monotonic() + up_s)
    async with after.server.listen(f"udp://127.0.0.1:{port}"):
        # A call that started long after the server cannot have run before its start.
        up_s = 60.0
        assert await call(f"udp://127.0.0.1:{port}", "echo", 2) == 2
        waiting = asyncio.create_task(call(f"udp://127.0.0.1:{port}", "wait"))
        await until(lambda: after.started == 2)
    # Its clock stands still: it never remembers a call that was sent with an older cookie.
    last = Desk(clock=lambda: 1000.0)
    async with last.server.listen(f"udp://127.0.0.1:{port}"):
        with pytest.raises(landline.RequestLost, match="restarted, or has dropped its record"):
            await waiting
        assert last.started == 0
        # So the next call must start without a cookie.
        assert await call(f"udp://127.0.0.1:{port}", "echo", 3) == 3


# Strangers.


def receive_all(sock: socket.socket) -> list[bytes]:
    received = []
    while True:
        try:
            received.append(sock.recv(2000))
        except BlockingIOError:
            return received


async def test_recorded_datagrams_do_nothing_also_after_a_restart(desk, until):
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        relay = Relay(endpoint)
        async with relay as url:
            await call(url, "echo", "secret")
        recorded = [data for way, data in relay.seen if way == "up"]
        assert len(recorded) == 2
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        stranger.setblocking(False)
        with stranger:
            before = desk.server.call_counts.repeated + desk.server.call_counts.retried
            for data in recorded:
                stranger.sendto(data, ("127.0.0.1", endpoint.port))
            counts = desk.server.call_counts
            await until(lambda: counts.repeated + counts.retried == before + 2)
        assert desk.started == 1
    after = Desk()
    async with after.server.listen(f"udp://127.0.0.1:{endpoint.port}"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for data in recorded:
                stranger.sendto(data, ("127.0.0.1", endpoint.port))
            await until(lambda: after.server.call_counts.retried == 2)
    assert after.started == 0
    assert after.server.call_counts.accepted == 0


async def test_an_unproven_address_gets_less_than_three_times_its_bytes(desk, until):
    """Measured on the wire: each datagram gets one answer, and no other follows."""
    aead = Aead(seal_secret(TOKEN))
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sent = 0
            received = []
            for size in (0, 1, 100, 1000):
                for cookie in (b"", bytes(24), random.Random(size).randbytes(24)):
                    asked = ClientCall(
                        aead=aead,
                        random=random.Random(),
                        now=0.0,
                        name="big",
                        body=bytes(size),
                        is_packed=False,
                        cookie=cookie,
                    )
                    datagram = asked.data_to_send(0.0)
                    for _ in range(3):
                        got = []
                        sock.sendto(datagram, ("127.0.0.1", endpoint.port))
                        sent += len(datagram)
                        await until(lambda got=got: got.extend(receive_all(sock)) or got)
                        assert sum(map(len, got)) <= 3 * len(datagram)
                        received += got
            assert len(received) == desk.server.call_counts.retried == 36
            assert sum(map(len, received)) <= 3 * sent
    assert desk.server.call_counts.accepted == 0


async def test_garbage_gets_no_answer(desk, until):
    rng = random.Random(4)
    async with desk.server.listen("udp://127.0.0.1:0") as endpoint:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            for number in range(200):
                head = b"\x01" + bytes((rng.randrange(5),)) if number % 2 else b""
                sock.sendto(head + rng.randbytes(rng.randrange(1300)), ("127.0.0.1", endpoint.port))
                await until(lambda number=number: desk.server.call_counts.unreadable == number + 1)
            assert receive_all(sock) == []
        assert await call(endpoint, "echo", 1) == 1


async def test_an_authenticated_server_that_violates_the_protocol_is_named():
    aead = Aead(seal_secret(TOKEN))

    class Nonsense(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, addr):
            self.transport.sendto(b"noise", addr)
            self.transport.sendto(aead.seal(DatagramKind.REPLY, bytes(16), bytes(12), b"another call"), addr)
            opened = aead.open(data)
            text = bytes((Operation.CANCEL,)) + b"what?"
            self.transport.sendto(aead.seal(DatagramKind.REPLY, opened.call_id, bytes(12), text), addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Nonsense, local_addr=("127.0.0.1", 0))
    try:
        with pytest.raises(landline.ProtocolError, match="a REPLY has an invalid header: 05 77"):
            await call(f"udp://127.0.0.1:{transport.get_extra_info('sockname')[1]}", "echo")
    finally:
        transport.close()
        await asyncio.sleep(0)


async def test_cookies_of_few_servers_are_kept(desk, monkeypatch):
    monkeypatch.setattr(udp, "COOKIES_KEPT_MAX", 1)
    other = Desk()
    async with (
        desk.server.listen("udp://127.0.0.1:0") as one,
        other.server.listen("udp://127.0.0.1:0") as two,
    ):
        for endpoint in (one, two, two, one):
            await call(endpoint, "echo")
    assert (desk.server.call_counts.retried, other.server.call_counts.retried) == (2, 1)
