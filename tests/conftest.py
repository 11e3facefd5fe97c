"""What the tests of the library share: event loops, certificates, pairs of lines, and a relay that can fail."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
import uvloop

import landline

HERE = Path(__file__).parent
ON_BOTH_LOOPS = {HERE, HERE / "transports", HERE / "faults"}
QUICK = landline.Backoff(first=0.01, cap=0.05)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item):
    """Tests of the library run on uvloop and on asyncio's own loop; the fleet's on the latter."""
    if item.path.parent in ON_BOTH_LOOPS:
        return {"uvloop": new_uvloop, "asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def new_uvloop() -> asyncio.AbstractEventLoop:
    """A uvloop on which time-outs of tests work: its idle loop keeps what a signal's handler raises to itself."""
    loop = uvloop.new_event_loop()

    def handle(loop: asyncio.AbstractEventLoop, context: dict) -> None:
        if isinstance(context.get("exception"), pytest.fail.Exception):
            for task in asyncio.all_tasks(loop):
                task.cancel(str(context["exception"]))
        loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    return loop


async def wait_until(condition: Callable[[], object]) -> None:
    """Returns once the condition holds; the test's own time-out ends the wait for one that never does."""
    while not condition():
        await asyncio.sleep(0.002)


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def quick():
    """A reconnect policy without patience."""
    return QUICK


@asynccontextmanager
async def open_pair(
    server: landline.Server | None = None, url: str = "tcp://127.0.0.1:0", **arguments
) -> AsyncIterator[tuple[landline.Line, landline.Line]]:
    """Both ends of one line: the client's and the server's. Needs not be left in any order."""
    server = server or landline.Server()
    before = set(server.lines)
    async with server.listen(url) as endpoint:
        arguments.setdefault("backoff", QUICK)
        async with landline.connect(str(endpoint), **arguments) as line:
            [other] = set(server.lines) - before
            yield line, other


@pytest.fixture
def pair():
    return open_pair


class States:
    """Records the changes of a line's state, for ``on_state``."""

    def __init__(self) -> None:
        self.changes: list[landline.StateChange] = []

    def __call__(self, line: landline.Line, change: landline.StateChange) -> None:
        self.changes.append(change)

    @property
    def names(self) -> list[str]:
        return [change.state.value for change in self.changes]

    def find(self, state: landline.LineState) -> list[landline.StateChange]:
        return [change for change in self.changes if change.state is state]


@pytest.fixture
def states():
    """Makes recorders of state changes."""
    return States


class Contexts:
    """A certificate for 127.0.0.1, as both sides use it."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1", "localhost").configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="session")
def certificates() -> Contexts:
    return Contexts()


class RelayEnd(asyncio.Protocol):
    """One socket of a relayed link."""

    def __init__(self, link: "RelayLink") -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self.other: RelayEnd | None = None
        self.is_full = False
        self.has_lost = False

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.link.tune()

    def data_received(self, data: bytes) -> None:
        self.link.forward(self, data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.has_lost = True
        self.link.lost(self)

    def pause_writing(self) -> None:
        self.is_full = True
        self.link.tune()

    def resume_writing(self) -> None:
        self.is_full = False
        self.link.tune()


class RelayLink:
    """A client's socket and the one to the server behind it."""

    def __init__(self, relay: "Relay") -> None:
        self.relay = relay
        self.client = RelayEnd(self)
        self.server = RelayEnd(self)
        self.client.other, self.server.other = self.server, self.client
        self.budgets: dict[RelayEnd, int] = {}
        """Bytes from an end after which the link is cut."""
        self.is_cut = False

    def tune(self) -> None:
        """Reads where the other end takes data, and nowhere while packets are dropped."""
        for end in (self.client, self.server):
            transport = end.transport
            if transport is None or transport.is_closing() or end.has_lost:
                continue
            wanted = self.is_cut or (
                not self.relay.is_holding
                and end.other.transport is not None
                and not end.other.is_full
                and (end is self.client or self.client.transport is not None)
            )
            if wanted and not transport.is_reading():
                transport.resume_reading()
            elif not wanted and transport.is_reading():
                transport.pause_reading()

    def forward(self, end: RelayEnd, data: bytes) -> None:
        if self.is_cut or end.other.transport is None or end.other.has_lost:
            return
        budget = self.budgets.get(end)
        if budget is not None and len(data) >= budget:
            end.other.transport.write(data[:budget])
            self.relay.on_spent(self)
            return
        if budget is not None:
            self.budgets[end] = budget - len(data)
        end.other.transport.write(data)

    def lost(self, end: RelayEnd) -> None:
        if not self.is_cut and end.other.transport is not None and not end.other.has_lost:
            end.other.transport.close()
        if self.client.has_lost and (self.server.has_lost or self.server.transport is None):
            self.relay.links.discard(self)

    def cut(self, *, client: str = "abort", server: str = "abort") -> None:
        """Ends each socket with ``abort`` (RST, nothing more is written), ``close`` (FIN behind what was written),
        or ``leave`` (it stays open, and what comes is dropped)."""
        self.is_cut = True
        for end, how in ((self.client, client), (self.server, server)):
            if end.transport is None or end.has_lost:
                continue
            if how == "abort":
                end.transport.abort()
            elif how == "close":
                end.transport.close()
        self.tune()


class Relay:
    """A TCP relay between clients and one server that can cut links, or drop what they carry."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._waiting: list[RelayLink] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.links: set[RelayLink] = set()
        self.is_holding = False
        self.port = 0
        self.on_link: Callable[[RelayLink], None] = lambda link: None
        self.on_spent: Callable[[RelayLink], None] = RelayLink.cut

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        self.cut_all()
        for link in list(self.links):
            link.cut()
        await wait_until(lambda: not self.links)

    def hold(self) -> None:
        """Drops everything from now on, in both directions; the sockets stay open, new ones are not answered."""
        self.is_holding = True
        for link in self.links:
            link.tune()

    def heal(self) -> None:
        """Forwards again: what is still wanted of the old links, and new ones."""
        self.is_holding = False
        waiting, self._waiting = self._waiting, []
        for link in waiting:
            self._connect_soon(link)
        for link in self.links:
            link.tune()

    def cut_all(self, **how: str) -> None:
        for link in list(self.links):
            link.cut(**how)

    def _accept(self) -> RelayEnd:
        link = RelayLink(self)
        self.links.add(link)
        self.on_link(link)
        if self.is_holding:
            self._waiting.append(link)
        else:
            self._connect_soon(link)
        return link.client

    def _connect_soon(self, link: RelayLink) -> None:
        task = asyncio.get_running_loop().create_task(self._connect(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, link: RelayLink) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: link.server, *self._target)
        except OSError:
            link.is_cut = True
            if link.client.transport is not None:
                link.client.transport.abort()
            return
        if link.is_cut or link.client.has_lost:
            link.server.transport.abort()
        link.tune()


@pytest.fixture
def relay():
    """Makes a relay in front of an endpoint: ``async with relay(endpoint) as it``."""

    @asynccontextmanager
    async def run(endpoint: landline.Endpoint) -> AsyncIterator[Relay]:
        it = Relay(endpoint.host, endpoint.port)
        await it.start()
        try:
            yield it
        finally:
            await it.stop()

    return run
