"""A relay in front of a control server's unix socket that loses answers."""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

Fault = Callable[["socket.socket", "socket.socket"], None]
"""Gets the connection of the client and that of the server, over which the request has not gone yet."""


class AnswerRelay:
    """Relays HTTP requests from ``path`` to ``target``, each over a connection of its own.

    :param faults: what happens to the next requests whose first line begins with ``matching``, one after the other;
        all others are relayed as they are.
    """

    def __init__(self, path: Path, target: Path, matching: str, *faults: Fault) -> None:
        self._path = path
        self._target = target
        self._matching = matching.encode()
        self._faults = list(faults)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._accepting = threading.Thread(target=self._accept)
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self.requests: list[bytes] = []
        """The complete requests that matched."""

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that waits in accept or recv.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self._path.unlink()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            self._open += [client, server]
            self._threads.append(threading.Thread(target=self._relay, args=(client, server)))
            self._threads[-1].start()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, suppress(OSError):
            request = read_request(client)
            is_matching = request.startswith(self._matching)
            if is_matching:
                self.requests.append(request)
            server.connect(str(self._target))
            fault = self._faults.pop(0) if is_matching and self._faults else relay_all
            server.sendall(request) if fault is not never_arrives else None
            fault(client, server)


def read_request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65_536) or _gone()
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.search(rb"(?i)content-length: (\d+)", head)
    while len(body) < (int(match[1]) if match else 0):
        body += client.recv(65_536) or _gone()
    return head + b"\r\n\r\n" + body


def _gone() -> bytes:
    raise ConnectionResetError


def relay_all(client: socket.socket, server: socket.socket) -> None:
    """Pass on request and response."""
    while data := server.recv(65_536):
        client.sendall(data)


def never_arrives(client: socket.socket, server: socket.socket) -> None:
    """Break the connection before the server has read anything."""


def loses_answer(client: socket.socket, server: socket.socket) -> None:
    """Break the connection after the server has answered, before the client reads."""
    server.recv(65_536)


def cuts_answer(client: socket.socket, server: socket.socket) -> None:
    """Pass on all of the response but its last byte."""
    client.sendall(read_request(server)[:-1])


def is_silent(client: socket.socket, server: socket.socket) -> None:
    """Let the client wait in vain for a response that the server has sent."""
    server.recv(65_536)
    client.recv(1)


def cuts_stream(text: bytes) -> Fault:
    """Break a stream in the middle of the event in which ``text`` appears."""

    def cut(client: socket.socket, server: socket.socket) -> None:
        data = b""
        while text not in data:
            data = server.recv(65_536) or _gone()
            client.sendall(data.partition(text)[0] + text[: len(text) // 2] if text in data else data)

    return cut
