"""Watches for the shutdown of the system and for its cancellation, and reports both to the control server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, NamedTuple, Protocol

from landline import guarded_logger
from landline.fleet.agent.power import PowerBackend, PowerError, SystemShutdown
from landline.fleet.agent.timing import AgentTiming
from landline.fleet.messages import Goodbye
from landline.fleet.model import Action, Cause

logger: Final = guarded_logger("landline.agent")

_CAUSES: Final[dict[Action | None, Cause]] = {
    Action.RESTART: Cause.RESTARTING,
    Action.SHUT_DOWN: Cause.SHUT_DOWN,
    None: Cause.GOING_DOWN,
}


class RunningOrder(NamedTuple):
    """An order whose action has begun."""

    execution_id: str
    action: Action


class ShutdownState:
    """Whether the system has announced a shutdown: then no action may begin until it is cancelled."""

    def __init__(self) -> None:
        self._announced = asyncio.Event()
        self._not_announced = asyncio.Event()
        self._not_announced.set()

    @property
    def is_announced(self) -> bool:
        """Whether the system is shutting down."""
        return self._announced.is_set()

    def announce(self) -> None:
        """The system announced a shutdown."""
        self._not_announced.clear()
        self._announced.set()

    def cancel(self) -> None:
        """The shutdown was cancelled."""
        self._announced.clear()
        self._not_announced.set()

    async def wait_announced(self) -> None:
        """Return when a shutdown is announced."""
        await self._announced.wait()

    async def wait_not_announced(self) -> None:
        """Return when no shutdown is announced, or the announced one was cancelled."""
        await self._not_announced.wait()


class ShutdownHost(Protocol):
    """What the watcher needs from the agent."""

    @property
    def is_connected(self) -> bool:
        """Whether the agent has joined and its line has a connection."""
        ...

    @property
    def acting(self) -> RunningOrder | None:
        """The order whose action has begun."""
        ...

    @property
    def accepted(self) -> RunningOrder | None:
        """The restart or shutdown that the system has accepted."""
        ...

    async def report_goodbye(self, goodbye: Goodbye) -> None:
        """Send a goodbye as soon as the control server can be reached; return when it is recorded."""

    def rejoin(self) -> None:
        """Join again, which takes the goodbye back."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in a task that ends with the agent."""
        ...


class ShutdownWatcher:
    """Says goodbye when the system shuts down, and takes that back when the shutdown is cancelled."""

    def __init__(
        self, power: PowerBackend, state: ShutdownState, host: ShutdownHost, timing: AgentTiming
    ) -> None:
        self._power = power
        self._state = state
        self._host = host
        self._timing = timing
        self._reporting: asyncio.Task[None] | None = None
        self.recorded_goodbye: Goodbye | None = None
        """The goodbye that the control server has recorded and that still holds."""

    async def watch(self) -> None:
        """Report every shutdown of the system and every cancellation; never return."""
        pause_s = self._timing.power_retry_first_s
        while True:
            try:
                if not self._state.is_announced:
                    await self._handle_shutdown(await self._power.wait_for_shutdown())
                await self._power.wait_for_cancellation()
                self._handle_cancellation()
                continue
            except PowerError as error:
                logger.warning("%s; trying again in %g s", error, pause_s)
            await asyncio.sleep(pause_s)
            try:
                # This also finds out what was announced or cancelled in the meantime.
                await self._power.open()
                pause_s = self._timing.power_retry_first_s
            except PowerError as error:
                logger.warning("%s", error)
                pause_s = min(2 * pause_s, self._timing.power_retry_cap_s)

    async def final_goodbye(self, goodbye: Goodbye) -> Goodbye:
        """Return the goodbye of an agent that ends: because of a shutdown, or for the reason it was stopped with."""
        accepted, acting = self._host.accepted, self._host.acting
        try:
            shutdown = await self._power.pending_shutdown()
        except PowerError as error:
            # That the system accepted an order does not prove that it shuts down.
            logger.debug("whether the system is shutting down is not known: %s", error)
            shutdown = None
        if shutdown is not None:
            return goodbye_for(shutdown, accepted or acting)
        if acting is not None:
            # If the system shuts down after all, the next boot shows it.
            detail = f"stopped while the machine was to be {acting.action.past}"
            return Goodbye(goodbye.cause, goodbye.detail or detail, acting.execution_id)
        return goodbye

    async def _handle_shutdown(self, shutdown: SystemShutdown) -> None:
        # The system may announce a shutdown before it answers the very request that caused it.
        goodbye = goodbye_for(shutdown, self._host.accepted or self._host.acting)
        self._state.announce()
        self._reporting = self._host.start(self._report(goodbye))
        # A goodbye that takes longer is sent while the system shuts down, if there is time. The system does not wait
        # for a control server that cannot be reached.
        timeout_s = self._timing.goodbye_timeout_s if self._host.is_connected else 0
        await asyncio.wait({self._reporting}, timeout=timeout_s)
        await self._power.release_shutdown()

    async def _report(self, goodbye: Goodbye) -> None:
        await self._host.report_goodbye(goodbye)
        self.recorded_goodbye = goodbye

    def _handle_cancellation(self) -> None:
        logger.info("the shutdown was cancelled; the agent stays")
        if self._reporting is not None:
            self._reporting.cancel()
        self._reporting = self.recorded_goodbye = None
        self._state.cancel()
        self._host.rejoin()


def goodbye_for(shutdown: SystemShutdown, order: RunningOrder | None) -> Goodbye:
    """Return the goodbye for a shutdown that ``order`` may have caused."""
    action = shutdown.action
    if order is not None and order.action is not Action.LOG_OFF and action in {None, order.action}:
        return Goodbye(_CAUSES[order.action], "", order.execution_id)
    return Goodbye(_CAUSES[action], "the system goes down")
