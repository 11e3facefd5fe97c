"""A server and a client of landline over one transport.

Usage: ``python -m benchmarks.transport_processes serve|ask OPTIONS``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any, Final

import landline
from benchmarks.processes import LOAD_CORE, SERVER_CORE, begin_child, say
from benchmarks.requesters import Ask, measure
from benchmarks.servers import HOST, UNLIMITED
from landline.transports.urls import SCHEMES

DATAGRAMS: Final = "udp"
"""The scheme of calls without a line."""
TOKEN: Final = landline.SharedToken("a token of the benchmarks, long enough")


ENCRYPTED: Final = frozenset({"tls", "wss"})
"""The schemes with a TLS context; QUIC takes files."""


def schemes() -> list[str]:
    """Return all schemes that can carry requests, in the order of the table of schemes."""
    return list(SCHEMES)


def write_certificates(directory: Path) -> None:
    """Write a certificate authority and a certificate for this host."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")


def server_options(scheme: str, directory: Path) -> landline.TransportOptions:
    """Return the options of a server with its certificate."""
    if scheme == "quic":
        return landline.TransportOptions(certificate_file=directory / "server.pem")
    if scheme not in ENCRYPTED:
        return landline.TransportOptions()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return landline.TransportOptions(tls=context)


def client_options(scheme: str, directory: Path) -> landline.TransportOptions:
    """Return the options of a client that verifies the certificate."""
    if scheme == "quic":
        return landline.TransportOptions(ca_file=directory / "ca.pem")
    if scheme not in ENCRYPTED:
        return landline.TransportOptions()
    return landline.TransportOptions(tls=ssl.create_default_context(cafile=directory / "ca.pem"))


async def serve(scheme: str, directory: Path) -> None:
    """Serve requests until standard input ends."""
    server = landline.Server(auth=TOKEN, admission=UNLIMITED)

    @server.on("echo")
    def echo(line: landline.Line, body: Any) -> Any:
        return body

    url = f"unix://{directory / 'socket'}" if scheme == "unix" else f"{scheme}://{HOST}:0"
    async with server.listen(url, options=server_options(scheme, directory)) as endpoint:
        say(pid=os.getpid(), url=str(endpoint))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)  # No client is left to close a line to.


async def ask(url: str, directory: Path) -> None:
    """Execute the commands on standard input until it ends."""
    loop = asyncio.get_running_loop()
    scheme = landline.parse_url(url).scheme
    options = client_options(scheme, directory)

    async def run_commands(ask: Ask) -> None:
        say(ready=True)
        while command := await loop.run_in_executor(None, sys.stdin.readline):
            say(**await measure(ask, **json.loads(command)))

    if scheme == DATAGRAMS:
        await run_commands(lambda body: landline.call(url, "echo", body, auth=TOKEN, timeout=30.0))
    else:
        async with landline.connect(url, auth=TOKEN, options=options) as line:
            await run_commands(lambda body: line.request("echo", body))


def main() -> None:
    """Run the side that the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("serve", "ask"))
    parser.add_argument("what")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    begin_child(SERVER_CORE if arguments.side == "serve" else LOAD_CORE)
    side = serve if arguments.side == "serve" else ask
    landline.run(side(arguments.what, arguments.directory))


if __name__ == "__main__":
    main()
