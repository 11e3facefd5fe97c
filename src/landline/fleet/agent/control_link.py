"""Requests to the control server, repeated where that is safe."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

import landline
from landline import Line, LineState, guarded_logger
from landline.fleet.messages import NOT_JOINED, STORAGE_FAILED

logger: Final = guarded_logger("landline.agent")


class ControlLink:
    """The agent's current line to the control server.

    :param retry_s: pause before a request is repeated that the control server could not record.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self.line: Line | None = None
        """The line, once it was connected for the first time."""
        self.joined: asyncio.Event = asyncio.Event()
        """Set while the control server knows this machine in the current session."""

    @property
    def is_connected(self) -> bool:
        """Whether the agent has joined and its line has a connection."""
        line = self.line
        return self.joined.is_set() and line is not None and line.state is not LineState.RECONNECTING

    async def request(self, name: str, body: msgspec.Struct, response_type: type[Any]) -> Any:
        """Send a request once the agent has joined; repeat it while the control server cannot record its effect.

        :raises landline.RequestLost: if the session ends first; the request may have arrived.
        :raises landline.RequestError: if the control server refuses it.
        :raises landline.LineClosed: if the line is closed.
        """
        while True:
            await self.joined.wait()
            assert self.line is not None
            try:
                return await self.line.request(name, body, timeout=None, response_type=response_type)
            except landline.RequestError as error:
                if error.code not in {NOT_JOINED, STORAGE_FAILED}:
                    raise
                logger.warning("%s: %s; trying again in %g s", name, error.message, self._retry_s)
            await asyncio.sleep(self._retry_s)

    async def request_until_answered(self, name: str, body: msgspec.Struct, response_type: type[Any]) -> Any:
        """Send an idempotent request, again in every new session, until it is answered. Raise as :meth:`request`."""
        while True:
            try:
                return await self.request(name, body, response_type)
            except landline.RequestLost:
                continue
