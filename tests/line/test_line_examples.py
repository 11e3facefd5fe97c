"""The first examples of the documentation, as printed, run as two programs."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

SERVER = """
import landline

server = landline.Server()

@server.on("echo")
async def echo(line, body):
    return body

async def main():
    async with server.listen("tcp://127.0.0.1:5463"):
        await server.serve_forever()
"""

CLIENT = """
import landline

async def main():
    async with landline.connect("tcp://127.0.0.1:5463") as line:
        print(await line.request("echo", {"hello": "world"}, timeout=5))
        await line.send({"temperature": 21.5})
        async for message in line:
            ...
"""

RUN = {"uvloop": "landline.run(main())", "asyncio": "__import__('asyncio').run(main())"}


@pytest.fixture
def port():
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def start(port):
    programs = []

    def run(source: str, loop: str) -> subprocess.Popen:
        code = textwrap.dedent(source).replace("5463", str(port)) + "\n" + RUN[loop]
        program = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        programs.append(program)
        return program

    yield run
    for program in programs:
        if program.poll() is None:
            program.kill()
        program.communicate()


def interrupt(program: subprocess.Popen) -> str:
    """Ctrl-C; returns what the program wrote to its error stream."""
    program.send_signal(signal.SIGINT)
    return program.communicate()[1]


@pytest.mark.parametrize("loop", sorted(RUN))
def test_ctrl_c_ends_the_client_and_then_the_server_in_order(start, loop):
    server, client = start(SERVER, loop), start(CLIENT, loop)
    assert client.stdout.readline() == "{'hello': 'world'}\n"
    for program in (client, server):
        errors = interrupt(program)
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert "never awaited" not in errors
        assert "never retrieved" not in errors
        assert "destroyed" not in errors
        assert "ResourceWarning" not in errors


def test_the_end_of_a_server_with_an_unread_message_is_reported_to_the_client(start):
    server, client = start(SERVER, "uvloop"), start(CLIENT, "uvloop")
    assert client.stdout.readline() == "{'hello': 'world'}\n"
    # It says goodbye, and the temperature was never taken: the client must hear of it.
    interrupt(server)
    errors = client.communicate()[1]
    assert "landline.errors.SessionLost" in errors
    assert "1 messages were not acknowledged" in errors
    assert client.returncode == 1
