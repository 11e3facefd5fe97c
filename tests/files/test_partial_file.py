"""Partial files on disk: they are verified before they are used."""

import os
from contextlib import suppress

import pytest

import landline
from landline.files import partial_file as disk
from landline.files.limits import FileLimits
from landline.files.messages import new_hash

MIB = 1024 * 1024
KEY = disk.partial_key("kiosk-7", "", b"k" * 16)


def digest(data):
    made = new_hash()
    made.update(data)
    return made.digest()


@pytest.fixture
def make(inbox):
    return lambda size_bytes=64 * MIB: disk.PartialFile(inbox, KEY, "a", size_bytes)


def test_a_closed_partial_file_can_be_resumed(make):
    first, data = make(), os.urandom(1000)
    assert first.resume() == (0, digest(b""))
    first.write(bytearray(data), restart=False)
    first.close(keep=True)
    assert make().resume() == (1000, digest(data))


def test_close_without_keep_removes_everything(make, inbox, names_in):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=False)
    assert names_in(inbox) == []


def test_bytes_after_the_verified_ones_are_truncated(make, inbox, names_in):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    part = inbox / f".landline-{KEY}.part"
    part.write_bytes(b"data and more")
    again = make()
    assert again.resume() == (4, digest(b"data"))
    again.store(inbox / "a", 0, digest(b"data"), overwrite=False)
    assert (inbox / "a").read_bytes() == b"data"
    assert names_in(inbox) == ["a"]


@pytest.mark.parametrize(
    "harm",
    [
        lambda part, record: part.write_bytes(b"dato"),
        lambda part, record: part.write_bytes(b"da"),
        lambda part, record: part.unlink(),
        lambda part, record: record.unlink(),
        lambda part, record: record.write_bytes(b""),
        lambda part, record: record.write_bytes(b"\xff\xff"),
        lambda part, record: record.write_bytes(b'{"name": "a"}'),
        lambda part, record: record.write_bytes(
            record.read_bytes().replace(b'"verified_bytes":4', b'"verified_bytes":-4')
        ),
        lambda part, record: record.write_bytes(
            record.read_bytes().replace(b'"size_bytes":', b'"size_bytes":1')
        ),
        lambda part, record: (part.unlink(), part.symlink_to("/etc/passwd")),
        lambda part, record: (part.unlink(), os.mkfifo(part)),
    ],
)
def test_a_partial_file_that_does_not_match_its_record_is_discarded(make, inbox, harm):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    harm(inbox / f".landline-{KEY}.part", inbox / f".landline-{KEY}.json")
    again = make()
    assert again.resume() == (0, digest(b""))
    again.write(bytearray(b"other"), restart=False)
    again.store(inbox / "a", 0, digest(b"other"), overwrite=False)
    assert (inbox / "a").read_bytes() == b"other"


def test_a_partial_file_that_is_open_elsewhere_is_not_touched(make, inbox):
    first, second = make(), make()
    first.write(bytearray(b"data"), restart=False)
    assert second.resume() is None
    second.close(keep=False)
    with pytest.raises(landline.FileRefused, match="another transfer"):
        make().write(bytearray(b"mine"), restart=False)
    first.close(keep=True)
    assert make().resume() == (4, digest(b"data"))


def test_a_file_of_another_size_is_not_resumed(make):
    first = make(100)
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    assert make(101).resume()[0] == 0


def test_a_file_with_a_wrong_hash_is_not_stored(make, inbox):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    with pytest.raises(landline.FileRefused, match="differs from the sent one"):
        first.store(inbox / "a", 0, digest(b"dato"), overwrite=False)
    assert not (inbox / "a").exists()


@pytest.mark.parametrize("has_links", [True, False])
def test_an_existing_name_is_not_replaced(make, inbox, monkeypatch, has_links):
    """Also on a file system without hard links, and if the name is a dangling link."""
    if not has_links:
        monkeypatch.setattr(os, "link", refuse_link)
    (inbox / "a").symlink_to(inbox / "nowhere")
    first = make()
    first.write(bytearray(b"data"), restart=False)
    with pytest.raises(landline.FileRefused, match="already"):
        first.store(inbox / "a", 0, digest(b"data"), overwrite=False)
    assert not (inbox / "nowhere").exists()


def refuse_link(*arguments, **named):
    raise PermissionError("no links here")


def test_a_file_is_stored_on_a_file_system_without_hard_links(make, inbox, monkeypatch, names_in):
    monkeypatch.setattr(os, "link", refuse_link)
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.store(inbox / "a", 0, digest(b"data"), overwrite=False)
    assert names_in(inbox) == ["a"]


def test_overwriting_replaces_a_link_and_not_its_target(make, inbox, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (inbox / "a").symlink_to(tmp_path / "precious")
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.store(inbox / "a", 0, digest(b"data"), overwrite=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (inbox / "a").read_bytes() == b"data"


def test_each_identity_and_label_has_its_own_partial_file():
    keys = {disk.partial_key(identity, to, b"k" * 16) for identity in ("", "a", "b") for to in ("", "a")}
    assert len(keys) == 6


class TestMeasureDirectory:
    NOW = 1_800_000_000.0

    def add(self, inbox, key, age_s, size_bytes=10):
        for suffix in (".part", ".json"):
            path = inbox / f".landline-{key}{suffix}"
            path.write_bytes(bytes(size_bytes))
            os.utime(path, (self.NOW - age_s, self.NOW - age_s))

    def measure(self, inbox, key="none", active=(), **limits):
        return disk.measure_directory(inbox, key, active, 7, FileLimits(**limits), self.NOW)

    def test_all_regular_files_in_the_directory_count(self, inbox):
        (inbox / "a").write_bytes(bytes(100))
        (inbox / "below").mkdir()
        (inbox / "below" / "b").write_bytes(bytes(1000))
        (inbox / "link").symlink_to(inbox / "below" / "b")
        self.add(inbox, "k1", 0)
        found = self.measure(inbox, key="k1", active=("k1",))
        assert (found.used_bytes, found.partial_bytes, found.promised_bytes) == (120, 10, 7)
        assert found.free_bytes > 0
        assert found.used_files == 1
        assert self.measure(inbox, key="k1", active=("k1", "k2")).used_files == 2

    def test_old_partial_files_are_removed_unless_they_are_active(self, inbox, names_in):
        self.add(inbox, "old", 101)
        self.add(inbox, "sent", 101)
        self.add(inbox, "young", 99)
        (inbox / "ordinary").write_bytes(b"")
        os.utime(inbox / "ordinary", (0, 0))
        found = self.measure(inbox, active=("sent",), partial_retention_s=100.0)
        assert names_in(inbox) == [
            ".landline-sent.json",
            ".landline-sent.part",
            ".landline-young.json",
            ".landline-young.part",
            "ordinary",
        ]
        assert found.used_bytes == 40

    def test_the_oldest_of_too_many_partial_files_are_removed(self, inbox, names_in):
        for number in range(5):
            self.add(inbox, f"k{number}", 100 - number)
        self.measure(inbox, partial_files=2)
        assert {name.split(".")[1] for name in names_in(inbox)} == {"landline-k3", "landline-k4"}


class TestEntriesOfOtherPrograms:
    """A program with write access to the directory must not reach other directories, nor block the threads."""

    def test_a_link_in_place_of_the_record_is_not_followed(self, make, inbox, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(b"not ours")
        first = make()
        first.write(bytearray(b"data"), restart=False)
        (inbox / f".landline-{KEY}.json.new").symlink_to(elsewhere)
        first.close(keep=True)
        assert elsewhere.read_bytes() == b"not ours"
        assert make().resume() == (4, digest(b"data"))

    @pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
    def test_a_record_that_is_not_a_regular_file_is_not_read(self, make, inbox, make_it):
        first = make()
        first.write(bytearray(b"data"), restart=False)
        first.close(keep=True)
        record = inbox / f".landline-{KEY}.json"
        record.unlink()
        make_it(record)
        opened = len(os.listdir("/proc/self/fd"))
        again = make()
        with suppress(IsADirectoryError):
            assert again.resume() == (0, digest(b""))
        with suppress(IsADirectoryError):
            again.close(keep=False)
        assert len(os.listdir("/proc/self/fd")) == opened

    @pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
    def test_only_regular_files_are_hashed(self, make, inbox, make_it):
        make_it(inbox / "a")
        with pytest.raises(OSError, match="not a regular file"):
            make().hash_of(inbox / "a")


def test_resume_after_close_opens_nothing(make):
    """The thread that resumes may run after the one that closes."""
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    late = make()
    late.close(keep=True)
    assert late.resume() == (0, digest(b""))
    assert make().resume() == (4, digest(b"data")), "it is still locked"


def test_a_stopped_hash_ends_early(make, inbox):
    (inbox / "a").write_bytes(b"data")
    assert make().hash_of(inbox / "a") == digest(b"data")
    stopped = make()
    stopped.stop()
    assert stopped.hash_of(inbox / "a") == digest(b"")
