"""``docs/reference.md`` says what the code does: signatures, types, defaults, and how functions are called."""

import ast
import enum
import inspect
import re
import time
import types
import typing
from pathlib import Path

import msgspec
import pytest

import landline
import landline.testing

TEXT = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
CLASSES = {
    "line": landline.Line,
    "server": landline.Server,
    "connector": landline.Connector,
    "group": landline.Group,
    "identities": landline.IdentityTracker,
    "file": landline.IncomingFile,
    "proxy": landline.testing.FaultProxy,
    "connection": landline.testing.ProxiedConnection,
    "relay": landline.testing.DatagramProxy,
    "clock": landline.testing.Clock,
    "link": landline.testing.Link,
    "pair": landline.testing.Pair,
    "side": landline.testing.Side,
}
"""The class of each variable of the document."""
FUNCTION_TYPES = (
    "AcceptFunction",
    "ChangeCallback",
    "DecHook",
    "EncHook",
    "Function",
    "IdentityCallback",
    "ProgressCallback",
    "ProgressFunction",
    "SessionLostCallback",
    "StateCallback",
    "_LineFunction",
    "_Lost",
    "_State",
    "_StateCallback",
)
"""Types of functions. The document writes ``Callable``; its table of functions has the arguments."""


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


# Signatures


def entries() -> dict[str, str]:
    """The text of each signature by the name of what is called: ``line.send``, ``landline.connect``, ``Faults``."""
    found: dict[str, str] = {}
    for block in re.findall(r"^```py\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE):
        for entry in re.split(r"\n(?=[^\s)])", block.rstrip()):
            name = re.match(r"(?:await )?([\w.]+)\(", entry)[1]
            assert found.setdefault(name, entry) == entry
    return found


ENTRIES = entries()


def value_of(name: str) -> object:
    first, *rest = name.split(".")
    if first == "landline":
        value: object = landline
    elif first in CLASSES:
        value = CLASSES[first]
    else:
        value = getattr(landline, first, None) or getattr(landline.testing, first)
    for part in rest:
        value = getattr(value, part)
    return value


def described(entry: str) -> tuple[bool, ast.arguments, str | None]:
    """Whether the document awaits it, its parameters, and the type of its result."""
    is_awaited = entry.startswith("await ")
    arguments = re.sub(r"^(?:await )?[\w.]+\(", "def function(", entry)
    function = ast.parse(f"{arguments}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return is_awaited, function.args, function.returns and ast.unparse(function.returns)


def parameters_of(arguments: ast.arguments) -> list[tuple[str, str, str | None, str | None]]:
    """``(kind, name, type, default)`` of each parameter."""

    def text(node: ast.expr | None) -> str | None:
        return None if node is None else ast.unparse(node)

    positional = [*arguments.posonlyargs, *arguments.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    described = []
    for argument, default in zip(positional, [*missing, *arguments.defaults], strict=True):
        kind = "positional" if argument in arguments.posonlyargs else "any"
        described.append((kind, argument.arg, text(argument.annotation), text(default)))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        described.append(("keyword", argument.arg, text(argument.annotation), text(default)))
    return described


def type_text(annotation: object) -> str | None:
    """A type as the document writes it."""
    if annotation is inspect.Parameter.empty:
        return None
    if isinstance(annotation, str):
        for name in FUNCTION_TYPES:
            annotation = re.sub(rf"\b{name}\b", "Callable", annotation)
        annotation = annotation.replace("Callable[[ReceivedFunctionType], ReceivedFunctionType]", "Callable")
        return ast.unparse(ast.parse(annotation, mode="eval"))
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(parts[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join("None" if part is types.NoneType else str(type_text(part)) for part in parts)
    if origin is not None:
        return f"{origin.__name__}[{', '.join('...' if part is ... else str(type_text(part)) for part in parts)}]"
    return "Any" if annotation is typing.Any else annotation.__name__


def default_text(default: object) -> str | None:
    """A default as the document writes it."""
    if default is inspect.Parameter.empty:
        return None
    if isinstance(default, enum.Enum):
        return f"{type(default).__name__}.{default.name}"
    if default is typing.Any:
        return "Any"
    if default is time.monotonic:
        return "time.monotonic"
    if default == float("inf"):
        return "math.inf"
    return {"<factory>": "{}"}.get(repr(default), repr(default))


KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "any",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
}


@pytest.mark.parametrize("name", ENTRIES)
def test_a_signature_of_the_document_is_that_of_the_code(name):
    value = value_of(name)
    is_awaited, arguments, returned = described(ENTRIES[name])
    signature = inspect.signature(value)
    assert parameters_of(arguments) == [
        (KINDS[one.kind], one.name, type_text(one.annotation), default_text(one.default))
        for one in signature.parameters.values()
        if one.name != "self"
    ]
    assert is_awaited == inspect.iscoroutinefunction(value)
    if not inspect.isclass(value) and signature.return_annotation not in ("None", "Any"):
        assert returned == type_text(signature.return_annotation)


def callables() -> typing.Iterator[str]:
    """What users call, as the document names it."""
    for module in (landline, landline.testing):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value):
                yield f"landline.{name}"
            elif inspect.isclass(value) and (
                issubclass(value, msgspec.Struct)
                or (issubclass(value, Exception) and "__init__" in vars(value))
            ):
                yield name
    yield from ("Server", "SharedToken", "FaultProxy", "DatagramProxy", "Pair", "Link", "Clock")
    yield from (
        "ClientAuth.claim",
        "ClientAuth.accepts_server",
        "ServerAuth.identify",
        "ServerAuth.server_proof",
    )
    for variable, kind in CLASSES.items():
        for name, member in vars(kind).items():
            function = member.__func__ if isinstance(member, classmethod) else member
            if inspect.isfunction(function) and not name.startswith("_"):
                yield f"{variable}.{name}"


@pytest.mark.parametrize("name", sorted(set(callables())))
def test_everything_that_users_call_has_its_signature_in_the_document(name):
    described = {value_of(one) for one in ENTRIES}
    assert value_of(name) in described


# Values


@pytest.mark.parametrize(
    "name",
    [
        f"{variable}.{name}"
        for variable, kind in CLASSES.items()
        for name, member in vars(kind).items()
        if isinstance(member, property) and not name.startswith("_")
    ],
)
def test_every_property_is_in_the_document(name):
    assert re.search(rf"\b{re.escape(name)}\b", TEXT)


def test_the_types_of_properties_are_those_of_the_code():
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `([^`]+)` \|", TEXT, flags=re.MULTILINE)
    wrong = []
    for variable, name, told in rows:
        member = inspect.getattr_static(CLASSES.get(variable), name, None)
        if isinstance(member, property):
            annotation = inspect.signature(member.fget).return_annotation
            if annotation != told.replace("\\|", "|"):
                wrong.append(f"{variable}.{name}: {told}, in the code {annotation}")
    assert len(rows) > 30
    assert wrong == []


@pytest.mark.parametrize(
    "kind",
    [
        landline.LineState,
        landline.DisconnectCause,
        landline.OverflowPolicy,
        landline.IdentityState,
        landline.Code,
    ],
)
def test_every_member_of_an_enum_is_in_the_document(kind):
    missing = [member.name for member in kind if f"{kind.__name__}.{member.name}`" not in TEXT]
    assert missing == []
    if kind is landline.Code:
        assert all(f"`Code.{member.name}` ({member.value})" in TEXT for member in kind)
    elif kind is not landline.IdentityState:
        assert all(f'`"{member.value}"' in TEXT for member in kind)


def test_the_tree_of_errors_is_that_of_the_code():
    tree = re.search(r"```text\n(LandlineError\n.*?)```", TEXT, flags=re.DOTALL)[1]
    parents = [landline.LandlineError]
    listed = set()
    for line in tree.splitlines()[1:]:
        indent, name, base = re.match(r"([ │├└─]+)(\w+) [^()]*(?:\((\w+)\))?$", line).groups()
        kind = getattr(landline, name)
        depth = len(indent) // 4
        del parents[depth:]
        assert parents[-1] in kind.__bases__
        if base is not None:
            assert base in {one.__name__ for one in kind.__mro__}
        parents.append(kind)
        listed.add(kind)
    public = {getattr(landline, name) for name in landline.__all__}
    errors = {one for one in public if inspect.isclass(one) and issubclass(one, Exception)}
    assert errors - listed == {landline.LandlineError}


# Functions that are called


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
