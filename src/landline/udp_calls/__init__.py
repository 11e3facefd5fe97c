"""Calls without a connection: one request in a datagram, one answer in another (``docs/protocol.md`` §13).

``asking`` and ``answering`` are the two sides, sans-I/O: they take datagrams and the time, and say what to send.
``wire`` has the layout and the seal, ``udp`` moves datagrams between them and sockets.
"""

from __future__ import annotations

import msgspec


class CallCounts(msgspec.Struct):
    """What became of the datagrams a server received on ``udp://``, since its start."""

    accepted: int = 0
    """Calls that were run: each handler once."""
    answered: int = 0
    """Calls whose answer is known; those accepted and not answered are under way."""
    repeated: int = 0
    """Answers sent again, because the call arrived again."""
    ignored: int = 0
    """Copies of calls whose handler still runs, or whose answer was repeated often enough."""
    retried: int = 0
    """Calls answered with RETRY: the client's address had to be proven first, or again."""
    refused: int = 0
    """Calls dropped because too many handlers run at once; the client asks again by itself."""
    unreadable: int = 0
    """Datagrams that were no call sealed with our key, and got no answer."""


class CallPeer(msgspec.Struct, frozen=True):
    """Who asks over ``udp://``: what a handler gets in place of a line, which there is none of.

    It has the two properties of a :class:`landline.Line` that a handler for both can use.
    """

    identity: str
    """Who the caller says to be; as trustworthy as everybody who knows the token."""
    peer: str
    """The caller's address, ``IP:port``. It was proven that answers to this IP arrive."""
