"""What a type checker knows about programs that use the library. Checked by test_typed_api.py; never run."""

from typing import Any, assert_type

import msgspec

import landline


class Reading(msgspec.Struct):
    sensor: str
    celsius: float


server = landline.Server()
connector = landline.connect("tcp://127.0.0.1:5463")


# A body type binds the second parameter.


@server.on("reading", Reading)
async def store(line: landline.Line, reading: Reading) -> float:
    return reading.celsius


@connector.on("readings", list[Reading])
def store_all(line: landline.Line, readings: list[Reading]) -> int:
    return len(readings)


@server.on_datagram("reading", Reading)
def show(line: landline.Line, reading: Reading) -> None: ...


@server.on("wrong", Reading)  # type: ignore[arg-type]
async def wrong(line: landline.Line, reading: int) -> None: ...


@connector.on("wrong", Reading)  # type: ignore[arg-type]
def wrong_too(line: landline.Line, reading: list[Reading]) -> None: ...


@server.on_datagram("wrong", Reading)  # type: ignore[arg-type]
def wrong_datagram(line: landline.Line, reading: str) -> None: ...


# Without one, and with a type that is not a class, any parameter is accepted, and the function keeps its type.


@server.on("add")
async def add(line: landline.Line, numbers: list[int]) -> int:
    return sum(numbers)


@server.on("maybe", Reading | None)
def maybe(line: landline.Line, reading: Reading | None) -> None: ...


@server.on_message
def received(line: landline.Line, message: object) -> None: ...


async def use(line: landline.Line, reading: Reading) -> None:
    assert_type(await store(line, reading), float)
    assert_type(store_all(line, [reading]), int)
    assert_type(await add(line, numbers=[1]), int)
    # A response type is the type of the answer.
    assert_type(await line.request("last", response_type=Reading), Reading)
    assert_type(await line.request("all", response_type=list[Reading]), list[Reading])
    assert_type(await line.request("last"), Any)
    assert_type(await line.recv(), Any)
    assert_type(await line.send(reading), bool)
    assert_type(line.last_change, landline.StateChange | None)
    async for message in line:
        assert_type(message, Any)
