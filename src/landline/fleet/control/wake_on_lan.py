"""Waking machines over the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import wakeonlan


class Waker(Protocol):
    """Sends wake-up packets."""

    def wake(self, mac_addresses: Sequence[str]) -> None:
        """Send a packet to every address.

        :raises OSError: if the network refuses.
        """


class MagicPackets:
    """Wake-on-LAN: a UDP datagram with the machine's hardware address, to the broadcast address of a network.

    :param host: the broadcast address; the default reaches the networks this machine is on.
    :param port: 9 by convention; network cards ignore it.
    """

    def __init__(self, host: str = "255.255.255.255", port: int = 9) -> None:
        self.host = host
        self.port = port

    def wake(self, mac_addresses: Sequence[str]) -> None:
        wakeonlan.wake(*mac_addresses, host=self.host, port=self.port)
