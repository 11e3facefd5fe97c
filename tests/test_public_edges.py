"""Public objects show documented names only: what auto-completion offers is in ``docs/reference.md``."""

import asyncio
import enum
import inspect
import re
import socket
from pathlib import Path

import pytest

import landline
import landline.testing

DOCUMENT = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()


async def make_connector():
    return landline.connect("tcp://127.0.0.1:5463")


def make_connection():
    with socket.socket() as client:
        return landline.testing.ProxiedConnection(PROXY, client, (socket.AF_INET, ("127.0.0.1", 1)), "a seed")


PROXY = landline.testing.FaultProxy("127.0.0.1", 1)
PAIR = landline.testing.Pair()
OBJECTS = {
    "line": landline.Line,
    "server": landline.Server(),
    "connector": asyncio.run(make_connector()),
    "group": landline.Server().group("a group"),
    "identities": landline.Server().identities,
    "file": landline.IncomingFile,
    "proxy": PROXY,
    "connection": make_connection(),
    "relay": landline.testing.DatagramProxy("127.0.0.1", 1),
    "clock": PAIR.clock,
    "link": PAIR.link,
    "pair": PAIR,
    "side": PAIR.client,
}
"""Objects by their names in the document: instances, or classes whose slots are all attributes there are."""
OTHER_CLASSES = {
    name: value
    for module in (landline, landline.testing)
    for name in module.__all__
    if inspect.isclass(value := getattr(module, name))
    and not any(one is value or type(one) is value for one in OBJECTS.values())
}
"""Values, errors and interfaces: what they show is in their classes."""


def names_of(value: object) -> list[str]:
    """Return the public names that the package has added to those of Python and msgspec."""
    kind = value if inspect.isclass(value) else type(value)
    inherited = {
        name for base in kind.__mro__ if not base.__module__.startswith("landline") for name in dir(base)
    }
    if issubclass(kind, enum.Enum):
        inherited |= {"name", "value"}
    return [name for name in dir(value) if not name.startswith("_") and name not in inherited]


@pytest.mark.parametrize("edge", OBJECTS)
def test_public_names_are_documented(edge):
    # As `line.send(...)`, `@server.on(...)`, `Link.lossy(...)`, or in a list: "`line.send`, `send_nowait`".
    undocumented = [
        name
        for name in names_of(OBJECTS[edge])
        if not re.search(rf"\b(?i:{edge})\.{name}\b|`{name}[`(]", DOCUMENT)
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_names_of_values_and_errors_are_documented(name):
    # As `error.code`, `GOING_AWAY`, or in a signature: "Limits(window_bytes: int = ...)".
    undocumented = [
        attribute
        for attribute in names_of(OTHER_CLASSES[name])
        if not re.search(rf"\.{attribute}\b|`{attribute}[`(]|\b{attribute}[:=]", DOCUMENT)
    ]
    assert undocumented == []


@pytest.mark.parametrize("name", OTHER_CLASSES)
def test_classes_without_an_instance_here_set_no_hidden_attributes(name):
    kind = OTHER_CLASSES[name]
    has_fields = issubclass(kind, enum.Enum | Exception) or hasattr(kind, "__struct_fields__")
    is_interface = getattr(kind, "_is_protocol", False)
    assert has_fields or is_interface or "__init__" not in vars(kind) or "__slots__" in vars(kind)


def test_documented_names_of_a_line_exist():
    documented = set(re.findall(r"`(?:await )?line\.(\w+)", DOCUMENT))
    assert documented - set(names_of(landline.Line)) == set()
