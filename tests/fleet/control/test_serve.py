"""A complete control server: it creates its files, keeps its secrets, and leaves nothing open."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path

import msgspec
import pytest

import landline
from landline.fleet.api import Snapshot, StorageError
from landline.fleet.control.serve import ControlServerOptions, run_control_server, token_file
from landline.fleet.control.storage import Storage
from landline.fleet.paths import UnsafeDirectory


@pytest.fixture
def options(tmp_path: Path) -> ControlServerOptions:
    return ControlServerOptions(
        data=tmp_path / "data", listen="tcp://127.0.0.1:0", socket=tmp_path / "control.sock"
    )


async def test_the_first_start_creates_its_files(options: ControlServerOptions) -> None:
    async with run_control_server(options) as running:
        assert running.http is None
        assert stat.S_IMODE(options.data.stat().st_mode) == 0o700
        for name in ("agents.token", "operators.token", "landline.db", "server-id"):
            assert stat.S_IMODE((options.data / name).stat().st_mode) == 0o600
        assert running.agents_token != running.operators_token
        assert len(running.agents_token) >= 32
        assert running.control.agents_url == str(running.agents)
        auth = landline.SharedToken(running.agents_token)
        async with landline.connect(str(running.agents), auth=auth, identity="machine-1") as line:
            assert await line.request("join", {"facts": {"name": "lab-1"}}) == {"name": "lab-1", "over": []}
    assert not options.socket.exists()
    async with run_control_server(options) as again:
        assert again.agents_token == running.agents_token
        assert again.operators_token == running.operators_token
        assert [machine.name for machine in again.control.machines()] == ["lab-1"]


async def server_id_in_snapshot(options: ControlServerOptions) -> str:
    async with run_control_server(options) as running:
        updates = running.control.updates()
        snapshot = await anext(updates)
        await updates.aclose()
        assert isinstance(snapshot, Snapshot)
        return snapshot.server_id


async def test_a_snapshot_names_the_data_of_its_server(options: ControlServerOptions, tmp_path: Path) -> None:
    first = await server_id_in_snapshot(options)
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert await server_id_in_snapshot(options) == first
    other = msgspec.structs.replace(options, data=tmp_path / "other")
    assert await server_id_in_snapshot(other) not in {first, ""}


async def test_a_stop_tells_agents_to_come_back_and_ends_subscriptions(options: ControlServerOptions) -> None:
    changes: list[landline.StateChange] = []
    async with run_control_server(options) as running:
        auth = landline.SharedToken(running.agents_token)
        connector = landline.connect(
            str(running.agents),
            auth=auth,
            identity="machine-1",
            on_state=lambda _, change: changes.append(change),
        )
        line = await connector
        updates = running.control.updates()
        await anext(updates)

        async def read_on() -> None:
            async for _ in updates:
                pass

        reading = asyncio.create_task(read_on())
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await reading
        while not any(change.state is landline.LineState.RECONNECTING for change in changes):
            await asyncio.sleep(0.005)
    [lost] = [change for change in changes if change.state is landline.LineState.RECONNECTING]
    assert lost.due_in_s is not None
    assert 2.0 <= lost.due_in_s <= 10.0
    line.abort(landline.Code.NORMAL)
    await line.close()


async def test_only_one_control_server_owns_a_database(options: ControlServerOptions, tmp_path: Path) -> None:
    async with run_control_server(options):
        with pytest.raises(StorageError, match="in use by another control server"):
            async with run_control_server(options):
                pass


async def test_an_address_that_is_taken_leaves_nothing_open(
    options: ControlServerOptions, tmp_path: Path
) -> None:
    async with run_control_server(options) as running:
        other = ControlServerOptions(
            data=tmp_path / "other", listen=str(running.agents), socket=tmp_path / "other.sock"
        )
        with pytest.raises(landline.AddressInUse):
            async with run_control_server(other):
                pass
        # Its database is free again.
        storage = await Storage.open(tmp_path / "other" / "landline.db")
        await storage.close()


async def test_a_directory_others_can_write_to_is_refused(options: ControlServerOptions) -> None:
    options.data.mkdir()
    options.data.chmod(0o777)
    with pytest.raises(UnsafeDirectory):
        async with run_control_server(options):
            pass


def test_a_token_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = token_file(path)
    assert token_file(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError):
        token_file(tmp_path / "none" / "token")


def test_a_token_readable_by_all_users_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    token_file(path)
    assert caplog.text == ""
    path.chmod(0o644)
    token_file(path)
    assert f"{path} can be read or changed by every user" in caplog.text
    assert f"chmod 600 {path}" in caplog.text
