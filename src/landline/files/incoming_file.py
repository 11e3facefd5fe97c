"""What the application sees of a file that is offered or received, and the functions it may register for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from landline.errors import FileRefused
from landline.files.messages import Offer
from landline.line.file_sender import FileProgress, FileReceipt
from landline.line.line import Line


class StopFunction(Protocol):
    """Ends a transfer with the answer that its sender gets."""

    def __call__(self, refusal: FileRefused, *, keep: bool) -> None: ...


class IncomingFile:
    """A file that the peer of :attr:`line` offers or sends."""

    __slots__ = ("_stop", "line", "modified_ns", "name", "size_bytes", "to")

    def __init__(self, line: Line, offer: Offer, stop: StopFunction) -> None:
        self._stop = stop
        self.line: Line = line
        """The line over which it comes."""
        self.name: str = offer.name
        """The sender's name for the file. It is valid (``docs/files.md``)."""
        self.to: str = offer.to
        """The label of the directory, as in ``on_file(to=...)``."""
        self.size_bytes: int = offer.size_bytes
        self.modified_ns: int = offer.modified_ns
        """Time of the last modification of the sender's file, in ns since 1970."""

    def __repr__(self) -> str:
        return f"<IncomingFile {self.name!r} of {self.size_bytes} bytes from {self.line!r}>"

    def cancel(self, reason: str = "cancelled by the receiver", *, keep: bool = True) -> None:
        """End the transfer. The sender gets :class:`FileRefused` with the code ``cancelled`` and the reason.

        When all bytes have arrived and the file is being stored, it may be too late. Does nothing after the end.

        :param keep: whether the partial file stays, so that a later transfer of the same file resumes from it.
        """
        self._stop(FileRefused("cancelled", reason), keep=keep)


AcceptFunction = Callable[[IncomingFile], str | Awaitable[str | None] | None]
"""Returns another name for the file or ``None``, or raises :class:`FileRefused`."""
ProgressFunction = Callable[[IncomingFile, FileProgress], object]
ReceivedFunction = Callable[[IncomingFile, FileReceipt], object]
ReceivedFunctionType = TypeVar("ReceivedFunctionType", bound=Callable[[Any, Any], object])
"""A :data:`ReceivedFunction` whose own type the decorator keeps."""
