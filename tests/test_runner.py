"""``landline.run``: uvloop where there is one."""

import asyncio
import sys

import pytest
import uvloop

import landline


async def loop_and(result):
    return asyncio.get_running_loop(), result


def test_it_runs_on_uvloop_and_returns_the_result():
    loop, result = landline.run(loop_and(7))
    assert isinstance(loop, uvloop.Loop)
    assert loop.is_closed()
    assert result == 7


def test_it_runs_on_the_standard_loop_where_there_is_no_uvloop(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop, result = landline.run(loop_and(7))
    assert not isinstance(loop, uvloop.Loop)
    assert result == 7


def test_it_raises_what_the_program_raises():
    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        landline.run(fail())


@pytest.mark.parametrize("debug", [True, False])
def test_debug_mode_is_passed_on(debug):
    loop, _ = landline.run(loop_and(None), debug=debug)
    assert loop.get_debug() is debug
