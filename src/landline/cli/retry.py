"""Repeat requests whose answer was lost, and never report a change as not made when it may have been."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from landline.cli.exit_codes import NO_SERVER, SOME_NOT_DONE, CommandFailed

ANSWER_S_MAX: Final = 15.0
"""How long a server may take to answer one request."""

ANSWER_S_MIN: Final = 1.0
"""The least time for another attempt at a change, however late it is."""

CHANGE_S_MAX: Final = 60.0
"""How long a change is requested, from its first attempt on: enough time to start the control server again."""

READ_S_MAX: Final = 15.0
"""How long a request that changes nothing is repeated after its connection broke."""

RETRY_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Pauses between attempts; the last one repeats. Short, because a person is waiting."""

_Answer = TypeVar("_Answer")


class ServerUnreachable(CommandFailed):
    """The control server does not answer, or no longer answers.

    ``what`` is the sentence without its advice. ``may_have_arrived`` is whether the server may have read the request.
    """

    def __init__(self, what: str, advice: str, *, may_have_arrived: bool = True) -> None:
        super().__init__(f"{what}; {advice}.", NO_SERVER)
        self.what = what
        self.may_have_arrived = may_have_arrived


class ConnectionBroken(ServerUnreachable):
    """The connection ended before the answer was whole."""


class Refused(CommandFailed):
    """The control server refused a request, with the ``code`` of a :class:`landline.fleet.api.Problem`."""

    def __init__(self, sentence: str, status: int, code: str) -> None:
        super().__init__(sentence, status)
        self.code = code
        self.follows_lost_answer = False
        """Whether the same request was sent before, and its answer was lost."""

    @property
    def may_have_happened(self) -> bool:
        """Return whether the change may have been made: the server failed while it worked on the request."""
        return self.code in {"internal", "answer_unavailable"}

    @property
    def is_final(self) -> bool:
        """Return whether the request was not accepted earlier either: the server has looked for an earlier one."""
        return self.code not in {
            "internal",
            "answer_unavailable",
            "storage_failed",
            "unauthorized",
            "foreign_host",
            "foreign_origin",
        }


class AnswerLost(CommandFailed):
    """A change was sent, and its answer did not arrive: it may have been accepted."""


class Retries:
    """How one command repeats its requests.

    :param say: called with a sentence for each new reason to repeat a change; writes to standard error by default.
    :param answer_s: how long one answer may take, in seconds.
    :param change_s: how long a change is requested, in seconds; 0 requests it once.
    :param read_s: how long a request that changes nothing is repeated, in seconds; 0 sends it once.
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
        """Return the answer to a request that changes nothing; repeat it for ``read_s`` after a broken connection.

        :param ask: sends the request once; called with the seconds its answer may take.
        :raises ServerUnreachable: when there is no answer.
        """
        give_up_at = self._clock() + self._read_s
        has_answered = False
        for attempt in _attempts():
            try:
                return ask(self._answer_s)
            except ServerUnreachable as error:
                has_answered = has_answered or isinstance(error, ConnectionBroken)
                is_back_soon = has_answered and (
                    isinstance(error, ConnectionBroken) or not error.may_have_arrived
                )
                if not is_back_soon or self._clock() + _pause_s(attempt) >= give_up_at:
                    raise
            self._sleep(_pause_s(attempt))
        raise AssertionError("attempts do not end")

    def change(self, ask: Callable[[float], _Answer], *, what: str, outcome: str) -> _Answer:
        """Return the answer to an idempotent change; repeat it for ``change_s`` once it may have arrived.

        :param ask: sends the request once; called with the seconds its answer may take.
        :param what: names the change: "the job".
        :param outcome: a sentence that says what may have happened, and which command shows it.
        :raises ServerUnreachable: when the change was not made: the request did not arrive.
        :raises Refused: when the change was not made: the server refused it.
        :raises AnswerLost: when the change may have been made.
        """
        give_up_at = self._clock() + self._change_s
        may_have_arrived, last_reason = False, ""
        failure: CommandFailed
        for attempt in _attempts():
            left_s = max(ANSWER_S_MIN, give_up_at - self._clock())
            try:
                return ask(min(self._answer_s, left_s) if attempt else self._answer_s)
            except ServerUnreachable as error:
                if not may_have_arrived and not error.may_have_arrived:
                    raise
                reason, failure = error.what, error
            except Refused as refused:
                refused.follows_lost_answer = may_have_arrived
                if refused.is_final or not (may_have_arrived or refused.may_have_happened):
                    raise
                reason, failure = str(refused).rstrip("."), refused
            may_have_arrived = True
            if self._clock() + _pause_s(attempt) >= give_up_at:
                raise AnswerLost(
                    f"{reason}; no answer came within {self._change_s:.0f} s. {outcome}", SOME_NOT_DONE
                ) from failure
            if reason != last_reason:
                self._say(
                    f"{reason}; repeating the request for {what}, for up to {self._change_s:.0f} s in all."
                )
                last_reason = reason
            self._sleep(_pause_s(attempt))
        raise AssertionError("attempts do not end")


def _attempts() -> range:
    return range(sys.maxsize)


def _pause_s(attempt: int) -> float:
    return RETRY_S[min(attempt, len(RETRY_S) - 1)]


def _say_on_stderr(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
