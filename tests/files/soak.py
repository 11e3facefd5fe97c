"""Send a large file through a network that breaks every second, and measure it: ``python -m tests.files.soak``.

``--size-mib`` is the size of the file (1024), ``--cut-s`` the seconds between two cuts (1), ``--rate-mib`` the
bandwidth in MiB/s (100). The receiver is a separate process; the memory of both is measured.
"""

import argparse
import asyncio
import contextlib
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import landline
from landline.testing import FaultProxy, Faults

MIB = 1024 * 1024
PEERS = Path(__file__).parent / "peers.py"


def write(path, size_bytes):
    digest = hashlib.blake2b(digest_size=32)
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            data = os.urandom(MIB)
            digest.update(data)
            file.write(data)
    return digest.digest()


def hash_of(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).digest()


def peak_bytes(pid="self"):
    """Return the peak resident set size of a process (proc_pid_status(5), VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def soak(size_mib, cut_s, rate_mib):
    with tempfile.TemporaryDirectory(prefix="ll-") as name:
        directory = Path(name)
        path, inbox = directory / "large", directory / "inbox"
        inbox.mkdir()
        digest = write(path, size_mib * MIB)
        receiver = subprocess.Popen(
            [sys.executable, str(PEERS), "receive", str(inbox), "tcp://127.0.0.1:0"],
            stdout=subprocess.PIPE,
            text=True,
        )
        url = landline.parse_url(receiver.stdout.readline().split('"')[-2])
        # The rest of its output is not needed.
        draining = asyncio.create_task(asyncio.to_thread(receiver.stdout.read))
        try:
            async with (
                FaultProxy(url.host, url.port) as proxy,
                landline.connect(proxy.url, backoff=landline.Backoff(first_s=0.02, cap_s=0.1)) as line,
            ):
                proxy.up = Faults(bandwidth_bytes_per_s=rate_mib * MIB)
                before_bytes = peak_bytes()

                async def cut():
                    while True:
                        await asyncio.sleep(cut_s)
                        proxy.reset()

                cutting = asyncio.create_task(cut())
                started = time.monotonic()
                receipt = await line.send_file(path)
                took_s = time.monotonic() - started
                cutting.cancel()
                assert receipt.hash == digest == hash_of(inbox / "large"), "the received file differs"
                sys.stdout.write(
                    f"{size_mib} MiB in {took_s:.1f} s ({size_mib / took_s:.0f} MiB/s) over {line.epoch} transports, "
                    f"intact; peak of the sender {before_bytes / MIB:.0f} -> {peak_bytes() / MIB:.0f} MiB, "
                    f"of the receiver {peak_bytes(receiver.pid) / MIB:.0f} MiB\n"
                )
        finally:
            receiver.kill()
            receiver.wait()
            with contextlib.suppress(asyncio.CancelledError):
                await draining
            receiver.stdout.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--cut-s", type=float, default=1.0)
    parser.add_argument("--rate-mib", type=int, default=100)
    arguments = parser.parse_args()
    landline.run(soak(arguments.size_mib, arguments.cut_s, arguments.rate_mib))
