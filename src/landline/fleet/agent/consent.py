"""What becomes of an order before it acts: who must be asked, for how long, and what happens when nobody can be.

Pure: every function takes what is known and ``now``, and returns what to do next. The one rule above all: an order is
done at once only where it is *known* that nobody is on. That nobody can be asked, or that the agent cannot tell who is
on, is never consent.
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
"""When persons who cannot be asked are told again: so long before it is done."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an order demands before it acts. Times are on the clock of ``now``, in seconds."""

    due_at: float
    """It is never done before this."""
    countdown_s: float
    """How long a person has at least, from the question or the first notice on."""
    unasked: Unasked


class Act(msgspec.Struct, frozen=True):
    """It may act; ``detail`` says why."""

    detail: str
    is_free: bool = False
    """Because nobody is on: this must still be so when it begins."""


class Refuse(msgspec.Struct, frozen=True):
    """It ends here."""

    detail: str


class Ask(msgspec.Struct, frozen=True):
    """A person is to be asked, with this much time to answer."""

    countdown_s: float


class Hold(msgspec.Struct, frozen=True):
    """It waits, and is looked at again when something changes, and at ``until``."""

    detail: str
    until: float | None = None
    is_asking_impossible: bool = False
    """Whether it waits because nobody can be asked; otherwise only for its time."""
    acts_at: float | None = None
    """When it acts without having asked: persons are told of that."""


Step = Act | Refuse | Ask | Hold


def terms_of(order: Order, now: float) -> Terms:
    """The terms of an order that arrived ``now``."""
    return Terms(due_at=now + order.due_in_s, countdown_s=order.countdown_s, unasked=order.unasked)


def countdown_since(before: float | None, facts: Facts, now: float) -> float | None:
    """Since when persons have been on, or may have been, who cannot be asked: the begin of their countdown.

    ``None`` while nobody is on or a question is possible: time that passes then is no part of that countdown.
    """
    if facts.is_free or facts.asks_by:
        return None
    return now if before is None else before


def next_step(terms: Terms, facts: Facts, now: float, since: float | None) -> Step:
    """What to do with an order. ``since`` is that of :func:`countdown_since`, brought up to ``now``."""
    if facts.is_free:
        if now >= terms.due_at:
            return Act("nobody is on", is_free=True)
        return Hold("nobody is on; it is done when its time has come", until=terms.due_at)
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


def next_notice_at(told_at: float, acts_at: float) -> float | None:
    """When persons who were told at ``told_at`` are told again, ``None`` when not again before ``acts_at``."""
    later = (acts_at - left_s for left_s in NOTICES_LEFT_S)
    return min((at for at in later if at > told_at), default=None)


# Who.


def who_is_on(facts: Facts) -> str:
    """``anna, bob``; or that it cannot be told."""
    if facts.persons:
        return names_of(facts.persons)
    if facts.knows_persons:
        return "nobody"
    return f"a person who may be on ({facts.persons_problem or 'the agent cannot tell who is on'})"


def names_of(persons: Sequence[Person]) -> str:
    """Every name once: ``anna, bob``. Many are counted."""
    return _listed([person.name for person in persons])


def asked_text(asked: Sequence[Person], seat: str) -> str:
    """``anna (:0), bob (tty3)``; ``somebody at :0`` where nobody is known."""
    if asked:
        return _listed([_with_seat(person) for person in asked])
    return _somebody_at(seat)


def asked_persons(persons: Sequence[Person], seat: str) -> tuple[Person, ...]:
    """Those whom a question at ``seat`` reaches.

    When none is known to be at that seat, it may reach any of them: a Wayland session has another name than the X
    display its windows are on.
    """
    return persons_at(persons, seat) or tuple(persons)


def persons_at(persons: Sequence[Person], seat: str) -> tuple[Person, ...]:
    """Those who are known to be at ``seat``."""
    place = _place(seat)
    return tuple(person for person in persons if place and _place(person.seat) == place)


class Answerer(msgspec.Struct, frozen=True):
    """Who answered, as far as it is known."""

    name: str
    """``anna``; ``somebody at pts/3`` where not exactly one person is known to be there."""
    full: str
    """With the seat: ``anna (tty2)``."""


def answerer(persons: Sequence[Person], seat: str) -> Answerer:
    """Who answered from ``seat``."""
    here = persons_at(persons, seat)
    if len({person.name for person in here}) == 1:
        return Answerer(here[0].name, _with_seat(here[0]))
    return Answerer(_somebody_at(seat), _somebody_at(seat))


def asking_text(facts: Facts, asked: Sequence[Person], seat: str) -> str:
    """``asking anna, bob``."""
    if asked:
        return f"asking {names_of(asked)}"
    where = f" on {seat}" if seat else ""
    return f"asking{where}; {facts.persons_problem or 'the agent cannot tell who is on'}"


def unanswered_text(asked: Sequence[Person], seat: str) -> str:
    """``nobody answered (asked on :0: anna)``."""
    where = " on " + seat if seat else ""
    whom = ": " + names_of(asked) if asked else ""
    return f"nobody answered (asked{where}{whom})" if where or whom else "nobody answered"


def _somebody_at(seat: str) -> str:
    return f"somebody at {seat}" if seat else "somebody"


def _with_seat(person: Person) -> str:
    return f"{person.name} ({person.seat})" if person.seat else person.name


def _place(seat: str) -> str:
    """A seat as everybody writes it: ``/dev/pts/3`` is ``pts/3``, and ``:0.0`` is a screen of the display ``:0``."""
    place = seat.removeprefix("/dev/")
    return place.partition(".")[0] if place.startswith(":") else place


def _listed(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    shown, left = distinct[:NAMES_SHOWN_MAX], len(distinct) - NAMES_SHOWN_MAX
    return ", ".join(shown) + (f" and {left} more" if left > 0 else "")
