"""WebSocket through HTTP proxies: a small real one that opens tunnels (CONNECT), and some that refuse."""

import asyncio
import base64
import ssl

import pytest
import trustme
from websockets.uri import parse_uri

import landline
from landline.transports.websocket.sockets import choose_proxy

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
NAMES = [f"{scheme}_proxy" for scheme in ("http", "https", "ws", "wss", "socks", "all", "no")]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Remove all proxies from the environment."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


class Proxy:
    """A proxy that opens tunnels, or sends another response."""

    def __init__(self, answer: bytes = b"", tls: ssl.SSLContext | None = None):
        self.requests: list[list[str]] = []
        self._answer = answer
        self._tls = tls
        self._relays: set[asyncio.Task] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *error) -> None:
        self._server.close()
        for relay in self._relays:
            relay.cancel()
        if self._relays:
            await asyncio.wait(self._relays)

    async def _serve(self, reader, writer) -> None:
        self._relays.add(asyncio.current_task())
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(head.split("\r\n"))
        target = head.split(" ")[1]
        if self._answer:
            writer.write(self._answer)
            writer.close()
            return
        host, _, port = target.rpartition(":")
        upstream, downstream = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(relay(reader, downstream), relay(upstream, writer))
        finally:
            writer.transport.abort()
            downstream.transport.abort()


async def relay(reader, writer) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        writer.close()


async def use(url: str, options: landline.TransportOptions) -> None:
    async with landline.connect(url, backoff=ONCE, options=options) as line:
        assert await line.request("add", [1, 2, 3]) == 6
        line.break_link()
        assert await line.request("add", [4, 5, 6]) == 15
        assert line.epoch == 2


def make_server() -> landline.Server:
    server = landline.Server()
    server.on("add")(lambda line, numbers: sum(numbers))
    return server


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_a_line_goes_through_a_proxy(scheme, is_encrypted, certificates, environment, tmp_path):
    context = None
    if is_encrypted:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        environment.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    there = landline.TransportOptions(tls=certificates.server if scheme == "wss" else None)
    trusting = certificates.client if scheme == "wss" else None
    async with (
        Proxy(tls=context) as proxy,
        make_server().listen(f"{scheme}://127.0.0.1:0", options=there) as endpoint,
    ):
        await use(str(endpoint), landline.TransportOptions(tls=trusting, proxy=proxy.url))
        assert len(proxy.requests) == 2
        assert proxy.requests[0][0] == f"CONNECT 127.0.0.1:{endpoint.port} HTTP/1.1"


async def test_the_proxy_of_the_environment_is_the_default(environment):
    async with Proxy() as proxy, make_server().listen("ws://127.0.0.1:0") as endpoint:
        environment.setenv("http_proxy", proxy.url)
        await use(str(endpoint), landline.TransportOptions())
        assert len(proxy.requests) == 2
        await use(str(endpoint), landline.TransportOptions(proxy=False))
        environment.setenv("no_proxy", "127.0.0.1")
        await use(str(endpoint), landline.TransportOptions())
        assert len(proxy.requests) == 2


async def test_the_credentials_of_a_proxy_are_sent():
    async with Proxy() as proxy, make_server().listen("ws://127.0.0.1:0") as endpoint:
        address = proxy.url.replace("http://", "http://one:t%77o@")
        await use(
            str(endpoint), landline.TransportOptions(proxy=address, headers={"X-Secret": "for the server"})
        )
        expected = base64.b64encode(b"one:two").decode()
        assert f"Proxy-Authorization: Basic {expected}" in proxy.requests[0]
        assert not any("X-Secret" in header for header in proxy.requests[0])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "refused the tunnel: proxy rejected connection: HTTP 407",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP 502"),
        (b"220 mail.example ESMTP\r\n\r\n", "refused the tunnel: "),
        (b"\r\n", "refused the tunnel: "),
        (b"HTTP/1.1 200", "refused the tunnel: connection closed while reading HTTP status line"),
    ],
)
async def test_a_refusing_proxy_is_retried(answer, text):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    async with Proxy(answer) as proxy:
        with pytest.raises(landline.GaveUp) as caught:
            async with landline.connect(
                "ws://127.0.0.1:1/", backoff=ONCE, options=landline.TransportOptions(proxy=proxy.url)
            ):
                pytest.fail("connected")
        assert f"proxy 127.0.0.1:{proxy.port} " in str(caught.value)
        assert text in str(caught.value)
    assert reported == []


async def test_a_missing_proxy():
    async with Proxy() as proxy:
        pass
    with pytest.raises(landline.GaveUp, match=f"proxy 127.0.0.1:{proxy.port} cannot be reached"):
        async with landline.connect(
            "ws://127.0.0.1:1/", backoff=ONCE, options=landline.TransportOptions(proxy=proxy.url)
        ):
            pytest.fail("connected")


async def test_a_server_behind_a_proxy_that_is_not_trusted(certificates):
    there = landline.TransportOptions(tls=certificates.server)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with Proxy() as proxy, make_server().listen("wss://127.0.0.1:0", options=there) as endpoint:
        with pytest.raises(landline.GaveUp, match="certificate"):
            async with landline.connect(
                str(endpoint), backoff=ONCE, options=landline.TransportOptions(proxy=proxy.url)
            ):
                pytest.fail("trusted a stranger")


@pytest.mark.parametrize(
    ("proxy", "text"),
    [
        ("socks5h://127.0.0.1:1080", "use http:// or https://"),
        ("ftp://127.0.0.1", "scheme ftp isn't supported"),
        ("http://", "hostname isn't provided"),
        ("http://user@host", "username provided without password"),
        ("http://host:port", "invalid proxy address"),
        ("http://host/path", "path is meaningless"),
    ],
)
async def test_invalid_proxies_are_explained(proxy, text, environment):
    for options in (landline.TransportOptions(proxy=proxy), landline.TransportOptions()):
        environment.setenv("http_proxy", proxy)
        with pytest.raises(landline.ConfigurationError, match=text):
            async with landline.connect("ws://127.0.0.1:1/", backoff=ONCE, options=options):
                pytest.fail("connected")


@pytest.mark.parametrize(
    ("url", "variables", "expected"),
    [
        ("ws://host/", {}, None),
        ("ws://host/", {"http_proxy": "http://one"}, "one"),
        ("ws://host/", {"http_proxy": "http://one", "https_proxy": "http://two"}, "two"),
        ("wss://host/", {"http_proxy": "http://one"}, None),
        ("wss://host/", {"http_proxy": "http://one", "https_proxy": "http://two"}, "two"),
        ("wss://host/", {"https_proxy": "http://two", "no_proxy": "host"}, None),
        ("wss://host/", {"https_proxy": "http://two", "no_proxy": "*"}, None),
    ],
)
def test_which_proxy_the_environment_names(url, variables, expected, environment):
    for name, value in variables.items():
        environment.setenv(name, value)
    proxy = choose_proxy(parse_uri(url), True)
    assert (proxy.host if proxy else None) == expected
    assert choose_proxy(parse_uri(url), False) is None
    assert choose_proxy(parse_uri(url), "http://three:5").host == "three"
