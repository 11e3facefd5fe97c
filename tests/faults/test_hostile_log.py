"""Attacks of a holder of the agents' token on the log of a control server: no forged lines, and no flood."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import pytest
from tests.line_internals import transport_of

import landline
from landline.codes import Code
from landline.runtime.guarded_log import LEVEL_LINES_AT_ONCE, LEVEL_LINES_PER_S, LINE_CHARACTERS_MAX
from landline.session.bodies import Notice, encode_body
from landline.session.constants import Kind

FORGED = "2030-01-01 00:00:00,000 ERROR forged"
ROUNDS = 30
HOSTILE = f"evil\x1b[31m\u202e\n{FORGED}\n"


async def misbehave(url: str, token: str, number: int) -> None:
    """Join as another machine, send many invalid messages, and leave without a goodbye."""
    async with landline.connect(
        url,
        auth=landline.SharedToken(token),
        identity=f"{HOSTILE}{number}",
        backoff=landline.Backoff(attempts=1),
    ) as line:
        transport_of(line).write(encode_body(Kind.NOTICE, Notice(int(Code.PROTOCOL_ERROR), HOSTILE)))
        for _ in range(60):
            # A value that is quoted in the error, and a name that is nobody's.
            await line.send({"name": HOSTILE * 500}, name="facts")
            await line.send({"cause": HOSTILE * 500}, name="goodbye")
        with contextlib.suppress(landline.RequestError):
            await line.request("report", {"execution": {"id": "x", "state": HOSTILE * 1000}}, timeout=30)
        with contextlib.suppress(landline.RequestError):
            await line.request(HOSTILE[:80], None, timeout=30)


@pytest.fixture
def control(programs):
    # Short enough for the sockets in it.
    with (
        tempfile.TemporaryDirectory(prefix="ll-") as directory,
        programs.run_processes(Path(directory)) as it,
    ):
        yield programs.ControlServer(it, "--http", "127.0.0.1:0")


async def test_the_log_is_neither_forged_nor_filled(control) -> None:
    token = Path(control.token_file).read_text().strip()
    begun_at = time.monotonic()
    for number in range(ROUNDS):
        await misbehave(control.url, token, number)
    host, port = control.program.says(r"http://([0-9.]+):(\d+)").groups()
    for _ in range(50):
        # What is no HTTP at all is warned of by the web server.
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET /api/v1/jobs/%0a{FORGED}\n\n\x1b[31m\r\n\r\n".encode())
        await reader.read()
        writer.close()
    # It has handled all of it, and serves other clients.
    assert control.api.status().machines == 0
    elapsed_s = time.monotonic() - begun_at
    text = control.program.err_path.read_bytes()
    assert b"sent a message 'facts' that does not fit" in text
    for harmful in (b"\x1b", b"\r", "\u202e".encode()):
        assert harmful not in text
    lines = text.decode().splitlines()
    assert not [line for line in lines if line.startswith(FORGED)]
    assert all(len(line) < LINE_CHARACTERS_MAX + 200 for line in lines)
    # 60 messages of each kind in each round; one level logs this many lines, whatever causes them.
    assert ROUNDS * 120 > LEVEL_LINES_AT_ONCE
    warnings = [line for line in lines if " WARNING " in line]
    assert len(warnings) <= LEVEL_LINES_AT_ONCE + LEVEL_LINES_PER_S * (elapsed_s + 1)
    assert "more like this may be left out now" in text.decode()
