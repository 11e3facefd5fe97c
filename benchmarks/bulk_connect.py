"""Open many connections at the same time, as many clients do after a cut."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time

from benchmarks.clients import CLIENTS, Client, Handshake
from landline.session.bodies import ResumeTicket

HOST = "127.0.0.1"
AT_ONCE = 64
"""Concurrent handshakes: enough to keep any server busy, and below the backlog of each (at least 100)."""
CONNECT_TIMEOUT_S = 30.0
_RESET = struct.pack("ii", 1, 0)


class Connection:
    """One open connection, and what its client needs to resume."""

    __slots__ = ("sock", "ticket")

    def __init__(self, sock: socket.socket, ticket: ResumeTicket | None) -> None:
        self.sock = sock
        self.ticket = ticket

    def cut(self) -> None:
        """End the connection as a broken network does: by a reset, which leaves no port in TIME_WAIT."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()


def connect(kind: str, port: int, count: int) -> list[Connection]:
    """Open ``count`` connections and perform their handshakes."""
    return reconnect(kind, port, [None] * count)


def reconnect(kind: str, port: int, tickets: list[ResumeTicket | None]) -> list[Connection]:
    """Open a connection for each ticket, with at most :data:`AT_ONCE` concurrent handshakes.

    Raise :class:`OSError` if one fails or nothing happens for too long; then all are closed.
    """
    client = CLIENTS[kind]
    opened: list[Connection] = []
    try:
        if client.is_tls:
            opened += [_connect_tls(client, port) for _ in tickets]
        else:
            _BulkConnector(client, port, tickets, opened).run()
    except BaseException:
        for connection in opened:
            connection.sock.close()
        raise
    return opened


class _BulkConnector:
    def __init__(
        self, client: Client, port: int, tickets: list[ResumeTicket | None], opened: list[Connection]
    ) -> None:
        self._client = client
        self._port = port
        self._waiting = iter(tickets)
        self._opened = opened
        self._poll = select.epoll()
        self._handshakes: dict[int, tuple[socket.socket, Handshake]] = {}

    def run(self) -> None:
        try:
            for _ in range(AT_ONCE):
                self._start()
            deadline = time.monotonic() + CONNECT_TIMEOUT_S
            while self._handshakes:
                ready = self._poll.poll(1)
                if ready:
                    deadline = time.monotonic() + CONNECT_TIMEOUT_S
                elif time.monotonic() > deadline:
                    raise TimeoutError(
                        f"{len(self._handshakes)} handshakes made no progress for {CONNECT_TIMEOUT_S:g} s"
                    )
                for descriptor, _ in ready:
                    self._continue(descriptor)
        finally:
            self._poll.close()
            for sock, _ in self._handshakes.values():
                sock.close()

    def _start(self) -> None:
        try:
            ticket = next(self._waiting)
        except StopIteration:
            return
        # Over loopback, connect() finishes at once while the backlog has space.
        sock = socket.create_connection((HOST, self._port), timeout=CONNECT_TIMEOUT_S)
        handshake = self._client.shake_hands(ticket)
        self._handshakes[sock.fileno()] = sock, handshake
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        output = next(handshake)
        if output:
            sock.sendall(output)
        self._poll.register(sock.fileno(), select.EPOLLIN)

    def _continue(self, descriptor: int) -> None:
        sock, handshake = self._handshakes[descriptor]
        data = sock.recv(8192)
        if not data:
            raise ConnectionError("the server closed the connection during the handshake")
        try:
            output = handshake.send(data)
        except StopIteration as done:
            del self._handshakes[descriptor]
            self._poll.unregister(descriptor)
            self._opened.append(Connection(sock, done.value))
            self._start()
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
