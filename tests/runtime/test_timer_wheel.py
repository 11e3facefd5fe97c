"""The timer wheel, on a clock and a loop of the test's own."""

import asyncio

import pytest

from landline.runtime.timer_wheel import TICK_S, TimerWheel


class FakeLoop:
    """Stands still; :meth:`advance` moves its clock and calls what is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.handles: list[FakeHandle] = []
        self.troubles: list[dict] = []

    def call_later(self, delay, callback):
        handle = FakeHandle(self.now + delay, callback)
        self.handles.append(handle)
        return handle

    def call_exception_handler(self, context) -> None:
        self.troubles.append(context)

    @property
    def armed(self) -> list[float]:
        return sorted(handle.due for handle in self.handles if not handle.cancelled)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [handle for handle in self.handles if not handle.cancelled and handle.due <= end]:
            handle = min(due, key=lambda handle: handle.due)
            self.handles.remove(handle)
            self.now = max(self.now, handle.due)
            handle.callback()
        self.now = end


class FakeHandle:
    def __init__(self, due, callback) -> None:
        self.due = due
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Sleeper:
    """Notes when it is woken, and asks to be woken again as told."""

    def __init__(self, wheel, again=()) -> None:
        self.timer_tick = None
        self.woken = []
        self.wheel = wheel
        self.again = list(again)

    def handle_timer(self, now) -> None:
        self.woken.append(now)
        if self.again:
            self.wheel.schedule(self, now + self.again.pop(0))


@pytest.fixture
def loop():
    return FakeLoop()


@pytest.fixture
def wheel(loop):
    return TimerWheel(loop, lambda: loop.now)


def test_it_wakes_in_time_and_at_most_one_tick_late(loop, wheel):
    sleepers = []
    for hundredths in range(1, 200):
        sleeper = Sleeper(wheel)
        sleepers.append((loop.now + hundredths / 100, sleeper))
        wheel.schedule(sleeper, loop.now + hundredths / 100)
    loop.advance(3)
    for due, sleeper in sleepers:
        [woken] = sleeper.woken
        assert due <= woken <= due + TICK_S + 1e-9
        assert sleeper.timer_tick is None


def test_one_handle_of_the_loop_serves_all(loop, wheel):
    for tenths in range(50, 0, -1):
        wheel.schedule(Sleeper(wheel), loop.now + tenths / 10)
        assert len(loop.armed) == 1
    loop.advance(2)
    assert len(loop.armed) == 1
    loop.advance(10)
    assert loop.armed == []


def test_an_earlier_wish_wins_and_a_later_one_changes_nothing(loop, wheel):
    sleeper = Sleeper(wheel)
    wheel.schedule(sleeper, loop.now + 5)
    wheel.schedule(sleeper, loop.now + 1)
    wheel.schedule(sleeper, loop.now + 3)
    loop.advance(10)
    # Once only: the entry of the first wish is stale.
    assert len(sleeper.woken) == 1
    assert sleeper.woken[0] - 1000 == pytest.approx(1, abs=2 * TICK_S)


def test_a_stale_entry_does_not_wake_what_asked_again(loop, wheel):
    sleeper = Sleeper(wheel, again=[7])
    wheel.schedule(sleeper, loop.now + 5)
    wheel.schedule(sleeper, loop.now + 1)
    loop.advance(20)
    assert [woken - 1000 for woken in sleeper.woken] == pytest.approx([1, 8], abs=3 * TICK_S)


def test_waking_may_ask_again_for_the_past_without_looping_forever(loop, wheel):
    sleeper = Sleeper(wheel, again=[0, -10, 0.2])
    wheel.schedule(sleeper, loop.now - 5)
    loop.advance(5)
    assert len(sleeper.woken) == 4


def test_a_loop_that_was_stopped_wakes_everything_once_in_order(loop, wheel):
    woken = []

    class Named(Sleeper):
        def handle_timer(self, now) -> None:
            super().handle_timer(now)
            woken.append(self)

    sleepers = [Named(wheel) for _ in range(5)]
    for position, sleeper in enumerate(sleepers):
        wheel.schedule(sleeper, loop.now + 1 + position)
    loop.now += 100
    loop.advance(0)
    assert woken == sleepers
    assert loop.armed == []


def test_one_that_fails_is_reported_and_the_others_are_woken(loop, wheel):
    class Broken(Sleeper):
        def handle_timer(self, now) -> None:
            raise ValueError("broken")

    broken, sound = Broken(wheel), Sleeper(wheel)
    due = loop.now + 1
    wheel.schedule(broken, due)
    wheel.schedule(sound, due)
    loop.advance(2)
    assert len(sound.woken) == 1
    [trouble] = loop.troubles
    assert isinstance(trouble["exception"], ValueError)
    assert trouble["line"] is broken


def test_a_closed_wheel_wakes_nobody(loop, wheel):
    sleeper = Sleeper(wheel)
    wheel.schedule(sleeper, loop.now + 1)
    wheel.close()
    wheel.close()
    loop.advance(5)
    assert sleeper.woken == []
    assert loop.armed == []


async def test_on_a_real_loop_nothing_is_woken_early(until):
    wheel = TimerWheel(asyncio.get_running_loop())
    sleeper = Sleeper(wheel, again=[0.01, 0.06])
    due = wheel.time() + 0.02
    wheel.schedule(sleeper, due)
    await until(lambda: len(sleeper.woken) == 3)
    first, second, third = sleeper.woken
    assert first >= due
    assert second >= first + 0.01
    assert third >= second + 0.06
    wheel.close()
