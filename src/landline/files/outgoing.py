"""Sending a file: one offer after the other until the file is stored or refused, or the line is closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from landline.errors import (
    ConfigurationError,
    FileChanged,
    FileError,
    FileRefused,
    FileStalled,
    LandlineError,
    LineClosed,
    NoHandler,
    RequestError,
    RequestLost,
    outcome,
)
from landline.files.disk_pool import in_thread, submit
from landline.files.keepalive import Keepalive
from landline.files.messages import (
    CHUNK,
    CHUNK_BYTES,
    END,
    OFFER,
    TO_CHARS_MAX,
    TRANSFER_ID_BYTES,
    Accept,
    Credit,
    End,
    Offer,
    Stored,
    resume_key,
)
from landline.files.names import name_problem
from landline.files.progress import ProgressTracker
from landline.files.source import Source
from landline.files.transfer import SendWindow, protocol_violation
from landline.files.wakeup import Wakeup
from landline.line.file_sender import STALL_TIMEOUT_S, FileProgress, FileReceipt, ProgressCallback
from landline.line.line import Line, driver_of
from landline.runtime.guarded_log import guarded_logger
from landline.session.state import State
from landline.signatures import check_function

logger: Final = guarded_logger("landline")

CONCURRENCY: Final = 8
"""Default number of lines a file is sent to at the same time: each opens the file and fills a separate window."""

OutgoingTransfers = dict[tuple[Line, bytes], "OutgoingTransfer"]
"""The active transfers, by line and transfer id."""


@dataclass(frozen=True, slots=True)
class SendOptions:
    """The arguments of :meth:`landline.Line.send_file`, checked.

    :raises ConfigurationError: one of them is invalid.
    """

    path: Path
    name: str
    to: str
    progress: ProgressCallback | None
    stall_timeout_s: float | None

    def __post_init__(self) -> None:
        if self.progress is not None:
            check_function(self.progress, "send_file(progress=)", ("progress",), may_be_async=False)
        if problem := name_problem(self.name):
            raise ConfigurationError(f"cannot send a file as {self.name!r}: {problem}; use another name")
        if len(self.to) > TO_CHARS_MAX:
            raise ConfigurationError(
                f"to={self.to[:80]!r} has {len(self.to)} characters, and {TO_CHARS_MAX} are allowed"
            )


async def send_file(transfers: OutgoingTransfers, line: Line, options: SendOptions) -> FileReceipt:
    """Send a file; see :meth:`landline.Line.send_file`."""
    source = await in_thread(Source, options.path)
    started_at = asyncio.get_running_loop().time()
    try:
        stored, resumed_from = await _offer_until_stored(transfers, line, source, options)
        return FileReceipt(
            name=stored.name,
            path=options.path,
            size_bytes=source.size_bytes,
            hash=source.hash,
            resumed_from=resumed_from,
            duration_s=asyncio.get_running_loop().time() - started_at,
        )
    finally:
        # At once, without waiting for a free thread: all of them may be reading for transfers that have ended.
        source.stop()
        submit(source.close)


async def _offer_until_stored(
    transfers: OutgoingTransfers, line: Line, source: Source, options: SendOptions
) -> tuple[Stored, int]:
    """Offer the file again in each new session. Return the response, and how many bytes the receiver had at first."""
    resumed_from: int | None = None
    while True:
        session_id = line.session_id
        transfer = OutgoingTransfer(transfers, line, source, options)
        stored: Stored | None = None
        try:
            stored = await transfer.run()
        except (RequestLost, LineClosed) as error:
            # A new session knows nothing of the transfer; the receiver's disk does.
            _raise_unless_replaced(line, session_id, options.name, error)
        if resumed_from is None:
            resumed_from = transfer.resumed_from
        if stored is not None:
            return stored, resumed_from or 0


def _raise_unless_replaced(
    line: Line, session_id: bytes | None, name: str, error: RequestLost | LineClosed
) -> None:
    """Raise the reason why the file cannot be sent over the line; return if a new session replaced the lost one."""
    if line.is_closed:
        raise line.error or LineClosed(f"the line was closed while {name!r} was sent") from error
    session = driver_of(line).session
    is_over = session is None or session.state is State.CLOSED
    if not is_over and line.session_id == session_id:
        raise FileError(f"cannot continue to send {name!r}: {error}") from error


async def send_file_to(
    lines: Iterable[Line],
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    to: str = "",
    concurrency: int = CONCURRENCY,
    progress: Callable[[Line, FileProgress], object] | None = None,
    stall_timeout_s: float | None = STALL_TIMEOUT_S,
) -> dict[Line, FileReceipt | Exception]:
    """Send one file to many lines, such as those of a :class:`landline.Group`.

    Each line gets the file as by :meth:`landline.Line.send_file`, at its own rate: every transfer reads the file
    separately, so none waits for a slower one. Memory is limited to ``concurrency`` times the receivers' windows (4 MiB
    by default). The other arguments are those of ``send_file``; ``progress`` is called with the line as well.

    Cancelling cancels all transfers. The receivers keep their partial files, so that the transfers can be resumed.

    :param concurrency: number of lines the file is sent to at the same time.
    :returns: for each line its receipt, or the error that ended its transfer.
    :raises ConfigurationError: an argument is invalid.
    """
    if concurrency < 1:
        raise ConfigurationError(f"send_file_to(concurrency={concurrency}): must be at least 1")
    semaphore = asyncio.Semaphore(concurrency)
    results: dict[Line, FileReceipt | Exception] = {}

    async def send(line: Line) -> None:
        async with semaphore:
            try:
                results[line] = await line.send_file(
                    path,
                    name=name,
                    to=to,
                    progress=None if progress is None else lambda report: progress(line, report),
                    stall_timeout_s=stall_timeout_s,
                )
            except ConfigurationError:
                raise
            except (LandlineError, OSError) as error:
                results[line] = error

    distinct_lines = list(dict.fromkeys(lines))
    tasks = [asyncio.ensure_future(send(line)) for line in distinct_lines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
    return {line: results[line] for line in distinct_lines}


class OutgoingTransfer:
    """One offer of a file, and the transfer that follows when it is accepted."""

    def __init__(
        self, transfers: OutgoingTransfers, line: Line, source: Source, options: SendOptions
    ) -> None:
        self._transfers = transfers
        self._line = line
        self._source = source
        self._options = options
        self._id = os.urandom(TRANSFER_ID_BYTES)
        self._wakeup = Wakeup(line)
        self._keepalive = Keepalive(line, self._id)
        self._accept: Accept | None = None
        self._window: SendWindow | None = None
        self._tracker: ProgressTracker | None = None
        self._violation: FileRefused | None = None

    @property
    def resumed_from(self) -> int | None:
        """Number of bytes the receiver already had; ``None`` while that is unknown."""
        return self._window.resumed_from if self._window is not None else None

    async def run(self) -> Stored:
        """Offer and send the file; return the receiver's response.

        Raise :class:`FileRefused`, :class:`FileChanged`, :class:`FileStalled`, :class:`RequestLost`, :class:`OSError`,
        or what :meth:`Line.send` raises. The receiver learns of every failure.
        """
        request = self._line.request(OFFER, self._offer(), timeout=None, response_type=Stored)
        response = asyncio.get_running_loop().create_task(request)
        response.add_done_callback(lambda _: self._wakeup.set())
        self._transfers[self._line, self._id] = self
        try:
            await self._send_contents(response)
            stored: Stored = await response
        except NoHandler as error:
            raise outcome(FileRefused("no_receiver", "the peer does not receive files")) from error
        except (FileError, RequestLost):
            raise
        except RequestError as error:
            raise outcome(FileRefused(error.code, error.message)) from error
        finally:
            del self._transfers[self._line, self._id]
            if not response.done():
                response.cancel()
                await asyncio.wait({response})
            elif not response.cancelled():
                # Marks the exception as retrieved: the one that is raised says more.
                response.exception()
        self._report(self._source.size_bytes)
        return stored

    def receive_accept(self, accept: Accept) -> None:
        """Handle ACCEPT. A second one is ignored."""
        if self._accept is None:
            self._accept = accept
        self._wakeup.set()

    def receive_credit(self, credit: Credit) -> None:
        """Handle CREDIT."""
        window = self._window
        try:
            if window is None:
                raise protocol_violation("credit before the first chunk")
            window.receive_credit(credit.written_bytes)
        except FileRefused as error:
            self._violation = outcome(error)
        else:
            self._report(window.written_bytes)
        self._wakeup.set()

    def receive_alive(self) -> None:
        """Handle ALIVE: the receiver is working."""
        self._wakeup.set()

    def _offer(self) -> Offer:
        name, to, source = self._options.name, self._options.to, self._source
        return Offer(
            transfer=self._id,
            key=resume_key(name, to, source.size_bytes, source.modified_ns),
            name=name,
            to=to,
            size_bytes=source.size_bytes,
            modified_ns=source.modified_ns,
        )

    async def _send_contents(self, response: asyncio.Task[Stored]) -> None:
        """Send the file until the offer is answered."""
        try:
            await self._send_chunks(response)
        except FileChanged:
            # After all chunks, so that the receiver keeps none of them. A CANCEL would overtake them.
            await self._send_end(None)
            await asyncio.wait({response}, timeout=self._options.stall_timeout_s)
            raise

    async def _send_chunks(self, response: asyncio.Task[Stored]) -> None:
        is_ended = False
        while not response.done():
            if self._violation is not None:
                raise self._violation
            window = self._window
            if window is None:
                if self._accept is None:
                    await self._wait()
                else:
                    await self._start(self._accept)
            elif size_bytes := window.next_bytes:
                chunk = await self._keepalive.in_thread(
                    self._source.read_chunk, self._id, window.sent_bytes, size_bytes
                )
                # Counted before it is sent: credit for it may arrive while send() waits for buffer space.
                window.sent_bytes += size_bytes
                await self._line.send(chunk, name=CHUNK, bulk=True)
            elif window.is_all_sent and not is_ended:
                is_ended = True
                await self._keepalive.in_thread(self._source.check_unchanged)
                await self._send_end(self._source.hash)
            else:
                await self._wait()

    async def _start(self, accept: Accept) -> None:
        """Open the window, after comparing what the receiver has with the beginning of the file."""
        offset = min(accept.offset, self._source.size_bytes)
        prefix_hash = await self._keepalive.in_thread(self._source.read_prefix, offset)
        is_same = accept.hash is None or accept.hash == prefix_hash
        if not is_same:
            logger.info(
                "%r: the receiver has other bytes than %s begins with; sending the whole file",
                self._line,
                self._source.path,
            )
            self._source.rewind()
        self._window = SendWindow(self._source.size_bytes, accept, CHUNK_BYTES, is_same=is_same)
        now = asyncio.get_running_loop().time()
        self._tracker = ProgressTracker(self._source.size_bytes, self._window.resumed_from, now)
        self._report(self._window.resumed_from)

    async def _send_end(self, digest: bytes | None) -> None:
        await self._line.send(End(self._id, digest), name=END, bulk=True)

    async def _wait(self) -> None:
        timeout_s = self._options.stall_timeout_s
        if not await self._wakeup.wait(timeout_s):
            raise FileStalled(f"gave up sending {self._options.name!r}: no response for {timeout_s:g} s")

    def _report(self, bytes_done: int) -> None:
        callback = self._options.progress
        if callback is None or self._tracker is None:
            return
        progress = self._tracker.update(bytes_done, asyncio.get_running_loop().time())
        if progress is None:
            return
        try:
            callback(progress)
        except Exception:
            logger.exception("the progress callback %r failed", callback)
