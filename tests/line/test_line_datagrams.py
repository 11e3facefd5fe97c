"""Datagrams over lines: in the stream of real sockets, and on a transport that carries datagrams of its own."""

import asyncio
import logging

import msgspec
import pytest
from tests import datagram_transport
from tests.line_internals import link_of, session_of, transport_of

import landline
from landline.session.constants import DATAGRAMS_UNREAD_MAX, DATAGRAMS_WAITING_MAX, Kind
from landline.session.frames import encode_frame
from landline.transports.urls import SCHEMES


class Position(msgspec.Struct):
    x: float
    y: float


def recording(server):
    """What datagrams without a name, and those named ``state``, brought to the server."""
    seen = []
    server.on_datagram(lambda line, value: seen.append(value))
    server.on_datagram("state")(lambda line, value: seen.append(("state", value)))
    return seen


@pytest.fixture
def loop_url(monkeypatch):
    monkeypatch.setitem(SCHEMES, "loop", datagram_transport.SCHEME)
    datagram_transport.ends.clear()
    return "loop://here"


# In the stream.


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_values_arrive_in_both_directions(pair, until, tmp_path, scheme):
    server = landline.Server()
    there = recording(server)
    here = []
    url = f"unix://{tmp_path}/line" if scheme == "unix" else "tcp://127.0.0.1:0"
    async with server.listen(url) as endpoint:
        connector = landline.connect(str(endpoint))

        @connector.on_datagram
        def received(line, value):
            here.append((line, value))
            assert line.send_datagram(value, name="state")

        async with connector as line:
            [other] = server.lines
            assert line.send_datagram({"a": [1, 2.5, None]})
            assert line.send_datagram(b"raw")
            assert other.send_datagram("ü")
            await until(lambda: len(there) == 3)
    assert there == [{"a": [1, 2.5, None]}, b"raw", ("state", "ü")]
    assert here == [(line, "ü")]
    assert line.datagrams_dropped == line.datagrams_ignored == server.datagrams_dropped == 0


async def test_the_type_of_a_handler_is_checked(pair, until, caplog):
    server = landline.Server()
    seen = []

    @server.on_datagram("position", Position)
    def moved(line, position):
        seen.append(position)

    async with pair(server) as (line, other):
        line.send_datagram({"x": "far"}, name="position")
        line.send_datagram(b"raw", name="position")
        line.send_datagram(Position(1, 2), name="position")
        await until(lambda: seen)
        assert seen == [Position(1, 2)]
        assert other.datagrams_ignored == 2
        assert "sent a datagram 'position' that does not fit" in caplog.text
        assert other.state is landline.LineState.ONLINE


async def test_a_datagram_without_a_handler_is_only_counted(pair, until, caplog):
    caplog.set_level(logging.DEBUG)
    server = landline.Server()
    async with pair(server) as (line, other):
        line.send_datagram("nobody")
        line.send_datagram("listens", name="state")
        await line.send("message")
        assert await anext(other) == "message"
        assert other.datagrams_ignored == 2
        assert line.datagrams_ignored == 0
        assert "landline" not in {record.name for record in caplog.records}


async def test_a_handler_that_fails_is_logged_and_the_next_one_runs(pair, until, caplog):
    server = landline.Server()
    seen = []

    @server.on_datagram
    def divide(line, value):
        seen.append(1 / value)

    async with pair(server) as (line, other):
        for value in (0, 1):
            line.send_datagram(value)
        await until(lambda: seen)
        assert "the handler for datagrams '' of" in caplog.text
        assert "ZeroDivisionError" in caplog.text
        assert other.datagrams_ignored == 0


@pytest.mark.parametrize("register", [landline.Server(), landline.connect("tcp://nowhere")])
def test_an_invalid_datagram_handler_raises(register):
    async def coroutine(line, value):
        raise AssertionError

    with pytest.raises(landline.ConfigurationError, match="a coroutine function; a datagram is not kept"):
        register.on_datagram(coroutine)
    register.on_datagram(print)
    with pytest.raises(landline.ConfigurationError, match="a handler for datagrams '' already"):
        register.on_datagram(print)
    assert register.on_datagram("name", int)(print) is print
    with pytest.raises(landline.ConfigurationError, match="a handler for datagrams 'name' already"):
        register.on_datagram("name")
    with pytest.raises(landline.ConfigurationError, match="1 to 255 bytes"):
        register.on_datagram("n" * 256)
    # Messages have handlers of their own.
    register.on("name")(print)


async def test_a_datagram_too_large_or_of_an_unsupported_type_raises(pair):
    server = landline.Server()
    async with pair(server) as (line, _):
        with pytest.raises(
            landline.MessageTooLarge, match=r"a datagram of 1201 bytes .*send it as a message"
        ):
            line.send_datagram(bytes(1199))
        with pytest.raises(landline.MessageTooLarge, match="a name of 256 bytes"):
            line.send_datagram(1, name="n" * 256)
        with pytest.raises(TypeError):
            line.send_datagram(object())
        with pytest.raises(landline.MessageTooLarge):
            server.broadcast_datagram(bytes(1199))
        assert line.send_datagram(bytes(1198))
        assert line.datagrams_dropped == server.datagrams_dropped == 0


async def test_a_datagram_is_dropped_without_a_session_and_raises_after_the_end(quick, until):
    server = landline.Server()
    seen, told = recording(server), []

    def changed(line, change):
        if change.state is landline.LineState.RECONNECTING:
            told.append(line.send_datagram("away"))

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick, on_state=changed)
        async with connector as line:
            line.break_link()
            await until(lambda: told)
            await until(lambda: line.state is landline.LineState.ONLINE)
            assert told == [False]
            assert line.send_datagram("back")
            await until(lambda: seen)
            assert (seen, line.datagrams_dropped) == (["back"], 1)
            # The count of a lost session is kept, and increases while there is no session.
            [other] = server.lines
            other.abort(landline.Code.GOING_AWAY)
            await until(lambda: len(told) == 2 and line.state is landline.LineState.ONLINE)
            assert told == [False, False]
            assert line.datagrams_dropped == 2
    with pytest.raises(landline.LineClosed):
        line.send_datagram("closed")
    assert line.datagrams_dropped == 2


async def test_datagrams_of_one_turn_are_limited(pair, until):
    server = landline.Server()
    seen = recording(server)
    async with pair(server) as (line, _):
        taken = [line.send_datagram(number) for number in range(100)]
        assert taken == [True] * DATAGRAMS_WAITING_MAX + [False] * (100 - DATAGRAMS_WAITING_MAX)
        assert line.datagrams_dropped == 100 - DATAGRAMS_WAITING_MAX
        await until(lambda: len(seen) == DATAGRAMS_WAITING_MAX)
        assert line.send_datagram("again")
        await until(lambda: seen[-1] == "again")


async def test_datagrams_to_a_peer_that_does_not_read_are_dropped(pair, until):
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=60, timeout_s=60))
    async with pair(server) as (line, other):
        transport_of(line).pause_reading()
        while other.send_datagram(bytes(1000)):
            await asyncio.sleep(0)
        assert other.datagrams_dropped == server.datagrams_dropped == 1
        assert other.buffered_bytes == server.memory_held_bytes == 0
        assert server.broadcast_datagram("for nobody") == landline.BroadcastResult(0, 1)
        transport_of(line).resume_reading()
        await until(lambda: server.broadcast_datagram("for all").sent)
        dropped = server.datagrams_dropped
        assert dropped == other.datagrams_dropped
        other.abort(landline.Code.NORMAL)
        assert server.datagrams_dropped == dropped


async def test_a_flood_of_datagrams_is_read_and_not_answered(pair, until):
    server = landline.Server()
    seen = recording(server)
    async with pair(server) as (line, other):
        frame = b"\0\0\0\4\x14\4\0\1"
        transport_of(line).write(frame * 20_000)
        await line.send("behind")
        assert await anext(other) == "behind"
        assert len(seen) + other.datagrams_ignored == 20_000
        assert len(seen) >= DATAGRAMS_UNREAD_MAX
        assert session_of(other).held_bytes == 0


async def test_a_handler_may_end_the_line(pair, until):
    server = landline.Server()
    server.on_datagram(lambda line, value: line.abort(landline.Code.NORMAL, value))
    async with pair(server) as (line, _):
        line.send_datagram("enough")
        await until(lambda: line.is_closed)
        assert line.last_change.code is landline.Code.NORMAL
        assert "enough" in line.last_change.detail


async def test_broadcast_and_group_datagrams_reach_connected_lines(quick, until):
    server = landline.Server()
    seen = []
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        one, two = (landline.connect(str(endpoint), backoff=quick, identity=name) for name in "ab")
        for connector in (one, two):
            connector.on_datagram("state", int)(lambda line, value: seen.append((line.identity, value)))
        async with one, two:
            lines = {line.identity: line for line in server.lines}
            group = server.group("some")
            group.add(lines["b"])
            assert server.broadcast_datagram(1, name="state") == landline.BroadcastResult(2, 0)
            await until(lambda: len(seen) == 2)
            assert group.broadcast_datagram(2, name="state") == landline.BroadcastResult(1, 0)
            await until(lambda: len(seen) == 3)
            assert sorted(seen) == [("a", 1), ("b", 1), ("b", 2)]
            lines["a"].break_link()
            assert server.broadcast_datagram(3, name="state") == landline.BroadcastResult(1, 1)
            assert server.datagrams_dropped == 1
            await until(lambda: len(seen) == 4)
            assert seen[-1] == ("b", 3)


# On a transport that carries datagrams.


async def test_the_transport_carries_datagrams_up_to_its_limit(pair, until, loop_url):
    server = landline.Server()
    seen = recording(server)
    async with pair(server, loop_url) as (line, other):
        end, _ = datagram_transport.ends
        assert line.send_datagram(7, name="state")
        assert end.sent == [b"\x04\x05state\x07"]
        await until(lambda: seen)
        # What is too large for it travels in the stream.
        end.datagram_bytes_max = 100
        assert line.send_datagram(bytes(98))
        assert line.send_datagram(bytes(99))
        await until(lambda: len(seen) == 3)
        assert seen == [("state", 7), bytes(98), bytes(99)]
        assert [len(data) for data in end.sent] == [8, 100]
        # What it does not take is dropped, and the stream is not burdened with it.
        end.is_blocked = True
        assert not line.send_datagram(1)
        assert line.datagrams_dropped == 1
        await line.send("message")
        assert await anext(other) == "message"
        assert len(seen) == 3


async def test_a_full_stream_does_not_stop_datagrams_of_the_transport(pair, until, loop_url):
    server = landline.Server()
    seen = recording(server)
    async with pair(server, loop_url) as (line, _):
        link_of(line).pause_writing()
        await until(lambda: line.send_datagram("beside") and seen)
        link_of(line).resume_writing()
        assert line.datagrams_dropped == 0


async def test_a_datagram_on_an_older_transport_is_ignored(pair, until, loop_url):
    server = landline.Server()
    seen = recording(server)
    async with pair(server, loop_url) as (line, other):
        old_link = link_of(other)
        line.break_link()
        await until(lambda: line.epoch == 2)
        old_link.datagram_received(b"\0\0old")
        old_link.datagram_received(b"broken")
        # One that came behind the end of the older transport finds no line at all.
        datagram_transport.ends[1]._protocol.datagram_received(b"\0\0older")
        line.send_datagram("new")
        await until(lambda: seen)
        assert seen == ["new"]
        assert other.state is landline.LineState.ONLINE


async def test_a_datagram_that_overtakes_the_handshake_is_ignored(until, loop_url, monkeypatch):
    server = landline.Server()
    seen = recording(server)
    early = []

    class Hasty(datagram_transport.End):
        def set_protocol(self, protocol):
            # The protocols of the handshake are still there.
            self._protocol.datagram_received(b"\0\0early")
            early.append(type(self._protocol).__name__)
            super().set_protocol(protocol)

    monkeypatch.setattr(datagram_transport, "End", Hasty)
    async with server.listen(loop_url) as endpoint, landline.connect(str(endpoint)) as line:
        line.send_datagram("in time")
        await until(lambda: seen)
        assert early == ["_HandshakeLink", "_HandshakeLink"]
    assert seen == ["in time"]


async def test_a_malformed_datagram_ends_the_line(pair, until, loop_url):
    server = landline.Server()
    async with pair(server, loop_url) as (line, other):
        datagram_transport.ends[0].send_datagram(b"\xff")
        await until(lambda: line.is_closed)
        assert line.last_change.code is landline.Code.PROTOCOL_ERROR
        assert other.is_closed
        assert "shorter than its header and name" in line.last_change.detail


async def test_a_datagram_ends_the_suspicion_of_its_sender(pair, until, states, loop_url):
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.2, timeout_s=2.0))
    seen, changes = recording(server), states()
    server.on_state(changes)
    async with pair(server, loop_url) as (line, _):
        end = datagram_transport.ends[0]
        end.write = lambda data: None  # The stream brings nothing any more.
        await until(lambda: "suspect" in changes.names)
        line.send_datagram("still here")
        await until(lambda: seen)
        assert changes.names[-1] == "online"


async def test_a_datagram_frame_in_the_stream_is_handled_too(pair, until, loop_url):
    server = landline.Server()
    seen = recording(server)
    async with pair(server, loop_url):
        datagram_transport.ends[0].write(encode_frame(Kind.DATAGRAM, b"\0\0in the stream"))
        await until(lambda: seen)
        assert seen == [b"in the stream"]
