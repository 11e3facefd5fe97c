"""examples/fastapi_app.py"""

import contextlib
import json
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from tests.ports import hold_tcp_port, port_of

from landline.testing import FaultProxy


class App:
    """The application as a process, and the requests of a browser."""

    def __init__(self, start: Callable, until: Callable, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.program = start("fastapi_app.py", "serve", "--port", str(port))
        self._until = until

    async def serves(self) -> None:
        def is_up() -> bool:
            assert not self.program.is_over(), self.program.err
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                return True
            return False

        await self._until(is_up)

    async def shows(self, **machines: str) -> None:
        """Wait until the machines are in these states."""
        await self._until(lambda: {each["name"]: each["state"] for each in self.ask("/machines")} == machines)

    def announce(self, text: str) -> dict:
        return self.ask("/announcements", {"text": text})

    def ask(self, path: str, body: object = None) -> object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
            return json.loads(text) if answer.headers["content-type"] == "application/json" else text


@pytest.fixture
def port() -> Iterator[int]:
    """A port that stays reserved for the application while it does not run."""
    with hold_tcp_port() as holder:
        yield port_of(holder)


async def test_an_announcement_reaches_all_machines(start, until, port) -> None:
    app = App(start, until, port)
    await app.serves()
    async with FaultProxy("127.0.0.1", app.port) as proxy:
        near = start("fastapi_app.py", "join", "--server", f"ws://127.0.0.1:{app.port}/line", "near")
        far = start("fastapi_app.py", "join", "--server", f"ws://127.0.0.1:{proxy.port}/line/", "far")
        await app.shows(near="online", far="online")
        assert app.announce("lunch") == {"sent": 2}
        for machine in (near, far):
            await machine.says("^announcement: lunch$")
        await proxy.refuse()
        proxy.reset()
        await app.shows(near="online", far="reconnecting")
        assert app.announce("coffee") == {"sent": 2}
        await near.says("^announcement: coffee$")
        assert "coffee" not in far.out
        proxy.accept()
        await far.says("^announcement: coffee$")
        assert await near.ends(signal.SIGINT) == 130
        await app.shows(near="gone", far="online")
        assert app.announce("tea") == {"sent": 1}
        await far.says("^announcement: tea$")


async def test_the_page_and_an_invalid_announcement(start, until, port) -> None:
    app = App(start, until, port)
    await app.serves()
    assert "<h1>Machines</h1>" in app.ask("/")
    with pytest.raises(urllib.error.HTTPError) as refused:
        app.announce("")
    assert refused.value.code == 422
    refused.value.close()


async def test_machines_reconnect_after_a_restart_of_the_application(start, until, port) -> None:
    app = App(start, until, port)
    await app.serves()
    machine = start("fastapi_app.py", "join", "--server", f"ws://127.0.0.1:{app.port}/line", "kiosk")
    await app.shows(kiosk="online")
    assert await app.program.ends(signal.SIGINT) == 0
    await machine.says("^-- reconnecting$")
    again = App(start, until, app.port)
    await again.serves()
    await again.shows(kiosk="online")
    assert again.announce("good morning") == {"sent": 1}
    await machine.says("^announcement: good morning$")
