"""What a transport tells its line. Real sockets, both event loops."""

import asyncio

import pytest
from tests.line_internals import link_of
from tests.raw_connections import raw_connection, read_frame, shake_hands

import landline
from landline.codes import Operation
from landline.session.bodies import Bye, ResumeTicket, decode_body
from landline.session.constants import Kind
from landline.session.frames import encode_data, encode_ping


async def test_ipv6_addresses_are_written_in_brackets(pair):
    try:
        async with pair(url="tcp://[::1]:0") as (line, other):
            assert line.peer.startswith("[::1]:")
            assert other.peer.startswith("[::1]:")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_bytes_of_an_older_transport_are_ignored(pair, until):
    async with pair() as (line, other):
        old = link_of(line)
        line.break_link()
        await until(lambda: line.epoch == 2)
        old.pause_writing()
        old.data_received(b"no frame at all, which would end the line")
        old.datagram_received(b"")
        old.connection_lost(OSError("late news"))
        await line.send(b"x" * 1_000_000)
        assert await anext(other) == b"x" * 1_000_000
        assert line.epoch == 2


async def test_bytes_on_a_replaced_connection_do_not_reach_the_session():
    server = landline.Server()
    received = []
    server.on_message(lambda line, message: received.append(message))
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        raw_connection(endpoint) as (old_reader, old_writer),
        raw_connection(endpoint) as (reader, writer),
    ):
        welcome = (await shake_hands(old_reader, old_writer)).welcome
        resume = ResumeTicket(welcome.session, welcome.secret, welcome.epoch, 0)
        assert (await shake_hands(reader, writer, resume=resume)).welcome.resumed
        old_writer.write(encode_data(1, 0, Operation.MESSAGE, 0, b"", b"old"))
        # The server reads it now.
        for _ in range(20):
            await asyncio.sleep(0)
        writer.write(encode_data(1, 0, Operation.MESSAGE, 0, b"", b"new") + encode_ping(Kind.PING, 1, 0, 0))
        while (await read_frame(reader))[0] != Kind.PONG:
            pass
        assert received == [b"new"]
        kind, body = await read_frame(old_reader)
        assert kind == Kind.BYE
        assert decode_body(body, Bye).code == landline.Code.LINK_REPLACED
