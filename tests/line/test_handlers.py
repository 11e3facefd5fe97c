"""Registering functions, and turning bodies into values and back."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fuzz import targets
from tests.line_internals import send_operation

import landline
from landline.codes import Operation
from landline.line.codec import decode_value, encode_value
from landline.line.handlers import Handler, Handlers


@pytest.fixture
def handlers():
    return Handlers()


def test_functions_are_found_by_name(handlers):
    @handlers.on("plain")
    def plain(line, body):
        return body

    @handlers.on("async", body_type=int)
    async def coroutine(line, body):
        return body

    @handlers.on_message
    def message(line, body):
        return body

    # The decorators leave the functions as they are.
    assert plain(None, 1) == message(None, 1) == 1
    assert handlers.find("plain").function is plain
    assert not handlers.find("plain").is_async
    assert handlers.find("async").function is coroutine
    assert handlers.find("async").is_async
    assert handlers.find("").function is message
    assert handlers.find("other") is None
    assert Handlers().find("") is None


@pytest.mark.parametrize("name", ["", "n" * 256, "é" * 128])
def test_names_have_1_to_255_bytes(handlers, name):
    with pytest.raises(landline.ConfigurationError, match="1 to 255 bytes"):
        handlers.on(name)
    handlers.on("é" * 127)


def test_a_second_handler_of_one_name_raises(handlers):
    handlers.on("name")(print)
    with pytest.raises(landline.ConfigurationError, match="a handler for 'name' already"):
        handlers.on("name")
    handlers.on_message(print)
    with pytest.raises(landline.ConfigurationError, match="a handler for messages already"):
        handlers.on_message(print)


@pytest.mark.parametrize("register", [landline.Server(), landline.connect("tcp://nowhere")])
def test_servers_and_connectors_register_alike(register):
    @register.on("name", body_type=int)
    def named(line, body):
        return body

    @register.on_message
    def message(line, body):
        return body

    assert register._host.handlers.find("name").function is named
    assert register._host.handlers.find("").function is message


def test_bodies_are_converted_to_the_type_asked_for():
    number = Handler(print, int)
    assert number.decode_body(msgspec.msgpack.encode(7), True) == 7
    for body, is_packed in ((msgspec.msgpack.encode("seven"), True), (b"\xc1", True), (b"7", False)):
        with pytest.raises(msgspec.DecodeError):
            number.decode_body(body, is_packed)
    assert Handler(print, bytes).decode_body(b"7", False) == b"7"
    assert Handler(print, Any).decode_body(b"7", False) == b"7"
    assert Handler(print, Any).decode_body(b"\x07", True) == 7


@pytest.mark.parametrize("value", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bytes_travel_as_they_are(value):
    assert encode_value(value) == (b"x", False)
    assert type(encode_value(value)[0]) is bytes
    assert decode_value(b"x", False) == b"x"


def test_other_values_travel_as_messagepack():
    for value in (None, 1, "x", [b"x"], {"x": 1.5}):
        body, is_packed = encode_value(value)
        assert is_packed
        assert decode_value(body, is_packed) == value
    with pytest.raises(TypeError):
        encode_value(object())
    with pytest.raises(msgspec.DecodeError):
        decode_value(b"\xc1", True)


@pytest.mark.parametrize(
    "body", [b"\xa1\xff", b"\x91" * 5000 + b"\xc0", b"\x81\x80\x01", b"\xdd\xff\xff\xff\xff", b""]
)
@pytest.mark.parametrize("body_type", [Any, str, dict[str, Any], tuple[str, str]])
def test_every_invalid_body_raises_the_same_error(body, body_type):
    with pytest.raises(msgspec.DecodeError):
        Handler(print, body_type).decode_body(body, True)
    with pytest.raises(msgspec.DecodeError):
        decode_value(body, True)


@given(st.binary(max_size=100))
@example(b"\x00\x81\xa5facts\x81\xa4name\xa1\xff")
@settings(deadline=None, max_examples=300, derandomize=True)
def test_arbitrary_bodies_raise_documented_errors_only(data):
    for choice in range(targets.CHOICES):
        targets.values(bytes([choice]) + data)


def test_a_decorator_without_a_name_says_so():
    with pytest.raises(
        landline.ConfigurationError, match=r"such as @server\.on\('add'\), not with 'function'"
    ):

        @landline.Server().on
        def add(line, numbers):
            return sum(numbers)


@pytest.mark.parametrize("name", ["", "a name"], ids=["the short way", "the general way"])
async def test_the_short_way_to_a_plain_handler_does_the_same_as_the_long_one(pair, until, caplog, name):
    """Messages without a name take a shorter way through the driver when their handler is a plain function."""
    seen = []
    server = landline.Server()

    def handle(line, value):
        seen.append((line.identity, value))
        if value == "refuse":
            raise landline.RequestError("no", "not this one")
        if value == "fail":
            raise ValueError("the handler is broken")
        if value == "ask":
            line.send_nowait("the answer")
        if value == "close":
            line.abort(landline.Code.NORMAL, "enough")

    (server.on(name) if name else server.on_message)(handle)
    values = [b"bytes", {"a": [1, 2.5]}, "refuse", "fail", "ask", None]
    async with pair(server) as (line, other):
        for value in values:
            await line.send(value, name=name)
        await send_operation(line, Operation.MESSAGE, name, b"\xc1")
        assert await line.drain(None)
        assert await line.recv() == "the answer"
        assert seen == [(other.identity, value) for value in values]
        line.send_nowait("close", name=name)
        line.send_nowait("in the same read", name=name)
        await until(lambda: other.is_closed)
        await until(lambda: line.is_closed)
    assert [value for _, value in seen[len(values) :]] == ["close", "in the same read"]
    assert caplog.text.count("was refused: not this one") == 1
    assert caplog.text.count("ValueError: the handler is broken") == 1
    assert caplog.text.count("that does not fit") == 1
