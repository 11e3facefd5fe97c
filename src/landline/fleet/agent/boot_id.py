"""Which boot of its machine this is: an id that changes with every boot, the proof of a restart.

Linux and macOS have one of their own. Windows only says how long it has been up, from which an id is made that the
agent keeps beside its journal. Where none can be had it is empty, and no restart is ever called proven.
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

logger = guarded_logger("landline.agent")

TOLERANCE_S: Final = 30.0
"""How far apart two moments of booting, computed in one boot, may be: clocks drift, and time servers set them."""
SYSCTL_TIMEOUT_S: Final = 5.0

_LINUX_PATH: Final = Path("/proc/sys/kernel/random/boot_id")
_MACOS_COMMAND: Final = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")


class Boot(msgspec.Struct, frozen=True):
    """A boot as it was last seen."""

    id: str
    booted_at: float
    """Time of day of the boot, in seconds since the Unix epoch, by the machine's own clock."""
    uptime_s: float


def identify(seen: Boot | None, *, now: float, uptime_s: float, new_id: str) -> tuple[str, Boot]:
    """Return the id of the boot that has lasted ``uptime_s`` at the time of day ``now``, and what to remember of it.

    ====================================================  =================
    compared with what was seen last                      the boot
    ====================================================  =================
    nothing was seen yet                                  gets an id
    up for less time than then                            another: a new id
    booted at the same time of day                        the same id
    booted at another time of day, and up for longer      not known: empty
    ====================================================  =================

    In the last case the machine restarted or its clock was set while no agent looked. The next start can tell again.
    """
    booted_at = now - uptime_s
    if seen is None or uptime_s < seen.uptime_s:
        return new_id, Boot(new_id, booted_at, uptime_s)
    if abs(booted_at - seen.booted_at) <= TOLERANCE_S:
        return seen.id, Boot(seen.id, booted_at, uptime_s)
    return "", Boot(new_id, booted_at, uptime_s)


class BootRecord:
    """The boot id of a machine that knows only how long it has been up.

    Made by the agent's process, it stays in this boot: :meth:`refresh` follows a clock that is set meanwhile, and
    remembers how long the machine was up, so that a shorter time proves another boot.
    """

    def __init__(
        self, path: Path, uptime: Callable[[], float], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._uptime = uptime
        self._clock = clock
        self.id, self._seen = identify(self._read(), now=clock(), uptime_s=uptime(), new_id=uuid.uuid4().hex)
        self._write()

    def refresh(self) -> None:
        """Remember that this boot still lasts."""
        uptime_s = self._uptime()
        self._seen = Boot(self._seen.id, self._clock() - uptime_s, uptime_s)
        self._write()

    def _read(self) -> Boot | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Boot)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s cannot be read, and is written again: %s", self._path, error)
            return None

    def _write(self) -> None:
        beside = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside.write_bytes(msgspec.json.encode(self._seen))
            beside.replace(self._path)
        except OSError as error:
            logger.warning("%s cannot be written; restarts may not be proven: %s", self._path, error)


def find_boot(path: Path) -> tuple[str, BootRecord | None]:
    """Return this boot's id, and what to refresh while it lasts where the system has no id of its own.

    ``path`` is where such a system's boot is remembered.
    """
    if sys.platform == "darwin":
        return _macos_boot_id(), None
    if (uptime := _uptime()) is not None:
        record = BootRecord(path, uptime)
        return record.id, record
    return linux_boot_id(), None


def linux_boot_id() -> str:
    """Return what random(4) says of this boot; empty on another system."""
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
