"""The API on real sockets, asked with a real HTTP client."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import stat

import pytest

from landline import AddressInUse
from landline.fleet.paths import UnsafeDirectory
from landline.fleet.web.http_server import ApiServer
from landline.fleet.web.listeners import CannotListen, tcp_listener
from landline.fleet.web.timed_connections import ConnectionLimits


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


def ask(connection, path="/api/v1/status", headers=None):
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


async def test_answers_on_a_unix_socket_and_on_tcp(operations, directory):
    path = directory / "run" / "control.sock"
    server = ApiServer(operations, unix_path=path, tcp=("127.0.0.1", 0), token="s3cret")
    async with server:
        status, body = await asyncio.to_thread(ask, UnixConnection(path))
        assert (status, body["machines"]) == (200, 3)

        host, port = server.tcp_address
        status, body = await asyncio.to_thread(ask, http.client.HTTPConnection(host, port))
        assert (status, body["code"]) == (401, "unauthorized")
        status, body = await asyncio.to_thread(
            ask, http.client.HTTPConnection(host, port), headers={"Authorization": "Bearer s3cret"}
        )
        assert (status, body["machines"]) == (200, 3)
        status, body = await asyncio.to_thread(
            ask,
            http.client.HTTPConnection(host, port),
            headers={"Authorization": "Bearer s3cret", "Origin": "http://evil.example"},
        )
        assert (status, body["code"]) == (403, "foreign_origin")
    assert not path.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port))


async def test_only_the_owner_may_open_the_socket(operations, directory):
    path = directory / "run" / "control.sock"
    mask = os.umask(0)
    try:
        async with ApiServer(operations, unix_path=path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        assert os.umask(mask) == 0


async def test_a_directory_others_may_write_to_is_refused(operations, directory):
    open_directory = directory / "run"
    open_directory.mkdir()
    open_directory.chmod(0o777)
    with pytest.raises(UnsafeDirectory):
        async with ApiServer(operations, unix_path=open_directory / "control.sock"):
            pass


async def test_a_stale_socket_is_replaced(operations, directory):
    path = directory / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with ApiServer(operations, unix_path=path):
        assert (await asyncio.to_thread(ask, UnixConnection(path)))[0] == 200


async def test_a_live_socket_is_left_alone(operations, directory):
    path = directory / "control.sock"
    sentence = f"a server already answers on {path}; stop it or choose another path"
    async with ApiServer(operations, unix_path=path):
        with pytest.raises(AddressInUse) as caught:
            async with ApiServer(operations, unix_path=path):
                pass
        assert str(caught.value) == sentence
        assert (await asyncio.to_thread(ask, UnixConnection(path)))[0] == 200
    with socket.socket(socket.AF_UNIX) as other:  # A process that does not use the lock.
        other.bind(str(path))
        other.listen()
        with pytest.raises(AddressInUse) as caught:
            async with ApiServer(operations, unix_path=path):
                pass
        assert str(caught.value) == sentence
        assert path.exists()


async def test_a_regular_file_is_left_alone(operations, directory):
    path = directory / "control.sock"
    path.write_text("mine")
    with pytest.raises(AddressInUse, match="exists and is not a socket; remove it"):
        async with ApiServer(operations, unix_path=path):
            pass
    assert path.read_text() == "mine"


async def test_a_path_too_long_for_a_socket_is_named(operations, directory):
    path = directory / ("x" * 120)
    with pytest.raises(CannotListen, match="path too long; choose another path"):
        async with ApiServer(operations, unix_path=path):
            pass


async def test_a_taken_port_is_one_sentence_and_nothing_is_left_behind(operations, directory):
    path = directory / "control.sock"
    with tcp_listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen) as caught:
            async with ApiServer(operations, unix_path=path, tcp=("127.0.0.1", port), token="s3cret"):
                pass
        assert str(caught.value) == (
            f"Cannot listen on 127.0.0.1:{port}: address already in use; choose another address."
        )
    assert not path.exists()
    async with ApiServer(operations, unix_path=path):
        assert path.exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
async def test_a_foreign_host_is_named(operations, host):
    with pytest.raises(CannotListen, match=f"Cannot listen on {host}:0: "):
        async with ApiServer(operations, tcp=(host, 0), token="s3cret"):
            pass


def test_tcp_needs_a_token(operations):
    with pytest.raises(ValueError, match="needs a token"):
        ApiServer(operations, tcp=("127.0.0.1", 0))


async def test_signals_are_left_to_the_caller(operations, directory):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with ApiServer(operations, unix_path=directory / "control.sock"):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def test_updates_stream_live_and_end_with_the_server(operations, directory):
    path = directory / "control.sock"
    # Only the end of the stream itself ends the server.
    async with ApiServer(operations, unix_path=path, shutdown_s=3600.0):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /api/v1/updates HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        assert b'"type":"snapshot"' in await reader.readuntil(b"\n\n")
        operations.add("lab-4")
        assert b'"lab-4"' in await reader.readuntil(b"\n\n")
    assert (await reader.read()).endswith(b"0\r\n\r\n")
    assert operations.readers == []
    writer.close()


async def test_a_client_that_leaves_ends_its_stream(operations, directory, until):
    path = directory / "control.sock"
    async with ApiServer(operations, unix_path=path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /api/v1/updates HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b'"type":"snapshot"')
        writer.close()
        await until(lambda: not operations.readers)


def status_of(address):
    connection = http.client.HTTPConnection(*address, timeout=10)
    try:
        connection.request("GET", "/api/v1/status", headers={"Authorization": "Bearer a token"})
        with connection.getresponse() as response:
            response.read()
            return response.status
    finally:
        connection.close()


@pytest.mark.parametrize(
    "sent", [b"", b"GET /api/v1/status HTTP/1.1\r\nHo"], ids=["nothing", "half a request"]
)
async def test_silent_connections_do_not_keep_others_out(operations, until, sent):
    """Strangers without a token can open all connections that the server takes."""
    limits = ConnectionLimits(connections_max=20, request_timeout_s=3600.0, crowded_request_timeout_s=0.3)
    async with ApiServer(operations, tcp=("127.0.0.1", 0), token="a token", limits=limits) as server:
        strangers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection(*server.tcp_address)
            writer.write(sent)
            strangers.append(writer)

        async def is_answered():
            return await asyncio.to_thread(status_of, server.tcp_address) == 200

        await until(is_answered)
        for writer in strangers:
            writer.close()


async def test_a_connection_that_is_idle_after_a_request_is_closed(operations, directory):
    path = directory / "control.sock"
    async with ApiServer(operations, unix_path=path, limits=ConnectionLimits(request_timeout_s=0.05)):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" not in head.lower()
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
        writer.close()


async def test_a_stream_of_updates_is_not_taken_for_silence(operations, directory):
    path = directory / "control.sock"
    limits = ConnectionLimits(request_timeout_s=0.0)
    async with ApiServer(operations, unix_path=path, keep_alive_s=0.05, limits=limits):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /api/v1/updates HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while received.count(b": keep-alive") < 12:
            piece = await reader.read(65536)
            assert piece, "the connection was closed"
            received += piece
        writer.close()


async def test_a_client_that_does_not_read_cannot_hold_the_server(operations, directory, caplog, until):
    path = directory / "control.sock"
    # Its connection is closed, or the server never ends.
    async with ApiServer(operations, unix_path=path, shutdown_s=0.1, operation_s_max=3600):
        _, writer = await asyncio.open_unix_connection(str(path), limit=1024)
        writer.write(b"GET /api/v1/updates HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await operations.first_reader.wait()
        for number in range(20_000):
            operations.add(f"lab-{number % 4}")
            if number % 100 == 0:
                await asyncio.sleep(0)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    await until(lambda: not operations.readers)
    writer.close()
