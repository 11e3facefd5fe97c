"""Many clients at once: who is let in when, and how a server says goodbye to all of them."""

import asyncio

import pytest

import landline


async def test_more_than_the_rate_are_told_when_to_come_back_and_do(states):
    server = landline.Server(admission=landline.Admission(per_s=10, burst=5))
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        seen = [states() for _ in range(30)]
        connectors = [landline.connect(str(endpoint), on_state=each) for each in seen]
        lines = await asyncio.gather(*connectors)
        assert len(server.lines) == 30
        assert server.connections_refused >= 10
        refused = [change for each in seen for change in each.find(landline.LineState.RECONNECTING)]
        assert {change.cause for change in refused} == {landline.DisconnectCause.REJECTED}
        assert all("too many clients connect at once" in change.detail for change in refused)
        # Places in a queue, not all the same one.
        assert len({round(change.due_in_s, 3) for change in refused}) > len(refused) / 2
        await asyncio.gather(*(line.close() for line in lines))


async def test_unfinished_handshakes_are_limited(until, quick):
    server = landline.Server(admission=landline.Admission(unfinished=3))
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        silent = [await asyncio.open_connection(endpoint.host, endpoint.port) for _ in range(3)]
        for reader, _ in silent:
            assert await reader.readexactly(5)
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        answer = await reader.read()
        assert answer[4] == 4  # REJECT, and nothing before it
        writer.close()
        silent.pop()[1].transport.abort()
        await until(lambda: len(server._host.acceptor.unfinished) < 3)
        async with landline.connect(str(endpoint), backoff=quick) as line:
            assert line.state is landline.LineState.ONLINE
        for _, writer in silent:
            writer.transport.abort()


@pytest.mark.parametrize("over_s", [0.0, 0.3])
async def test_a_closing_server_sends_its_clients_to_another_one(over_s, until):
    first, second = landline.Server(name="first"), landline.Server(name="second")
    async with second.listen("tcp://127.0.0.1:0") as there, first.listen("tcp://127.0.0.1:0") as here:
        # Their own policy would bring nobody back within the test.
        slow = landline.Backoff(first_s=600, cap_s=600)
        connectors = [landline.connect(str(here), backoff=slow) for _ in range(20)]
        lines = [await connector for connector in connectors]
        for line in first.lines:
            await line.send("last words")
        left: list[int] = []
        first.on_state(lambda line, change: left.append(len(first.lines)) if line.is_closed else None)
        await first.close(
            reason="restart", retry_after_s=0.0, spread_s=0.2, alternatives=[str(there)], over_s=over_s
        )
        await until(lambda: len(second.lines) == 20)
        assert [await anext(line) for line in lines] == ["last words"] * 20
        assert first.lines == []
        assert len(left) == 20
        for line in lines:
            line.abort(landline.Code.NORMAL)
            await line.close()


async def test_a_paced_close_that_is_cancelled_ends_the_rest_at_once(pair):
    server = landline.Server()
    async with pair(server) as (line, _), pair(server) as (_, _):
        closing = asyncio.create_task(server.close(over_s=600))
        while len(server.lines) == 2:
            await asyncio.sleep(0.01)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert server.lines == []
        line.abort(landline.Code.NORMAL)
