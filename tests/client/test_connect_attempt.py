"""One line over several endpoints: which one it uses, what it reports of the others, and that nothing is lost."""

import asyncio
import contextlib
import socket

import pytest
import trustme

import landline
from landline.client.dialer import DialTimeouts
from landline.session.bodies import Challenge, encode_body
from landline.session.constants import Kind
from landline.testing import FaultProxy, Faults
from landline.transports.urls import SCHEMES, Scheme

ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
BESIDE_S = 0.01
STRETCH = 1000
"""Messages in each direction over each endpoint, at least."""

URLS = {
    "tcp": "tcp://127.0.0.1:0",
    "tls": "tls://127.0.0.1:0",
    "unix": "unix://{directory}/line.sock",
    "ws": "ws://127.0.0.1:0/line",
    "wss": "wss://127.0.0.1:0/line",
    "quic": "quic://127.0.0.1:0",
}
JOURNEYS = [
    ("tcp", "tls", "unix"),
    ("unix", "tcp", "tls"),
    ("tcp", "ws", "quic"),
    ("quic", "wss", "tcp"),
]


@pytest.fixture
def silent():
    """The URL of a peer that accepts connections and never sends anything."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def broken_scheme(monkeypatch):
    """A scheme whose extra is not installed."""
    monkeypatch.setitem(SCHEMES, "carrier", Scheme("landline.transports.no_such_module", extra="pigeons"))
    return "carrier://127.0.0.1:1"


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """What a server of every scheme needs, and a client that trusts it."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.cert_chain_pems[0].write_to_path(directory / "server.pem")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return (
        landline.TransportOptions(
            certificate_file=directory / "server.pem", private_key_file=directory / "server.key"
        ),
        landline.TransportOptions(ca_file=directory / "ca.pem", proxy=False),
    )


@contextlib.asynccontextmanager
async def listening(server, schemes, options, directory):
    """Listen on an endpoint of each scheme; yield their URLs."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            str(
                await stack.enter_async_context(
                    server.listen(
                        URLS[scheme].format(directory=directory),
                        options=options if scheme in {"tls", "wss", "quic"} else None,
                    )
                )
            )
            for scheme in schemes
        ]


class Strangers:
    """Something that listens, and what was said to it."""

    def __init__(self, *speech: bytes) -> None:
        self.speech = speech
        self.heard: list[bytes] = []
        self.begun = 0
        self.ended = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader, writer) -> None:
        self.begun += 1
        for piece in self.speech:
            writer.write(piece)
        with contextlib.suppress(ConnectionError):
            self.heard.append(await reader.read())
        self.ended += 1
        writer.close()


# Failover.


@pytest.mark.usefixtures("datagrams_end")
@pytest.mark.parametrize("schemes", JOURNEYS, ids=" ".join)
async def test_a_session_goes_on_over_any_endpoint_in_mid_flow(schemes, options, tmp_path, until, quick):
    # Small ones, so that senders wait for the other side and are under way at every failover.
    buffer = landline.SendBuffer(messages=256)
    server = landline.Server(send_buffer=buffer)
    there, here = options
    async with listening(server, schemes, there, tmp_path) as urls:
        # A closed QUIC listener says nothing; its endpoint would be waited for.
        connector = landline.connect(urls, backoff=quick, options=here, stagger_s=0.25, send_buffer=buffer)
        async with connector as line:
            [other] = server.lines
            session = line.session_id
            sent = [0, 0]
            left = list(schemes)

            async def flow(end, way):
                while left:
                    await end.send(sent[way])
                    sent[way] += 1
                await end.send_eof()

            async def collect(end):
                return [message async for message in end]

            async def travel():
                # The endpoint in use fails together with its link, in mid-flow, until one is left.
                while True:
                    used, before, epoch = connector.endpoint.scheme, min(sent), line.epoch
                    assert used in left
                    await until(lambda before=before: min(sent) >= before + STRETCH)
                    left.remove(used)
                    if not left:
                        return
                    server._host.listeners.opened[schemes.index(used)].close()
                    line.break_link()
                    await until(lambda epoch=epoch: line.epoch > epoch)

            _, _, up, down, _ = await asyncio.gather(
                flow(line, 0), flow(other, 1), collect(other), collect(line), travel()
            )
            assert up == list(range(sent[0]))
            assert down == list(range(sent[1]))
            assert min(sent) >= len(schemes) * STRETCH
            assert server.lines == [other]
            assert line.session_id == session


async def test_the_endpoint_that_worked_is_taken_again_and_the_attempt_is_one(nowhere, quick, states, until):
    seen = states()
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect([nowhere, str(endpoint)], backoff=quick, on_state=seen)
        assert connector.endpoint is None
        async with connector as line:
            assert connector.endpoint == endpoint
            # The first endpoint failed and the second worked within the same attempt.
            assert seen.names == ["online"]
            line.break_link()
            await until(lambda: line.epoch == 2)
            assert seen.names[1:] == ["reconnecting", "connecting", "online"]
    assert seen.changes[-1].cause is landline.DisconnectCause.CLOSED_HERE


async def test_whoever_is_told_of_a_link_can_ask_for_its_address(nowhere, quick):
    told = []
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(
            [nowhere, str(endpoint)],
            backoff=quick,
            on_state=lambda line, change: told.append((change.state.value, connector.endpoint)),
        )
        async with connector:
            assert told == [("online", endpoint)]


async def test_links_that_do_not_last_send_the_line_to_the_next_endpoint(quick, until):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as one, server.listen("tcp://127.0.0.1:0") as two:
        connector = landline.connect([str(one), str(two)], backoff=quick)
        async with connector as line:
            for epoch, expected in ((1, one), (2, one), (3, two)):
                await until(lambda epoch=epoch: line.epoch == epoch)
                assert connector.endpoint == expected
                line.break_link()


# Endpoints that fail.


async def test_a_missing_extra_is_logged_once_and_the_other_endpoint_is_taken(
    broken_scheme, quick, until, caplog
):
    server = landline.Server()
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        landline.connect([broken_scheme, str(endpoint)], backoff=quick) as line,
    ):
        line.break_link()
        await until(lambda: line.epoch == 2)
    told = [record.message for record in caplog.records if "pigeons" in record.message]
    assert told == [
        f"{broken_scheme} cannot be used: carrier:// needs an optional package: "
        "pip install 'landline[pigeons]'"
    ]


async def test_a_bad_certificate_is_told_and_the_other_endpoint_is_taken(options, quick, caplog, tmp_path):
    server = landline.Server()
    async with (
        listening(server, ("tls", "unix"), options[0], tmp_path) as urls,
        landline.connect(urls, backoff=quick) as line,
    ):
        assert line.peer.endswith("line.sock")
        assert len(server.lines) == 1
    [told] = [record.message for record in caplog.records if "cannot be used" in record.message]
    assert told.startswith(urls[0])
    assert "certificate" in told.lower()


async def test_an_unencrypted_endpoint_that_was_not_given_is_never_taken(options, tmp_path):
    server = landline.Server()
    async with listening(server, ("tls", "tcp"), options[0], tmp_path) as urls:
        with pytest.raises(landline.GaveUp, match=r"(?i)certificate"):
            async with landline.connect(urls[:1], backoff=ONCE):
                pytest.fail("connected to a stranger")
        assert not server.lines


@pytest.mark.parametrize("stagger_s", [None, BESIDE_S])
async def test_something_else_that_answers_does_not_keep_from_the_other_endpoint(stagger_s, quick):
    server = landline.Server()
    async with (
        Strangers(b"HTTP/1.1 400 Bad Request\r\n\r\n") as stranger,
        server.listen("tcp://127.0.0.1:0") as endpoint,
        landline.connect([stranger, str(endpoint)], backoff=quick, stagger_s=stagger_s),
    ):
        assert len(server.lines) == 1


@pytest.mark.parametrize("stagger_s", [None, BESIDE_S])
async def test_when_all_fail_each_is_named_with_its_reason(nowhere, broken_scheme, stagger_s, tmp_path):
    urls = [nowhere, broken_scheme, f"unix://{tmp_path}/none"]
    with pytest.raises(landline.GaveUp) as caught:
        async with landline.connect(urls, backoff=ONCE, stagger_s=stagger_s):
            pytest.fail("connected to nobody")
    assert str(caught.value) == (
        f"gave up after 1 attempt: {nowhere}: connection refused; {broken_scheme}: carrier:// "
        f"needs an optional package: pip install 'landline[pigeons]'; "
        f"unix://{tmp_path}/none: no such socket"
    )
    assert isinstance(caught.value.last, landline.ConnectFailed)
    assert isinstance(caught.value.last.__cause__, OSError)


async def test_when_none_can_ever_work_nobody_waits(broken_scheme, states):
    seen = states()
    async with Strangers(b"HTTP/1.1 400 Bad Request\r\n\r\n") as stranger:
        with pytest.raises(landline.ConnectFailed, match=r"pigeons.*; .*a frame of"):
            async with landline.connect([broken_scheme, stranger], on_state=seen):
                pytest.fail("connected to nobody")
    assert seen.names == ["closed"]


async def test_a_missing_extra_of_every_endpoint_is_raised(broken_scheme):
    with pytest.raises(landline.MissingExtra, match="pigeons"):
        async with landline.connect(broken_scheme):
            pytest.fail("connected to nobody")


async def test_a_server_that_is_full_is_not_besieged_over_the_next_endpoint(states, until):
    seen = states()
    server = landline.Server(max_lines=1)
    async with (
        server.listen("tcp://127.0.0.1:0") as one,
        server.listen("tcp://127.0.0.1:0") as two,
        landline.connect(str(one)),
    ):
        connecting = asyncio.ensure_future(landline.connect([str(one), str(two)], on_state=seen))
        await until(lambda: seen.changes)
        assert seen.changes[0].cause is landline.DisconnectCause.REJECTED
        assert seen.changes[0].due_in_s >= 5
        # Nobody knocked at the second door.
        assert f"{two}" not in seen.changes[0].detail
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


# Announced servers; the announcements are made up here, and heard for real in discovery/.


@pytest.fixture
def announced(monkeypatch):
    """Makes it known at which addresses of this machine a server called ``lab`` is announced; counts the searches."""
    heard = []

    class Discovery:
        searches = 0

        async def search(self, timeout_s, wanted):
            Discovery.searches += 1
            return heard

    def announce(*urls):
        endpoints = tuple(landline.parse_url(url) for url in urls)
        heard[:] = [landline.DiscoveredServer("lab", "box.local.", endpoints)] if urls else []
        return Discovery

    monkeypatch.setattr("landline.client.connect_attempt.load_discovery", Discovery)
    return announce


async def test_the_addresses_of_an_announced_server_are_tried_beside_each_other(
    announced, silent, nowhere, quick, until
):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        discovery = announced(nowhere, silent, str(endpoint))
        connector = landline.connect("mdns+tcp://lab", backoff=quick)
        async with connector as line:
            assert connector.endpoint == endpoint
            line.break_link()
            await until(lambda: line.epoch == 2)
        assert discovery.searches == 2


async def test_an_announced_server_is_one_endpoint_among_others(announced, nowhere, quick, caplog):
    announced(nowhere, "tcp://127.0.0.1:1")
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(["mdns+tcp://lab", str(endpoint)], backoff=quick)
        async with connector:
            assert connector.endpoint == endpoint
    [told] = [record.message for record in caplog.records if "cannot be used" in record.message]
    assert told.startswith("mdns+tcp://lab cannot be used: ")
    for url in (nowhere, "tcp://127.0.0.1:1"):
        assert f"{url}: connection refused" in told


async def test_an_announced_server_that_refuses_is_obeyed(announced, states, until):
    seen = states()
    server = landline.Server(max_lines=1)
    async with (
        server.listen("tcp://127.0.0.1:0") as one,
        server.listen("tcp://127.0.0.1:0") as two,
        landline.connect(str(one)),
    ):
        announced(str(one), str(two))
        connecting = asyncio.ensure_future(landline.connect("mdns+tcp://lab", on_state=seen))
        await until(lambda: seen.changes)
        assert seen.changes[0].cause is landline.DisconnectCause.REJECTED
        assert seen.changes[0].due_in_s >= 5
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting


async def test_something_else_at_an_announced_address_is_no_landline_server(announced):
    async with Strangers(b"HTTP/1.1 400 Bad Request\r\n\r\n") as stranger:
        announced(stranger)
        with pytest.raises(landline.ConnectFailed, match="a frame of"):
            async with landline.connect("mdns+tcp://lab"):
                pytest.fail("connected to nobody")


# Beside each other.


async def test_a_endpoint_that_says_nothing_is_overtaken(silent, quick, until):
    server = landline.Server()
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect([silent, str(endpoint)], backoff=quick, stagger_s=BESIDE_S)
        async with connector as line:
            assert connector.endpoint == endpoint
            await line.ping()


async def test_only_the_winner_says_hello(quick, until):
    """A server that is overtaken has sent its challenge, receives nothing, and sees the end of its connection."""
    strangers = Strangers()
    server = landline.Server()
    async with (
        strangers as slow,
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as between,
        landline.connect([slow, between.url], backoff=quick, stagger_s=BESIDE_S) as line,
    ):
        await until(lambda: strangers.ended)
        assert strangers.heard == [b""]
        for epoch in range(2, 5):
            line.break_link()
            await until(lambda epoch=epoch: line.epoch == epoch)
        # Each attempt resumed the session once.
        [other] = server.lines
        assert other.epoch == 4


async def test_racing_endpoints_resume_one_session(quick, until):
    """Both endpoints greet at about the same time; the server must never see two HELLOs of one attempt."""
    server = landline.Server()
    async with (
        server.listen("tcp://127.0.0.1:0") as endpoint,
        FaultProxy(endpoint.host, endpoint.port) as one,
        FaultProxy(endpoint.host, endpoint.port) as two,
    ):
        one.down = Faults(latency_s=0.01)
        async with landline.connect([one.url, two.url], backoff=quick, stagger_s=0.01) as line:
            [other] = server.lines
            for number in range(30):
                await line.send(number)
                await other.send(number)
                line.break_link()
                await until(lambda number=number: line.epoch >= number + 2)
            # A session that was resumed twice in one attempt would have a higher one.
            assert other.epoch == line.epoch == 31
            assert server.lines == [other]
            assert [await anext(line) for _ in range(30)] == list(range(30))
            assert [await anext(other) for _ in range(30)] == list(range(30))


async def test_when_the_winner_fails_the_next_one_continues(quick, until):
    """The first speaks first, takes the HELLO and never answers; the second has been greeted meanwhile."""
    impostor = Strangers(encode_body(Kind.CHALLENGE, Challenge(1, b"n" * 32)))
    server = landline.Server()
    timeouts = DialTimeouts(handshake_s=0.3)
    async with impostor as first, server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect([first, str(endpoint)], backoff=quick, stagger_s=0.2, timeouts=timeouts)
        async with connector:
            assert connector.endpoint == endpoint
            await until(lambda: impostor.ended)
            # More than once where a busy machine gives the second too little time.
            assert impostor.heard
            assert all(impostor.heard)


async def test_an_impostor_on_one_endpoint_is_left_for_the_other(quick):
    token = landline.SharedToken("correct horse battery")

    class Impostor(landline.Anonymous):
        def identify(self, claim, *, server_nonce, client_nonce):
            return landline.NO_IDENTITY

        def server_proof(self, *, server_nonce, client_nonce, identity):
            return b"x" * 32

    true, false = landline.Server(auth=token), landline.Server(auth=Impostor())
    async with (
        false.listen("tcp://127.0.0.1:0") as wrong,
        true.listen("tcp://127.0.0.1:0") as right,
        landline.connect([str(wrong), str(right)], auth=token, backoff=quick),
    ):
        assert len(true.lines) == 1


async def test_cancelling_a_race_closes_every_endpoint(until):
    noise = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
    one, two = Strangers(), Strangers()
    async with one as first, two as second:
        entering = asyncio.ensure_future(landline.connect([first, second], stagger_s=BESIDE_S))
        await until(lambda: one.begun and two.begun)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        await until(lambda: one.ended and two.ended)
    assert noise == []


# Alternatives named by the server.


async def test_an_alternative_without_encryption_is_not_followed_from_encrypted_ones():
    connector = landline.connect(["tls://one", "tls://two"])
    connector._host.endpoint_connector.prefer_alternatives(["tcp://three", "tls://four"])
    assert [str(endpoint) for endpoint in connector._host.endpoint_connector.endpoints] == [
        "tls://four:5463",
        "tls://one:5463",
        "tls://two:5463",
    ]


async def test_a_unix_socket_is_no_leave_to_speak_in_the_clear_on_a_network():
    connector = landline.connect(["tls://one", "unix:///run/line"])
    connector._host.endpoint_connector.prefer_alternatives(["tcp://three"])
    assert [str(endpoint) for endpoint in connector._host.endpoint_connector.endpoints] == [
        "tls://one:5463",
        "unix:///run/line",
    ]
