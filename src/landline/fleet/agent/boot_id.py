"""The boot id of this machine: it changes with every boot, which proves a restart.

Linux and macOS have a boot id. Windows only tells its uptime; the agent makes an id from that and stores it beside its
journal. Where there is no boot id it is empty, and no restart is ever reported as proven.
"""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from landline import guarded_logger
from landline.fleet.paths import UnsafePath, make_private_directory
from landline.fleet.private_files import read_private_file, write_private_file

logger: Final = guarded_logger("landline.agent")

TOLERANCE_S: Final = 30.0
"""How much two boot times computed in one boot may differ: clocks drift, and time servers set them."""
SYSCTL_TIMEOUT_S: Final = 5.0

_LINUX_PATH: Final = Path("/proc/sys/kernel/random/boot_id")
_MACOS_COMMAND: Final = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")


class Boot(msgspec.Struct, frozen=True):
    """A boot, as recorded last."""

    id: str
    booted_at: float
    """When the machine booted, in seconds since the Unix epoch, by its own clock."""
    uptime_s: float


def identify(seen: Boot | None, *, now: float, uptime_s: float, new_id: str) -> tuple[str, Boot]:
    """Return the id of the current boot and the record to store. ``now`` is the time of day.

    ====================================================  =================
    compared with the record                              the boot
    ====================================================  =================
    there is no record                                    gets an id
    up for less time than recorded                        another: a new id
    booted at the recorded time of day                    the same id
    booted at another time of day, and up for longer      not known: empty
    ====================================================  =================

    In the last case the machine restarted or its clock was set while no agent ran. The next start can tell again.
    """
    booted_at = now - uptime_s
    if seen is None or uptime_s < seen.uptime_s:
        return new_id, Boot(new_id, booted_at, uptime_s)
    if abs(booted_at - seen.booted_at) <= TOLERANCE_S:
        return seen.id, Boot(seen.id, booted_at, uptime_s)
    return "", Boot(new_id, booted_at, uptime_s)


class BootRecord:
    """The boot id of a machine that tells only its uptime.

    :meth:`refresh` follows a clock that is set while the agent runs, and records the uptime, so that a shorter uptime
    proves another boot.
    """

    id: str

    def __init__(
        self, path: Path, uptime: Callable[[], float], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._uptime = uptime
        self._clock = clock
        self.id, self._seen = identify(self._read(), now=clock(), uptime_s=uptime(), new_id=uuid.uuid4().hex)
        self._write()

    def refresh(self) -> None:
        """Record that this boot still lasts."""
        uptime_s = self._uptime()
        self._seen = Boot(self._seen.id, self._clock() - uptime_s, uptime_s)
        self._write()

    def _read(self) -> Boot | None:
        try:
            return msgspec.json.decode(read_private_file(self._path), type=Boot)
        except FileNotFoundError:
            return None
        except (OSError, UnsafePath, msgspec.DecodeError) as error:
            logger.warning("%s cannot be read, and is written again: %s", self._path, error)
            return None

    def _write(self) -> None:
        try:
            make_private_directory(self._path.parent)
            write_private_file(self._path, msgspec.json.encode(self._seen))
        except (OSError, UnsafePath) as error:
            logger.warning("%s cannot be written; restarts may not be proven: %s", self._path, error)


def find_boot(path: Path) -> tuple[str, BootRecord | None]:
    """Return the id of this boot, and a record to refresh if the system has no boot id of its own.

    :param path: where the boot of such a system is recorded.
    """
    if sys.platform == "darwin":
        return _macos_boot_id(), None
    if (uptime := _uptime()) is not None:
        record = BootRecord(path, uptime)
        return record.id, record
    return linux_boot_id(), None


def linux_boot_id() -> str:
    """Return the boot id of Linux (random(4)); empty on another system."""
    try:
        return _LINUX_PATH.read_text().strip()
    except OSError:
        return ""


def _macos_boot_id(command: tuple[str, ...] = _MACOS_COMMAND) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=SYSCTL_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("this machine's boot id cannot be read: %s", error)
        return ""
    return run.stdout.strip()[:100]


def _uptime() -> Callable[[], float] | None:
    if sys.platform == "win32":
        import ctypes

        count = ctypes.windll.kernel32.GetTickCount64
        count.restype = ctypes.c_uint64
        return lambda: int(count()) / 1000
    return None
