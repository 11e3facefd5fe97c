"""The internals of a line that tests look at or change. No other test module names a private attribute of a line."""

import asyncio
import itertools

import landline
from landline.codes import Operation
from landline.line.line import driver_of
from landline.line.link import TransportLink
from landline.session.events import MessageReceived
from landline.session.session import Session

__all__ = [
    "driver_of",
    "first_waiting_sender",
    "has_session",
    "host_of",
    "link_of",
    "running_requests",
    "send_operation",
    "send_request",
    "session_of",
    "transport_of",
    "use_correlation",
    "waiting_requests",
]


def host_of(line: landline.Line):
    """Return the host of a line: the internals of its server or connector."""
    return driver_of(line).host


def session_of(line: landline.Line) -> Session:
    """Return the session of a line that has one."""
    session = driver_of(line).session
    assert session is not None
    return session


def has_session(line: landline.Line) -> bool:
    """Return whether the line has a session now."""
    return driver_of(line).session is not None


def link_of(line: landline.Line) -> TransportLink:
    """Return the link of a line that has a transport."""
    link = driver_of(line).link
    assert link is not None
    return link


def transport_of(line: landline.Line) -> asyncio.Transport:
    """Return the transport of a line that has one."""
    return link_of(line).transport


# Requests


def running_requests(line: landline.Line) -> int:
    """Return the number of requests of the peer whose handlers run."""
    dispatcher = driver_of(line).dispatcher
    return len(dispatcher._running) if dispatcher is not None else 0


def waiting_requests(line: landline.Line) -> int:
    """Return the number of requests of the peer that wait to be handled."""
    dispatcher = driver_of(line).dispatcher
    return len(dispatcher._waiting) if dispatcher is not None else 0


def use_correlation(line: landline.Line, correlation: int) -> None:
    """Let the next request of the line have this correlation id, as a peer may that counts wrong."""
    driver_of(line).open_pending_requests()._correlations = itertools.count(correlation)


async def send_operation(
    line: landline.Line, operation: Operation, name: str, body: bytes, *, correlation: int = 0
) -> None:
    """Send a message of any operation whose body need not be MessagePack, although its flag says so."""
    await driver_of(line).transmit(operation, name.encode(), body, correlation=correlation, is_packed=True)


async def send_request(line: landline.Line, name: str, body: bytes) -> MessageReceived:
    """Send a request whose body need not be MessagePack. Return the answer as it arrived."""
    requests, correlation = driver_of(line).open_pending_requests(), 2**20
    answer: asyncio.Future[MessageReceived] = asyncio.get_running_loop().create_future()
    requests._pending[correlation] = (name, answer)
    await send_operation(line, Operation.REQUEST, name, body, correlation=correlation)
    return await answer


# Sending


def first_waiting_sender(line: landline.Line) -> asyncio.Future[None]:
    """Return the future that the first sender in the queue for room waits for."""
    flow = driver_of(line)._flow
    assert flow is not None
    return flow._senders[0]
