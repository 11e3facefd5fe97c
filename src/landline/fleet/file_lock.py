"""Locks a file for one process at a time, on POSIX and on Windows."""

from __future__ import annotations

import sys

if sys.platform == "win32":

    def lock_file(descriptor: int) -> None:
        """Lock an open file until it is closed; return at once. Raise :class:`BlockingIOError` if it is locked."""
        import errno
        import msvcrt
        import os

        # Locks of Windows are mandatory: the locked byte is one that no file has, so that the file can be read.
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, 0x7FFF_FFFF, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(errno.EAGAIN, "the file is locked by another process") from error
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)

else:

    def lock_file(descriptor: int) -> None:
        """Lock an open file until it is closed; return at once. Raise :class:`BlockingIOError` if it is locked."""
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
