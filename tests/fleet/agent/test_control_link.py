"""Requests to the control server: when they wait, are repeated, or fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import landline
from landline import LineState, RequestError
from landline.fleet.agent.control_link import ControlLink
from landline.fleet.messages import NOT_JOINED, STORAGE_FAILED, Goodbye
from landline.fleet.model import Cause

BODY = Goodbye(Cause.AGENT_STOPPED)


class FakeLine:
    """Answers requests with the given results, one after the other."""

    state = LineState.ONLINE

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.names: list[str] = []

    async def request(self, name: str, body: Any, **options: Any) -> Any:
        self.names.append(name)
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def link_over(*results: Any) -> tuple[ControlLink, FakeLine]:
    link, line = ControlLink(retry_s=0.0), FakeLine(*results)
    link.line = line  # type: ignore[assignment]
    link.joined.set()
    return link, line


async def test_a_request_waits_for_the_join() -> None:
    link, line = link_over(True)
    link.joined.clear()
    asking = asyncio.ensure_future(link.request("report", BODY, bool))
    await asyncio.sleep(0)
    assert line.names == []
    link.joined.set()
    assert await asking is True


@pytest.mark.parametrize("code", [NOT_JOINED, STORAGE_FAILED])
async def test_a_request_is_repeated_while_it_cannot_be_recorded(code: str) -> None:
    link, line = link_over(RequestError(code, "later"), RequestError(code, "later"), True)
    assert await link.request("report", BODY, bool) is True
    assert line.names == ["report"] * 3


async def test_a_refused_request_fails() -> None:
    link, line = link_over(RequestError("not_yours", "it belongs to another machine"))
    with pytest.raises(RequestError, match="another machine"):
        await link.request("report", BODY, bool)
    assert line.names == ["report"]


async def test_a_lost_request_is_repeated_only_if_it_is_wanted_until_answered() -> None:
    lost = landline.RequestLost("claim", "the session ended")
    link, line = link_over(lost, lost, "granted")
    with pytest.raises(landline.RequestLost):
        await link.request("claim", BODY, str)
    assert await link.request_until_answered("claim", BODY, str) == "granted"
    assert line.names == ["claim"] * 3


async def test_a_link_is_connected_while_it_has_joined_and_its_line_has_a_connection() -> None:
    link, line = link_over()
    assert link.is_connected
    line.state = LineState.RECONNECTING
    assert not link.is_connected
    line.state = LineState.ONLINE
    link.joined.clear()
    assert not link.is_connected
    assert not ControlLink(retry_s=0.0).is_connected
