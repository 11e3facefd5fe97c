"""Senders and receivers that are killed in the middle: the partial file is compared and not sent twice."""

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


def test_a_killed_receiver_resumes_from_its_disk(peer, inbox, write, tmp_path):
    """The sender gets a new session and offers the file again by itself."""
    path, url = write(SIZE_BYTES), f"unix://{tmp_path}/line"
    receiver = peer("receive", inbox, url)
    receiver.wait_for("listening")
    sender = peer("send", path, url)
    receiver.wait_done(SIZE_BYTES // 2)
    receiver.end(kill=True)
    assert not (inbox / path.name).exists()
    [record] = inbox.glob(".landline-*.json")
    on_disk_bytes = json.loads(record.read_bytes())["verified_bytes"]
    again = peer("receive", inbox, url)
    assert again.wait_for("stored") == path.name
    resumed_from = again.wait_for("resumed_from")
    assert resumed_from == on_disk_bytes
    assert resumed_from >= SIZE_BYTES // 2 - CHECKPOINT_BYTES
    assert sender.wait() == 0
    assert sender.reports[-1]["hash"] == hash_of(inbox / path.name) == hash_of(path)
    assert [entry.name for entry in inbox.iterdir()] == [path.name]


def test_a_killed_sender_resumes_when_it_is_started_again(peer, inbox, write, tmp_path):
    path, url = write(SIZE_BYTES), f"unix://{tmp_path}/line"
    receiver = peer("receive", inbox, url)
    receiver.wait_for("listening")
    sender = peer("send", path, url)
    sender.wait_done(SIZE_BYTES // 2)
    sender.end(kill=True)
    again = peer("send", path, url)
    assert again.wait() == 0
    assert again.reports[-1]["resumed_from"] >= SIZE_BYTES // 2
    assert hash_of(inbox / path.name) == hash_of(path)


def test_a_modified_partial_file_is_discarded_after_both_sides_were_killed(peer, inbox, write, tmp_path):
    """One flipped bit is enough, whatever the length of the partial file."""
    path, url = write(SIZE_BYTES), f"unix://{tmp_path}/line"
    receiver = peer("receive", inbox, url)
    receiver.wait_for("listening")
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
    peer("receive", inbox, url).wait_for("listening")
    again = peer("send", path, url)
    assert again.wait() == 0
    assert again.reports[-1]["resumed_from"] == 0
    assert hash_of(inbox / path.name) == hash_of(path)


def test_a_transfer_that_a_full_disk_ended_resumes_later(peer, write, tmp_path):
    """The sender gets the reason. With free space again, only the rest is sent."""
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
    assert sender.reports[-1]["refused"] == "storage_failed"
    assert "No space left on device" in sender.reports[-1]["reason"]
    seen = Path(f"/proc/{receiver.process.pid}/root{inbox}")
    assert not (seen / path.name).exists()
    (seen / "filler").unlink()
    again = peer("send", path, url)
    assert again.wait() == 0
    assert again.reports[-1]["resumed_from"] >= CHECKPOINT_BYTES
    assert hash_of(seen / path.name) == hash_of(path)
    assert [entry.name for entry in seen.iterdir()] == [path.name]
