"""Listening: the addresses at which a server is reached, and what is announced of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from landline.discovery.records import Announcer, load_discovery
from landline.errors import AddressInUse, AnnounceFailed
from landline.transports.base import Listener, SupportsWaitClosed
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

OpenListener = Callable[[Endpoint, TransportOptions], Awaitable[Listener]]


class Listeners:
    """Everything one server listens on.

    :param open_listener: opens one more.
    :param last_closed: called when the last one was closed, and awaited.
    """

    def __init__(self, open_listener: OpenListener, last_closed: Callable[[], Awaitable[None]]) -> None:
        self.opened: list[Listener] = []
        """In the order in which they were opened, until they are closed one by one."""
        self._announcers: list[Announcer] = []
        self._open_listener = open_listener
        self._last_closed = last_closed

    async def open(self, endpoint: Endpoint, options: TransportOptions) -> Listener:
        """Opens one. Raises what its transport does, and what ``open_listener`` does for a server that is over."""
        listener = await self._open_listener(endpoint, options)
        self.add(listener)
        return listener

    def add(self, listener: Listener) -> None:
        """Takes over one that was opened elsewhere; it is closed with all the others."""
        self.opened.append(listener)

    def add_announcer(self, announcer: Announcer) -> None:
        """Takes over an announcement, which is withdrawn at the latest when the server closes."""
        self._announcers.append(announcer)

    async def close(self, listener: Listener) -> None:
        """Closes one of them, and with the last one the server."""
        listener.close()
        self.opened.remove(listener)
        try:
            if not self.opened:
                await self._last_closed()
        finally:
            if isinstance(listener, SupportsWaitClosed):
                await listener.wait_closed()

    def close_all(self) -> None:
        """Listens no more."""
        for listener in self.opened:
            listener.close()

    async def withdraw(self) -> None:
        """Announces nothing any more."""
        for announcer in self._announcers:
            await announcer.close()


class Listening:
    """Listens while it is entered; made by :meth:`landline.Server.listen`."""

    def __init__(
        self, listeners: Listeners, endpoint: Endpoint, options: TransportOptions, announced_as: str | None
    ) -> None:
        self._listeners = listeners
        self._endpoint = endpoint
        self._options = options
        self._announced_as = announced_as
        self._announcer: Announcer | None = None
        self._listener: Listener | None = None

    async def __aenter__(self) -> Endpoint:
        """Listens; returns the endpoint, with the port the system chose if the URL's was 0. ``str()`` is its URL."""
        discovery = load_discovery() if self._announced_as is not None else None
        self._listener = await self._listeners.open(self._endpoint, self._options)
        if discovery is not None and self._announced_as is not None:
            try:
                self._announcer = await discovery.announce(self._listener.endpoint, self._announced_as)
            except BaseException as error:
                await self._listeners.close(self._listener)
                if isinstance(error, OSError) and not isinstance(error, AddressInUse):
                    raise AnnounceFailed(
                        error.errno,
                        f"the server cannot be announced as {self._announced_as!r} on the local network: "
                        f"{error.strerror or error}; connect this machine to a network, or do without announcing",
                    ) from error
                raise
            self._listeners.add_announcer(self._announcer)
        return self._listener.endpoint

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._listener is not None
        try:
            if self._announcer is not None:
                await self._announcer.close()
        finally:
            await self._listeners.close(self._listener)
