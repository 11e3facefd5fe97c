"""Public objects show documented names only: what auto-completion offers is in ``docs/reference.md``."""

import asyncio
import re
from pathlib import Path

import pytest

import landline

DOCUMENT = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()


async def make_connector():
    return landline.connect("tcp://127.0.0.1:5463")


def names_of(value):
    return [name for name in dir(value) if not name.startswith("_")]


EDGES = {
    "line": names_of(landline.Line),
    "server": names_of(landline.Server()),
    "connector": names_of(asyncio.run(make_connector())),
    "group": names_of(landline.Server().group("a group")),
}


@pytest.mark.parametrize("edge", EDGES)
def test_public_names_are_documented(edge):
    # As `line.send(...)`, `@server.on(...)`, or in a list: "`line.send`, `send_nowait`".
    undocumented = [
        name for name in EDGES[edge] if not re.search(rf"\b{edge}\.{name}\b|`{name}[`(]", DOCUMENT)
    ]
    assert undocumented == []


def test_documented_names_of_a_line_exist():
    documented = set(re.findall(r"`(?:await )?line\.(\w+)", DOCUMENT))
    assert documented - set(EDGES["line"]) == set()
