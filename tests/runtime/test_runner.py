"""``landline.run``: uvloop where there is one."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading

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


# What ends a program from outside.

TERMINATED = """
import asyncio, os, signal, sys
import landline

async def main():
    url, mode = sys.argv[1:]
    if mode == "own":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(9))
    async with landline.connect(url) as line:
        print("there", flush=True)
        try:
            async for _ in line:
                pass
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            if mode == "returns":
                return
            if mode == "twice":
                await asyncio.to_thread(sys.stdin.readline)
                print("undisturbed", flush=True)
            raise

try:
    landline.run(main(), handle_sigterm=sys.argv[2] != "off")
finally:
    print("finally", flush=True)
"""


@pytest.mark.parametrize("has_uvloop", [True, False])
@pytest.mark.parametrize(
    ("number", "mode", "status", "told"),
    [
        (signal.SIGTERM, "plain", 143, ["cancelled", "finally"]),
        (signal.SIGINT, "plain", -signal.SIGINT, ["cancelled", "finally"]),
        (signal.SIGTERM, "returns", 0, ["cancelled", "finally"]),
        (signal.SIGTERM, "twice", 143, ["cancelled", "undisturbed", "finally"]),
        (signal.SIGTERM, "off", -signal.SIGTERM, []),
        (signal.SIGTERM, "own", 9, []),
    ],
)
async def test_a_program_that_is_told_to_end_says_goodbye(
    number, mode, status, told, has_uvloop, tmp_path, until
):
    server = landline.Server()
    ended = asyncio.get_running_loop().create_future()

    @server.on_state
    def changed(line, change):
        if change.state in {landline.LineState.CLOSED, landline.LineState.RECONNECTING} and not ended.done():
            ended.set_result(change.cause)

    if not has_uvloop:
        (tmp_path / "uvloop.py").write_text("raise ImportError('not for this interpreter')")
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TERMINATED, str(endpoint), mode),
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert await program.stdout.readline() == b"there\n"
        program.send_signal(number)
        out = b""
        if mode == "twice":
            out = await program.stdout.readline()
            program.send_signal(number)
        rest, err = await program.communicate(b"\n" if mode == "twice" else None)
        assert (program.returncode, (out + rest).decode().split()) == (status, told)
        assert b"Traceback" not in err or number == signal.SIGINT
        if told:
            assert await ended is landline.DisconnectCause.CLOSED_BY_PEER
        else:
            assert await ended is landline.DisconnectCause.LINK_LOST


SERVES = """
import landline

async def main():
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        print(endpoint, flush=True)
        await server.serve_forever()

landline.run(main())
"""


async def test_a_server_that_is_terminated_says_goodbye_to_its_lines(states, until):
    program = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVES, stdout=subprocess.PIPE)
    url = (await program.stdout.readline()).decode().strip()
    seen = states()
    connector = landline.connect(url, on_state=seen)
    line = await connector
    program.send_signal(signal.SIGTERM)
    assert await program.wait() == 143
    await until(lambda: seen.find(landline.LineState.RECONNECTING))
    [told, *_] = seen.find(landline.LineState.RECONNECTING)
    assert (told.cause, told.code) == (landline.DisconnectCause.CLOSED_BY_PEER, landline.Code.GOING_AWAY)
    line.abort(landline.Code.NORMAL)
    await line.close()


def test_in_another_thread_and_beside_another_handler_no_signal_is_touched():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    async def look():
        seen.append(signal.getsignal(signal.SIGTERM))

    def mine(number, frame):
        raise AssertionError("nobody sends it")

    thread = threading.Thread(target=lambda: landline.run(look()))
    thread.start()
    thread.join()
    signal.signal(signal.SIGTERM, mine)
    try:
        landline.run(look())
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [before, mine]
    landline.run(look())
    assert signal.getsignal(signal.SIGTERM) is before
