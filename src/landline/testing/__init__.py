"""Test doubles for programs built on landline, and for others; landline's own tests use them too.

:mod:`landline.testing.pair` joins two sessions in memory under virtual time. :mod:`landline.testing.proxy` is a faulty
network between real TCP sockets, and :mod:`landline.testing.udp_relay` is the same for UDP.
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
