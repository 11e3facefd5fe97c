"""A machine and the process on it: clocks that differ, a disk that keeps what was synced, and ends of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import ceil
from typing import TYPE_CHECKING, Any

from tests.simulation.loop import VirtualLoop
from tests.simulation.world import SECOND, World

if TYPE_CHECKING:
    from tests.simulation.network import Network

EPOCH_S = 1_800_000_000.0
TURN_S = 20e-6
DRIFT_MAX = 1e-4


class Node:
    """One machine with at most one process. ``main`` makes what the process runs, each time it starts."""

    def __init__(self, world: World, network: Network, name: str, main: Callable[[Node], Coroutine]) -> None:
        self.world = world
        self.network = network
        self.name = name
        self.disk: dict[str, Any] = {}
        self.rng = world.rng(f"node {name}")
        self.boots = 0
        self.loop: VirtualLoop | None = None
        self.is_powered = False
        self.write_crash: str | None = None
        """Where the next write to disk kills the process: ``before``, ``torn`` or ``after`` it."""
        self.paused_until_ns = 0
        self.disk_full_until_ns = 0
        self.disturbed_at_ns = -(10**18)
        """When something last kept it from running or talking as it should."""
        self.held_up_at_ns = -(10**18)
        """When it last stood still."""
        self.up_since_ns = 0
        self.after_step: Callable[[Node], None] = lambda node: None
        self.on_death: Callable[[Node], None] = lambda node: None
        self.on_end: Callable[[Node, BaseException | None], None] = lambda node, error: None
        self._main = main
        self._rate = 1.0 + self.rng.uniform(-DRIFT_MAX, DRIFT_MAX)
        self._offset_s = self.rng.uniform(0, 1e6)
        self._suspended_ns = 0
        self._asleep_since_ns: int | None = None
        self._wall_offset_s = 0.0
        self._armed_ns: int | None = None
        self._buried: list[VirtualLoop] = []

    # Clocks.

    def monotonic(self) -> float:
        """Return the monotonic time, which stands still while the machine is suspended."""
        return self._offset_s + (self.world.now_ns - self._suspended_ns) * self._rate / SECOND

    def boot_clock(self) -> float:
        """Return the time since boot, which continues while the machine is suspended."""
        return self._offset_s + self.world.now_ns * self._rate / SECOND

    def wall(self) -> float:
        """Return the wall-clock time of this machine, which may be wrong."""
        return EPOCH_S + self.world.now_ns * self._rate / SECOND + self._wall_offset_s

    def jump_wall(self, seconds: float) -> None:
        self._wall_offset_s += seconds

    # Life.

    @property
    def is_running(self) -> bool:
        return self.loop is not None

    @property
    def boot_id(self) -> str:
        return f"{self.name}-boot-{self.boots}"

    def power_on(self) -> None:
        if not self.is_powered:
            self.is_powered = True
            self.boots += 1
            self.network.powered_on(self)
            self.start()

    def start(self) -> None:
        """Start the process, unless it runs."""
        if self.loop is not None or not self.is_powered:
            return
        self.world.note(f"{self.name} starts")
        self.loop = VirtualLoop(self)
        self.up_since_ns = self.world.now_ns
        self.write_crash = None
        loop = self.loop
        task = loop.create_task(self._main(self))
        task.add_done_callback(lambda _: self._ended(loop, task))

    def kill(self) -> None:
        """End the process at once. The system closes its sockets."""
        if self.loop is not None:
            self.world.note(f"{self.name} is killed")
            self._drop()
            self.network.process_died(self)

    def power_off(self) -> None:
        """Cut the power of the machine: no peer is notified."""
        if self.is_powered:
            self.world.note(f"{self.name} loses power")
            self.is_powered = False
            self._drop()
            self.network.power_lost(self)

    def pause(self, seconds: float, *, is_suspended: bool = False) -> None:
        """Pause the process. When suspended, its monotonic clock stands still too. Only one pause at a time."""
        if self.world.now_ns < self.paused_until_ns:
            return
        self.world.note(f"{self.name} {'sleeps' if is_suspended else 'stands still'} for {seconds:.3f} s")
        until_ns = self.world.now_ns + int(seconds * SECOND)
        self.paused_until_ns = until_ns
        self.disturb(seconds)
        self._asleep_since_ns = self.world.now_ns if is_suspended else None
        self.world.at(until_ns, lambda: self.paused_until_ns == until_ns and self.go_on())

    def disturb(self, seconds: float = 0.0) -> None:
        self.disturbed_at_ns = max(self.disturbed_at_ns, self.world.now_ns + int(seconds * SECOND))

    def bury(self) -> None:
        """Release the node after the end of the simulation."""
        if self.loop is not None:
            self._drop()
        for loop in self._buried:
            loop.bury()

    def write(self, change: Callable[[], None], torn: Callable[[], None] | None = None) -> None:
        """Change the disk, or crash in the attempt."""
        if self.loop is None:
            return
        how, self.write_crash = self.write_crash, None
        if how == "torn" and torn is not None:
            torn()
        elif how != "before":
            change()
        if how is not None:
            self.world.note(f"{self.name} dies as it writes ({how})")
            self.kill()

    def _drop(self) -> None:
        loop, self.loop = self.loop, None
        self._armed_ns = None
        self.disturb()
        if loop is not None:
            loop.kill()
            self._buried.append(loop)
            self.on_death(self)

    def _ended(self, loop: VirtualLoop, task: Any) -> None:
        if self.loop is not loop:
            return
        error = None if task.cancelled() else task.exception()
        self.world.note(f"{self.name} ended: {error!r}")
        self._drop()
        self.network.process_died(self)
        self.on_end(self, error)

    def go_on(self) -> None:
        """End a pause, if there is one."""
        if self._asleep_since_ns is not None:
            self._suspended_ns += self.world.now_ns - self._asleep_since_ns
            self._asleep_since_ns = None
        self.paused_until_ns = self.world.now_ns
        self.held_up_at_ns = self.world.now_ns
        self.disturb()
        self.arm()

    # Running.

    def arm(self) -> None:
        """Make sure that the loop runs when it wants to."""
        loop = self.loop
        due_s = loop.next_due() if loop is not None else None
        if due_s is None:
            return
        wait_ns = ceil((due_s - self.monotonic()) / self._rate * SECOND)
        due_ns = self.world.now_ns + max(wait_ns, int(TURN_S * SECOND))
        due_ns = max(due_ns, self.paused_until_ns)
        if self._armed_ns is None or due_ns < self._armed_ns:
            self._armed_ns = due_ns
            self.world.at(due_ns, lambda: self._turn(loop, due_ns))

    def _turn(self, loop: VirtualLoop, due_ns: int) -> None:
        if self.loop is not loop or self._armed_ns != due_ns:
            return
        self._armed_ns = None
        if self._asleep_since_ns is None and self.world.now_ns >= self.paused_until_ns:
            loop.run_once()
            if self.loop is loop:
                self.after_step(self)
        self.arm()
