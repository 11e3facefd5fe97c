"""The journal against real files: on disk before it is done, readable after every crash, or refused."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from landline.fleet.agent.journal import ENTRIES_MAX, Entry, Journal, JournalError
from landline.fleet.model import Action, ExecutionState


def entry(number: int = 1, state: ExecutionState = ExecutionState.ACTING, **changes: object) -> Entry:
    made = Entry(f"job-{number}", Action.RESTART, state, "boot-1")
    return msgspec.structs.replace(made, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent" / "journal.jsonl"


def test_what_was_recorded_is_there_after_a_restart(path: Path) -> None:
    journal = Journal.open(path)
    assert journal.entries() == ()
    journal.record(entry(1))
    journal.record(entry(2))
    journal.record(entry(1, ExecutionState.FAILED, detail='"no"\nway'))
    assert journal.find("job-3") is None
    journal.close()
    journal = Journal.open(path)
    assert journal.entries() == (entry(1, ExecutionState.FAILED, detail='"no"\nway'), entry(2))
    assert journal.find("job-2") == entry(2)
    journal.close()


def test_only_its_owner_may_read_it(path: Path) -> None:
    Journal.open(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_an_entry_is_synced_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(path)
    order = []
    write, fsync = os.write, os.fsync

    def watched_write(descriptor: int, data: bytes) -> int:
        order.append("write")
        return write(descriptor, data)

    def watched_fsync(descriptor: int) -> None:
        assert journal.find("job-1") is None
        order.append("fsync")
        fsync(descriptor)

    monkeypatch.setattr(os, "write", watched_write)
    monkeypatch.setattr(os, "fsync", watched_fsync)
    journal.record(entry())
    assert order == ["write", "fsync"]
    assert journal.find("job-1") is not None
    journal.close()


def test_a_new_journals_name_is_synced_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    Journal.open(path).close()
    assert str(path.parent) in synced


def test_an_entry_that_cannot_be_synced_does_not_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(path)
    journal.record(entry(1))

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(JournalError, match="cannot be written: Input/output error"):
            journal.record(entry(2))
    assert journal.find("job-2") is None
    journal.record(entry(3))
    journal.close()
    journal = Journal.open(path)
    assert [each.id for each in journal.entries()] == ["job-1", "job-3"]
    journal.close()


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_last_line_cut_short_is_dropped(path: Path, cut: int) -> None:
    journal = Journal.open(path)
    journal.record(entry(1))
    journal.record(entry(2))
    journal.close()
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    journal = Journal.open(path)
    assert journal.entries() == (entry(1),)
    journal.record(entry(3))
    journal.close()
    journal = Journal.open(path)
    assert [each.id for each in journal.entries()] == ["job-1", "job-3"]
    journal.close()


def test_every_prefix_of_a_journal_is_readable(path: Path) -> None:
    journal = Journal.open(path)
    for number in range(3):
        journal.record(entry(number, detail="ä"))
    journal.close()
    data = path.read_bytes()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        journal = Journal.open(path)
        assert len(journal.entries()) == data[:size].count(b"\n")
        journal.close()


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00" * 30,
        b"{}",
        b"not json",
        b'{"id":1}',
        b"\xff\xfe",
        b'{"id":"a","action":"restart","state":"?"}',
    ],
)
def test_damage_elsewhere_is_refused(path: Path, damage: bytes) -> None:
    journal = Journal.open(path)
    journal.record(entry(1))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole + damage + b"\n" + whole)
    with pytest.raises(JournalError, match="damaged in line 2"):
        Journal.open(path)
    # Nothing was changed, and the lock is free again.
    assert path.read_bytes() == whole + damage + b"\n" + whole
    path.write_bytes(whole)
    Journal.open(path).close()


def test_two_agents_cannot_share_it(path: Path) -> None:
    journal = Journal.open(path)
    with pytest.raises(JournalError, match="another agent uses"):
        Journal.open(path)
    code = f"""
        from pathlib import Path
        from landline.fleet.agent.journal import Journal, JournalError
        try:
            Journal.open(Path({str(path)!r}))
        except JournalError as error:
            raise SystemExit(str(error))
    """
    other = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50
    )
    assert "another agent uses" in other.stderr
    journal.record(entry())
    journal.close()
    Journal.open(path).close()


def test_a_file_that_was_replaced_while_it_was_opened_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal.open(path).close()
    open_file = os.open

    def open_slowly(*arguments: object, **options: object) -> int:
        descriptor = open_file(*arguments, **options)
        if arguments[0] == path.name:
            beside = path.with_suffix(".new")
            beside.touch()
            beside.replace(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_slowly)
    with pytest.raises(JournalError, match="another agent uses"):
        Journal.open(path)


def test_a_killed_agent_leaves_it_readable_and_unlocked(path: Path) -> None:
    code = f"""
        from pathlib import Path
        from landline.fleet.agent.journal import Entry, Journal
        from landline.fleet.model import Action, ExecutionState
        journal = Journal.open(Path({str(path)!r}))
        number = 0
        while True:
            journal.record(Entry(f"job-{{number}}", Action.RESTART, ExecutionState.ACTING, "boot"))
            print(number, flush=True)
            number += 1
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(50)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines() if line]
    process.stdout.close()
    process.wait()
    journal = Journal.open(path)
    assert {f"job-{number}" for number in told} <= {each.id for each in journal.entries()}
    journal.close()


def test_a_full_disk_leaves_it_readable(path: Path) -> None:
    code = f"""
        import resource, signal
        from pathlib import Path
        from landline.fleet.agent.journal import Entry, Journal, JournalError
        from landline.fleet.model import Action, ExecutionState
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = Journal.open(Path({str(path)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        for number in range(100):
            try:
                journal.record(Entry(f"job-{{number}}", Action.RESTART, ExecutionState.ACTING, "boot"))
            except JournalError as error:
                assert journal.find(f"job-{{number}}") is None
                print(number, error)
                break
    """
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] != 0
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50, check=True
    )
    failed, _, sentence = child.stdout.partition(" ")
    assert "cannot be written: File too large" in sentence
    journal = Journal.open(path)
    assert [each.id for each in journal.entries()] == [f"job-{number}" for number in range(int(failed))]
    assert path.read_bytes().endswith(b"\n")
    # There is room again.
    journal.record(entry(1000))
    journal.close()
    Journal.open(path).close()


def test_a_long_journal_is_shortened_to_the_newest(path: Path) -> None:
    path.parent.mkdir()
    lines = [msgspec.json.encode(entry(number)) + b"\n" for number in range(ENTRIES_MAX + 1)]
    path.write_bytes(b"".join(lines))
    journal = Journal.open(path)
    kept = [each.id for each in journal.entries()]
    assert kept == [f"job-{number}" for number in range(ENTRIES_MAX // 2 + 1, ENTRIES_MAX + 1)]
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    # It is the new file that is locked and written.
    journal.record(entry(9999))
    with pytest.raises(JournalError):
        Journal.open(path)
    journal.close()
    journal = Journal.open(path)
    assert [each.id for each in journal.entries()] == [*kept, "job-9999"]
    journal.close()


def test_a_shortening_that_fails_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    lines = [msgspec.json.encode(entry(number)) + b"\n" for number in range(ENTRIES_MAX + 1)]
    path.write_bytes(b"".join(lines))

    def fail(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(JournalError, match="No space left"):
            Journal.open(path)
    assert path.read_bytes() == b"".join(lines)
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    Journal.open(path).close()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "journal.jsonl")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(tmp_path)
