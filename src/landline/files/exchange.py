"""The files of one server or one client: what it sends, what it receives, and which transfer gets which message."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from landline.errors import ConfigurationError, FileRefused
from landline.files.incoming import Inbox, IncomingTransfer, IncomingTransfers
from landline.files.incoming_file import AcceptFunction, ProgressFunction, ReceivedFunctionType
from landline.files.limits import FileLimits
from landline.files.messages import (
    ACCEPT,
    ALIVE,
    CHUNK,
    CREDIT,
    END,
    OFFER,
    TO_CHARS_MAX,
    Accept,
    Credit,
    End,
    Offer,
    Stored,
    decode_chunk,
)
from landline.files.outgoing import OutgoingTransfers, SendOptions, send_file
from landline.line.file_sender import FileReceipt, ProgressCallback
from landline.line.handlers import Handlers
from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger
from landline.signatures import check_function

logger: Final = guarded_logger("landline")


class FileExchange:
    """Sends and receives files over the lines of one server or one client.

    It registers its handlers when it first sends a file or :meth:`on_file` is called. Until then the messages of peers
    that send files are messages without a handler.
    """

    __slots__ = ("_handlers", "_inboxes", "_is_registered", "_tasks", "incoming", "outgoing")

    def __init__(self, handlers: Handlers) -> None:
        self.outgoing: OutgoingTransfers = {}
        self.incoming: IncomingTransfers = {}
        self._handlers = handlers
        self._is_registered = False
        self._inboxes: dict[str, Inbox] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    def on_file(
        self,
        directory: str | os.PathLike[str],
        *,
        to: str,
        limits: FileLimits | None,
        accept: AcceptFunction | None,
        progress: ProgressFunction | None,
        overwrite: bool,
    ) -> Callable[[ReceivedFunctionType], ReceivedFunctionType]:
        """Receive files into a directory; see :meth:`landline.Server.on_file`."""
        if len(to) > TO_CHARS_MAX:
            raise ConfigurationError(
                f"to={to[:80]!r} has {len(to)} characters, and {TO_CHARS_MAX} are allowed"
            )
        if accept is not None:
            check_function(accept, "on_file(accept=)", ("file",))
        if progress is not None:
            check_function(progress, "on_file(progress=)", ("file", "progress"))
        if to in self._inboxes:
            raise ConfigurationError(f"on_file(to={to!r}) already has a directory; use another label")
        inbox = Inbox(
            Path(directory).absolute(), limits or FileLimits(), accept, progress, overwrite=overwrite
        )
        self._register()
        self._inboxes[to] = inbox

        def register(function: ReceivedFunctionType) -> ReceivedFunctionType:
            check_function(function, "the function of on_file()", ("file", "receipt"))
            inbox.received = function
            return function

        return register

    async def send(
        self,
        line: Line,
        path: str | os.PathLike[str],
        *,
        name: str | None,
        to: str,
        progress: ProgressCallback | None,
        stall_timeout_s: float | None,
    ) -> FileReceipt:
        """Send a file; see :meth:`landline.Line.send_file`."""
        self._register()
        path = Path(path)
        options = SendOptions(path, path.name if name is None else name, to, progress, stall_timeout_s)
        return await send_file(self.outgoing, line, options)

    def call(self, function: Callable[..., Any], *arguments: object) -> None:
        """Call a function of the application; a coroutine runs as a task. An exception is logged."""
        try:
            result = function(*arguments)
        except Exception:
            logger.exception("the callback %r failed", function)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            self._tasks.add(task)
            task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a callback of on_file() failed", exc_info=error)

    # Messages of the peers

    def _register(self) -> None:
        if self._is_registered:
            return
        self._is_registered = True
        self._handlers.reserve(OFFER, self._receive_offer, Offer)
        self._handlers.reserve(ACCEPT, self._receive_accept, Accept)
        self._handlers.reserve(CHUNK, self._receive_chunk, bytes)
        self._handlers.reserve(CREDIT, self._receive_credit, Credit)
        self._handlers.reserve(END, self._receive_end, End)
        self._handlers.reserve(ALIVE, self._receive_alive, bytes)

    async def _receive_offer(self, line: Line, offer: Offer) -> Stored:
        inbox = self._inboxes.get(offer.to)
        if inbox is None:
            raise FileRefused("no_receiver", f"no directory receives files for {offer.to!r}")
        return await IncomingTransfer(self.incoming, self.call, inbox, line, offer).run()

    def _receive_accept(self, line: Line, accept: Accept) -> None:
        if (transfer := self.outgoing.get((line, accept.transfer))) is not None:
            transfer.receive_accept(accept)

    def _receive_chunk(self, line: Line, body: bytes) -> None:
        # Chunks of a transfer that was refused or cancelled may still arrive: they are discarded.
        transfer_id, offset, data = decode_chunk(body)
        if (transfer := self.incoming.get((line, transfer_id))) is not None:
            transfer.receive_chunk(offset, data)

    def _receive_credit(self, line: Line, credit: Credit) -> None:
        if (transfer := self.outgoing.get((line, credit.transfer))) is not None:
            transfer.receive_credit(credit)

    def _receive_end(self, line: Line, end: End) -> None:
        if (transfer := self.incoming.get((line, end.transfer))) is not None:
            transfer.receive_end(end)

    def _receive_alive(self, line: Line, transfer_id: bytes) -> None:
        if (incoming := self.incoming.get((line, transfer_id))) is not None:
            incoming.receive_alive()
        if (outgoing := self.outgoing.get((line, transfer_id))) is not None:
            outgoing.receive_alive()
