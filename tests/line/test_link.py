"""What a transport tells its line. Real sockets, both event loops."""

import pytest
from tests.line_internals import link_of


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
