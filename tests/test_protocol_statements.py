"""Sentences of ``docs/protocol.md`` outside of its tables: each is on the page, and the code complies with it."""

import asyncio
import hashlib
import random
import re
from pathlib import Path

import msgspec
import pytest
from tests.line_internals import host_of, session_of
from tests.protocol_document import DOCUMENT, rows_under
from tests.raw_connections import raw_connection, read_frame, read_refusal, shake_hands
from tests.reserved_handlers import handle_reserved

import landline
from landline.codes import Code, Operation
from landline.files import messages as words
from landline.files.names import NAME_BYTES_MAX as FILE_NAME_BYTES_MAX
from landline.files.names import name_problem
from landline.line.dispatcher import REQUESTS_RUNNING_MAX
from landline.session.auth import SharedToken
from landline.session.bodies import Bye, Notice, ResumeTicket, Welcome, encode_body
from landline.session.constants import (
    FLAG_BULK,
    FLAG_MORE,
    FLAG_PACKED,
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    HANDSHAKE_TIMEOUT_S,
    IDENTITY_BYTES_MAX,
    Kind,
)
from landline.session.events import Ended, NoticeReceived
from landline.session.frames import encode_ack, encode_data, encode_datagram, encode_eof, encode_frame
from landline.session.handshake import ClientHandshake, ServerHandshake
from landline.session.session import Session
from landline.session.settings import Heartbeat, Limits, SendBuffer
from landline.session.state import State
from landline.transports.linger import DISCARD_BYTES_MAX, LINGER_TIMEOUT_S

FILES_DOCUMENT = (Path(__file__).parents[1] / "docs" / "files.md").read_text(encoding="utf-8")
URL = "tcp://127.0.0.1:0"
PACKED_NIL = b"\xc0"


def says(heading: str, sentence: str) -> None:
    """Assert that the section of that number contains the sentence."""
    match = re.search(rf"^#+ {re.escape(heading)} .*?(?=^#)", DOCUMENT + "\n#", re.MULTILINE | re.DOTALL)
    assert match is not None, f"the document has no section {heading}"
    assert " ".join(sentence.split()) in " ".join(match[0].split())


@pytest.fixture
def session():
    made = Session(
        session_id=bytes(16),
        secret=bytes(32),
        is_server=True,
        limits=Limits(),
        peer_limits=Limits(),
        heartbeat=Heartbeat(),
        send_buffer=SendBuffer(),
    )
    made.attach(0.0, epoch=1, peer_received=0, phase=0.0)
    return made


def feed(session, *frames):
    session.receive_data(b"".join(frames), 0.0)
    return session.next_events()


async def answer_to(hello: object, server: landline.Server | None = None) -> landline.Rejected | None:
    """What a server rejects a HELLO with; ``None`` if it welcomes it. ``hello`` is a map, or the bytes of one."""
    server = server or landline.Server()
    body = hello if isinstance(hello, bytes) else msgspec.msgpack.encode(hello)
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        writer.write(encode_frame(Kind.HELLO, body))
        await read_frame(reader)
        kind, answer = await read_frame(reader)
        if kind == Kind.WELCOME:
            return None
        return msgspec.msgpack.decode(answer)["code"]


HELLO = {"version": 1, "nonce": bytes(32), "limits": {}}


# §1: maps.


async def test_unknown_values_may_be_deep_and_of_two_equal_keys_the_last_one_counts():
    says("1.2", "Values nested more than 200 levels deep may be refused.")
    assert await answer_to({**HELLO, "later": nested(200)}) is None
    deep = b"\x84" + msgspec.msgpack.encode(HELLO)[1:] + b"\xa5later" + b"\x91" * 7000 + b"\xc0"
    assert await answer_to(deep) == Code.PROTOCOL_ERROR
    says("1.2", "A sender must not write a key twice; a receiver uses the last one.")
    twice = b"\x84" + b"\xa7version\x02" + msgspec.msgpack.encode(HELLO)[1:]
    assert await answer_to(twice) is None
    assert await answer_to(b"\x84" + msgspec.msgpack.encode(HELLO)[1:] + b"\xa7version\x02") == 202


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth - 1):
        value = [value]
    return value


# §3 and §4: the handshake.


async def test_a_handshake_that_takes_too_long_gets_a_reject():
    limits = {row[0]: row for row in rows_under("3.1")}
    assert "after which the server sends REJECT `HANDSHAKE_TIMEOUT`" in limits["handshake"][2]
    assert float(limits["handshake"][1]) == HANDSHAKE_TIMEOUT_S
    # That it does is in tests/server/test_acceptor.py.


@pytest.mark.parametrize(
    ("version", "code"),
    [({}, 202), ({"version": None}, 202), ({"version": 2}, 202), ({"version": "1"}, 201)],
)
async def test_a_version_that_is_missing_or_of_another_type(version, code):
    says(
        "4.2",
        "A missing `version`, or nil, is another version. One of another type, and bytes after the map",
    )
    hello = {key: value for key, value in HELLO.items() if key != "version"}
    assert await answer_to({**hello, **version}) == code


async def test_bytes_after_the_map_of_a_hello():
    says("4.2", "bytes after the map, are a `PROTOCOL_ERROR`.")
    assert await answer_to(msgspec.msgpack.encode(HELLO) + b"\xc0") == Code.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("auth", "is_welcome"),
    [
        (None, True),
        ({"method": "none", "identity": "a", "proof": b""}, True),
        ({"method": "none", "identity": "a", "proof": b"abc"}, False),
        ({"method": "token", "identity": "a", "proof": bytes(32)}, False),
        ({"method": "other", "identity": "a", "proof": b""}, False),
    ],
)
async def test_claims_accepted_by_a_server_without_authentication(auth, is_welcome):
    says("4.5", "It answers a `proof` that is not empty, and any other method, with REJECT `UNAUTHENTICATED`")
    code = await answer_to({**HELLO, "auth": auth})
    assert code == (None if is_welcome else Code.UNAUTHENTICATED)


async def test_a_server_with_authentication_refuses_the_method_none():
    says("4.5", "A server with authentication answers `none` with REJECT `UNAUTHENTICATED`.")
    server = landline.Server(auth=SharedToken(bytes(16)))
    auth = {"method": "none", "identity": "a", "proof": b""}
    assert await answer_to({**HELLO, "auth": auth}, server) == Code.UNAUTHENTICATED


async def test_a_resumed_welcome_changes_no_timing_and_no_limits(fake_server, quick, until):
    says("4.3", "otherwise ignores them: those of the first WELCOME of the session are valid.")
    transports = []

    async def serve(reader, writer):
        handshake = ServerHandshake(random=random.SystemRandom(), now=0.0)
        writer.write(handshake.challenge_to_send())
        hello = None
        while hello is None:
            hello = handshake.feed(await reader.read(65536))
        is_second = bool(transports)
        transports.append(hello.resume)
        tiny = Limits(message_bytes=1024, window_bytes=65_536, window_frames=128)
        first = (Heartbeat(), Limits(), 120.0)
        heartbeat, limits, window_s = (Heartbeat(100.0, 100.0), tiny, 1.0) if is_second else first
        epoch = len(transports)
        welcome = Welcome(bytes(16), bytes(32), epoch, is_second, 0, heartbeat, limits, window_s)
        writer.write(encode_body(Kind.WELCOME, welcome))
        if is_second:
            await reader.read(-1)

    async with (
        fake_server(serve) as url,
        landline.connect(url, backoff=quick) as line,
    ):
        await until(lambda: line.epoch == 2)
        assert transports[1] is not None
        assert session_of(line).next_timeout() - host_of(line).wheel.time() < 100.0
        # More than the second WELCOME allows.
        await line.send(bytes(100_000))
        line.abort(landline.Code.NORMAL)


# §5: data.


def test_receivers_accept_any_payload_that_fits_a_frame(session):
    row = next(row for row in rows_under("3.1") if row[0] == "payload of a DATA frame")
    assert "A limit of senders: receivers accept any payload that fits a frame" in row[2]
    payload = bytes(FRAME_BYTES_MAX - 20)
    assert len(payload) > FRAGMENT_BYTES
    [message] = feed(session, encode_data(1, 0, Operation.MESSAGE, 0, b"", payload))
    assert message.body == payload


def test_a_receiver_checks_only_the_number_of_a_repeated_frame(session):
    says("5.2", "dropped, without looking at anything after the number, and is no error.")
    says("5.2", "Number 0 counts as already received.")
    first = encode_data(1, 0, Operation.MESSAGE, 0, b"", b"x")
    impossible = [encode_data(number, 0xFF, 99, 0, b"", b"")[:-1] + b"\xff" for number in (0, 1)]
    assert len(feed(session, first, *impossible)) == 1
    assert (session.is_attached, session.inbound.duplicates_dropped) == (True, 2)
    says("5.1", "A frame that is shorter than its header of 24 bytes is refused.")
    [ended] = feed(session, encode_frame(Kind.DATA, (1).to_bytes(8, "big")))
    assert ended.code is Code.PROTOCOL_ERROR


@pytest.mark.parametrize("size", [0, 7, 9])
@pytest.mark.parametrize(("kind", "heading"), [(Kind.ACK, "5.3"), (Kind.EOF, "5.4")])
def test_an_ack_or_eof_of_another_length_is_refused(session, kind, heading, size):
    says(heading, f"An {kind.name} of another length is refused too.")
    [ended] = feed(session, encode_frame(kind, bytes(size)))
    assert (type(ended), ended.code) == (Ended, Code.PROTOCOL_ERROR)


def test_eof_from_both_sides_does_not_end_the_session(session):
    says("5.4", "EOF from both sides does not end the session.")
    session.outbound.send_eof()
    session.data_to_send(0.0)
    feed(session, encode_ack(1), encode_eof(1))
    assert session.state is State.ATTACHED


async def read_data(reader) -> tuple[int, int, int, int, bytes]:
    """Number, flags, operation, correlation id, and what follows the header, of the next DATA frame."""
    while True:
        kind, body = await read_frame(reader)
        if kind == Kind.DATA:
            return (
                int.from_bytes(body[:8], "big"),
                body[8],
                body[9],
                int.from_bytes(body[10:18], "big"),
                body[19:],
            )


async def test_a_side_that_sent_eof_runs_no_handler():
    says(
        "5.4",
        "A REQUEST that arrives at a side that has sent EOF is acknowledged, and no handler runs for it.",
    )
    server, begun = landline.Server(), []
    server.on("work")(lambda line, _: begun.append(line))
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        await server.lines[0].send_eof()
        writer.write(encode_data(1, FLAG_PACKED, Operation.REQUEST, 1, b"work", PACKED_NIL))
        kind, body = await read_frame(reader)
        while kind != Kind.ACK:
            kind, body = await read_frame(reader)
        assert (int.from_bytes(body, "big"), begun) == (1, [])


async def test_a_cancel_travels_on_the_lane_of_its_request_and_an_answer_on_any():
    says("5.6", "CANCEL must travel on the lane of its request")
    says("5.6", "The sender of an answer chooses its lane, whatever the lane of the request.")
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        asking = asyncio.ensure_future(line.request("work", bytes(3 * FRAGMENT_BYTES)))
        flags = []
        operation = None
        while operation is None or flags[-1] & FLAG_MORE:
            _, flag, operation, _, _ = await read_data(reader)
            flags.append(flag)
        asking.cancel()
        _, cancel_flags, operation, correlation, _ = await read_data(reader)
        assert (operation, {flag & FLAG_BULK for flag in flags}) == (
            Operation.CANCEL,
            {cancel_flags & FLAG_BULK},
        )
        asking = asyncio.ensure_future(line.request("work"))
        _, _, _, correlation, _ = await read_data(reader)
        writer.write(encode_data(1, FLAG_PACKED | FLAG_BULK, Operation.RESPONSE, correlation, b"", b"\x07"))
        assert await asking == 7


@pytest.mark.parametrize("is_fragmented", [False, True])
async def test_a_cancel_may_have_a_body_and_fragments(is_fragmented):
    says("5.6", "one with a body, or in fragments, is accepted.")
    server = landline.Server()
    running, cancelled = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work(line, _):
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        writer.write(encode_data(1, FLAG_PACKED, Operation.REQUEST, 5, b"work", PACKED_NIL))
        await running.wait()
        if is_fragmented:
            writer.write(encode_data(2, FLAG_MORE, Operation.CANCEL, 5, b"", b"no "))
            writer.write(encode_data(3, 0, Operation.CONTINUE, 0, b"", b"more"))
        else:
            writer.write(encode_data(2, 0, Operation.CANCEL, 5, b"name", b"no more"))
        await cancelled.wait()


async def test_a_cancel_waits_for_the_window_which_running_handlers_may_fill(until):
    says("5.6", "It is DATA and waits for the window: while that is full, a request cannot be cancelled.")
    says("5.6", f"this implementation runs {REQUESTS_RUNNING_MAX} handlers that may wait, for each session")
    server = landline.Server(limits=Limits(window_frames=128))
    begun, release = [], asyncio.Event()

    @server.on("work")
    async def work(line, _):
        begun.append(line)
        await release.wait()

    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        count = REQUESTS_RUNNING_MAX + 128
        requests = [
            encode_data(number, FLAG_PACKED, Operation.REQUEST, number, b"work", PACKED_NIL)
            for number in range(1, count + 1)
        ]
        writer.writelines(requests[:REQUESTS_RUNNING_MAX])
        await read_ack(reader, REQUESTS_RUNNING_MAX)
        # They fill the window: one more frame, a CANCEL too, would overflow it, until a handler ends.
        writer.writelines(requests[REQUESTS_RUNNING_MAX:])
        await until(lambda: session_of(server.lines[0]).inbound.received == count)
        assert len(begun) == REQUESTS_RUNNING_MAX
        release.set()
        await read_ack(reader, count)


async def read_ack(reader, acked: int) -> None:
    kind, body = await read_frame(reader)
    while kind != Kind.ACK or int.from_bytes(body, "big") < acked:
        kind, body = await read_frame(reader)


async def test_a_packed_datagram_that_cannot_be_read_is_dropped(until):
    says("5.7", "A PACKED one whose body is not one MessagePack value is dropped.")
    server, received = landline.Server(), []
    server.on_datagram("position")(lambda line, value: received.append(value))
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        for body in (b"\xc1", b"", b"\x01\x02", b"\x07"):
            writer.write(encode_datagram(b"position", body, is_packed=True))
        await until(lambda: received)
        assert (received, line.datagrams_ignored) == ([7], 3)
        assert line.state is landline.LineState.ONLINE


def test_the_section_on_files_has_all_codes_and_names():
    says("5.8", "this section is all that the other side needs")
    page = {row[0] for row in rows_under("5.8") if row[0].islower() and len(row) == 2}
    files = (FILES_DOCUMENT.split("## Errors")[1]).split("##")[0]
    told = {
        code.strip()
        for line in files.splitlines()
        if line.startswith("| ")
        for code in line.split("|")[1].split(",")
    }
    assert page - {"code"} == told - {"code"}
    says("5.8", f"one of more than {FILE_NAME_BYTES_MAX} bytes of UTF-8")


@pytest.mark.parametrize(
    "name",
    [
        *("", "é" * 128, ".hidden", " a", "a ", "a.", "a\x00", "a\u200b", "a\u2028b", "a\ue000"),
        *(f"a{sign}b" for sign in '/\\:*?"<>|'),
        *("con", "PRN.txt", "aux", "nul", "com0", "COM9.log", "lpt0", "lpt9", "conin$", "conout$"),
    ],
)
def test_the_names_of_files_that_should_be_refused(name):
    assert name_problem(name) is not None


async def test_the_hash_of_an_accept_at_offset_0_is_that_of_empty_input(tmp_path):
    row = next(row for row in rows_under("5.8") if row[0] == "hash (accept)")
    assert "at `offset` 0 that of no bytes" in row[3]
    server, accepted = landline.Server(), asyncio.Queue()
    server.on_file(tmp_path)
    async with server.listen(URL) as endpoint:
        connector = landline.connect(str(endpoint))
        handle_reserved(
            connector, words.ACCEPT, lambda line, accept: accepted.put_nowait(accept), words.Accept
        )
        async with connector as line:
            offer = words.Offer(transfer=bytes(8), key=bytes(16), name="a", size_bytes=5, modified_ns=0)
            asking = asyncio.ensure_future(line.request(words.OFFER, offer))
            accept = await accepted.get()
            assert (accept.offset, accept.hash) == (0, hashlib.blake2b(digest_size=32).digest())
            asking.cancel()


# §7: resume.


async def test_a_failed_resume_does_not_harm_the_session(quick, until):
    says("7.4", "Such an attempt does not harm the old session")
    server = landline.Server()
    async with server.listen(URL) as endpoint, landline.connect(str(endpoint), backoff=quick) as line:
        [other] = server.lines
        async with raw_connection(endpoint) as (reader, writer):
            forged = ResumeTicket(line.session_id, bytes(32), line.epoch, 0)
            handshake = ClientHandshake(
                random=random.SystemRandom(),
                auth=landline.Anonymous(),
                identity="",
                limits=Limits(),
                resume=forged,
            )
            while handshake.welcome is None:
                handshake.feed(await reader.read(65536))
                writer.write(handshake.data_to_send())
            assert not handshake.welcome.resumed
        assert (other.state, other.epoch) == (landline.LineState.ONLINE, 1)
        line.break_link()
        await until(lambda: line.epoch == 2)
        assert other.epoch == 2


async def test_a_server_treats_link_replaced_as_a_loss(until):
    says("7.3", "A client must not send it; a server that receives it does the same.")
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        writer.write(encode_body(Kind.BYE, Bye(int(Code.LINK_REPLACED))))
        await until(lambda: line.state is landline.LineState.RECONNECTING)
        assert server.lines == [line]


def test_messages_that_were_never_written_are_reported_with_the_others(session):
    says("7.4", "this implementation reports them with the others.")
    session.outbound.send(Operation.MESSAGE, b"", b"written")
    session.data_to_send(0.0)
    session.receive_link_lost()
    session.outbound.send(Operation.MESSAGE, b"", b"never written")
    assert [message.body for message in session.outbound.unconfirmed()] == [b"written", b"never written"]


# §8: the end.


def test_every_code_has_a_sender():
    rows = [row for row in rows_under("8.1") if row[0].isdigit()]
    assert all(len(row) == 4 and re.search(r"\b(server|both|application)\b", row[3]) for row in rows)
    says("8.1", "102 and 208 are not used.")
    assert not {102, 208} & {int(code) for code in Code}


def test_a_notice_has_a_reason_of_500_characters_at_most(session):
    assert ("reason", "no", "string, 500; default empty", "for people") in rows_under("8.3")
    [notice] = feed(session, encode_body(Kind.NOTICE, Notice(206, "é" * 500)))
    assert isinstance(notice, NoticeReceived)
    too_long = msgspec.msgpack.encode({"code": 206, "reason": "é" * 501})
    [ended] = feed(session, encode_frame(Kind.NOTICE, too_long))
    assert ended.code is Code.PROTOCOL_ERROR


async def test_the_end_of_the_peers_sending_half_is_the_end_of_the_transport(until):
    says("8.4", "The end of the peer's sending half (FIN) is the end of the transport")
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        await shake_hands(reader, writer)
        [line] = server.lines
        writer.write_eof()
        await until(lambda: line.state is landline.LineState.RECONNECTING)
        assert await reader.read() == b""


async def test_after_a_reject_the_sender_ends_its_half_and_still_reads():
    says(
        "8.4",
        f"until the peer closes its end, for at most {LINGER_TIMEOUT_S:g} s; then it aborts the transport.",
    )
    says("8.4", "more than the window (§3.2) and 1 MiB.")
    assert DISCARD_BYTES_MAX == 1024 * 1024
    assert (
        next(row for row in rows_under("3.1") if row[0].startswith("wait after BYE"))[1]
        == f"{LINGER_TIMEOUT_S:g}"
    )
    says("2.4", f"ends the transport after {LINGER_TIMEOUT_S:g} s.")
    server = landline.Server()
    async with server.listen(URL) as endpoint, raw_connection(endpoint) as (reader, writer):
        writer.write(bytes(4))
        await read_refusal(reader)
        # The other half is still open.
        for _ in range(4):
            writer.write(bytes(DISCARD_BYTES_MAX // 8))
            await writer.drain()


# §13: calls.


def test_an_identity_has_bytes_in_calls_and_code_points_on_lines():
    assert any("where lines allow 200 code points (§4.2)" in row[1] for row in rows_under("13.3"))
    row = next(row for row in rows_under("3.1") if row[0] == "identity")
    assert row[1:] == (
        str(IDENTITY_BYTES_MAX),
        "code points (§4.2); clients should keep to 200 bytes, the limit of §13.3",
    )
