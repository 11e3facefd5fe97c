"""A machine that gets another address, on a network of its own: what the kernel really says, and what a line does."""

import asyncio
import subprocess
import sys

import pytest
import trustme
from tests.cable import laid

import landline
from landline.transports.quic.transport import QuicTransport

SERVER = """
import sys
import landline

async def serve(url, certificate_file, private_key_file):
    server = landline.Server()

    @server.on("address")
    def address(line, body):
        return line.peer

    @server.on_message
    def echo(line, message):
        line.send_nowait(message)

    options = landline.TransportOptions(certificate_file=certificate_file, private_key_file=private_key_file)
    async with server.listen(url, options=options) as endpoint:
        print(endpoint, flush=True)
        await server.serve_forever()

landline.run(serve(*sys.argv[1:]))
"""


@pytest.fixture
def cable():
    yield from laid("move", "198.19")


@pytest.fixture
def transports(monkeypatch):
    """Every transport that was made."""
    made = []
    make = QuicTransport.__init__

    def record(self, *arguments):
        make(self, *arguments)
        made.append(self)

    monkeypatch.setattr(QuicTransport, "__init__", record)
    return made


async def test_a_quic_line_continues_from_another_address(cable, states, quick, tmp_path, until, transports):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert(cable.server)
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    arguments = (f"quic://{cable.server}:0", tmp_path / "certificate.pem", tmp_path / "key.pem")
    process = await asyncio.create_subprocess_exec(
        *cable.inside, sys.executable, "-c", SERVER, *arguments, stdout=subprocess.PIPE
    )
    try:
        url = (await process.stdout.readline()).decode().strip()
        seen = states()
        options = landline.TransportOptions(ca_file=tmp_path / "ca.pem")
        async with landline.connect(url, backoff=quick, on_state=seen, options=options) as line:
            for number in range(40):
                await line.send(number)
                if number == 20:
                    assert (await line.request("address")).startswith(f"{cable.first}:")
                    cable.move()
            assert [await anext(line) for _ in range(40)] == list(range(40))
            assert (await line.request("address")).startswith(f"{cable.second}:")
            assert line.epoch == 1
            assert seen.names == ["online"]
        # The goodbye is acknowledged.
        await until(lambda: not any(one.is_open for one in transports))
    finally:
        # A loop of uvloop does not close while a UDP socket is open and warnings are errors.
        for one in transports:
            one.abort()
        process.kill()
        await process.wait()
