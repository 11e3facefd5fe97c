"""Child processes: each is pinned to a core, exchanges lines of JSON, and is ended in any case."""

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
    """A child process ended, failed or did not respond in time."""


class Child:
    """A module of this package, run as a process. It ends with its standard input, so it cannot outlive its parent."""

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
            # A process that is still starting does not read its input yet, and has nothing to lose.
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._stderr.close()

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    def _complaint(self) -> str:
        """Return the end of its standard error."""
        self._stderr.seek(0)
        text = self._stderr.read().decode(errors="replace").strip()
        return f"; it wrote:\n{text[-COMPLAINT_CHARACTERS:]}" if text else ""

    def read(self, timeout_s: float = 20.0) -> dict[str, Any]:
        """Read the next line. Raise :class:`ChildFailed` if none comes in time, or if it reports a failure."""
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
        """Send a command and return the response."""
        self.tell(**command)
        return self.read(timeout_s)

    def tell(self, **command: Any) -> None:
        """Send a command; :meth:`read` returns the response."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise ChildFailed(f"the process {self.name!r} ended{self._complaint()}") from None


def begin_child(core: int) -> int:
    """Initialize a child: pin it to a core, ignore Ctrl-C, and raise its limit of open files.

    Returns how many cores there are for all children.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cores = pin(core)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return cores


def say(**answer: Any) -> None:
    """Send a line to the parent."""
    print(json.dumps(answer), flush=True)


def pin(core: int) -> int:
    """Pin this process to the ``core``-th of its cores, if there are at least two. Return the number of cores."""
    if not hasattr(os, "sched_getaffinity"):
        return 1
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= 2:
        os.sched_setaffinity(0, {cores[core]})
    return len(cores)


def connections_max() -> int:
    """Return how many connections one process may hold."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)) - SPARE_FILES


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of the current threads of a process, with a resolution of 1 ns (proc(5), schedstat)."""
    return (
        sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    )


def trim_heap() -> None:
    """Return free memory to the system if the C library can (malloc_trim(3))."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def anonymous_bytes(pid: int) -> int:
    """Return the private memory of a process (anonymous pages)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no line 'Anonymous:'")
