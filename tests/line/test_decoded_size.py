"""What a MessagePack body becomes in memory is limited, and known beforehand."""

import os
import random
import tracemalloc
from contextlib import suppress

import msgspec
import pytest

import landline
from landline.line.codec import decode_value
from landline.line.decoded_size import (
    _LENGTHS,
    DECODED_FACTOR_MAX,
    FEW_OBJECTS,
    MANY,
    MESSAGE_OBJECTS_MIN,
    SHORT_BYTES_MAX,
    _skip_many,
    check_objects,
    decoded_bytes,
)
from landline.line.handlers import Handler

encode = msgspec.msgpack.encode
COUNT = 5000


def array(item, count=COUNT):
    return b"\xdd" + count.to_bytes(4, "big") + item * count


def large_map(count, size):
    head = {2: b"\xcd", 4: b"\xce"}[size]
    return (
        b"\xdf"
        + count.to_bytes(4, "big")
        + b"".join(head + number.to_bytes(size, "big") + b"\0" for number in range(200, 200 + count))
    )


BODIES = {
    "small numbers": array(b"\x01"),
    "negative numbers": array(b"\xe0"),
    "uint16": array(b"\xcd\xff\xff"),
    "uint64": array(b"\xcf" + b"\xff" * 8),
    "float32": array(b"\xca\x3f\x80\0\x01"),
    "float64": array(b"\xcb" + b"\x3f\xf0\0\x01" * 2),
    "texts of two": array(b"\xa2ab"),
    "texts of one beyond Latin": array(b"\xa3\xe2\x82\xac"),
    "wide texts": array(b"\xbf\xf0\x9f\x98\x80" + b"a" * 27),
    "one wide text": b"\xdb\0\x0f\x42\x40\xf0\x9f\x98\x80" + b"a" * 999_996,
    "bytes": array(b"\xc4\x02xy"),
    "one large bytes": encode(["name", os.urandom(1_000_000)]),
    "empty maps": array(b"\x80"),
    "maps of one": array(b"\x81\0\xe0"),
    "maps of eleven": array(b"\x8b" + b"".join(bytes([key, key]) for key in range(11))),
    "maps of fifteen": array(b"\x8f" + b"".join(bytes([key, key]) for key in range(15))),
    "maps of 86": array(b"\xde\0\x56" + b"".join(bytes([key, key]) for key in range(86)), 200),
    "empty arrays": array(b"\x90"),
    "arrays of one": array(b"\x91\0"),
    "nested arrays": array(b"\x91" * 50 + b"\0", 200),
    "extensions": array(b"\xd4\x05x"),
    "timestamps": array(b"\xd6\xff\0\0\0\x01"),
    "a large map": large_map(43_693, 2),
    "a larger map": large_map(87_383, 4),
    "records": encode([{"name": f"lab-{i}", "since": i + 0.5, "tags": ["a", "bc"]} for i in range(1000)]),
    "Cyrillic": encode(["привет, мир" * 10] * 500),
}


def memory_of(body):
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        value = msgspec.msgpack.decode(body)
        most = tracemalloc.get_traced_memory()[1] - before
        del value
    finally:
        tracemalloc.stop()
    return most


def objects_in(body):
    """Return how many objects a value has, counted one by one."""

    def count(value):
        if isinstance(value, dict):
            entries = len(value) if len(value) > 15 else 0
            return 1 + entries + sum(map(count, value)) + sum(map(count, value.values()))
        if isinstance(value, list):
            return 1 + sum(map(count, value))
        return 0 if value is None or value is True or value is False or _is_small(value) else 1

    def _is_small(value):
        return type(value) is int and 0 <= value < 128

    return count(msgspec.msgpack.decode(body))


@pytest.mark.parametrize("name", BODIES)
def test_no_decoded_body_takes_more_memory_than_counted(name):
    body = BODIES[name]
    most = memory_of(body)
    # tracemalloc counts a few objects of its own.
    assert most <= decoded_bytes(body) + 2000
    assert most <= DECODED_FACTOR_MAX * len(body) + 2000


def test_one_large_text_or_blob_is_not_counted_as_many_objects():
    for name in ("one large bytes", "one wide text"):
        assert decoded_bytes(BODIES[name]) <= 5 * len(BODIES[name]) + FEW_OBJECTS * 700


@pytest.mark.parametrize("name", BODIES)
def test_every_object_of_a_body_is_counted(name):
    body = BODIES[name]
    objects = objects_in(body)
    for limit in {objects - 1, objects // 2}:
        if not FEW_OBJECTS <= limit < len(body):
            continue
        with pytest.raises(msgspec.DecodeError, match=f"more than {limit:,} objects"):
            check_objects(body, limit)
    check_objects(body, objects)


@pytest.mark.parametrize("first", _LENGTHS, ids=hex)
@pytest.mark.parametrize("size", [0, 1, SHORT_BYTES_MAX])
def test_short_values_with_a_length_are_skipped_in_one_step(first, size):
    """One by one, 99,000 of them in 200 KB took 75 ms, a hundred times as long as decoding them."""
    length, more = _LENGTHS[first]
    many = (bytes([first]) + size.to_bytes(length, "big") + b"\xe0" * (size + more)) * MANY
    passed = _skip_many(many, 0)
    assert passed is not None
    assert passed.end() == len(many)


def test_repeated_keys_and_random_values_are_counted_as_encoded():
    rng = random.Random(7)

    def value(depth):
        kinds = [
            lambda: rng.randrange(-(2**63), 2**64),
            lambda: rng.randrange(-40, 300),
            lambda: rng.random(),
            lambda: rng.choice([None, True, False]),
            lambda: "".join(chr(rng.choice([65, 233, 8364, 128512])) for _ in range(rng.randrange(50))),
            lambda: rng.randbytes(rng.choice([0, 3, 300, 70_000])),
        ]
        if depth:
            kinds += [
                lambda: [value(depth - 1) for _ in range(rng.randrange(20))],
                lambda: {str(key): value(depth - 1) for key in range(rng.randrange(20))},
            ]
        return rng.choice(kinds)()

    for _ in range(40):
        body = encode([value(3) for _ in range(20)])
        objects = objects_in(body)
        check_objects(body, objects)
        if FEW_OBJECTS < objects < len(body):
            with pytest.raises(msgspec.DecodeError):
                check_objects(body, objects - 1)
        assert memory_of(body) <= decoded_bytes(body) + 2000


@pytest.mark.parametrize("limit", [2000, 5000])
def test_malformed_bodies_are_scanned_to_their_end(limit):
    rng = random.Random(3)
    for body in [
        array(b"\x01")[:-100],
        b"\xdb\xff\xff\xff\xff" + bytes(10_000),
        b"\xc9\xff\xff\xff\xff",
        b"\xc1" * 10_000,
        *(rng.randbytes(20_000) for _ in range(50)),
    ]:
        with suppress(msgspec.DecodeError):
            check_objects(body, limit)
        assert decoded_bytes(body) > 0


def test_a_value_with_too_many_objects_is_not_decoded():
    body = array(b"\x80")
    assert len(decode_value(body, True)) == COUNT
    for decode in (
        lambda: decode_value(body, True, 4000),
        lambda: Handler(print, list, objects_max=4000).decode_body(body, True),
    ):
        with pytest.raises(msgspec.DecodeError, match="a value of more than 4,000 objects"):
            decode()
    # Bytes become one object, whatever they hold.
    assert decode_value(body, False, 4000) == body


@pytest.mark.parametrize("make", [landline.Server, lambda **limits: landline.connect("tcp://h", **limits)])
def test_an_invalid_limit_raises(make):
    with pytest.raises(landline.ConfigurationError, match="message_objects=1999"):
        make(message_objects=MESSAGE_OBJECTS_MIN - 1)


async def test_too_many_objects_in_a_request_or_answer_raise_and_keep_the_line(pair, caplog):
    server = landline.Server(message_objects=2000)
    got = []

    @server.on("count")
    async def count(line, body):
        return len(body)

    @server.on("ask back")
    async def ask_back(line, body):
        try:
            return await line.request("many")
        except landline.RequestError as error:
            return error.code

    server.on_message(lambda line, body: got.append(body))
    server.on("named")(lambda line, body: got.append(body))
    connector_handlers = []
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint))
        connector_handlers.append(connector.on("many")(lambda line, body: [{}] * 3000))
        async with connector as line:
            with pytest.raises(landline.RequestError, match="more than 2,000 objects") as refused:
                await line.request("count", [{}] * 3000)
            assert refused.value.code == "bad_request"
            assert await line.request("ask back") == "bad_response"
            assert await line.request("count", [{}] * 1000) == 1000
            assert await line.request("count", bytes(3_000_000)) == 3_000_000
            await line.send([{}] * 3000)
            await line.send([{}] * 3000, name="named")
            await line.send("last")
            assert await line.drain(None)
            assert got == ["last"]
            assert line.epoch == 1
    assert caplog.text.count("more than 2,000 objects") == 2


async def test_a_reader_gets_an_error_for_one_message_and_then_the_next_message(pair):
    async with pair(landline.Server(message_objects=2000)) as (line, other):
        await line.send([{}] * 3000)
        await line.send("next")
        with pytest.raises(msgspec.DecodeError):
            await anext(other)
        assert await anext(other) == "next"
