"""Decisions about presence. Pure: each function takes a presence and ``now``, and returns the next presence.

A presence belongs to the *join* that made it. News of an older join changes nothing. So a connection whose loss is
noticed late cannot take a machine offline that is already back.
"""

from __future__ import annotations

from typing import Final

import msgspec

from landline.fleet.model import Cause, Presence, PresenceState

AWAY_MAX_S: Final = 15 * 60.0
"""A restarting machine that is not back after this time did not return."""
GONE_GRACE_S: Final = 20.0
"""A machine that said goodbye counts as gone if its line has ended and it did not return for this long. An agent that
was restarted while the machine stayed up is back by then (systemd waits five seconds)."""
SERVER_START_GRACE_S: Final = 90.0
"""How long machines that were connected have to return after a start of the control server: longer than the longest
reconnect delay of an agent and its handshake."""


def joined(now: float, *, join: str, address: str) -> Presence:
    """A machine joined."""
    return Presence(state=PresenceState.ONLINE, since_at=now, address=address, join=join)


def suspected(presence: Presence, now: float, *, join: str, detail: str) -> Presence:
    """No byte has arrived from a connected machine for too long."""
    if presence.join != join or presence.state is not PresenceState.ONLINE:
        return presence
    return msgspec.structs.replace(
        presence, state=PresenceState.SILENT, since_at=now, cause=Cause.SILENT, detail=detail
    )


def recovered(presence: Presence, now: float, *, join: str, address: str) -> Presence:
    """Bytes arrived again from a silent or resuming machine, perhaps from another address."""
    if presence.join != join or presence.state not in {PresenceState.SILENT, PresenceState.RESUMING}:
        return presence
    return joined(now, join=join, address=address or presence.address)


def link_lost(presence: Presence, now: float, *, join: str, cause: Cause, detail: str) -> Presence:
    """The connection of a machine ended without a goodbye. It may still resume."""
    if presence.join != join or presence.state not in {PresenceState.ONLINE, PresenceState.SILENT}:
        return presence
    return msgspec.structs.replace(
        presence, state=PresenceState.RESUMING, since_at=now, cause=cause, detail=detail
    )


def said_goodbye(
    presence: Presence, now: float, *, join: str, cause: Cause, detail: str, execution_id: str = ""
) -> Presence:
    """A machine announced that it goes down (away until its line ends) or that its agent stops (offline).

    The next join takes it back.
    """
    if presence.join != join:
        return presence
    state = PresenceState.OFFLINE if cause is Cause.AGENT_STOPPED else PresenceState.AWAY
    return Presence(
        state=state, since_at=now, cause=cause, detail=detail, execution_id=execution_id, join=join
    )


def left(presence: Presence, now: float, *, join: str, cause: Cause, detail: str) -> Presence:
    """A machine's session ended. The cause is the one of its goodbye, or else the loss of the connection."""
    if presence.join != join or presence.state is PresenceState.OFFLINE:
        return presence
    if presence.state is PresenceState.AWAY:
        is_expected = presence.cause is Cause.RESTARTING
        return msgspec.structs.replace(
            presence,
            state=PresenceState.AWAY if is_expected else PresenceState.OFFLINE,
            since_at=presence.since_at if is_expected else now,
            gone_at=now,
        )
    if presence.state is PresenceState.RESUMING:
        cause, detail = presence.cause, detail or presence.detail
    return Presence(state=PresenceState.OFFLINE, since_at=now, cause=cause, detail=detail, join=join)


def is_gone(presence: Presence, now: float, *, grace_s: float = GONE_GRACE_S) -> bool:
    """Return whether a machine that said goodbye is certainly gone, so that its goodbye was true.

    ============================================  ============================================
    what happened after the goodbye               the machine
    ============================================  ============================================
    nothing, or its line broke and may resume     is still going down
    its line was closed, or did not resume        is gone after ``grace_s``
    it joined again, same boot id or none         did not go: the goodbye is forgotten
    it joined again, another boot id              went, and is up again
    the control server was restarted              is gone after :data:`SERVER_START_GRACE_S`
    ============================================  ============================================

    A join is a new presence without a goodbye. What it proves about a job is decided by
    :func:`landline.fleet.control.reconciliation.reconcile_on_join`.
    """
    return presence.gone_at is not None and now - presence.gone_at >= grace_s


def after_server_start(presence: Presence, now: float, *, grace_s: float = GONE_GRACE_S) -> Presence:
    """Return a stored presence as it is for a control server that has just started."""
    if presence.state is PresenceState.AWAY and presence.gone_at is None:
        # Its line ended with the earlier server process. If it is still up, it needs as long as any other to return.
        return msgspec.structs.replace(presence, gone_at=now + SERVER_START_GRACE_S - grace_s)
    if presence.state in {PresenceState.AWAY, PresenceState.OFFLINE}:
        return presence
    return Presence(
        state=PresenceState.RESUMING,
        since_at=now,
        cause=Cause.SERVER_STARTED,
        detail="was connected when the control server stopped; not back yet",
    )


def overdue(presence: Presence, now: float, *, grace_s: float = GONE_GRACE_S) -> Presence:
    """End a wait that took too long: for a restart, or for the return after a start of the control server."""
    waited_s = now - presence.since_at
    if presence.state is PresenceState.AWAY and presence.cause is not Cause.RESTARTING:
        # Its line ended with an earlier process of the control server.
        if not is_gone(presence, now, grace_s=grace_s):
            return presence
        return msgspec.structs.replace(presence, state=PresenceState.OFFLINE, since_at=now)
    if presence.state is PresenceState.AWAY and presence.gone_at is not None and waited_s >= AWAY_MAX_S:
        return Presence(
            state=PresenceState.OFFLINE,
            since_at=now,
            cause=Cause.DID_NOT_RETURN,
            detail=f"not back {waited_s / 60:.0f} minutes after it said that it restarts",
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
