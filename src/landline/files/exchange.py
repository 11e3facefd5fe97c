"""The files of one server or one client: what is sent, what is received, and who gets which word of the peers."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from landline.errors import ConfigurationError, FileRefused
from landline.files.incoming import (
    AcceptFunction,
    Inbox,
    IncomingTransfer,
    IncomingTransfers,
    ProgressFunction,
    ReceivedFunction,
)
from landline.files.limits import FileLimits
from landline.files.messages import (
    ACCEPT,
    ALIVE,
    CHUNK,
    CREDIT,
    END,
    OFFER,
    TO_CHARACTERS_MAX,
    Accept,
    Credit,
    End,
    Offer,
    Stored,
    decode_chunk,
)
from landline.files.outgoing import OutgoingTransfers, send_file
from landline.line.file_sender import FileReceipt, ProgressCallback
from landline.line.handlers import Handlers
from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger
from landline.signatures import check_function

logger = guarded_logger("landline")


class FileExchange:
    """Made when a server or a client first sends a file or says that it receives some."""

    def __init__(self, handlers: Handlers) -> None:
        self.sendings: OutgoingTransfers = {}
        self.receivings: IncomingTransfers = {}
        self._inboxes: dict[str, Inbox] = {}
        self._tasks: set[asyncio.Future[Any]] = set()
        handlers.reserve(OFFER, self._receive_offer, Offer)
        handlers.reserve(ACCEPT, self._receive_accept, Accept)
        handlers.reserve(CHUNK, self._receive_chunk, bytes)
        handlers.reserve(CREDIT, self._receive_credit, Credit)
        handlers.reserve(END, self._receive_end, End)
        handlers.reserve(ALIVE, self._receive_alive, bytes)

    def on_file(
        self,
        directory: str | os.PathLike[str],
        *,
        to: str,
        limits: FileLimits | None,
        accept: AcceptFunction | None,
        progress: ProgressFunction | None,
        overwrite: bool,
    ) -> Callable[[ReceivedFunction], ReceivedFunction]:
        """See :meth:`landline.Server.on_file`."""
        if len(to) > TO_CHARACTERS_MAX:
            raise ConfigurationError(f"to={to[:80]!r} has more than {TO_CHARACTERS_MAX} characters")
        if accept is not None:
            check_function(accept, "on_file(accept=)", ("file",))
        if progress is not None:
            check_function(progress, "on_file(progress=)", ("file", "progress"))
        if to in self._inboxes:
            raise ConfigurationError(f"there is a directory for files to {to!r} already")
        inbox = Inbox(
            Path(directory).absolute(), to, limits or FileLimits(), accept, progress, overwrite=overwrite
        )
        self._inboxes[to] = inbox

        def register(function: ReceivedFunction) -> ReceivedFunction:
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
        """See :meth:`landline.Line.send_file`."""
        return await send_file(
            self.sendings, line, path, name=name, to=to, progress=progress, stall_timeout_s=stall_timeout_s
        )

    def call(self, function: Callable[..., Any], *arguments: object) -> None:
        """Calls a function of the application's; a coroutine runs as a task. What it raises is logged."""
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
            logger.error("a function for files failed", exc_info=error)

    async def _receive_offer(self, line: Line, offer: Offer) -> Stored:
        inbox = self._inboxes.get(offer.to)
        if inbox is None:
            raise FileRefused("no_receiver", f"no files are received here for {offer.to!r}")
        return await IncomingTransfer(self.receivings, self.call, inbox, line, offer).run()

    def _receive_accept(self, line: Line, accept: Accept) -> None:
        if (sending := self.sendings.get((line, accept.transfer))) is not None:
            sending.receive_accept(accept)

    def _receive_chunk(self, line: Line, body: bytes) -> None:
        # Chunks of a transfer that was refused or cancelled may still be on their way: they are dropped.
        transfer, offset, data = decode_chunk(body)
        if (receiving := self.receivings.get((line, transfer))) is not None:
            receiving.receive_chunk(offset, data)

    def _receive_credit(self, line: Line, credit: Credit) -> None:
        if (sending := self.sendings.get((line, credit.transfer))) is not None:
            sending.receive_credit(credit)

    def _receive_end(self, line: Line, end: End) -> None:
        if (receiving := self.receivings.get((line, end.transfer))) is not None:
            receiving.receive_end(end)

    def _receive_alive(self, line: Line, transfer: bytes) -> None:
        if (receiving := self.receivings.get((line, transfer))) is not None:
            receiving.receive_alive()
        if (sending := self.sendings.get((line, transfer))) is not None:
            sending.receive_alive()
