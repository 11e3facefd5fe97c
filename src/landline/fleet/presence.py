"""Who is on, since when, and why not. Pure: every function takes a presence and ``now``, and returns the next one.

A presence belongs to a *join*: the arrival that made it. News of an older join changes nothing, so a connection
whose loss is noticed late cannot take a machine offline that is back already.
"""

from __future__ import annotations

from typing import Final

import msgspec

from landline.fleet.model import Cause, Presence, PresenceState

AWAY_MAX_S: Final = 15 * 60.0
"""A restarting machine that is not back after this did not return."""
SERVER_START_GRACE_S: Final = 90.0
"""After a start of the control server, machines that were on have this long to come back: longer than the longest
reconnect delay of an agent and the handshake after it."""


def joined(now: float, *, join: str, address: str) -> Presence:
    """A machine arrived."""
    return Presence(state=PresenceState.ONLINE, since_at=now, address=address, join=join)


def suspected(presence: Presence, now: float, *, join: str, detail: str) -> Presence:
    """Nothing has been heard from a machine that is on."""
    if presence.join != join or presence.state is not PresenceState.ONLINE:
        return presence
    return msgspec.structs.replace(
        presence, state=PresenceState.SILENT, since_at=now, cause=Cause.SILENT, detail=detail
    )


def recovered(presence: Presence, now: float, *, join: str, address: str) -> Presence:
    """A silent or resuming machine was heard again, perhaps from another address."""
    if presence.join != join or presence.state not in {PresenceState.SILENT, PresenceState.RESUMING}:
        return presence
    return joined(now, join=join, address=address or presence.address)


def link_lost(presence: Presence, now: float, *, join: str, cause: Cause, detail: str) -> Presence:
    """The connection of a machine ended without a goodbye; it may still resume."""
    if presence.join != join or presence.state not in {PresenceState.ONLINE, PresenceState.SILENT}:
        return presence
    return msgspec.structs.replace(
        presence, state=PresenceState.RESUMING, since_at=now, cause=cause, detail=detail
    )


def said_goodbye(presence: Presence, now: float, *, join: str, cause: Cause, detail: str) -> Presence:
    """A machine announced that it goes: a restart makes it away, anything else offline."""
    if presence.join != join:
        return presence
    state = PresenceState.AWAY if cause is Cause.RESTARTING else PresenceState.OFFLINE
    return Presence(state=state, since_at=now, cause=cause, detail=detail, join=join)


def left(presence: Presence, now: float, *, join: str, cause: Cause, detail: str) -> Presence:
    """A machine's session is over. What it said in its goodbye stands; without one, the cause is the loss."""
    if presence.join != join or presence.state in {PresenceState.AWAY, PresenceState.OFFLINE}:
        return presence
    if presence.state is PresenceState.RESUMING:
        cause, detail = presence.cause, detail or presence.detail
    return Presence(state=PresenceState.OFFLINE, since_at=now, cause=cause, detail=detail, join=join)


def after_server_start(presence: Presence, now: float) -> Presence:
    """What a stored presence means to a control server that has just started."""
    if presence.state in {PresenceState.AWAY, PresenceState.OFFLINE}:
        return presence
    return Presence(
        state=PresenceState.RESUMING,
        since_at=now,
        cause=Cause.SERVER_STARTED,
        detail="was on when the control server stopped; not back yet",
    )


def overdue(presence: Presence, now: float) -> Presence:
    """Ends a wait that took too long: a restart, or the return after a start of the control server."""
    waited_s = now - presence.since_at
    if presence.state is PresenceState.AWAY and waited_s >= AWAY_MAX_S:
        return Presence(
            state=PresenceState.OFFLINE,
            since_at=now,
            cause=Cause.DID_NOT_RETURN,
            detail=f"not back {waited_s / 60:.0f} minutes after its restart",
        )
    if (
        presence.state is PresenceState.RESUMING
        and presence.cause is Cause.SERVER_STARTED
        and waited_s >= SERVER_START_GRACE_S
    ):
        return Presence(
            state=PresenceState.OFFLINE,
            since_at=now,
            cause=Cause.SERVER_STARTED,
            detail="not back since the control server started",
        )
    return presence
