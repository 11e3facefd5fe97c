"""Lines over QUIC: their limits, changes of address, faulty networks, and ends."""

import asyncio
import os

import msgspec
import pytest
import trustme
from aioquic.quic.events import HandshakeCompleted
from tests.line_internals import transport_of
from tests.ports import refusing_udp_port

import landline
from landline.testing import DatagramFaults, DatagramProxy
from landline.transports.quic import sockets as quic
from landline.transports.quic import transport as quic_transport
from landline.transports.quic.connection import WINDOW_BYTES
from landline.transports.quic.transport import QuicTransport

URL = "quic://127.0.0.1:0"
ONCE = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
pytestmark = pytest.mark.usefixtures("nothing_is_left_open")


def echo_server(**arguments) -> landline.Server:
    server = landline.Server(**arguments)

    @server.on("echo")
    def echo(line, body):
        return body

    return server


async def test_requests_go_both_ways(opened):
    async with opened(echo_server()) as (line, server):
        assert await line.request("echo", {"a": 1}, timeout=5) == {"a": 1}
        [other] = server.lines
        assert other.peer.startswith("127.0.0.1:")
        assert line.peer.startswith("127.0.0.1:")
        assert await other.ping() > 0
        assert transport_of(line).get_extra_info("nothing", 7) == 7
        assert "open" in repr(transport_of(line))
        for end in (line, other):
            assert len(transport_of(end)._connection._crypto_buffers) == 1


async def test_ten_megabytes_arrive_intact_both_ways(opened):
    body = os.urandom(1_000_000)
    async with opened(echo_server()) as (line, _):
        for number in range(10):
            piece = number.to_bytes(4, "big") + body
            assert await line.request("echo", piece, timeout=40) == piece


async def test_a_line_continues_after_each_cut(opened, until):
    received = []
    server = landline.Server()

    @server.on_message
    def receive(line, message):
        received.append(message)

    async with opened(server) as (line, _):
        for number in range(200):
            await line.send(number)
            if number % 40 == 20:
                epoch = line.epoch
                line.break_link()
                await line.send("behind the cut")
                await until(lambda epoch=epoch: line.epoch == epoch + 1)
        await until(lambda: len(received) >= 205)
        assert [message for message in received if message != "behind the cut"] == list(range(200))
        assert len(received) == 205
        assert line.epoch == 6


async def test_a_line_reconnects_to_a_restarted_server(files, quick, until):
    server = landline.Server()
    connector = None
    async with server.listen(URL, options=files.server) as endpoint:
        connector = landline.connect(
            str(endpoint), backoff=quick, options=files.client, on_session_lost=lambda line, lost: None
        )
        line = await connector
    await until(lambda: line.state is not landline.LineState.ONLINE)

    async def listen_again():
        while True:
            try:
                return await quic_listening.__aenter__()
            except landline.AddressInUse:
                await asyncio.sleep(0.01)

    again = echo_server()
    quic_listening = again.listen(str(endpoint), options=files.server)
    assert await listen_again() == endpoint
    await until(lambda: line.state is landline.LineState.ONLINE)
    assert await line.request("echo", 1, timeout=5) == 1
    await line.close()
    await quic_listening.__aexit__(None, None, None)


async def test_an_address_in_use_is_named(files):
    async with landline.Server().listen(URL, options=files.server) as endpoint:
        with pytest.raises(landline.AddressInUse, match=f"{endpoint} is already in use by another program"):
            async with landline.Server().listen(str(endpoint), options=files.server):
                pytest.fail("listens twice")


async def test_a_missing_server_is_detected_at_once(files, unused_port):
    with pytest.raises(landline.GaveUp, match="connection refused"):
        async with landline.connect(f"quic://127.0.0.1:{unused_port}", backoff=ONCE, options=files.client):
            pytest.fail("connected to nothing")


@pytest.fixture
def unused_port():
    with refusing_udp_port() as port:
        yield port


# Certificates.


async def test_an_unknown_authority_is_not_trusted(files):
    async with landline.Server().listen(URL, options=files.server) as endpoint:
        for options in (
            landline.TransportOptions(ca_file=files.folder / "stranger.pem"),
            landline.TransportOptions(),
        ):
            with pytest.raises(landline.GaveUp, match="unable to get local issuer certificate"):
                async with landline.connect(str(endpoint), backoff=ONCE, options=options):
                    pytest.fail("trusted a stranger")


async def test_the_name_in_the_certificate_counts(files):
    async with landline.Server().listen("quic://127.0.0.2:0", options=files.server) as endpoint:
        with pytest.raises(landline.GaveUp, match=r"127\.0\.0\.2"):
            async with landline.connect(str(endpoint), backoff=ONCE, options=files.client):
                pytest.fail("took a certificate of another address")


def make_options(files, name):
    folder = files.folder
    (folder / "empty.pem").write_text("")
    (folder / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    return {
        "none": landline.TransportOptions(),
        "missing": landline.TransportOptions(certificate_file=folder / "no.pem", private_key_file="k"),
        "empty": landline.TransportOptions(certificate_file=folder / "empty.pem"),
        "bad": landline.TransportOptions(certificate_file=folder / "bad.pem"),
        "keyless": landline.TransportOptions(certificate_file=folder / "certificate.pem"),
    }[name]


@pytest.mark.parametrize("parts", [("certificate", "key"), ("key", "certificate")])
async def test_certificate_and_key_may_be_in_one_file(tmp_path, parts):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    pems = {
        "certificate": b"".join(pem.bytes() for pem in issued.cert_chain_pems),
        # In the traditional form, "BEGIN EC PRIVATE KEY".
        "key": issued.private_key_pem.bytes(),
    }
    (tmp_path / "both.pem").write_bytes(b"".join(pems[part] for part in parts))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    there = landline.TransportOptions(certificate_file=tmp_path / "both.pem")
    here = landline.TransportOptions(ca_file=tmp_path / "ca.pem")
    server = echo_server()
    async with (
        server.listen("quic://127.0.0.1:0", options=there) as endpoint,
        landline.connect(str(endpoint), options=here) as line,
    ):
        assert await line.request("echo", 1, timeout=5) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("none", r"needs a certificate: pass TransportOptions\(certificate_file="),
        ("missing", r"certificate_file=\): .* cannot be used: no such file or directory"),
        ("empty", "it contains no certificate in PEM format"),
        ("bad", "it contains no private key; pass private_key_file= as well"),
        ("keyless", "contains no private key; pass private_key_file="),
    ],
)
async def test_a_server_without_a_usable_certificate_does_not_start(name, text, files):
    with pytest.raises(landline.ConfigurationError, match=text) as caught:
        async with landline.Server().listen(URL, options=make_options(files, name)):
            pytest.fail("listens without a certificate")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no.pem", "empty.pem"])
async def test_a_client_without_usable_authorities_does_not_start(name, files):
    (files.folder / "empty.pem").write_text("")
    options = landline.TransportOptions(ca_file=files.folder / name)
    with pytest.raises(landline.ConfigurationError, match=r"ca_file=\): .* cannot be used"):
        async with landline.connect("quic://127.0.0.1:1", backoff=ONCE, options=options):
            pytest.fail("trusted nobody")


async def test_an_ssl_context_is_refused(certificates):
    options = landline.TransportOptions(tls=certificates.client)
    with pytest.raises(landline.ConfigurationError, match=r"pass TransportOptions\(ca_file="):
        async with landline.connect("quic://127.0.0.1:1", backoff=ONCE, options=options):
            pytest.fail("dropped the certificates it was given")


# Back-pressure.


async def test_a_receiver_that_does_not_read_stops_its_sender_and_costs_bounded_memory(opened, until):
    server = landline.Server()
    received = []

    @server.on_message
    def receive(line, message):
        received.append(len(message))

    # Neither the window of the session nor the send buffer is the limit here.
    huge = landline.Limits(window_bytes=1 << 30, window_frames=1_000_000)
    server._host.acceptor._settings = msgspec.structs.replace(server._host.settings, limits=huge)
    buffer = landline.SendBuffer(size_bytes=1 << 28, messages=1_000_000)
    async with opened(server, send_buffer=buffer) as (line, _):
        [other] = server.lines
        there, here = transport_of(other), transport_of(line)
        there.pause_reading()
        assert not there.is_reading()
        for _ in range(640):
            line.send_nowait(bytes(16_000))
        await until(lambda: here._is_writing_paused and sum(map(len, there._held)) > WINDOW_BYTES - 2000)
        held = sum(map(len, there._held))
        assert held <= WINDOW_BYTES
        assert not received
        # One write may exceed the limit; all other data waits in the session.
        assert here.get_write_buffer_size() <= quic_transport.UNACKNOWLEDGED_BYTES_HIGH + 2 * 65_536
        assert line.buffered_bytes > 5_000_000
        there.resume_reading()
        await until(lambda: len(received) == 640)
        assert set(received) == {16_000}
        await until(lambda: not here._is_writing_paused)


async def test_windows_slide_and_do_not_grow(opened):
    async with opened(echo_server()) as (line, server):
        body = bytes(1_000_000)
        for _ in range(4):
            await line.request("echo", body, timeout=30)
        [other] = server.lines
        for end in (line, other):
            connection = transport_of(end)._connection
            assert connection.read_bytes > 4_000_000
            ahead = connection._local_max_data.value - connection.read_bytes
            assert ahead <= WINDOW_BYTES
            assert connection._streams[0].max_stream_data_local - connection.read_bytes <= WINDOW_BYTES


# Keys.


async def test_keys_are_changed_while_data_goes_both_ways(opened, monkeypatch):
    monkeypatch.setattr("landline.transports.quic.connection.PACKETS_PER_KEY", 300)
    phases = []
    async with opened(echo_server(), relayed=True) as (line, server, proxy):
        here = transport_of(line)._connection
        there = transport_of(server.lines[0])._connection
        request = here.request_key_update
        monkeypatch.setattr(here, "request_key_update", lambda: (phases.append(here.key_phase), request()))
        proxy.up = proxy.down = DatagramFaults(reorder=0.02, loss=0.01)
        body = os.urandom(200_000)
        # The number of packets of a body depends on the network.
        while len(phases) < 4:
            assert await line.request("echo", body, timeout=20) == body
        # One after the other, each seen by the server.
        assert phases == [0, 1] * (len(phases) // 2) + [0] * (len(phases) % 2)
        await line.ping()
        if there.key_phase != here.key_phase:
            # The last packet updated the keys: the next one notifies the server.
            await line.ping()
        assert there.key_phase == here.key_phase
        assert line.epoch == 1


async def test_an_acknowledgement_goes_with_the_answer(opened):
    async with opened(echo_server(), relayed=True) as (line, _, proxy):
        await line.request("echo", 0, timeout=5)
        before = proxy.up_datagrams + proxy.down_datagrams
        for number in range(100):
            await line.request("echo", number, timeout=5)
        # In separate packets a request would take four.
        assert proxy.up_datagrams + proxy.down_datagrams - before < 350


# Addresses that change.


async def test_the_server_follows_a_client_whose_address_changes(opened, until, states):
    received = []
    server = echo_server()

    @server.on_message
    def receive(line, message):
        received.append(message)

    seen = states()
    async with opened(server, relayed=True, on_state=seen) as (line, _, proxy):
        [other] = server.lines
        ports = set()
        transport = transport_of(other)
        for number in range(300):
            await line.send(number)
            if number % 60 == 30:
                ports.update(proxy.client_ports)
                proxy.rebind()
                assert await line.request("echo", number, timeout=20) == number
                await until(lambda: other.peer == f"127.0.0.1:{proxy.client_ports[0]}")
        await until(lambda: len(received) == 300)
        assert received == list(range(300))
        assert len(ports) == 5
        assert transport_of(other) is transport
        assert line.epoch == 1
        assert not seen.find(landline.LineState.RECONNECTING)


async def test_addresses_change_in_the_middle_of_megabytes(opened, until):
    body = os.urandom(400_000)
    async with opened(echo_server(), relayed=True) as (line, _, proxy):
        for number in range(5):
            asking = asyncio.create_task(line.request("echo", body, timeout=30))
            passed = proxy.up_datagrams + 100
            await until(lambda passed=passed: proxy.up_datagrams > passed)
            proxy.rebind()
            passed = proxy.down_datagrams + 100
            await until(lambda passed=passed: proxy.down_datagrams > passed)
            proxy.rebind()
            assert await asking == body, number
        assert line.epoch == 1


async def test_a_client_continues_over_a_new_socket(opened, until):
    received = []
    server = landline.Server()

    @server.on_message
    def receive(line, message):
        received.append(message)

    async with opened(server) as (line, _):
        [other] = server.lines
        before, transport = other.peer, transport_of(line)
        for number in range(200):
            await line.send(number)
            if number == 100:
                # The error of the kernel if the address of the socket has gone with its network.
                transport._socket.receive_error(OSError(22, "Invalid argument"))
        await until(lambda: len(received) == 200)
        assert received == list(range(200))
        await until(lambda: other.peer != before)
        assert transport_of(line) is transport
        assert line.epoch == 1
        # A new socket that fails at once is not replaced again: the session resumes over a new connection.
        transport._socket.receive_error(OSError(101, "Network is unreachable"))
        await until(lambda: line.epoch == 2)
        await line.send(200)
        await until(lambda: len(received) == 201)
        assert received == list(range(201))


async def test_a_server_that_vanished_is_noticed_by_the_heartbeat(opened, until, states):
    seen = states()
    server = landline.Server(heartbeat=landline.Heartbeat(interval_s=0.2, timeout_s=0.3))
    async with opened(server, relayed=True, on_state=seen) as (line, _, proxy):
        proxy.hold()
        await until(lambda: seen.find(landline.LineState.RECONNECTING))
        assert seen.find(landline.LineState.RECONNECTING)[0].cause is landline.DisconnectCause.SILENT
        proxy.heal()
        await until(lambda: line.state is landline.LineState.ONLINE)


# Bad networks.


@pytest.mark.parametrize("loss", [0.1, 0.25])
async def test_no_message_is_lost_on_a_lossy_network(opened, until, loss):
    received = []
    server = landline.Server()

    @server.on_message
    def receive(line, message):
        received.append(message)
        line.send_nowait(message)

    async with opened(server, relayed=True) as (line, _, proxy):
        proxy.up = proxy.down = DatagramFaults(loss=loss, duplicate=0.05, reorder=0.1, jitter_s=0.002)
        for number in range(150):
            await line.send([number, bytes(500)])
        answers = [(await anext(line))[0] for _ in range(150)]
        assert answers == [number for number, _ in received] == list(range(150))
        assert proxy.lost_datagrams > 0


async def test_a_line_is_opened_through_losses(files, quick, until, nothing_is_left_open):
    server = echo_server()
    async with (
        server.listen(URL, options=files.server) as endpoint,
        DatagramProxy("127.0.0.1", endpoint.port, seed=4) as proxy,
    ):
        proxy.up = proxy.down = DatagramFaults(loss=0.15)
        async with landline.connect(proxy.url("quic"), backoff=quick, options=files.client) as line:
            assert await line.request("echo", 1, timeout=20) == 1
            proxy.heal()
            await line.close()
            transports = [one for one in nothing_is_left_open if isinstance(one, QuicTransport)]
            await until(lambda: not any(one.is_open for one in transports))


# Datagrams.


class Recorder(asyncio.Protocol):
    """A protocol that accepts datagrams too."""

    def __init__(self):
        self.data = b""
        self.datagrams = []
        self.lost = []
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.data += data

    def datagram_received(self, data):
        self.datagrams.append(data)

    def connection_lost(self, exc):
        self.lost.append(exc)


@pytest.fixture
async def recorders(files, until):
    """A client and a server without lines."""
    here, there = Recorder(), Recorder()
    listener = await quic.listen(landline.parse_url(URL), lambda: there, files.server)
    await quic.connect(listener.endpoint, lambda: here, files.client)
    await until(lambda: there.transport is not None)
    yield here, there, listener
    here.transport.abort()
    there.transport.abort()
    listener.close()


async def test_datagrams_go_both_ways_and_arrive_whole(recorders, until):
    here, there, _ = recorders
    for sender, receiver in ((here, there), (there, here)):
        longest = sender.transport.datagram_bytes_max
        assert 1000 <= longest < 1200
        assert sender.transport.send_datagram(b"")
        assert sender.transport.send_datagram(bytes(longest))
        assert not sender.transport.send_datagram(bytes(longest + 1))
        await until(lambda receiver=receiver: len(receiver.datagrams) == 2)
        assert receiver.datagrams == [b"", bytes(longest)]


async def test_datagrams_that_wait_for_congestion_control_are_dropped_at_a_limit(recorders, until):
    here, there, _ = recorders
    longest = here.transport.datagram_bytes_max
    taken = sum(here.transport.send_datagram(bytes(longest)) for _ in range(100))
    assert taken == quic_transport.DATAGRAMS_WAITING_MAX
    await until(lambda: len(there.datagrams) == taken)
    assert here.transport.send_datagram(b"again")
    await until(lambda: there.datagrams[-1] == b"again")


async def test_a_peer_without_datagrams_is_sent_none(files, until, stranger):
    there = Recorder()
    listener = await quic.listen(landline.parse_url(URL), lambda: there, files.server)
    one = stranger()
    await one.open(listener.endpoint)
    await until(lambda: one.has(HandshakeCompleted))
    one.send(b"\x01")
    await until(lambda: there.transport is not None)
    assert there.transport.datagram_bytes_max == 0
    assert not there.transport.send_datagram(b"")
    there.transport.abort()
    listener.close()


async def test_a_line_ignores_datagrams_without_a_handler(opened):
    async with opened(echo_server()) as (line, _):
        assert transport_of(line).send_datagram(bytes([0, 0]) + b"?")
        assert await line.request("echo", 1, timeout=5) == 1


# Ends.


async def test_what_was_written_arrives_before_the_end(recorders, until):
    here, there, listener = recorders
    here.transport.write(bytes(300_000))
    here.transport.write(bytearray(b"last"))
    here.transport.close()
    here.transport.write(b"too late")
    assert here.transport.is_closing()
    await until(lambda: here.lost and there.lost)
    assert there.data == bytes(300_000) + b"last"
    # Both ended in order.
    assert here.lost == there.lost == [None]
    assert listener.connection_ids == 0


async def test_an_abort_sends_one_datagram(recorders, until):
    here, there, _ = recorders
    here.transport.write(bytes(500_000))
    here.transport.abort()
    await until(lambda: here.lost and there.lost)
    assert here.lost == [None]
    assert isinstance(there.lost[0], ConnectionResetError)
    assert len(there.data) < 500_000


async def test_the_reason_of_a_closing_peer_stays_on_one_line(files, until, stranger):
    there = Recorder()
    listener = await quic.listen(landline.parse_url(URL), lambda: there, files.server)
    one = stranger()
    await one.open(listener.endpoint)
    await until(lambda: one.has(HandshakeCompleted))
    one.send(b"\x01")
    await until(lambda: there.transport is not None)
    one.quic.close(error_code=9, reason_phrase="\x1b[2Jgone\n" + "x" * 500)
    one.flush()
    await until(lambda: there.lost)
    [error] = there.lost
    assert isinstance(error, ConnectionResetError)
    assert str(error).isprintable()
    assert "gone" in str(error)
    assert "code 0x9" in str(error)
    assert len(str(error)) < 300
    listener.close()


async def test_a_closed_listener_accepts_no_new_connections_and_keeps_open_ones(recorders, files, until):
    here, there, listener = recorders
    listener.close()
    with pytest.raises(OSError):
        async with asyncio.timeout(0.2):
            await quic.connect(listener.endpoint, Recorder, files.client)
    here.transport.write(b"still here")
    await until(lambda: there.data == b"still here")
    assert listener.is_open
    here.transport.close()
    await until(lambda: not listener.is_open)


async def test_a_goodbye_arrives_when_the_loop_ends_right_after_it(opened, until):
    async with opened(echo_server()) as (line, server):
        [other] = server.lines
        await line.close()
        await until(lambda: other.is_closed)
        assert other.error is None


async def test_a_reader_that_pauses_gets_everything_afterwards(recorders, until):
    here, there, _ = recorders
    there.transport.pause_reading()
    here.transport.write(b"one")
    here.transport.write(b"two")
    here.transport.close()
    await until(lambda: there.transport._has_received_end)
    assert there.data == b""
    there.transport.resume_reading()
    await until(lambda: there.lost)
    assert there.data == b"onetwo"
    assert there.lost == [None]
