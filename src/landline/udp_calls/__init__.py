"""Calls without a connection: a request in one datagram, its response in another (``docs/protocol.md`` §13).

``call_client`` and ``call_server`` are the two sides, sans-I/O: they take datagrams and the time, and return the
datagrams to send. ``wire`` has their layout and encryption; ``sockets`` connects them to UDP sockets.
"""

from __future__ import annotations

import msgspec


class CallCounts(msgspec.Struct):
    """Counters of the datagrams that a server has received on ``udp://`` since its start."""

    accepted: int = 0
    """Calls whose handler was run, once each."""
    answered: int = 0
    """Calls that were answered; the handlers of the other accepted ones are running."""
    repeated: int = 0
    """Answers that were sent again because the call arrived again."""
    ignored: int = 0
    """Copies of calls whose handler is still running, or whose answer was repeated often enough."""
    retried: int = 0
    """Calls answered with RETRY: the client has to prove its address first, or again."""
    refused: int = 0
    """Calls dropped because too many handlers are running; the client repeats them by itself."""
    unreadable: int = 0
    """Datagrams without an answer: they are not calls that were encrypted with the server's key."""


class CallPeer(msgspec.Struct, frozen=True):
    """The client of a call over ``udp://``: a handler gets it in place of a line.

    It has the two properties of a :class:`landline.Line` that a handler for lines and calls can use.
    """

    identity: str
    """The identity that the client claims. It is as trustworthy as everyone who knows the token."""
    peer: str
    """The client's address, ``IP:port``. The client has proven that it receives datagrams at this IP address."""
