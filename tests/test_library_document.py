"""Tables of docs/library.md that say what the code does: its defaults, and how it calls what it is given."""

import ast
import inspect
import re
from pathlib import Path

import msgspec
import pytest

import landline

TEXT = (Path(__file__).parent.parent / "docs" / "library.md").read_text()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


CALLS = re.findall(r"`landline\.([\w.]+)\(([^`]*)\)`", section("Defaults"))


def defaults_of(name: str) -> dict[str, object]:
    value = landline
    for part in name.split("."):
        value = getattr(value, part)
    if isinstance(value, type) and issubclass(value, msgspec.Struct):
        return {field.name: field.default for field in msgspec.structs.fields(value)}
    return {name: parameter.default for name, parameter in inspect.signature(value).parameters.items()}


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[name for name, _ in CALLS])
def test_the_defaults_of_the_document_are_those_of_the_code(name, arguments):
    known = defaults_of(name)
    call = ast.parse(f"f({arguments})", mode="eval").body
    assert isinstance(call, ast.Call)
    assert not call.args
    told = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert told
    assert told == {argument: known[argument] for argument in told}
    assert {argument: type(value) for argument, value in told.items()} == {
        argument: type(known[argument]) for argument in told
    }


def test_every_default_of_a_settings_struct_is_told():
    told = {name: arguments for name, arguments in CALLS if "." not in name}
    for kind in (
        landline.Heartbeat,
        landline.Limits,
        landline.SendBuffer,
        landline.Admission,
        landline.Backoff,
    ):
        for field in msgspec.structs.fields(kind):
            assert f"{field.name}=" in told[kind.__name__]
    numbers = {
        name
        for name, default in defaults_of("Server").items()
        if isinstance(default, int | float | str) and not isinstance(default, bool)
    }
    assert {name for name in numbers if f"{name}=" not in told["Server"]} == set()


def called_as(row: str) -> tuple[str, ...]:
    """The parameters that a row of the table of functions names."""
    [line] = [
        line for line in section("Functions that are called").splitlines() if line.startswith(f"| {row}")
    ]
    return tuple(re.search(r"`\w+\(([\w, ]+)\)`", line.split("|")[2])[1].split(", "))


@pytest.mark.parametrize(
    ("row", "register"),
    [
        ("`on(name, body_type)`", lambda server, path: server.on("name")),
        ("`on_message`", lambda server, path: server.on_message),
        ("`on_datagram(name", lambda server, path: server.on_datagram("name")),
        ("`server.on_line`", lambda server, path: server.on_line),
        ("`server.on_state`", lambda server, path: server.on_state),
        ("`server.on_session_lost`", lambda server, path: server.on_session_lost),
        ("`group.on_change`", lambda server, path: server.group("all").on_change),
        ("`server.identities.on_change`", lambda server, path: server.identities.on_change),
        ("`on_file(directory)`", lambda server, path: server.on_file(path)),
        ("`on_file(accept=)`", lambda server, path: lambda function: server.on_file(path, accept=function)),
        (
            "`on_file(progress=)`",
            lambda server, path: lambda function: server.on_file(path, progress=function),
        ),
    ],
)
def test_functions_are_called_as_the_document_says(row, register, tmp_path):
    parameters = called_as(row)

    def of(count):
        source = f"lambda {', '.join(f'p{i}' for i in range(count))}: None"
        plain = eval(source)
        if row != "`server.on_line`":
            return plain

        async def coroutine(line): ...

        async def too_many(line, more): ...

        return coroutine if count == 1 else too_many

    with pytest.raises(
        landline.ConfigurationError, match=re.escape(f"cannot be called with ({', '.join(parameters)})")
    ):
        register(landline.Server(), tmp_path)(of(len(parameters) + 1))
    register(landline.Server(), tmp_path)(of(len(parameters)))
