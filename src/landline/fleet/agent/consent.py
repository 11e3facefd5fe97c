"""Decides what happens to an order before it acts: who is asked, for how long, and what follows if that is impossible.

Pure: every function takes the known facts and ``now``, and returns the next step. One rule stands above all others: an
order acts at once only if it is *known* that no person is logged on. That a person cannot be asked, or that the agent
cannot tell who is logged on, is never consent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from landline.fleet.messages import Order
from landline.fleet.model import Facts, Person, Unasked

NAMES_SHOWN_MAX: Final = 5
"""Persons named in a sentence; the others are counted."""
NOTICES_LEFT_S: Final = (300.0, 60.0, 10.0)
"""Seconds before the action at which persons who cannot be asked get another notice."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an order requires before it acts. Times are on the clock of ``now``, in seconds."""

    due_at: float
    """The order never acts before this time."""
    countdown_s: float
    """The least time that a person has, from the question or the first notice on."""
    unasked: Unasked


class Act(msgspec.Struct, frozen=True):
    """The order may act; ``detail`` says why."""

    detail: str
    is_free: bool = False
    """Because no person is logged on: this must still be so when the action begins."""


class Refuse(msgspec.Struct, frozen=True):
    """The order is refused."""

    detail: str


class Ask(msgspec.Struct, frozen=True):
    """A person must be asked, with this much time to answer."""

    countdown_s: float


class Hold(msgspec.Struct, frozen=True):
    """The order waits; decide again when the facts change, and at ``until``."""

    detail: str
    until: float | None = None
    is_asking_impossible: bool = False
    """Whether it waits because persons cannot be asked; otherwise it only waits for its time."""
    acts_at: float | None = None
    """When it acts without having asked; persons get notices of that."""


Step = Act | Refuse | Ask | Hold


def terms_of(order: Order, now: float) -> Terms:
    """Return the terms of an order that arrived ``now``."""
    return Terms(due_at=now + order.due_in_s, countdown_s=order.countdown_s, unasked=order.unasked)


def countdown_since(before: float | None, facts: Facts, now: float) -> float | None:
    """Return the start of the countdown of persons who cannot be asked: the time since which that has been so.

    Return ``None`` while no person is logged on or a question is possible: such time is not part of that countdown.
    """
    if facts.is_free or facts.asks_by:
        return None
    return now if before is None else before


def next_step(terms: Terms, facts: Facts, now: float, since: float | None) -> Step:
    """Return what to do with an order. ``since`` is the value of :func:`countdown_since` as of ``now``."""
    if facts.is_free:
        if now >= terms.due_at:
            return Act("no person is logged on", is_free=True)
        return Hold("no person is logged on; it is done when its time has come", until=terms.due_at)
    if facts.asks_by:
        return Ask(max(terms.due_at - now, terms.countdown_s))
    who = who_is_on(facts)
    why = facts.asking_problem or "the agent does not know how to ask"
    if terms.unasked is Unasked.REFUSE:
        return Refuse(f"{who} cannot be asked: {why}")
    if terms.unasked is Unasked.WAIT:
        return Hold(f"{who} cannot be asked: {why}", is_asking_impossible=True)
    acts_at = max(terms.due_at, (now if since is None else since) + terms.countdown_s)
    if now >= acts_at:
        return Act(f"{who} could not be asked: {why}")
    return Hold(
        f"{who} cannot be asked: {why}; it is done after the countdown all the same",
        until=acts_at,
        is_asking_impossible=True,
        acts_at=acts_at,
    )


def next_notice_at(notified_at: float, acts_at: float) -> float | None:
    """Return when the next notice is due after one at ``notified_at``; ``None`` if none is due before ``acts_at``."""
    later = (acts_at - left_s for left_s in NOTICES_LEFT_S)
    return min((at for at in later if at > notified_at), default=None)


# Names of persons


def who_is_on(facts: Facts) -> str:
    """Return who is logged on: ``anna, bob``; or that this is not known."""
    if facts.persons:
        return names_of(facts.persons)
    if facts.knows_persons:
        return "no person"
    problem = facts.persons_problem or "the agent cannot tell who is logged on"
    return f"a person who may be logged on ({problem})"


def names_of(persons: Sequence[Person]) -> str:
    """Return every name once: ``anna, bob``. Many names are counted."""
    return _listed([person.name for person in persons])


def asked_text(asked: Sequence[Person], seat: str) -> str:
    """Return who is asked, with seats: ``anna (:0), bob (tty3)``; ``a person at :0`` if no name is known."""
    if asked:
        return _listed([_with_seat(person) for person in asked])
    return _person_at(seat)


def asked_persons(persons: Sequence[Person], seat: str) -> tuple[Person, ...]:
    """Return the persons whom a question at ``seat`` reaches.

    If none is known to be at that seat, the question may reach any of them: a Wayland session has another name than
    the X display its windows are on.
    """
    return persons_at(persons, seat) or tuple(persons)


def persons_at(persons: Sequence[Person], seat: str) -> tuple[Person, ...]:
    """Return the persons who are known to be at ``seat``."""
    place = _normalized_seat(seat)
    return tuple(person for person in persons if place and _normalized_seat(person.seat) == place)


class Answerer(msgspec.Struct, frozen=True):
    """Who answered, as far as it is known."""

    name: str
    """``anna``; ``a person at pts/3`` unless exactly one person is known to be there."""
    full: str
    """The name with the seat: ``anna (tty2)``."""


def answerer(persons: Sequence[Person], seat: str) -> Answerer:
    """Return who answered from ``seat``."""
    here = persons_at(persons, seat)
    if len({person.name for person in here}) == 1:
        return Answerer(here[0].name, _with_seat(here[0]))
    return Answerer(_person_at(seat), _person_at(seat))


def asking_text(facts: Facts, asked: Sequence[Person], seat: str) -> str:
    """Return ``asking anna, bob``."""
    if asked:
        return f"asking {names_of(asked)}"
    where = f" on {seat}" if seat else ""
    return f"asking{where}; {facts.persons_problem or 'the agent cannot tell who is logged on'}"


def unanswered_text(asked: Sequence[Person], seat: str) -> str:
    """Return ``no answer (asked on :0: anna)``."""
    where = " on " + seat if seat else ""
    whom = ": " + names_of(asked) if asked else ""
    return f"no answer (asked{where}{whom})" if where or whom else "no answer"


def _person_at(seat: str) -> str:
    return f"a person at {seat}" if seat else "a person"


def _with_seat(person: Person) -> str:
    return f"{person.name} ({person.seat})" if person.seat else person.name


def _normalized_seat(seat: str) -> str:
    """Return the usual name of a seat: ``/dev/pts/3`` is ``pts/3``, and ``:0.0`` is a screen of the display ``:0``."""
    place = seat.removeprefix("/dev/")
    return place.partition(".")[0] if place.startswith(":") else place


def _listed(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    shown, left = distinct[:NAMES_SHOWN_MAX], len(distinct) - NAMES_SHOWN_MAX
    return ", ".join(shown) + (f" and {left} more" if left > 0 else "")
