"""Every exception of the library.

.. code-block:: text

    LandlineError
    ├── ConfigurationError      an argument is wrong: nothing was started
    ├── AddressInUse            a listener's address is taken
    ├── AnnounceFailed          a server could not be announced on the local network
    ├── ConnectFailed           one attempt to connect failed
    │   └── Rejected            the server answered REJECT
    ├── GaveUp                  the reconnect policy ran out of attempts, or the first connection of its time
    ├── ProtocolError           the peer broke the protocol
    ├── LineClosed              the line has ended (says who ended it and why)
    │   └── SessionLost         ... and the fate of some messages is unknown
    ├── MessageTooLarge         a message exceeds what the peer takes
    ├── BufferFull              send_nowait found no room
    │   └── SendTimeout         send found none in time
    ├── RequestError            a request was answered with an error
    │   ├── NoHandler           the peer has no handler of that name
    │   ├── RequestTimeout      no answer in time
    │   └── RequestLost         the session ended before the answer came
    └── FileError               a file was not transferred
        ├── FileRefused         the receiver does not take it (a RequestError too)
        ├── FileChanged         it changed while it was sent
        └── FileStalled         nothing was heard of it for too long
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from landline.codes import Code, Operation


class Unconfirmed(msgspec.Struct, frozen=True):
    """A message that was sent or waiting when its session ended, and that the peer never confirmed."""

    operation: Operation
    name: str
    body: bytes
    is_packed: bool

    @property
    def value(self) -> Any:
        """What was given to ``send``, as the peer would have seen it."""
        return msgspec.msgpack.decode(self.body) if self.is_packed else self.body


class LandlineError(Exception):
    """The root of all errors raised by landline."""


class ConfigurationError(LandlineError, ValueError):
    """An argument is wrong; the text names it. Nothing was started."""


class AddressInUse(LandlineError, OSError):
    """A listener's address, or its announced name, is taken; the text names it and says what to do."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class AnnounceFailed(LandlineError, OSError):
    """A server could not be announced on the local network; the text says why and what to do. It does not listen."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class ConnectFailed(LandlineError):
    """One attempt to connect failed: nobody answers, the transport broke, or the handshake did not finish."""


class Rejected(ConnectFailed):
    """The server answered the handshake with REJECT (``docs/protocol.md`` §4.4)."""

    def __init__(
        self, code: Code, reason: str, *, retry_after_s: float | None = None, spread_s: float = 0.0
    ) -> None:
        super().__init__(f"the server refused the connection: {reason} (code {int(code)})")
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.spread_s = spread_s


class GaveUp(LandlineError):
    """The reconnect policy allows no further attempt, or the first connection did not come about in time.

    ``attempts`` is how many failed, ``last`` is what the last one failed with; ``None`` when none had failed yet.
    """

    def __init__(
        self, attempts: int, last: BaseException | None, *, connect_timeout_s: float | None = None
    ) -> None:
        reason = last.strerror if isinstance(last, OSError) and last.strerror else last
        text = f"gave up after {attempts} attempt{'s' * (attempts != 1)}"
        if connect_timeout_s is not None:
            text += f", for the connect_timeout_s of {connect_timeout_s:g} s is over"
        super().__init__(f"{text}: {reason or 'nobody has answered yet'}")
        self.attempts = attempts
        self.last = last


class ProtocolError(LandlineError):
    """The peer broke the protocol; ``code`` is what it is told in the BYE."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code


class LineClosed(LandlineError):
    """The line has ended; the text says who ended it and why."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code


class SessionLost(LineClosed):
    """The session ended while the fate of some messages is unknown: ``unconfirmed`` holds them, oldest first.

    Each of them arrived once or not at all; nobody can tell which.
    """

    def __init__(self, message: str, unconfirmed: Sequence[Unconfirmed], code: Code | None = None) -> None:
        super().__init__(f"{message}; the fate of {len(unconfirmed)} messages is unknown", code)
        self.unconfirmed = tuple(unconfirmed)


class MessageTooLarge(LandlineError, ValueError):
    """A message is larger than the peer takes. It was not sent; the line goes on."""


class BufferFull(LandlineError):
    """The send buffer has no room for the message. It was not sent; the line goes on."""


class SendTimeout(BufferFull, TimeoutError):
    """There was no room in the send buffer in time. Nothing was sent; the line goes on."""


class RequestError(LandlineError):
    """A request was answered with an error; raise it in a handler to answer with one.

    ``code`` is a word programs can test (such as ``"not_found"``), the text is for people.

    What a request of your own ended with is not for whoever asked you: where such an error leaves a handler, the answer
    is ``failed``, and the error is logged. To pass it on, raise one of your own:
    ``raise RequestError(error.code, error.message) from error``.
    """

    is_outcome = False
    """Whether a request of this side ended with it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class NoHandler(RequestError):
    """The peer has no handler for requests of that name."""

    def __init__(self, name: str) -> None:
        super().__init__("no_handler", f"the peer has no handler named {name!r}")


class RequestTimeout(RequestError, TimeoutError):
    """No answer came in time. The peer was told to cancel; whether it acted is unknown."""

    def __init__(self, name: str, timeout_s: float) -> None:
        super().__init__("timeout", f"no answer to {name!r} within {timeout_s:g} s")


class RequestLost(RequestError):
    """The session ended before the answer came; whether the peer acted is unknown."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__("lost", f"the line ended before {name!r} was answered: {why}")


_Error = TypeVar("_Error", bound=RequestError)


def outcome(error: _Error) -> _Error:
    """Mark what a request of this side ended with, and return it."""
    error.is_outcome = True
    return error


class FileError(LandlineError):
    """A file was not transferred."""


class FileRefused(FileError, RequestError):
    """The receiver does not take a file, or no more of it; raise it where a file is received to refuse one.

    ``code`` is a word programs can test: ``no_receiver``, ``bad_name``, ``too_large``, ``exists``, ``busy``,
    ``over_quota``, ``no_space``, ``storage_failed`` (the receiver's disk), ``damaged`` (it is not what was sent),
    ``changed``, ``stalled``, ``too_slow``, ``superseded`` (a newer transfer of the same file), ``cancelled`` (there),
    ``broken`` (a breach of the protocol), or the application's own.
    """

    @property
    def reason(self) -> str:
        """Why, in a sentence for people."""
        return self.message


class FileChanged(FileError):
    """A file changed while it was sent; the receiver keeps nothing of it."""


class FileStalled(FileError, TimeoutError):
    """Nothing was heard of a transfer for so long that it was given up; the receiver keeps what it has."""
