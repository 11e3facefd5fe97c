"""Which boot this is: where the system says it, and where it is worked out from how long it has been up."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline.fleet.agent import boot_id
from landline.fleet.agent.boot_id import TOLERANCE_S, Boot, BootRecord, find_boot, identify, linux_boot_id

SEEN = Boot("old", booted_at=1000.0, uptime_s=500.0)


@pytest.mark.parametrize(
    ("now", "uptime_s", "boot_id"),
    [
        # The same boot, seen later.
        (1500.0, 500.0, "old"),
        (9000.0, 8000.0, "old"),
        (9000.0 + TOLERANCE_S, 8000.0, "old"),
        (9000.0 - TOLERANCE_S, 8000.0, "old"),
        # Up for less time than it was: no clock is needed to tell that it restarted.
        (1600.0, 60.0, "new"),
        (1560.0, 499.9, "new"),
        (1500.0, 499.9, "new"),
        # It restarted long after it was seen, or its clock was set: both look alike.
        (9000.0, 600.0, ""),
        (9000.0 + TOLERANCE_S + 0.1, 8000.0, ""),
        (100.0, 600.0, ""),
    ],
)
def test_a_boot_is_told_by_how_long_it_has_lasted(now: float, uptime_s: float, boot_id: str) -> None:
    found, remembered = identify(SEEN, now=now, uptime_s=uptime_s, new_id="new")
    assert found == boot_id
    assert remembered == Boot(boot_id or "new", now - uptime_s, uptime_s)


def test_a_first_boot_gets_an_id() -> None:
    assert identify(None, now=1500.0, uptime_s=500.0, new_id="new") == ("new", Boot("new", 1000.0, 500.0))


@given(
    booted_at=st.floats(0, 2e9),
    first_s=st.floats(0, 1e7),
    later_s=st.floats(0, 1e7),
    drift_s=st.floats(-TOLERANCE_S / 2, TOLERANCE_S / 2),
)
def test_one_boot_is_never_taken_for_two(
    booted_at: float, first_s: float, later_s: float, drift_s: float
) -> None:
    _, seen = identify(None, now=booted_at + first_s, uptime_s=first_s, new_id="this")
    uptime_s = first_s + later_s
    found, _ = identify(seen, now=booted_at + uptime_s + drift_s, uptime_s=uptime_s, new_id="another")
    assert found == "this"


class Uptime:
    """A machine that only says how long it has been up."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.uptime_s = 0.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.uptime_s += seconds

    def restart(self, seconds: float = 60.0) -> None:
        self.now += seconds
        self.uptime_s = seconds / 2

    def record(self, path: Path) -> BootRecord:
        return BootRecord(path, lambda: self.uptime_s, clock=lambda: self.now)


def test_the_boots_of_a_machine_that_has_no_boot_id(tmp_path: Path) -> None:
    machine, path = Uptime(), tmp_path / "agent" / "boot.json"
    first = machine.record(path)
    machine.pass_time(3600.0)
    # The agent is started again.
    assert machine.record(path).id == first.id
    machine.pass_time(3600.0)
    machine.restart()
    second = machine.record(path)
    assert second.id not in {"", first.id}
    # It runs for days; the clock is set while its agent looks; then it restarts within a minute of that.
    machine.pass_time(5 * 86_400.0)
    machine.now -= 7200.0
    second.refresh()
    assert machine.record(path).id == second.id
    machine.restart()
    assert machine.record(path).id not in {"", first.id, second.id}


def test_a_restart_that_looks_like_a_clock_that_was_set_is_not_claimed(tmp_path: Path) -> None:
    machine, path = Uptime(), tmp_path / "boot.json"
    machine.pass_time(20.0)
    machine.record(path)
    machine.pass_time(86_400.0)
    machine.restart()
    assert machine.record(path).id == ""
    # From then on it is known again.
    assert machine.record(path).id != ""


def test_a_record_that_is_damaged_or_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "boot.json"
    path.write_bytes(b"not this")
    assert Uptime().record(path).id
    assert "cannot be read" in caplog.text
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert Uptime().record(tmp_path / "file" / "boot.json").id
    assert "cannot be written" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's own boot id")
def test_linux_has_a_boot_id_of_its_own(tmp_path: Path) -> None:
    assert find_boot(tmp_path / "boot.json") == (linux_boot_id(), None)
    assert len(linux_boot_id()) == 36
    assert not (tmp_path / "boot.json").exists()


def test_macos_says_its_boot_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its program is played here; what it writes is what sysctl(8) writes."""
    said = (sys.executable, "-c", "print('DA90818C-0000-4000-8000-000000000001')")
    assert boot_id._macos_boot_id(said) == "DA90818C-0000-4000-8000-000000000001"
    assert boot_id._macos_boot_id((sys.executable, "-c", "raise SystemExit(1)")) == ""
    assert boot_id._macos_boot_id((str(tmp_path / "nothing"),)) == ""
    assert caplog.text.count("cannot be read") == 2
