"""The control server's limits as numbers: a test that uses a constant as its own yardstick misses a wrong one."""

from __future__ import annotations

import pytest

from landline.fleet import api, log_lines, messages, private_files
from landline.fleet.control import (
    cloned_identities,
    clones,
    control_server,
    event_log,
    fact_checks,
    job_dispatcher,
    job_store,
    jobs,
    presence,
    request_rate,
    serve,
    storage,
    targets,
    updates,
)
from landline.fleet.model import Action
from landline.fleet.web import app, errors, http_server, sse
from landline.fleet.web.timed_connections import ConnectionLimits

LIMITS = [
    (api, "REQUEST_ID_CHARACTERS_MAX", 100),
    (log_lines, "VALUE_CHARACTERS_MAX", 300),
    (log_lines, "MESSAGE_CHARACTERS_MAX", 2_000),
    (log_lines, "TRACEBACK_LINES_MAX", 60),
    (messages, "DEFAULT_COUNTDOWN_S", 60.0),
    (messages, "MESSAGE_BYTES_MAX", 262_144),
    (messages, "WINDOW_BYTES", 1_048_576),
    (messages, "EXECUTIONS_MAX", 1000),
    (messages, "JOIN_BYTES_MAX", 196_608),
    (messages, "PERSONS_MAX", 100),
    (messages, "PERSON_CHARACTERS_MAX", 300),
    (messages, "TEXT_CHARACTERS_MAX", 500),
    (private_files, "PRIVATE_FILE_BYTES_MAX", 65_536),
    (cloned_identities, "PROBE_TIMEOUT_S", 5.0),
    (clones, "CLAIMANTS_MAX", 16),
    (control_server, "SWEEP_EVERY_S", 0.5),
    (control_server, "ROUND_TRIP_EVERY_S", 5.0),
    (control_server, "CLOCK_AHEAD_S_MAX", 1.0),
    (control_server, "JOB_ID_CHARACTERS", 8),
    (event_log, "PEERS_LINES_PER_S", 100.0),
    (event_log, "PEERS_LINES_AT_ONCE", 20_000),
    (event_log, "STORAGE_AGAIN_S", 10.0),
    (fact_checks, "MACHINE_ID_CHARACTERS_MIN", 8),
    (fact_checks, "MACHINE_ID_CHARACTERS_MAX", 64),
    (job_dispatcher, "WAKE_EVERY_S", 5.0),
    (job_store, "UNKNOWN_MAX_AGE_S", 604_800.0),
    (jobs, "GRANT_VALID_S", 10.0),
    (jobs, "POSTPONED_S_MAX", 28_800.0),
    (jobs, "POSTPONED_S_MIN", 60.0),
    (jobs, "ROUNDS_MAX", 400),
    (jobs, "DELAY_S_MAX", 2_592_000.0),
    (jobs, "MESSAGE_CHARACTERS_MAX", 500),
    (jobs, "REQUESTED_BY_CHARACTERS_MAX", 200),
    (
        jobs,
        "ACTING_S_MAX",
        {Action.LOG_OFF: 120.0, Action.RESTART: 900.0, Action.SHUT_DOWN: 300.0, Action.WAKE: 300.0},
    ),
    (presence, "AWAY_MAX_S", 900.0),
    (presence, "GONE_GRACE_S", 20.0),
    (presence, "SERVER_START_GRACE_S", 90.0),
    (request_rate, "REQUEST_EVERY_S", 0.02),
    (request_rate, "REQUESTS_AT_ONCE", 200),
    (request_rate, "FACTS_EVERY_S", 0.25),
    (serve, "RESUME_WINDOW_S", 60.0),
    (serve, "TOKEN_CHARACTERS_MIN", 16),
    (serve, "STOP_RETRY_AFTER_S", 2.0),
    (serve, "STOP_SPREAD_S", 8.0),
    (storage, "READERS_MAX", 3),
    (storage, "BUSY_TIMEOUT_MS", 5_000),
    (storage, "VALUES_PER_LIST_MAX", 500),
    (targets, "TARGETS_MAX", 1000),
    (targets, "TARGET_CHARACTERS_MAX", 200),
    (targets, "PATTERNS_MAX", 20),
    (targets, "HINT_NAMES_MAX", 500),
    (updates, "UPDATES_WAITING_MAX", 1000),
    (app, "BODY_BYTES_MAX", 65_536),
    (app, "JOB_BODY_BYTES_MAX", 1_048_576),
    (app, "JOBS_MAX", 1000),
    (errors, "QUOTED_CHARACTERS_MAX", 200),
    (http_server, "SHUTDOWN_S", 1.0),
    (http_server, "OPERATION_S_MAX", 3),
    (sse, "KEEP_ALIVE_S", 8.0),
]


@pytest.mark.parametrize(("module", "name", "value"), LIMITS, ids=lambda it: getattr(it, "__name__", str(it)))
def test_a_limit_has_the_documented_value(module, name, value) -> None:
    assert getattr(module, name) == value


def test_the_connection_limits_have_their_documented_defaults() -> None:
    assert ConnectionLimits() == ConnectionLimits(
        connections_max=1000, request_timeout_s=10.0, crowded_request_timeout_s=1.0
    )
