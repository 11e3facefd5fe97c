"""A server without a free file descriptor: its lines continue, new ones wait, and it recovers when some are free."""

import asyncio
import contextlib
import sys

import pytest

import landline
from landline.client.dialer import DialTimeouts

CHILD = """
import asyncio, os, resource, sys
import landline

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
server = landline.Server()
taken = []
told = []

@server.on("exhaust")
def exhaust(line, body):
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return error.strerror

@server.on("release")
def release(line, body):
    while taken:
        os.close(taken.pop())

@server.on("told")
def count(line, body):
    return told

@server.on("echo")
def echo(line, body):
    return body

async def main():
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        print(endpoint, flush=True)
        await server.serve_forever()

{"uvloop": landline.run, "asyncio": asyncio.run}[sys.argv[1]](main())
"""


@contextlib.asynccontextmanager
async def serving(loop: str):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, loop, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield (await process.stdout.readline()).decode().strip(), process
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_server_without_descriptors(loop, states, until):
    """Lines keep working. A new client fails cleanly, retries, and connects when descriptors are free. The server
    neither crashes, nor runs a busy loop, nor floods its log."""
    # Connections wait in the kernel's queue without a greeting; the default time limit would take too long.
    timeouts = DialTimeouts(handshake_s=0.5)
    seen = states()
    async with serving(loop) as (url, process), landline.connect(url) as line:
        assert await line.request("exhaust") == "Too many open files"
        newcomers = [
            landline.connect(
                url,
                backoff=landline.Backoff(first_s=0.01, cap_s=0.02),
                connect_timeout_s=None,
                on_state=seen,
                timeouts=timeouts,
            )
            for _ in range(5)
        ]
        entering = [asyncio.ensure_future(newcomer) for newcomer in newcomers]
        await until(lambda: len(seen.find(landline.LineState.RECONNECTING)) >= 20)
        for number in range(50):
            assert await line.request("echo", number) == number
        assert not any(task.done() for task in entering)
        # asyncio says it once for each time it tries to accept, which is once a second; uvloop turns them away.
        told = await line.request("told")
        assert len(told) <= len(seen.find(landline.LineState.RECONNECTING))
        await line.request("release")
        lines = await asyncio.gather(*entering)
        assert [await other.request("echo", "in") for other in lines] == ["in"] * 5
        assert line.epoch == 1
        for other in lines:
            await other.close()
        assert process.returncode is None
