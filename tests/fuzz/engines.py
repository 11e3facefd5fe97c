"""What makes inputs: atheris, guided by coverage, or plain mutation where that is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
import traceback
from hashlib import sha1
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".fuzz"
INPUT_BYTES_MAX = 4096
INPUT_S_MAX = 30
"""An input that takes longer counts as a crash."""


class Outcome(NamedTuple):
    """What came of fuzzing one target."""

    summary: str
    crash: Path | None
    """The input that made the target raise."""


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def crash_path(target: str, data: bytes) -> Path:
    folder = FOLDER / "crashes"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{target}-{sha1(data, usedforsecurity=False).hexdigest()[:16]}"


def run_guided(target: str, seconds: float, seed: int) -> Outcome:
    """Run atheris in a process of its own: it ends that process. What it found interesting is kept for next time."""
    from tests.fuzz.seeds import seeds_of

    corpus = FOLDER / target
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds_of(target):
        (corpus / f"seed-{sha1(data, usedforsecurity=False).hexdigest()[:16]}").write_bytes(data)
    artifact = FOLDER / f"{target}.crash"
    artifact.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.guided", target),
        f"-max_total_time={max(1, round(seconds))}",
        f"-seed={seed % 2**31 or 1}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-exact_artifact_path={artifact}",
        "-print_final_stats=1",
        str(corpus),
    ]
    log = FOLDER / f"{target}.log"
    with log.open("w") as output:
        status = subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = log.read_text(errors="replace")
    executions = re.search(r"number_of_executed_units: (\d+)", text)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    if executions is None or (status != 0 and not artifact.exists()):
        raise RuntimeError(f"atheris failed with status {status}; see {log}:\n{text[-3000:]}")
    edges, features, inputs = coverage[-1] if coverage else ("0", "0", "0")
    summary = f"{executions[1]} executions, {edges} edges and {features} features covered by {inputs} inputs"
    if status == 0:
        return Outcome(summary, None)
    found = text.partition("=== Uncaught Python exception: ===\n")[2].partition("\n==")[0]
    print(found or text[-3000:], flush=True)
    kept = crash_path(target, artifact.read_bytes())
    os.replace(artifact, kept)
    return Outcome(summary, kept)


def run_unguided(target: str, seconds: float, seed: int) -> Outcome:
    """Mutates the seeds at random, for that long but at least once through all of them."""
    from tests.fuzz.seeds import seeds_of
    from tests.fuzz.targets import TARGETS

    function, seeds, random = TARGETS[target], seeds_of(target), Random(seed)
    end = time.monotonic() + seconds
    executions = 0
    while executions < len(seeds) or time.monotonic() < end:
        data = seeds[executions] if executions < len(seeds) else mutate(random, seeds)
        executions += 1
        try:
            function(data)
        except Exception:
            traceback.print_exc()
            crash = crash_path(target, data)
            crash.write_bytes(data)
            return Outcome(f"{executions} executions", crash)
    return Outcome(f"{executions} executions of mutated seeds, not guided", None)


def mutate(random: Random, seeds: list[bytes]) -> bytes:
    """Return one of the seeds, changed in a few places."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice([1, 1, 2, 4, 16])):
        start = random.randrange(len(data) + 1)
        end = min(len(data), start + random.choice([1, 1, 4, 30]))
        match random.randrange(7):
            case 0 if start < len(data):
                data[start] ^= 1 << random.randrange(8)
            case 1:
                data[start:end] = random.randbytes(end - start)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end] * random.choice([1, 2, 50])
            case 4:
                other = random.choice(seeds)
                begin = random.randrange(len(other) + 1)
                data[start:end] = other[begin : begin + random.choice([1, 8, 200])]
            case 5:
                data[start:end] = random.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * (end - start)
            case _:
                del data[random.choice([start, len(data)]) :]
    return bytes(data[:INPUT_BYTES_MAX])
