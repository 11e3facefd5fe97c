"""TCP and TLS: addresses, handshakes, and the options of sockets."""

import asyncio
import socket
import ssl

import pytest
from tests.line_internals import transport_of

import landline

URL = "tcp://127.0.0.1:0"


def socket_of(line: landline.Line) -> socket.socket:
    return transport_of(line).get_extra_info("socket")


async def test_the_endpoint_has_the_port_that_the_system_chose(quick):
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        assert endpoint.scheme == "tcp"
        assert endpoint.port > 0
        async with landline.connect(str(endpoint), backoff=quick):
            pass


async def test_an_address_in_use_is_named():
    async with landline.Server().listen(URL) as endpoint:
        with pytest.raises(
            landline.AddressInUse, match=f"^{endpoint} is already in use by another program"
        ) as caught:
            async with landline.Server().listen(str(endpoint)):
                pytest.fail("listens twice")
        assert isinstance(caught.value, OSError)


async def test_a_port_is_free_again_at_once(quick):
    async with landline.Server().listen(URL) as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)
        line = await connector
    async with landline.Server().listen(str(endpoint)) as again:
        assert again == endpoint
        await line.close()


async def test_a_foreign_host_is_another_error():
    with pytest.raises(OSError) as caught:
        async with landline.Server().listen("tcp://192.0.2.1:0"):
            pytest.fail("listens elsewhere")
    assert not isinstance(caught.value, landline.AddressInUse)


async def test_tls_needs_a_certificate():
    with pytest.raises(
        landline.ConfigurationError, match=r"needs a certificate: pass TransportOptions\(certificate_file="
    ):
        async with landline.Server().listen("tls://127.0.0.1:0"):
            pytest.fail("listens without a certificate")


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
@pytest.mark.parametrize("end", ["client", "server"])
async def test_the_options_of_sockets(scheme, end, quick, certificates):
    server = landline.Server()
    is_encrypted = scheme == "tls"
    there = landline.TransportOptions(tls=certificates.server if is_encrypted else None, user_timeout_s=7)
    here = landline.TransportOptions(tls=certificates.client if is_encrypted else None, user_timeout_s=7)
    async with (
        server.listen(f"{scheme}://127.0.0.1:0", options=there) as endpoint,
        landline.connect(str(endpoint), backoff=quick, options=here) as line,
    ):
        [other] = server.lines
        sock = socket_of(line if end == "client" else other)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        for name, value in {
            "TCP_NODELAY": 1,
            "TCP_USER_TIMEOUT": 7000,
            "TCP_KEEPIDLE": 30,
            "TCP_KEEPINTVL": 10,
            "TCP_KEEPCNT": 3,
            "TCP_NOTSENT_LOWAT": 128 * 1024,
        }.items():
            assert sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value, name


async def test_options_that_the_platform_lacks_are_skipped(pair, monkeypatch):
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    async with pair() as (line, _):
        assert socket_of(line).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


async def test_an_incomplete_tls_handshake_times_out(certificates, monkeypatch):
    monkeypatch.setattr("landline.transports.tcp.TLS_HANDSHAKE_TIMEOUT_S", 0.05)
    # The event loops report it; that is not what is tested.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    server = landline.Server()
    options = landline.TransportOptions(tls=certificates.server)
    async with server.listen("tls://127.0.0.1:0", options=options) as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"\x16\x03\x01")
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        assert not server._host.acceptor.unfinished


async def test_plain_text_to_a_tls_server_is_refused_and_other_lines_continue(certificates, quick):
    server = landline.Server()
    once = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
    options = landline.TransportOptions(tls=certificates.server)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with server.listen("tls://127.0.0.1:0", options=options) as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        with pytest.raises(landline.GaveUp):
            async with landline.connect(
                str(endpoint),
                backoff=once,
                options=landline.TransportOptions(tls=ssl.create_default_context()),
            ):
                pytest.fail("trusted a stranger")
        trusting = landline.TransportOptions(tls=certificates.client)
        async with landline.connect(str(endpoint), backoff=quick, options=trusting) as line:
            assert await line.ping() > 0
