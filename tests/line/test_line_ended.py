"""Handlers that run in the read that ended the session, and requests to a side that cannot answer any more."""

import asyncio
import logging

import pytest
from tests.line_internals import driver_of
from tests.raw_connections import raw_connection, read_frame, shake_hands

import landline
from landline.codes import Operation
from landline.session.bodies import Bye, encode_body
from landline.session.constants import Kind
from landline.session.frames import encode_data, encode_datagram, encode_eof

PACKED = 4
BYE = encode_body(Kind.BYE, Bye(200, "done"))
BREACH = bytes(4)


def messages(*names: bytes, operation=Operation.MESSAGE) -> bytes:
    return b"".join(
        encode_data(number, PACKED, operation, number if operation is Operation.REQUEST else 0, name, b"\xc0")
        for number, name in enumerate(names, 1)
    )


@pytest.fixture
def recording():
    """A server whose handlers send, and the outcome that each of them got."""
    server = landline.Server()
    outcomes = []

    def note(line, act):
        try:
            outcomes.append(act())
        except landline.LandlineError as error:
            outcomes.append(type(error))
            raise

    server.on("nowait")(lambda line, _: note(line, lambda: line.send_nowait("x")))
    server.on("dropping")(
        lambda line, _: note(
            line, lambda: line.send_nowait("x", overflow=landline.OverflowPolicy.DROP_OLDEST)
        )
    )
    server.on("datagram")(lambda line, _: note(line, lambda: line.send_datagram("x")))
    server.on_message(lambda line, _: note(line, lambda: line.send_nowait("x")))
    server.on_datagram("position")(lambda line, _: note(line, lambda: line.send_nowait("x")))
    server.outcomes = outcomes
    return server


@pytest.mark.parametrize("end", [BYE, BREACH], ids=["bye", "breach"])
async def test_handlers_in_the_read_that_ended_the_session_write_no_tracebacks(end, recording, until, caplog):
    caplog.set_level(logging.INFO, "landline")
    async with (
        recording.listen("tcp://127.0.0.1:0") as endpoint,
        raw_connection(endpoint) as (reader, writer),
    ):
        await shake_hands(reader, writer)
        [line] = recording.lines
        datagram = encode_datagram(b"position", b"\xc0", is_packed=True)
        writer.write(datagram + messages(b"nowait", b"dropping", b"datagram", b"") + end)
        await until(lambda: line.is_closed)
    closed = landline.LineClosed
    assert recording.outcomes == [closed, closed, closed, False, closed]
    assert line.datagrams_dropped == 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info] == []
    assert sum("ended while its handler" in record.message for record in caplog.records) == 4


async def test_a_handler_of_a_client_gets_buffer_full_when_another_session_may_follow(
    pair, quick, until, caplog
):
    caplog.set_level(logging.INFO, "landline")
    server, outcomes = landline.Server(), []
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)

        @connector.on_message
        def note(line, message):
            try:
                line.send_nowait("x")
            except landline.LandlineError as error:
                outcomes.append(error)
                raise

        async with connector as line:
            [other] = server.lines
            other.send_nowait("the last one")
            driver_of(other)._flush()
            other.abort(landline.Code.GOING_AWAY, "come back")
            await until(lambda: outcomes and line.state is landline.LineState.ONLINE)
    assert [type(error) for error in outcomes] == [landline.BufferFull]
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_request_in_the_read_that_ended_the_session_is_not_handled(recording, until):
    begun = []
    recording.on("plain")(lambda line, _: begun.append("plain"))

    @recording.on("slow")
    async def slow(line, _):
        begun.append("slow")

    async with (
        recording.listen("tcp://127.0.0.1:0") as endpoint,
        raw_connection(endpoint) as (reader, writer),
    ):
        await shake_hands(reader, writer)
        [line] = recording.lines
        writer.write(messages(b"plain", b"slow", operation=Operation.REQUEST) + BYE)
        await until(lambda: line.is_closed)
        await asyncio.sleep(0)
    assert begun == []


async def test_a_request_to_a_side_that_sent_eof_is_acknowledged_and_not_handled(until):
    server, begun = landline.Server(), []
    server.on("work")(lambda line, _: begun.append(line))
    server.on("more")(lambda line, _: begun.append(line))
    async with server.listen("tcp://127.0.0.1:0") as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        await line.send_eof()
        writer.write(messages(b"work", b"more", operation=Operation.REQUEST) + encode_eof(3))
        seen = []
        while Kind.ACK not in seen:
            kind, body = await read_frame(reader)
            seen.append(kind)
        assert int.from_bytes(body, "big") == 3
        assert Kind.DATA not in seen
        # EOF from both sides does not end the session.
        assert line.state is landline.LineState.ONLINE
    assert begun == []
