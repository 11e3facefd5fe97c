"""The storage against real SQLite files: what was accepted stays, what was refused left nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from landline.fleet.api import StorageError
from landline.fleet.control.storage import VALUES_PER_LIST_MAX, NameTaken, Storage, metadata
from landline.fleet.model import (
    FINAL_STATES,
    Action,
    Cause,
    Execution,
    ExecutionEvent,
    ExecutionState,
    Facts,
    Job,
    Machine,
    Person,
    Presence,
    PresenceState,
    Unasked,
)


def make_machine(machine_id: str = "m1", name: str = "lab-1", **facts: object) -> Machine:
    return Machine(
        id=machine_id,
        facts=msgspec.structs.replace(Facts(name=name), **facts),
        presence=Presence(state=PresenceState.ONLINE, since_at=1_000.5, address="10.0.0.1:4711"),
        first_seen_at=999.25,
    )


def make_job(job_id: str = "j1", **changes: object) -> Job:
    job = Job(id=job_id, action=Action.RESTART, targets=("lab-*",), created_at=2_000.0)
    return msgspec.structs.replace(job, **changes)


def make_execution(job_id: str = "j1", machine: str = "m1", **changes: object) -> Execution:
    execution = Execution(
        id=f"{job_id}-{machine}",
        job_id=job_id,
        machine_id=machine,
        machine_name=f"name-of-{machine}",
        state=ExecutionState.QUEUED,
        updated_at=2_000.0,
        due_at=2_060.0,
        expires_at=2_180.0,
    )
    return msgspec.structs.replace(execution, **changes)


def count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        connection.close()


def execute(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute(statement, values)
        connection.commit()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.db"


@pytest.fixture
async def storage(path: Path) -> AsyncIterator[Storage]:
    storage = await Storage.open(path)
    yield storage
    await storage.close()


# What goes in comes out


async def test_machines_come_back_as_they_were(path: Path) -> None:
    full = Machine(
        id="m2",
        facts=Facts(
            name="büro-2 💻",
            host_name="buero2.example",
            os="Debian 12",
            boot_id="b" * 36,
            persons=(Person("ana", "seat0", since_at=5.5), Person("o'hara; --", is_remote=True)),
            knows_persons=True,
            persons_problem="none",
            asks_by="tk on :0",
            asking_problem="none either",
            mac_addresses=("02:00:00:00:00:01",),
            agent_version="0.1.0",
            power="logind",
        ),
        presence=Presence(
            state=PresenceState.OFFLINE,
            since_at=1_700_000_000.123456,
            cause=Cause.DID_NOT_RETURN,
            detail="gone",
            join="x",
        ),
        first_seen_at=1_600_000_000.654321,
        round_trip_s=0.25,
    )
    storage = await Storage.open(path)
    await storage.save_machines([make_machine("m1", "zeta"), full])
    await storage.close()

    storage = await Storage.open(path)
    assert await storage.load_machines() == (
        msgspec.structs.replace(full, round_trip_s=None),
        make_machine("m1", "zeta"),
    )
    await storage.close()


async def test_a_saved_machine_replaces_the_earlier_one(storage: Storage) -> None:
    await storage.save_machine(make_machine(os="old"))
    await storage.save_machine(make_machine(os="new", name="renamed"))
    assert await storage.load_machines() == (make_machine(os="new", name="renamed"),)


async def test_many_machines_at_once_some_of_them_new(storage: Storage) -> None:
    machines = [
        make_machine(f"m{number}", f"lab-{number:04}") for number in range(2 * VALUES_PER_LIST_MAX + 1)
    ]
    await storage.save_machines(machines[::2])
    await storage.save_machines(machines)
    await storage.save_machines([])
    assert await storage.load_machines() == tuple(machines)


async def test_a_name_belongs_to_one_machine(storage: Storage) -> None:
    await storage.save_machine(make_machine("m1", "lab-1"))
    with pytest.raises(NameTaken, match="'lab-1'"):
        await storage.save_machines([make_machine("m2", "lab-2"), make_machine("m3", "lab-1")])
    with pytest.raises(NameTaken, match="'lab-4'"):
        await storage.save_machines([make_machine("m4", "lab-4"), make_machine("m5", "lab-4")])
    assert await storage.load_machines() == (make_machine("m1", "lab-1"),)


async def test_a_name_given_up_is_free_in_the_same_call(storage: Storage) -> None:
    await storage.save_machine(make_machine("m1", "lab-1"))
    await storage.save_machines([make_machine("m2", "lab-1"), make_machine("m1", "lab-2")])
    assert [(machine.id, machine.name) for machine in await storage.load_machines()] == [
        ("m2", "lab-1"),
        ("m1", "lab-2"),
    ]


@pytest.mark.parametrize("order", [1, -1])
async def test_names_may_be_swapped_in_one_call(storage: Storage, order: int) -> None:
    names = {"m1": "lab-1", "m2": "lab-2", "m3": "lab-3"}
    await storage.save_machines([make_machine(machine_id, name) for machine_id, name in names.items()])
    # Each takes the name of the next, and a new machine the one that is left.
    swapped = [make_machine("m1", "lab-2"), make_machine("m2", "lab-3"), make_machine("m3", "lab-1.old-1")]
    await storage.save_machines([*swapped, make_machine("m4", "lab-1")][::order])
    assert [(machine.name, machine.id) for machine in await storage.load_machines()] == [
        ("lab-1", "m4"),
        ("lab-1.old-1", "m3"),
        ("lab-2", "m1"),
        ("lab-3", "m2"),
    ]


async def test_a_swap_that_fails_leaves_the_names_as_they_were(storage: Storage) -> None:
    before = (make_machine("m1", "lab-1"), make_machine("m2", "lab-2"), make_machine("m3", "lab-3"))
    await storage.save_machines(before)
    with pytest.raises(NameTaken):
        await storage.save_machines([make_machine("m1", "lab-2"), make_machine("m2", "lab-3")])
    assert await storage.load_machines() == before


@pytest.mark.parametrize("action", Action)
async def test_jobs_come_back_as_they_were(storage: Storage, action: Action) -> None:
    plain = make_job("plain", action=action)
    full = make_job(
        "full",
        action=action,
        targets=("a", "b*", "[c]"),
        requested_by="ana",
        message="l'été\n💾",
        delay_s=0.0,
        valid_for_s=7.5,
        queue_for_s=3600.0,
        may_cancel=False,
        may_postpone=False,
        unasked=Unasked.REFUSE,
        request_id="r1",
        created_at=2_000.000001,
    )
    assert await storage.add_job(plain, ()) == plain
    assert await storage.add_job(full, ()) == full
    assert await storage.jobs(10) == (full, plain)
    assert await storage.jobs(1) == (full,)
    assert await storage.jobs(0) == ()
    assert await storage.job_by_request("r1") == full
    assert await storage.job_by_request("r2") is None


@pytest.mark.parametrize("state", ExecutionState)
async def test_executions_and_events_come_back_as_they_were(storage: Storage, state: ExecutionState) -> None:
    added = make_execution()
    await storage.add_job(make_job(), [added])
    changed = make_execution(
        state=state,
        updated_at=2_001.000001,
        due_at=2_090.5,
        expires_at=2_300.5,
        detail="because",
        boot_id_before="b",
        postponed_s=30.5,
        asked="ana (:0), o'hara (tty3)",
        answered_by="ana (:0)",
        notices="wall",
        rounds=3,
    )
    await storage.record([changed])
    assert await storage.executions_of(["j1"]) == (changed,)
    assert await storage.events_of("j1") == (
        ExecutionEvent(execution_id=added.id, at=2_000.0, state=ExecutionState.QUEUED),
        ExecutionEvent(execution_id=added.id, at=2_001.000001, state=state, detail="because"),
    )
    assert await storage.events_of("j2") == ()


# Jobs and executions


async def test_a_request_id_stores_one_job_only(storage: Storage, path: Path) -> None:
    first = make_job("j1", request_id="r")
    assert await storage.add_job(first, [make_execution("j1")]) == first
    again = make_job("j2", request_id="r", action=Action.SHUT_DOWN)
    assert await storage.add_job(again, [make_execution("j2")]) == first
    results = await asyncio.gather(
        *(storage.add_job(make_job(f"x{n}", request_id="s"), ()) for n in range(20))
    )
    assert {job.id for job in results} == {"x0"}
    assert [count(path, table) for table in ("jobs", "executions", "execution_events")] == [2, 1, 1]


async def test_a_job_with_a_bad_execution_is_not_stored_at_all(storage: Storage, path: Path) -> None:
    with pytest.raises(StorageError, match="contradicts") as caught:
        await storage.add_job(make_job(), [make_execution(), make_execution(id="other")])
    assert isinstance(caught.value.__cause__, sa.exc.IntegrityError)
    assert [count(path, table) for table in ("jobs", "executions", "execution_events")] == [0, 0, 0]


async def test_recording_is_all_or_nothing_and_refuses_strangers(storage: Storage) -> None:
    added = make_execution()
    await storage.add_job(make_job(), [added])
    changed = make_execution(state=ExecutionState.DELIVERED)
    with pytest.raises(StorageError, match="contradicts"):
        await storage.record([changed, make_execution(id="stranger")])
    assert await storage.executions_of(["j1"]) == (added,)
    assert len(await storage.events_of("j1")) == 1
    await storage.record([])


async def test_two_steps_of_one_execution_in_one_call(storage: Storage) -> None:
    await storage.add_job(make_job(), [make_execution()])
    steps = [make_execution(state=ExecutionState.DELIVERED), make_execution(state=ExecutionState.ACCEPTED)]
    await storage.record(steps)
    assert await storage.executions_of(["j1"]) == (steps[-1],)
    assert [event.state for event in await storage.events_of("j1")] == ["queued", "delivered", "accepted"]


async def test_open_executions(storage: Storage) -> None:
    executions = [
        make_execution(machine=state.value, state=state, due_at=float(number))
        for number, state in enumerate(reversed(ExecutionState))
    ]
    await storage.add_job(make_job(), executions)
    unfinished = [execution for execution in executions if execution.state not in FINAL_STATES]
    assert await storage.open_executions(since_at=2_000.5) == tuple(unfinished)
    assert await storage.open_executions(since_at=2_000.0) == (executions[0], *unfinished)
    assert executions[0].state is ExecutionState.UNKNOWN


async def test_jobs_are_found_by_a_prefix_taken_literally(storage: Storage) -> None:
    for job_id in ("abc1", "abc2", "abc3", "ABD", "a_c", "x%y", "long", "longer", "longest"):
        await storage.add_job(make_job(job_id), ())
    found = {}
    for prefix in ("abc2", "abc", "ab", "AB", "a_", "x%", "%", "_", "", "zz", "long", "longe", "longer0"):
        found[prefix] = [job.id for job in await storage.job(prefix)]
    assert found == {
        "abc2": ["abc2"],
        "abc": ["abc1", "abc2"],
        "ab": ["abc1", "abc2"],
        "AB": ["ABD"],
        "a_": ["a_c"],
        "x%": ["x%y"],
        "%": [],
        "_": [],
        "": [],
        "zz": [],
        "long": ["long"],
        "longe": ["longer", "longest"],
        "longer0": [],
    }


async def test_executions_of_many_jobs_in_order_of_machine_name(storage: Storage) -> None:
    job_ids = [f"j{number}" for number in range(VALUES_PER_LIST_MAX + 2)]
    for job_id in job_ids[:2] + job_ids[-2:]:
        await storage.add_job(make_job(job_id), [make_execution(job_id, "b"), make_execution(job_id, "a")])
    executions = await storage.executions_of([*job_ids, "j0"])
    assert [(execution.machine_id, execution.job_id) for execution in executions] == [
        (machine, job_id) for machine in "ab" for job_id in sorted(job_ids[:2] + job_ids[-2:])
    ]
    assert await storage.executions_of([]) == ()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE machines SET facts = '{'", "Machine 'm1'"),
        ('UPDATE machines SET presence = \'{"state": "asleep", "since_at": 1}\'', "Machine 'm1'"),
        ("UPDATE machines SET first_seen_at = 'yesterday'", "Machine 'm1'"),
        ("UPDATE jobs SET targets = '7'", "Job 'j1'"),
        ("UPDATE jobs SET action = 'explode'", "Job 'j1'"),
        ("UPDATE executions SET state = 'lost'", "Execution 'j1-m1'"),
        ("UPDATE execution_events SET state = 'lost'", "ExecutionEvent 1"),
    ],
)
async def test_a_row_that_cannot_be_read_is_named(
    storage: Storage, path: Path, statement: str, named: str
) -> None:
    await storage.save_machine(make_machine())
    await storage.add_job(make_job(), [make_execution()])
    execute(path, statement)

    async def read_everything() -> None:
        await storage.load_machines()
        await storage.jobs(1)
        await storage.executions_of(["j1"])
        await storage.events_of("j1")

    with pytest.raises(StorageError, match=f"holds a {named} that cannot be read"):
        await read_everything()


# Opening and closing


async def test_the_database_is_private_durable_and_checked(storage: Storage, path: Path) -> None:
    await storage.save_machine(make_machine())
    for name in ("", "-wal", "-shm", ".lock"):
        assert stat.S_IMODE(os.stat(f"{path}{name}").st_mode) == 0o600, name

    def pragmas(connection: sa.Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}

    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5_000}
    assert await storage._write(pragmas) == expected
    # Every connection of the pool, not the first alone.
    assert (
        await asyncio.gather(*(storage._in_turn(storage._readers, pragmas) for _ in range(3)))
        == [expected] * 3
    )


async def test_migrations_and_metadata_agree(storage: Storage) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, metadata))

    assert await storage._write(differences) == []

    def names(connection: sa.Connection) -> set[str | None]:
        inspector = sa.inspect(connection)
        return {
            constraint["name"]
            for table in metadata.tables
            for constraint in (
                inspector.get_pk_constraint(table),
                *inspector.get_foreign_keys(table),
                *inspector.get_unique_constraints(table),
                *inspector.get_indexes(table),
            )
            if not str(constraint["name"]).startswith("sqlite_")
        }

    # Alembic does not compare the names of keys.
    migrated = await storage._write(names)
    engine = sa.create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        assert migrated == names(connection)
    engine.dispose()


async def test_a_second_control_server_is_refused(path: Path, tmp_path: Path) -> None:
    storage = await Storage.open(path)
    (tmp_path / "alias.db").symlink_to(path)
    for name in (path, tmp_path / "alias.db"):
        with pytest.raises(
            StorageError, match=f"in use by another control server \\(process {os.getpid()}\\)"
        ):
            await Storage.open(name)
    await storage.save_machine(make_machine())
    await storage.close()
    storage = await Storage.open(path)
    assert await storage.load_machines() == (make_machine(),)
    await storage.close()


async def test_the_database_of_another_program_is_refused(path: Path) -> None:
    execute(path, "CREATE TABLE songs (title TEXT)")
    with pytest.raises(StorageError, match="belongs to another program"):
        await Storage.open(path)


async def test_a_migration_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_half_way(connection: sa.Connection, label: str) -> None:
        connection.exec_driver_sql("CREATE TABLE half (id INTEGER)")
        raise OSError(5, "the scripts are gone")

    with monkeypatch.context() as patch:
        patch.setattr("landline.fleet.control.storage._migrate", fail_half_way)
        with pytest.raises(StorageError, match="the scripts are gone"):
            await Storage.open(path)
    await (await Storage.open(path)).close()


@pytest.mark.parametrize("content", [b"not a database at all\n" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StorageError, match="is not a database"):
        await Storage.open(path)
    assert path.read_bytes() == content


async def test_a_damaged_database_is_refused(path: Path) -> None:
    await (await Storage.open(path)).close()
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    with pytest.raises(StorageError, match="is damaged"):
        await Storage.open(path)


async def test_places_where_no_database_can_be(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a directory"):
        await Storage.open(tmp_path)
    with pytest.raises(StorageError, match="No such file or directory"):
        await Storage.open(tmp_path / "missing" / "control.db")
    with pytest.raises(StorageError, match="name a file instead"):
        await Storage.open("sqlite+aiosqlite://")
    with pytest.raises(StorageError, match="name a file instead"):
        await Storage.open(":memory:")
    with pytest.raises(StorageError, match="failed"):
        await Storage.open("nosuchdatabase://host/x")
    with pytest.raises(StorageError, match="failed"):
        await Storage.open("://")
    assert list(tmp_path.iterdir()) == []


async def test_a_database_that_may_only_be_read(storage: Storage, path: Path) -> None:
    def forbid_writing(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only=ON")

    await storage._write(forbid_writing)
    with pytest.raises(StorageError, match="may only be read, not written"):
        await storage.save_machine(make_machine())
    assert await storage.load_machines() == ()


async def test_a_closed_storage_says_so(path: Path) -> None:
    storage = await Storage.open(path)
    running = [asyncio.create_task(storage.add_job(make_job(f"j{number}"), ())) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.gather(storage.close(), storage.close())
    results = await asyncio.gather(*running, return_exceptions=True)
    assert results[0] == make_job("j0")
    assert all(isinstance(result, StorageError) and "was closed" in str(result) for result in results[1:])
    with pytest.raises(StorageError, match="was closed"):
        await storage.load_machines()
    await storage.close()
    assert count(path, "jobs") == 1


# Cancelling


async def test_a_cancelled_call_happened_entirely_or_not_at_all(storage: Storage) -> None:
    randomness = random.Random(5463)
    outcomes: dict[bool, int] = {True: 0, False: 0}
    for number in range(150):
        job_id = f"j{number}"
        executions = [make_execution(job_id, f"m{machine}") for machine in range(5)]
        before = asyncio.create_task(storage.save_machine(make_machine(os=job_id)))
        call = asyncio.create_task(storage.add_job(make_job(job_id), executions))
        for _ in range(randomness.randrange(40)):
            await asyncio.sleep(randomness.choice((0, 0, 0.0001)))
        call.cancel()
        after = asyncio.create_task(storage.save_machine(make_machine(os=f"after {job_id}")))
        await asyncio.gather(call, before, after, return_exceptions=True)
        assert after.exception() is None
        stored = len(await storage.job(job_id)), len(await storage.executions_of([job_id]))
        assert stored in {(0, 0), (1, 5)}
        assert len(await storage.events_of(job_id)) == stored[1]
        assert stored[0] or call.cancelled()
        outcomes[bool(stored[0])] += 1
    assert outcomes[True]
    assert outcomes[False]


async def test_a_call_cancelled_while_it_waits_has_not_happened(storage: Storage) -> None:
    calls = [asyncio.create_task(storage.add_job(make_job(f"j{number}"), ())) for number in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(job.id for job in await storage.jobs(9)) == ["j0", "j2"]


async def test_a_call_cancelled_after_it_began_is_finished(storage: Storage) -> None:
    call = asyncio.create_task(storage.add_job(make_job(), [make_execution()]))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await storage.record([make_execution(state=ExecutionState.DELIVERED)])
    assert len(await storage.events_of("j1")) == 2


async def test_cancelled_readers_do_no_harm(storage: Storage) -> None:
    await storage.save_machine(make_machine())
    for turns in range(30):
        reads = [asyncio.create_task(storage.load_machines()) for _ in range(10)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for read in reads[::2]:
            read.cancel()
        results = await asyncio.gather(*reads, return_exceptions=True)
        assert all(result == (make_machine(),) for result in results[1::2])


async def test_opening_can_be_cancelled_at_any_moment(path: Path) -> None:
    for turns in range(60):
        opening = asyncio.create_task(Storage.open(path))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        try:
            storage = await opening
        except asyncio.CancelledError:
            continue
        await storage.close()
    storage = await Storage.open(path)
    await storage.add_job(make_job(), ())
    await storage.close()


# Crashes and full disks, in processes of their own.

PREAMBLE = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from landline.fleet.model import Action, Execution, ExecutionState, Job
from landline.fleet.api import StorageError
from landline.fleet.control.storage import Storage

path = Path(sys.argv[1])

def job(job_id):
    return Job(id=job_id, action=Action.RESTART, targets=("*",), created_at=1.0, message="m" * 1000)

def executions(job_id):
    return [
        Execution(id=f"{job_id}-{machine}", job_id=job_id, machine_id=machine, machine_name=machine,
                  state=ExecutionState.QUEUED, updated_at=1.0, due_at=1.0, expires_at=2.0)
        for machine in ("a", "b", "c")
    ]
"""


def run_child(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        # What it says arrives, though it is killed.
        [sys.executable, "-u", "-c", PREAMBLE + textwrap.dedent(script), str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


async def test_an_accepted_job_survives_a_kill(path: Path) -> None:
    child = run_child(
        """
        async def main():
            storage = await Storage.open(path)
            for number in range(10):
                await storage.add_job(job(f"j{number}"), executions(f"j{number}"))
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """,
        path,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    storage = await Storage.open(path)
    jobs = await storage.jobs(100)
    assert sorted(job.id for job in jobs) == [f"j{number}" for number in range(10)]
    assert len(await storage.executions_of([job.id for job in jobs])) == 30
    assert len(await storage.events_of("j9")) == 3
    await storage.close()


async def test_the_holder_is_named_and_its_death_frees_the_database(path: Path) -> None:
    script = "storage = asyncio.run(Storage.open(path)); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(StorageError, match=f"process {child.pid}\\)"):
            await Storage.open(path)
        child.kill()
    await (await Storage.open(path)).close()


async def test_a_full_disk_is_reported_and_nothing_accepted_is_lost(path: Path) -> None:
    child = run_child(
        """
        async def main():
            storage = await Storage.open(path)
            await storage.add_job(job("first"), executions("first"))
            wal = Path(f"{path}-wal")
            unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size + 100_000, unlimited[1]))
            refused = 0
            for number in range(100):
                try:
                    await storage.add_job(job(f"j{number}"), executions(f"j{number}"))
                except StorageError as error:
                    assert "the disk is full" in str(error), error
                    refused += 1
                    if refused == 3:
                        break
                else:
                    print(f"j{number}")
            assert refused == 3
            assert len(await storage.jobs(1000)) == number + 1 - 2
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            await storage.add_job(job("last"), executions("last"))
            os.kill(os.getpid(), signal.SIGKILL)

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        asyncio.run(main())
        """,
        path,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    accepted = child.stdout.split()
    assert accepted
    storage = await Storage.open(path)
    jobs = await storage.jobs(1_000)
    assert {job.id for job in jobs} == {"first", *accepted, "last"}
    assert len(await storage.executions_of([job.id for job in jobs])) == 3 * len(jobs)
    await storage.close()


async def test_a_database_at_its_size_limit(storage: Storage) -> None:
    def freeze(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count=1")

    await storage._write(freeze)
    with pytest.raises(StorageError, match="the disk is full"):
        await storage.add_job(make_job(message="m" * 100_000), ())
    assert await storage.jobs(1) == ()
