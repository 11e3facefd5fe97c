"""The exceptions of the library.

.. code-block:: text

    LandlineError
    ├── ConfigurationError      an argument is wrong; nothing was started          (ValueError)
    ├── MissingExtra            a feature needs packages that are not installed    (ImportError)
    ├── AddressInUse            the address of a listener is taken                 (OSError)
    ├── AnnounceFailed          a server cannot be announced on the local network  (OSError)
    ├── ConnectFailed           a connection could not be made                     (ConnectionError)
    │   ├── Rejected            the server answered REJECT
    │   └── GaveUp              the reconnect policy or the time limit ended the attempts
    ├── ProtocolError           the peer violated the protocol
    ├── LineClosed              the line has ended
    │   └── SessionLost         ... and it is unknown whether some messages arrived
    ├── MessageTooLarge         a message is larger than the peer accepts          (ValueError)
    ├── BufferFull              the send buffer has no space
    │   └── SendTimeout         ... and had none within the time limit             (TimeoutError)
    ├── RequestError            a request was answered with an error
    │   ├── NoHandler           the peer has no handler of that name
    │   ├── RequestTimeout      no answer within the time limit                    (TimeoutError)
    │   └── RequestLost         the session ended before the answer arrived
    └── FileError               a file was not transferred
        ├── FileRefused         the receiver refused it                            (RequestError)
        ├── FileChanged         it changed during the transfer
        └── FileStalled         the peer sent nothing for too long                 (TimeoutError)

The built-in classes in parentheses are further base classes. ``str()`` of each error is one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from landline.codes import Code, Operation


class Unconfirmed(msgspec.Struct, frozen=True):
    """A message that its peer had not acknowledged when the session ended."""

    operation: Operation
    name: str
    body: bytes
    is_packed: bool

    @property
    def value(self) -> Any:
        """The value given to ``send``, as the peer would have received it."""
        return msgspec.msgpack.decode(self.body) if self.is_packed else self.body


class LandlineError(Exception):
    """The base class of all errors raised by landline."""


class ConfigurationError(LandlineError, ValueError):
    """An argument is wrong; the text names it. Nothing was started."""


class MissingExtra(LandlineError, ImportError):
    """A feature needs packages that are not installed; ``extra`` is the extra that brings them."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install 'landline[{extra}]'")
        self.extra = extra


class AddressInUse(LandlineError, OSError):
    """The address of a listener, or the name it is announced by, is taken; the text names it and says what to do."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class AnnounceFailed(LandlineError, OSError):
    """A server cannot be announced on the local network; the text says why and what to do. It does not listen."""

    def __str__(self) -> str:
        return self.strerror or super().__str__()


class ConnectFailed(LandlineError, ConnectionError):
    """A connection could not be made: no answer, a broken transport, or an incomplete handshake.

    ``__cause__`` is the error of the last endpoint that was tried, if there was one.
    """


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


class GaveUp(ConnectFailed):
    """The reconnect policy allows no further attempt, or the first connection was not made in time.

    ``attempts`` is the number of failed attempts; ``last`` is the error of the last one, ``None`` if none had failed.
    """

    def __init__(
        self, attempts: int, last: Exception | None, *, connect_timeout_s: float | None = None
    ) -> None:
        text = f"gave up after {attempts} attempt{'s' * (attempts != 1)}"
        if connect_timeout_s is not None:
            text += f" and {connect_timeout_s:g} s (connect_timeout_s)"
        super().__init__(f"{text}: {last or 'no server has answered yet'}")
        self.attempts = attempts
        self.last = last


class ProtocolError(LandlineError):
    """The peer violated the protocol; ``code`` is the code of the BYE or REJECT sent to it."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code


class LineClosed(LandlineError):
    """The line has ended; the text says which side ended it and why."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code


class SessionLost(LineClosed):
    """The session ended before the peer acknowledged all messages: ``unconfirmed`` holds the others, oldest first.

    Each of them arrived once or not at all; which is unknown.
    """

    def __init__(self, message: str, unconfirmed: Sequence[Unconfirmed], code: Code | None = None) -> None:
        super().__init__(f"{message}; {len(unconfirmed)} messages were not acknowledged", code)
        self.unconfirmed: tuple[Unconfirmed, ...] = tuple(unconfirmed)


class MessageTooLarge(LandlineError, ValueError):
    """A message is larger than the peer accepts. It was not sent; the line stays open."""


class BufferFull(LandlineError):
    """The send buffer has no space for the message. It was not sent; the line stays open."""


class SendTimeout(BufferFull, TimeoutError):
    """The send buffer had no space within the time limit. The message was not sent; the line stays open."""


class RequestError(LandlineError):
    """A request was answered with an error; raise it in a handler to answer with one.

    ``code`` is a word for programs to compare (such as ``"not_found"``), ``message`` is a sentence for people.

    The outcome of a request that the handler itself made is not passed to the handler's own caller: if such an error
    leaves the handler, the answer is ``failed`` and the error is logged. To pass it on, raise a new one:
    ``raise RequestError(error.code, error.message) from error``.
    """

    is_outcome = False
    """Whether it is the outcome of a request that this side made."""

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
    """No answer arrived in time. The peer was asked to cancel; whether its handler ran is unknown."""

    def __init__(self, name: str, timeout_s: float) -> None:
        super().__init__("timeout", f"no answer to {name!r} within {timeout_s:g} s")


class RequestLost(RequestError):
    """The session ended before the answer arrived; whether the peer's handler ran is unknown."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__("lost", f"the line ended before {name!r} was answered: {why}")


_Error = TypeVar("_Error", bound=RequestError)


def outcome(error: _Error) -> _Error:
    """Mark the error as the outcome of a request that this side made, and return it."""
    error.is_outcome = True
    return error


class FileError(LandlineError):
    """A file was not transferred."""


class FileRefused(FileError, RequestError):
    """The receiver refused a file, or the rest of it; raise it in ``accept`` to refuse one.

    ``code`` is a word for programs to compare: ``no_receiver``, ``bad_name``, ``too_large``, ``exists``, ``busy``,
    ``over_quota``, ``no_space``, ``storage_failed`` (an error of the receiver's disk), ``damaged`` (the hash differs),
    ``changed``, ``stalled``, ``too_slow``, ``superseded`` (by a newer transfer of the same file), ``cancelled`` (by the
    receiver), ``broken`` (a violation of the protocol), or one of the application's own.
    """

    @property
    def reason(self) -> str:
        """Why, as a sentence."""
        return self.message


class FileChanged(FileError):
    """A file changed during the transfer; the receiver keeps nothing of it."""


class FileStalled(FileError, TimeoutError):
    """The peer sent nothing about a transfer for too long; the receiver keeps what it has."""
