"""``call`` against real servers."""

import json

import pytest

import landline
from landline.cli.exit_codes import ALL_DONE, NO_SERVER, SOME_NOT_DONE, WRONG_USE

TOKEN = "a secret of sixteen bytes or more"


@pytest.fixture
async def lab(directory):
    """A server with a few handlers; yields its URL."""
    server = landline.Server(auth=landline.SharedToken(TOKEN))

    @server.on("add")
    def add(line, numbers):
        return {"sum": sum(numbers)}

    @server.on("echo")
    def echo(line, value):
        return value

    @server.on("bytes")
    def give_bytes(line, value):
        return {"data": b"\x00\xff"}

    @server.on("keys")
    def give_keys(line, value):
        return {(1, 2): 3}

    @server.on("fail")
    def fail(line, value):
        raise landline.RequestError("no_paper", "there is no paper\x1b[2J")

    async with server.listen(f"unix://{directory}/line") as endpoint:
        yield str(endpoint)


async def call(cli, *arguments, **environment):
    return await cli.run("call", *arguments, **{"LANDLINE_TOKEN": TOKEN} | environment)


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("add", ("[1, 2, 3]",), {"sum": 6}),
        ("echo", ('"\u202eevil"',), "\u202eevil"),
        ("echo", ('{"a": [null, true, 1.5]}',), {"a": [None, True, 1.5]}),
        ("echo", (), None),
        ("bytes", (), {"data": "AP8="}),
    ],
)
async def test_call_prints_the_answer_as_json(cli, lab, name, value, answer):
    ended = await call(cli, lab, name, *value)
    assert (ended.status, ended.err) == (ALL_DONE, "")
    assert json.loads(ended.out) == answer
    assert "\u202e" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["fail"], SOME_NOT_DONE, "There is no paper\N{REPLACEMENT CHARACTER}[2J (no_paper).\n"),
        (["nothing"], SOME_NOT_DONE, "The peer has no handler named 'nothing' (no_handler).\n"),
        (["keys"], SOME_NOT_DONE, "The answer cannot be printed as JSON: "),
        (["echo", "{"], WRONG_USE, "The value of the request is not JSON: "),
        (["echo", "hello"], WRONG_USE, "write text in quotation marks, such as '\"text\"'.\n"),
        (["echo", "1", "--timeout", "0s"], WRONG_USE, "--timeout takes at least 1s.\n"),
        (["echo", "123456789012345678901234567890"], WRONG_USE, "a number that cannot be sent"),
        (["echo", "1", "--ca", "/nowhere"], WRONG_USE, "--ca does not apply to unix://"),
    ],
)
async def test_a_failed_call_prints_one_sentence(cli, lab, arguments, status, text):
    ended = await call(cli, lab, *arguments)
    assert (ended.status, ended.out) == (status, "")
    assert text in ended.err
    assert ended.err.count("\n") == 1


async def test_no_server_and_a_wrong_token_are_told_apart(cli, lab, directory, nowhere):
    ended = await call(cli, nowhere, "echo")
    assert (ended.status, ended.err) == (
        NO_SERVER,
        f"{nowhere}: no server listens at this address (connection refused); check the address, and start the "
        "server.\n",
    )
    ended = await call(cli, f"unix://{directory}/nothing", "echo")
    assert (ended.status, ended.err) == (
        NO_SERVER,
        f"unix://{directory}/nothing: there is no such socket; check the path, and start the server.\n",
    )
    advice = "give the right one with --token-file or LANDLINE_TOKEN.\n"
    ended = await call(cli, lab, "echo", LANDLINE_TOKEN="")
    assert (ended.status, ended.err) == (SOME_NOT_DONE, f"{lab}: the server needs a token; {advice}")
    ended = await call(cli, lab, "echo", LANDLINE_TOKEN="another token, which is long enough")
    assert (ended.status, ended.err) == (
        SOME_NOT_DONE,
        f"{lab}: the server does not accept this token; {advice}",
    )


async def test_a_handler_that_does_not_answer_in_time(cli, directory):
    server = landline.Server()

    @server.on("wait")
    async def wait(line, value):
        import asyncio

        await asyncio.sleep(3600)

    async with server.listen(f"unix://{directory}/line") as endpoint:
        ended = await cli.run("call", str(endpoint), "wait", "--timeout", "1s")
    assert (ended.status, ended.err) == (SOME_NOT_DONE, "No answer to 'wait' within 1 s (timeout).\n")


async def test_over_udp(cli):
    server = landline.Server(auth=landline.SharedToken(TOKEN))

    @server.on("add")
    def add(peer, numbers):
        return sum(numbers)

    async with server.listen("udp://127.0.0.1:0") as endpoint:
        ended = await call(cli, str(endpoint), "add", "[1, 2]")
    assert (ended.status, ended.out) == (ALL_DONE, "3\n")
