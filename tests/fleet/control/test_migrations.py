"""Databases of earlier versions: what stands in them is read as what does no harm."""

from __future__ import annotations

from pathlib import Path

import alembic.command
import msgspec
import pytest
import sqlalchemy as sa
from alembic.config import Config
from tests.fleet.control.test_storage import execute

from landline.fleet.api import StorageError
from landline.fleet.control.storage import Storage
from landline.fleet.model import ExecutionState, Unasked


async def test_rows_from_before_the_question_of_consent_are_read_as_the_harmless_thing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "landline.db"
    config = Config()
    config.set_main_option("script_location", "landline.fleet.control:migrations")
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
    engine.dispose()
    execute(
        path,
        "INSERT INTO machines VALUES ('m1', 'lab-1', ?, ?, 999.0)",
        '{"name": "lab-1", "persons": [], "power": "logind"}',
        '{"state": "online", "since_at": 1000.0}',
    )
    execute(
        path,
        "INSERT INTO jobs (id, action, targets, created_at, requested_by, message, valid_for_s, may_cancel,"
        " may_postpone) "
        "VALUES ('j1', 'restart', '[\"lab-1\"]', 2000.0, '', '', 120.0, 1, 1)",
    )
    execute(
        path,
        "INSERT INTO executions VALUES ('j1-1', 'j1', 'm1', 'lab-1', 'delivered', 2000.0, 2000.0, 2180.0, '', '', 0.0)",
    )
    storage = await Storage.open(path)
    [machine] = await storage.load_machines()
    assert not machine.facts.is_free
    assert not machine.facts.says_how_it_asks
    [job] = await storage.jobs(1)
    assert job.unasked is Unasked.WAIT
    [execution] = await storage.open_executions(0.0)
    assert (execution.asked, execution.answered_by, execution.notices, execution.rounds) == ("", "", "", 0)
    await storage.record([msgspec.structs.replace(execution, state=ExecutionState.WAITING)])
    await storage.close()


async def test_migrating_twice_is_the_same_as_once(tmp_path: Path) -> None:
    path = tmp_path / "landline.db"
    await (await Storage.open(path)).close()
    before = path.read_bytes()
    await (await Storage.open(str(path))).close()
    await (await Storage.open(f"sqlite+aiosqlite:///{path}")).close()
    assert path.read_bytes() == before
    assert not Path(f"{path}-wal").exists()


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "landline.db"
    await (await Storage.open(path)).close()
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(
            StorageError, match="was created by a newer version of landline; upgrade this program"
        ):
            await Storage.open(path)
    assert path.read_bytes() == before
