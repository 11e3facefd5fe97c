"""Private files against real directories: no link is followed, and what others could change is refused."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from landline.fleet.agent.facts import machine_id
from landline.fleet.agent.journal import Entry, Journal, JournalError
from landline.fleet.model import Action, ExecutionState
from landline.fleet.paths import UnsafeDirectory, UnsafeFile, UnsafePath, make_private_directory
from landline.fleet.private_files import PRIVATE_FILE_BYTES_MAX, read_private_file, write_private_file

NOBODY = 65_534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    make_private_directory(path)
    return path


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that another user wants root to overwrite."""
    path = tmp_path / "victim"
    path.write_text("precious")
    path.chmod(0o644)
    return path


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_files_are_private_whatever_the_umask(directory: Path) -> None:
    path = directory / "secret"
    mask = os.umask(0)
    try:
        write_private_file(path, b"one")
    finally:
        os.umask(mask)
    assert read_private_file(path) == b"one"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_private_file(path, b"two")
    assert read_private_file(path) == b"two"
    assert names(directory) == ["secret"]


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "secret"
    write_private_file(path, b"one")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            write_private_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert names(directory) == ["secret"]


def test_a_link_in_the_place_of_a_file_is_not_read_and_not_written_through(
    directory: Path, victim: Path
) -> None:
    link = directory / "secret"
    link.symlink_to(victim)
    with pytest.raises(UnsafeFile, match="is a link, which is not followed; remove it"):
        read_private_file(link)
    # The name is given to the new file; what the link led to stays.
    write_private_file(link, b"two")
    assert victim.read_text() == "precious"
    assert not link.is_symlink()


@pytest.mark.parametrize("name", ["secret.new", ".secret.new", "secret.tmp"])
def test_a_link_with_the_name_of_a_temporary_file_is_not_followed(
    directory: Path, victim: Path, name: str
) -> None:
    (directory / name).symlink_to(victim)
    write_private_file(directory / "secret", b"two")
    assert victim.read_text() == "precious"
    assert (directory / name).is_symlink()


def test_a_special_file_is_refused(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    with pytest.raises(UnsafeFile, match="is not a regular file"):
        read_private_file(directory / "pipe")
    (directory / "endless").symlink_to("/dev/zero")
    with pytest.raises(UnsafeFile):
        read_private_file(directory / "endless")
    (directory / "large").write_bytes(bytes(PRIVATE_FILE_BYTES_MAX + 1))
    with pytest.raises(UnsafeFile, match="has more than"):
        read_private_file(directory / "large")


def test_a_file_that_others_can_read_is_made_private_where_that_is_wanted(directory: Path) -> None:
    path = directory / "secret"
    write_private_file(path, b"one")
    path.chmod(0o644)
    read_private_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    read_private_file(path, repair=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@as_root
def test_a_file_of_another_user_is_refused(directory: Path) -> None:
    path = directory / "secret"
    write_private_file(path, b"one")
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(UnsafeFile, match="belongs to another user"):
        read_private_file(path)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o702])
def test_a_directory_that_others_may_write_to_is_refused(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    for use in (lambda: make_private_directory(directory), lambda: machine_id(directory / "machine-id")):
        with pytest.raises(UnsafeDirectory, match="others may write to it"):
            use()
    with pytest.raises(JournalError, match="others may write to it"):
        Journal.open(directory / "journal.jsonl")
    assert names(directory) == []


@as_root
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    os.chown(directory, NOBODY, NOBODY)
    with pytest.raises(UnsafeDirectory, match="belongs to another user"):
        machine_id(directory / "machine-id")
    with pytest.raises(JournalError, match="belongs to another user"):
        Journal.open(directory / "journal.jsonl")
    assert names(directory) == []


def test_a_link_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "etc"
    make_private_directory(target)
    for name, leads_to in (("link", target), ("dangling", tmp_path / "nothing")):
        link = tmp_path / name
        link.symlink_to(leads_to)
        with pytest.raises(UnsafeDirectory, match="is a link or not a directory"):
            make_private_directory(link)
        with pytest.raises(UnsafePath):
            machine_id(link / "machine-id")
        with pytest.raises(JournalError, match="is a link or not a directory"):
            Journal.open(link / "journal.jsonl")
    assert names(target) == []
    assert not (tmp_path / "nothing").exists()


def test_the_machines_id_is_private_also_one_that_was_made_before(directory: Path) -> None:
    path = directory / "machine-id"
    made = machine_id(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert machine_id(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_links_in_the_agents_directory_overwrite_nothing(directory: Path, victim: Path) -> None:
    (directory / "machine-id.new").symlink_to(victim)
    machine_id(directory / "machine-id")
    (directory / "journal.jsonl").symlink_to(victim)
    with pytest.raises(JournalError, match="is a link"):
        Journal.open(directory / "journal.jsonl")
    (directory / "journal.jsonl").unlink()
    (directory / "journal.new").symlink_to(victim)
    journal = Journal.open(directory / "journal.jsonl")
    journal.record(Entry("job-1", Action.RESTART, ExecutionState.ACTING, "boot-1"))
    journal.close()
    assert victim.read_text() == "precious"


def test_a_directory_that_was_exchanged_gets_no_shortened_journal(tmp_path: Path, directory: Path) -> None:
    # In a process of its own, as an agent has it.
    code = f"""
        from pathlib import Path
        from landline.fleet.agent.journal_file import JournalFile
        directory = Path({str(directory)!r})
        file = JournalFile.open(directory / "journal.jsonl")
        directory.rename(directory.with_name("aside"))
        directory.mkdir(mode=0o700)
        try:
            file.replace(b"")
        except OSError as error:
            print(error.strerror)
        print(list(directory.iterdir()))
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50, check=True
    )
    assert child.stdout.splitlines() == ["the directory was replaced by another", "[]"]
