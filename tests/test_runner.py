"""``landline.run``: uvloop where there is one."""

import asyncio
import ctypes
import os
import subprocess
import sys

import pytest
import uvloop

import landline


async def loop_and(result):
    return asyncio.get_running_loop(), result


def test_it_runs_on_uvloop_and_returns_the_result():
    loop, result = landline.run(loop_and(7))
    assert isinstance(loop, uvloop.Loop)
    assert loop.is_closed()
    assert result == 7


def test_it_runs_on_the_standard_loop_where_there_is_no_uvloop(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop, result = landline.run(loop_and(7))
    assert not isinstance(loop, uvloop.Loop)
    assert result == 7


def test_it_raises_what_the_program_raises():
    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        landline.run(fail())


@pytest.mark.parametrize("debug", [True, False])
def test_debug_mode_is_passed_on(debug):
    loop, _ = landline.run(loop_and(None), debug=debug)
    assert loop.get_debug() is debug


GROWTH = """
import asyncio, ctypes, sys
import landline

def mapped_blocks():
    class Info(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t * size) for name, size in (("before", 3), ("hblks", 1), ("rest", 6))]
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Info
    return mallinfo2().hblks[0]

async def main():
    bytearray(4 * 1024 * 1024)  # glibc takes its size for the new threshold when it is freed.
    before = mapped_blocks()
    buffers = [bytearray(256 * 1024) for _ in range(20)]
    return mapped_blocks() - before

print((asyncio.run if sys.argv[1] == "asyncio" else landline.run)(main()))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or later")
@pytest.mark.parametrize(
    ("runner", "variables", "blocks"),
    [("landline", {}, 20), ("asyncio", {}, 0), ("landline", {"MALLOC_MMAP_THRESHOLD_": "8388608"}, 0)],
)
def test_large_blocks_keep_pages_of_their_own(runner, variables, blocks):
    shown = subprocess.run(
        [sys.executable, "-c", GROWTH, runner],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(shown.stdout) == blocks


def test_other_c_libraries_are_left_alone(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert landline.run(loop_and(7))[1] == 7
