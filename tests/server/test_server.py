"""The server: listen, answer, broadcast, close in order. Real sockets, both event loops."""

import asyncio
import contextlib
import logging

import pytest
from tests.line_internals import host_of, link_of, transport_of
from tests.raw_connections import raw_connection, shake_hands

import landline
from landline.codes import code_from_wire
from landline.line.link import PEER_ERRORS_LOGGED_MAX
from landline.session.bodies import Bye, Notice, decode_body, encode_body
from landline.session.constants import Kind
from landline.session.frames import FrameReader, encode_ack, encode_data

URL = "tcp://127.0.0.1:0"
SMALL = landline.SendBuffer(size_bytes=64 * 1024, messages=128)


# Its own life.


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_lines": 0}, r"max_lines=0\): it must be at least 1"),
        ({"resume_window_s": -1}, "0 to 86400 seconds"),
        ({"resume_window_s": 1e6}, "0 to 86400 seconds"),
    ],
)
def test_wrong_arguments_are_named(arguments, text):
    with pytest.raises(landline.ConfigurationError, match=text):
        landline.Server(**arguments)


async def test_serving_is_for_a_server_that_listens():
    with pytest.raises(RuntimeError, match="a server that listens"):
        await landline.Server().serve_forever()


async def test_closing_a_server_that_never_listened_does_nothing():
    server = landline.Server()
    await server.close()
    await server.close()
    with pytest.raises(RuntimeError, match="needs a server that listens"):
        await server.serve_forever()


async def test_serve_forever_returns_when_the_server_was_closed():
    server = landline.Server()
    async with server.listen(URL):
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        assert not serving.done()
        await server.close()
        await serving


async def test_a_closed_server_listens_again(quick):
    server = landline.Server()

    @server.on("add")
    def add(line, numbers):
        return sum(numbers)

    async with server.listen(URL) as endpoint, landline.connect(str(endpoint), backoff=quick) as line:
        assert await line.request("add", [1, 2]) == 3
    async with server.listen(str(endpoint)), landline.connect(str(endpoint), backoff=quick) as line:
        assert await line.request("add", [3, 4]) == 7
        assert len(server.lines) == 1
    assert server.lines == []


def test_a_closed_server_listens_again_in_another_event_loop(quick):
    server = landline.Server()

    async def ask() -> float:
        async with server.listen(URL) as endpoint, landline.connect(str(endpoint), backoff=quick) as line:
            return await line.ping()

    assert landline.run(ask()) > 0
    assert landline.run(ask()) > 0


async def test_while_a_server_closes_it_cannot_listen(until):
    server = landline.Server()

    @server.on_line
    async def stay(line):
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(
                RuntimeError, match=r"is closing; it can listen again when close\(\) has returned"
            ):
                await server.listen(URL)

    async with server.listen(URL) as endpoint:
        line = await landline.connect(str(endpoint))
        await until(lambda: server.lines)
        await server.close(code=landline.Code.NORMAL)
        assert line.is_closed or await line.close() is None


async def test_an_awaited_listener_listens_until_the_server_is_closed(quick):
    server = landline.Server()
    endpoint = await server.listen(URL)
    other = await server.listen(URL)
    line = await landline.connect(str(endpoint), backoff=quick)
    assert await line.ping() > 0
    await server.close()
    with pytest.raises(landline.GaveUp):
        await landline.connect([str(endpoint), str(other)], backoff=landline.Backoff(attempts=1))
    await line.close()
    # The addresses are free.
    assert await server.listen(str(endpoint)) == endpoint
    await server.close()


async def test_cancelling_serve_forever_closes_in_order(quick, until, states):
    server = landline.Server()
    seen = states()
    ready = asyncio.get_running_loop().create_future()

    async def serve():
        async with server.listen(URL) as endpoint:
            ready.set_result(endpoint)
            await server.serve_forever()

    serving = asyncio.create_task(serve())
    connector = landline.connect(str(await ready), backoff=quick, on_state=seen)
    line = await connector
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await until(lambda: len(seen.changes) > 1)
    assert seen.changes[1].detail == "the server stops"
    await line.close()


async def test_several_listeners_lead_to_one_server_that_ends_with_the_last(tmp_path, quick, certificates):
    server = landline.Server()
    tls = landline.TransportOptions(tls=certificates.server)
    async with server.listen(f"unix://{tmp_path}/one") as unix:
        async with (
            server.listen("tls://127.0.0.1:0", options=tls) as tcp,
            landline.connect(
                str(tcp), backoff=quick, options=landline.TransportOptions(tls=certificates.client)
            ),
        ):
            assert len(server.lines) == 1
        async with landline.connect(str(unix), backoff=quick) as line:
            assert line.state is landline.LineState.ONLINE
    with pytest.raises(RuntimeError, match="needs a server that listens"):
        await server.serve_forever()


async def test_closing_drains_every_line_first(quick, until):
    server = landline.Server()
    taken = []
    async with contextlib.AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(server.listen(URL))
        for _ in range(3):
            connector = landline.connect(str(endpoint), backoff=quick)

            @connector.on_message
            async def take(line, message):
                await asyncio.sleep(0)
                taken.append(message)

            await stack.enter_async_context(connector)
        assert server.broadcast("one").sent == 3
        assert server.broadcast("two") == landline.BroadcastResult(3, 0)
        first, second = asyncio.create_task(server.close()), asyncio.create_task(server.close())
        await asyncio.wait([first, second])
        assert sorted(taken) == ["one"] * 3 + ["two"] * 3
        assert server.lines == []


async def test_closing_waits_no_longer_than_its_timeout_and_reports_unconfirmed_messages(pair):
    server = landline.Server()
    lost = []
    server.on_session_lost(lambda line, unconfirmed: lost.extend(entry.body for entry in unconfirmed))
    async with pair(server, on_session_lost=lambda line, unconfirmed: None) as (_, other):
        await other.send(b"never taken")
        await server.close(timeout=0.02)
        assert lost == [b"never taken"]
        assert other.last_change.cause is landline.DisconnectCause.CLOSED_HERE


async def test_without_a_callback_lost_messages_are_logged(pair, caplog):
    server = landline.Server()
    async with pair(server) as (_, other):
        await other.send(b"never taken")
        await server.close(timeout=0)
    assert "ended with 1 messages unconfirmed" in caplog.text


# The function of a line.


async def test_the_function_of_a_line_runs_once_for_a_session(pair, until):
    server = landline.Server()
    calls = []

    @server.on_line
    async def serve(line):
        calls.append(line)
        async for message in line:
            await line.send(["echo", message])
        calls.append("over")

    async with pair(server) as (line, other):
        await line.send(1)
        assert await anext(line) == ["echo", 1]
        line.break_link()
        await line.send(2)
        assert await anext(line) == ["echo", 2]
        assert calls == [other]
        await line.close()
        await until(lambda: calls == [other, "over"])


async def test_the_function_of_a_line_finishes_what_it_has_read(pair, until):
    server = landline.Server()
    go = asyncio.Event()
    done = []

    @server.on_line
    async def serve(line):
        async for message in line:
            await go.wait()
            done.append(message)

    async with pair(server) as (line, _):
        await line.send("work")
        await line.close()
        await until(lambda: not server.lines)
        go.set()
        await until(lambda: done == ["work"])


async def test_a_function_of_a_line_that_fails_ends_the_line(pair, caplog, until, states):
    server = landline.Server()

    @server.on_line
    async def serve(line):
        async for message in line:
            raise ValueError(f"trouble with {message}")

    seen = states()
    async with pair(server, on_state=seen) as (line, other):
        await line.send(1)
        await until(lambda: other.is_closed)
        await until(lambda: len(seen.changes) > 1)
        assert seen.changes[1].detail == "the server failed"
    assert "trouble with 1" in caplog.text


async def test_the_function_of_a_line_is_cancelled_when_the_server_closes(pair, until):
    server = landline.Server()
    events = []

    @server.on_line
    async def serve(line):
        events.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            events.append("ended")

    async with pair(server):
        await until(lambda: events)
        await server.close()
        assert events == ["begun", "ended"]


async def test_the_function_of_a_line_may_close_the_server(pair, until):
    server = landline.Server()
    after = []

    @server.on_line
    async def serve(line):
        async for _ in line:
            await server.close(code=landline.Code.NORMAL, reason="told to")
            after.append(True)

    async with pair(server) as (line, _):
        await line.send("close")
        await server.serve_forever()
        await until(lambda: line.is_closed and after)


async def test_a_broken_line_raises_in_its_function(pair, until, caplog):
    server = landline.Server(resume_window_s=0)
    errors = []

    @server.on_line
    async def serve(line):
        try:
            await anext(line)
        except landline.LineClosed as error:
            errors.append(error)
            raise

    async with pair(server) as (line, _):
        # As a client that crashes.
        host_of(line)._task.cancel()
        line.break_link("cable pulled")
        await until(lambda: errors)
        assert errors[0].code is None, "nobody sent one"
        assert "ended without a goodbye; not resumed within 0 s" in str(errors[0])


# States, groups, broadcasts.


async def test_the_server_hears_of_every_change_of_every_line(pair, until, states):
    server = landline.Server()
    seen = states()
    assert server.on_state(seen) is seen
    async with pair(server) as (line, other):
        line.break_link()
        await until(lambda: line.epoch == 2)
        await line.close(reason="enough")
        await until(lambda: other.is_closed)
    assert seen.names == ["online", "reconnecting", "online", "closed"]
    lost, back, closed = seen.changes[1:]
    assert lost.cause is landline.DisconnectCause.LINK_LOST
    assert (back.resumed, back.epoch) == (True, 2)
    assert (closed.cause, closed.detail) == (landline.DisconnectCause.CLOSED_BY_PEER, "enough")


async def test_groups(quick, until):
    server = landline.Server()
    async with contextlib.AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(server.listen(URL))
        clients = []
        for name in ("a", "b", "c"):
            connector = landline.connect(str(endpoint), backoff=quick, identity=name)
            clients.append(await stack.enter_async_context(connector))
        lines = {line.identity: line for line in server.lines}
        group = server.group("some")
        assert server.group("some") is group
        assert group.name == "some"
        for name in ("a", "b", "a"):
            group.add(lines[name])
        assert len(group) == 2
        assert set(group) == {lines["a"], lines["b"]}
        assert lines["a"] in group
        assert lines["c"] not in group
        group.discard(lines["c"])
        assert group.broadcast("to some", bulk=True) == landline.BroadcastResult(2, 0)
        assert server.broadcast(b"to all", name="") == landline.BroadcastResult(3, 0)
        for client, expected in zip(clients, (2, 2, 1), strict=True):
            received = [await anext(client) for _ in range(expected)]
            assert received == (["to some", b"to all"] if expected == 2 else [b"to all"])
        # A client that closes leaves, and does not come back.
        await clients[0].close()
        await until(lambda: lines["a"].is_closed)
        assert list(group) == [lines["b"]]
        group.add(lines["a"])
        assert len(group) == 1
        assert group.broadcast("again") == landline.BroadcastResult(1, 0)
        assert await anext(clients[1]) == "again"


async def test_a_broadcast_skips_full_buffers_and_too_large_messages(pair):
    server = landline.Server(send_buffer=SMALL)
    async with pair(server, limits=landline.Limits(message_bytes=1024)) as (line, other):
        assert server.broadcast(b"x" * 2000) == landline.BroadcastResult(0, 1)
        for number in range(128):
            other.send_nowait(number)
        assert server.broadcast("no room") == landline.BroadcastResult(0, 1)
        assert [await anext(line) for _ in range(128)] == list(range(128))
        assert await other.drain()
        assert server.broadcast("room", name="") == landline.BroadcastResult(1, 0)
        assert await anext(line) == "room"


async def test_a_broadcast_is_written_at_once_and_the_rest_of_the_turn_together(pair):
    server = landline.Server()
    async with pair(server) as (line, other):
        written = []
        transport = transport_of(other)

        class Watched:
            def write(self, data):
                written.append(data)
                transport.write(data)

            def __getattr__(self, name):
                return getattr(transport, name)

        link_of(other).transport = Watched()
        await asyncio.sleep(0)
        for number in range(5):
            server.broadcast(number, name="")
            if not number:
                assert len(written) == 1
        other.send_nowait(5)
        assert len(written) == 1
        assert [await anext(line) for _ in range(6)] == list(range(6))
        assert len(written) <= 3  # An acknowledgement or a ping may have come in between.


async def test_a_broadcast_is_not_overtaken_by_a_later_message(pair):
    server = landline.Server()
    async with pair(server) as (line, other):
        other.break_link()
        server.broadcast("first")
        other.send_nowait("second")
        assert [await anext(line), await anext(line)] == ["first", "second"]


async def test_a_broadcast_reaches_lines_that_are_away_when_they_are_back(pair):
    server = landline.Server()
    results = []

    @server.on_state
    def changed(line, change):
        if change.state is landline.LineState.RECONNECTING:
            results.append(server.broadcast("while you were away"))

    async with pair(server) as (line, other):
        other.break_link()
        assert results == [landline.BroadcastResult(1, 0)]
        assert await anext(line) == "while you were away"


# Clients that break the protocol.


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0\0\0\1\x63", landline.Code.PROTOCOL_ERROR),
        (b"\xff\xff\xff\xff", landline.Code.LIMIT_EXCEEDED),
        (encode_ack(1), landline.Code.PROTOCOL_ERROR),
        (encode_data(2, 0, 1, 0, b"", b"x"), landline.Code.PROTOCOL_ERROR),
        (encode_data(1, 0x80, 1, 0, b"", b"x"), landline.Code.PROTOCOL_ERROR),
        (encode_data(1, 0, 1, 0, b"\xff", b"x"), landline.Code.PROTOCOL_ERROR),
    ],
)
async def test_a_client_that_violates_the_protocol_gets_a_bye(data, code, until, caplog):
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        writer.write(data)
        frames = []
        split = FrameReader()
        with contextlib.suppress(ConnectionResetError):
            while chunk := await reader.read(65536):
                frames.extend(split.feed(chunk))
        bye = decode_body(dict(frames)[Kind.BYE], Bye)
        assert code_from_wire(bye.code) is code
        assert not server.lines
        assert line.last_change.cause is landline.DisconnectCause.PROTOCOL_ERROR
        with pytest.raises(landline.LineClosed):
            await anext(line)


async def test_a_client_that_sends_nonsense_without_end_does_not_fill_the_log(until, caplog):
    server = landline.Server()
    received = []
    server.on_message(lambda line, body: received.append(body))
    server.on("typed", int)(lambda line, body: body)
    server.on_datagram("typed", int)(lambda line, body: body)
    async with server.listen(URL) as endpoint, landline.connect(str(endpoint)) as line:
        for _ in range(100):
            await line.send("text", name="typed")
            await line.send("text", name="unknown")
            line.send_datagram("text", name="typed")
        await line.send("the last")
        await until(lambda: received)
        told = [record for record in caplog.records if "sent a " in record.message]
        assert len(told) == PEER_ERRORS_LOGGED_MAX
        assert caplog.text.count("further errors of this connection are not logged") == 1
        # Another connection is another peer.
        async with landline.connect(str(endpoint)) as other:
            await other.send("text", name="typed")
            assert await other.drain()
    assert (
        len([record for record in caplog.records if "sent a " in record.message])
        == PEER_ERRORS_LOGGED_MAX + 1
    )


async def test_a_client_that_warns_without_end_is_heard_once(until, caplog):
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        received = []
        server.on_message(lambda line, body: received.append(body))
        writer.write(encode_body(Kind.NOTICE, Notice(206, "fewer")) * 1000)
        writer.write(encode_data(1, 0, 1, 0, b"", b"x"))
        await until(lambda: received)
    assert caplog.text.count("the peer warns: fewer") == 1


async def test_a_message_that_says_messagepack_and_is_not_does_not_hurt_others(pair, until, caplog):
    server = landline.Server()

    @server.on("typed")
    def typed(line, body):
        return body

    async with pair(server) as (good, _):
        host, port = good.peer.rsplit(":", 1)
        async with raw_connection(landline.Endpoint("tcp", host, int(port))) as (reader, writer):
            await shake_hands(reader, writer)
            packed = 0x04
            writer.write(encode_data(1, packed, 1, 0, b"typed", b"\xc1"))
            writer.write(encode_data(2, packed, 2, 7, b"typed", b"\xc1"))
            split, frames = FrameReader(), []
            while not any(kind == Kind.DATA for kind, _ in frames):
                frames.extend(split.feed(await reader.read(65536)))
            [answer] = [body for kind, body in frames if kind == Kind.DATA]
            assert b"bad_request" in answer
        assert await good.request("typed", 1) == 1
    assert "does not fit" in caplog.text


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.INFO, logger="landline")
