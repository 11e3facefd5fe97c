"""examples/filedrop.py"""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from landline import parse_url
from landline.testing import FaultProxy, Faults, ProxiedConnection

MIB = 1024 * 1024


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(random.Random(5).randbytes(8 * MIB))
    return path


def names_in(directory: Path) -> list[str]:
    """Return the names of the files that are not hidden."""
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


async def test_files_arrive_complete_and_nothing_is_overwritten(start, tmp_path: Path, big: Path) -> None:
    small = tmp_path / "notes.txt"
    small.write_text("a note\n")
    receiver = start("filedrop.py", "receive", "inbox", "--listen", "tcp://127.0.0.1:0")
    url = await receiver.listens()
    sender = start("filedrop.py", "send", "--server", url, str(big), str(small))
    assert await sender.ends() == 0
    assert names_in(tmp_path / "inbox") == ["big.bin", "notes.txt"]
    assert (tmp_path / "inbox" / "big.bin").read_bytes() == big.read_bytes()
    await receiver.says(r"/inbox/big.bin from 127.0.0.1:\d+: 8.4 MB in ")
    await sender.says(r"big.bin: 8.4 MB in [\d.]+ s$")

    small.write_text("another note\n")
    again = start("filedrop.py", "send", "--server", url, str(small), "missing.txt", str(big))
    assert await again.ends() == 1
    await again.says(r"notes.txt: not sent: .*\(exists\)$")
    await again.says(r"^missing.txt: not sent: ")
    assert (tmp_path / "inbox" / "notes.txt").read_text() == "a note\n"
    assert await receiver.ends(signal.SIGINT) == 130


async def test_a_file_beyond_the_quota_is_refused(start, tmp_path: Path, big: Path) -> None:
    receiver = start("filedrop.py", "receive", "inbox", "--listen", "tcp://127.0.0.1:0", "--quota", "1000000")
    sender = start("filedrop.py", "send", "--server", await receiver.listens(), str(big))
    assert await sender.ends() == 1
    await sender.says(r"big.bin: not sent: .*\(over_quota\)$")
    assert names_in(tmp_path / "inbox") == []


async def test_a_transfer_resumes_after_the_receiver_was_killed(start, until, tmp_path: Path) -> None:
    huge = tmp_path / "huge.bin"
    huge.write_bytes(random.Random(6).randbytes(MIB) * 48)
    receiver = start("filedrop.py", "receive", "inbox", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await receiver.listens())
    connections: list[ProxiedConnection] = []
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        proxy.on_connection = connections.append
        proxy.up = Faults(bandwidth_bytes_per_s=25 * MIB)
        sender = start("filedrop.py", "send", "--server", proxy.url, str(huge))
        await partly_written(until, tmp_path / "inbox", 33 * MIB)
        receiver.kill()
        start("filedrop.py", "receive", "inbox", "--listen", str(endpoint))
        assert await sender.ends() == 0
        # Without resuming, it would send 48 MiB after more than 33 MiB.
        assert sum(connection.up_bytes for connection in connections) < 75 * MIB
    assert (tmp_path / "inbox" / "huge.bin").read_bytes() == huge.read_bytes()
    assert os.listdir(tmp_path / "inbox") == ["huge.bin"]


async def test_a_transfer_resumes_after_the_sender_was_killed(
    start, until, tmp_path: Path, big: Path
) -> None:
    receiver = start("filedrop.py", "receive", "inbox", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await receiver.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        proxy.up = Faults(bandwidth_bytes_per_s=3 * MIB)
        sender = start("filedrop.py", "send", "--server", proxy.url, str(big))
        await partly_written(until, tmp_path / "inbox", 3 * MIB)
        sender.kill()
    sender = start("filedrop.py", "send", "--server", str(endpoint), str(big))
    assert await sender.ends() == 0
    await sender.says(r"big.bin: 8.4 MB in [\d.]+ s, [3-8]\.\d MB of it earlier$")
    assert (tmp_path / "inbox" / "big.bin").read_bytes() == big.read_bytes()
    assert os.listdir(tmp_path / "inbox") == ["big.bin"]


async def partly_written(until, inbox: Path, size_bytes: int) -> None:
    """Wait until that many bytes of a file are on disk, under a hidden name."""

    def is_written() -> bool:
        # The record of a transfer is replaced while it is looked at.
        with contextlib.suppress(FileNotFoundError):
            return any(path.stat().st_size > size_bytes for path in inbox.iterdir())
        return False

    await until(is_written)
    assert names_in(inbox) == []
