"""The addresses a server listens on, and their announcements on the local network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any

from landline.discovery.records import Announcer, load_discovery
from landline.errors import AddressInUse, AnnounceFailed
from landline.transports.base import Listener, SupportsWaitClosed
from landline.transports.options import TransportOptions
from landline.transports.urls import Endpoint

OpenListener = Callable[[Endpoint, TransportOptions], Awaitable[Listener]]


class Listeners:
    """The listeners and announcements of one server.

    :param open_listener: opens a listener.
    :param last_closed: called and awaited when the last listener was closed.
    """

    def __init__(self, open_listener: OpenListener, last_closed: Callable[[], Awaitable[None]]) -> None:
        self.opened: list[Listener] = []
        """The open listeners, in the order in which they were opened."""
        self._closed: list[Listener] = []
        self._announcers: list[Announcer] = []
        self._open_listener = open_listener
        self._last_closed = last_closed

    async def open(self, endpoint: Endpoint, options: TransportOptions) -> Listener:
        """Open a listener. Raise what its transport raises."""
        listener = await self._open_listener(endpoint, options)
        self.add(listener)
        return listener

    def add(self, listener: Listener) -> None:
        """Add a listener that was opened elsewhere; :meth:`close_all` closes it too."""
        self.opened.append(listener)

    def add_announcer(self, announcer: Announcer) -> None:
        """Add an announcement; :meth:`withdraw` ends it too."""
        self._announcers.append(announcer)

    async def close(self, listener: Listener) -> None:
        """Close one listener, and with the last one the server."""
        listener.close()
        # The server may have closed it already.
        if listener in self.opened:
            self.opened.remove(listener)
        try:
            if not self.opened:
                await self._last_closed()
        finally:
            if isinstance(listener, SupportsWaitClosed):
                await listener.wait_closed()

    def close_all(self) -> None:
        """Close all listeners."""
        for listener in self.opened:
            listener.close()
        self._closed += self.opened
        self.opened.clear()

    async def wait_closed(self) -> None:
        """Return when the addresses of the listeners closed by :meth:`close_all` are free."""
        closed, self._closed = self._closed, []
        for listener in closed:
            if isinstance(listener, SupportsWaitClosed):
                await listener.wait_closed()

    async def withdraw(self) -> None:
        """End all announcements."""
        announcers, self._announcers = self._announcers, []
        for announcer in announcers:
            await announcer.close()


class Listening:
    """Listens while it is entered, or from ``await`` until the server closes; see :meth:`landline.Server.listen`."""

    __slots__ = ("_announced_as", "_announcer", "_endpoint", "_listener", "_listeners", "_options")

    def __init__(
        self, listeners: Listeners, endpoint: Endpoint, options: TransportOptions, announced_as: str | None
    ) -> None:
        self._listeners = listeners
        self._endpoint = endpoint
        self._options = options
        self._announced_as = announced_as
        self._announcer: Announcer | None = None
        self._listener: Listener | None = None

    def __await__(self) -> Generator[Any, None, Endpoint]:
        """Listen until :meth:`landline.Server.close`; return the endpoint."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Endpoint:
        """Listen; return the endpoint, with the port that the system chose for port 0. ``str()`` is its URL."""
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
                        f"{error.strerror or error}; connect this machine to a network, or do not announce it",
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
