"""Fixtures of the QUIC tests: certificate files, lines, and clients of aioquic that the tests drive by hand."""

import asyncio
import contextlib
import time
from types import SimpleNamespace

import pytest
import trustme
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

import landline
from landline.testing import DatagramProxy
from landline.transports.quic.sockets import QuicListener
from landline.transports.quic.transport import QuicTransport

URL = "quic://127.0.0.1:0"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A certificate for 127.0.0.1, and the options of both sides."""
    folder = tmp_path_factory.mktemp("quic")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "certificate.pem", append=True)
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    return SimpleNamespace(
        folder=folder,
        server=landline.TransportOptions(
            certificate_file=folder / "certificate.pem", private_key_file=folder / "key.pem"
        ),
        client=landline.TransportOptions(ca_file=folder / "ca.pem"),
    )


@pytest.fixture
async def nothing_is_left_open(until, monkeypatch):
    """Check at the end of a test that all connections end, shortly after their lines, and all sockets are closed."""
    made = []
    for kind in (QuicListener, QuicTransport):

        def record(self, *arguments, make=kind.__init__):
            make(self, *arguments)
            made.append(self)

        monkeypatch.setattr(kind, "__init__", record)
    yield made
    try:
        async with asyncio.timeout(10):
            await until(lambda: all(not one.is_open for one in made))
    finally:
        # uvloop does not close while a UDP socket is open and warnings are errors: a failed test would never end.
        for one in made:
            (one.close if isinstance(one, QuicListener) else one.abort)()
    # The event loop closes a socket one iteration later.
    await asyncio.sleep(0)


@pytest.fixture
def opened(files, quick, until, nothing_is_left_open):
    """Open a server and a client's line to it, directly or through a relay."""
    made = nothing_is_left_open

    @contextlib.asynccontextmanager
    async def open_line(server=None, *, relayed=False, **arguments):
        server = server or landline.Server()
        arguments.setdefault("backoff", quick)
        arguments.setdefault("options", files.client)
        async with server.listen(URL, options=files.server) as endpoint:
            if not relayed:
                async with landline.connect(str(endpoint), **arguments) as line:
                    yield line, server
                return
            async with (
                DatagramProxy("127.0.0.1", endpoint.port) as proxy,
                landline.connect(proxy.url("quic"), **arguments) as line,
            ):
                yield line, server, proxy
                proxy.heal()
                await line.close()
                # Without the relay the two sides could not close the connection.
                await until(lambda: not any(one.is_open for one in made if isinstance(one, QuicTransport)))

    return open_line


class Stranger(asyncio.DatagramProtocol):
    """A QUIC client of aioquic, driven by the test."""

    def __init__(self, files, **settings):
        settings.setdefault("alpn_protocols", ["landline/1"])
        configuration = QuicConfiguration(is_client=True, server_name="127.0.0.1", **settings)
        configuration.load_verify_locations(str(files.folder / "ca.pem"))
        self.quic = QuicConnection(configuration=configuration)
        self.events = []
        self.answers = []
        self.is_mute = False
        self.sent_bytes = 0

    async def open(self, endpoint):
        address = (endpoint.host, endpoint.port)
        loop = asyncio.get_running_loop()
        self.udp, _ = await loop.create_datagram_endpoint(lambda: self, remote_addr=address)
        self.address = address
        self.quic.connect(address, now=time.monotonic())
        self.flush()

    def datagram_received(self, data, addr):
        self.answers.append(data)
        if self.is_mute:
            return
        self.quic.receive_datagram(data, self.address, now=time.monotonic())
        self.flush()
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)

    def flush(self):
        for data, _ in self.quic.datagrams_to_send(now=time.monotonic()):
            self.sent_bytes += len(data)
            self.udp.sendto(data)

    def send(self, data, **arguments):
        self.quic.send_stream_data(0, data, **arguments)
        self.flush()

    def has(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def closed(self):
        return self.quic._close_event


@pytest.fixture
def stranger(files):
    """Make strangers, and close their sockets at the end."""
    made = []

    def make(**settings):
        made.append(Stranger(files, **settings))
        return made[-1]

    yield make
    for one in made:
        one.udp.close()
