"""Registering functions, and turning bodies into values and back."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fuzz import targets

import landline
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


def test_a_name_is_taken_once(handlers):
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

    assert register.handlers.find("name").function is named
    assert register.handlers.find("").function is message


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
def test_whatever_is_wrong_with_a_body_is_one_error(body, body_type):
    with pytest.raises(msgspec.DecodeError):
        Handler(print, body_type).decode_body(body, True)
    with pytest.raises(msgspec.DecodeError):
        decode_value(body, True)


@given(st.binary(max_size=100))
@example(b"\x00\x81\xa5facts\x81\xa4name\xa1\xff")
@settings(deadline=None, max_examples=300, derandomize=True)
def test_arbitrary_bodies_raise_nothing_but_what_is_said(data):
    for choice in range(targets.CHOICES):
        targets.values(bytes([choice]) + data)


def test_a_decorator_without_a_name_says_so():
    with pytest.raises(
        landline.ConfigurationError, match=r"such as @server\.on\('add'\), not with 'function'"
    ):

        @landline.Server().on
        def add(line, numbers):
            return sum(numbers)
