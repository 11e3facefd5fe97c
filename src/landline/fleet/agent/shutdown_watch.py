"""What an agent does when its system goes down, and when that is called off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from landline import guarded_logger
from landline.fleet.agent.power import PowerBackend, PowerError, SystemShutdown
from landline.fleet.messages import Goodbye
from landline.fleet.model import Action, Cause

logger = guarded_logger("landline.agent")

GOODBYE_TIMEOUT_S: Final = 3.0
"""How long the last words may take: a system that goes down does not wait long (logind: 5 s)."""
POWER_RETRY_FIRST_S: Final = 1.0
POWER_RETRY_CAP_S: Final = 30.0
"""When the agent tries to reach the system's bus again after losing it: a restart of it takes a second or two, so the
first pause is short, and each is twice as long as the one before up to the cap."""

_CAUSES: Final[dict[Action | None, Cause]] = {
    Action.RESTART: Cause.RESTARTING,
    Action.SHUT_DOWN: Cause.SHUT_DOWN,
    None: Cause.GOING_DOWN,
}


class ShutdownHost(Protocol):
    """The agent, as far as it is needed here."""

    @property
    def is_connected(self) -> bool:
        """Whether the control server knows this machine, and a line leads to it."""
        ...

    @property
    def acting(self) -> tuple[str, Action] | None:
        """The order that is being carried out."""
        ...

    @property
    def accepted(self) -> tuple[str, Action] | None:
        """The order that the system has accepted."""
        ...

    async def tell_goodbye(self, goodbye: Goodbye) -> None:
        """Tell the control server, once it can be reached; return when it is on record."""

    def rejoin(self) -> None:
        """Join again: that takes the goodbye back."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in a task that ends with the agent."""
        ...


class ShutdownWatcher:
    """Watches for the end of the system, says so, and takes it back."""

    def __init__(self, power: PowerBackend, agent: ShutdownHost) -> None:
        self._power = power
        self._agent = agent
        self._telling: asyncio.Task[None] | None = None
        self.stays = asyncio.Event()
        """Set while the system does not go down: only then may anything begin."""
        self.stays.set()
        self.announced = asyncio.Event()
        """Set while the system goes down."""
        self.told: Goodbye | None = None
        """The goodbye that is on record."""

    async def watch(self) -> None:
        """Say goodbye whenever the system goes down, and join again when that is called off; never return."""
        pause_s = POWER_RETRY_FIRST_S
        while True:
            try:
                if self.stays.is_set():
                    await self._leave(await self._power.wait_for_shutdown())
                await self._power.wait_for_cancellation()
                self._stay()
                continue
            except PowerError as error:
                logger.warning("%s; trying again in %g s", error, pause_s)
            await asyncio.sleep(pause_s)
            try:
                # What was announced or called off meanwhile is found out there.
                await self._power.open()
                pause_s = POWER_RETRY_FIRST_S
            except PowerError as error:
                logger.warning("%s", error)
                pause_s = min(2 * pause_s, POWER_RETRY_CAP_S)

    async def final_goodbye(self, goodbye: Goodbye) -> Goodbye:
        """Return why the agent goes: because the system does, or for the reason it was stopped with."""
        accepted, acting = self._agent.accepted, self._agent.acting
        try:
            going_down = await self._power.pending_shutdown()
        except PowerError as error:
            # That the system accepted an order is no evidence that it goes.
            logger.debug("whether the system goes down cannot be told: %s", error)
            going_down = None
        if going_down is not None:
            return goodbye_for(going_down, accepted or acting)
        if acting is not None:
            # Whether the system does it all the same, its next boot shows.
            detail = f"stopped while the machine was to be {acting[1].past}"
            return Goodbye(goodbye.cause, goodbye.detail or detail, acting[0])
        return goodbye

    async def _leave(self, going_down: SystemShutdown) -> None:
        """The system goes down: the control server hears of it while the system waits for us."""
        # The system may say so before it has answered the very request that makes it go.
        goodbye = goodbye_for(going_down, self._agent.accepted or self._agent.acting)
        self.stays.clear()
        self.announced.set()
        self._telling = self._agent.start(self._tell(goodbye))
        # What is not told in this time is told while the system goes down, if it lets us. It is not held up for a
        # control server that is not there.
        timeout_s = GOODBYE_TIMEOUT_S if self._agent.is_connected else 0
        await asyncio.wait({self._telling}, timeout=timeout_s)
        await self._power.release_shutdown()

    async def _tell(self, goodbye: Goodbye) -> None:
        await self._agent.tell_goodbye(goodbye)
        self.told = goodbye

    def _stay(self) -> None:
        logger.info("the shutdown was called off; staying")
        if self._telling is not None:
            self._telling.cancel()
        self._telling = self.told = None
        self.announced.clear()
        self.stays.set()
        self._agent.rejoin()


def goodbye_for(going_down: SystemShutdown, order: tuple[str, Action] | None) -> Goodbye:
    """Return what to say when the system goes down, where ``order`` may be what makes it go."""
    action = going_down.action
    if order is not None and order[1] is not Action.LOG_OFF and action in {None, order[1]}:
        return Goodbye(_CAUSES[order[1]], "", order[0])
    return Goodbye(_CAUSES[action], "the system goes down")
