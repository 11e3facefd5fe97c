"""The benchmarks run at a tiny size and say what they should; how fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.__main__ import ROWS, main
from benchmarks.clients import CLIENTS, PAYLOAD, Frames
from benchmarks.load import count_messages
from benchmarks.report import Budget, Figure, Row, format_row

ROOT = Path(__file__).parents[2]
TINY = ("--seconds", "0.3", "--rounds", "2", "--connections", "4", "--idle-connections", "20")

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's proc(5)")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("benchmarks") / "report.json"
    done = run(*TINY, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found["stdout"] = done.stdout
    return found


def test_the_report_says_where_and_of_what(report: dict[str, Any]) -> None:
    assert set(report["machine"]) == {"processor", "cores", "system"}
    assert set(report["versions"]) == {"python", "landline", "uvloop", "msgspec", "websockets"}
    assert [row["name"] for row in report["rows"]] == list(ROWS)


def test_every_row_has_landline_first_and_its_peers(report: dict[str, Any]) -> None:
    echo, idle = report["rows"]
    assert [figure["peer"] for figure in echo["figures"]] == [
        "landline",
        "landline_request",
        "bare_uvloop",
        "websockets",
    ]
    assert [figure["peer"] for figure in idle["figures"]] == ["landline", "bare_uvloop", "websockets"]
    for row in report["rows"]:
        ours, *others = row["figures"]
        assert ours["budget"] is not None
        assert isinstance(ours["met"], bool)
        assert all(figure["met"] is None for figure in others)
        assert all(figure["low"] <= figure["median"] <= figure["high"] for figure in row["figures"])


def test_echo_says_who_was_busy(report: dict[str, Any]) -> None:
    echo = report["rows"][0]
    assert echo["settings"]["connections"] == 4
    assert set(echo["ratios"]) == {"landline_request", "bare_uvloop", "websockets"}
    for figure in echo["figures"]:
        assert len(figure["values"]) == 2
        assert figure["low"] > 0
        assert figure["server_cpu"] >= 0
        assert 0 <= figure["load_busy"] <= 1.1


def test_the_table_is_printed(report: dict[str, Any]) -> None:
    assert "messages answered each second" in report["stdout"]
    assert "memory of one idle connection" in report["stdout"]
    assert "budget" in report["stdout"]


def test_without_a_compiler_the_load_is_python(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "echo", *TINY, "--json", str(path)],
        cwd=ROOT,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(path.read_text(encoding="utf-8"))["rows"][0]["settings"]["load"] == "Python, sleeps"


@pytest.mark.parametrize("arguments", [["--only", "ehco"], ["--seconds", "0"], ["--connections", "0"]])
def test_wrong_use_is_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(ROWS)


def test_an_interrupt_ends_every_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--only", "echo"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    children: set[int] = set()
    try:
        deadline = time.monotonic() + 20
        while len(children) < 5 and time.monotonic() < deadline:
            children = children_of(process.pid)
            time.sleep(0.05)
        assert len(children) == 5
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, stderr
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def children_of(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return set()


@pytest.mark.parametrize("kind", list(CLIENTS))
def test_frames_encoded_beforehand_are_counted_again(kind: str) -> None:
    frames: Frames = CLIENTS[kind].encode(200, 16)
    assert frames.count == 200
    assert frames.offsets[-1] == len(frames.data)
    data = (bytes((130, len(PAYLOAD))) + PAYLOAD) * 200 if kind == "websockets" else frames.data
    counted, rest = 0, b""
    for start in range(0, len(data), 999):
        messages, rest = count_messages(CLIENTS[kind].format, rest + data[start : start + 999])
        counted += messages
    assert (counted, rest) == (200, b"")


def test_a_budget_missed_is_said_so() -> None:
    figures = [
        Figure(peer="landline", values=[3.0, 1.0, 2.0], budget=Budget(4, "more")),
        Figure(peer="other", values=[1.0]),
    ]
    row = Row(name="row", title="a row", unit="x/s", settings={}, figures=figures)
    assert (figures[0].median, figures[0].low, figures[0].high, figures[0].met) == (2.0, 1.0, 3.0, False)
    assert row.ratios == {"other": 2.0}
    assert "≥ 4  MISSED" in format_row(row)
    assert Budget(4, "less").is_met(4)
