"""What users register and give: a mistake is one sentence where it is made, and not a failure of every call later."""

import dataclasses
import datetime
import decimal
import enum
import functools
import re
import uuid
from typing import NamedTuple

import attrs
import msgspec
import pydantic
import pytest

import landline
from landline.session.settings import Limits

URL = "tcp://127.0.0.1:1"


class Reading(pydantic.BaseModel):
    celsius: float


class Rack(msgspec.Struct):
    readings: dict[str, list[Reading]]


def nothing(): ...
def one(line): ...
def two(line, value): ...
def two_and_more(line, value, *, really=False): ...
def three(line, value, more): ...
def keyword_only(line, *, value): ...
async def coroutine(line, value): ...
async def async_one(line): ...
async def async_generator(line, value):
    yield value


def generator(line, value):
    yield value


class Method:
    def method(self, line, value): ...
    async def __call__(self, line, value): ...


@pytest.fixture(params=["server", "client"])
def registry(request):
    return landline.Server() if request.param == "server" else landline.connect(URL)


@pytest.mark.parametrize(
    "function",
    [
        two,
        two_and_more,
        coroutine,
        Method().method,
        Method(),
        print,
        functools.partial(three, None),
        lambda *_: None,
    ],
)
def test_valid_handlers_are_accepted(registry, function):
    assert registry.on("name")(function) is function
    assert registry.on_message(function) is function


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (nothing, "nothing, cannot be called with (line, value); give it these parameters"),
        (one, "one, cannot be called with (line, value)"),
        (three, "three, cannot be called with (line, value)"),
        (keyword_only, "keyword_only, cannot be called with (line, value)"),
        (Method.method, "Method.method, cannot be called with (line, value)"),
        (async_one, "async_one, cannot be called with (line, value)"),
        (
            async_generator,
            "async_generator, is a generator; it is called as async_generator(line, value) and must not",
        ),
        (generator, "generator, is a generator"),
        (None, " is a NoneType, not a function"),
        ("two", " is a str, not a function"),
    ],
)
def test_invalid_handlers_are_refused_by_name(registry, function, text):
    for register, what in (
        (registry.on("add"), "the handler for 'add'"),
        (registry.on_message, "the handler for messages"),
        (registry.on_datagram("dot"), "the handler for datagrams 'dot'"),
    ):
        with pytest.raises(landline.ConfigurationError) as caught:
            register(function)
        assert str(caught.value).startswith(what)
        assert text in str(caught.value)
    # Nothing of it is left.
    registry.on("add")(two)


@pytest.mark.parametrize(
    ("body_type", "text"),
    [
        (
            Reading,
            "Reading is not a type that msgspec knows: use a msgspec.Struct, a dataclass, an attrs class",
        ),
        (Rack, "Reading, a part of Rack, is not a type that msgspec knows"),
        (list[Reading] | None, "Reading, a part of list["),
        (5, "msgspec cannot check bodies against 5: "),
        ("Missing", "msgspec cannot check bodies against 'Missing'"),
    ],
)
async def test_unsupported_types_are_refused_at_once(registry, body_type, text):
    for register in (registry.on, registry.on_datagram):
        with pytest.raises(landline.ConfigurationError) as caught:
            register("name", body_type)
        assert text in str(caught.value)
    with pytest.raises(landline.ConfigurationError, match=re.escape(text)):
        await landline.call(URL, "name", response_type=body_type)


async def test_the_response_type_is_checked_before_the_request(pair):
    server = landline.Server()
    asked = []
    server.on("name")(lambda line, value: asked.append(value))
    async with pair(server) as (line, _):
        with pytest.raises(landline.ConfigurationError, match="Reading is not a type that msgspec knows"):
            await line.request("name", response_type=Reading)
        await line.ping()
    assert not asked


@attrs.define
class Attrs:
    celsius: float


class Node(msgspec.Struct):
    children: "list[Node]" = []


@pytest.mark.parametrize(
    "body_type", [Attrs, Node, object, int | str | None, list[Attrs], "dict[str, int]", bytes]
)
def test_types_that_msgspec_supports_are_accepted(registry, body_type):
    registry.on("name", eval(body_type) if isinstance(body_type, str) else body_type)(two)


@pytest.mark.parametrize(
    ("register", "good", "called"),
    [
        (lambda f: landline.Server().on_state(f), two, "(line, change)"),
        (lambda f: landline.connect(URL, on_state=f), two, "(line, change)"),
        (lambda f: landline.Server().on_session_lost(f), two, "(line, unconfirmed)"),
        (lambda f: landline.connect(URL, on_session_lost=f), two, "(line, unconfirmed)"),
        (lambda f: landline.Server().group("all").on_change(f), three, "(group, line, joined)"),
        (lambda f: landline.Server().identities.on_change(f), two, "(identity, status)"),
        (lambda f: landline.Server(enc_hook=f), one, "(value)"),
        (lambda f: landline.connect(URL, enc_hook=f), one, "(value)"),
        (lambda f: landline.Server(dec_hook=f), two, "(type, value)"),
    ],
)
def test_callbacks_are_plain_functions_with_the_right_parameters(register, good, called):
    register(good)
    with pytest.raises(landline.ConfigurationError, match="is a coroutine function; make it a plain one"):
        register(coroutine)
    for bad in (nothing, keyword_only):
        with pytest.raises(landline.ConfigurationError, match=re.escape(f"cannot be called with {called}")):
            register(bad)


async def test_the_callback_of_a_line_is_checked_too(pair):
    async with pair() as (line, _):
        with pytest.raises(
            landline.ConfigurationError, match=r"Line\.on_state\(\), coroutine, is a coroutine"
        ):
            line.on_state(coroutine)
        line.on_state(two)
        line.on_state(None)


def test_the_function_of_a_line_is_a_coroutine_function():
    server = landline.Server()
    assert server.on_line(async_one) is async_one
    with pytest.raises(landline.ConfigurationError, match=r"one, is a plain function; make it a coroutine"):
        server.on_line(one)
    with pytest.raises(landline.ConfigurationError, match=r"coroutine, cannot be called with \(line\)"):
        server.on_line(coroutine)


async def test_the_functions_for_files_are_checked(registry, tmp_path, pair):
    with pytest.raises(landline.ConfigurationError, match=r"on_file\(accept=\), nothing, cannot be called"):
        registry.on_file(tmp_path, accept=nothing)
    with pytest.raises(
        landline.ConfigurationError, match=r"on_file\(progress=\), one, cannot be called with"
    ):
        registry.on_file(tmp_path, progress=one)
    with pytest.raises(landline.ConfigurationError, match=r"cannot be called with \(file, receipt\)"):
        registry.on_file(tmp_path)(one)
    async with pair() as (line, _):
        with pytest.raises(
            landline.ConfigurationError, match=r"send_file\(progress=\), async_one, is a coroutine"
        ):
            await line.send_file(tmp_path / "file", progress=async_one)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"heartbeat": 5},
            "Server(heartbeat=) takes a landline.Heartbeat, such as Heartbeat(interval_s=10,",
        ),
        ({"max_lines": "5"}, "Server(max_lines=) takes a whole number, not a value of the type str"),
        ({"max_lines": True}, "Server(max_lines=) takes a whole number, not a value of the type bool"),
        ({"resume_window_s": "120"}, "Server(resume_window_s=) takes seconds"),
        ({"limits": {"message_bytes": 5000}}, "Server(limits=) takes a landline.Limits"),
        ({"send_buffer": 5000}, "Server(send_buffer=) takes a landline.SendBuffer"),
        ({"memory_bytes": 1e9}, "Server(memory_bytes=) takes a whole number of bytes"),
        ({"admission": 1000}, "Server(admission=) takes a landline.Admission"),
        ({"name": b"lab"}, "Server(name=) takes text"),
    ],
)
def test_arguments_of_a_server_of_the_wrong_type(arguments, text):
    with pytest.raises(landline.ConfigurationError) as caught:
        landline.Server(**arguments)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"backoff": 5},
            "connect(backoff=) takes a landline.Backoff, such as Backoff(first_s=0.5, cap_s=30)",
        ),
        ({"identity": 7}, "connect(identity=) takes text, not a value of the type int"),
        ({"connect_timeout_s": "5"}, "connect(connect_timeout_s=) takes seconds"),
        ({"limits": 5}, "connect(limits=) takes a landline.Limits"),
        ({"send_buffer": Limits()}, "connect(send_buffer=) takes a landline.SendBuffer"),
        ({"options": {"ca_file": "x"}}, "connect(options=) takes a landline.TransportOptions"),
        ({"stagger_s": "0.25"}, "connect(stagger_s=) takes seconds"),
        (
            {"urls": 5},
            "connect() takes a URL, such as 'tls://control.example', or a list of URLs, all as strings",
        ),
        ({"urls": [URL, None]}, "connect() takes a URL, such as"),
        ({"urls": b"tcp://host"}, "connect() takes a URL, such as"),
    ],
)
def test_arguments_of_a_client_of_the_wrong_type(arguments, text):
    with pytest.raises(landline.ConfigurationError) as caught:
        landline.connect(**({"urls": URL} | arguments))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": 5}, "call(name=) takes the name of a handler"),
        ({"timeout": "5"}, "call(timeout=) takes seconds, or None"),
        ({"identity": 5}, "call(identity=) takes text"),
        ({"options": 5}, "call(options=) takes a landline.TransportOptions"),
        ({"url": 5}, "call() takes a URL, such as"),
        ({"url": []}, "call() needs at least one URL"),
    ],
)
async def test_arguments_of_a_call_of_the_wrong_type(arguments, text):
    with pytest.raises(landline.ConfigurationError) as caught:
        await landline.call(**({"url": URL, "name": "add"} | arguments))
    assert text in str(caught.value)


def test_arguments_of_listen_of_the_wrong_type():
    with pytest.raises(landline.ConfigurationError, match=r"listen\(url\) takes the URL of an address"):
        landline.Server().listen(5463)
    with pytest.raises(
        landline.ConfigurationError, match=r"listen\(options=\) takes a landline.TransportOptions"
    ):
        landline.Server().listen(URL, options="x")


# Hooks.


def enc_hook(value):
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump()
    raise NotImplementedError


def dec_hook(kind, value):
    if issubclass(kind, pydantic.BaseModel):
        return kind.model_validate(value)
    raise NotImplementedError


HOOKS = {"enc_hook": enc_hook, "dec_hook": dec_hook}


@pytest.mark.parametrize("scheme", ["tcp", "udp"])
async def test_hooks_support_types_unknown_to_msgspec(scheme):
    server = landline.Server(**HOOKS)

    @server.on("warmer", Reading)
    async def warmer(line, reading):
        assert type(reading) is Reading
        return Reading(celsius=reading.celsius + 1)

    @server.on("plain", Rack)
    def plain(line, rack):
        return [reading for readings in rack.readings.values() for reading in readings]

    async with server.listen(f"{scheme}://127.0.0.1:0") as endpoint:
        ask = functools.partial(landline.call, str(endpoint), **HOOKS)
        assert await ask("warmer", Reading(celsius=20), response_type=Reading) == Reading(celsius=21)
        rack = {"readings": {"a": [Reading(celsius=1)], "b": [{"celsius": 2}]}}
        answer = await ask("plain", rack, response_type=list[Reading])
        assert answer == [Reading(celsius=1), Reading(celsius=2)]
        with pytest.raises(
            landline.RequestError, match=r"the body of 'warmer' does not fit: .*celsius"
        ) as caught:
            await ask("warmer", {"celsius": "hot"})
        assert caught.value.code == "bad_request"
        with pytest.raises(landline.RequestError) as caught:
            await ask("warmer", Reading(celsius=1), response_type=Rack)
        assert caught.value.code == "bad_response"
        with pytest.raises(NotImplementedError):
            await ask("warmer", object())


async def test_hooks_are_used_wherever_values_are_sent(until):
    server = landline.Server(**HOOKS)
    connector = landline.connect("tcp://127.0.0.1:1", **HOOKS)
    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), **HOOKS)
        heard = []
        for register in (connector.on("reading", Reading), connector.on_datagram("reading", Reading)):
            register(lambda line, reading: heard.append(reading))
        reading = Reading(celsius=3)
        async with connector as line:
            [other] = server.lines
            group = server.group("all")
            group.add(other)
            await other.send(reading, name="reading")
            other.send_nowait(reading, name="reading")
            server.broadcast(reading, name="reading")
            group.broadcast(reading, name="reading")
            other.send_datagram(reading, name="reading")
            server.broadcast_datagram(reading, name="reading")
            group.broadcast_datagram(reading, name="reading")
            await until(lambda: len(heard) == 7)
            # Bytes travel as they are.
            await line.send(b"raw")
            assert await anext(other) == b"raw"
            with pytest.raises(NotImplementedError):
                await line.send(object())
    assert heard == [reading] * 7


async def test_without_hooks_an_unsupported_value_is_a_type_error(pair):
    async with pair() as (line, _):
        with pytest.raises(TypeError, match="Reading"):
            await line.send(Reading(celsius=1))


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Named(NamedTuple):
    x: int


@dataclasses.dataclass
class Data:
    x: int


MOMENT = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
IDENTIFIER = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("value", "untyped"),
    [
        ((1, 2), [1, 2]),
        ({1}, [1]),
        (frozenset({1}), [1]),
        (Node(), {"children": []}),
        (Data(1), {"x": 1}),
        (Attrs(1.5), {"celsius": 1.5}),
        (Named(1), [1]),
        (MOMENT, MOMENT.astimezone(datetime.UTC)),
        (datetime.datetime(2026, 3, 1, 12, 0), "2026-03-01T12:00:00"),
        (datetime.date(2026, 3, 1), "2026-03-01"),
        (datetime.time(12, 0), "12:00:00"),
        (datetime.timedelta(seconds=90), "PT90S"),
        (IDENTIFIER, str(IDENTIFIER)),
        (decimal.Decimal("1.50"), "1.50"),
        (Colour.RED, "red"),
        (Number.ONE, 1),
    ],
)
async def test_how_values_arrive_without_a_type_and_with_one(pair, value, untyped):
    """The table of docs/reference.md."""
    server = landline.Server()
    server.on("echo")(lambda line, body: body)
    async with pair(server) as (line, other):
        await line.send(value)
        received = await anext(other)
        assert (type(received), received) == (type(untyped), untyped)
        if isinstance(untyped, datetime.datetime):
            assert received.tzinfo == datetime.UTC
        assert await line.request("echo", value, response_type=type(value)) == value
