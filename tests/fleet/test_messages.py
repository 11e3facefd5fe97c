"""What agent and control server say to each other, and what they do not take from each other."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from landline.fleet.messages import (
    Claim,
    FactsChecked,
    Goodbye,
    Grant,
    Identifier,
    Join,
    Joined,
    KnownExecution,
    Name,
    Order,
    Postpone,
    Postponed,
    Report,
    Withdraw,
)
from landline.fleet.model import Cause, ExecutionState, Facts


def take(kind: Any, body: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=kind)


@pytest.mark.parametrize("name", ["a", "lab-1", "LAB_1.example", "0", "x" * 64])
def test_names_that_are_taken(name: str) -> None:
    assert take(Name, name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "#",
        "*",
        "lab-*",
        "../x",
        "a/b",
        "-a",
        ".a",
        "_a",
        "a b",
        "a\n",
        "a\x00",
        "a\x1b[0m",
        "<i>",
        "ä",
        "x" * 65,
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        take(Name, name)
    with pytest.raises(msgspec.ValidationError):
        take(FactsChecked, {"name": name})


@pytest.mark.parametrize("identifier", ["", "a\n", "a b", "../x", "#", "x" * 81, "a;b"])
def test_identifiers_that_are_refused(identifier: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        take(Identifier, identifier)
    with pytest.raises(msgspec.ValidationError):
        take(Claim, {"execution_id": identifier, "boot_id": ""})


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Postpone, {"execution_id": "x", "postpone_s": -1.0}),
        (Postpone, {"execution_id": "x", "postpone_s": float("nan")}),
        (Postpone, {"execution_id": "x", "postpone_s": float("inf")}),
        (Postpone, {"execution_id": "x", "postpone_s": 60.0, "detail": "x" * 501}),
        (Claim, {"execution_id": "x", "boot_id": "x" * 501}),
        (Claim, {"execution_id": "x"}),
        (Goodbye, {"cause": "because"}),
        (Goodbye, {"cause": "shut down", "detail": "x" * 501}),
        (Goodbye, {"cause": "shut down", "execution_id": "x" * 81}),
        (Report, {"execution": {"id": "x", "state": "finished"}}),
        (Report, {"execution": {"id": "x", "state": "done", "detail": "x" * 501}}),
        *[
            (Report, {"execution": {"id": "x", "state": "waiting", field: "x" * 501}})
            for field in ("asked", "answered_by", "notices")
        ],
        (Postpone, {"execution_id": "x", "postpone_s": 60.0, "answered_by": "x" * 501}),
        (Join, {"facts": {}}),
        (Join, {"facts": {"name": "a"}, "executions": [{"id": "x", "state": "done"}] * 10_001}),
        (FactsChecked, {"name": "a", "mac_addresses": ["02-00-00-00-00-01"]}),
        (FactsChecked, {"name": "a", "mac_addresses": ["02:00:00:00:00:01\n"]}),
        (FactsChecked, {"name": "a", "mac_addresses": ["02:00:00:00:00:01"] * 33}),
    ],
)
def test_bodies_that_are_refused(kind: Any, body: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        take(kind, body)


def test_bodies_come_back_as_they_were_and_unknown_fields_are_passed_over() -> None:
    known = KnownExecution(
        "j-1", ExecutionState.ACTING, "d", "boot", is_running=True, asked="a", answered_by="b", notices="c"
    )
    for body in (
        Join(Facts(name="lab-1"), (known,)),
        Report(known),
        Claim("j-1", "boot"),
        Claim("j-1", "boot", "d", asked="a", answered_by="b", notices="c"),
        Postpone("j-1", 60.0, "later"),
        Goodbye(Cause.RESTARTING, "", "j-1"),
    ):
        assert take(type(body), body) == body
        assert take(type(body), msgspec.to_builtins(body) | {"of a later version": 1}) == body


ORDER = {
    "execution_id": "j-1",
    "action": "restart",
    "requested_by": "root",
    "message": "Updates",
    "due_in_s": 0.0,
    "has_delay": False,
    "expires_in_s": 10.0,
    "may_cancel": True,
    "may_postpone": True,
}


@pytest.mark.parametrize(
    ("kind", "body", "changes"),
    [
        (Order, ORDER, {"due_in_s": math.nan}),
        (Order, ORDER, {"due_in_s": math.inf}),
        (Order, ORDER, {"due_in_s": -1.0}),
        (Order, ORDER, {"expires_in_s": 1e308}),
        (Order, ORDER, {"message": "x" * 501}),
        (Order, ORDER, {"requested_by": "x" * 501}),
        (Order, ORDER, {"execution_id": "../x"}),
        (Order, ORDER, {"countdown_s": math.nan}),
        (Order, ORDER, {"countdown_s": -1.0}),
        (Order, ORDER, {"unasked": "perhaps"}),
        (Withdraw, {"execution_id": "j-1", "reason": ""}, {"execution_id": "\n"}),
        (Joined, {"name": "lab-1"}, {"name": "\x1b[31m"}),
        (Grant, {"granted": True}, {"valid_s": math.inf}),
        (Postponed, {"granted": True}, {"due_in_s": math.nan}),
    ],
)
def test_orders_that_an_agent_refuses(kind: Any, body: Any, changes: Any) -> None:
    """A time that is no number ended the agent: it is on the machine to stay."""
    take(kind, body)
    with pytest.raises(msgspec.ValidationError):
        take(kind, body | changes)
