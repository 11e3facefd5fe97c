"""Runs the fuzzing client of the Autobahn test suite against our WebSocket layer, and beside it against ``websockets``:

    python -m tests.transports.autobahn wstest

The arguments are the command that runs the suite's ``wstest`` (``pip install autobahntestsuite`` under Python 2.7,
the only version it supports; so no test of the suite needs it). The exit status is 1 when a case fails with ours alone.
"""

import asyncio
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from landline.transports.websocket import handshake as websocket_handshake
from landline.transports.websocket import stream as websocket_stream

MESSAGE_BYTES_MAX = 1 << 26
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"]
"""All but the limits and the speed (9), and compression (12, 13), which lines do not have."""
PASSED = {"OK", "INFORMATIONAL", "NON-STRICT"}
"""The last one is about what may, or may not, still be echoed of the bytes in front of a breach: a matter of timing."""


class EchoingTransport(websocket_stream.WebSocketTransport):
    """Takes text, and keeps messages together, which lines have no use for. All else is what lines ride."""

    __slots__ = ("_opcode", "_pieces")

    def data_received(self, data):
        frames, was_closing = self._frames, self._is_closing
        frames.receive_data(data)
        for frame in frames.events_received():
            if frame.opcode in {Opcode.TEXT, Opcode.BINARY}:
                self._opcode, self._pieces = frame.opcode, []
            if frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
                self._pieces.append(frame.data)
                if frame.fin and not was_closing and frames.state is State.OPEN:
                    self._echo(b"".join(self._pieces))
        self._send()
        if frames.state is not State.OPEN:
            self._leave()

    def _echo(self, message):
        if self._opcode is Opcode.BINARY:
            self._frames.send_binary(message)
            return
        try:
            message.decode()
        except UnicodeDecodeError:
            self._frames.fail(CloseCode.INVALID_DATA)
        else:
            self._frames.send_text(message)


async def serve_ours():
    """Our opening and our transport, without the subprotocol that the suite does not offer."""
    websocket_stream.MESSAGE_BYTES_MAX = MESSAGE_BYTES_MAX
    websocket_handshake.WebSocketTransport = EchoingTransport
    websocket_handshake.ServerProtocol = lambda subprotocols: ServerProtocol()
    entrance = websocket_handshake.HandshakePolicy("/", (), asyncio.Protocol)
    return await asyncio.get_running_loop().create_server(
        lambda: websocket_handshake.WebSocketServerHandshake(entrance), "127.0.0.1", 0
    )


async def echo(websocket):
    try:
        async for message in websocket:
            await websocket.send(message)
    except ConnectionClosed:
        pass


async def main(wstest):
    async with (
        await serve_ours() as ours,
        serve(
            echo, "127.0.0.1", 0, max_size=MESSAGE_BYTES_MAX, compression=None, ping_interval=None
        ) as theirs,
    ):
        with tempfile.TemporaryDirectory() as directory:
            servers = {"landline": ours, "websockets": theirs}
            spec = {
                "outdir": directory,
                "options": {"failByDrop": False},
                "servers": [
                    {"agent": name, "url": f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"}
                    for name, server in servers.items()
                ],
                "cases": CASES,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            path = Path(directory, "spec.json")
            path.write_text(json.dumps(spec))
            process = await asyncio.create_subprocess_exec(
                *wstest, "-m", "fuzzingclient", "-s", str(path), stdout=asyncio.subprocess.DEVNULL
            )
            if await process.wait():
                return 2
            verdicts = json.loads(Path(directory, "index.json").read_text())
    for agent, cases in verdicts.items():
        counted = Counter(case["behavior"] for case in cases.values())
        report = ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common())
        sys.stdout.write(f"{agent}: {len(cases)} cases, {report}\n")
    ours, theirs = verdicts["landline"], verdicts["websockets"]
    worse = [
        f"{name} ({key}): {case[key]}, websockets {theirs[name][key]}\n"
        for name, case in ours.items()
        for key in ("behavior", "behaviorClose")
        if case[key] not in PASSED and theirs[name][key] in PASSED
    ]
    sys.stdout.writelines(worse)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
