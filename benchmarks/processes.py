"""Child processes: each pinned to a core, spoken to in lines of JSON, and ended whatever happens."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
OPEN_FILES: Final = 20_000
SPARE_FILES: Final = 200
END_TIMEOUT_S: Final = 5.0
COMPLAINT_CHARACTERS: Final = 2_000


class ChildFailed(Exception):
    """A child process ended, failed or did not answer in time."""


class Child:
    """A module of this package run as a process. It ends when its standard input does, so it cannot outlive us."""

    def __init__(self, module: str, *arguments: str) -> None:
        self.name = " ".join((module, *arguments))
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        process = self._process
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.stdout.close()
            # One that still starts does not look at its input yet. There is nothing it could lose.
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._stderr.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _complaint(self) -> str:
        """The end of what it wrote to standard error."""
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return f"; it wrote:\n{text[-COMPLAINT_CHARACTERS:]}" if text else ""

    def read(self, timeout_s: float = 20.0) -> dict[str, Any]:
        """The next line it says. Raises :class:`ChildFailed` when none comes in time, or when it reports a failure."""
        stdout = self._process.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], timeout_s)
        line = stdout.readline() if ready else b""
        if not line:
            why = "ended" if ready else f"said nothing for {timeout_s:g} s"
            raise ChildFailed(f"the process {self.name!r} {why}{self._complaint()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise ChildFailed(f"the process {self.name!r} failed: {answer['failed']}{self._complaint()}")
        return answer

    def ask(self, timeout_s: float = 30.0, **command: Any) -> dict[str, Any]:
        """Sends a command and returns the answer."""
        self.tell(**command)
        return self.read(timeout_s)

    def tell(self, **command: Any) -> None:
        """Sends a command; its answer is for :meth:`read`."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise ChildFailed(f"the process {self.name!r} ended{self._complaint()}") from None


def begin_child(core: int) -> int:
    """What every child does first: pins itself, leaves Ctrl-C to its parent, and raises its limit of open files.

    Returns how many cores there are for all children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cores = pin(core)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return cores


def say(**answer: Any) -> None:
    """Answers the parent."""
    print(json.dumps(answer), flush=True)


def pin(core: int) -> int:
    """Keeps this process on the ``core``-th of the cores it may use, where there are two or more; returns how many."""
    if not hasattr(os, "sched_getaffinity"):
        return 1
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= 2:
        os.sched_setaffinity(0, {cores[core]})
    return len(cores)


def connections_max() -> int:
    """How many connections one process may hold here."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)) - SPARE_FILES


def cpu_seconds(pid: int) -> float:
    """CPU time that the threads a process has now have used so far, in nanoseconds' steps (proc(5), schedstat)."""
    return (
        sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    )


def trim_heap() -> None:
    """Gives free memory back to the system where the C library can (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is its own (anonymous pages)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no line 'Anonymous:'")
