"""Asking again when an answer is lost, without saying of anything that it was not done when it may have been."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from landline.cli.exit_codes import NO_SERVER, SOME_NOT_DONE, CommandFailed

ANSWER_S_MAX: Final = 15.0
"""How long a server may take to answer one request."""

ANSWER_S_MIN: Final = 1.0
"""What another attempt at a change gets at least, however late it is."""

CHANGE_S_MAX: Final = 60.0
"""How long a change is asked for, from its first attempt on: time enough to start the control server again."""

READ_S_MAX: Final = 15.0
"""How long a question that changes nothing is asked again after its connection broke."""

RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts; the last one repeats. Short, because a person is looking at it."""

_Answer = TypeVar("_Answer")


class ServerGone(CommandFailed):
    """The control server does not answer, or no longer.

    ``what`` is what happened, without the advice that the whole sentence gives. ``may_have_arrived`` says whether the
    server may have read the request.
    """

    def __init__(self, what: str, advice: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(f"{what}; {advice}.", NO_SERVER)
        self.what = what
        self.may_have_arrived = may_have_arrived


class ConnectionBroke(ServerGone):
    """The connection ended before the answer was whole."""


class Refused(CommandFailed):
    """The control server refused with the ``code`` of a :class:`landline.fleet.api.Problem`."""

    def __init__(self, sentence: str, status: int, code: str) -> None:
        super().__init__(sentence, status)
        self.code = code
        self.follows_lost_answer = False
        """Whether the same request was sent before, and may have been carried out."""

    @property
    def may_have_happened(self) -> bool:
        """Whether what was asked may have been done all the same: the server failed while it was at it."""
        return self.code == "internal"

    @property
    def is_final(self) -> bool:
        """Whether the same request was not accepted earlier either: the server has looked at what it asks for."""
        return self.code not in {
            "internal",
            "storage_failed",
            "unauthorized",
            "foreign_host",
            "foreign_origin",
        }


class OutcomeUnknown(CommandFailed):
    """A change was sent, and no answer to it arrived: it may have been accepted."""


class Retries:
    """How one command asks again.

    :param say: called with a sentence for each new reason to ask for a change again; standard error by default.
    :param change_s: how long a change is asked for; 0 asks once.
    :param read_s: how long a question that changes nothing is asked again; 0 asks once.
    """

    def __init__(
        self,
        say: Callable[[str], None] | None = None,
        *,
        answer_s: float = ANSWER_S_MAX,
        change_s: float = CHANGE_S_MAX,
        read_s: float = READ_S_MAX,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say or _say_on_stderr
        self._answer_s = answer_s
        self._change_s = change_s
        self._read_s = read_s
        self._sleep = sleep
        self._clock = clock

    def read(self, ask: Callable[[float], _Answer]) -> _Answer:
        """Return the answer to what changes nothing. ``ask`` is given the seconds an answer may take.

        Ask again after a broken connection, for ``read_s``. Raise :class:`ServerGone`.
        """
        give_up_at = self._clock() + self._read_s
        has_answered = False
        for attempt in _numbers():
            try:
                return ask(self._answer_s)
            except ServerGone as gone:
                has_answered = has_answered or isinstance(gone, ConnectionBroke)
                is_back_soon = has_answered and (
                    isinstance(gone, ConnectionBroke) or not gone.may_have_arrived
                )
                if not is_back_soon or self._clock() + _pause_s(attempt) >= give_up_at:
                    raise
            self._sleep(_pause_s(attempt))
        raise AssertionError("attempts do not end")

    def change(self, ask: Callable[[float], _Answer], *, what: str, outcome: str) -> _Answer:
        """Return the answer to a change that is safe to ask for twice. ``ask`` is given the seconds an answer may take.

        Ask again for ``change_s`` once the first request may have arrived. ``what`` names the change
        ("the job"), ``outcome`` says of it what may have happened and how to look. Raise :class:`ServerGone` or
        :class:`Refused` when the change was not made, and :class:`OutcomeUnknown` when nobody can say.
        """
        give_up_at = self._clock() + self._change_s
        may_have_arrived, told = False, ""
        failure: CommandFailed
        for attempt in _numbers():
            left_s = max(ANSWER_S_MIN, give_up_at - self._clock())
            try:
                return ask(min(self._answer_s, left_s) if attempt else self._answer_s)
            except ServerGone as gone:
                if not may_have_arrived and not gone.may_have_arrived:
                    raise
                reason, failure = gone.what, gone
            except Refused as refused:
                refused.follows_lost_answer = may_have_arrived
                if refused.is_final or not (may_have_arrived or refused.may_have_happened):
                    raise
                reason, failure = str(refused).rstrip("."), refused
            may_have_arrived = True
            if self._clock() + _pause_s(attempt) >= give_up_at:
                raise OutcomeUnknown(
                    f"{reason}; no answer came within {self._change_s:.0f} s. {outcome}", SOME_NOT_DONE
                ) from failure
            if reason != told:
                self._say(f"{reason}; asking again about {what}, for up to {self._change_s:.0f} s in all.")
                told = reason
            self._sleep(_pause_s(attempt))
        raise AssertionError("attempts do not end")


def _numbers() -> range:
    return range(sys.maxsize)


def _pause_s(attempt: int) -> float:
    return RETRY_S[min(attempt, len(RETRY_S) - 1)]


def _say_on_stderr(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
