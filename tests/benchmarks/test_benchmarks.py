"""The benchmarks run at a tiny size and print their tables. Speed is not tested."""

from __future__ import annotations

import ast
import graphlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from benchmarks import (
    document,
    echo,
    fairness,
    fan_out,
    heartbeats,
    idle_memory,
    peers,
    reconnect,
    request_response,
    round_trip,
    transports,
)
from benchmarks.__main__ import NUMBERS, ROWS, main
from benchmarks.clients import CLIENTS, LANDLINE_WS, PAYLOAD, SOCKETIO, TEXT_PAYLOAD, WEBSOCKET, Frames
from benchmarks.fairness_processes import KINDS
from benchmarks.loops import count_messages, has_compiler
from benchmarks.processes import Child, ChildFailed
from benchmarks.report import (
    Budget,
    Cost,
    Figure,
    Report,
    Row,
    describe_machine,
    describe_versions,
    format_row,
)

ROOT = Path(__file__).parents[2]
LINES = 40
TINY = (
    *("--seconds", "0.1", "--rounds", "2", "--echo-connections", "4", "--lines", str(LINES)),
    *("--idle-connections", "20", "--idle-tls-connections", "4"),
    *("--heartbeat-interval-s", "3", "--heartbeat-seconds", "3.5", "--fairness-seconds", "0.1"),
)
PEERS_OF = {
    "echo": echo.PEERS,
    "round_trip": round_trip.PEERS,
    "idle_memory": idle_memory.PLAIN + idle_memory.TLS,
    "fan_out": fan_out.PEERS,
    "heartbeats": heartbeats.PEERS,
    "request_response": request_response.PEERS,
    "reconnect": reconnect.PEERS,
    "transports": transports.PEERS,
    "fairness": fairness.PEERS,
}

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's proc(5)")
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C compiler (cc) for the load")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def measure(directory: Path, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    path = directory / "report.json"
    done = run(*arguments, "--quiet", *TINY, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # The file can be decoded again.
    msgspec.json.decode(path.read_bytes(), type=Report)
    rows: list[dict[str, Any]] = json.loads(path.read_bytes())["rows"]
    return rows, done.stdout


# Together all rows and all peers.
@needs_compiler
@pytest.mark.parametrize(
    ("names", "beside"),
    [
        (["echo"], ["bare_uvloop", "landline_request", "landline_ws", "socketio"]),
        (["round_trip", "reconnect"], ["landline_ws", "picows", "mosquitto"]),
        (["idle_memory"], ["landline_ws", "landline_tls", "websockets_tls"]),
        (["fan_out"], ["bare_uvloop", "nats", "websockets"]),
        (["heartbeats"], ["bare_uvloop", "nats", "websockets"]),
        (["request_response"], ["nats_py", "websockets", "socketio"]),
        (["transports"], ["over_tls", "over_unix", "over_ws", "over_wss", "over_quic", "over_udp"]),
    ],
)
def test_a_row_measures_each_installed_peer(names: list[str], beside: list[str], tmp_path: Path) -> None:
    rows, printed = measure(tmp_path, "--only", *names, "--peers", *beside)
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert row["title"] in printed
        figures = {figure["peer"]: figure for figure in row["figures"]}
        assert set(figures) == {"landline", *beside} & set(PEERS_OF[row["name"]])
        assert row["figures"][0]["peer"] == "landline"
        for peer, figure in figures.items():
            assert peers.PEERS[peer].title in printed
            if peers.PEERS[peer].missing():
                assert figure["values"] == []
                assert "not installed" in figure["note"]
                continue
            assert figure["low"] <= figure["median"] <= figure["high"]
            assert figure["cost"] is not None or peer in round_trip.BROKERS
            check_work(row["name"], peer, figure)


def test_fairness_measures_each_flood_over_each_transport(tmp_path: Path) -> None:
    beside = ["over_ws", "over_quic"]
    [row], printed = measure(tmp_path, "--only", "fairness", "--peers", *beside, "landline")
    for peer in ["landline", *beside]:
        figures = {figure["label"]: figure for figure in row["figures"] if figure["peer"] == peer}
        assert list(figures) == [fairness.QUIET, *KINDS]
        for kind, figure in figures.items():
            assert f"{peers.PEERS[peer].title}, {kind}" in printed
            assert figure["budget"]["value"] == 25
            details = figure["details"]
            assert details["answers"] > 0
            assert 0 < details["p50"] <= details["p99"] <= figure["median"]
            assert details["honest links lost"] >= 0
        assert figures["PING"]["details"]["flooders ended"] > 0
        assert figures[fairness.QUIET]["note"] == ""
    assert row["ratios"] == {}


def check_work(name: str, peer: str, figure: dict[str, Any]) -> None:
    """Check that the measured work was done."""
    details = figure["details"]
    if name in {"round_trip", "request_response", "reconnect"}:
        assert figure["low"] > 0
    if name == "echo":
        # Two rounds with four connections and two with one, sixteen messages in flight: each returned at least once.
        assert details["answered"] >= (2 * 4 + 2) * 16
        assert 0 <= figure["load_busy"] <= 1.1
    if name == "round_trip":
        assert details["round trips"] > 0
        assert details["p99"] >= figure["low"]
    if name == "fan_out":
        assert details["delivered"] == fan_out.ROUNDS * LINES
    if name == "heartbeats":
        assert (details["pings answered/s"] > 0) == (peer != "bare_uvloop")
    if name == "request_response":
        assert details["answers compared"] > 0
    if name == "reconnect":
        assert details["came back"] == reconnect.ROUNDS * LINES
        if peer == "landline":
            assert details["sessions resumed"] == reconnect.ROUNDS * LINES


def test_all_rows_are_tested() -> None:
    assert list(PEERS_OF) == list(ROWS)


def test_without_a_compiler_the_load_of_echo_is_python(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = run(
        "--only", "echo", "fan_out", "--peers", "bare_uvloop", *TINY, "--json", str(path), PATH=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "fan_out: not measured" in done.stdout
    (row,) = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert row["settings"]["load"] == "Python, sleeps"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "ehco"],
        ["--peers", "nginx"],
        ["--seconds", "0"],
        ["--echo-connections", "0"],
        ["--lines", "20000"],
    ],
)
def test_invalid_arguments_print_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1


def test_the_modules_import_each_other_without_circles() -> None:
    modules = {path.stem: path for path in (ROOT / "benchmarks").glob("*.py")}
    imports: dict[str, set[str]] = {}
    for name, path in modules.items():
        found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        names = {node.module.removeprefix("benchmarks.") for node in found if node.module}
        names |= {alias.name for node in found if node.module == "benchmarks" for alias in node.names}
        imports[name] = names & set(modules)
    graphlib.TopologicalSorter(imports).prepare()


def test_list_prints_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == list(ROWS)


def test_all_numbers_are_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all("--" + name.replace("_", "-") in shown for name in NUMBERS)


def test_the_error_of_a_failed_child_contains_its_output() -> None:
    with Child("servers", "no such peer") as server, pytest.raises(ChildFailed) as failed:
        server.read()
    assert "invalid choice: 'no such peer'" in str(failed.value)


def test_an_interrupt_ends_all_processes() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--only", "echo"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    expected = 1 + len(peers.installed(echo.PEERS))
    children: set[int] = set()
    try:
        deadline = time.monotonic() + 20
        while len(children) < expected and time.monotonic() < deadline:
            children = children_of(process.pid)
            time.sleep(0.05)
        assert len(children) == expected
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


@pytest.mark.parametrize(
    "kind", ["landline", "landline_request", "landline_ws", "bare_uvloop", "websockets", "picows", "socketio"]
)
def test_encoded_frames_can_be_counted(kind: str) -> None:
    frames: Frames = CLIENTS[kind].encode(200, 16)
    assert frames.count == 200
    assert frames.offsets[-1] == len(frames.data)
    data = frames.data
    if CLIENTS[kind].format == WEBSOCKET:
        data = (bytes((0x82, len(PAYLOAD))) + PAYLOAD) * 200
    elif CLIENTS[kind].format == LANDLINE_WS:
        plain = CLIENTS["landline"].encode(200, 16)
        frames_of_7 = [
            plain.data[plain.offsets[at] : plain.offsets[min(at + 7, 200)]] for at in range(0, 200, 7)
        ]
        headers = [b"\x82\x7e" + len(some).to_bytes(2, "big") for some in frames_of_7]
        data = b"\x89\x02hi".join(header + some for header, some in zip(headers, frames_of_7, strict=True))
    elif CLIENTS[kind].format == SOCKETIO:
        event = f'42["message","{TEXT_PAYLOAD}"]'.encode()
        data = (bytes((0x81, len(event))) + event) * 200
    counted, rest = 0, b""
    for start in range(0, len(data), 999):
        messages, rest = count_messages(CLIENTS[kind].format, rest + data[start : start + 999])
        counted += messages
    assert (counted, rest) == (200, b"")


def make_row(name: str = "row") -> Row:
    figures = [
        Figure(peer="landline", values=[3.0, 1.0, 2.0], budget=Budget(4, "more"), cost=Cost(1.0, 1.5)),
        Figure(peer="picows", values=[1.0], details={"p99": 3.0}),
        Figure(peer="mosquitto", values=[], note="not installed (mosquitto)"),
    ]
    return Row(name=name, title="a row", unit="x/s", settings={"lines": 7}, figures=figures, cost_title="µs")


def test_a_missed_budget_is_shown() -> None:
    row = make_row()
    ours = row.figures[0]
    assert (ours.median, ours.low, ours.high, ours.met) == (2.0, 1.0, 3.0, False)
    assert row.ratios == {"picows": 2.0}
    table = format_row(row)
    assert "≥ 4  MISSED" in table
    assert "×1.50" in table
    assert "not installed (mosquitto)" in table
    assert Budget(4, "less").is_met(4)


def test_tables_replace_the_ones_between_the_markers() -> None:
    report = Report(
        machine={**describe_machine(), "load_before": 3.0},
        versions=describe_versions(),
        date="2026-11-21",
        seconds=1.0,
        rows=[make_row()],
    )
    text = "".join(
        f"{name}\n<!-- results: {name} -->\nold\n<!-- end of results -->\n" for name in ("machine", "row")
    )
    done = document.rendered(report, text)
    assert "old" not in done
    assert "The machine was shared" in done
    assert "**2** (MISSED: ≥ 4)" in done
    assert document.rendered(report, done) == done
    with pytest.raises(ValueError, match="0 markers for the results of 'row'"):
        document.rendered(report, text.partition("row\n")[0])


def test_the_document_shows_the_report() -> None:
    report = msgspec.json.decode((ROOT / "docs" / "benchmarks" / "results.json").read_bytes(), type=Report)
    text = document.PATH.read_text(encoding="utf-8")
    assert [row.name for row in report.rows] == list(ROWS)
    assert document.rendered(report, text) == text
    beside = document.TRANSPORTS_PATH.read_text(encoding="utf-8")
    assert document.with_transports(report, beside) == beside
    for name in ROWS:
        assert f"(benchmarks/{name}.svg)" in text
        assert (ROOT / "docs" / "benchmarks" / f"{name}.svg").exists()


def test_the_same_figures_give_the_same_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots need matplotlib: uv sync --group plots")
    from benchmarks.plots import plot

    for name in ("one.svg", "two.svg"):
        plot(make_row(), tmp_path / name)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert b"budget" in drawn
    assert b"picows" in drawn
