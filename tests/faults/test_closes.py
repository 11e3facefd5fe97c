"""A BYE arrives with its code and its reason while the peer streams the other way, over every transport.

``LANDLINE_CLOSES=1000`` closes so many lines in each test; ``python -m tests.faults.closes`` counts what else arrives.
"""

import asyncio
import contextlib
import os

import pytest
from tests.faults import closes

CLOSES = int(os.environ.get("LANDLINE_CLOSES", "100"))
QUIC_SHARE = 5
"""QUIC in Python takes so many times as long."""


@pytest.fixture(scope="module")
def addresses(directory):
    """Of a server for each kind of event loop, in a process of its own, by loop and scheme."""
    closes.make_credentials(directory)
    with contextlib.ExitStack() as stack:
        running = {}
        for loop in closes.LOOPS:
            running[loop] = stack.enter_context(closes.running_server(loop, directory))
        yield running


@pytest.mark.parametrize("direction", closes.DIRECTIONS)
@pytest.mark.parametrize("scheme", closes.SCHEMES)
async def test_every_close_under_load_arrives(scheme, direction, addresses, directory):
    loop = "uvloop" if "uvloop" in type(asyncio.get_running_loop()).__module__ else "asyncio"
    count = max(1, CLOSES // QUIC_SHARE) if scheme == "quic" else CLOSES
    outcomes = await closes.count_closes(addresses[loop][scheme], directory, scheme, direction, count)
    assert outcomes == {"right": count}
