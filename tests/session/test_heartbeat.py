import pytest

from landline.errors import ConfigurationError
from landline.session.constants import (
    IDLE_FACTOR,
    LAG_TOLERANCE_S,
    PINGS_PER_INTERVAL_MAX,
    PINGS_PER_INTERVAL_WARN,
    READ_FIRST_S,
    SUSPECT_SHARE,
)
from landline.session.heartbeat import Liveness, PingTolerance, Verdict
from landline.session.settings import Heartbeat

NOW = 100.0
SUSPECT_AT = NOW + 10 + 5 * SUSPECT_SHARE
DEAD_AT = NOW + 15


def started(*, is_heartbeat_leader=True, phase=0.0):
    liveness = Liveness(Heartbeat(interval_s=10, timeout_s=5), is_heartbeat_leader=is_heartbeat_leader)
    liveness.start(NOW, phase=phase)
    return liveness


@pytest.mark.parametrize(("phase", "due_s"), [(0.0, 5.0), (0.5, 7.5), (0.999, 9.995)])
def test_first_pings_are_spread_over_the_second_half_of_the_interval(phase, due_s):
    liveness = started(phase=phase)
    assert liveness.next_timeout() == pytest.approx(NOW + due_s)
    assert liveness.handle_timeout(NOW + due_s - 0.01) is Verdict.NOTHING
    assert liveness.handle_timeout(NOW + due_s + 0.001) is Verdict.PING


def test_the_heartbeat_leader_pings_every_interval():
    liveness = started()
    assert liveness.next_ping(NOW + 5) == 1
    liveness.last_received_at = liveness.last_sent_at = NOW + 14.9
    assert liveness.next_timeout() == NOW + 15
    assert liveness.handle_timeout(NOW + 15) is Verdict.PING
    assert liveness.next_ping(NOW + 15) == 2
    assert liveness.handle_timeout(NOW + 15) is Verdict.NOTHING


def test_the_heartbeat_follower_pings_only_without_traffic():
    liveness = started(is_heartbeat_leader=False)
    assert liveness.next_timeout() == NOW + 10 * IDLE_FACTOR
    liveness.last_received_at = liveness.last_sent_at = NOW + 4
    assert liveness.next_timeout() == NOW + 4 + 10 * IDLE_FACTOR
    assert liveness.handle_timeout(NOW + 14) is Verdict.NOTHING


@pytest.mark.parametrize("busy", ["last_received_at", "last_sent_at"])
def test_the_heartbeat_follower_pings_when_one_direction_is_silent(busy):
    liveness = started(is_heartbeat_leader=False)
    setattr(liveness, busy, NOW + 10)
    assert liveness.next_timeout() == NOW + 10 * IDLE_FACTOR
    assert liveness.handle_timeout(NOW + 10 * IDLE_FACTOR) is Verdict.PING
    liveness.next_ping(NOW + 11)
    assert liveness.handle_timeout(NOW + 11) is Verdict.NOTHING


@pytest.mark.parametrize("is_heartbeat_leader", [True, False])
def test_silence_leads_to_suspicion_and_then_death_in_time(is_heartbeat_leader):
    liveness = started(is_heartbeat_leader=is_heartbeat_leader)
    log, now = [], NOW
    while not log or log[-1][1] is not Verdict.DEAD:
        now = max(now, liveness.next_timeout())
        verdict = liveness.handle_timeout(now)
        log.append((now, verdict))
        if verdict is Verdict.PING:
            liveness.next_ping(now)
    assert Verdict.PING in [verdict for _, verdict in log]
    blamed = [entry for entry in log if entry[1] in (Verdict.SUSPECT, Verdict.DEAD)]
    assert blamed == [(SUSPECT_AT, Verdict.SUSPECT), (DEAD_AT + READ_FIRST_S, Verdict.DEAD)]


def test_received_bytes_move_the_deadlines():
    liveness = started()
    liveness.next_ping(NOW + 9)
    liveness.last_received_at = NOW + 9
    assert liveness.handle_timeout(DEAD_AT) is Verdict.NOTHING
    liveness.next_ping(NOW + 19)
    assert liveness.next_timeout() == NOW + 9 + 10 + 5 * SUSPECT_SHARE


def test_a_late_check_grants_another_timeout_once():
    liveness = started()
    woken_at = DEAD_AT + LAG_TOLERANCE_S + 30
    assert liveness.handle_timeout(woken_at) is Verdict.PING
    liveness.next_ping(woken_at)
    assert liveness.handle_timeout(woken_at) is Verdict.NOTHING
    assert liveness.handle_timeout(woken_at + 4.9) is Verdict.NOTHING
    assert liveness.next_timeout() == woken_at + 5
    assert liveness.handle_timeout(woken_at + 5) is Verdict.NOTHING
    assert liveness.next_timeout() == woken_at + 5 + READ_FIRST_S
    assert liveness.handle_timeout(woken_at + 5 + READ_FIRST_S) is Verdict.DEAD


def test_a_check_in_time_grants_an_iteration_of_the_loop_to_read():
    liveness = started()
    liveness.next_ping(NOW + 10)
    now = DEAD_AT + LAG_TOLERANCE_S
    assert liveness.handle_timeout(now) is Verdict.NOTHING
    assert liveness.next_timeout() == now + READ_FIRST_S
    assert liveness.handle_timeout(now + READ_FIRST_S) is Verdict.DEAD


def test_bytes_read_meanwhile_save_the_peer():
    liveness = started()
    liveness.next_ping(NOW + 10)
    now = DEAD_AT + LAG_TOLERANCE_S
    liveness.handle_timeout(now)
    liveness.last_received_at = now + 0.01
    assert liveness.handle_timeout(now + READ_FIRST_S) is Verdict.NOTHING


def test_a_new_transport_resets_grace_and_suspicion():
    liveness = started()
    liveness.handle_timeout(NOW + 500)
    liveness.is_suspect = True
    liveness.start(NOW, phase=0, round_trip_s=0.25)
    assert not liveness.is_suspect
    assert liveness.round_trip_s == 0.25
    liveness.next_ping(NOW + 10)
    assert liveness.handle_timeout(DEAD_AT) is Verdict.NOTHING
    assert liveness.handle_timeout(DEAD_AT + READ_FIRST_S) is Verdict.DEAD


def test_the_round_trip_is_measured_from_the_recorded_time():
    liveness = started()
    assert liveness.receive_pong(0, NOW) is None
    number = liveness.next_ping(NOW)
    assert liveness.round_trip_s is None
    assert liveness.receive_pong(number, NOW + 0.25) == 0.25
    assert liveness.round_trip_s == 0.25


def test_only_the_first_answer_to_the_last_ping_is_measured():
    liveness = started()
    liveness.next_ping(NOW)
    liveness.next_ping(NOW + 1)
    assert liveness.receive_pong(1, NOW + 2) is None
    assert liveness.receive_pong(3, NOW + 2) is None
    assert liveness.receive_pong(2, NOW + 2) == 1.0
    assert liveness.receive_pong(2, NOW + 9) is None
    assert liveness.round_trip_s == 1.0


def test_a_ping_of_an_older_transport_is_not_measured_on_the_next():
    liveness = started()
    liveness.next_ping(NOW)
    liveness.start(NOW + 50, phase=0)
    assert liveness.receive_pong(1, NOW + 51) is None


def test_too_many_pings_in_an_interval_warn_and_then_fail():
    liveness = started()
    seen = [liveness.receive_ping(NOW + 1) for _ in range(PINGS_PER_INTERVAL_MAX + 1)]
    assert seen.index(PingTolerance.WARN) == PINGS_PER_INTERVAL_WARN - 1
    assert seen.count(PingTolerance.WARN) == 1
    assert seen.index(PingTolerance.TOO_MANY) == PINGS_PER_INTERVAL_MAX


def test_pings_are_counted_per_interval():
    liveness = started()
    for turn in range(10):
        for _ in range(PINGS_PER_INTERVAL_WARN - 1):
            assert liveness.receive_ping(NOW + turn * 10) is PingTolerance.FINE


@pytest.mark.parametrize(
    "options", [{"interval_s": 0}, {"timeout_s": -1}, {"interval_s": 1e-9}, {"timeout_s": 1e6}]
)
def test_a_heartbeat_out_of_range_is_refused(options):
    with pytest.raises(ConfigurationError, match="Heartbeat"):
        Heartbeat(**options)


def test_grace_for_a_late_check_is_granted_once_per_silence():
    liveness = started()
    late = DEAD_AT + LAG_TOLERANCE_S + 1
    assert liveness.handle_timeout(late) is Verdict.PING
    liveness.next_ping(late)
    late += 5 + LAG_TOLERANCE_S + 1
    assert liveness.handle_timeout(late) is Verdict.NOTHING
    assert liveness.handle_timeout(late + LAG_TOLERANCE_S + 1) is Verdict.DEAD
