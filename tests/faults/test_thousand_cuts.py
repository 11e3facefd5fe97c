"""A thousand cuts: the socket under a line is cut again and again, and no message is lost, doubled or misplaced."""

import asyncio
import random

import landline
from landline.testing import FaultProxy

CUTS = 1000
SEED = 5463
ACROSS = landline.SendBuffer(size_bytes=128 * 1024, messages=128)
WAYS = (
    {"client": "reset", "server": "reset"},
    {"client": "reset", "server": "cut"},
    {"client": "cut", "server": "reset"},
    {"client": "cut", "server": "cut"},
    # To the server the old link looks alive when the client is back on a new one.
    {"client": "reset", "server": "abandon"},
)


async def send_numbered(line: landline.Line, rng: random.Random, is_over) -> int:
    """Sends numbered messages of all sizes until it is over, waiting for room; returns how many there were."""
    number = 0
    while not is_over():
        size = rng.choice((0, 10, 100, 1000, 5000, 40_000)) if rng.random() < 0.2 else 50
        await line.send([number, b"x" * size])
        number += 1
    await line.send_eof()
    return number


async def receive_numbered(line: landline.Line, seen: list[int]) -> None:
    async for number, _ in line:
        seen.append(number)


async def test_a_thousand_cuts_neither_lose_nor_duplicate_nor_reorder_messages(states):
    rng = random.Random(SEED)
    server = landline.Server(send_buffer=ACROSS)
    changes = states()
    up: list[int] = []
    down: list[int] = []
    epochs = set()
    connections = []

    def is_over() -> bool:
        return len(epochs) > CUTS

    def on_state(line: landline.Line, change: landline.StateChange) -> None:
        changes(line, change)
        if change.state is landline.LineState.ONLINE:
            epochs.add(change.epoch)

    def on_connection(connection) -> None:
        # Many budgets end inside a frame, some inside the handshake.
        if not is_over():
            budget = int(200 * 200 ** rng.random()) if epochs else 5000
            connection.end_after(budget, way=rng.choice(("up", "down")), **rng.choice(WAYS))
        connections.append(connection)

    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
    ):
        between.on_connection = on_connection
        async with landline.connect(
            between.url,
            backoff=landline.Backoff(first_s=0.0005, cap_s=0.002),
            on_state=on_state,
            send_buffer=ACROSS,
        ) as line:
            [other] = server.lines
            sent_up, sent_down, _, _ = await asyncio.gather(
                send_numbered(line, random.Random(1), is_over),
                send_numbered(other, random.Random(2), is_over),
                receive_numbered(other, up),
                receive_numbered(line, down),
            )
            assert server.lines == [other]
            assert line.session_id == other.session_id
    assert up == list(range(sent_up))
    assert down == list(range(sent_down))
    assert sum(connection.is_spent for connection in connections) >= CUTS
    online = changes.find(landline.LineState.ONLINE)
    assert len(online) > CUTS
    assert all(change.resumed for change in online[1:])
    # More than a token amount of work was done between the cuts.
    assert min(sent_up, sent_down) > CUTS


async def test_cuts_by_both_sides_themselves(pair, until):
    """As above, but the ends drop the transport themselves, at any moment of their own work."""
    rng = random.Random(SEED)
    up: list[int] = []
    down: list[int] = []
    done = False
    async with pair(
        landline.Server(send_buffer=ACROSS),
        send_buffer=ACROSS,
        backoff=landline.Backoff(first_s=0.0005, cap_s=0.002),
    ) as (line, other):

        async def cut() -> None:
            nonlocal done
            while line.epoch < 100:
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                if line.state is landline.LineState.ONLINE and len(up) + len(down) > line.epoch:
                    (line if rng.random() < 0.5 else other).break_link("cut")
                else:
                    await asyncio.sleep(0.0005)
            done = True

        sent_up, sent_down, _, _, _ = await asyncio.gather(
            send_numbered(line, random.Random(3), lambda: done),
            send_numbered(other, random.Random(4), lambda: done),
            receive_numbered(other, up),
            receive_numbered(line, down),
            cut(),
        )
    assert up == list(range(sent_up))
    assert down == list(range(sent_down))
