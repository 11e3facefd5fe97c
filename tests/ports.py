"""Ports that stay reserved for a whole test, whether its programs listen on them or not."""

import contextlib
import socket
from collections.abc import Iterator


def hold_tcp_port(host: str = "127.0.0.1") -> socket.socket:
    """Bind a port on which only programs of the test can listen, one after the other; close it at the end.

    While none listens, connections to it are refused. Two sockets may be bound to one port when both say SO_REUSEADDR
    and the first does not listen (Linux), which is what servers say.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    return holder


def port_of(holder: socket.socket) -> int:
    port: int = holder.getsockname()[1]
    return port


@contextlib.contextmanager
def refusing_udp_port() -> Iterator[int]:
    """Yield a UDP port of 127.0.0.1 that refuses datagrams, and that no other process can bind.

    It is bound, and connected to itself: the kernel finds no socket for what comes from elsewhere.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.connect(holder.getsockname())
        yield port_of(holder)
