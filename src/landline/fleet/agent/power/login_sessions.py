"""Parses the lists of logged-on persons that ``who``, ``query user`` and logind print."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import datetime, tzinfo
from typing import Any, Final

import msgspec

from landline.fleet.agent.power import PowerError
from landline.fleet.model import Person

PERSON_CLASSES: Final = frozenset({"user", "user-early", "user-light", "user-early-light"})
"""Session classes that belong to a person (pam_systemd(8)); since systemd 256 root's is ``user-early``."""

# anna     tty2         2024-05-01 10:00 (tty2)            GNU, LC_ALL=C
# anna     ttys001      Oct  2 08:11     (10.0.0.5)        macOS
_WHO_LINE: Final = re.compile(
    r"""^(?P<name>\S+)\s+
        (?:[+?-]\s+)?                                        # mesg state, in case of `who -T`
        (?P<line>\S+)\s+
        (?P<when>\d{4}-\d\d-\d\d\s+\d\d:\d\d|[A-Z][a-z]{2}\s+\d{1,2}\s+\d\d:\d\d)
        (?:\s+.*?\((?P<host>[^()]*(?:\([^()]*\)[^()]*)*)\)|.*)?\s*$""",
    re.VERBOSE,
)

# >anna bell             rdp-tcp#3           3  Active          .  10/2/2023 9:00 AM
#  bob                                       2  Disc            5  10/2/2023 9:00 AM
_QUERY_USER_LINE: Final = re.compile(
    r"^[>\s](?P<name>\S.*?)\s{2,}(?:(?P<session>\S+)\s+)?(?P<id>\d+)\s+(?P<state>[^\W\d]\S*)\s+\S+\s+\S.*$"
)


class LoginSession(msgspec.Struct, frozen=True):
    """A person and the system's identifier of their session."""

    person: Person
    session: str


def sessions_from_who(text: str, platform: str, zone: tzinfo | None = None) -> tuple[LoginSession, ...]:
    """Return the persons in the output of who(1) in the C locale; lines of another form are skipped.

    macOS prints no year, so ``since_at`` is unknown there.

    :param platform: as in :data:`sys.platform`.
    :param zone: the time zone in which ``who`` printed, by default the machine's own.
    """
    entries = []
    for line in text.splitlines():
        match = _WHO_LINE.match(line)
        # macOS lists its own accounts, which begin with an underscore, while it is being set up.
        if match is None or (platform == "darwin" and match["name"].startswith("_")):
            continue
        person = Person(
            name=match["name"],
            seat=match["line"],
            is_remote=_is_remote_host(match["host"] or ""),
            since_at=_seconds_from_when(match["when"], zone),
        )
        session = _user_number(person.name) if platform == "darwin" else person.seat
        entries.append(LoginSession(person, session))
    return tuple(entries)


def sessions_from_query_user(text: str) -> tuple[LoginSession, ...]:
    """Return the persons in the output of Windows' ``query user``, in any language: only its form is parsed.

    A disconnected session has no name, but its person is still logged on. ``since_at`` is unknown, because the date has
    the format of the country.
    """
    entries = []
    for line in text.splitlines():
        match = _QUERY_USER_LINE.match(line)
        if match is None:
            continue
        seat = match["session"] or ""
        person = Person(name=match["name"], seat=seat, is_remote=bool(seat) and seat.lower() != "console")
        entries.append(LoginSession(person, match["id"]))
    return tuple(entries)


def person_from_logind(properties: Mapping[str, Any]) -> Person | None:
    """Return the person of a logind session with these properties; ``None`` for a greeter or a service.

    The seat is the X display if there is one, otherwise the terminal. Raise :class:`PowerError` if the properties do
    not have the types that org.freedesktop.login1(5) documents.
    """
    session = _session(properties)
    if session.class_ not in PERSON_CLASSES:
        return None
    return Person(
        name=session.name,
        seat=session.display or session.tty,
        is_remote=session.remote,
        since_at=session.timestamp_us / 1_000_000 if session.timestamp_us else None,
    )


def is_closing(properties: Mapping[str, Any]) -> bool:
    """Return whether a session is logged off but still has processes. Raise as :func:`person_from_logind`."""
    return _session(properties).state == "closing"


def _session(properties: Mapping[str, Any]) -> _SessionProperties:
    try:
        return msgspec.convert(properties, _SessionProperties)
    except msgspec.ValidationError as error:
        raise PowerError(f"logind described a session in an unknown format: {error}") from error


class _SessionProperties(msgspec.Struct):
    """The properties that are read, named as in org.freedesktop.login1(5)."""

    name: str = msgspec.field(name="Name")
    class_: str = msgspec.field(name="Class")
    state: str = msgspec.field(name="State")
    tty: str = msgspec.field(name="TTY", default="")
    display: str = msgspec.field(name="Display", default="")
    remote: bool = msgspec.field(name="Remote", default=False)
    timestamp_us: int = msgspec.field(name="Timestamp", default=0)


def _is_remote_host(host: str) -> bool:
    # Displays (":0") and terminal multiplexers ("tmux(812).%0") take the place of a host name.
    return bool(host) and not host.startswith((":", "tmux(")) and not host.startswith(("tty", "login screen"))


def _seconds_from_when(when: str, zone: tzinfo | None) -> float | None:
    if not when[0].isdigit():
        return None
    try:
        return datetime.strptime(" ".join(when.split()), "%Y-%m-%d %H:%M").replace(tzinfo=zone).timestamp()
    except ValueError:
        return None


def _user_number(name: str) -> str:
    if sys.platform == "win32":
        return ""
    import pwd  # Windows has no such module

    try:
        return str(pwd.getpwnam(name).pw_uid)
    except KeyError:
        return ""
