"""Partial files on disk: what is left of them is proven, not believed."""

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
    return lambda size_bytes=64 * MIB: disk.Partial(inbox, KEY, "a", size_bytes)


def test_what_was_written_is_found_again(make):
    first, data = make(), os.urandom(1000)
    assert first.resume() == (0, digest(b""))
    first.write(bytearray(data), restart=False)
    first.close(keep=True)
    assert make().resume() == (1000, digest(data))


def test_what_is_not_kept_leaves_nothing(make, inbox, names_in):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=False)
    assert names_in(inbox) == []


def test_bytes_behind_the_record_are_cut_off(make, inbox, names_in):
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
def test_what_does_not_fit_its_record_begins_anew(make, inbox, harm):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    harm(inbox / f".landline-{KEY}.part", inbox / f".landline-{KEY}.json")
    again = make()
    assert again.resume() == (0, digest(b""))
    again.write(bytearray(b"other"), restart=False)
    again.store(inbox / "a", 0, digest(b"other"), overwrite=False)
    assert (inbox / "a").read_bytes() == b"other"


def test_what_another_has_open_is_left_alone(make, inbox):
    first, second = make(), make()
    first.write(bytearray(b"data"), restart=False)
    assert second.resume() is None
    second.close(keep=False)
    with pytest.raises(landline.FileRefused, match="somebody else"):
        make().write(bytearray(b"mine"), restart=False)
    first.close(keep=True)
    assert make().resume() == (4, digest(b"data"))


def test_a_file_of_another_size_is_another_file(make):
    first = make(100)
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    assert make(101).resume()[0] == 0


def test_a_wrong_hash_is_not_stored(make, inbox):
    first = make()
    first.write(bytearray(b"data"), restart=False)
    with pytest.raises(landline.FileRefused, match="not what was sent"):
        first.store(inbox / "a", 0, digest(b"dato"), overwrite=False)
    assert not (inbox / "a").exists()


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_that_is_taken_is_not_taken_away(make, inbox, monkeypatch, has_links):
    """Also where the file system has no hard links, and for a link that leads nowhere."""
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


def test_without_hard_links_a_file_gets_its_name_all_the_same(make, inbox, monkeypatch, names_in):
    monkeypatch.setattr(os, "link", refuse_link)
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.store(inbox / "a", 0, digest(b"data"), overwrite=False)
    assert names_in(inbox) == ["a"]


def test_overwriting_replaces_a_link_and_not_what_it_leads_to(make, inbox, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (inbox / "a").symlink_to(tmp_path / "precious")
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.store(inbox / "a", 0, digest(b"data"), overwrite=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (inbox / "a").read_bytes() == b"data"


def test_another_identity_has_another_partial_file():
    keys = {disk.partial_key(who, to, b"k" * 16) for who in ("", "a", "b") for to in ("", "a")}
    assert len(keys) == 6


class TestSurvey:
    NOW = 1_800_000_000.0

    def add(self, inbox, key, age_s, size_bytes=10):
        for suffix in (".part", ".json"):
            path = inbox / f".landline-{key}{suffix}"
            path.write_bytes(bytes(size_bytes))
            os.utime(path, (self.NOW - age_s, self.NOW - age_s))

    def look(self, inbox, key="none", active=(), **limits):
        return disk.survey(inbox, key, active, 7, FileLimits(**limits), self.NOW)

    def test_everything_in_the_directory_counts(self, inbox):
        (inbox / "a").write_bytes(bytes(100))
        (inbox / "below").mkdir()
        (inbox / "below" / "b").write_bytes(bytes(1000))
        (inbox / "link").symlink_to(inbox / "below" / "b")
        self.add(inbox, "k1", 0)
        found = self.look(inbox, key="k1", active=("k1",))
        assert (found.used_bytes, found.there_bytes, found.promised_bytes) == (120, 10, 7)
        assert found.free_bytes > 0
        assert found.used_files == 1
        assert self.look(inbox, key="k1", active=("k1", "k2")).used_files == 2

    def test_partial_files_that_are_too_old_go_unless_they_are_being_sent(self, inbox, names_in):
        self.add(inbox, "old", 101)
        self.add(inbox, "sent", 101)
        self.add(inbox, "young", 99)
        (inbox / "ordinary").write_bytes(b"")
        os.utime(inbox / "ordinary", (0, 0))
        found = self.look(inbox, active=("sent",), partial_retention_s=100.0)
        assert names_in(inbox) == [
            ".landline-sent.json",
            ".landline-sent.part",
            ".landline-young.json",
            ".landline-young.part",
            "ordinary",
        ]
        assert found.used_bytes == 40

    def test_of_too_many_the_oldest_go(self, inbox, names_in):
        for number in range(5):
            self.add(inbox, f"k{number}", 100 - number)
        self.look(inbox, partial_files=2)
        assert {name.split(".")[1] for name in names_in(inbox)} == {"landline-k3", "landline-k4"}


class TestWhatOthersPutThere:
    """Somebody who may write to the directory as well must not reach further than that, nor stop the threads."""

    def test_a_link_in_place_of_the_record_is_not_written_through(self, make, inbox, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(b"not ours")
        first = make()
        first.write(bytearray(b"data"), restart=False)
        (inbox / f".landline-{KEY}.json.new").symlink_to(elsewhere)
        first.close(keep=True)
        assert elsewhere.read_bytes() == b"not ours"
        assert make().resume() == (4, digest(b"data"))

    @pytest.mark.parametrize("make_it", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
    def test_a_record_that_is_no_file_is_not_read(self, make, inbox, make_it):
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
    def test_what_is_no_file_has_no_hash(self, make, inbox, make_it):
        make_it(inbox / "a")
        with pytest.raises(OSError, match="no regular file"):
            make().hash_of(inbox / "a")


def test_one_that_was_closed_opens_nothing_any_more(make):
    """The thread that resumes may get its turn behind the one that closes."""
    first = make()
    first.write(bytearray(b"data"), restart=False)
    first.close(keep=True)
    late = make()
    late.close(keep=True)
    assert late.resume() == (0, digest(b""))
    assert make().resume() == (4, digest(b"data")), "it was locked"


def test_a_hash_that_nobody_waits_for_is_not_computed(make, inbox):
    (inbox / "a").write_bytes(b"data")
    assert make().hash_of(inbox / "a") == digest(b"data")
    stopped = make()
    stopped.stop()
    assert stopped.hash_of(inbox / "a") == digest(b"")
