"""Senders and receivers that die in the middle: what is on disk is compared and not sent twice."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

MIB = 1024 * 1024
SIZE_BYTES = 96 * MIB
CHECKPOINT_BYTES = 16 * MIB


def hash_of(path):
    return hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()


def test_a_receiver_that_is_killed_goes_on_where_its_disk_was(peer, inbox, write, tmp_path):
    """The sender lives on, gets a new session, and offers the file by itself."""
    path, url = write(SIZE_BYTES), f"unix://{tmp_path}/line"
    receiver = peer("receive", inbox, url)
    receiver.heard("listening")
    sender = peer("send", path, url)
    receiver.wait_done(SIZE_BYTES // 2)
    receiver.end(kill=True)
    assert not (inbox / path.name).exists()
    [record] = inbox.glob(".landline-*.json")
    on_disk_bytes = json.loads(record.read_bytes())["verified_bytes"]
    again = peer("receive", inbox, url)
    assert again.heard("stored") == path.name
    resumed_from = again.heard("resumed_from")
    assert resumed_from == on_disk_bytes
    assert resumed_from >= SIZE_BYTES // 2 - CHECKPOINT_BYTES
    assert sender.wait() == 0
    assert sender.words[-1]["hash"] == hash_of(inbox / path.name) == hash_of(path)
    assert [entry.name for entry in inbox.iterdir()] == [path.name]


def test_a_sender_that_is_killed_goes_on_when_it_is_started_again(peer, inbox, write, tmp_path):
    path, url = write(SIZE_BYTES), f"unix://{tmp_path}/line"
    receiver = peer("receive", inbox, url)
    receiver.heard("listening")
    sender = peer("send", path, url)
    sender.wait_done(SIZE_BYTES // 2)
    sender.end(kill=True)
    again = peer("send", path, url)
    assert again.wait() == 0
    assert again.words[-1]["resumed_from"] >= SIZE_BYTES // 2
    assert hash_of(inbox / path.name) == hash_of(path)


def test_both_are_killed_and_the_disk_lies(peer, inbox, write, tmp_path):
    """A partial file that is not what was written to it is not believed, whatever its length."""
    path, url = write(SIZE_BYTES), f"unix://{tmp_path}/line"
    receiver = peer("receive", inbox, url)
    receiver.heard("listening")
    sender = peer("send", path, url)
    sender.wait_done(SIZE_BYTES // 2)
    receiver.end(kill=True)
    sender.end(kill=True)
    [partial] = inbox.glob(".landline-*.part")
    with partial.open("r+b") as file:
        file.seek(3 * MIB)
        byte = file.read(1)[0]
        file.seek(3 * MIB)
        file.write(bytes([byte ^ 1]))
    peer("receive", inbox, url).heard("listening")
    again = peer("send", path, url)
    assert again.wait() == 0
    assert again.words[-1]["resumed_from"] == 0
    assert hash_of(inbox / path.name) == hash_of(path)


def test_a_full_disk_refuses_the_rest_and_later_goes_on(peer, write, tmp_path):
    """The sender hears why; with room again only the rest is sent."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare")
    inbox = tmp_path / "small"
    inbox.mkdir()
    path, url = write(24 * MIB), f"unix://{tmp_path}/line"
    mounting = f"mount -t tmpfs -o size=64m,mode=0700 tmpfs '{inbox}' && exec \"$@\""
    prefix = ("unshare", "--mount", "sh", "-c", mounting, "sh")
    receiver = peer("receive", inbox, url, 20 * MIB, prefix=prefix)
    if receiver.ends_before("listening"):
        pytest.skip("no private file systems here")
    sender = peer("send", path, url)
    assert sender.wait() == 0
    assert sender.words[-1]["refused"] == "storage_failed"
    assert "No space left on device" in sender.words[-1]["reason"]
    seen = Path(f"/proc/{receiver.process.pid}/root{inbox}")
    assert not (seen / path.name).exists()
    (seen / "filler").unlink()
    again = peer("send", path, url)
    assert again.wait() == 0
    assert again.words[-1]["resumed_from"] >= CHECKPOINT_BYTES
    assert hash_of(seen / path.name) == hash_of(path)
    assert [entry.name for entry in seen.iterdir()] == [path.name]
