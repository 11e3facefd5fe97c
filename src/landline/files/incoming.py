"""Receiving files: the directories that take them, and the transfers under way."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from landline.errors import ConfigurationError, FileRefused
from landline.files import partial_file as disk
from landline.files.disk_pool import Wakeup, alive_while, in_thread, submit
from landline.files.limits import (
    PROGRESS_BYTES,
    FileLimits,
    Place,
    check_count,
    check_offer,
    check_room,
    compare_s,
    place_to_give_up,
)
from landline.files.messages import (
    ACCEPT,
    CHUNK,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    CHUNK_HEADER_BYTES,
    CREDIT,
    Accept,
    Credit,
    End,
    Offer,
    Stored,
)
from landline.files.names import name_problem
from landline.files.progress import ProgressTracker
from landline.files.transfer import ReceiveWindow, Stage
from landline.line.file_sender import FileProgress, FileReceipt
from landline.line.line import Line
from landline.runtime.guarded_log import guarded_logger

logger = guarded_logger("landline")

LOCK_RETRY_S: Final = 0.05
LOCK_TRIES: Final = 100
"""A transfer that is over lets go of its partial file in a moment; another program that receives it does not."""

AcceptFunction = Callable[["IncomingFile"], Any]
ReceivedFunction = Callable[["IncomingFile", FileReceipt], Any]
ProgressFunction = Callable[["IncomingFile", FileProgress], object]

IncomingTransfers = dict[tuple[Line, bytes], "IncomingTransfer"]
"""Transfers under way, by line and number."""
CallUser = Callable[..., None]
"""Calls a function of the application's and logs what it raises."""


class IncomingFile:
    """A file that the peer of ``line`` offers or sends."""

    __slots__ = ("_receiving", "line", "modified_ns", "name", "size_bytes", "to")

    def __init__(self, receiving: IncomingTransfer, line: Line, offer: Offer) -> None:
        self._receiving = receiving
        self.line = line
        """Whose it is."""
        self.name = offer.name
        """What the sender calls it; it has been checked."""
        self.to = offer.to
        """Which of our directories it is for, by its ``to``."""
        self.size_bytes = offer.size_bytes
        self.modified_ns = offer.modified_ns
        """When the sender's file was last written to, in ns since 1970."""

    def __repr__(self) -> str:
        return f"<IncomingFile {self.name!r} of {self.size_bytes} bytes from {self.line!r}>"

    def cancel(self, reason: str = "it was cancelled", *, keep: bool = True) -> None:
        """Gives the transfer up: its sender gets :class:`FileRefused` with the code ``cancelled`` and the reason.

        With ``keep`` a later transfer of the same file goes on where this one was; else nothing of it stays. When all
        has arrived and is being stored, it may be too late.
        """
        self._receiving.stop(FileRefused("cancelled", reason), keep=keep)


class Inbox:
    """A directory that takes files. Made by ``on_file``."""

    def __init__(
        self,
        directory: Path,
        to: str,
        limits: FileLimits,
        accept: AcceptFunction | None,
        progress: ProgressFunction | None,
        *,
        overwrite: bool,
    ) -> None:
        if not directory.is_dir():
            raise ConfigurationError(
                f"{directory} is no directory; make it before files are received into it"
            )
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(f"{directory} cannot be written to; files cannot be received into it")
        self.directory = directory
        self.to = to
        self.limits = limits
        self.accept = accept
        self.progress = progress
        self.overwrite = overwrite
        self.received: ReceivedFunction | None = None
        self.active: dict[str, IncomingTransfer] = {}
        self.looking = asyncio.Lock()
        """One transfer at a time looks for room, and has its part promised before the next one looks."""

    def idle_for(self, peer: str) -> IncomingTransfer | None:
        """The transfer that is to give its place to one of that peer, when all are taken; ``None`` if none is."""
        if len(self.active) < self.limits.concurrent_files:
            return None
        now = asyncio.get_running_loop().time()
        under_way = list(self.active.values())
        places = [Place(receiving.peer, receiving.idle_s(now)) for receiving in under_way]
        index = place_to_give_up(places, peer, self.limits)
        return None if index is None else under_way[index]


class IncomingTransfer:
    """One transfer to us."""

    def __init__(
        self, receivings: IncomingTransfers, call: CallUser, inbox: Inbox, line: Line, offer: Offer
    ) -> None:
        self.line = line
        # Without an identity all lines of a host are one peer.
        self.peer = line.identity or f"@{line.peer.rpartition(':')[0] or line.peer}"
        self.promised_bytes = 0
        self._receivings = receivings
        self._call = call
        self._inbox = inbox
        self._offer = offer
        self._key = disk.partial_key(line.identity, offer.to, offer.key)
        self._partial = disk.Partial(inbox.directory, self._key, offer.name, offer.size_bytes)
        self._reception = ReceiveWindow(offer.size_bytes, inbox.limits.window_bytes)
        self._signal = Wakeup(line)
        self._file = IncomingFile(self, line, offer)
        # One buffer: a list would cost a peer of tiny chunks many times their bytes.
        self._buffer = bytearray()
        self._is_restart = False
        self._is_writing = False
        # When the last of PROGRESS_BYTES was written, and how much was since.
        self._progress_at = 0.0
        self._unmarked_bytes = 0
        self._alive_until = 0.0
        self._hash: bytes | None = None
        self._pace: ProgressTracker | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopped: FileRefused | None = None
        self._keeps = True
        self._over: asyncio.Event = asyncio.Event()

    async def run(self) -> Stored:
        """Receives the file; what it returns or raises answers the offer. Cancelling it keeps what is there."""
        inbox, offer = self._inbox, self._offer
        check_offer(offer, inbox.limits)
        self._task = asyncio.current_task()
        await self._take_place()
        if (self.line, offer.transfer) in self._receivings:
            raise FileRefused("broken", "the transfer broke its rules: there is one of that number already")
        under_way = inbox.active.values()
        of_line = sum(receiving.line is self.line for receiving in under_way)
        of_peer = sum(receiving.peer == self.peer for receiving in under_way)
        check_count(len(under_way), of_line, of_peer, inbox.limits)
        inbox.active[self._key] = self
        self._receivings[self.line, offer.transfer] = self
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(inbox.limits.transfer_timeout_s):
                final = await self._receive()
        except asyncio.CancelledError:
            if self._stopped is None:
                raise
            assert self._task is not None
            self._task.uncancel()
            raise self._stopped from None
        except TimeoutError as error:
            raise FileRefused(
                "too_slow",
                f"it took longer than {inbox.limits.transfer_timeout_s:g} s; send it again to go on",
            ) from error
        except FileRefused as refusal:
            self._keeps = refusal.code not in ("damaged", "exists", "changed", "broken")
            raise
        except OSError as error:
            logger.warning("%r cannot be stored: %s", self._file, error)
            raise FileRefused(
                "storage_failed", f"the receiver could not store it: {error.strerror or error}"
            ) from error
        finally:
            del inbox.active[self._key]
            del self._receivings[self.line, offer.transfer]
            # At once, and not when a thread gets to it: all of them may be reading for transfers that are over.
            self._partial.stop()
            submit(lambda: self._partial.close(keep=self._keeps))
            self._over.set()
        assert self._hash is not None
        receipt = FileReceipt(
            name=final.name,
            path=final,
            size_bytes=offer.size_bytes,
            hash=self._hash,
            resumed_from=self._reception.resumed_from,
            duration_s=asyncio.get_running_loop().time() - started,
        )
        if inbox.received is not None:
            self._call(inbox.received, self._file, receipt)
        return Stored(final.name)

    async def _take_place(self) -> None:
        """Ends what is in the way of this transfer: an older one of the same file, or one that is idle."""
        inbox = self._inbox
        while True:
            if (older := inbox.active.get(self._key)) is not None:
                # The same peer again: the connection of the older one is as good as dead.
                older.stop(FileRefused("superseded", "the same file is sent anew"))
            elif (older := inbox.idle_for(self.peer)) is not None:
                older.stop(
                    FileRefused("stalled", "others wait, and too little came of it; send it again to go on")
                )
            else:
                return
            await older.wait_over()

    def idle_s(self, now: float) -> float:
        """How long its sender has made no progress; 0 while something of ours is to be waited for."""
        if self._is_writing or self._buffer or self._reception.stage in (Stage.OFFERED, Stage.ENDED):
            return 0.0
        return max(0.0, now - self._progress_at)

    def stop(self, refusal: FileRefused, *, keep: bool = True) -> None:
        """Ends the transfer with that answer. Once it is over, nothing."""
        if self._task is not None and self._stopped is None and not self._over.is_set():
            self._stopped = refusal
            self._keeps = keep
            self._task.cancel()

    async def wait_over(self) -> None:
        """Returns when the transfer is over; a thread may still be closing its file."""
        await self._over.wait()

    def receive_chunk(self, offset: int, data: memoryview) -> None:
        """Bytes of the file; called in the event loop."""
        try:
            is_restart = self._reception.receive_chunk(offset, len(data))
        except FileRefused as breach:
            self.stop(breach, keep=False)
            return
        if is_restart:
            self._is_restart = True
        self._buffer += data
        self._signal.give()

    def receive_end(self, end: End) -> None:
        """The sender is done, or its file has changed; called in the event loop."""
        if end.hash is None:
            self.stop(FileRefused("changed", "the file changed while it was sent"), keep=False)
            return
        try:
            self._reception.receive_end()
        except FileRefused as breach:
            self.stop(breach, keep=False)
            return
        self._hash = end.hash
        self._signal.give()

    def receive_alive(self) -> None:
        """The sender is at work, before its first chunk: it compares what we have. Later only bytes count."""
        if self._reception.stage is Stage.ACCEPTED and asyncio.get_running_loop().time() < self._alive_until:
            self._signal.give()

    async def _receive(self) -> Path:
        inbox, offer = self._inbox, self._offer
        await self._find_room()
        final = inbox.directory / await self._ask()
        is_there = not inbox.overwrite and await self._in_thread(
            disk.is_there, final, offer.size_bytes, offer.modified_ns
        )
        if is_there:
            offset, found = offer.size_bytes, None
        else:
            offset, found = await self._resume()
        self._reception.accept(offset)
        now = asyncio.get_running_loop().time()
        # It reads again what is there, and no byte comes meanwhile.
        self._progress_at = now + compare_s(offset)
        self._alive_until = self._progress_at + inbox.limits.first_byte_timeout_s
        self._pace = ProgressTracker(offer.size_bytes, offset, now)
        await self.line.send(self._accept_of(offset, found), name=ACCEPT)
        await self._take_bytes()
        assert self._hash is not None
        if is_there and self._reception.resumed_from == offer.size_bytes:
            if await self._in_thread(self._partial.hash_of, final) != self._hash:
                raise FileRefused("exists", f"there is another file {final.name!r} already")
        else:
            await self._in_thread(
                self._partial.store, final, offer.modified_ns, self._hash, overwrite=inbox.overwrite
            )
        return final

    async def _find_room(self) -> None:
        inbox, offer = self._inbox, self._offer
        async with inbox.looking:
            promised = sum(other.promised_bytes for other in inbox.active.values())
            found = await self._in_thread(
                disk.survey,
                inbox.directory,
                self._key,
                tuple(inbox.active),
                promised,
                inbox.limits,
                time.time(),
            )
            check_room(offer, inbox.limits, found)
            self.promised_bytes = max(0, offer.size_bytes - found.there_bytes)

    async def _resume(self) -> tuple[int, bytes]:
        """What is left of an earlier transfer, once that has let go of it."""
        for _ in range(LOCK_TRIES):
            found: tuple[int, bytes] | None = await self._in_thread(self._partial.resume)
            if found is not None:
                return found
            await asyncio.sleep(LOCK_RETRY_S)
        raise FileRefused("busy", "somebody else receives this file just now; send it later")

    async def _ask(self) -> str:
        """The name to store it under, as the application says if it was given a say."""
        if self._inbox.accept is None:
            return self._offer.name
        name = self._inbox.accept(self._file)
        if inspect.isawaitable(name):
            # A person may be asked.
            asking = asyncio.ensure_future(name)
            try:
                name = await alive_while(self.line, self._offer.transfer, asking)
            finally:
                asking.cancel()
        if name is None:
            return self._offer.name
        if not isinstance(name, str) or (problem := name_problem(name)):
            why = problem if isinstance(name, str) else "it is no text"
            raise ConfigurationError(f"the accept function returned {name!r} as a file's name: {why}")
        return name

    def _accept_of(self, offset: int, found: bytes | None) -> Accept:
        session = self.line.session
        assert session is not None
        whole_bytes = session.limits.message_bytes - CHUNK_HEADER_BYTES - len(CHUNK)
        return Accept(
            transfer=self._offer.transfer,
            offset=offset,
            hash=found,
            window_bytes=self._inbox.limits.window_bytes,
            chunk_bytes=max(CHUNK_BYTES_MIN, min(CHUNK_BYTES_MAX, whole_bytes)),
        )

    async def _take_bytes(self) -> None:
        """Writes what comes until the sender said that it is all."""
        reception = self._reception
        while self._buffer or reception.stage is not Stage.ENDED:
            if not self._buffer:
                if not await self._signal.wait(self._inbox.limits.stall_timeout_s):
                    raise FileRefused(
                        "stalled",
                        f"nothing came for {self._inbox.limits.stall_timeout_s:g} s; send it again to go on",
                    )
                continue
            data, self._buffer = self._buffer, bytearray()
            is_restart, self._is_restart = self._is_restart, False
            self._is_writing = True
            try:
                await self._in_thread(self._partial.write, data, restart=is_restart)
            finally:
                self._is_writing = False
            self._unmarked_bytes += len(data)
            if self._unmarked_bytes >= PROGRESS_BYTES:
                self._unmarked_bytes = 0
                self._progress_at = asyncio.get_running_loop().time()
            # What came meanwhile is counted as received, and not as written.
            if reception.wrote(len(data)):
                await self.line.send(Credit(self._offer.transfer, reception.written_bytes), name=CREDIT)
            self.promised_bytes = reception.size_bytes - reception.written_bytes
            self._report(reception.written_bytes)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await in_thread(self.line, self._offer.transfer, function, *arguments, **named)

    def _report(self, bytes_done: int) -> None:
        if self._inbox.progress is None or self._pace is None:
            return
        told = self._pace.update(bytes_done, asyncio.get_running_loop().time())
        if told is not None:
            self._call(self._inbox.progress, self._file, told)
