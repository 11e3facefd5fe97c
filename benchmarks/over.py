"""A server and a client of landline over one transport: ``python -m benchmarks.over serve|ask OPTIONS``."""

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
"""Calls without a line; the others are lines."""
TOKEN: Final = landline.SharedToken("a token of the benchmarks, long enough")


ENCRYPTED: Final = frozenset({"tls", "wss"})
"""The schemes that take a context of TLS; QUIC takes files."""


def schemes() -> list[str]:
    """Every scheme over which requests can go, in the order of the table of schemes."""
    return list(SCHEMES)


def write_certificates(directory: Path) -> None:
    """A certificate authority and a certificate of this host."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")


def server_options(scheme: str, directory: Path) -> landline.TransportOptions:
    """How a server shows its certificate."""
    if scheme == "quic":
        return landline.TransportOptions(certificate_file=directory / "server.pem")
    if scheme not in ENCRYPTED:
        return landline.TransportOptions()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    return landline.TransportOptions(tls=context)


def client_options(scheme: str, directory: Path) -> landline.TransportOptions:
    """How a client checks it."""
    if scheme == "quic":
        return landline.TransportOptions(ca_file=directory / "ca.pem")
    if scheme not in ENCRYPTED:
        return landline.TransportOptions()
    return landline.TransportOptions(tls=ssl.create_default_context(cafile=directory / "ca.pem"))


async def serve(scheme: str, directory: Path) -> None:
    """Answers requests until standard input ends."""
    server = landline.Server(auth=TOKEN, admission=UNLIMITED)

    @server.on("echo")
    def echo(line: landline.Line, body: Any) -> Any:
        return body

    url = f"unix://{directory / 'socket'}" if scheme == "unix" else f"{scheme}://{HOST}:0"
    async with server.listen(url, options=server_options(scheme, directory)) as endpoint:
        say(pid=os.getpid(), url=str(endpoint))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        os._exit(0)  # Nobody is left to be told goodbye.


async def ask(url: str, directory: Path) -> None:
    """Obeys the commands on standard input until it ends."""
    loop = asyncio.get_running_loop()
    scheme = landline.parse_url(url).scheme
    options = client_options(scheme, directory)

    async def obey(ask: Ask) -> None:
        say(ready=True)
        while command := await loop.run_in_executor(None, sys.stdin.readline):
            say(**await measure(ask, **json.loads(command)))

    if scheme == DATAGRAMS:
        await obey(lambda body: landline.call(url, "echo", body, auth=TOKEN, timeout=30.0))
    else:
        async with landline.connect(url, auth=TOKEN, options=options) as line:
            await obey(lambda body: line.request("echo", body))


def main() -> None:
    """One side, as its arguments say."""
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
