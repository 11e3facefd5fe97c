"""Receiving files: the directories that receive them, and the active transfers."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from landline.errors import ConfigurationError, FileRefused
from landline.files import partial_file
from landline.files.chunk_queue import ChunkQueue
from landline.files.disk_pool import submit
from landline.files.incoming_file import AcceptFunction, IncomingFile, ProgressFunction, ReceivedFunction
from landline.files.keepalive import Keepalive
from landline.files.limits import (
    ActiveTransfer,
    FileLimits,
    check_concurrency,
    check_offer,
    check_space,
    transfer_to_end,
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
from landline.files.stop_switch import StopSwitch
from landline.files.transfer import protocol_violation
from landline.files.wakeup import Wakeup
from landline.line.file_sender import FileReceipt
from landline.line.line import Line, driver_of
from landline.runtime.guarded_log import guarded_logger

logger: Final = guarded_logger("landline")

LOCK_RETRY_S: Final = 0.05
LOCK_ATTEMPTS: Final = 100
"""A transfer that has ended releases its partial file in a moment; another program that receives the file does not."""
UNUSABLE: Final = frozenset({"damaged", "exists", "changed", "broken"})
"""The codes of refusals after which the partial file is of no use."""

IncomingTransfers = dict[tuple[Line, bytes], "IncomingTransfer"]
"""The active transfers, by line and transfer id."""
CallUser = Callable[..., None]
"""Calls a function of the application and logs its exception."""


class Inbox:
    """A directory that receives files. Created by ``on_file``."""

    def __init__(
        self,
        directory: Path,
        limits: FileLimits,
        accept: AcceptFunction | None,
        progress: ProgressFunction | None,
        *,
        overwrite: bool,
    ) -> None:
        if not directory.is_dir():
            raise ConfigurationError(f"{directory} is not a directory; create it before on_file()")
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(f"no write permission for {directory}; files cannot be received into it")
        self.directory = directory
        self.limits = limits
        self.accept = accept
        self.progress = progress
        self.overwrite = overwrite
        self.received: ReceivedFunction | None = None
        self.active: dict[str, IncomingTransfer] = {}
        self.space_lock: asyncio.Lock = asyncio.Lock()
        """One transfer at a time checks the space, and reserves its part before the next one checks."""

    def obstacle_of(self, key: str, peer: str) -> tuple[IncomingTransfer, FileRefused] | None:
        """Return the transfer that must end before one with that key and peer begins, and the reason; or ``None``."""
        if (older := self.active.get(key)) is not None:
            # The same peer again: the connection of the older transfer is almost certainly dead.
            return older, FileRefused("superseded", "the same file was offered again")
        if len(self.active) < self.limits.concurrent_files:
            return None
        now = asyncio.get_running_loop().time()
        transfers = list(self.active.values())
        index = transfer_to_end(
            [ActiveTransfer(transfer.peer, transfer.idle_s(now)) for transfer in transfers], peer, self.limits
        )
        if index is None:
            return None
        return transfers[index], FileRefused(
            "stalled", "ended in favour of other peers: too slow; send the file again to resume"
        )

    def check_concurrency(self, line: Line, peer: str) -> None:
        """Raise :class:`FileRefused` if a transfer over that line, of that peer, would exceed a limit."""
        transfers = self.active.values()
        of_line = sum(transfer.line is line for transfer in transfers)
        of_peer = sum(transfer.peer == peer for transfer in transfers)
        check_concurrency(len(transfers), of_line, of_peer, self.limits)


class IncomingTransfer:
    """One offer of a file, and the transfer that follows when it is accepted."""

    def __init__(
        self, transfers: IncomingTransfers, call: CallUser, inbox: Inbox, line: Line, offer: Offer
    ) -> None:
        self.line = line
        self.peer: str = _peer_of(line)
        self.promised_bytes: int = 0
        """Bytes that the transfer has still to write."""
        self._transfers = transfers
        self._call = call
        self._inbox = inbox
        self._offer = offer
        self._key = partial_file.partial_key(line.identity, offer.to, offer.key)
        self._partial = partial_file.PartialFile(inbox.directory, self._key, offer.name, offer.size_bytes)
        self._keep_partial = True
        self._chunks = ChunkQueue(offer.size_bytes, inbox.limits, Wakeup(line))
        self._keepalive = Keepalive(line, offer.transfer)
        self._file = IncomingFile(line, offer, self.stop)
        self._tracker: ProgressTracker | None = None
        self._switch = StopSwitch()

    async def run(self) -> Stored:
        """Receive the file. The result, or the exception, is the response to the offer.

        Cancelling keeps the partial file.
        """
        check_offer(self._offer, self._inbox.limits)
        while (obstacle := self._inbox.obstacle_of(self._key, self.peer)) is not None:
            older, refusal = obstacle
            older.stop(refusal)
            await older.wait_ended()
        started_at = asyncio.get_running_loop().time()
        with self._registered():
            final = await self._switch.run(self._receive_or_refuse())
        receipt = FileReceipt(
            name=final.name,
            path=final,
            size_bytes=self._offer.size_bytes,
            hash=self._chunks.hash,
            resumed_from=self._chunks.window.resumed_from,
            duration_s=asyncio.get_running_loop().time() - started_at,
        )
        if self._inbox.received is not None:
            self._call(self._inbox.received, self._file, receipt)
        return Stored(final.name)

    def idle_s(self, now: float) -> float:
        """Return for how many seconds the sender has made no progress; 0 while the transfer waits for this side."""
        return self._chunks.idle_s(now)

    def stop(self, refusal: FileRefused, *, keep: bool = True) -> None:
        """End the transfer with that response. Does nothing after its end."""
        if self._switch.stop(refusal):
            self._keep_partial = keep

    async def wait_ended(self) -> None:
        """Wait until the transfer has ended; a thread may still be closing its file."""
        await self._switch.wait_ended()

    # Messages of the sender, received in the event loop

    def receive_chunk(self, offset: int, data: memoryview) -> None:
        """Handle CHUNK."""
        try:
            self._chunks.receive_chunk(offset, data)
        except FileRefused as violation:
            self.stop(violation, keep=False)

    def receive_end(self, end: End) -> None:
        """Handle END: everything is sent, or the sender's file has changed."""
        if end.hash is None:
            self.stop(FileRefused("changed", "the file was modified while it was sent"), keep=False)
            return
        try:
            self._chunks.receive_end(end.hash)
        except FileRefused as violation:
            self.stop(violation, keep=False)

    def receive_alive(self) -> None:
        """Handle ALIVE: the sender compares what this side already has."""
        self._chunks.receive_alive(asyncio.get_running_loop().time())

    # The task of the transfer

    @contextmanager
    def _registered(self) -> Iterator[None]:
        """Occupy a slot of the inbox, and receive the messages with the transfer's id."""
        inbox, transfer_id = self._inbox, (self.line, self._offer.transfer)
        if transfer_id in self._transfers:
            raise protocol_violation("a transfer with this id is already active")
        inbox.check_concurrency(self.line, self.peer)
        inbox.active[self._key] = self
        self._transfers[transfer_id] = self
        try:
            yield
        finally:
            del inbox.active[self._key]
            del self._transfers[transfer_id]
            # At once, without waiting for a free thread: all of them may be reading for transfers that have ended.
            self._partial.stop()
            submit(lambda: self._partial.close(keep=self._keep_partial))
            self._switch.set_ended()

    async def _receive_or_refuse(self) -> Path:
        """Receive the file. Raise :class:`FileRefused` for every error."""
        limits = self._inbox.limits
        try:
            async with asyncio.timeout(limits.transfer_timeout_s):
                return await self._receive()
        except TimeoutError as error:
            raise FileRefused(
                "too_slow",
                f"took longer than {limits.transfer_timeout_s:g} s; send the file again to resume",
            ) from error
        except FileRefused as refusal:
            self._keep_partial = refusal.code not in UNUSABLE
            raise
        except OSError as error:
            logger.warning("%r cannot be stored: %s", self._file, error)
            raise FileRefused(
                "storage_failed", f"the receiver could not store the file: {error.strerror or error}"
            ) from error

    async def _receive(self) -> Path:
        inbox, offer = self._inbox, self._offer
        await self._reserve_space()
        final = inbox.directory / await self._final_name()
        exists = not inbox.overwrite and await self._keepalive.in_thread(
            partial_file.is_stored, final, offer.size_bytes, offer.modified_ns
        )
        offset, prefix_hash = (offer.size_bytes, None) if exists else await self._resume()
        now = asyncio.get_running_loop().time()
        self._chunks.accept(offset, now)
        self._tracker = ProgressTracker(offer.size_bytes, offset, now)
        await self.line.send(self._accept(offset, prefix_hash), name=ACCEPT)
        await self._write_chunks()
        if exists and self._chunks.window.resumed_from == offer.size_bytes:
            await self._compare(final)
        else:
            await self._keepalive.in_thread(
                self._partial.store, final, offer.modified_ns, self._chunks.hash, overwrite=inbox.overwrite
            )
        return final

    async def _reserve_space(self) -> None:
        inbox, offer = self._inbox, self._offer
        async with inbox.space_lock:
            promised_bytes = sum(other.promised_bytes for other in inbox.active.values())
            usage = await self._keepalive.in_thread(
                partial_file.measure_directory,
                inbox.directory,
                self._key,
                tuple(inbox.active),
                promised_bytes,
                inbox.limits,
                time.time(),
            )
            check_space(offer, inbox.limits, usage)
            self.promised_bytes = max(0, offer.size_bytes - usage.partial_bytes)

    async def _final_name(self) -> str:
        """Return the name to store the file under, which the application may choose."""
        if self._inbox.accept is None:
            return self._offer.name
        name: object = self._inbox.accept(self._file)
        if inspect.isawaitable(name):
            # It may ask a person.
            decision: asyncio.Future[object] = asyncio.ensure_future(name)
            try:
                name = await self._keepalive.result_of(decision)
            finally:
                decision.cancel()
        if name is None:
            return self._offer.name
        problem = name_problem(name) if isinstance(name, str) else "it is not a string"
        if problem is not None or not isinstance(name, str):
            raise ConfigurationError(f"on_file(accept=) returned an invalid file name {name!r}: {problem}")
        return name

    async def _resume(self) -> tuple[int, bytes]:
        """Return the size and the hash of the partial file, once an earlier transfer has released it."""
        for _ in range(LOCK_ATTEMPTS):
            found = await self._keepalive.in_thread(self._partial.resume)
            if found is not None:
                return found
            await asyncio.sleep(LOCK_RETRY_S)
        raise partial_file.locked_by_another()

    def _accept(self, offset: int, prefix_hash: bytes | None) -> Accept:
        session = driver_of(self.line).session
        assert session is not None
        chunk_bytes = session.inbound.limits.message_bytes - CHUNK_HEADER_BYTES - len(CHUNK)
        return Accept(
            transfer=self._offer.transfer,
            offset=offset,
            hash=prefix_hash,
            window_bytes=self._inbox.limits.window_bytes,
            chunk_bytes=max(CHUNK_BYTES_MIN, min(CHUNK_BYTES_MAX, chunk_bytes)),
        )

    async def _write_chunks(self) -> None:
        """Write the received bytes until the sender's END."""
        window = self._chunks.window
        while (write := await self._chunks.next_write()) is not None:
            data, is_restart = write
            await self._keepalive.in_thread(self._partial.write, data, restart=is_restart)
            if self._chunks.write_done(len(data), asyncio.get_running_loop().time()):
                await self.line.send(Credit(self._offer.transfer, window.written_bytes), name=CREDIT)
            self.promised_bytes = window.size_bytes - window.written_bytes
            self._report(window.written_bytes)

    async def _compare(self, final: Path) -> None:
        """Compare a file that is already there with the offered one."""
        if await self._keepalive.in_thread(self._partial.hash_of, final) != self._chunks.hash:
            raise FileRefused("exists", f"another file {final.name!r} already exists")

    def _report(self, bytes_done: int) -> None:
        if self._inbox.progress is None or self._tracker is None:
            return
        progress = self._tracker.update(bytes_done, asyncio.get_running_loop().time())
        if progress is not None:
            self._call(self._inbox.progress, self._file, progress)


def _peer_of(line: Line) -> str:
    """Return what identifies the peer: its identity, or without one its host."""
    return line.identity or f"@{line.peer.rpartition(':')[0] or line.peer}"
