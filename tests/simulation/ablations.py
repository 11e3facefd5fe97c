"""Safeguards switched off one at a time: a simulation that finds nothing then proves nothing."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from landline.fleet.agent import consent
from landline.fleet.agent.executor import Executor
from landline.fleet.control import cloned_identities, jobs, presence, reconciliation
from landline.fleet.control.job_store import JobStore
from landline.fleet.model import ExecutionState, Facts
from landline.line.driver import LineDriver
from landline.line.link import TransportLink
from landline.session.heartbeat import Liveness
from landline.session.inbound import Inbound
from landline.session.outbound import Outbound
from landline.session.replay import ReplayBuffer


class Ablation(msgspec.Struct, frozen=True):
    """What is switched off, in which scenario that shows, and how."""

    name: str
    what: str
    scenario: str
    shows_as: str
    """A pattern of the violations that come of it. Any other could be a fault of the switching itself."""
    switch_off: Callable[[Callable[[Any, str, Any], None]], None]

    def explains(self, violation: str | None) -> bool:
        """Return whether the safeguard would have prevented the violation."""
        return violation is not None and re.search(self.shows_as, violation) is not None


class _Mute:
    """Stands for a transport that is kept from all that its line does to it."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


def _frames(patch) -> None:
    patch(Inbound, "_is_repetition", lambda self, sequence: False)


def _epoch(patch) -> None:
    # Two things keep an older transport out: it is given another protocol, and its link is detached. Each is enough.
    attach, detach = LineDriver.attach, TransportLink.detach
    former: dict[TransportLink, LineDriver] = {}

    def attach_beside(self, *arguments, **options):
        old = self.link
        if old is not None:
            # It continues as before: it neither hears of its successor nor is closed.
            old.transport = _Mute()
        attach(self, *arguments, **options)

    def detach_but_remember(self):
        if self._driver is not None:
            former[self] = self._driver
        detach(self)

    def data_received(self, data):
        driver = self._driver or former[self]
        if driver.link is not None:
            driver.receive_data(data)

    patch(LineDriver, "attach", attach_beside)
    patch(TransportLink, "detach", detach_but_remember)
    patch(TransportLink, "data_received", data_received)


def _journal(patch) -> None:
    original = Executor._record_in_journal

    def record_in_journal(self, order, state, detail=""):
        if state is not ExecutionState.ACTING:
            original(self, order, state, detail)

    patch(Executor, "_record_in_journal", record_in_journal)


def _expiry(patch) -> None:
    claim, overdue, settle = jobs.claim, jobs.overdue, reconciliation.reconcile_on_join

    def never(execution):
        return msgspec.structs.replace(execution, expires_at=execution.expires_at + 1e6)

    def as_before(after, execution):
        return after and msgspec.structs.replace(after, expires_at=execution.expires_at)

    def claim_late(execution, *rest, **options):
        grant, recorded = claim(never(execution), *rest, **options)
        return grant, tuple(as_before(each, execution) for each in recorded)

    def overdue_late(job, execution, now):
        return as_before(overdue(job, never(execution), now), execution)

    def settle_late(job, execution, *rest):
        return as_before(settle(job, never(execution), *rest), execution)

    patch(jobs, "claim", claim_late)
    patch(jobs, "overdue", overdue_late)
    patch(reconciliation, "reconcile_on_join", settle_late)


def _gone(patch) -> None:
    patch(presence, "is_gone", lambda presence, now, **options: bool(presence.execution_id))


def _twins(patch) -> None:
    async def never(*arguments):
        return False

    patch(cloned_identities, "_answers", never)


def _acknowledgement(patch) -> None:
    original = ReplayBuffer.receive_ack
    patch(
        ReplayBuffer,
        "receive_ack",
        lambda self, acked: original(self, min(acked, self.acked + self.written)),
    )


def _record_first(patch) -> None:
    original = JobStore.record

    async def record(self, executions):
        task = asyncio.get_running_loop().create_task(original(self, executions))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    patch(JobStore, "record", record)


def _limit(patch) -> None:
    patch(Outbound, "has_space", lambda self, size_bytes, *rest, **options: True)


def _heartbeat(patch) -> None:
    patch(Liveness, "_dead_due", lambda self: math.inf)


def _consent(patch) -> None:
    original = consent.next_step

    def next_step(terms, facts, now, since):
        step = original(terms, facts, now, since)
        if isinstance(step, consent.Hold) and step.is_asking_impossible:
            return consent.Act("nobody can be asked here")
        return step

    patch(consent, "next_step", next_step)


def _knowledge(patch) -> None:
    # As it was: no list of persons is an empty one.
    patch(Facts, "is_free", property(lambda self: not self.persons))


ABLATIONS = (
    Ablation(
        "duplicate suppression",
        "frames that arrived before are dropped (§7.2)",
        "lines",
        r"arrived where|a message started before the last one on its lane",
        _frames,
    ),
    Ablation(
        "epoch fence",
        "bytes of an older transport change nothing (§7.3)",
        "lines",
        # The bytes of the older transport come in the middle of a frame of the newer one.
        r"arrived where|not allowed in a session|an empty frame|a frame of \d+ bytes; at most \d+ are allowed",
        _epoch,
    ),
    Ablation(
        "journal before acting",
        "an agent's journal has it before it acts",
        "fleet",
        r"and was done$|did .* times$",
        _journal,
    ),
    Ablation("expiry", "what has expired is not begun", "fleet", r"after it had expired$", _expiry),
    Ablation(
        "end of the line",
        "a goodbye proves nothing before the line has ended",
        "fleet",
        r"is done, and the machine is in the same boot$",
        _gone,
    ),
    Ablation(
        "probe of the older line",
        "a machine that still answers when its identity comes again is another one",
        "fleet",
        r"shares? (its|one) identity|replace each other$|was done$",
        _twins,
    ),
    Ablation(
        "acknowledgement check",
        "only what was sent can be acknowledged (§5.3)",
        "lines",
        r"frames count as taken where",
        _acknowledgement,
    ),
    Ablation(
        "record before granting",
        "leave to act is on disk before it is given",
        "fleet",
        r"on record$",
        _record_first,
    ),
    Ablation(
        "consent",
        "where nobody can be asked, it waits, or acts after the countdown if the operator wants that",
        "fleet",
        r"although nobody could be asked$|before its countdown was over, and nobody was asked$",
        _consent,
    ),
    Ablation(
        "knowing that nobody is on",
        "an agent that cannot find out who is logged in does not conclude that nobody is",
        "fleet",
        r"although nobody could be asked$|before its countdown was over, and nobody was asked$",
        _knowledge,
    ),
    Ablation(
        "send buffer limit", "senders wait where there is no room", "lines", r"in a send buffer of", _limit
    ),
    Ablation(
        "heartbeat deadline",
        "a peer that is silent for too long is given up",
        "fleet",
        r"believes in its peer$",
        _heartbeat,
    ),
)


@contextmanager
def without(ablation: Ablation) -> Iterator[None]:
    """Switch the safeguard off inside the context."""
    undo: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, replacement: Any) -> None:
        undo.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, replacement)

    try:
        ablation.switch_off(patch)
        yield
    finally:
        for owner, name, original in reversed(undo):
            setattr(owner, name, original)
