"""Unix sockets: permissions of their files, and files that already exist."""

import os
import socket
import stat
from pathlib import Path

import pytest

import landline


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "line.sock"


async def test_the_socket_file_is_private_and_is_removed_with_the_listener(path, quick):
    previous = os.umask(0)
    try:
        async with landline.Server().listen(f"unix://{path}") as endpoint:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert os.umask(0) == 0
            async with landline.connect(str(endpoint), backoff=quick) as line:
                assert await line.ping() > 0
    finally:
        os.umask(previous)
    assert not path.exists()


async def test_the_socket_of_a_dead_server_is_replaced(path, quick):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    async with (
        landline.Server().listen(f"unix://{path}") as endpoint,
        landline.connect(str(endpoint), backoff=quick) as line,
    ):
        assert await line.ping() > 0


async def test_the_socket_of_a_running_server_is_kept(path, quick):
    async with landline.Server().listen(f"unix://{path}") as endpoint:
        with pytest.raises(landline.AddressInUse, match=f"a server already answers on {path}"):
            async with landline.Server().listen(f"unix://{path}"):
                pytest.fail("listens twice")
        async with landline.connect(str(endpoint), backoff=quick) as line:
            assert await line.ping() > 0


async def test_a_busy_server_is_not_taken_for_a_dead_one(path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(landline.AddressInUse):
            async with landline.Server().listen(f"unix://{path}"):
                pytest.fail("took the place of a busy server")
        assert path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
async def test_another_kind_of_file_is_kept(path, make):
    make(path)
    with pytest.raises(landline.AddressInUse, match="exists and is not a socket"):
        async with landline.Server().listen(f"unix://{path}"):
            pytest.fail("replaced a file")
    assert path.exists()


async def test_a_missing_directory_is_another_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        async with landline.Server().listen(f"unix://{tmp_path}/missing/line.sock"):
            pytest.fail("listens nowhere")


async def test_the_socket_of_a_successor_is_kept(path):
    async with landline.Server().listen(f"unix://{path}"):
        # The file is removed, and another server creates its own.
        path.rename(path.with_suffix(".old"))
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            inode = path.stat().st_ino
    assert path.stat().st_ino == inode
    path.unlink()
