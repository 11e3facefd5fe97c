"""Magic packets, as they arrive."""

from __future__ import annotations

import socket

import pytest

from landline.fleet.control.wake_on_lan import MagicPackets, Waker


def test_each_address_gets_its_packet() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(20)
        waker: Waker = MagicPackets(host="127.0.0.1", port=card.getsockname()[1])
        addresses = ("02:00:00:00:00:01", "02:00:00:00:00:ff")
        waker.wake(addresses)
        packets = [card.recv(2048) for _ in addresses]
    assert packets == [b"\xff" * 6 + bytes.fromhex(address.replace(":", "")) * 16 for address in addresses]


def test_a_network_that_refuses_is_an_error() -> None:
    with pytest.raises(OSError):
        MagicPackets(host="256.256.256.256").wake(["02:00:00:00:00:01"])


def test_the_default_is_the_broadcast_address() -> None:
    assert (MagicPackets().host, MagicPackets().port) == ("255.255.255.255", 9)
