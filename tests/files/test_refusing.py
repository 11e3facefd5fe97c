"""Files that are refused, and transfers that are cancelled."""

import asyncio
import os

import pytest

import landline

MIB = 1024 * 1024


@pytest.fixture
def serve(inbox, pair):
    """Open a pair of lines. The server receives files into the inbox with the given limits."""

    def make(*, accept=None, progress=None, overwrite=False, **limits):
        server = landline.Server()
        server.on_file(
            inbox, limits=landline.FileLimits(**limits), accept=accept, progress=progress, overwrite=overwrite
        )
        return pair(server)

    return make


async def refusal_of(sending):
    with pytest.raises(landline.FileRefused) as caught:
        await sending
    assert caught.value.reason
    return caught.value.code


async def test_a_file_without_a_receiver_is_refused(pair, write, inbox):
    path = write(10)
    async with pair() as (line, _):
        assert await refusal_of(line.send_file(path)) == "no_receiver"
    server = landline.Server()
    server.on_file(inbox, to="logs")
    async with pair(server) as (line, _):
        assert await refusal_of(line.send_file(path, to="other")) == "no_receiver"
        await line.send_file(path, to="logs")


async def test_files_beyond_a_limit_are_refused(serve, write, inbox):
    path = write(1000)
    async with serve(file_bytes=999) as (line, _):
        assert await refusal_of(line.send_file(path)) == "too_large"
    async with serve(min_free_bytes=2**60) as (line, _):
        assert await refusal_of(line.send_file(path)) == "no_space"
    (inbox / "there").write_bytes(bytes(501))
    async with serve(quota_bytes=1500) as (line, _):
        assert await refusal_of(line.send_file(path)) == "over_quota"
    (inbox / "there").write_bytes(bytes(500))
    async with serve(quota_bytes=1500) as (line, _):
        await line.send_file(path)


async def test_empty_files_count_as_stored_files(serve, write, inbox, names_in):
    """They use no quota, but entries of the directory."""
    async with serve(quota_bytes=1500, stored_files=2) as (line, _):
        await line.send_file(write(0), name="a")
        await line.send_file(write(0), name="b")
        with pytest.raises(landline.FileRefused, match=r"file limit reached \(2 of 2\)") as caught:
            await line.send_file(write(0), name="c")
        assert caught.value.code == "over_quota"
        assert names_in(inbox) == ["a", "b"]


async def test_an_existing_file_is_replaced_only_with_overwrite(serve, write, inbox, names_in):
    path = write(1000)
    (inbox / "photo.raw").write_text("mine")
    async with serve() as (line, _):
        assert await refusal_of(line.send_file(path)) == "exists"
    assert (inbox / "photo.raw").read_text() == "mine"
    async with serve(overwrite=True) as (line, _):
        await line.send_file(path)
        await line.send_file(path)
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()
    assert names_in(inbox) == ["photo.raw"]


async def test_sending_a_stored_file_again_returns_a_receipt(serve, write, inbox):
    """As after a lost receipt. No bytes are sent, but the hashes are compared: name, size and time are not enough."""
    path = write(1000)
    async with serve() as (line, _):
        first = await line.send_file(path)
        again = await line.send_file(path)
        assert again.resumed_from == 1000
        assert again.hash == first.hash
        found = os.stat(path)
        path.write_bytes(os.urandom(1000))
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        assert await refusal_of(line.send_file(path)) == "exists"


async def test_the_accept_function_may_refuse_or_rename_a_file(serve, write, inbox, names_in):
    async def accept(file):
        if file.name == "bad.txt":
            raise landline.FileRefused("not_wanted", f"no {file.name} today")
        await asyncio.sleep(0)
        return f"{file.line.identity or 'anonymous'}-{file.name}" if file.size_bytes else None

    async with serve(accept=accept) as (line, _):
        with pytest.raises(landline.FileRefused, match=r"no bad.txt today \(not_wanted\)"):
            await line.send_file(write(1), name="bad.txt")
        assert (await line.send_file(write(1), name="good.txt")).name == "anonymous-good.txt"
        assert (await line.send_file(write(0), name="empty.txt")).name == "empty.txt"
    assert names_in(inbox) == ["anonymous-good.txt", "empty.txt"]


async def test_a_name_from_the_accept_function_is_checked(serve, write, inbox, names_in, caplog):
    async with serve(accept=lambda file: "../escaped") as (line, _):
        assert await refusal_of(line.send_file(write(1))) == "failed"
    assert "'../escaped'" in caplog.text
    assert names_in(inbox) == []
    assert not (inbox.parent / "escaped").exists()


async def test_send_file_checks_its_arguments(serve, tmp_path, write):
    path = write(1)
    os.mkfifo(tmp_path / "pipe")
    async with serve() as (line, _):
        with pytest.raises(FileNotFoundError):
            await line.send_file(tmp_path / "nothing")
        for path_of_no_file in (tmp_path, tmp_path / "pipe", "/dev/null"):
            with pytest.raises((landline.ConfigurationError, IsADirectoryError)):
                await line.send_file(path_of_no_file, name="x")
        with pytest.raises(landline.ConfigurationError, match="use another name"):
            await line.send_file(path, name="a/b")
        with pytest.raises(landline.ConfigurationError, match="65 characters"):
            await line.send_file(path, to="x" * 65)


async def test_a_file_that_changes_leaves_no_partial_file(serve, write, inbox, names_in, until):
    path = write(30 * MIB)

    def change(progress):
        with path.open("ab") as file:
            file.write(b"x")

    async with serve() as (line, _):
        with pytest.raises(landline.FileChanged, match="modified while it was sent"):
            await line.send_file(path, progress=change)
        await until(lambda: names_in(inbox) == [])


async def test_a_file_that_shrinks_leaves_no_partial_file(serve, write, inbox, names_in, until):
    path = write(30 * MIB)
    async with serve() as (line, _):
        with pytest.raises(landline.FileChanged):
            await line.send_file(path, progress=lambda progress: os.truncate(path, 5 * MIB))
        await until(lambda: names_in(inbox) == [])


async def test_cancelling_the_sender_keeps_the_partial_file(serve, write, inbox, until):
    path = write(40 * MIB)
    done = asyncio.Event()
    async with serve() as (line, _):
        sending = asyncio.create_task(
            line.send_file(path, progress=lambda progress: progress.bytes_done > 8 * MIB and done.set())
        )
        await done.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await until(lambda: list(inbox.glob("*.json")) or list(inbox.glob(".*.json")))
        assert not (inbox / "photo.raw").exists()
        receipt = await line.send_file(path)
    assert receipt.resumed_from >= 8 * MIB
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("keep", [True, False])
async def test_cancelling_the_receiver_refuses_the_file(serve, write, inbox, until, names_in, keep):
    path = write(40 * MIB)

    def cancel_halfway(file, progress):
        if 8 * MIB < progress.bytes_done < 40 * MIB and not progress.resumed_from:
            file.cancel("enough for today", keep=keep)

    async with serve(progress=cancel_halfway) as (line, _):
        with pytest.raises(landline.FileRefused, match="enough for today") as caught:
            await line.send_file(path)
        assert caught.value.code == "cancelled"
        if keep:
            await until(lambda: any(name.endswith(".json") for name in names_in(inbox)))
            assert (await line.send_file(path)).resumed_from >= 8 * MIB
        else:
            await until(lambda: names_in(inbox) == [])


async def test_a_newer_transfer_supersedes_an_older_one_of_the_same_file(serve, write, inbox):
    path = write(20 * MIB)
    started = asyncio.Event()
    async with serve(accept=lambda file: started.set()) as (line, _):
        first = asyncio.create_task(line.send_file(path))
        await started.wait()
        receipt = await line.send_file(path)
        with pytest.raises(landline.FileRefused, match="superseded"):
            await first
    assert receipt.size_bytes == 20 * MIB
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()


async def test_a_file_with_a_different_beginning_is_sent_from_the_start(serve, write, inbox, until, names_in):
    """Same name, size and time, but other bytes: the partial file is compared and discarded."""
    path = write(40 * MIB)
    found = os.stat(path)
    done = asyncio.Event()
    async with serve() as (line, _):
        sending = asyncio.create_task(
            line.send_file(path, progress=lambda progress: progress.bytes_done > 8 * MIB and done.set())
        )
        await done.wait()
        sending.cancel()
        await asyncio.wait({sending})
        with path.open("r+b") as file:
            file.write(b"another")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        receipt = await line.send_file(path)
    assert receipt.resumed_from == 0
    assert (inbox / "photo.raw").read_bytes() == path.read_bytes()


async def test_concurrent_files_of_a_line_are_limited(serve, write, until):
    release = asyncio.Event()

    async def accept(file):
        await release.wait()

    path = write(10)
    async with serve(accept=accept, files_per_line=2) as (line, _):
        sending = [asyncio.create_task(line.send_file(path, name=f"f{number}")) for number in range(5)]
        await until(lambda: sum(task.done() for task in sending) == 3)
        assert [await refusal_of(task) for task in sending if task.done()] == ["busy"] * 3
        release.set()
        await asyncio.gather(*(task for task in sending if not task.done()))


async def test_a_transfer_ends_with_its_line_and_keeps_the_partial_file(serve, write, inbox, until, names_in):
    path = write(40 * MIB)
    done = asyncio.Event()
    async with serve() as (line, other):
        sending = asyncio.create_task(
            line.send_file(path, progress=lambda progress: progress.bytes_done > 8 * MIB and done.set())
        )
        await done.wait()
        other.abort(landline.Code.FORBIDDEN, "no more of this")
        with pytest.raises(landline.LineClosed, match="no more of this"):
            await sending
        await until(lambda: any(name.endswith(".json") for name in names_in(inbox)))


async def test_invalid_directories_and_reserved_names_are_refused(inbox, tmp_path):
    server = landline.Server()
    with pytest.raises(landline.ConfigurationError, match="not a directory"):
        server.on_file(tmp_path / "nothing")
    server.on_file(inbox)
    with pytest.raises(landline.ConfigurationError, match="already"):
        server.on_file(inbox)
    for name in ("landline.file.chunk", "landline.other"):
        with pytest.raises(landline.ConfigurationError, match="reserved"):
            server.on(name)


async def test_a_message_handler_can_send_a_file_and_wait_for_it(quick, inbox, write):
    """The messages of the transfer do not wait for the handler that waits for the transfer."""
    path = write(6 * MIB)
    server = landline.Server()
    receipts = []

    @server.on_message
    async def received(line, message):
        receipts.append(await line.send_file(path))

    async with server.listen("tcp://127.0.0.1:0") as endpoint:
        connector = landline.connect(str(endpoint), backoff=quick)
        stored = asyncio.Event()
        connector.on_file(inbox)(lambda file, receipt: stored.set())
        async with connector as line:
            await line.send("please")
            await stored.wait()
            await line.drain()
    assert [receipt.name for receipt in receipts] == ["photo.raw"]
