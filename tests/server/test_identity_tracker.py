"""Presence: what is decided, by identity, from the changes of lines; and that a server keeps it of real ones."""

import asyncio
import itertools
import tracemalloc
from random import SystemRandom

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import landline
from landline.line.line_state import DisconnectCause, LineState, StateChange
from landline.server.identity_tracker import IdentityState, IdentityStatus, best_of, next_status
from landline.session.handshake import ClientHandshake
from landline.testing import Clock

ONLINE, SUSPECT = LineState.ONLINE, LineState.SUSPECT
RECONNECTING, CLOSED = LineState.RECONNECTING, LineState.CLOSED


class FakeLine:
    """The attributes of a line that the tracker reads."""

    def __init__(self, identity="ada"):
        self.identity = identity
        self.last_change = None


class Book:
    """An identity tracker with its own clock, and the changes it reported."""

    def __init__(self, remembered_max=100):
        self.clock = Clock(0.0)
        self.identities = landline.IdentityTracker(self.clock, remembered_max)
        self.told = []
        self.identities.on_change(lambda identity, status: self.told.append((identity, status.state.value)))

    def change(self, line, state, cause=DisconnectCause.NONE, detail=""):
        self.clock.advance(1.0)
        line.last_change = StateChange(state=state, cause=cause, detail=detail)
        self.identities._line_changed(line, line.last_change)


@pytest.fixture
def book():
    return Book()


# What is decided.


@pytest.mark.parametrize(
    ("states", "best"),
    [
        ({}, IdentityState.GONE),
        ({ONLINE: 0}, IdentityState.GONE),
        ({RECONNECTING: 1}, IdentityState.RECONNECTING),
        ({RECONNECTING: 5, SUSPECT: 1}, IdentityState.SUSPECT),
        ({SUSPECT: 1, ONLINE: 1, RECONNECTING: 1}, IdentityState.ONLINE),
    ],
)
def test_the_best_line_counts(states, best):
    assert best_of(states) is best


def test_an_unchanged_state_keeps_its_status():
    before = IdentityStatus(IdentityState.SUSPECT, 1.0, DisconnectCause.SILENT, "nothing heard")
    assert next_status(before, IdentityState.SUSPECT, (), 9.0) is before
    assert next_status(before, IdentityState.ONLINE, (), 9.0) == IdentityStatus(IdentityState.ONLINE, 9.0)
    lost = StateChange(state=RECONNECTING, cause=DisconnectCause.LINK_LOST, detail="broke")
    other = StateChange(state=CLOSED, cause=DisconnectCause.EXPIRED, detail="too late")
    assert next_status(before, IdentityState.RECONNECTING, (other, lost), 9.0) == IdentityStatus(
        IdentityState.RECONNECTING, 9.0, DisconnectCause.LINK_LOST, "broke"
    )
    assert next_status(before, IdentityState.GONE, (other,), 9.0).cause is DisconnectCause.EXPIRED


# The books.


def test_the_life_of_one_line(book):
    line = FakeLine()
    assert book.identities.status("ada") is None
    book.change(line, ONLINE)
    assert book.identities.status("ada") == IdentityStatus(IdentityState.ONLINE, 1.0)
    assert book.identities.online == {"ada": (line,)}
    book.change(line, SUSPECT, DisconnectCause.SILENT, "nothing heard for 12.0 s")
    assert book.identities.status("ada") == IdentityStatus(
        IdentityState.SUSPECT, 2.0, DisconnectCause.SILENT, "nothing heard for 12.0 s"
    )
    assert book.identities.online == {"ada": (line,)}
    book.change(line, RECONNECTING, DisconnectCause.LINK_LOST, "broke")
    assert book.identities.online == {}
    assert book.identities.status("ada").state is IdentityState.RECONNECTING
    book.change(line, ONLINE)
    book.change(line, CLOSED, DisconnectCause.CLOSED_BY_PEER, "done")
    assert book.identities.status("ada") == IdentityStatus(
        IdentityState.GONE, 5.0, DisconnectCause.CLOSED_BY_PEER, "done"
    )
    assert [state for _, state in book.told] == ["online", "suspect", "reconnecting", "online", "gone"]


def test_a_second_line_of_an_identity_changes_nothing_until_it_is_the_best(book):
    one, two = FakeLine(), FakeLine()
    book.change(one, ONLINE)
    book.change(two, ONLINE)
    assert book.identities.online == {"ada": (one, two)}
    book.change(one, RECONNECTING, DisconnectCause.LINK_LOST, "one broke")
    book.change(two, SUSPECT, DisconnectCause.SILENT, "two is silent")
    assert book.identities.status("ada").detail == "two is silent"
    # Closing the better one leaves the other, and its own reason.
    book.change(two, CLOSED, DisconnectCause.CLOSED_BY_PEER, "two left")
    assert book.identities.status("ada") == IdentityStatus(
        IdentityState.RECONNECTING, 5.0, DisconnectCause.LINK_LOST, "one broke"
    )
    book.change(one, CLOSED, DisconnectCause.EXPIRED, "not resumed")
    assert book.identities.status("ada").detail == "not resumed"
    assert [state for _, state in book.told] == ["online", "suspect", "reconnecting", "gone"]


def test_an_identity_that_returns_is_online(book):
    book.change(line := FakeLine(), ONLINE)
    book.change(line, CLOSED)
    book.change(FakeLine(), ONLINE)
    assert book.identities.status("ada") == IdentityStatus(IdentityState.ONLINE, 3.0)


def test_lines_without_an_identity_are_ignored(book):
    book.change(FakeLine(""), ONLINE)
    assert book.identities.online == {}
    assert book.identities.status("") is None
    assert book.told == []


def test_a_line_that_was_never_online_is_ignored(book):
    book.change(FakeLine(), CLOSED)
    assert book.identities.status("ada") is None
    assert book.told == []


@pytest.mark.parametrize("remembered_max", [0, 2])
def test_the_ones_that_are_gone_longest_are_forgotten(remembered_max):
    book = Book(remembered_max)
    lines = {name: FakeLine(name) for name in ("a", "b", "c", "d")}
    for line in lines.values():
        book.change(line, ONLINE)
    for name in ("c", "a", "b"):
        book.change(lines[name], CLOSED)
    known = {name for name in lines if book.identities.status(name)}
    assert known == ({"d"} if not remembered_max else {"a", "b", "d"})
    assert book.told[-1] == ("b", "gone")


def test_a_callback_that_fails_is_logged_and_the_last_one_counts(book, caplog):
    seen = []

    def see(identity, status):
        seen.append(identity)

    book.identities.on_change(lambda identity, status: 1 / 0)
    book.change(FakeLine(), ONLINE)
    assert "ZeroDivisionError" in caplog.text
    assert book.identities.on_change(see) is see
    assert book.told == []


def test_a_remembered_identity_takes_about_the_documented_memory():
    book = Book(remembered_max=2000)
    book.identities.on_change(lambda identity, status: None)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(6000):
            line = FakeLine(f"machine-{number}")
            book.change(line, ONLINE)
            book.change(
                line, CLOSED, DisconnectCause.EXPIRED, f"nothing heard; not resumed within {number} s"
            )
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / 2000 < 500, f"{held / 2000:.0f} bytes for each"


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([ONLINE, SUSPECT, RECONNECTING, CLOSED]))))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_the_tracker_agrees_with_the_lines(steps):
    book = Book()
    lines = {}
    for number, state in steps:
        name = "ab"[number % 2]
        line = lines.setdefault(number, FakeLine(name))
        book.change(line, state, detail=f"{number} {state}")
        if state is CLOSED:
            del lines[number]
        for identity in "ab":
            there = [each for each in lines.values() if each.identity == identity]
            connected = {each for each in there if each.last_change.state in {ONLINE, SUSPECT}}
            assert set(book.identities.online.get(identity, ())) == connected
            status = book.identities.status(identity)
            if there:
                order = [ONLINE, SUSPECT, RECONNECTING]
                best = min((each.last_change.state for each in there), key=order.index)
                assert status.state.value == best.value
            else:
                assert status is None or status.state is IdentityState.GONE
    changes = {identity: [state for name, state in book.told if name == identity] for identity in "ab"}
    for states in changes.values():
        assert all(one != two for one, two in itertools.pairwise(states))


# Of a server.


async def test_a_server_tracks_the_identities_of_its_lines(quick, until):
    server = landline.Server(resume_window_s=0.2)
    told = []
    identities = server.identities
    assert server.identities is identities
    identities.on_change(lambda identity, status: told.append((identity, status.state)))
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        async with landline.connect(str(endpoint), backoff=quick, identity="ada") as mine:
            [line] = server.lines
            assert identities.online == {"ada": (line,)}
            before = identities.status("ada").since_at
            line.break_link()
            assert identities.status("ada").cause is DisconnectCause.LINK_LOST
            assert identities.status("ada").since_at >= before
            # A client that is not there yet could not say goodbye.
            await until(lambda: identities.online and mine.epoch == 2)
        await until(lambda: identities.status("ada").state is IdentityState.GONE)
        assert identities.status("ada").cause is DisconnectCause.CLOSED_BY_PEER
    assert [state.value for _, state in told] == ["online", "reconnecting", "online", "gone"]


async def test_an_identity_is_gone_when_the_resume_window_ends(until):
    server = landline.Server(resume_window_s=0.1)
    identities = server.identities
    handshake = ClientHandshake(
        random=SystemRandom(), auth=landline.Anonymous(), identity="ada", limits=landline.Limits()
    )
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        while handshake.welcome is None:
            handshake.feed(await reader.read(8192))
            writer.write(handshake.data_to_send())
        assert "ada" in identities.online
        writer.close()
        await until(lambda: identities.status("ada").state is IdentityState.GONE)
        status = identities.status("ada")
        assert status.cause is DisconnectCause.EXPIRED
        assert "without a goodbye; not resumed within 0.1 s" in status.detail


async def test_identities_requested_late_include_the_lines_already_connected(pair):
    server = landline.Server()
    async with pair(server, identity="ada") as (_, other):
        assert server.identities.online == {"ada": (other,)}
        other.break_link()
        assert server.identities.status("ada").state is IdentityState.RECONNECTING


def test_a_negative_number_of_identities_is_rejected():
    with pytest.raises(landline.ConfigurationError, match="remembered_identities=-1"):
        landline.Server(remembered_identities=-1)
    landline.Server(remembered_identities=0)
