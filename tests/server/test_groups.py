"""Groups: their policy for slow members, who comes and goes, and clients that join by themselves."""

import pytest

import landline

SMALL = landline.SendBuffer(size_bytes=64 * 1024, messages=128)
DROP_OLDEST, DROP_NEWEST = landline.OverflowPolicy.DROP_OLDEST, landline.OverflowPolicy.DROP_NEWEST
DISCONNECT, WAIT = landline.OverflowPolicy.DISCONNECT, landline.OverflowPolicy.WAIT


@pytest.fixture
def changes():
    """Records ``on_change`` of groups."""
    seen = []

    def record(group, line, joined):
        seen.append((group.name, line.identity, joined))

    record.seen = seen
    return record


# The policy.


def test_a_policy_is_said_once_or_the_same_again():
    server = landline.Server()
    room = server.group("room", overflow=DROP_OLDEST, max_pending=3)
    assert (room.overflow, room.max_pending) == (DROP_OLDEST, 3)
    assert server.group("room") is room
    assert server.group("room", overflow=DROP_OLDEST, max_pending=3) is room
    plain = server.group("plain")
    assert (plain.overflow, plain.max_pending) == (DROP_NEWEST, None)
    assert server.group("plain", overflow=DROP_NEWEST) is plain
    assert repr(plain) == "<Group 'plain' of 0 lines>"


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (
            {"overflow": DROP_OLDEST},
            "the group 'room' was made with overflow=DROP_OLDEST, max_pending=3, not with overflow=DROP_OLDEST; "
            "give the policy in the first call only",
        ),
        (
            {"overflow": DROP_OLDEST, "max_pending": 4},
            "max_pending=3, not with overflow=DROP_OLDEST, max_pending=4",
        ),
        ({"overflow": DISCONNECT}, "not with overflow=DISCONNECT"),
        ({"overflow": WAIT}, "a broadcast does not wait"),
        ({"overflow": "drop"}, "overflow='drop' is not a landline.OverflowPolicy"),
        ({"max_pending": 3}, "and needs DROP_OLDEST"),
    ],
)
def test_another_policy_and_an_impossible_one_are_refused(policy, text):
    server = landline.Server()
    room = server.group("room", overflow=DROP_OLDEST, max_pending=3)
    with pytest.raises(landline.ConfigurationError, match=text):
        server.group("room", **policy)
    assert (room.overflow, room.max_pending) == (DROP_OLDEST, 3)
    if "not with" not in text:
        with pytest.raises(landline.ConfigurationError, match=text):
            server.group("other", **policy)


async def test_broadcasts_keep_to_the_policy_unless_told_otherwise(pair):
    server = landline.Server(send_buffer=SMALL)
    room = server.group("room", overflow=DROP_OLDEST, max_pending=2)
    async with pair(server) as (line, other):
        room.add(other)
        other.break_link()
        for number in range(5):
            assert room.broadcast(number).dropped == (number >= 2)
        assert room.broadcast(5, max_pending=1).dropped == 2
        assert room.broadcast("promised", overflow=DROP_NEWEST).sent == 1
        assert room.broadcast("promised too", overflow=DROP_NEWEST).dropped == 0
        with pytest.raises(landline.ConfigurationError):
            room.broadcast(6, overflow=DROP_NEWEST, max_pending=2)
        assert [await anext(line) for _ in range(3)] == [5, "promised", "promised too"]


async def test_a_group_may_end_those_who_are_too_slow(pair, changes):
    server = landline.Server(send_buffer=SMALL)
    strict = server.group("strict", overflow=DISCONNECT)
    strict.on_change(changes)
    async with pair(server, identity="slow") as (_, other):
        strict.add(other)
        other.break_link()
        while not other.is_closed:
            result = strict.broadcast(bytes(1000))
        assert result == landline.BroadcastResult(0, 0, 1)
        assert changes.seen == [("strict", "slow", True), ("strict", "slow", False)]


# Who comes and goes.


async def test_joining_and_leaving_are_told_once_each(pair, until, changes):
    server = landline.Server()
    room, hall = server.group("room"), server.group("hall")
    assert room.on_change(changes) is changes
    hall.on_change(changes)
    async with pair(server, identity="ada") as (line, other):
        room.add(other)
        room.add(other)
        hall.add(other)
        room.discard(other)
        room.discard(other)
        assert changes.seen == [("room", "ada", True), ("hall", "ada", True), ("room", "ada", False)]
        # Who is away stays.
        other.break_link()
        await until(lambda: other.epoch == line.epoch == 2)
        room.add(other)
        await line.close()
        await until(lambda: other.is_closed)
        assert changes.seen[3:] == [("room", "ada", True), ("hall", "ada", False), ("room", "ada", False)]
        room.add(other)
        assert len(changes.seen) == 6
        assert len(room) == len(hall) == 0


async def test_a_callback_sees_the_group_as_it_is_and_may_change_it(pair, until, caplog):
    server = landline.Server()
    room, hall = server.group("room"), server.group("hall")
    seen = []

    @room.on_change
    def changed(group, line, joined):
        seen.append((joined, line in group, len(group)))
        if joined:
            hall.add(line)
        else:
            hall.discard(line)
            raise ValueError("a mistake")

    async with pair(server) as (line, other):
        room.add(other)
        assert other in hall
        await line.close()
        await until(lambda: other.is_closed)
        assert seen == [(True, True, 1), (False, False, 0)]
        assert other not in hall
        assert "a mistake" in caplog.text


async def test_clients_join_and_leave_by_themselves_where_the_server_lets_them(pair, until):
    server = landline.Server()
    rooms = {name: server.group(name, overflow=DROP_OLDEST, max_pending=10) for name in ("lobby", "lab")}

    @server.on("join", str)
    def join(line, name):
        if name not in rooms:
            raise landline.RequestError("no_room", f"there is no room {name!r}")
        rooms[name].add(line)
        return len(rooms[name])

    @server.on("leave", str)
    def leave(line, name):
        if name in rooms:
            rooms[name].discard(line)

    async with pair(server) as (line, other):
        assert await line.request("join", "lab") == 1
        with pytest.raises(landline.RequestError, match="there is no room 'cellar'"):
            await line.request("join", "cellar")
        rooms["lab"].broadcast("hello")
        assert await anext(line) == "hello"
        await line.request("leave", "lab")
        assert other not in rooms["lab"]
