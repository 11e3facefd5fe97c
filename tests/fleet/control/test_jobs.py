"""Decisions on jobs: every rule with its boundaries, and a world in which everything comes in any order."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from landline.fleet.api import JobRequest, OperationError
from landline.fleet.control import jobs
from landline.fleet.control.reconciliation import complete_when_gone, reconcile_on_join
from landline.fleet.control.targets import resolve_targets
from landline.fleet.messages import Claim, Grant, KnownExecution
from landline.fleet.model import (
    LIFE_CYCLE,
    Action,
    Cause,
    Claimant,
    Execution,
    ExecutionState,
    Facts,
    Job,
    Machine,
    Presence,
    PresenceState,
    Unasked,
)

S = ExecutionState
P = PresenceState
T0 = 1000.0
BEFORE_ACTING = [S.QUEUED, S.DELIVERED, S.WAITING, S.PROMPTED, S.POSTPONED, S.ACCEPTED]


def make_job(action: Action = Action.RESTART, **changes: Any) -> Job:
    return Job(**{"id": "j", "action": action, "targets": ("lab-1",), "created_at": T0, **changes})


def make_machine(name: str = "lab-1", state: PresenceState = P.ONLINE, **facts: Any) -> Machine:
    cause = Cause.SHUT_DOWN if state is P.OFFLINE else Cause.NONE
    return Machine(
        id=f"id-{name}",
        facts=Facts(**{"name": name, "boot_id": "boot-1", **facts}),
        presence=Presence(state=state, since_at=T0, cause=cause),
        first_seen_at=T0,
    )


def make_execution(state: ExecutionState = S.QUEUED, **changes: Any) -> Execution:
    values = {
        "id": "j-1",
        "job_id": "j",
        "machine_id": "id-lab-1",
        "machine_name": "lab-1",
        "state": state,
        "updated_at": T0,
        "due_at": T0,
        "expires_at": T0 + 180,
        "boot_id_before": "boot-1" if state in {S.ACTING, S.UNKNOWN} else "",
    }
    return Execution(**{**values, **changes})


# Requests and targets


@pytest.mark.parametrize(
    "changes",
    [
        {"delay_s": -1.0},
        {"delay_s": math.nan},
        {"delay_s": math.inf},
        {"delay_s": jobs.DELAY_S_MAX + 1},
        {"valid_for_s": 0.9},
        {"valid_for_s": -math.inf},
        {"valid_for_s": jobs.DELAY_S_MAX + 1},
        {"queue_for_s": -0.1},
        {"queue_for_s": math.nan},
        {"message": "x" * 501},
        {"requested_by": "x" * 201},
        {"request_id": "x" * 101},
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OperationError) as caught:
        jobs.check_request(JobRequest(action=Action.RESTART, targets=("a",), **changes))
    assert caught.value.code == "bad_request"


def test_values_at_their_bounds_are_accepted() -> None:
    days_30 = 30 * 86_400.0
    jobs.check_request(JobRequest(action=Action.RESTART, delay_s=0.0, valid_for_s=1.0, queue_for_s=0.0))
    jobs.check_request(
        JobRequest(
            action=Action.WAKE,
            delay_s=days_30,
            valid_for_s=days_30,
            queue_for_s=days_30,
            message="x" * 500,
            requested_by="x" * 200,
            request_id="x" * 100,
            targets=(*["x" * 200] * 980, *["x*"] * 20),
        )
    )


def test_a_job_records_its_request() -> None:
    request = JobRequest(
        action=Action.LOG_OFF,
        targets=("lab-*", "desk"),
        message="updates",
        requested_by="root",
        delay_s=30.0,
        valid_for_s=60.0,
        queue_for_s=90.0,
        may_cancel=False,
        may_postpone=False,
        unasked=Unasked.ACT,
        request_id="r-1",
    )
    job = jobs.new_job(request, job_id="j-1", now=T0)
    for field in ("action", "targets", "message", "requested_by", "delay_s", "valid_for_s", "queue_for_s"):
        assert getattr(job, field) == getattr(request, field)
    for field in ("may_cancel", "may_postpone", "unasked", "request_id"):
        assert getattr(job, field) == getattr(request, field)
    assert (job.id, job.created_at) == ("j-1", T0)
    everything = JobRequest(action=Action.LOG_OFF, all_machines=True)
    assert jobs.new_job(everything, job_id="j-2", now=T0).targets == ("*",)


FLEET = [make_machine(name) for name in ("lab-2", "lab-1", "lab-10", "desk", "Lab-3")]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (("lab-1",), ["lab-1"]),
        (("lab-?",), ["lab-1", "lab-2"]),
        (("lab-*",), ["lab-1", "lab-10", "lab-2"]),
        (("[dL]*",), ["Lab-3", "desk"]),
        (("lab-2", "lab-2", "lab-*"), ["lab-1", "lab-10", "lab-2"]),
        (("desk", "lab-1"), ["desk", "lab-1"]),
        (("*",), ["Lab-3", "desk", "lab-1", "lab-10", "lab-2"]),
    ],
)
def test_names_and_patterns(targets: tuple[str, ...], names: list[str]) -> None:
    assert [machine.name for machine in resolve_targets(targets, False, FLEET)] == names


def test_all_machines() -> None:
    assert len(resolve_targets((), True, FLEET)) == 5


@pytest.mark.parametrize(
    ("targets", "all_machines", "machines", "code", "words"),
    [
        ((), False, FLEET, "empty_target", "no target"),
        (("",), False, FLEET, "empty_target", "no target"),
        (("lab-1", ""), False, FLEET, "empty_target", "no target"),
        ((), True, [], "empty_target", "no machines yet"),
        (("lab-1",), True, FLEET, "bad_request", "not both"),
        (("a",) * 1001, False, FLEET, "bad_request", "use a pattern"),
        (("lab-1", "lab-11"), False, FLEET, "unknown_target", "did you mean lab-1"),
        (("kitchen",), False, FLEET, "unknown_target", "'landline ls' shows all names"),
        (("x-*",), False, FLEET, "unknown_target", "no machine matches 'x-*'"),
        (("lab-1\n",), False, FLEET, "unknown_target", "there is no machine called 'lab-1\\n'"),
        (("#" * 200,), False, FLEET, "unknown_target", "there is no machine called"),
        (("lab-1", "#" * 201), False, FLEET, "bad_request", "is longer than 200 characters"),
        (("*" * 900_000,), False, FLEET, "bad_request", "is longer than 200 characters"),
        (("lab-*",) * 21, False, FLEET, "bad_request", "more than 20 patterns"),
    ],
)
def test_targets_that_are_a_mistake(
    targets: tuple[str, ...], all_machines: bool, machines: list[Machine], code: str, words: str
) -> None:
    with pytest.raises(OperationError) as caught:
        resolve_targets(targets, all_machines, machines)
    assert caught.value.code == code
    assert words in caught.value.message
    assert len(caught.value.message) < 300


def test_similar_names_are_suggested_among_many() -> None:
    many = [make_machine(f"room-{number:05}") for number in range(10_000)]
    with pytest.raises(OperationError, match="did you mean room-07"):
        resolve_targets(("room-0777x",), False, many)
    assert len(resolve_targets([machine.name for machine in many[:1000]], False, many)) == 1000


# Planning


@pytest.mark.parametrize("state", P)
def test_an_order_for_a_machine_that_cannot_be_reached_is_refused_unless_it_may_wait(
    state: PresenceState,
) -> None:
    machine = make_machine(state=state)
    now = jobs.plan(make_job(), machine, "j-1")
    waiting = jobs.plan(make_job(queue_for_s=3600.0), machine, "j-1")
    assert waiting.state is S.QUEUED
    if state in {P.ONLINE, P.SILENT, P.RESUMING}:
        assert now.state is S.QUEUED
        assert waiting.expires_at == now.expires_at
    else:
        assert now.state is S.REFUSED
        assert now.detail.startswith(f"it is {state.value}")
        assert waiting.expires_at == T0 + 3600.0


def test_times_of_a_plan() -> None:
    plain = jobs.plan(make_job(), make_machine(), "j-1")
    # It is not known yet whether a person will be logged on and get the default countdown.
    assert (plain.due_at, plain.expires_at) == (T0, T0 + 60 + 120)
    delayed = jobs.plan(make_job(delay_s=600.0, valid_for_s=30.0), make_machine(), "j-1")
    assert (delayed.due_at, delayed.expires_at) == (T0 + 600, T0 + 630)
    # A queue shorter than the job itself does not shorten it.
    short = jobs.plan(make_job(delay_s=600.0, queue_for_s=1.0), make_machine(state=P.OFFLINE), "j-1")
    assert short.expires_at == T0 + 720


@pytest.mark.parametrize("state", P)
def test_plans_of_waking(state: PresenceState) -> None:
    job = make_job(Action.WAKE)
    with_address = make_machine(state=state, mac_addresses=("02:00:00:00:00:01",))
    if state in {P.ONLINE, P.SILENT}:
        planned = jobs.plan(job, with_address, "j-1")
        assert (planned.state, planned.detail) == (S.DONE, "it is on already")
    else:
        assert jobs.plan(job, with_address, "j-1").state is S.QUEUED
        assert "(MAC) is not known" in jobs.plan(job, make_machine(state=state), "j-1").detail


# Orders


def test_an_order_counts_from_now() -> None:
    job = make_job(delay_s=100.0, message="m", requested_by="root", may_cancel=False, may_postpone=False)
    execution = make_execution(due_at=T0 + 100, expires_at=T0 + 220)
    order = jobs.order_for(job, execution, T0 + 30)
    assert (order.due_in_s, order.expires_in_s, order.has_delay) == (70.0, 190.0, True)
    assert (order.message, order.requested_by) == ("m", "root")
    assert (order.may_cancel, order.may_postpone) == (False, False)
    assert not jobs.order_for(make_job(), execution, T0).has_delay
    assert jobs.order_for(make_job(), make_execution(postponed_s=60.0), T0).has_delay


def test_an_order_after_its_due_time_gives_the_delay_again() -> None:
    job = make_job(delay_s=100.0, queue_for_s=3600.0)
    queued = make_execution(due_at=T0 + 100, expires_at=T0 + 3600)
    assert jobs.order_for(job, queued, T0 + 1000).due_in_s == 100.0
    # But never beyond its expiry, and not to a machine that had it before.
    assert jobs.order_for(job, queued, T0 + 3550).due_in_s == 49.0
    assert jobs.order_for(job, queued, T0 + 3599.5).due_in_s == 0.0
    assert jobs.order_for(job, make_execution(S.DELIVERED, due_at=T0 + 100), T0 + 1000).due_in_s == 0.0
    assert jobs.order_for(make_job(), queued, T0 + 1000).due_in_s == 0.0
    assert jobs.order_for(job, queued, T0 + 9999).expires_in_s == 0.0


# Claims


def make_claim(boot_id: str = "boot-1", **changes: Any) -> Claim:
    return Claim("j-1", boot_id, **changes)


@pytest.mark.parametrize("state", BEFORE_ACTING)
def test_a_claim_is_granted_once_and_again_only_in_the_same_boot(state: ExecutionState) -> None:
    grant, recorded = jobs.claim(make_execution(state), make_claim(), T0 + 1)
    assert grant.granted
    assert grant.valid_s == 10.0
    acting = recorded[-1]
    assert (acting.state, acting.boot_id_before) == (S.ACTING, "boot-1")
    again, nothing = jobs.claim(acting, make_claim(), T0 + 2)
    assert again.granted
    assert nothing == ()
    other, nothing = jobs.claim(acting, make_claim("boot-2"), T0 + 2)
    assert not other.granted
    assert nothing == ()


@pytest.mark.parametrize("state", BEFORE_ACTING)
def test_a_granted_claim_records_the_acceptance_it_reports(state: ExecutionState) -> None:
    execution = make_execution(state, detail="before", asked="ada (:0)", answered_by="", notices="wall")
    claim = make_claim(detail="ada (:0) agreed\n", asked="ada (:0)", answered_by="ada (:0)")
    _, recorded = jobs.claim(execution, claim, T0 + 1, hardware="02:00:00:00:00:01")
    if state is S.ACCEPTED:
        # The agent reported the acceptance before, while another action was running.
        [acting] = recorded
        assert (acting.answered_by, acting.detail) == ("", "")
        return
    accepted, acting = recorded
    assert (accepted.state, accepted.updated_at) == (S.ACCEPTED, T0 + 1)
    assert accepted.detail.startswith("ada (:0) agreed")
    assert accepted.detail.isprintable()
    assert (accepted.asked, accepted.answered_by, accepted.notices) == ("ada (:0)", "ada (:0)", "wall")
    assert accepted.hardware_before == accepted.boot_id_before == ""
    assert acting == msgspec.structs.replace(
        accepted,
        state=S.ACTING,
        boot_id_before="boot-1",
        hardware_before="02:00:00:00:00:01",
    )


def test_a_claim_ends_with_the_expiry() -> None:
    execution = make_execution(S.ACCEPTED, expires_at=T0 + 180)
    grant, [acting] = jobs.claim(execution, make_claim(), T0 + 179.5)
    assert (grant.granted, grant.valid_s) == (True, 0.5)
    grant, [expired] = jobs.claim(execution, make_claim(), T0 + 180)
    assert not grant.granted
    assert (expired.state, expired.detail) == (S.EXPIRED, "its time ran out")
    # It was granted, the answer got lost, and now it is too late: nothing was done.
    grant, [failed] = jobs.claim(acting, make_claim(), T0 + 180)
    assert not grant.granted
    assert failed.state is S.FAILED


def test_a_late_claim_records_the_acceptance_and_the_expiry() -> None:
    claim = make_claim(detail="no person is logged on")
    grant, recorded = jobs.claim(make_execution(S.DELIVERED, expires_at=T0 + 180), claim, T0 + 180)
    assert not grant.granted
    assert [(each.state, each.detail) for each in recorded] == [
        (S.ACCEPTED, "no person is logged on"),
        (S.EXPIRED, "its time ran out"),
    ]


@pytest.mark.parametrize("state", [state for state in S if state.is_final])
def test_a_claim_of_a_final_execution_is_refused(state: ExecutionState) -> None:
    grant, nothing = jobs.claim(make_execution(state, detail="why"), make_claim(), T0)
    assert (grant.granted, grant.reason, nothing) == (False, f"it is {state.value}: why", ())


# Postponing and cancelling


def test_a_postponement_moves_due_time_and_expiry() -> None:
    reply, later = jobs.postpone(make_job(), make_execution(S.PROMPTED), 300.0, T0 + 10, "postponed by ada")
    assert reply.granted
    assert later is not None
    assert (later.state, later.due_at, later.postponed_s) == (S.POSTPONED, T0 + 310, 300.0)
    assert later.expires_at == T0 + 310 + 60 + 120
    assert (reply.due_in_s, reply.expires_in_s) == (300.0, later.expires_at - (T0 + 10))
    assert later.detail == "postponed by ada"
    # A short one never brings the expiry forward.
    _, later = jobs.postpone(make_job(), make_execution(S.PROMPTED, expires_at=T0 + 9999), 1.0, T0, "")
    assert later is not None
    assert later.expires_at == T0 + 9999


def test_postponements_are_bounded_together() -> None:
    execution = make_execution(S.PROMPTED, postponed_s=8 * 3600.0 - 300.0)
    assert jobs.postpone(make_job(), execution, 300.0, T0, "")[0].granted
    reply, nothing = jobs.postpone(make_job(), execution, 300.1, T0, "")
    assert (reply.granted, reply.reason, nothing) == (False, "it can be postponed by 8 hours in total", None)


def test_a_postponement_may_be_refused_only_because_it_ends_too_late() -> None:
    job = make_job(delay_s=600.0, valid_for_s=120.0)
    # Nothing was postponed so far, but questions without an answer took hours.
    latest_at = T0 + 600 + 120 + 8 * 3600
    execution = make_execution(S.PROMPTED, expires_at=latest_at + 3600)
    assert jobs.postpone(job, execution, 300.0, latest_at - 300.0, "")[0].granted
    reply, nothing = jobs.postpone(job, execution, 300.0, latest_at - 299.0, "")
    assert (reply.granted, reply.reason, nothing) == (False, "it can be postponed by 8 hours in total", None)


def test_a_state_without_a_detail_has_an_empty_one() -> None:
    delivered = jobs.advance(make_execution(detail="before"), S.DELIVERED, T0)
    assert delivered is not None
    assert delivered.detail == ""


def test_an_agent_that_postpones_by_an_instant_comes_to_an_end() -> None:
    execution = make_execution(S.PROMPTED)
    for _ in range(480):
        reply, later = jobs.postpone(make_job(), execution, 1e-9, T0, "")
        assert reply.granted
        assert later is not None
        execution = msgspec.structs.replace(later, state=S.PROMPTED)
    assert not jobs.postpone(make_job(), execution, 1e-9, T0, "")[0].granted


def test_postponements_that_are_refused() -> None:
    reply, nothing = jobs.postpone(make_job(may_postpone=False), make_execution(S.PROMPTED), 60.0, T0, "")
    assert not reply.granted
    assert nothing is None
    for state in S:
        reply, later = jobs.postpone(make_job(), make_execution(state), 60.0, T0, "")
        assert reply.granted == (S.POSTPONED in LIFE_CYCLE[state]) == (later is not None)
    assert not jobs.postpone(make_job(), make_execution(S.PROMPTED), 60.0, T0 + 180, "")[0].granted
    assert jobs.postpone(make_job(), make_execution(S.PROMPTED), 60.0, T0 + 179.9, "")[0].granted


@pytest.mark.parametrize("state", S)
def test_only_executions_that_have_not_started_are_cancelled(state: ExecutionState) -> None:
    cancelled = jobs.cancel(make_execution(state), T0 + 1, cancelled_by="root")
    if state.is_final or state is S.ACTING:
        assert cancelled is None
    else:
        assert cancelled is not None
        assert (cancelled.state, cancelled.detail) == (S.CANCELLED, "cancelled by root")


def test_the_reason_of_a_refused_claim_fits_into_its_field() -> None:
    cancelled = jobs.cancel(make_execution(S.PROMPTED), T0, cancelled_by="x" * 10_000)
    assert cancelled is not None
    grant, _ = jobs.claim(cancelled, make_claim(), T0)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(grant), type=Grant) == grant


# Deadlines


@pytest.mark.parametrize("state", BEFORE_ACTING)
def test_executions_that_have_not_started_expire(state: ExecutionState) -> None:
    execution = make_execution(state)
    assert jobs.overdue(make_job(), execution, T0 + 179.999) is None
    expired = jobs.overdue(make_job(), execution, T0 + 180)
    assert expired is not None
    assert expired.state is S.EXPIRED
    assert expired.detail == ("it never reached the machine" if state is S.QUEUED else "its time ran out")


@pytest.mark.parametrize("action", Action)
def test_an_action_without_a_visible_effect_is_unknown(action: Action) -> None:
    job, execution = make_job(action), make_execution(S.ACTING, expires_at=T0 + 1)
    longest = jobs.ACTING_S_MAX[action]
    assert jobs.overdue(job, execution, T0 + longest - 0.001) is None
    late = jobs.overdue(job, execution, T0 + longest)
    assert late is not None
    assert late.state is (S.FAILED if action is Action.WAKE else S.UNKNOWN)


@pytest.mark.parametrize("state", [state for state in S if state.is_final])
def test_final_executions_are_never_overdue(state: ExecutionState) -> None:
    assert jobs.overdue(make_job(), make_execution(state), 1e12) is None


# Reports


def report(
    job: Job, before: ExecutionState, told: ExecutionState, power: str = "logind"
) -> ExecutionState | None:
    known = KnownExecution("j-1", told, "detail")
    after = jobs.receive_report(job, make_execution(before), known, T0 + 1, power=power)
    return after.state if after else None


@pytest.mark.parametrize("action", [Action.RESTART, Action.SHUT_DOWN, Action.WAKE])
@pytest.mark.parametrize("state", S)
def test_an_agent_is_not_believed_that_it_restarted(action: Action, state: ExecutionState) -> None:
    assert report(make_job(action), state, S.DONE) is None
    if S.DONE in LIFE_CYCLE[state]:
        assert report(make_job(action), state, S.DONE, power="dry-run") is S.DONE
        assert report(make_job(Action.LOG_OFF), state, S.DONE) is S.DONE


def test_a_cancellation_that_is_not_allowed_is_ignored() -> None:
    for state in S:
        assert report(make_job(may_cancel=False), state, S.CANCELLED) is None
    assert report(make_job(), S.PROMPTED, S.CANCELLED) is S.CANCELLED


@pytest.mark.parametrize("state", S)
def test_acting_and_postponing_are_not_the_agents_to_say(state: ExecutionState) -> None:
    assert report(make_job(), state, S.ACTING) is None
    assert report(make_job(), state, S.POSTPONED) is None


def test_reports_follow_the_life_cycle() -> None:
    for before in S:
        for told in S:
            after = report(make_job(Action.LOG_OFF), before, told)
            if before in {S.WAITING, S.PROMPTED} and told is before:
                assert after is before  # For another reason.
            else:
                assert after is None or after in LIFE_CYCLE[before]
    assert report(make_job(), S.QUEUED, S.QUEUED) is S.DELIVERED
    assert report(make_job(), S.PROMPTED, S.DELIVERED) is None
    assert report(make_job(), S.ACTING, S.FAILED) is S.FAILED


# Goodbyes


def gone(cause: Cause = Cause.SHUT_DOWN, execution_id: str = "j-1") -> Presence:
    return Presence(state=P.OFFLINE, since_at=T0, cause=cause, execution_id=execution_id, gone_at=T0)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("state", S)
def test_a_gone_machine_completes_the_shutdown_that_made_it_go(action: Action, state: ExecutionState) -> None:
    job, execution = make_job(action), make_execution(state)
    after = complete_when_gone(job, execution, gone(), T0)
    if action is Action.SHUT_DOWN and S.DONE in LIFE_CYCLE[state]:
        assert after is not None
        assert (after.state, after.detail) == (S.DONE, "it said goodbye and went")
    else:
        assert after is None
    # Nor does a machine that went for another reason.
    assert complete_when_gone(job, execution, gone(execution_id="j-2"), T0) is None
    assert complete_when_gone(job, execution, gone(execution_id=""), T0) is None
    assert complete_when_gone(job, execution, gone(Cause.AGENT_STOPPED), T0) is None


# Joins

NOT_TOLD = None
RUNNING = KnownExecution("j-1", S.ACTING, "", "boot-1", is_running=True)
JOURNALLED = KnownExecution("j-1", S.ACTING, "", "boot-1")
FAILED = KnownExecution("j-1", S.FAILED, "polkit says no", "boot-1")
UNKNOWN = KnownExecution("j-1", S.UNKNOWN, "the answer got lost", "boot-1")
DONE = KnownExecution("j-1", S.DONE, "", "boot-1")


@pytest.mark.parametrize("before", [S.ACTING, S.UNKNOWN])
@pytest.mark.parametrize(
    ("action", "boot_id", "known", "after"),
    [
        # The machine is in another boot: it went. Not by us, when the journal does not say that it began.
        (Action.RESTART, "boot-2", NOT_TOLD, S.FAILED),
        (Action.RESTART, "boot-2", JOURNALLED, S.DONE),
        (Action.RESTART, "boot-2", UNKNOWN, S.DONE),
        (Action.RESTART, "boot-2", DONE, S.DONE),
        (Action.SHUT_DOWN, "boot-2", NOT_TOLD, S.FAILED),
        (Action.SHUT_DOWN, "boot-2", JOURNALLED, S.DONE),
        # ... but not because of us, when it had refused to.
        (Action.RESTART, "boot-2", FAILED, S.FAILED),
        (Action.SHUT_DOWN, "boot-2", FAILED, S.FAILED),
        # A log off is not proven by a boot.
        (Action.LOG_OFF, "boot-2", NOT_TOLD, S.FAILED),
        (Action.LOG_OFF, "boot-2", JOURNALLED, S.UNKNOWN),
        # The same boot.
        (Action.RESTART, "boot-1", NOT_TOLD, S.FAILED),
        (Action.RESTART, "boot-1", JOURNALLED, S.UNKNOWN),
        (Action.RESTART, "boot-1", FAILED, S.FAILED),
        (Action.RESTART, "boot-1", UNKNOWN, S.UNKNOWN),
        (Action.RESTART, "boot-1", DONE, None),
        (Action.SHUT_DOWN, "boot-1", JOURNALLED, S.UNKNOWN),
        (Action.LOG_OFF, "boot-1", NOT_TOLD, S.FAILED),
        (Action.LOG_OFF, "boot-1", JOURNALLED, S.UNKNOWN),
        (Action.LOG_OFF, "boot-1", FAILED, S.FAILED),
        (Action.LOG_OFF, "boot-1", DONE, S.DONE),
        # Still at it.
        (Action.RESTART, "boot-1", RUNNING, None),
        (Action.LOG_OFF, "boot-1", RUNNING, None),
        (Action.SHUT_DOWN, "", JOURNALLED, S.UNKNOWN),
        # A machine that cannot tell its boots proves nothing.
        (Action.RESTART, "", JOURNALLED, S.UNKNOWN),
        (Action.RESTART, "", NOT_TOLD, S.FAILED),
    ],
)
def test_started_executions_are_reconciled_on_join(
    before: ExecutionState,
    action: Action,
    boot_id: str,
    known: KnownExecution | None,
    after: ExecutionState | None,
) -> None:
    machine = make_machine(boot_id=boot_id, power="logind")
    settled = reconcile_on_join(make_job(action), make_execution(before), machine, known, T0 + 1)
    # What is unknown already stays as it is.
    expected = None if after is before else after
    assert (settled.state if settled else None) is expected


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ("boot-1", "boot-1", ", and the machine was not restarted since"),
        (
            "boot-1",
            "",
            "; whether the machine was restarted cannot be determined, because it has no boot id",
        ),
        (
            "",
            "boot-1",
            "; whether the machine was restarted cannot be determined, because it has no boot id",
        ),
        ("", "", "; whether the machine was restarted cannot be determined, because it has no boot id"),
    ],
)
def test_the_detail_says_not_restarted_only_if_the_boots_are_known(before: str, now: str, words: str) -> None:
    execution = make_execution(S.ACTING, boot_id_before=before)
    settled = reconcile_on_join(make_job(), execution, make_machine(boot_id=now), JOURNALLED, T0 + 1)
    assert settled is not None
    assert (settled.state, settled.detail) == (
        S.UNKNOWN,
        f"the agent stopped while it acted{words}; not repeated",
    )


@pytest.mark.parametrize("known", [NOT_TOLD, JOURNALLED, FAILED, UNKNOWN, DONE])
@pytest.mark.parametrize("boot_id", ["boot-1", "boot-2", ""])
@pytest.mark.parametrize("action", [Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN])
def test_another_machine_with_the_same_identity_proves_nothing(
    action: Action, boot_id: str, known: KnownExecution | None
) -> None:
    execution = make_execution(S.ACTING, hardware_before="02:00:00:00:00:01")
    other = make_machine(boot_id=boot_id, mac_addresses=("02:00:00:00:00:02",))
    claimed = msgspec.structs.replace(
        make_machine(boot_id=boot_id),
        claimants=(Claimant(name="a", host_name="a", address="a:1", boot_id="", since_at=T0),),
    )
    for machine in (other, claimed):
        settled = reconcile_on_join(make_job(action), execution, machine, known, T0 + 1)
        assert settled is not None
        assert settled.state is S.UNKNOWN
        # Nor later.
        assert reconcile_on_join(make_job(action), settled, machine, known, T0 + 2) is None
        # An execution that this agent process is working on continues.
        assert reconcile_on_join(make_job(action), execution, machine, RUNNING, T0 + 1) is None


def test_a_grant_records_the_boot_and_the_hardware() -> None:
    _, [acting] = jobs.claim(make_execution(S.ACCEPTED), make_claim(), T0, hardware="02:00:00:00:00:01")
    assert (acting.boot_id_before, acting.hardware_before) == ("boot-1", "02:00:00:00:00:01")


@pytest.mark.parametrize("state", S)
def test_a_cloned_identity_refuses_executions_that_have_not_started(state: ExecutionState) -> None:
    refused = jobs.refuse_clone(make_execution(state), T0 + 1, "its identity is cloned")
    if state.is_final or state is S.ACTING:
        assert refused is None
    else:
        assert refused is not None
        assert (refused.state, refused.detail) == (S.REFUSED, "its identity is cloned")


@pytest.mark.parametrize("state", BEFORE_ACTING)
@pytest.mark.parametrize("action", [Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN])
def test_executions_that_have_not_started_wait_or_expire_on_join(
    state: ExecutionState, action: Action
) -> None:
    execution, job, machine = make_execution(state), make_job(action), make_machine(boot_id="boot-2")
    assert reconcile_on_join(job, execution, machine, None, T0 + 179) is None
    expired = reconcile_on_join(job, execution, machine, None, T0 + 180)
    assert expired is not None
    assert expired.state is S.EXPIRED
    running = KnownExecution("j-1", S.ACCEPTED, "no person is logged on", "boot-2", is_running=True)
    told = reconcile_on_join(job, execution, machine, running, T0 + 1)
    assert (told is None) if state is S.ACCEPTED else (told is not None and told.state is S.ACCEPTED)
    cancelled = KnownExecution("j-1", S.CANCELLED, "cancelled by ada")
    told = reconcile_on_join(job, execution, machine, cancelled, T0 + 1)
    assert told is not None
    assert told.state is S.CANCELLED
    # It says that it acts, and never had leave to: it is sent again, and will be refused or expire.
    assert reconcile_on_join(job, execution, machine, JOURNALLED, T0 + 1) is None


@pytest.mark.parametrize("state", S)
def test_a_join_completes_a_wake_up(state: ExecutionState) -> None:
    woken = reconcile_on_join(make_job(Action.WAKE), make_execution(state), make_machine(), None, T0)
    if S.DONE in LIFE_CYCLE[state]:
        assert woken is not None
        assert woken.state is S.DONE
    else:
        assert woken is None


@pytest.mark.parametrize("before", S)
@pytest.mark.parametrize("after", S)
def test_advancing_obeys_the_life_cycle(before: ExecutionState, after: ExecutionState) -> None:
    execution = make_execution(before)
    moved = jobs.advance(execution, after, T0 + 5, "why")
    if after in LIFE_CYCLE[before]:
        assert moved == msgspec.structs.replace(execution, state=after, updated_at=T0 + 5, detail="why")
    else:
        assert moved is None


# Everything in any order


class AnyOrder(RuleBasedStateMachine):
    """One execution; reports, claims, joins and cancellations come as they like, and time goes by."""

    @initialize(
        action=st.sampled_from([Action.LOG_OFF, Action.RESTART, Action.SHUT_DOWN]),
        delay_s=st.none() | st.floats(0, 300),
        may_cancel=st.booleans(),
        may_postpone=st.booleans(),
        queue_for_s=st.none() | st.floats(0, 3600),
        unasked=st.sampled_from(list(Unasked)),
        presence=st.sampled_from(list(P)),
    )
    def begin(self, presence: PresenceState, **values: Any) -> None:
        self.now = T0
        self.boot = 1
        self.granted_in: set[str] = set()
        self.job = make_job(values.pop("action"), **values)
        self.execution = jobs.plan(self.job, make_machine(state=presence), "j-1")

    def put(self, after: Execution | None) -> None:
        if after is None:
            return
        is_other_reason = after.state is self.execution.state and after.state in {S.WAITING, S.PROMPTED}
        assert is_other_reason or after.state in LIFE_CYCLE[self.execution.state]
        assert after.rounds <= jobs.ROUNDS_MAX
        assert after.updated_at == self.now
        assert after.expires_at >= self.execution.expires_at
        self.execution = after

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 10.0, 60.0, 179.0, 1000.0, 8 * 3600.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def sweep(self) -> None:
        self.put(jobs.overdue(self.job, self.execution, self.now))
        assert (
            self.execution.state.is_final
            or self.execution.state is S.ACTING
            or self.now < self.execution.expires_at
        )

    @rule(
        told=st.sampled_from(list(S)),
        power=st.sampled_from(["logind", "dry-run"]),
        detail=st.sampled_from(["", "no display", "logind does not answer"]),
        asked=st.sampled_from(["", "ada (:0)"]),
        answered_by=st.sampled_from(["", "ada (:0)"]),
    )
    def report(self, told: ExecutionState, power: str, detail: str, asked: str, answered_by: str) -> None:
        before = self.execution
        known = KnownExecution("j-1", told, detail, asked=asked, answered_by=answered_by)
        self.put(jobs.receive_report(self.job, self.execution, known, self.now, power=power))
        assert self.execution.state is not S.ACTING or before.state is S.ACTING

    @rule(other_boot=st.booleans())
    def claim(self, other_boot: bool) -> None:
        boot_id = f"boot-{self.boot + other_boot}"
        before = self.execution
        grant, recorded = jobs.claim(before, Claim("j-1", boot_id), self.now)
        for after in recorded:
            self.put(after)
        if grant.granted:
            assert not before.state.is_final
            assert self.now < before.expires_at
            assert self.now + grant.valid_s <= before.expires_at
            assert self.execution.state is S.ACTING
            self.granted_in.add(boot_id)
            assert len(self.granted_in) == 1

    @rule(seconds=st.sampled_from([0.0, 1.0, 300.0, 3600.0, 9 * 3600.0]))
    def postpone(self, seconds: float) -> None:
        reply, after = jobs.postpone(self.job, self.execution, seconds, self.now, "")
        self.put(after)
        assert reply.granted == (after is not None)
        assert not reply.granted or self.job.may_postpone
        assert self.execution.postponed_s <= jobs.POSTPONED_S_MAX

    @rule()
    def cancel(self) -> None:
        begun = self.execution.state.has_started
        self.put(jobs.cancel(self.execution, self.now, cancelled_by="root"))
        assert begun == self.execution.state.has_started

    @rule(is_its=st.booleans())
    def goodbye(self, is_its: bool) -> None:
        before = self.execution
        seen = gone(execution_id="j-1" if is_its else "")
        self.put(complete_when_gone(self.job, self.execution, seen, self.now))
        assert self.execution.state is not S.DONE or before.state is S.DONE or is_its

    @rule(told=st.none() | st.sampled_from(list(S)), is_running=st.booleans(), new_boot=st.booleans())
    def join(self, told: ExecutionState | None, is_running: bool, new_boot: bool) -> None:
        self.boot += new_boot
        machine = make_machine(boot_id=f"boot-{self.boot}", power="logind")
        known = None if told is None else KnownExecution("j-1", told, "", "", is_running)
        self.put(reconcile_on_join(self.job, self.execution, machine, known, self.now))

    @rule()
    def deliver(self) -> None:
        order = jobs.order_for(self.job, self.execution, self.now)
        assert order.due_in_s >= 0
        assert order.expires_in_s >= 0
        assert 0 <= order.countdown_s <= jobs.DEFAULT_COUNTDOWN_S
        assert not order.is_postponed or (order.due_in_s > 0 and self.execution.postponed_s > 0)

    @invariant()
    def a_cancellation_by_the_person_was_allowed(self) -> None:
        if hasattr(self, "execution") and self.execution.state is S.CANCELLED and not self.job.may_cancel:
            assert self.execution.detail == "cancelled by root"


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestAnyOrder = AnyOrder.TestCase
