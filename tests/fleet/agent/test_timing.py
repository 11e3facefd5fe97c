"""The agent's intervals, time-outs and limits are what the documents say."""

from __future__ import annotations

import msgspec

from landline.fleet.agent import consent, executor, journal, report_limits
from landline.fleet.agent.power import command, logind
from landline.fleet.agent.timing import AgentTiming


def test_the_timing_of_a_real_agent() -> None:
    assert msgspec.to_builtins(AgentTiming()) == {
        "control_retry_s": 2.0,
        "clone_retry_s": 60.0,
        "persons_poll_s": 15.0,
        "boot_record_s": 60.0,
        "waiting_poll_s": 3.0,
        "prompt_retry_first_s": 15.0,
        "prompt_retry_cap_s": 600.0,
        "postponed_countdown_s": 60.0,
        "refused_postponement_s": 15.0,
        "notices_timeout_s": 10.0,
        "shutdown_start_timeout_s": 120.0,
        "uncertain_timeout_s": 20.0,
        "goodbye_timeout_s": 3.0,
        "power_retry_first_s": 1.0,
        "power_retry_cap_s": 30.0,
    }


def test_limits() -> None:
    assert executor.ORDERS_MAX == 100
    assert journal.ENTRIES_MAX == 2000
    assert report_limits.RECENT_ENTRIES == 20
    assert consent.NOTICES_LEFT_S == (300.0, 60.0, 10.0)
    assert consent.NAMES_SHOWN_MAX == 5


def test_the_timing_of_power_back_ends() -> None:
    assert (command.TIME_LIMIT_S, command.STATE_TIMEOUT_S) == (30.0, 1.0)
    assert (command.LOG_OFF_TIMEOUT_S, command.LOG_OFF_POLL_S) == (30.0, 1.0)
    assert (command.OUTPUT_BYTES_MAX, command.REASON_CHARACTERS_MAX) == (65536, 512)
    assert (logind.CALL_TIMEOUT_S, logind.LOG_OFF_TIMEOUT_S, logind.JOBS_TIMEOUT_S) == (10.0, 30.0, 1.0)
    assert (logind.RECONNECT_TIMEOUT_S, logind.RECONNECT_FIRST_S, logind.RECONNECT_CAP_S) == (15.0, 0.1, 2.0)
