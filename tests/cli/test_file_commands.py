"""``send-file`` and ``receive-files`` as processes."""

import asyncio
import hashlib
import os
import signal
import sys

import pytest

from landline.cli.exit_codes import ALL_DONE, SOME_NOT_DONE, WRONG_USE
from landline.cli.file_progress import _clock_text


@pytest.fixture
async def receiver(cli, directory):
    """A program that receives into ``directory/inbox``."""
    inbox = directory / "inbox"
    inbox.mkdir()
    program = await cli.start("receive-files", str(inbox), "--listen", f"unix://{directory}/line")
    said = await program.stdout.readline()
    assert said.decode().startswith("Receiving files on unix://")
    yield program
    if program.returncode is None:
        program.kill()
    await program.communicate()


async def test_a_file_is_sent_and_both_sides_print_its_hash(cli, directory, receiver):
    path = directory / "photo.raw"
    path.write_bytes(os.urandom(300_000))
    digest = hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()
    ended = await cli.run("send-file", f"unix://{directory}/line", str(path), "--name", "p.raw")
    assert ended.status == ALL_DONE, ended.err
    assert ended.out.startswith(f"p.raw: 300000 bytes, BLAKE2b-256 {digest}, in ")
    said = (await receiver.stdout.readline()).decode()
    assert said.startswith(f"p.raw from local: 300000 bytes, BLAKE2b-256 {digest}")
    assert (directory / "inbox" / "p.raw").read_bytes() == path.read_bytes()
    receiver.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(receiver.wait(), 20) == ALL_DONE


async def test_a_failed_transfer_prints_one_sentence(cli, directory, receiver):
    url = f"unix://{directory}/line"
    path = directory / "photo.raw"
    path.write_bytes(b"data")
    (directory / "inbox" / "photo.raw").write_bytes(b"mine")
    ended = await cli.run("send-file", url, str(path))
    assert (ended.status, ended.err) == (SOME_NOT_DONE, "A file 'photo.raw' already exists (exists).\n")
    ended = await cli.run("send-file", url, str(directory / "nothing"))
    assert ended.status == SOME_NOT_DONE
    assert ended.err.endswith("nothing cannot be used: no such file or directory.\n")
    ended = await cli.run("send-file", url, str(path), "--name", "../x")
    assert ended.status == WRONG_USE
    assert "use another name" in ended.err
    ended = await cli.run("send-file", url, str(path), "--to", "logs")
    assert "(no_receiver)" in ended.err


async def test_receiving_from_other_machines_needs_a_token(cli, directory):
    ended = await cli.run("receive-files", str(directory), "--listen", "tcp://0.0.0.0:0")
    assert ended.status == WRONG_USE
    assert "--token-file" in ended.err
    ended = await cli.run("receive-files", str(directory / "nothing"))
    assert ended.status == WRONG_USE
    assert "is not a directory" in ended.err


async def test_a_file_that_cannot_be_read_is_reported_before_connecting(cli, directory):
    nobody = f"unix://{directory}/nobody"
    ended = await cli.run("send-file", nobody, str(directory / "nothing"))
    assert (ended.status, ended.err) == (
        SOME_NOT_DONE,
        f"{directory}/nothing cannot be used: no such file or directory.\n",
    )
    ended = await cli.run("send-file", nobody, str(directory))
    assert ended.status == WRONG_USE
    assert ended.err == f"{directory} is not a regular file; only regular files can be sent.\n"


async def test_send_file_prints_each_failed_attempt_once(cli, directory):
    (directory / "photo.raw").write_bytes(b"data")
    program = await cli.start("send-file", f"unix://{directory}/nobody", str(directory / "photo.raw"))
    told = [(await program.stderr.readline()).decode() for _ in range(3)]
    program.kill()
    await program.communicate()
    assert [line.partition("; attempt ")[2].split()[0] for line in told] == ["2", "3", "4"]


async def test_a_lost_receiver_may_have_the_file(cli, directory, receiver, until):
    path = directory / "large.raw"
    with path.open("wb") as file:
        file.truncate(2_000_000_000)
    sender = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-c",
            "from landline.cli import file_commands, main; file_commands.ATTEMPTS_MAX = 1; main()",
        ),
        *("send-file", f"unix://{directory}/line", str(path)),
        env=cli.environment,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: list((directory / "inbox").glob(".landline-*.part")))
    receiver.kill()
    _, err = await sender.communicate()
    assert sender.returncode == SOME_NOT_DONE
    assert err.decode().endswith(
        " 'large.raw' may have arrived, whole or in part; the same command again sends only what is missing.\n"
    )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("udp://127.0.0.1:0", "'receive-files' needs lines"),
        ("tls://127.0.0.1:0", "needs a certificate"),
        ("quic://127.0.0.1:0", "needs a certificate"),
        ("mdns://lab", "write an address here"),
        ("unix:///nowhere/line", "/nowhere/line cannot be used: no such file or directory."),
    ],
)
async def test_receive_files_refuses_unusable_urls(cli, directory, url, words):
    ended = await cli.run("receive-files", str(directory), "--listen", url)
    assert ended.status in (WRONG_USE, SOME_NOT_DONE)
    assert ended.out == ""
    assert words in ended.err
    assert "SSLContext" not in ended.err


async def test_an_empty_token_file_is_refused(cli, directory):
    (directory / "token").write_text("\n")
    ended = await cli.run("receive-files", str(directory), "--token-file", str(directory / "token"))
    assert (ended.status, ended.err) == (
        WRONG_USE,
        f"The token file {directory}/token is empty; write the token into it.\n",
    )


async def test_send_file_shows_progress_on_a_terminal(terminal, directory, receiver):
    path = directory / "large.raw"
    with path.open("wb") as file:
        file.truncate(150_000_000)
    screen = await terminal("send-file", f"unix://{directory}/line", str(path))
    await screen.shows("large.raw")
    await screen.shows("MB/s")
    await screen.shows("large.raw: 150000000 bytes")
    assert await screen.ended() == ALL_DONE


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0:00"), (7, "0:07"), (750, "12:30"), (11_100, "3:05:00")]
)
def test_clock_text(seconds, text):
    assert _clock_text(seconds) == text
