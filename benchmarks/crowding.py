"""Opens many connections at once, as a crowd of clients does after a cut."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time

from benchmarks.clients import CLIENTS, Client, Handshake
from landline.session.handshake import ResumeTicket

HOST = "127.0.0.1"
AT_ONCE = 64
"""Handshakes under way at one time: enough to keep any server busy, below the backlog of each (100 is the least)."""
CONNECT_TIMEOUT_S = 30.0
_RESET = struct.pack("ii", 1, 0)


class Connection:
    """One open connection, and what its client keeps to resume."""

    __slots__ = ("sock", "ticket")

    def __init__(self, sock: socket.socket, ticket: ResumeTicket | None) -> None:
        self.sock = sock
        self.ticket = ticket

    def cut(self) -> None:
        """Ends it as a broken network would: by a reset, which leaves no port behind in TIME_WAIT."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()


def connect(kind: str, port: int, count: int) -> list[Connection]:
    """Opens so many connections with their handshakes done."""
    return reconnect(kind, port, [None] * count)


def reconnect(kind: str, port: int, tickets: list[ResumeTicket | None]) -> list[Connection]:
    """Opens a connection for each ticket, at most :data:`AT_ONCE` handshakes at a time.

    Raises :class:`OSError` when one fails or nothing happens for long; all are closed then.
    """
    client = CLIENTS[kind]
    opened: list[Connection] = []
    try:
        if client.is_tls:
            opened += [_connect_tls(client, port) for _ in tickets]
        else:
            _Crowd(client, port, tickets, opened).run()
    except BaseException:
        for connection in opened:
            connection.sock.close()
        raise
    return opened


class _Crowd:
    def __init__(
        self, client: Client, port: int, tickets: list[ResumeTicket | None], opened: list[Connection]
    ) -> None:
        self._client = client
        self._port = port
        self._waiting = iter(tickets)
        self._opened = opened
        self._poll = select.epoll()
        self._shaking: dict[int, tuple[socket.socket, Handshake]] = {}

    def run(self) -> None:
        try:
            for _ in range(AT_ONCE):
                self._begin()
            deadline = time.monotonic() + CONNECT_TIMEOUT_S
            while self._shaking:
                ready = self._poll.poll(1)
                if ready:
                    deadline = time.monotonic() + CONNECT_TIMEOUT_S
                elif time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{len(self._shaking)} handshakes did not go on for {CONNECT_TIMEOUT_S:g} s"
                    )
                for descriptor, _ in ready:
                    self._go_on(descriptor)
        finally:
            self._poll.close()
            for sock, _ in self._shaking.values():
                sock.close()

    def _begin(self) -> None:
        try:
            ticket = next(self._waiting)
        except StopIteration:
            return
        # Over loopback, connect() is done at once while there is room in the backlog.
        sock = socket.create_connection((HOST, self._port), timeout=CONNECT_TIMEOUT_S)
        handshake = self._client.shake_hands(ticket)
        self._shaking[sock.fileno()] = sock, handshake
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        output = next(handshake)
        if output:
            sock.sendall(output)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _go_on(self, descriptor: int) -> None:
        sock, handshake = self._shaking[descriptor]
        data = sock.recv(8192)
        if not data:
            raise ConnectionError("the server closed the connection during the handshake")
        try:
            output = handshake.send(data)
        except StopIteration as done:
            del self._shaking[descriptor]
            self._poll.unregister(descriptor)
            self._opened.append(Connection(sock, done.value))
            self._begin()
        else:
            if output:
                sock.sendall(output)


def _connect_tls(client: Client, port: int) -> Connection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sock = context.wrap_socket(socket.create_connection((HOST, port), timeout=CONNECT_TIMEOUT_S))
    handshake = client.shake_hands(None)
    output = next(handshake)
    while True:
        if output:
            sock.sendall(output)
        data = sock.recv(8192)
        if not data:
            raise ConnectionError("the server closed the connection during the handshake")
        try:
            output = handshake.send(data)
        except StopIteration:
            return Connection(sock, None)
