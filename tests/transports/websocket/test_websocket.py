"""Lines over WebSocket: opened by landline's client and by others, closed properly, and refused with a reason."""

import asyncio
import json

import pytest
from tests.line_internals import link_of, session_of, transport_of
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.uri import parse_uri

import landline
from landline.testing import FaultProxy, Faults
from landline.transports.websocket import handshake as websocket_handshake
from landline.transports.websocket import stream as websocket_stream

URL = "ws://127.0.0.1:0/line"
DIRECT = landline.TransportOptions(proxy=False)
ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
REQUEST = (
    "GET /line HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: landline.1\r\n"
)


async def ask(endpoint: landline.Endpoint, request: str | bytes) -> str:
    """Send a request, and return all that the server sends until it ends the connection."""
    reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    writer.write(request.encode() if isinstance(request, str) else request)
    try:
        return (await reader.read()).decode()
    finally:
        writer.close()


async def answer_with(answer: bytes, *, ends: bool = True) -> asyncio.Server:
    """A server that sends this response to every request."""

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if ends:
            writer.close()
        else:
            await reader.read()
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def url_of(server: asyncio.Server) -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/line"


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_line_answers_breaks_and_resumes(scheme, quick, certificates, until):
    server = landline.Server(auth=landline.SharedToken("a secret of sixteen bytes"))
    server.on("add")(lambda line, numbers: sum(numbers))
    is_encrypted = scheme == "wss"
    there = landline.TransportOptions(tls=certificates.server if is_encrypted else None)
    here = landline.TransportOptions(tls=certificates.client if is_encrypted else None, proxy=False)
    async with server.listen(f"{scheme}://127.0.0.1:0/line", options=there) as endpoint:
        assert endpoint.scheme == scheme
        assert endpoint.path == "/line"
        assert endpoint.port > 0
        async with landline.connect(
            str(endpoint),
            auth=landline.SharedToken("a secret of sixteen bytes"),
            identity="kiosk-7",
            backoff=quick,
            options=here,
        ) as line:
            assert await line.request("add", [1, 2, 3]) == 6
            [other] = server.lines
            assert other.identity == "kiosk-7"
            assert other.peer.startswith("127.0.0.1:")
            line.break_link()
            other.send_nowait(b"while the line was down")
            assert [message async for message in first(line)] == [b"while the line was down"]
            assert line.epoch == 2
            assert server.lines == [other]
        await until(lambda: other.is_closed)
        assert other.error is None


async def first(line, count=1):
    """The first messages of a line."""
    for _ in range(count):
        async for message in line:
            yield message
            break


async def test_data_longer_than_a_message_is_sent_in_several(pair):
    async with pair(url=URL, options=DIRECT) as (line, other):
        body = bytes(range(256)) * 8192
        assert len(body) > 8 * websocket_stream.MESSAGE_BYTES_MAX
        for sender, receiver in ((line, other), (other, line)):
            await sender.send(body)
            assert [message async for message in first(receiver)] == [body]


async def test_bytes_are_split_into_messages_within_the_limit(pair):
    """A write larger than those of the library itself."""
    async with pair(url=URL, options=DIRECT) as (line, other):
        received = bytearray()

        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                received.extend(data)

        there, here = transport_of(other), transport_of(line)
        there.set_protocol(Protocol())
        assert isinstance(there.get_protocol(), Protocol)
        data = bytes(range(256)) * 2048
        assert len(data) > 3 * websocket_stream.MESSAGE_BYTES_MAX
        here.write(data)
        here.write(b"")
        while len(received) < len(data):
            await asyncio.sleep(0.001)
        assert received == data


async def test_the_transport_is_one_of_asyncio(pair):
    async with pair(url=URL, options=DIRECT) as (line, _):
        transport = transport_of(line)
        assert isinstance(transport, asyncio.Transport)
        assert not transport.can_write_eof()
        assert transport.get_protocol() is link_of(line)
        assert transport.get_extra_info("peername")[0] == "127.0.0.1"
        assert transport.get_extra_info("nothing", 5) == 5
        assert transport.get_write_buffer_size() == 0
        transport.set_write_buffer_limits(2000, 1000)
        assert transport.get_write_buffer_limits() == (1000, 2000)
        assert transport.is_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        assert await line.ping() > 0
        assert not transport.is_closing()


async def test_a_peer_that_does_not_read_stops_its_sender_only(until, quick):
    server = landline.Server()
    async with (
        server.listen(URL) as endpoint,
        landline.connect(str(endpoint), backoff=quick, options=DIRECT) as line,
    ):
        [other] = server.lines
        transport_of(line).pause_reading()
        sending = asyncio.create_task(other.send(b"x" * 1_000_000))
        sent = [await sending]
        for _ in range(30):
            sent.append(other.send_nowait(b"x" * 500_000))
            if transport_of(other).get_write_buffer_size() > 60_000:
                break
            await asyncio.sleep(0)
        await until(lambda: not session_of(other).outbound.can_write)
        transport_of(line).resume_reading()
        assert [len(message) async for message in first(line, len(sent))] == [1_000_000] + [500_000] * (
            len(sent) - 1
        )
        await until(lambda: session_of(other).outbound.can_write)


async def test_a_line_that_closes_says_bye_then_closes_the_websocket_then_tcp(quick, until):
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        websocket = await connect_websocket(
            str(endpoint), subprotocols=["landline.1"], proxy=None, ping_interval=None
        )
        assert websocket.subprotocol == "landline.1"
        challenge = await websocket.recv()
        assert challenge[4] == 1
        await server.close()
        rejection = await websocket.recv()
        assert rejection[4] == 4
        with pytest.raises(Exception, match="received 1000"):
            await websocket.recv()
        await websocket.close()


async def test_a_network_that_breaks_and_slices(quick):
    server = landline.Server()
    async with (
        server.listen(URL) as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as proxy,
        landline.connect(f"ws://127.0.0.1:{proxy.port}/line", backoff=quick, options=DIRECT) as line,
    ):
        [other] = server.lines
        for faults in (Faults(slice_bytes=1), Faults(slice_bytes=700), Faults()):
            proxy.up = proxy.down = faults
            for number in range(5):
                line.send_nowait(bytes(3000))
                other.send_nowait(bytes(2000))
                for connection in proxy.connections:
                    connection.end_after(number * 300 + 1, way="up" if number % 2 else "down")
                assert [len(message) async for message in first(line)] == [2000]
                assert [len(message) async for message in first(other)] == [3000]
        assert server.lines == [other]
        assert line.epoch > 10


@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_peer_that_does_not_answer_the_close_is_aborted_in_time(end, pair, until, monkeypatch):
    monkeypatch.setattr("landline.transports.linger.LINGER_TIMEOUT_S", 0.05)
    monkeypatch.setattr("landline.transports.websocket.stream.LINGER_TIMEOUT_S", 0.05)
    async with pair(url=URL, options=DIRECT) as (line, other):
        here, there = (line, other) if end == "client" else (other, line)
        stubborn, leaving = transport_of(there), transport_of(here)
        stubborn.pause_reading()
        lost = asyncio.get_running_loop().create_future()

        class Protocol(asyncio.Protocol):
            def connection_lost(self, exc):
                lost.set_result(exc)

        leaving.set_protocol(Protocol())
        leaving.close()
        leaving.close()
        assert leaving.is_closing()
        leaving.write(b"nothing is sent any more")
        assert await lost is None
        line.break_link()
        await until(lambda: line.epoch == 2)


async def test_pings_are_answered(quick):
    async with (
        landline.Server().listen(URL) as endpoint,
        connect_websocket(
            str(endpoint), subprotocols=["landline.1"], proxy=None, ping_interval=None
        ) as websocket,
    ):
        await (await websocket.ping(b"there?"))


@pytest.mark.parametrize("listening", ["/line", "/line/", "/", ""])
async def test_a_slash_at_the_end_of_the_path_makes_no_difference(listening):
    async with landline.Server().listen(f"ws://127.0.0.1:0{listening}") as endpoint:
        base = str(endpoint).rstrip("/")
        for path in ("", "/"):
            async with landline.connect(f"{base}{path}", backoff=ONCE, options=DIRECT) as line:
                assert await line.ping() > 0


@pytest.mark.parametrize(
    ("request_text", "status", "text"),
    [
        (REQUEST.replace("/line", "/line//"), "404 Not Found", "no line is served at this path; use /line"),
        (REQUEST.replace("/line", "/other"), "404 Not Found", "no line is served at this path; use /line"),
        ("GET /line HTTP/1.1\r\nHost: a\r\n", "426 Upgrade Required", "WebSocket connections of programs"),
        (REQUEST.replace("GET", "POST"), "405 Method Not Allowed", "unsupported HTTP method: POST"),
        (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), "505 HTTP Version Not Supported", "HTTP/1.0"),
        (REQUEST.replace("Version: 13", "Version: 8"), "400 Bad Request", "Sec-WebSocket-Version"),
        (REQUEST.replace("landline.1", "landline.9"), "400 Bad Request", "expected one of landline.1"),
        (
            REQUEST.replace("Sec-WebSocket-Protocol: landline.1\r\n", ""),
            "400 Bad Request",
            "missing subprotocol",
        ),
        (REQUEST + "Origin: http://elsewhere.example\r\n", "403 Forbidden", "http://elsewhere.example"),
        (REQUEST + "Origin: null\r\n", "403 Forbidden", "null"),
        (
            REQUEST + "Origin: http://127.0.0.1:81\r\n",
            "403 Forbidden",
            "the origin http://127.0.0.1:81 is not allowed to connect",
        ),
        (
            REQUEST + "Host: 127.0.0.2\r\nOrigin: http://127.0.0.1\r\n",
            "400 Bad Request",
            "several headers of the name 'Host'",
        ),
        ("HELLO\r\n", "400 Bad Request", "this is not an HTTP/1.1 request"),
        (REQUEST + "No header\r\n", "400 Bad Request", "this is not an HTTP/1.1 request"),
        (REQUEST + "Content-Length: 5\r\n", "400 Bad Request", "this is not an HTTP/1.1 request"),
        ("GET /" + "x" * 9000 + " HTTP/1.1\r\n", "414 ", "8192"),
        (REQUEST + "Cookie: " + "x" * 9000 + "\r\n", "431 ", "8192"),
        (REQUEST + "A: b\r\n" * 200, "431 ", "more than 128"),
        (REQUEST + f"A: {'b' * 1000}\r\n" * 17, "431 ", "the request is longer than 16384 bytes"),
    ],
)
async def test_a_wrong_request_is_answered_with_a_sentence(request_text, status, text):
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        answer = await ask(endpoint, request_text + "\r\n")
        head, _, body = answer.partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status}")
        assert text in body
        assert not server._host.acceptor.unfinished


@pytest.mark.parametrize("request_text", [b"", b"GET /li", REQUEST.encode(), REQUEST.encode() + b"A: b"])
async def test_an_unfinished_handshake_times_out(request_text, monkeypatch):
    monkeypatch.setattr(websocket_handshake, "OPENING_HANDSHAKE_TIMEOUT_S", 0.05)
    async with landline.Server().listen(URL) as endpoint:
        assert "no complete request within 0.05 s" in await ask(endpoint, request_text)


async def test_the_number_of_unfinished_handshakes_is_limited(quick, until, monkeypatch):
    monkeypatch.setattr(websocket_handshake, "OPENING_HANDSHAKES_MAX", 3)
    async with landline.Server().listen(URL) as endpoint:
        waiting = [await asyncio.open_connection(endpoint.host, endpoint.port) for _ in range(3)]
        answer = await ask(endpoint, "")
        assert answer.startswith("HTTP/1.1 503 ")
        assert "too many handshakes at the same time; try again later" in answer
        for _, writer in waiting:
            writer.close()
        # Failed and successful handshakes no longer count.
        for _ in range(5):
            async with landline.connect(str(endpoint), backoff=quick, options=DIRECT) as line:
                assert await line.ping() > 0


async def test_a_stopping_server_refuses_unfinished_handshakes():
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"GET /line HTTP/1.1\r\n")
        async with landline.connect(str(endpoint), options=DIRECT):
            pass  # By now the first one was accepted.
        await server.close()
        writer.write(REQUEST.partition("\r\n")[2].encode() + b"\r\n")
        answer = (await reader.read()).decode()
        writer.close()
        assert answer.startswith("HTTP/1.1 503 ")
        assert "the server stops" in answer


async def test_bytes_that_are_not_http_are_refused_at_once():
    """A program that speaks TLS, or another protocol, to the wrong port."""
    async with landline.Server().listen(URL) as endpoint:
        assert "this is not an HTTP/1.1 request" in await ask(endpoint, b"\x16\x03\x01\x02\x00\n")


async def test_a_client_that_leaves_during_the_handshake_is_forgotten(until):
    server = landline.Server()
    async with server.listen(URL) as endpoint:
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.write(b"GET /line")
        writer.close()
        await writer.wait_closed()
        assert not server._host.acceptor.unfinished


@pytest.mark.parametrize("slice_bytes", [1, 7, 1000])
async def test_a_request_may_arrive_in_pieces_and_offer_unsupported_extensions(slice_bytes):
    async with landline.Server().listen(URL) as endpoint:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        request = (
            REQUEST.replace("/line", "/line?from=here")
            + "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        ).encode()
        for start in range(0, len(request), slice_bytes):
            writer.write(request[start : start + slice_bytes])
            await asyncio.sleep(0)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("HTTP/1.1 101 ")
        assert "Sec-WebSocket-Protocol: landline.1" in head
        # Compression is not agreed on: what landline carries is packed or encrypted already, or small.
        assert "Extensions" not in head
        assert (await reader.readexactly(2))[0] == 0x82
        writer.close()


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((), "http://127.0.0.1", True),
        ((), "https://127.0.0.1", True),
        ((), "https://pages.example", False),
        (("https://pages.example",), "https://pages.example", True),
        (("https://pages.example",), "http://127.0.0.1", True),
        (("https://pages.example",), "http://pages.example", False),
        (("*",), "https://any.example", True),
    ],
)
async def test_which_web_pages_may_connect(origins, origin, allowed):
    options = landline.TransportOptions(origins=origins)
    async with landline.Server().listen(URL, options=options) as endpoint:
        connecting = connect_websocket(
            str(endpoint),
            origin=origin,
            subprotocols=["landline.1"],
            additional_headers={},
            proxy=None,
            ping_interval=None,
            host="127.0.0.1",
            port=endpoint.port,
        )
        connecting.ws_uri.port = 80
        if allowed:
            async with connecting as websocket:
                assert await websocket.recv()
        else:
            with pytest.raises(InvalidStatus, match="HTTP 403"):
                await connecting


async def test_headers_are_sent_with_the_request(quick):
    requests = []

    async def serve(reader, writer):
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.close()

    gateway = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with gateway:
        options = landline.TransportOptions(proxy=False, headers={"X-Api-Key": "one two"})
        with pytest.raises(landline.GaveUp):
            async with landline.connect(url_of(gateway), backoff=ONCE, options=options):
                pytest.fail("connected")
    [request] = requests
    assert "\r\nX-Api-Key: one two\r\n" in request
    assert "\r\nOrigin" not in request


@pytest.mark.parametrize(
    "headers",
    [{"Bad Name": "x"}, {"X": "a\r\nB: c"}, {"Host": "x"}, {"sec-websocket-key": "x"}, {"": "x"}, {"X": "ü"}],
)
async def test_invalid_headers_are_refused_before_anything_is_sent(headers):
    options = landline.TransportOptions(proxy=False, headers=headers)
    with pytest.raises(landline.ConfigurationError, match=r"TransportOptions\(headers=\)"):
        async with landline.connect("ws://127.0.0.1:1/", backoff=ONCE, options=options):
            pytest.fail("connected")


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\nnobody\x1bhere\n",
            landline.ConnectFailed,
            "the server answered with HTTP 404 Not Found: nobody\ufffdhere",
        ),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", landline.ConnectFailed, "HTTP 302 Found"),
        (b"HTTP/1.1 200 OK\r\n\r\nwelcome", landline.ConnectFailed, "HTTP 200 OK: welcome"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", landline.GaveUp, "HTTP 502 Bad Gateway"),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", landline.GaveUp, "HTTP 429"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", landline.ConnectFailed, "did not open a WebSocket"),
        (b"HTTP/1.1 101 Fine\r\n\r\n", landline.ConnectFailed, "did not open a WebSocket"),
        (b"HTTP/1.1 101 Fine", landline.GaveUp, "the connection was closed before the WebSocket was open"),
        (b"", landline.GaveUp, "the connection was closed before the WebSocket was open"),
        (b"HTTP/1.1 404 No\r\n\r\n" + b"x" * 20_000, landline.ConnectFailed, "longer than 16384 bytes"),
        (b"HTTP/1.1 404 No\r\n" + b"A: bcdefg\r\n" * 100, landline.GaveUp, "the connection was closed"),
    ],
)
async def test_responses_that_do_not_open_a_websocket(answer, error, text):
    async with await answer_with(answer) as server:
        with pytest.raises(error, match=text):
            async with landline.connect(url_of(server), backoff=ONCE, options=DIRECT):
                pytest.fail("connected")


async def test_the_body_of_a_response_may_arrive_in_pieces():
    opening = websocket_handshake.WebSocketClientHandshake(parse_uri("ws://host/"), {}, asyncio.Protocol)

    class Below(asyncio.Transport):
        def write(self, data):
            assert data.startswith(b"GET / HTTP/1.1")

    opening.connection_made(Below())
    for piece in (b"HTTP/1.1 404 No\r\nContent-Length: 9\r\n\r", b"\nnot", b" here", b"!", b"ignored"):
        opening.data_received(piece)
    with pytest.raises(landline.ProtocolError, match="HTTP 404 No: not here!"):
        await opening.opened


async def test_another_websocket_server_is_recognized():
    from websockets.asyncio.server import serve

    async def echo(websocket):
        async for message in websocket:
            await websocket.send(message)

    async with serve(echo, "127.0.0.1", 0, ping_interval=None) as server:
        with pytest.raises(landline.ConnectFailed, match=r"does not speak the subprotocol landline\.1"):
            async with landline.connect(url_of(server), backoff=ONCE, options=DIRECT):
                pytest.fail("connected")


async def test_a_server_that_never_answers_times_out(monkeypatch):
    monkeypatch.setattr("landline.transports.websocket.sockets.OPENING_HANDSHAKE_TIMEOUT_S", 0.05)
    async with await answer_with(b"", ends=False) as server:
        with pytest.raises(landline.GaveUp, match=r"no WebSocket handshake within 0\.05 s; check"):
            async with landline.connect(url_of(server), backoff=ONCE, options=DIRECT):
                pytest.fail("connected")


async def test_cancelling_closes_the_socket():
    ended = asyncio.get_running_loop().create_future()
    begun = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        begun.set_result(None)
        try:
            ended.set_result(await reader.read())
        except ConnectionResetError:
            ended.set_result(b"")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        connector = landline.connect(url_of(server), options=DIRECT)
        entering = asyncio.ensure_future(connector)
        await begun
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert await ended == b""


async def test_text_is_refused(quick):
    async with (
        landline.Server().listen(URL) as endpoint,
        connect_websocket(
            str(endpoint), subprotocols=["landline.1"], proxy=None, ping_interval=None
        ) as websocket,
    ):
        await websocket.recv()
        await websocket.send(json.dumps({"hello": 1}))
        with pytest.raises(ConnectionClosedError, match=r"1003 .*only binary messages"):
            await websocket.recv()


async def test_a_non_ascii_path_is_the_same_on_both_sides(quick):
    server = landline.Server()
    async with (
        server.listen("ws://127.0.0.1:0/Zürich") as endpoint,
        landline.connect(str(endpoint), backoff=quick, options=DIRECT) as line,
    ):
        assert await line.ping() > 0


async def test_the_handshake_releases_its_objects(pair):
    async with pair(url=URL, options=DIRECT) as (line, other):
        for end in (line, other):
            transport = transport_of(end)
            assert not hasattr(transport, "__dict__")
            assert transport._linger_timer is None
            assert not hasattr(transport._frames, "key")
