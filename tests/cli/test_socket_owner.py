"""Who may answer on the control socket: real sockets, and processes of another user where the tests run as root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from landline.cli.api_client import ApiClient, ServerAddress, ServerUnreachable
from landline.cli.socket_owner import Untrusted, check_peer, trusted_users

NOBODY = 65_534
OURS = {os.getuid(), 0}
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

IMPOSTOR = """
    import os, socket, sys
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    os.chmod(sys.argv[1], 0o666)
    os.setgid({nobody})
    os.setuid({nobody})
    listener.listen()  # SO_PEERCRED tells who did this.
    print("listening", flush=True)
    connection, _ = listener.accept()
    print(len(connection.recv(65536)), flush=True)
"""


@contextlib.contextmanager
def impostor(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of another user that listens on ``path`` and prints how many bytes it is sent."""
    code = textwrap.dedent(IMPOSTOR.format(nobody=NOBODY))
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "listening\n"
        try:
            yield it
        finally:
            it.kill()


@pytest.fixture
def service(directory: Path) -> Path:
    """A directory of another user in one that only this user may write to."""
    path = directory / "landline"
    path.mkdir(mode=0o755)
    os.chown(path, NOBODY, NOBODY)
    return path


def test_the_users_own_directory_is_trusted(directory: Path) -> None:
    assert trusted_users(directory / "control.sock") == OURS
    link = directory / "link"
    link.symlink_to(directory)
    assert trusted_users(link / "control.sock") == OURS


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_directory_writable_by_others_is_not_trusted(directory: Path, mode: int) -> None:
    directory.chmod(mode)
    with pytest.raises(Untrusted, match="other users may write to"):
        trusted_users(directory / "control.sock")


def test_a_missing_directory_means_no_server(directory: Path) -> None:
    with pytest.raises(ServerUnreachable, match="No control server answers"):
        ApiClient(ServerAddress(unix_path=str(directory / "none" / "control.sock"))).status()


@as_root
@pytest.mark.parametrize("above", [0o777, 0o1777, 0o775])
def test_a_directory_that_any_user_could_have_made_is_not_trusted(service: Path, above: int) -> None:
    service.parent.chmod(above)
    with pytest.raises(Untrusted, match=rf"belongs to another user \(uid {NOBODY}\)"):
        trusted_users(service / "control.sock")


@as_root
def test_a_link_of_another_user_is_not_trusted(directory: Path) -> None:
    link = directory / "link"
    link.symlink_to(directory)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(Untrusted, match=r"is a link of another user"):
        trusted_users(link / "control.sock")


@as_root
def test_a_service_set_up_by_root_is_trusted(service: Path) -> None:
    path = service / "control.sock"
    trusted = trusted_users(path)
    assert trusted == OURS | {NOBODY}
    with impostor(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        check_peer(client, trusted)
        with pytest.raises(Untrusted, match=rf"another user \(uid {NOBODY}\) answers there"):
            check_peer(client, frozenset(OURS))


@as_root
async def test_nothing_is_sent_to_a_socket_in_another_users_directory(cli, service: Path) -> None:
    service.parent.chmod(0o1777)
    with impostor(service / "control.sock") as process:
        ended = await cli.run("shutdown", "lab-1", "--yes", LANDLINE_RUNTIME_DIR=str(service))
    assert ended.status == 3
    assert ended.out == ""
    assert f"is not trusted: {service} belongs to another user (uid {NOBODY}); nothing was sent;" in ended.err
    assert process.stdout is not None


@as_root
async def test_nothing_is_sent_to_another_user_on_an_own_socket(cli, directory: Path) -> None:
    with impostor(directory / "control.sock") as process:
        ended = await cli.run("shutdown", "lab-1", "--yes")
        assert process.stdout is not None
        # It accepted the connection, and read its end.
        assert await asyncio.to_thread(process.stdout.readline) == "0\n"
    assert ended.status == 3
    assert f"another user (uid {NOBODY}) answers there; nothing was sent;" in ended.err
