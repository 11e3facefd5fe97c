"""The control server's database: machines, jobs, executions, events. The only SQL of the project.

One control server owns a database. Every call is one transaction, and a call that writes returns only after
the transaction is on disk (promise P4).

Cancelling a call is safe. A call that waits for its turn has no effect; a transaction that has begun finishes in the
background before the next one writes. So a cancelled call happened completely or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import alembic.command
import msgspec
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from landline.fleet.api import StorageError
from landline.fleet.file_lock import lock_file
from landline.fleet.model import (
    FINAL_STATES,
    Execution,
    ExecutionEvent,
    ExecutionState,
    Job,
    Machine,
    Unasked,
)

READERS_MAX: Final = 3
"""Concurrent reads, in addition to the one writer. Each uses a connection, and with SQLite a thread."""

BUSY_TIMEOUT_MS: Final = 5_000
"""How long SQLite waits for a lock. No other control server competes for it, but a backup may."""

VALUES_PER_LIST_MAX: Final = 500
"""Values in one ``IN`` list. SQLite before 3.32 refuses more than 999 in a statement."""


class NameTaken(StorageError):
    """Another machine already has this name."""


class Storage:
    """The open database. Create it with :meth:`open`, end it with :meth:`close`.

    Every method may raise :class:`StorageError`, and is safe to cancel as described above.
    """

    def __init__(self, engine: AsyncEngine, label: str, lock_descriptor: int | None) -> None:
        self._engine = engine
        self._label = label
        self._lock_descriptor = lock_descriptor
        self._writer = asyncio.Semaphore(1)
        self._readers = asyncio.Semaphore(READERS_MAX)
        self._transactions: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url_or_path: str | Path) -> Storage:
        """Open the database, create it if it does not exist (mode 0600), and bring its schema up to date.

        A path means SQLite in that file; its directory must exist. A URL (with ``://``) is one of SQLAlchemy.
        Cancelling closes the database again; a migration that has begun is finished first.

        :raises StorageError: if the database cannot be opened, is in use by another control server, was created by a
            newer version of this program, or belongs to another program.
        """
        label = str(url_or_path)
        with _storage_errors(label):
            url, path = _locate(url_or_path)
            label = str(path) if path else url.render_as_string(hide_password=True)
        lock_descriptor = None
        try:
            with _storage_errors(label):
                if path:
                    lock_descriptor = _take_lock(path)
                    _make_private_file(path)
                storage = cls(_make_engine(url), label, lock_descriptor)
        except BaseException:
            if lock_descriptor is not None:
                os.close(lock_descriptor)
            raise
        try:
            await storage._write(functools.partial(_migrate, label=label))
        except BaseException:
            await storage.close()
            raise
        return storage

    async def close(self) -> None:
        """Finish running transactions, refuse waiting ones, and close. A second call waits for the first.

        Cancelling stops the waiting, not the closing.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def load_machines(self) -> tuple[Machine, ...]:
        """Return all machines in order of name. Round-trip times are not stored: they are ``None``."""
        return tuple(self._machine(row) for row in await self._read(_ALL_MACHINES))

    async def save_machine(self, machine: Machine) -> None:
        """Store a new or changed machine.

        :raises NameTaken: if another machine has its name.
        """
        await self.save_machines((machine,))

    async def save_machines(self, machines: Sequence[Machine]) -> None:
        """Store new or changed machines, all or none.

        :raises NameTaken: if another machine has one of their names.
        """
        if machines:
            await self._write(functools.partial(_save_machines, machines))

    async def add_job(self, job: Job, executions: Sequence[Execution]) -> Job:
        """Store a job, its executions and the first event of each, all or none, and return the job.

        If the job's ``request_id`` was used before, store nothing and return the earlier job.
        """
        earlier = await self._write(functools.partial(_add_job, job, executions))
        return job if earlier is None else self._job(earlier)

    async def record(self, executions: Sequence[Execution]) -> None:
        """Store states of executions in this order, and an event (``updated_at``, state, detail) for each, all or none.

        :raises StorageError: if one of them was never added.
        """
        if executions:
            await self._write(functools.partial(_record, executions))

    async def open_executions(self, since_at: float) -> tuple[Execution, ...]:
        """Return the executions that are not final or became unknown at ``since_at`` or later, in order of due time."""
        rows = await self._read(_OPEN_EXECUTIONS, since_at=since_at)
        return tuple(self._execution(row) for row in rows)

    async def job(self, job_id_prefix: str) -> tuple[Job, ...]:
        """Return the jobs whose id begins with the prefix: none, one, or two if it is ambiguous.

        A complete id matches only its own job; an empty prefix matches none.
        """
        rows = await self._read(_JOBS_BY_PREFIX, prefix=job_id_prefix, length=len(job_id_prefix))
        if rows and rows[0]["id"] == job_id_prefix:
            rows = rows[:1]
        return tuple(self._job(row) for row in rows) if job_id_prefix else ()

    async def jobs(self, limit: int) -> tuple[Job, ...]:
        """Return at most ``limit`` of the newest jobs, newest first."""
        return tuple(self._job(row) for row in await self._read(_NEWEST_JOBS, count=max(limit, 0)))

    async def job_by_request(self, request_id: str) -> Job | None:
        """Return the job that was stored with this ``request_id``, if any."""
        rows = await self._read(_JOB_BY_REQUEST, request_id=request_id)
        return self._job(rows[0]) if rows else None

    async def executions_of(self, job_ids: Sequence[str]) -> tuple[Execution, ...]:
        """Return the executions of these jobs in order of machine name."""
        query = sa.select(_executions)
        rows = await self._in_turn(
            self._readers, lambda connection: _select_in(connection, query, _executions.c.job_id, job_ids)
        )
        executions = (self._execution(row) for row in rows)
        return tuple(sorted(executions, key=lambda execution: (execution.machine_name, execution.id)))

    async def events_of(self, job_id: str) -> tuple[ExecutionEvent, ...]:
        """Return all events of a job's executions in the order in which they were stored."""
        rows = await self._read(_EVENTS_OF_JOB, job_id=job_id)
        return tuple(self._read_back(ExecutionEvent, row) for row in rows)

    def _machine(self, row: _Row) -> Machine:
        return self._read_back(Machine, row, json=("facts", "presence", "claimants"))

    def _job(self, row: _Row) -> Job:
        return self._read_back(Job, row, json=("targets",))

    def _execution(self, row: _Row) -> Execution:
        return self._read_back(Execution, row)

    def _read_back(self, struct: type[_Struct], row: _Row, json: tuple[str, ...] = ()) -> _Struct:
        try:
            # SQLAlchemy's column names are a subclass of str, which msgspec does not accept.
            values = {str(column): value for column, value in row.items()}
            values.update((column, msgspec.json.decode(values[column])) for column in json)
            return msgspec.convert(values, struct)
        except (msgspec.MsgspecError, TypeError) as error:
            which = f"{struct.__name__} {row['id']!r}"
            raise StorageError(
                f"the database {self._label} holds a {which} that cannot be read: {error}"
            ) from error

    async def _read(self, query: sa.Select[Any], **parameters: object) -> Sequence[_Row]:
        return await self._in_turn(
            self._readers, lambda connection: connection.execute(query, parameters).mappings().all()
        )

    async def _write(self, work: Callable[[Connection], _Result]) -> _Result:
        # SQLite's plain BEGIN takes the write lock only at the first change, and then fails without waiting if another
        # connection has written since the first read.
        return await self._in_turn(self._writer, work, begin="BEGIN IMMEDIATE")

    async def _in_turn(
        self, turns: asyncio.Semaphore, work: Callable[[Connection], _Result], begin: str = "BEGIN"
    ) -> _Result:
        await turns.acquire()
        if self._closing is not None:
            turns.release()
            raise StorageError(f"the database {self._label} was closed")
        # The turn belongs to the transaction: it ends with the transaction even if the caller is cancelled. It ends by
        # callback, because a task that is cancelled before its first step runs no ``finally``.
        transaction = asyncio.create_task(self._transact(work, begin))
        self._transactions.add(transaction)
        transaction.add_done_callback(self._transactions.discard)
        transaction.add_done_callback(lambda _: turns.release())
        return await asyncio.shield(transaction)

    async def _transact(self, work: Callable[[Connection], _Result], begin: str) -> _Result:
        def transact(connection: Connection) -> _Result:
            with connection.begin():
                return work(connection)

        with _storage_errors(self._label):
            async with self._engine.connect() as connection:
                await connection.execution_options(landline_begin=begin)
                return await connection.run_sync(transact)

    async def _close(self) -> None:
        try:
            if self._transactions:
                await asyncio.wait(self._transactions)
            with _storage_errors(self._label):
                await self._engine.dispose()
        finally:
            if self._lock_descriptor is not None:
                os.close(self._lock_descriptor)


_Result = TypeVar("_Result")
_Row = Mapping[Any, Any]
_Struct = TypeVar("_Struct", bound=msgspec.Struct)


# The schema. A change here needs a migration; a test compares the two.

metadata: sa.MetaData = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_machines = sa.Table(
    "machines",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("name", sa.String, nullable=False, unique=True),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("presence", sa.Text, nullable=False),
    sa.Column("first_seen_at", sa.Double, nullable=False),
    sa.Column("claimants", sa.Text, nullable=False, server_default="[]"),
)

_jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("action", sa.String, nullable=False),
    sa.Column("targets", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False, index=True),
    sa.Column("requested_by", sa.String, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("delay_s", sa.Double),
    sa.Column("valid_for_s", sa.Double, nullable=False),
    sa.Column("queue_for_s", sa.Double),
    sa.Column("may_cancel", sa.Boolean, nullable=False),
    sa.Column("may_postpone", sa.Boolean, nullable=False),
    sa.Column("request_id", sa.String, unique=True),
    sa.Column("unasked", sa.String, nullable=False, server_default=Unasked.WAIT.value),
)

_executions = sa.Table(
    "executions",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id"), nullable=False),
    # Not a foreign key: executions outlive their machine.
    sa.Column("machine_id", sa.String, nullable=False, index=True),
    sa.Column("machine_name", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("boot_id_before", sa.String, nullable=False),
    sa.Column("hardware_before", sa.String, nullable=False, server_default=sa.text("''")),
    sa.Column("postponed_s", sa.Double, nullable=False),
    sa.Column("asked", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("answered_by", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("notices", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("rounds", sa.Integer, nullable=False, server_default="0"),
    # A job runs at most once on a machine (promise P4). The index also serves to find the executions of a job.
    sa.UniqueConstraint("job_id", "machine_id"),
)

_execution_events = sa.Table(
    "execution_events",
    metadata,
    # SQLite numbers rows only in a column whose type is exactly INTEGER.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("execution_id", sa.String, sa.ForeignKey("executions.id"), nullable=False, index=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

_NOT_FINAL = _executions.c.state.not_in(sorted(FINAL_STATES))
_STILL_UNKNOWN = (_executions.c.state == ExecutionState.UNKNOWN.value) & (
    _executions.c.updated_at >= sa.bindparam("since_at")
)
_OPEN_EXECUTIONS = (
    sa.select(_executions).where(_NOT_FINAL | _STILL_UNKNOWN).order_by(_executions.c.due_at, _executions.c.id)
)
_ALL_MACHINES = sa.select(_machines).order_by(_machines.c.name)
_NEWEST_JOBS = (
    sa.select(_jobs).order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc()).limit(sa.bindparam("count"))
)
_JOB_BY_REQUEST = sa.select(_jobs).where(_jobs.c.request_id == sa.bindparam("request_id"))
# Not LIKE: in SQLite it ignores case, and an underscore matches any character.
_JOBS_BY_PREFIX = (
    sa.select(_jobs)
    .where(sa.func.substr(_jobs.c.id, 1, sa.bindparam("length")) == sa.bindparam("prefix"))
    .order_by(sa.func.length(_jobs.c.id), _jobs.c.id)
    .limit(2)
)
_EVENTS_OF_JOB = (
    sa.select(_execution_events)
    .join(_executions)
    .where(_executions.c.job_id == sa.bindparam("job_id"))
    .order_by(_execution_events.c.id)
)


def _save_machines(machines: Sequence[Machine], connection: Connection) -> None:
    rows = {
        machine.id: {
            "name": machine.name,
            "facts": msgspec.json.encode(machine.facts).decode(),
            "presence": msgspec.json.encode(machine.presence).decode(),
            "first_seen_at": machine.first_seen_at,
            "claimants": msgspec.json.encode(machine.claimants).decode(),
        }
        for machine in machines
    }
    names = [str(row["name"]) for row in rows.values()]
    query = sa.select(_machines.c.id, _machines.c.name)
    # One of the saved machines may give up a name.
    stored = _select_in(connection, query, _machines.c.name, names)
    owners = {row["name"]: row["id"] for row in stored if row["id"] not in rows}
    for machine_id, row in rows.items():
        if owners.setdefault(row["name"], machine_id) != machine_id:
            raise NameTaken(f"the name {row['name']!r} belongs to another machine; choose another name")
    known = {row["id"]: row["name"] for row in _select_in(connection, query, _machines.c.id, list(rows))}
    if renamed := [
        # No machine may have such a name, so it is free. Another machine may then take the old name.
        {"row_id": machine_id, "name": f"?{machine_id}"}
        for machine_id, name in known.items()
        if name != rows[machine_id]["name"]
    ]:
        connection.execute(sa.update(_machines).where(_machines.c.id == sa.bindparam("row_id")), renamed)
    if changed := [{"row_id": machine_id, **row} for machine_id, row in rows.items() if machine_id in known]:
        connection.execute(sa.update(_machines).where(_machines.c.id == sa.bindparam("row_id")), changed)
    if new := [{"id": machine_id, **row} for machine_id, row in rows.items() if machine_id not in known]:
        connection.execute(sa.insert(_machines), new)


def _add_job(job: Job, executions: Sequence[Execution], connection: Connection) -> _Row | None:
    if job.request_id is not None:
        earlier = connection.execute(_JOB_BY_REQUEST, {"request_id": job.request_id}).mappings().one_or_none()
        if earlier is not None:
            return earlier
    row = msgspec.to_builtins(job) | {"targets": msgspec.json.encode(job.targets).decode()}
    connection.execute(sa.insert(_jobs), row)
    if executions:
        connection.execute(
            sa.insert(_executions), [msgspec.to_builtins(execution) for execution in executions]
        )
        _append_events(executions, connection)
    return None


def _record(executions: Sequence[Execution], connection: Connection) -> None:
    rows: list[dict[str, Any]] = []
    for execution in executions:
        row = msgspec.to_builtins(execution)
        rows.append({"row_id": row.pop("id"), **row})
    connection.execute(sa.update(_executions).where(_executions.c.id == sa.bindparam("row_id")), rows)
    # The foreign key also refuses what the update silently skipped: an execution that was never added.
    _append_events(executions, connection)


def _append_events(executions: Sequence[Execution], connection: Connection) -> None:
    rows = [
        {"execution_id": each.id, "at": each.updated_at, "state": each.state.value, "detail": each.detail}
        for each in executions
    ]
    connection.execute(sa.insert(_execution_events), rows)


def _select_in(
    connection: Connection, query: sa.Select[Any], column: sa.Column[str], values: Sequence[str]
) -> list[_Row]:
    rows: list[_Row] = []
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), VALUES_PER_LIST_MAX):
        chunk = distinct[start : start + VALUES_PER_LIST_MAX]
        rows += connection.execute(query.where(column.in_(chunk))).mappings()
    return rows


# Opening


def _locate(url_or_path: str | Path) -> tuple[URL, Path | None]:
    if isinstance(url_or_path, str) and "://" in url_or_path:
        url = make_url(url_or_path)
        if url.get_backend_name() != "sqlite":
            return url, None
        name = url.database or ":memory:"
    else:
        name = str(url_or_path)
    if ":memory:" in name:
        raise StorageError("a database in memory would lose every job with the process; name a file instead")
    # Resolved, so that two paths of one file share one lock.
    path = Path(os.path.realpath(name))
    return URL.create("sqlite+aiosqlite", database=str(path)), path


def _take_lock(path: Path) -> int:
    # Before the database file is opened: closing any descriptor of it drops the locks that SQLite holds on it elsewhere
    # in this process.
    if path.is_dir():
        raise StorageError(f"the database {path} cannot be opened: it is a directory")
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            lock_file(descriptor)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
            raise StorageError(
                f"the database {path} is in use by another control server (process {holder}); stop it first"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    # The lock file is never removed: a process waiting on a removed one would hold a lock that no other one sees.
    return descriptor


def _make_private_file(path: Path) -> None:
    # SQLite gives its other files (-wal, -shm) the mode of this file.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _make_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=READERS_MAX + 1, max_overflow=0)
    if url.get_backend_name() != "sqlite":
        return engine

    @sa.event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # By default, Python's module begins at the first change to a row. That is too late for a consistent read, and
        # for a migration, which changes tables.
        connection.exec_driver_sql(connection.get_execution_options().get("landline_begin", "BEGIN"))

    return engine


def _migrate(connection: Connection, label: str) -> None:
    # By package, so that the scripts are found in an installed wheel too.
    config = Config()
    config.set_main_option("script_location", "landline.fleet.control:migrations")
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = set(MigrationContext.configure(connection).get_current_heads())
    if present == set(scripts.get_heads()):
        return
    if not present <= {script.revision for script in scripts.walk_revisions()}:
        raise StorageError(
            f"the database {label} was created by a newer version of landline; upgrade this program"
        )
    if not present and sa.inspect(connection).get_table_names():
        raise StorageError(f"the database {label} belongs to another program; name another file")
    alembic.command.upgrade(config, "head")


@contextlib.contextmanager
def _storage_errors(label: str) -> Iterator[None]:
    """Translate every error of the layers below into a :class:`StorageError` of one sentence."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, CommandError, OSError, ImportError) as error:
        raise StorageError(f"the database {label} {_explain(error)}") from error


def _explain(error: Exception) -> str:
    origin = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(origin, sqlite3.Error):
        # The low byte is the primary code; the rest are its variants.
        kind = getattr(origin, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if kind in _SQLITE_SENTENCES:
            return f"{_SQLITE_SENTENCES[kind]} ({origin})"
    if isinstance(origin, OSError) and origin.strerror:
        return f"cannot be opened: {origin.strerror}"
    return f"failed: {' '.join(str(origin).split())}"


_SQLITE_SENTENCES: Final = {
    sqlite3.SQLITE_BUSY: "is locked by another program",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_CONSTRAINT: "refuses a row that contradicts others",
    sqlite3.SQLITE_CORRUPT: "is damaged; restore it from a backup",
    sqlite3.SQLITE_FULL: "is out of space: the disk is full",
    sqlite3.SQLITE_IOERR: "cannot be read or written: the disk is full or failing",
    sqlite3.SQLITE_NOTADB: "is not a database; name another file",
    sqlite3.SQLITE_PERM: "may not be opened",
    sqlite3.SQLITE_READONLY: "may only be read, not written",
}
