"""QUIC peers that are not landline clients, or violate the protocol."""

import asyncio
import contextlib
import itertools
import random
import time

import pytest
import trustme
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import HandshakeCompleted, PingAcknowledged, StreamDataReceived
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.tls import Epoch

import landline
from landline.transports.quic import sockets as quic
from landline.transports.quic import transport as quic_transport
from landline.transports.quic.connection import PIECES_MAX, WINDOW_BYTES
from landline.transports.quic.sockets import QuicListener

pytestmark = pytest.mark.usefixtures("nothing_is_left_open")
URL = "quic://127.0.0.1:0"


def echo_server(**arguments) -> landline.Server:
    server = landline.Server(**arguments)

    @server.on("echo")
    def echo(line, body):
        return body

    return server


def listener_of(server: landline.Server) -> QuicListener:
    [listener] = server._host.listeners.opened
    return listener


async def test_garbage_is_ignored(files, quick, until, stranger):
    server = echo_server()
    async with server.listen(URL, options=files.server) as endpoint:
        listener = listener_of(server)
        chance = random.Random(7)
        one = stranger()
        one.is_mute = True
        await one.open(endpoint)
        await until(lambda: one.answers)
        heard = len(one.answers)
        for size in [0, 1, 2, 8, 9, 20, 100, 1199, 1200, 1400, 9000]:
            one.udp.sendto(chance.randbytes(size))
            # A short header, and long ones of every type with the version that is spoken.
            one.udp.sendto(b"\x40" + chance.randbytes(size))
            for kind in (0xC0, 0xD0, 0xE0, 0xF0):
                one.udp.sendto(bytes([kind]) + bytes.fromhex("0000000108") + chance.randbytes(size))
        # A first packet that cannot be decrypted, well-formed to its last field.
        head = bytes.fromhex("c00000000108") + bytes(8) + bytes.fromhex("08") + bytes(8) + bytes.fromhex("00")
        one.udp.sendto(head + bytes.fromhex("4480") + chance.randbytes(1200))
        async with landline.connect(str(endpoint), backoff=quick, options=files.client) as line:
            assert await line.request("echo", 1, timeout=5) == 1
            assert listener.handshakes == 1
            assert listener.connections == 2
        # The server repeats its handshake to the mute client; it answers nothing else except one unknown version.
        versions = [answer for answer in one.answers[heard:] if answer[1:5] == bytes(4)]
        assert len(versions) <= 3
        assert len(server.lines) == 0


async def test_modified_first_packets_have_no_effect(files, stranger, monkeypatch):
    monkeypatch.setattr(quic, "RETRY_ABOVE_HANDSHAKES", 6)
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    chance = random.Random(11)
    listener = await quic.listen(landline.parse_url(URL), asyncio.Protocol, files.server)
    one = stranger()
    await one.open(listener.endpoint)
    for _ in range(40):
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["landline/1"])
        client = QuicConnection(configuration=configuration)
        client.connect(("127.0.0.1", 1), now=time.monotonic())
        [(packet, _)] = client.datagrams_to_send(now=time.monotonic())
        for changes in (1, 1, 2, 8, 0):
            changed = bytearray(packet)
            for _ in range(changes):
                changed[chance.randrange(chance.choice([30, 60, 1200]))] = chance.randrange(256)
            if chance.random() < 0.2:
                del changed[chance.randrange(1200) :]
            elif chance.random() < 0.2:
                changed += changed[: chance.randrange(1200)]
            listener.datagram_received(bytes(changed), ("127.0.0.1", one.udp.get_extra_info("sockname")[1]))
            assert listener.handshakes <= 6
    await asyncio.sleep(0)
    assert listener.handshakes
    assert not reported
    listener.close()
    assert listener.connection_ids == 0


async def test_an_unknown_version_is_answered_with_the_supported_ones(files, until, stranger):
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        one = stranger()
        one.is_mute = True
        await one.open(endpoint)
        await until(lambda: one.answers)
        one.answers.clear()
        asked = bytes.fromhex("c0babababa08") + bytes(range(8)) + bytes.fromhex("08") + b"12345678"
        one.udp.sendto(asked + bytes(1100 - len(asked)))  # Too short to begin a connection: no answer.
        one.udp.sendto(asked + bytes(1200 - len(asked)))
        await until(lambda: any(answer[1:5] == bytes(4) for answer in one.answers))
        [answer] = [answer for answer in one.answers if answer[1:5] == bytes(4)]
        assert answer.endswith(bytes.fromhex("00000001"))
        assert b"12345678" in answer


async def test_an_unproven_address_gets_at_most_three_times_its_bytes(
    files, tmp_path, until, stranger, monkeypatch
):
    """The packet that closes an unfinished handshake counts too: the source address may be forged."""
    monkeypatch.setattr(quic_transport, "HANDSHAKE_TIMEOUT_S", 1.0)
    authority = trustme.CA()
    # A certificate chain longer than what may be sent.
    for _ in range(8):
        authority = authority.create_child_ca()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "chain.pem")
    options = landline.TransportOptions(certificate_file=tmp_path / "chain.pem")
    server = landline.Server()
    async with server.listen(URL, options=options) as endpoint:
        listener = listener_of(server)
        one = stranger()
        one.is_mute = True
        await one.open(endpoint)
        await until(lambda: listener.handshakes)
        await until(lambda: listener.handshakes == 0)
        assert one.sent_bytes >= 1200
        # The packet that closes the connection would exceed the limit.
        await until(lambda: sum(map(len, one.answers)) > 3 * one.sent_bytes - 100)
        # It may be read later than the packets before it.
        for _ in range(50):
            await asyncio.sleep(0)
        assert sum(map(len, one.answers)) <= 3 * one.sent_bytes


async def test_an_incomplete_handshake_times_out(files, until, stranger, monkeypatch):
    monkeypatch.setattr(quic_transport, "HANDSHAKE_TIMEOUT_S", 0.5)
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        silent, idle = stranger(), stranger()
        silent.is_mute = True
        await silent.open(endpoint)
        await idle.open(endpoint)
        # One stops after its first packet, the other has a connection but never opens the stream.
        await until(lambda: idle.has(HandshakeCompleted))
        await until(lambda: listener_of(server).connections == 0)
        await until(lambda: idle.closed is not None)
        assert idle.closed.reason_phrase == "the handshake took too long"
        assert listener_of(server).connection_ids == 0
        assert not server.lines


async def test_with_many_unfinished_handshakes_clients_must_prove_their_address(
    files, quick, until, stranger, monkeypatch
):
    monkeypatch.setattr(quic, "RETRY_ABOVE_HANDSHAKES", 2)
    monkeypatch.setattr(quic, "HANDSHAKES_MAX", 3)
    server = echo_server()
    async with server.listen(URL, options=files.server) as endpoint:
        listener = listener_of(server)
        mute = [stranger() for _ in range(4)]
        for one in mute:
            one.is_mute = True
            await one.open(endpoint)
            await until(lambda one=one: one.answers)
        # The listener stores nothing for the third and fourth; they got a Retry (type 3 of a long header).
        assert listener.handshakes == 2
        assert [one.answers[0][0] & 0xF0 == 0xF0 for one in mute] == [False, False, True, True]
        async with landline.connect(str(endpoint), backoff=quick, options=files.client) as line:
            assert await line.request("echo", 1, timeout=5) == 1
        # A token that was issued for another address.
        other = stranger()
        other.is_mute = True
        await other.open(endpoint)
        await until(lambda: other.answers)
        retry = other.answers[0]
        thief = stranger()
        thief.is_mute = True
        await thief.open(endpoint)
        await until(lambda: thief.answers)
        thief.quic.receive_datagram(thief.answers[0], thief.address, now=time.monotonic())
        thief.quic._peer_token = retry[-200:]
        thief.flush()
        # There is a limit for proven addresses too.
        proven = [stranger(), stranger()]
        for one in proven:
            await one.open(endpoint)
            await until(lambda one=one: one.answers)
        await until(lambda: listener.handshakes == 3)
        assert listener.connections == 3


async def test_many_clients_connect_by_proving_their_addresses(files, quick, monkeypatch):
    monkeypatch.setattr(quic, "RETRY_ABOVE_HANDSHAKES", 4)
    tokens = []
    validate = QuicRetryTokenHandler.validate_token
    monkeypatch.setattr(
        QuicRetryTokenHandler, "validate_token", lambda *a, **k: (tokens.append(1), validate(*a, **k))[1]
    )
    server = echo_server()
    async with server.listen(URL, options=files.server) as endpoint, contextlib.AsyncExitStack() as stack:
        connectors = [landline.connect(str(endpoint), backoff=quick, options=files.client) for _ in range(30)]
        lines = await asyncio.gather(*map(stack.enter_async_context, connectors))
        answers = await asyncio.gather(*(line.request("echo", n) for n, line in enumerate(lines)))
        assert answers == list(range(30))
        assert len(tokens) >= 10
        assert len({line.session_id for line in lines}) == 30


async def test_admission_limits_apply_to_quic_too(files, quick, states, until):
    server = echo_server(admission=landline.Admission(per_s=0.5, burst=1))
    seen = states()
    async with server.listen(URL, options=files.server) as endpoint:
        async with landline.connect(str(endpoint), backoff=quick, options=files.client):
            once = landline.Backoff(first_s=0.001, cap_s=0.002, attempts=1)
            with pytest.raises(landline.GaveUp, match="too many clients connect at once"):
                async with landline.connect(str(endpoint), backoff=once, options=files.client, on_state=seen):
                    pytest.fail("was let in")
        assert server.connections_refused == 1


@pytest.mark.parametrize(
    ("first", "code", "text"),
    [
        (b"\x02", quic_transport.CODE_PREAMBLE, "does not start with the byte 1"),
        (b"GET / HTTP/1.1", 2, "the byte 1"),
    ],
)
async def test_a_stream_with_another_first_byte_is_refused(files, until, stranger, first, code, text):
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        one = stranger()
        await one.open(endpoint)
        await until(lambda: one.has(HandshakeCompleted))
        one.send(first)
        await until(lambda: one.closed is not None)
        assert one.closed.error_code == code
        assert text in one.closed.reason_phrase
        await until(lambda: listener_of(server).connections == 0)


async def test_another_protocol_is_refused(files, until, stranger):
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        for protocols in (["h3"], None):
            one = stranger(alpn_protocols=protocols)
            await one.open(endpoint)
            await until(lambda one=one: one.closed is not None)
        await until(lambda: listener_of(server).connections == 0)
        assert not server.lines


async def test_a_client_of_another_library_is_served_after_its_first_byte(files, until, stranger):
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        one = stranger()
        await one.open(endpoint)
        await until(lambda: one.has(HandshakeCompleted))
        assert not one.has(StreamDataReceived)
        one.send(b"\x01")
        await until(lambda: one.has(StreamDataReceived))
        [challenge] = one.has(StreamDataReceived)
        assert challenge.stream_id == 0
        assert challenge.data[4] == 1
        # It may open no second stream.
        one.quic._remote_max_streams_bidi = 9
        one.quic.send_stream_data(4, b"x")
        one.flush()
        await until(lambda: one.closed is not None)
        assert one.closed.error_code == 4  # STREAM_LIMIT_ERROR, RFC 9000 §20.1


async def test_data_after_a_gap_is_limited_to_the_window(files, until, stranger):
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        one = stranger()
        await one.open(endpoint)
        await until(lambda: one.has(HandshakeCompleted))
        one.send(b"\x01")
        await until(lambda: one.has(StreamDataReceived))
        [stream] = one.quic._streams.values()
        stream.max_stream_data_remote = one.quic._remote_max_data = 1 << 40
        stream.sender._buffer_stop = stream.sender._buffer_start = 2 * WINDOW_BYTES
        one.send(b"far behind")
        await until(lambda: one.closed is not None)
        assert one.closed.error_code == 3  # FLOW_CONTROL_ERROR


def in_pieces(one, count, *, of_handshake):
    """Packets with every second byte of a stream, one frame for each."""
    quic, written = one.quic, []
    kind, epoch = (
        (QuicPacketType.INITIAL, Epoch.INITIAL) if of_handshake else (QuicPacketType.ONE_RTT, Epoch.ONE_RTT)
    )
    offsets = iter(range(1001, 1001 + 2 * count, 2))
    while (first := next(offsets, None)) is not None:
        builder = QuicPacketBuilder(
            host_cid=quic.host_cid,
            is_client=True,
            packet_number=quic._packet_number,
            peer_cid=quic._peer_cid.cid,
            spin_bit=False,
            version=quic._version,
            max_datagram_size=1200,
        )
        builder.start_packet(kind, quic._cryptos[epoch])
        for offset in itertools.chain([first], itertools.islice(offsets, 100)):
            if of_handshake:
                frame = builder.start_frame(QuicFrameType.CRYPTO)
            else:
                frame = builder.start_frame(QuicFrameType.STREAM_BASE | 4 | 2)  # with offset and length
                frame.push_uint_var(0)
            frame.push_uint_var(offset)
            frame.push_uint_var(1)
            frame.push_bytes(b"x")
        written += builder.flush()[0]
        quic._packet_number = builder.packet_number
    return written


@pytest.mark.parametrize("of_handshake", [True, False], ids=["handshake", "line"])
async def test_a_stream_in_a_thousand_pieces_ends_the_connection(files, until, stranger, of_handshake):
    """Any peer that opens a connection can send them; keeping 100,000 in order would block the server for minutes."""
    async with landline.Server().listen(URL, options=files.server) as endpoint:
        one = stranger()
        await one.open(endpoint)
        if of_handshake:
            # The handshake does not continue: its keys are those of the first packet.
            one.is_mute = True
            await until(lambda: one.answers)
            one.is_mute = False
        else:
            await until(lambda: one.has(HandshakeCompleted))
            one.send(b"\x01")
            await until(lambda: one.has(StreamDataReceived))
        for packet in in_pieces(one, PIECES_MAX - 1, of_handshake=of_handshake):
            one.udp.sendto(packet)
        one.quic.send_ping(1)
        one.flush()
        if not of_handshake:
            await until(lambda: one.has(PingAcknowledged))
        assert one.closed is None
        for packet in in_pieces(one, 1000, of_handshake=of_handshake):
            one.udp.sendto(packet)
        await until(lambda: one.closed is not None)
        assert one.closed.reason_phrase == f"a stream in more than {PIECES_MAX} pieces"


@pytest.mark.parametrize("how", ["reset", "stop"])
async def test_a_reset_stream_ends_the_connection(files, until, stranger, how):
    server = landline.Server()
    async with server.listen(URL, options=files.server) as endpoint:
        one = stranger()
        await one.open(endpoint)
        await until(lambda: one.has(HandshakeCompleted))
        one.send(b"\x01")
        await until(lambda: one.has(StreamDataReceived))
        if how == "reset":
            one.quic.reset_stream(0, 9)
        else:
            one.quic.stop_stream(0, 9)
        one.flush()
        await until(lambda: one.closed is not None)
        assert one.closed.error_code == quic_transport.CODE_ABORTED
        await until(lambda: not server._host.acceptor.unfinished)


async def test_a_protocol_that_fails_ends_its_connection_only(files, until, stranger):
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    class Failing(asyncio.Protocol):
        def data_received(self, data):
            raise ZeroDivisionError(data)

    listener = await quic.listen(landline.parse_url(URL), Failing, files.server)
    one, other = stranger(), stranger()
    for each in (one, other):
        await each.open(listener.endpoint)
        await until(lambda each=each: each.has(HandshakeCompleted))
        each.send(b"\x01")
    await until(lambda: listener.connections == 2 and listener.handshakes == 0)
    one.send(b"boom")
    await until(lambda: listener.connections == 1)
    assert isinstance(reported[0]["exception"], ZeroDivisionError)
    await until(lambda: one.closed is not None)
    other.send(b"", end_stream=True)
    await until(lambda: listener.connections == 0)
    listener.close()
