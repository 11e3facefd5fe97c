"""examples/media.py"""

import math
import struct
import wave
from pathlib import Path

from landline import parse_url
from landline.testing import FaultProxy, Faults

PLAYED = r"played (\d+), missing (\d+), late (\d+)"


async def counts(viewer) -> tuple[int, int, int]:
    assert await viewer.ends() == 0
    played, missing, late = (await viewer.says(f"^the end: {PLAYED}$")).groups()
    return int(played), int(missing), int(late)


async def test_viewers_hear_the_tone(start, tmp_path: Path) -> None:
    server = start("media.py", "server", "--listen", "tcp://127.0.0.1:0")
    url = await server.listens()
    viewers = [
        start("media.py", "view", "--server", url, "--deadline", "5", "--wav", f"{number}.wav")
        for number in range(2)
    ]
    for viewer in viewers:
        await viewer.says("^viewing")
    publisher = start("media.py", "publish", "--server", url, "--seconds", "2")
    assert await publisher.ends() == 0
    for number, viewer in enumerate(viewers):
        # The deadline is one no machine misses: what is checked is that nothing is dropped without need.
        assert await counts(viewer) == (100, 0, 0)
        with wave.open(str(tmp_path / f"{number}.wav")) as recording:
            assert (recording.getframerate(), recording.getnframes()) == (48_000, 96_000)
            samples = struct.unpack("<96000h", recording.readframes(96_000))
        assert all(
            samples[n] == round(8000 * math.sin(2 * math.pi * 440 / 48_000 * n)) for n in range(0, 96_000, 97)
        )


async def test_one_viewers_thin_network_makes_it_miss_chunks_and_nobody_else(start) -> None:
    server = start("media.py", "server", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await server.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        proxy.down = Faults(bandwidth_bytes_per_s=40_000)  # the tone is 96,000
        near = start("media.py", "view", "--server", str(endpoint), "--deadline", "3")
        far = start("media.py", "view", "--server", proxy.url, "--deadline", "3")
        for viewer in (near, far):
            await viewer.says("^viewing")
        start("media.py", "publish", "--server", str(endpoint), "--seconds", "4")
        assert await counts(near) == (200, 0, 0)
        played, missing, late = await counts(far)
        # Without the limit of what is on its way all 200 would arrive, and each later than the one before.
        assert late == 0
        assert missing > 50
        assert played > 50
    await server.says(r"^2 viewers; [1-9]\d* chunks were not sent")


async def test_after_a_network_that_was_out_the_newest_chunks_are_played(start) -> None:
    server = start("media.py", "server", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await server.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        viewer = start("media.py", "view", "--server", proxy.url)
        await viewer.says("^viewing")
        start("media.py", "publish", "--server", str(endpoint), "--seconds", "5")
        await viewer.says(f"^{PLAYED}; age")
        proxy.hold()
        await server.says(r"^1 viewers; [2-9]\d chunks were not sent")
        proxy.heal()
        played, missing, late = await counts(viewer)
    assert played + missing + late == 250
    assert missing >= 20
    assert played > 100
