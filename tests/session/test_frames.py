import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import targets
from tests.fuzz.targets import pieces_of

from landline.codes import Code, Operation
from landline.errors import ProtocolError
from landline.session.constants import (
    FRAGMENT_BYTES,
    FRAME_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    LENGTH_BYTES,
    NAME_BYTES_MAX,
    Kind,
)
from landline.session.frames import (
    DATA_HEADER,
    DATA_HEADER_BYTES,
    ByeFinder,
    FrameReader,
    decode_datagram,
    decode_ping,
    encode_ack,
    encode_data,
    encode_datagram,
    encode_eof,
    encode_frame,
    encode_ping,
)

U64 = st.integers(0, 2**64 - 1)


def test_a_frame_is_length_kind_body():
    assert encode_frame(Kind.BYE, b"abc") == b"\0\0\0\4\x16abc"


def test_data_has_every_field_at_its_place():
    frame = encode_data(5, 4, Operation.REQUEST, 7, b"nm", b"xyz")
    expected = "0000001910000000000000000504020000000000000007026e6d78797a"
    assert frame.hex() == expected


def test_ack_and_eof_carry_a_sequence_number():
    assert encode_ack(258).hex() == "00000009110000000000000102"
    assert encode_eof(3).hex() == "00000009150000000000000003"


def test_the_largest_data_frame_is_within_the_limit():
    frame = encode_data(1, 0, Operation.MESSAGE, 0, b"n" * NAME_BYTES_MAX, bytes(FRAGMENT_BYTES))
    assert len(frame) - 4 <= FRAME_BYTES_MAX


@given(U64, U64, U64)
@settings(deadline=None, max_examples=30, derandomize=True)
def test_a_heartbeat_is_decoded_as_it_was_encoded(number, time_us, acked):
    assert decode_ping(encode_ping(Kind.PING, number, time_us, acked)[5:]) == (number, time_us, acked)


@pytest.mark.parametrize("kind", [Kind.PING, Kind.PONG])
def test_a_heartbeat_with_any_bit_flipped_is_refused(kind):
    body = encode_ping(kind, 1, 2, 3)[5:]
    for bit in range(len(body) * 8):
        wrong = bytearray(body)
        wrong[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError, match="checksum"):
            decode_ping(bytes(wrong))


@pytest.mark.parametrize("size", [0, 27, 29])
def test_a_heartbeat_of_the_wrong_size_is_refused(size):
    with pytest.raises(ProtocolError, match=f"{size} bytes instead of 28"):
        decode_ping(bytes(size))


FRAMES = [(1, b""), (2, b"hello"), (255, bytes(300))]
STREAM = b"".join(encode_frame(kind, body) for kind, body in FRAMES)


def test_the_reader_splits_whole_frames():
    assert list(FrameReader().feed(STREAM)) == FRAMES


def test_the_reader_splits_frames_that_arrive_byte_by_byte():
    reader = FrameReader()
    assert [frame for i in range(len(STREAM)) for frame in reader.feed(STREAM[i : i + 1])] == FRAMES
    assert reader.pop_trailing_data() == b""


def test_the_reader_returns_trailing_data_once():
    reader = FrameReader()
    assert list(reader.feed(STREAM + b"\0\0")) == FRAMES
    assert reader.pop_trailing_data() == b"\0\0"
    assert reader.pop_trailing_data() == b""


def test_the_reader_stops_where_its_user_stops():
    reader = FrameReader()
    assert next(reader.feed(STREAM)) == FRAMES[0]
    assert reader.pop_trailing_data() == STREAM[5:]


def test_the_reader_refuses_an_empty_frame():
    with pytest.raises(ProtocolError, match="empty"):
        list(FrameReader().feed(b"\0\0\0\0"))


def test_the_reader_refuses_a_frame_above_its_limit_before_it_is_whole():
    reader = FrameReader()
    at_limit = encode_frame(Kind.HELLO, bytes(HANDSHAKE_BYTES_MAX - 1))
    assert len(list(reader.feed(at_limit))) == 1
    with pytest.raises(ProtocolError) as refused:
        list(reader.feed((HANDSHAKE_BYTES_MAX + 1).to_bytes(4, "big")))
    assert refused.value.code is Code.LIMIT_EXCEEDED


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_chunks_make_no_difference_to_the_reader(data, cuts):
    def read(pieces):
        reader, frames = FrameReader(64), []
        try:
            for piece in pieces:
                frames.extend(reader.feed(piece))
        except ProtocolError as error:
            return frames, error.code
        return frames, reader.pop_trailing_data()

    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert read(data[a:b] for a, b in itertools.pairwise(edges)) == read([data])


@st.composite
def frames_of_every_kind(draw):
    """A frame as its encoder makes it, and what a reader should make of it."""
    kind = draw(st.sampled_from(list(Kind)))
    if kind is Kind.DATA:
        sequence, correlation = draw(U64), draw(U64)
        flags, operation = draw(st.integers(0, 255)), draw(st.integers(0, 255))
        name, payload = draw(st.binary(max_size=NAME_BYTES_MAX)), draw(st.binary(max_size=300))
        frame = encode_data(sequence, flags, operation, correlation, name, payload)
        header = (len(frame) - LENGTH_BYTES, kind, sequence, flags, operation, correlation, len(name))
        assert DATA_HEADER.unpack_from(frame) == header
        return frame, (kind, frame[5:DATA_HEADER_BYTES] + name + payload)
    if kind in {Kind.ACK, Kind.EOF}:
        sequence = draw(U64)
        encode = encode_ack if kind is Kind.ACK else encode_eof
        return encode(sequence), (kind, sequence.to_bytes(8, "big"))
    if kind in {Kind.PING, Kind.PONG}:
        fields = draw(U64), draw(U64), draw(U64)
        frame = encode_ping(kind, *fields)
        assert decode_ping(frame[5:]) == fields
        return frame, (kind, frame[5:])
    if kind is Kind.DATAGRAM:
        name, body, is_packed = draw(st.text(max_size=60)), draw(st.binary(max_size=900)), draw(st.booleans())
        frame = encode_datagram(name.encode(), body, is_packed=is_packed)
        assert decode_datagram(frame[5:]) == (name, body, is_packed)
        return frame, (kind, frame[5:])
    body = draw(st.binary(max_size=300))
    return encode_frame(kind, body), (kind, body)


@given(st.lists(frames_of_every_kind(), max_size=6), st.integers(0, 20))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_every_kind_of_frame_is_decoded_as_it_was_encoded(frames, seed):
    reader = FrameReader(FRAME_BYTES_MAX)
    stream = b"".join(frame for frame, _ in frames)
    found = [found for piece in pieces_of(stream, seed) for found in reader.feed(piece)]
    assert found == [expected for _, expected in frames]
    assert reader.pop_trailing_data() == b""


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=200, derandomize=True)
def test_the_reader_holds_the_fuzzed_invariants(data):
    targets.wire(data)


# Search for a BYE in discarded bytes

BYE = encode_frame(Kind.BYE, b"\x81\xa4code\xcc\xc8")
OTHERS = encode_data(1, 0, 1, 0, b"n", b"\x16" * 40) + encode_ack(1) + encode_eof(2)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 1000])
@pytest.mark.parametrize("cut", [0, 3, 5, 30])
def test_a_bye_is_found_once_it_is_whole(size, cut):
    finder = ByeFinder(OTHERS[:cut])
    data = OTHERS[cut:] + OTHERS + BYE
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert [finder.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]


def test_other_frames_are_not_mistaken_for_a_bye():
    finder = ByeFinder()
    assert not finder.feed(OTHERS + BYE[:-1])
    # What is no frame is passed over.
    assert not ByeFinder().feed(b"\0\0\0\0\x10" + OTHERS)
