"""One line: what its handlers get, how it ends, and what it says of itself. Real sockets, both event loops."""

import asyncio
import logging

import pytest
from tests.line_internals import send_operation

import landline
from landline.codes import Operation
from landline.line.link import PEER_ERRORS_LOGGED_MAX

SMALL = landline.SendBuffer(size_bytes=64 * 1024, messages=128)


async def read_all(line: landline.Line) -> list:
    return [message async for message in line]


@pytest.mark.parametrize("scheme", ["tcp", "tls", "unix"])
async def test_every_kind_of_value_arrives_in_both_directions(scheme, tmp_path, certificates):
    server = landline.Server()
    url = f"unix://{tmp_path}/line" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    values = [
        None,
        True,
        -7,
        2.5,
        "ü",
        b"\0raw",
        [1, [2]],
        {"a": {"b": "c"}},
        "x" * 100_000,
        b"y" * 100_000,
        "",
    ]
    there = landline.TransportOptions(tls=certificates.server if scheme == "tls" else None)
    here = landline.TransportOptions(tls=certificates.client if scheme == "tls" else None)
    async with (
        server.listen(url, options=there) as endpoint,
        landline.connect(str(endpoint), options=here) as line,
    ):
        [other] = server.lines
        for value in values:
            await line.send(value)
            await other.send(value)
        await line.send_eof()
        await other.send_eof()
        assert await read_all(other) == values
        assert await read_all(line) == values


# Handlers of messages.


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_handlers_take_messages_in_order(pair, kind):
    server = landline.Server()
    seen = []
    if kind == "plain":

        @server.on_message
        def take(line, message):
            seen.append(message)

        @server.on("named")
        def take_named(line, message):
            seen.append(("named", message))
    else:

        @server.on_message
        async def take(line, message):
            await asyncio.sleep(0)
            seen.append(message)

        @server.on("named")
        async def take_named(line, message):
            seen.append(("named", message))

    async with pair(server) as (line, _):
        for number in range(200):
            await line.send(number, name="named" if number % 3 == 0 else "")
        assert await line.drain()
    assert seen == [("named", number) if number % 3 == 0 else number for number in range(200)]


async def test_a_plain_handler_waits_for_the_async_one_before_it(pair):
    server = landline.Server()
    go = asyncio.Event()
    seen = []

    @server.on("slow")
    async def slow(line, message):
        await go.wait()
        seen.append("slow")

    @server.on("fast")
    def fast(line, message):
        seen.append("fast")

    @server.on("now")
    def now(line, message):
        return list(seen)

    async with pair(server) as (line, _):
        await line.send(1, name="slow")
        await line.send(1, name="fast")
        # Requests do not wait for messages.
        assert await line.request("now") == []
        assert not line.is_closed
        go.set()
        assert await line.drain()
        assert await line.request("now") == ["slow", "fast"]


async def test_a_handler_of_messages_that_fails_is_logged_and_the_next_message_taken(pair, caplog):
    server = landline.Server()
    seen = []

    @server.on("plain", body_type=int)
    def plain(line, message):
        if message == 1:
            raise ValueError("plain trouble")
        seen.append(message)

    @server.on("async", body_type=int)
    async def coroutine(line, message):
        if message == 1:
            raise ValueError("async trouble")
        seen.append(message)

    async with pair(server) as (line, _):
        for name in ("plain", "async"):
            for value in (1, "unfit", b"raw", 2):
                await line.send(value, name=name)
            assert await line.drain()
    assert seen == [2, 2]
    assert "plain trouble" in caplog.text
    assert "async trouble" in caplog.text
    assert caplog.text.count("does not fit") == 4


async def test_a_malformed_message_is_logged_without_a_traceback(pair, caplog):
    server = landline.Server()
    seen = []
    server.on_message(lambda line, message: seen.append(message))
    async with pair(server) as (line, _):
        for _ in range(PEER_ERRORS_LOGGED_MAX + 50):
            await send_operation(line, Operation.MESSAGE, "", b"\xc1")
        await line.send(2)
        assert await line.drain()
    assert seen == [2]
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert 0 < caplog.text.count("that does not fit") <= PEER_ERRORS_LOGGED_MAX


async def test_a_handler_that_awaits_a_task_cancelled_elsewhere_fails_like_with_any_error(pair, caplog):
    server = landline.Server()
    seen = []

    async def helped(line, message):
        helper = asyncio.get_running_loop().create_future()
        helper.cancel()
        await helper

    server.on("async")(helped)

    @server.on("plain")
    def plain(line, message):
        helper = asyncio.get_running_loop().create_future()
        helper.cancel()
        helper.result()

    @server.on_message
    def take(line, message):
        if message == "cancelled":
            plain(line, message)
        seen.append(message)

    @server.on_datagram("datagram")
    def take_datagram(line, message):
        plain(line, message)

    async with pair(server) as (line, _):
        line.send_datagram(1, name="datagram")
        for name, message in (("async", 1), ("plain", 1), ("", "cancelled"), ("async", 2), ("", "last")):
            await line.send(message, name=name)
        assert await line.drain()
        assert seen == ["last"]
        for name in ("async", "plain"):
            with pytest.raises(landline.RequestError, match=f"the handler for '{name}' failed"):
                await line.request(name, timeout=5.0)
        assert line.epoch == 1
    assert caplog.text.count("CancelledError") >= 7


async def test_a_message_that_its_handler_refuses_is_one_line_in_the_log(pair, caplog):
    """A peer that may provoke it must not fill the log with tracebacks."""
    server = landline.Server()

    @server.on("plain")
    def plain(line, message):
        raise landline.RequestError("not_joined", "join first")

    @server.on("async")
    async def coroutine(line, message):
        raise landline.RequestError("not_joined", "join first")

    async with pair(server) as (line, _):
        await line.send(1, name="plain")
        await line.send(1, name="async")
        assert await line.drain()
    assert caplog.text.count("was refused: ") == caplog.text.count("join first") == 2
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_message_is_confirmed_only_after_its_async_handler(pair, until):
    server = landline.Server()
    go = asyncio.Event()

    @server.on_message
    async def take(line, message):
        await go.wait()

    async with pair(server) as (line, _):
        await line.send("one")
        await line.ping()
        assert not await line.drain(0)
        assert line.buffered_bytes > 0
        go.set()
        assert await line.drain()
        assert line.buffered_bytes == 0


async def test_the_connector_has_handlers_for_messages_of_the_server(quick, until):
    server = landline.Server()
    seen = []
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)

        @connector.on_message
        def take(line, message):
            seen.append(message)

        @connector.on("named", body_type=int)
        def take_named(line, message):
            seen.append(message)

        async with connector:
            [other] = server.lines
            await other.send("one")
            await other.send(2, name="named")
            assert await other.drain()
    assert seen == ["one", 2]


async def test_the_end_wakes_waiting_senders(pair):
    async with pair(send_buffer=SMALL) as (line, _):
        for number in range(128):
            line.send_nowait(number)
        senders = [asyncio.create_task(line.send("never")) for _ in range(3)]
        reader = asyncio.create_task(anext(line))
        ping = asyncio.create_task(line.ping())
        await asyncio.sleep(0)
        lost = line.abort(landline.Code.NORMAL, "enough")
        assert len(lost) == 128
        for outcome in await asyncio.gather(*senders, ping, return_exceptions=True):
            assert isinstance(outcome, landline.LineClosed)
            assert "enough" in str(outcome)
        with pytest.raises(StopAsyncIteration):
            await reader


# The end.


@pytest.mark.parametrize("who", ["client", "server"])
async def test_an_orderly_end_from_either_side(pair, who, states, until):
    seen = states()
    async with pair(on_state=seen) as (line, other):
        ender, ended = (line, other) if who == "client" else (other, line)
        await ender.send("last")
        reader = asyncio.create_task(read_all(ended))
        await ender.close(reason="done with it")
        assert await reader == ["last"]
        await until(lambda: ended.is_closed)
        assert ended.last_change.cause is landline.DisconnectCause.CLOSED_BY_PEER
        assert ended.last_change.code is landline.Code.NORMAL
        assert "done with it" in ended.last_change.detail
        assert ended.error is None
        assert ender.last_change.cause is landline.DisconnectCause.CLOSED_HERE
        for closed in (ender, ended):
            with pytest.raises(landline.LineClosed):
                await closed.send("too late")
            with pytest.raises(landline.LineClosed):
                closed.send_nowait("too late")
            with pytest.raises(landline.LineClosed):
                await closed.request("too late")
            with pytest.raises(landline.LineClosed):
                await closed.ping()
            with pytest.raises(landline.LineClosed):
                await closed.send_eof()
            assert await read_all(closed) == []
            await closed.close()
    assert seen.names == ["online", "closed"]


async def test_an_error_code_is_raised_to_the_reader_of_a_client(pair):
    async with pair() as (line, other):
        await other.close(landline.Code.FORBIDDEN, "you were removed")
        with pytest.raises(landline.LineClosed, match="you were removed") as caught:
            await anext(line)
        assert caught.value.code is landline.Code.FORBIDDEN
        assert line.error is caught.value


async def test_close_waits_until_everything_is_acknowledged(pair, until):
    server = landline.Server()
    taken = []

    @server.on_message
    async def take(line, message):
        await asyncio.sleep(0)
        taken.append(message)

    async with pair(server) as (line, _):
        for number in range(500):
            await line.send(number)
        await line.close()
        assert taken == list(range(500))


async def test_close_reports_unacknowledged_messages(pair):
    async with pair() as (line, other):
        await line.send("taken")
        await line.send(b"raw")
        await line.send({"never": "taken"})
        await line.send(b"x" * 50_000)
        assert await anext(other) == "taken"
        # The acknowledgement rides on the answer to a ping at the latest.
        await line.ping()
        with pytest.raises(landline.SessionLost, match="3 messages were not acknowledged") as caught:
            await line.close(timeout=0.05)
        assert [(entry.name, entry.body, entry.is_packed) for entry in caught.value.unconfirmed] == [
            ("", b"raw", False),
            ("", b"\x81\xa5never\xa5taken", True),
            ("", b"x" * 50_000, False),
        ]
        assert line.is_closed


async def test_a_cancelled_close_closes_at_once(pair, until):
    async with pair() as (line, other):
        await line.send("never taken")
        closing = asyncio.create_task(line.close(timeout=1000))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert line.is_closed
        await until(lambda: other.is_closed)


async def test_an_exception_in_the_client_s_block_does_not_wait_for_the_peer(quick, until):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        with pytest.raises(ZeroDivisionError):
            async with landline.connect(str(endpoint), backoff=quick) as line:
                await line.send("never taken")
                raise ZeroDivisionError
        assert line.is_closed
        await until(lambda: not server.lines)


async def test_messages_received_before_the_end_stay_readable(pair, until):
    async with pair() as (line, other):
        for number in range(3):
            await line.send(number)
        await line.ping()
        line.abort(landline.Code.NORMAL)
        await until(lambda: other.is_closed)
        assert await read_all(other) == [0, 1, 2]


async def test_a_handler_may_end_the_line_it_serves(pair, until):
    server = landline.Server()
    seen = []

    @server.on_message
    def take(line, message):
        seen.append(message)
        if message == 1:
            line.abort(landline.Code.NORMAL, "enough")

    async with pair(server) as (line, other):
        for number in range(3):
            line.send_nowait(number)
        await until(lambda: line.is_closed)
        assert other.is_closed
        assert seen[:2] == [0, 1]


# Facts.


@pytest.mark.parametrize("scheme", ["tcp", "unix"])
async def test_properties_of_a_line(pair, scheme, tmp_path):
    url = "tcp://127.0.0.1:0" if scheme == "tcp" else f"unix://{tmp_path}/line"
    async with pair(url=url, identity="me") as (line, other):
        assert line.session_id == other.session_id != b""
        assert line.epoch == other.epoch == 1
        assert line.state is other.state is landline.LineState.ONLINE
        assert line.identity == other.identity == "me"
        assert line.last_change.resumed is False
        assert line.duplicates_dropped == 0
        assert line.buffered_bytes == 0
        if scheme == "tcp":
            assert line.peer.startswith("127.0.0.1:")
            assert other.peer.startswith("127.0.0.1:")
        else:
            assert line.peer == f"{tmp_path}/line"
            assert other.peer == "local"
        assert repr(other) == "<Line me online>"
        other.data = {"anything": 1}
        peer = other.peer
    assert line.is_closed
    assert other.peer == peer


async def test_a_state_callback_that_fails_is_only_logged(pair, caplog, until):
    def fail(*arguments):
        raise ValueError("callback trouble")

    server = landline.Server()
    server.on_state(fail)
    async with pair(server, on_state=fail) as (line, other):
        await line.send("one")
        assert await anext(other) == "one"
    await until(lambda: not server.lines)
    assert caplog.text.count("callback trouble") >= 4


async def test_state_callbacks_can_be_set_later_and_taken_away(pair, states):
    async with pair() as (line, _):
        seen = states()
        line.on_state(seen)
        await line.close()
        assert seen.names == ["closed"]
    async with pair(on_state=(seen := states())) as (line, _):
        line.on_state(None)
    assert seen.names == ["online"]


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.INFO, logger="landline")
