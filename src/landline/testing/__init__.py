"""Test doubles: what our own tests use, for the tests of programs built on landline, and of others.

:mod:`landline.testing.pair` joins two sessions in memory under virtual time; :mod:`landline.testing.proxy` puts a
network that fails between real sockets, and :mod:`landline.testing.datagrams` does so for UDP.
"""

from __future__ import annotations

from landline.testing.datagrams import DatagramFaults, DatagramProxy
from landline.testing.pair import Clock, Link, Pair, Side
from landline.testing.proxy import FaultProxy, Faults, ProxiedConnection

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
