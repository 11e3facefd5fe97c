"""Sending a file: one offer after the other until it is stored, refused, or the line is over."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
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
from landline.files.disk_pool import Wakeup, in_thread, submit
from landline.files.messages import (
    CHUNK,
    CHUNK_BYTES,
    END,
    OFFER,
    TO_CHARACTERS_MAX,
    TRANSFER_BYTES,
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
from landline.files.transfer import SendWindow
from landline.line.file_sender import STALL_TIMEOUT_S, FileProgress, FileReceipt, ProgressCallback
from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger
from landline.session.state import State
from landline.signatures import check_function

logger = guarded_logger("landline")

SENT_AT_ONCE: Final = 8
"""Lines a file is sent to at the same time, unless told otherwise: it is open so often, and fills so many windows."""


OutgoingTransfers = dict[tuple[Line, bytes], "OutgoingTransfer"]
"""Transfers under way, by line and number."""


async def send_file(
    sendings: OutgoingTransfers,
    line: Line,
    path: str | os.PathLike[str],
    *,
    name: str | None,
    to: str,
    progress: ProgressCallback | None,
    stall_timeout_s: float | None,
) -> FileReceipt:
    """See :meth:`landline.Line.send_file`."""
    if progress is not None:
        check_function(progress, "send_file(progress=)", ("progress",), may_be_async=False)
    path = Path(path)
    name = path.name if name is None else name
    if problem := name_problem(name):
        raise ConfigurationError(f"a file cannot be sent as {name!r}: {problem}; give another name")
    if len(to) > TO_CHARACTERS_MAX:
        raise ConfigurationError(
            f"to={to[:80]!r} has {len(to)} characters, and {TO_CHARACTERS_MAX} are allowed"
        )
    transfer = os.urandom(TRANSFER_BYTES)
    source = await in_thread(line, transfer, Source, path)
    started = asyncio.get_running_loop().time()
    resumed_from: int | None = None
    try:
        while True:
            session_id = line.session_id
            sending = OutgoingTransfer(sendings, line, source, transfer, name, to, progress, stall_timeout_s)
            try:
                stored = await sending.run()
            except (RequestLost, LineClosed) as lost:
                if line.is_closed:
                    raise line.error or LineClosed(f"the line was closed while {name!r} was sent") from lost
                session = line.session
                is_over = session is None or session.state is State.CLOSED
                if not is_over and line.session_id == session_id:
                    raise FileError(f"{name!r} cannot be sent any more: {lost}") from lost
                # A new session knows nothing of the transfer; the receiver's disk does.
                transfer = os.urandom(TRANSFER_BYTES)
                continue
            finally:
                if resumed_from is None:
                    resumed_from = sending.resumed_from
            return FileReceipt(
                name=stored.name,
                path=path,
                size_bytes=source.size_bytes,
                hash=source.hash,
                resumed_from=resumed_from or 0,
                duration_s=asyncio.get_running_loop().time() - started,
            )
    finally:
        # At once, and not when a thread gets to it: all of them may be reading for transfers that are over.
        source.stop()
        submit(source.close)


async def send_file_to(
    lines: Iterable[Line],
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    to: str = "",
    at_once: int = SENT_AT_ONCE,
    progress: Callable[[Line, FileProgress], object] | None = None,
    stall_timeout_s: float | None = STALL_TIMEOUT_S,
) -> dict[Line, FileReceipt | Exception]:
    """Sends one file to many lines, such as those of a :class:`landline.Group`, ``at_once`` of them at a time.

    Each gets it as by :meth:`landline.Line.send_file`, at its own pace: every transfer reads the file for itself, so
    none waits for a slower one. Memory is bounded by ``at_once`` times the receivers' windows (4 MiB by default). The
    arguments are those of ``send_file``; ``progress`` is called with the line as well.

    Returns the receipt of each line, or what it failed with. Raises :class:`ConfigurationError` for arguments
    that make no sense. Cancelling cancels all of them; what receivers have of the file they keep, to go on with.
    """
    if at_once < 1:
        raise ConfigurationError(f"send_file_to(at_once={at_once}): at least one line must be sent to")
    turns = asyncio.Semaphore(at_once)
    results: dict[Line, FileReceipt | Exception] = {}

    async def send(line: Line) -> None:
        async with turns:
            try:
                results[line] = await line.send_file(
                    path,
                    name=name,
                    to=to,
                    progress=None if progress is None else lambda told: progress(line, told),
                    stall_timeout_s=stall_timeout_s,
                )
            except ConfigurationError:
                raise
            except (LandlineError, OSError) as error:
                results[line] = error

    wanted = list(dict.fromkeys(lines))
    sending = [asyncio.ensure_future(send(line)) for line in wanted]
    try:
        await asyncio.gather(*sending)
    finally:
        for task in sending:
            task.cancel()
        if sending:
            await asyncio.wait(sending)
    return {line: results[line] for line in wanted}


class OutgoingTransfer:
    """One offer, and what follows from it."""

    def __init__(
        self,
        sendings: OutgoingTransfers,
        line: Line,
        source: Source,
        transfer: bytes,
        name: str,
        to: str,
        progress: ProgressCallback | None,
        stall_timeout_s: float | None,
    ) -> None:
        self._sendings = sendings
        self._line = line
        self._source = source
        self._offer = Offer(
            transfer=transfer,
            key=resume_key(name, to, source.size_bytes, source.modified_ns),
            name=name,
            to=to,
            size_bytes=source.size_bytes,
            modified_ns=source.modified_ns,
        )
        self._progress = progress
        self._stall_timeout_s = stall_timeout_s
        self._signal = Wakeup(line)
        self._accept: Accept | None = None
        self._emission: SendWindow | None = None
        self._pace: ProgressTracker | None = None
        self._breach: FileRefused | None = None

    @property
    def resumed_from(self) -> int | None:
        """How many bytes the receiver had; ``None`` before that is known."""
        return self._emission.resumed_from if self._emission is not None else None

    async def run(self) -> Stored:
        """Offers and sends the file; returns the receiver's answer.

        Raises :class:`FileRefused`, :class:`FileChanged`, :class:`FileStalled`, :class:`RequestLost`, what
        :meth:`Line.send` raises, and :class:`OSError`. Whatever it raises, the receiver is told.
        """
        loop = asyncio.get_running_loop()
        transfer = self._offer.transfer
        asking = self._line.request(OFFER, self._offer, timeout=None, response_type=Stored)
        answer = loop.create_task(asking)
        answer.add_done_callback(lambda _: self._signal.give())
        self._sendings[self._line, transfer] = self
        try:
            try:
                await self._feed(answer)
            except FileChanged:
                # Behind all chunks, so that nothing of them is kept. A CANCEL would overtake it.
                await self._send_end(None)
                await asyncio.wait({answer}, timeout=self._stall_timeout_s)
                raise
            stored: Stored = await answer
        except NoHandler as error:
            raise outcome(FileRefused("no_receiver", "the other side receives no files")) from error
        except (FileError, RequestLost):
            raise
        except RequestError as error:
            raise outcome(FileRefused(error.code, error.message)) from error
        finally:
            del self._sendings[self._line, transfer]
            if not answer.done():
                answer.cancel()
                await asyncio.wait({answer})
            elif not answer.cancelled():
                # What else was raised says more.
                answer.exception()
        self._report(self._source.size_bytes)
        return stored

    def receive_accept(self, accept: Accept) -> None:
        """The receiver takes the file. A second word of that kind changes nothing."""
        if self._accept is None:
            self._accept = accept
        self._signal.give()

    def receive_credit(self, credit: Credit) -> None:
        """The receiver has written so much."""
        emission = self._emission
        try:
            if emission is None:
                raise FileRefused("broken", "the transfer broke its rules: bytes written before one was sent")
            emission.receive_credit(credit.written_bytes)
        except FileRefused as breach:
            self._breach = outcome(breach)
        else:
            self._report(emission.written_bytes)
        self._signal.give()

    def receive_alive(self) -> None:
        """The receiver is at work."""
        self._signal.give()

    async def _feed(self, answer: asyncio.Task[Stored]) -> None:
        """Sends what may be sent until the offer is answered."""
        is_ended = False
        while not answer.done():
            if self._breach is not None:
                raise self._breach
            emission = self._emission
            if emission is None:
                if self._accept is None:
                    await self._wait()
                else:
                    await self._begin(self._accept)
            elif size_bytes := emission.next_bytes:
                chunk = await in_thread(
                    self._line,
                    self._offer.transfer,
                    self._source.read_chunk,
                    self._offer.transfer,
                    emission.sent_bytes,
                    size_bytes,
                )
                # Counted before it is sent: the answer to it may come while we wait for room.
                emission.sent_bytes += size_bytes
                await self._line.send(chunk, name=CHUNK, bulk=True)
            elif emission.is_all_sent and not is_ended:
                is_ended = True
                await in_thread(self._line, self._offer.transfer, self._source.check_unchanged)
                await self._send_end(self._source.hash)
            else:
                await self._wait()

    async def _begin(self, accept: Accept) -> None:
        """Reads again what the receiver has of the file, and compares."""
        offset = min(accept.offset, self._source.size_bytes)
        found = await in_thread(self._line, self._offer.transfer, self._source.read_prefix, offset)
        is_same = accept.hash is None or accept.hash == found
        if not is_same:
            logger.info("%r has another beginning of %s, which is sent anew", self._line, self._source.path)
            self._source.rewind()
        emission = SendWindow(self._source.size_bytes, accept, CHUNK_BYTES, is_same=is_same)
        self._emission = emission
        now = asyncio.get_running_loop().time()
        self._pace = ProgressTracker(self._source.size_bytes, emission.resumed_from, now)
        self._report(emission.resumed_from)

    async def _send_end(self, digest: bytes | None) -> None:
        await self._line.send(End(self._offer.transfer, digest), name=END, bulk=True)

    async def _wait(self) -> None:
        if not await self._signal.wait(self._stall_timeout_s):
            raise FileStalled(
                f"nothing was heard of {self._offer.name!r} for {self._stall_timeout_s:g} s; it was given up"
            )

    def _report(self, bytes_done: int) -> None:
        if self._progress is None or self._pace is None:
            return
        told = self._pace.update(bytes_done, asyncio.get_running_loop().time())
        if told is None:
            return
        try:
            self._progress(told)
        except Exception:
            logger.exception("the callback %r failed", self._progress)
