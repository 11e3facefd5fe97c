"""A BYE arrives with its code and its reason while the peer streams the other way, over every transport.

``LANDLINE_CLOSES=1000`` closes so many lines in each test; ``python -m tests.faults.closes`` counts what else arrives.
"""

import asyncio
import os

import pytest
from tests.faults import closes

CLOSES = int(os.environ.get("LANDLINE_CLOSES", "100"))
QUIC_SHARE = 5
"""QUIC in Python takes so many times as long."""


@pytest.fixture(scope="module")
def credentials(directory):
    closes.make_credentials(directory)
    return directory


@pytest.mark.parametrize("direction", closes.DIRECTIONS)
@pytest.mark.parametrize("scheme", closes.SCHEMES)
async def test_every_close_under_load_arrives(scheme, direction, credentials):
    loop = "uvloop" if "uvloop" in type(asyncio.get_running_loop()).__module__ else "asyncio"
    count = max(1, CLOSES // QUIC_SHARE) if scheme == "quic" else CLOSES
    async with closes.running_server(loop, credentials, (scheme,)) as addresses:
        outcomes = await closes.count_closes(addresses[scheme], credentials, scheme, direction, count)
    assert outcomes == {"right": count}
