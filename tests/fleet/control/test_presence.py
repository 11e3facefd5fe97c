"""Who is on, since when, and why not: each change, and that news of an older join changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline.fleet.control import presence
from landline.fleet.model import Cause, Presence, PresenceState

P = PresenceState
ONLINE = presence.joined(100.0, join="a", address="10.0.0.1:1")


def in_state(state: PresenceState, cause: Cause = Cause.NONE, join: str = "a") -> Presence:
    return Presence(
        state=state, since_at=100.0, cause=cause, detail="before", address="10.0.0.1:1", join=join
    )


def test_a_machine_that_joins_is_online() -> None:
    assert Presence(state=P.ONLINE, since_at=100.0, address="10.0.0.1:1", join="a") == ONLINE


def test_silence_and_recovery() -> None:
    silent = presence.suspected(ONLINE, 110.0, join="a", detail="nothing heard for 2 s")
    assert (silent.state, silent.cause, silent.since_at) == (P.SILENT, Cause.SILENT, 110.0)
    assert silent.detail == "nothing heard for 2 s"
    assert silent.address == "10.0.0.1:1"
    again = presence.recovered(silent, 111.0, join="a", address="10.0.0.2:2")
    assert again == presence.joined(111.0, join="a", address="10.0.0.2:2")
    assert presence.recovered(silent, 111.0, join="a", address="").address == "10.0.0.1:1"


def test_a_lost_link_and_its_return() -> None:
    lost = presence.link_lost(ONLINE, 110.0, join="a", cause=Cause.LINK_LOST, detail="reset")
    assert (lost.state, lost.cause, lost.detail, lost.since_at) == (
        P.RESUMING,
        Cause.LINK_LOST,
        "reset",
        110.0,
    )
    assert presence.recovered(lost, 112.0, join="a", address="x").state is P.ONLINE


@pytest.mark.parametrize(
    ("cause", "state"),
    [(cause, P.OFFLINE if cause is Cause.AGENT_STOPPED else P.AWAY) for cause in Cause],
)
def test_a_goodbye_determines_the_presence(cause: Cause, state: PresenceState) -> None:
    for before in P:
        after = presence.said_goodbye(
            in_state(before), 120.0, join="a", cause=cause, detail="bye", execution_id="j-1"
        )
        assert (after.state, after.cause, after.detail, after.since_at) == (state, cause, "bye", 120.0)
        assert (after.address, after.execution_id, after.gone_at) == ("", "j-1", None)


def leaving(cause: Cause) -> Presence:
    return presence.said_goodbye(
        ONLINE, 110.0, join="a", cause=cause, detail="the system goes down", execution_id="j-1"
    )


GRACE_S = presence.GONE_GRACE_S
DOWN = [Cause.SHUT_DOWN, Cause.GOING_DOWN]


@pytest.mark.parametrize("cause", [Cause.RESTARTING, *DOWN])
def test_a_goodbye_proves_nothing_while_the_line_is_alive(cause: Cause) -> None:
    said = leaving(cause)
    assert not presence.is_gone(said, 1e9)
    assert presence.overdue(said, 1e9) is said
    # Silence and its end neither.
    assert presence.suspected(said, 120.0, join="a", detail="") is said
    assert presence.recovered(said, 121.0, join="a", address="x") is said


@pytest.mark.parametrize("cause", [Cause.RESTARTING, *DOWN])
def test_a_machine_that_said_goodbye_is_gone_a_while_after_its_line_ended(cause: Cause) -> None:
    ended = presence.left(leaving(cause), 120.0, join="a", cause=Cause.AGENT_STOPPED, detail="closed")
    assert ended.gone_at == 120.0
    assert not presence.is_gone(ended, 120.0 + GRACE_S - 0.001)
    assert presence.is_gone(ended, 120.0 + GRACE_S)
    # The reason is its own, whatever ended the line.
    assert (ended.cause, ended.detail, ended.execution_id) == (cause, "the system goes down", "j-1")


@pytest.mark.parametrize("cause", DOWN)
def test_a_machine_that_shuts_down_is_offline_when_its_line_ended(cause: Cause) -> None:
    left = presence.left(leaving(cause), 120.0, join="a", cause=Cause.AGENT_STOPPED, detail="closed")
    assert (left.state, left.cause, left.since_at) == (P.OFFLINE, cause, 120.0)


@pytest.mark.parametrize("cause", [Cause.RESTARTING, *DOWN])
def test_a_broken_link_does_not_prove_that_a_machine_went(cause: Cause) -> None:
    said = leaving(cause)
    assert presence.link_lost(said, 120.0, join="a", cause=Cause.LINK_LOST, detail="") is said


@pytest.mark.parametrize("cause", [Cause.RESTARTING, *DOWN])
def test_a_machine_that_said_goodbye_has_time_to_return_to_a_server_that_was_started_again(
    cause: Cause,
) -> None:
    after = presence.after_server_start(leaving(cause), 200.0)
    assert (after.state, after.cause, after.execution_id) == (P.AWAY, cause, "j-1")
    grace_s = presence.SERVER_START_GRACE_S
    assert not presence.is_gone(after, 200.0 + grace_s - 0.001)
    assert presence.is_gone(after, 200.0 + grace_s)
    assert presence.overdue(after, 200.0 + grace_s - 0.001) is after
    if cause is not Cause.RESTARTING:
        gone = presence.overdue(after, 200.0 + grace_s)
        assert (gone.state, gone.cause, gone.since_at) == (P.OFFLINE, cause, 200.0 + grace_s)
    # One whose line had ended before is not kept waiting.
    gone = presence.left(leaving(cause), 120.0, join="a", cause=Cause.AGENT_STOPPED, detail="")
    assert presence.after_server_start(gone, 200.0) is gone


def test_a_machine_that_joins_again_takes_its_goodbye_back() -> None:
    again = presence.joined(130.0, join="b", address="x")
    assert (again.gone_at, again.execution_id) == (None, "")
    assert not presence.is_gone(again, 1e9)


def test_leaving_without_a_goodbye_is_the_loss() -> None:
    for state in (P.ONLINE, P.SILENT):
        after = presence.left(in_state(state), 120.0, join="a", cause=Cause.LINK_LOST, detail="gone")
        assert (after.state, after.cause, after.detail) == (P.OFFLINE, Cause.LINK_LOST, "gone")


def test_leaving_after_a_lost_link_keeps_the_first_cause() -> None:
    before = in_state(P.RESUMING, Cause.SILENT)
    after = presence.left(before, 120.0, join="a", cause=Cause.LINK_LOST, detail="")
    assert (after.state, after.cause, after.detail) == (P.OFFLINE, Cause.SILENT, "before")
    after = presence.left(before, 120.0, join="a", cause=Cause.LINK_LOST, detail="not resumed")
    assert (after.cause, after.detail) == (Cause.SILENT, "not resumed")


def test_leaving_after_the_end_changes_nothing() -> None:
    before = in_state(P.OFFLINE, Cause.SHUT_DOWN)
    assert presence.left(before, 120.0, join="a", cause=Cause.LINK_LOST, detail="x") is before


def test_changes_that_make_no_sense_change_nothing() -> None:
    for state in (P.SILENT, P.RESUMING, P.AWAY, P.OFFLINE):
        before = in_state(state)
        assert presence.suspected(before, 120.0, join="a", detail="") is before
    for state in (P.ONLINE, P.AWAY, P.OFFLINE):
        before = in_state(state)
        assert presence.recovered(before, 120.0, join="a", address="x") is before
    for state in (P.RESUMING, P.AWAY, P.OFFLINE):
        before = in_state(state)
        assert presence.link_lost(before, 120.0, join="a", cause=Cause.SILENT, detail="") is before


EVENTS: dict[str, Any] = {
    "suspected": lambda before, now, join: presence.suspected(before, now, join=join, detail="d"),
    "recovered": lambda before, now, join: presence.recovered(before, now, join=join, address="x"),
    "link_lost": lambda before, now, join: presence.link_lost(
        before, now, join=join, cause=Cause.LINK_LOST, detail="d"
    ),
    "restarting": lambda before, now, join: presence.said_goodbye(
        before, now, join=join, cause=Cause.RESTARTING, detail="d"
    ),
    "shut down": lambda before, now, join: presence.said_goodbye(
        before, now, join=join, cause=Cause.SHUT_DOWN, detail="d"
    ),
    "left": lambda before, now, join: presence.left(before, now, join=join, cause=Cause.SILENT, detail="d"),
}


@pytest.mark.parametrize("event", EVENTS)
def test_news_of_an_older_join_change_nothing(event: str) -> None:
    for state in P:
        before = in_state(state)
        assert EVENTS[event](before, 120.0, "older") is before


@given(
    st.lists(
        st.tuples(st.sampled_from(["joined", *EVENTS]), st.integers(0, 3), st.floats(0, 100)), max_size=40
    )
)
def test_an_older_join_never_changes_a_newer_presence(events: list[tuple[str, int, float]]) -> None:
    now, newest = 0.0, 0
    current = presence.joined(now, join="0", address="x")
    alone = current
    for event, join, step in events:
        now += step
        if event == "joined":
            newest += 1
            current = alone = presence.joined(now, join=str(newest), address="x")
            continue
        # Any of the joins there were; the world with only the newest one's events must look the same.
        who = str(max(0, newest - join))
        current = EVENTS[event](current, now, who)
        if who == str(newest):
            alone = EVENTS[event](alone, now, who)
        assert current == alone
        assert current.join == str(newest)
        assert current.since_at <= now


@pytest.mark.parametrize("state", [P.ONLINE, P.SILENT, P.RESUMING])
def test_a_started_control_server_waits_for_connected_machines(state: PresenceState) -> None:
    after = presence.after_server_start(in_state(state), 200.0)
    assert (after.state, after.cause, after.since_at, after.join) == (
        P.RESUMING,
        Cause.SERVER_STARTED,
        200.0,
        "",
    )
    grace = presence.SERVER_START_GRACE_S
    assert presence.overdue(after, 200.0 + grace - 0.001) is after
    gone = presence.overdue(after, 200.0 + grace)
    assert (gone.state, gone.cause) == (P.OFFLINE, Cause.SERVER_STARTED)


def test_a_started_control_server_keeps_offline_machines() -> None:
    before = in_state(P.OFFLINE, Cause.SHUT_DOWN)
    assert presence.after_server_start(before, 200.0) is before


def test_a_restart_that_takes_too_long_is_offline() -> None:
    away = msgspec.structs.replace(in_state(P.AWAY, Cause.RESTARTING), gone_at=101.0)
    assert presence.overdue(away, 100.0 + presence.AWAY_MAX_S - 0.001) is away
    gone = presence.overdue(away, 100.0 + presence.AWAY_MAX_S)
    assert (gone.state, gone.cause) == (P.OFFLINE, Cause.DID_NOT_RETURN)
    assert "15 minutes" in gone.detail


def test_other_presences_are_never_overdue() -> None:
    for state in (P.ONLINE, P.SILENT, P.OFFLINE):
        before = in_state(state)
        assert presence.overdue(before, 1e9) is before
    resuming = in_state(P.RESUMING, Cause.LINK_LOST)
    assert presence.overdue(resuming, 1e9) is resuming


def test_a_presence_is_a_value() -> None:
    with pytest.raises(AttributeError):
        ONLINE.state = P.OFFLINE  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(ONLINE), type=Presence) == ONLINE
