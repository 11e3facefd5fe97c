"""Test doubles: what our own tests use, for the tests of programs built on landline, and of others.

:mod:`landline.testing.pair` joins two sessions in memory under virtual time; :mod:`landline.testing.proxy` puts a
network that fails between real sockets, and :mod:`landline.testing.udp_relay` does so for UDP.
"""

from __future__ import annotations

from landline.testing.pair import Clock, Link, Pair, Side
from landline.testing.proxy import FaultProxy, Faults, ProxiedConnection
from landline.testing.udp_relay import DatagramFaults, DatagramProxy

__all__ = [
    "Clock",
    "DatagramFaults",
    "DatagramProxy",
    "FaultProxy",
    "Faults",
    "Link",
    "Pair",
    "ProxiedConnection",
    "Side",
]
