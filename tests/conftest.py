"""What the tests of the library share: event loops, certificates, and pairs of lines."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from zlib import crc32

import ifaddr
import pytest
import trustme
import uvloop
from tests import skips

import landline
from landline.discovery.records import is_reachable
from landline.runtime.guarded_log import GUARD

HERE = Path(__file__).parent
LIBRARY = {
    HERE / name
    for name in (
        "client",
        "faults",
        "files",
        "line",
        "runtime",
        "server",
        "testing",
        "transports",
        "udp_calls",
    )
}
CLOSE_TO_THE_LOOP = {HERE / name for name in ("runtime", "transports", "udp_calls")}
"""What differs between event loops is tested on each of them."""
SLOW = (
    "benchmarks",
    "cli/test_discover_command.py",
    "cli/test_log_output.py",
    "cli/test_serve_commands.py",
    "clients",
    "discovery",
    "examples",
    "faults",
    "files/test_killed.py",
    "files/test_large_files.py",
    "fleet/agent/prompt",
    "fleet/demo",
    "fuzz",
    "line/test_back_pressure.py",
    "line/test_fairness.py",
    "mutation",
    "runtime/test_runner.py",
    "server/test_server_storms.py",
    "session/test_session_properties.py",
    "simulation",
    "test_metadata.py",
    "test_signals.py",
    "test_skips.py",
    "transports/quic",
    "type_checks",
)
"""What `make test-quick` leaves out: other programs, virtual screens, real networks and real waiting."""
QUICK = landline.Backoff(first_s=0.01, cap_s=0.05)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it runs in the background with SIGINT ignored, and programs hand that on to their children.
    # With a handler the tests ignore it still, and the programs they start do not.
    signal.signal(signal.SIGINT, lambda number, frame: None)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item):
    """Give each test of the library its event loops; the fleet runs on asyncio's.

    Tests close to the loop run on uvloop and on asyncio's own, as all do with ``--both-loops``. The others run on
    one of them, always the same: half of the tests on each.
    """
    factories = {"uvloop": new_uvloop, "asyncio": asyncio.new_event_loop}
    parents = item.path.parents
    if item.get_closest_marker("asyncio_only") or not (
        item.path.parent == HERE or LIBRARY.intersection(parents)
    ):
        names = ["asyncio"]
    elif (
        config.getoption("--both-loops")
        or item.get_closest_marker("both_loops")
        or CLOSE_TO_THE_LOOP.intersection(parents)
    ):
        names = ["uvloop", "asyncio"]
    else:
        test = f"{item.path.relative_to(HERE)}::{getattr(item, 'originalname', item.name)}"
        names = [("uvloop", "asyncio")[crc32(test.encode()) % 2]]
    return {name: factories[name] for name in names}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="leave out what takes long, as `make test-quick` does"
    )
    parser.addoption(
        "--both-loops",
        action="store_true",
        help="run every test of the library on uvloop and on asyncio's event loop",
    )


def pytest_configure(config: pytest.Config) -> None:
    skips.register(config)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_slow = collection_path.is_relative_to(HERE) and str(collection_path.relative_to(HERE)).startswith(SLOW)
    return True if is_slow and config.getoption("--quick") else None


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    """What one test logs takes no room from the next."""
    GUARD.clear()


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


@pytest.fixture(scope="session", autouse=True)
def places_of_their_own() -> Iterator[None]:
    """Tests and the programs they start keep out of the user's own directories, where a demo may be running."""
    # Short: the path of a unix socket has 107 bytes at most.
    directory = Path(tempfile.mkdtemp(prefix="ll-"))
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("LANDLINE_"):
                environment.delenv(name)
        for name, place in (("XDG_RUNTIME_DIR", directory / "run"), ("XDG_DATA_HOME", directory / "data")):
            place.mkdir(mode=0o700)
            environment.setenv(name, str(place))
        yield
    shutil.rmtree(directory)


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


@pytest.fixture
def nowhere():
    """The URL of a port where nobody listens, and nobody will: it is bound."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{sock.getsockname()[1]}"


@asynccontextmanager
async def open_fake_server(handle):
    """Something that listens and is no landline server; yields its URL."""
    tasks = set()

    async def connected(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def fake_server():
    return open_fake_server


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


MULTICAST_GROUP = "239.255.77.77"


def multicast_address() -> str:
    """An address of this machine whose network brings multicast back to us. Raises why there is none."""
    addresses = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    reason = "no network but loopback"
    for address in filter(is_reachable, addresses):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.settimeout(1.0)
                sock.bind(("", 0))
                here = socket.inet_aton(address)
                sock.setsockopt(
                    socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(MULTICAST_GROUP) + here
                )
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
                sock.sendto(b"heard?", (MULTICAST_GROUP, sock.getsockname()[1]))
                sock.recv(16)
            except OSError as error:
                reason = f"no multicast on {address}: {error}"
            else:
                return address
    raise OSError(reason)


@pytest.fixture(scope="session")
def multicast() -> str:
    """An address of this machine on a network with multicast; skips where there is none."""
    try:
        return multicast_address()
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
async def datagrams_end(monkeypatch: pytest.MonkeyPatch, until) -> AsyncIterator[None]:
    """QUIC says goodbye a moment longer than its line lives: a loop must not be closed before."""
    from landline.transports.quic.sockets import QuicListener
    from landline.transports.quic.transport import QuicTransport

    made = []
    for kind in (QuicListener, QuicTransport):

        def make(self, *arguments, begin=kind.__init__):
            begin(self, *arguments)
            made.append(self)

        monkeypatch.setattr(kind, "__init__", make)
    yield
    await until(lambda: not any(one.is_open for one in made))
    # The event loop closes a socket in its next turn.
    await asyncio.sleep(0)
