"""The UDP relay has the faults that were set, and no others."""

import asyncio
import socket

import pytest

from landline import ConfigurationError
from landline.testing import DatagramFaults, DatagramProxy
from landline.testing import udp_relay as module


class Ends(asyncio.DatagramProtocol):
    """An end of UDP that remembers what came, and from where; a server sends it back."""

    def __init__(self, *, is_server: bool = False) -> None:
        self.is_server = is_server
        self.came: list[bytes] = []
        self.senders: list[int] = []

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.came.append(data)
        self.senders.append(addr[1])
        if self.is_server:
            self.transport.sendto(data, addr)


@pytest.fixture
async def server():
    loop = asyncio.get_running_loop()
    transport, ends = await loop.create_datagram_endpoint(
        lambda: Ends(is_server=True), local_addr=("127.0.0.1", 0)
    )
    ends.port = transport.get_extra_info("sockname")[1]
    yield ends
    transport.close()
    await asyncio.sleep(0)


@pytest.fixture
async def proxy(server):
    async with DatagramProxy("127.0.0.1", server.port, seed=3) as proxy:
        yield proxy
    await asyncio.sleep(0)


@pytest.fixture
async def client(proxy):
    loop = asyncio.get_running_loop()
    transport, ends = await loop.create_datagram_endpoint(Ends, remote_addr=("127.0.0.1", proxy.port))
    yield ends
    transport.close()
    await asyncio.sleep(0)


def numbers(count: int) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in range(count)]


async def send(client: Ends, pieces: list[bytes]) -> None:
    for piece in pieces:
        client.transport.sendto(piece)
        # Bursts would overflow the kernel's buffers, which is not the relay's doing.
        await asyncio.sleep(0)


async def test_without_faults_everything_arrives(client, server, proxy, until):
    await send(client, numbers(100))
    await until(lambda: len(client.came) == 100)
    assert server.came == client.came == numbers(100)
    assert proxy.up_datagrams == proxy.down_datagrams == 100
    assert proxy.lost_datagrams == 0
    assert proxy.url("quic") == f"quic://127.0.0.1:{proxy.port}"
    assert set(server.senders) == set(proxy.client_ports)


async def test_a_share_is_lost_in_the_chosen_direction(client, server, proxy, until):
    proxy.up = DatagramFaults(loss=0.3)
    await send(client, numbers(400))
    await until(lambda: proxy.up_datagrams + proxy.lost_datagrams == 400)
    assert 60 < proxy.lost_datagrams < 180
    await until(lambda: len(client.came) == proxy.up_datagrams)
    assert server.came == client.came


async def test_a_share_arrives_twice(client, server, proxy, until):
    proxy.down = DatagramFaults(duplicate=1.0)
    await send(client, numbers(50))
    await until(lambda: len(client.came) == 100)
    assert server.came == numbers(50)
    assert client.came[::2] == client.came[1::2] == numbers(50)


async def test_a_share_is_overtaken(client, server, proxy, until):
    proxy.up = DatagramFaults(reorder=0.3)
    await send(client, numbers(100))
    await until(lambda: len(server.came) == 100)
    assert sorted(server.came) == numbers(100) != server.came


async def test_latency_and_jitter_delay_and_reorder(client, server, proxy, until):
    proxy.up = DatagramFaults(latency_s=0.01, jitter_s=0.02)
    await send(client, numbers(100))
    await until(lambda: len(server.came) == 100)
    assert sorted(server.came) == numbers(100) != server.came


async def test_rebinding_gives_another_port_and_still_delivers(client, server, proxy, until):
    await send(client, numbers(1))
    await until(lambda: len(client.came) == 1)
    before = proxy.client_ports
    proxy.rebind()
    assert proxy.client_ports != before
    await send(client, numbers(1))
    await until(lambda: len(client.came) == 2)
    assert server.senders == [*before, *proxy.client_ports]


async def test_a_black_hole_and_its_end(client, server, proxy, until):
    proxy.hold()
    proxy.up = DatagramFaults(duplicate=1.0)
    await send(client, numbers(10))
    await until(lambda: proxy.lost_datagrams == 10)
    proxy.heal()
    await send(client, numbers(1))
    await until(lambda: client.came)
    assert server.came == client.came == numbers(1)


async def test_each_client_has_its_own_port_and_a_further_client_replaces_the_oldest(
    client, server, proxy, until, monkeypatch
):
    monkeypatch.setattr(module, "CLIENTS_MAX", 2)
    loop = asyncio.get_running_loop()
    others = [
        (await loop.create_datagram_endpoint(Ends, remote_addr=("127.0.0.1", proxy.port)))[1]
        for _ in range(2)
    ]
    for number, one in enumerate([client, *others]):
        one.transport.sendto(bytes([number]))
        await until(lambda one=one, number=number: one.came == [bytes([number])])
    assert len(set(server.senders)) == 3
    assert proxy.client_ports == tuple(server.senders[1:])
    for one in others:
        one.transport.close()
    await asyncio.sleep(0)


async def test_the_number_of_delayed_datagrams_is_limited(client, server, proxy, until, monkeypatch):
    monkeypatch.setattr(module, "DELAYED_MAX", 5)
    proxy.up = DatagramFaults(latency_s=0.05)
    await send(client, numbers(20))
    await until(lambda: proxy.lost_datagrams + len(server.came) == 20)
    assert proxy.lost_datagrams >= 10


async def test_a_missing_server_is_a_loss_without_an_error(until):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    async with DatagramProxy("127.0.0.1", port) as proxy:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Ends, remote_addr=("127.0.0.1", proxy.port))
        transport.sendto(b"1")
        await until(lambda: proxy.up_datagrams == 1)
        transport.sendto(b"2")
        await until(lambda: proxy.up_datagrams == 2)
        transport.close()
    await asyncio.sleep(0)


async def test_it_is_entered_once_at_a_time(proxy):
    with pytest.raises(RuntimeError, match="already entered"):
        await proxy.__aenter__()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"loss": 1.1}, "must be from 0 to 1"),
        ({"duplicate": -0.1}, "duplicate=-0.1"),
        ({"reorder": float("nan")}, "reorder=nan"),
        ({"latency_s": -1}, "must be finite and at least 0"),
        ({"jitter_s": float("inf")}, "jitter_s=inf"),
    ],
)
def test_invalid_faults_are_refused(arguments, text):
    with pytest.raises(ConfigurationError, match=text):
        DatagramFaults(**arguments)
