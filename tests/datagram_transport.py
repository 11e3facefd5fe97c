"""A transport in memory with a stream and datagrams, as QUIC has them, for ``loop://`` URLs."""

import asyncio

from landline.transports.urls import Endpoint, Scheme

SCHEME = Scheme("tests.datagram_transport")
accepting = {}
ends = []
"""All connected ends, the client's before the server's."""


class Listener:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def close(self) -> None:
        accepting.pop(self.endpoint.host, None)


class End(asyncio.Transport):
    """One end. ``sent`` has its datagrams; with ``is_blocked`` it accepts none."""

    def __init__(self, protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._is_closing = False
        self.other: End
        self.datagram_bytes_max = 1200
        self.is_blocked = False
        self.sent = []

    def send_datagram(self, data: bytes) -> bool:
        assert len(data) <= self.datagram_bytes_max
        if self.is_blocked or self._is_closing:
            return False
        self.sent.append(data)
        self._loop.call_soon(self.other.deliver_datagram, data)
        return True

    def deliver_datagram(self, data: bytes) -> None:
        if not self._is_closing:
            self._protocol.datagram_received(data)

    def write(self, data: bytes) -> None:
        self._loop.call_soon(self.other._deliver, bytes(data))

    def _deliver(self, data: bytes) -> None:
        if not self._is_closing:
            self._protocol.data_received(data)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            self._loop.call_soon(self.other.close)

    abort = close

    def linger(self, discard_bytes_max: int) -> None:
        self.close()

    def resume_reading(self) -> None:
        """Do nothing: it is never paused."""

    def is_closing(self) -> bool:
        return self._is_closing

    def set_protocol(self, protocol) -> None:
        self._protocol = protocol

    def get_extra_info(self, name, default=None):
        return "" if name == "peername" else default


async def connect(endpoint, protocol_factory, options) -> None:
    if endpoint.host not in accepting:
        raise ConnectionRefusedError
    client, server = End(protocol_factory()), End(accepting[endpoint.host]())
    client.other, server.other = server, client
    ends.extend((client, server))
    for end in (client, server):
        end._protocol.connection_made(end)


async def listen(endpoint, protocol_factory, options) -> Listener:
    accepting[endpoint.host] = protocol_factory
    return Listener(endpoint)
