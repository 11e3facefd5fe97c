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
    played, missing, late = (await viewer.says(f"^end of stream: {PLAYED}$")).groups()
    return int(played), int(missing), int(late)


async def test_all_viewers_receive_the_tone(start, tmp_path: Path) -> None:
    # Limits that even a busy machine does not reach: no chunk may be dropped without need.
    server = start("media.py", "server", "--listen", "tcp://127.0.0.1:0", "--in-flight", "30")
    url = await server.listens()
    viewers = [
        start("media.py", "view", "--server", url, "--deadline", "30", "--wav", f"{number}.wav")
        for number in range(2)
    ]
    for viewer in viewers:
        await viewer.says("^viewing")
    publisher = start("media.py", "publish", "--server", url, "--seconds", "2")
    assert await publisher.ends() == 0
    for number, viewer in enumerate(viewers):
        assert await counts(viewer) == (100, 0, 0)
        with wave.open(str(tmp_path / f"{number}.wav")) as recording:
            assert (recording.getframerate(), recording.getnframes()) == (48_000, 96_000)
            samples = struct.unpack("<96000h", recording.readframes(96_000))
        assert all(
            samples[n] == round(8000 * math.sin(2 * math.pi * 440 / 48_000 * n)) for n in range(0, 96_000, 97)
        )


async def test_only_a_viewer_with_a_slow_network_misses_chunks(start) -> None:
    server = start("media.py", "server", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await server.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        proxy.down = Faults(bandwidth_bytes_per_s=40_000)  # the tone is 96,000
        near = start("media.py", "view", "--server", str(endpoint))
        far = start("media.py", "view", "--server", proxy.url, "--deadline", "4")
        for viewer in (near, far):
            await viewer.says("^viewing")
        start("media.py", "publish", "--server", str(endpoint), "--seconds", "4")
        near_played, _, _ = await counts(near)
        played, missing, late = await counts(far)
        # Without the limit on data in flight no chunk would be missing, and each would be later than the one before.
        assert missing > 50
        assert 20 < played < near_played
        assert late < played
    await server.says(r"^2 viewers; [1-9]\d* late chunks were not sent")


async def test_the_newest_chunks_are_played_after_an_outage(start) -> None:
    server = start("media.py", "server", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await server.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        viewer = start("media.py", "view", "--server", proxy.url)
        await viewer.says("^viewing")
        start("media.py", "publish", "--server", str(endpoint), "--seconds", "5")
        await viewer.says(f"^{PLAYED}; age")
        proxy.hold()
        await server.says(r"^1 viewers; [2-9]\d late chunks were not sent")
        proxy.heal()
        played, missing, late = await counts(viewer)
    assert played + missing + late == 250
    assert missing >= 20
    assert played > 100
