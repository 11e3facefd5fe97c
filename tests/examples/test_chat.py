"""examples/chat.py"""

import signal

from landline import parse_url
from landline.testing import FaultProxy


async def open_room(start):
    server = start("chat.py", "server", "--listen", "tcp://127.0.0.1:0")
    return server, parse_url(await server.listens())


def messages_of(program, who: str) -> list[str]:
    return [line.removeprefix(f"{who} says: ") for line in program.lines if line.startswith(f"{who} says: ")]


async def test_members_join_talk_and_leave(start) -> None:
    _, endpoint = await open_room(start)
    alice = start("chat.py", "join", "--server", str(endpoint), "alice")
    await alice.says("^alice joined$")
    bob = start("chat.py", "join", "--server", str(endpoint), "bob")
    await alice.says("^bob joined$")
    bob.types("hello")
    bob.types("a\x1b[2Jb")
    await alice.says("^bob says: hello$")
    await alice.says("^bob says: ", times=2)
    assert "\x1b" not in alice.out
    bob.types("/who")
    await bob.says("^-- members: alice, bob$")
    bob.types("/quit")
    assert await bob.ends() == 0
    await alice.says("^bob left$")
    alice.closes_input()
    assert await alice.ends() == 0


async def test_messages_written_without_a_connection_arrive_later(start) -> None:
    _, endpoint = await open_room(start)
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        alice = start("chat.py", "join", "--server", str(endpoint), "alice")
        await alice.says("^alice joined$")
        bob = start("chat.py", "join", "--server", proxy.url, "bob")
        await alice.says("^bob joined$")
        await proxy.refuse()
        proxy.reset()
        await alice.says("^bob is away ")
        await bob.says("; messages are sent later$")
        texts = [f"line {number}" for number in range(20)]
        for text in texts:
            bob.types(text)
        alice.types("where is bob?")
        alice.types("/who")
        await alice.says(r"^-- members: alice, bob \(away\)$")
        proxy.accept()
        await alice.says("^bob is back$")
        await bob.says("^alice says: where is bob")
        await bob.says("^-- online, session resumed$")
        await alice.says("^bob says: line 19$")
        await bob.says("^bob says: line 19$")
    assert messages_of(alice, "bob") == messages_of(bob, "bob") == texts


async def test_members_rejoin_after_a_restart_of_the_server(start) -> None:
    server, endpoint = await open_room(start)
    alice = start("chat.py", "join", "--server", str(endpoint), "alice")
    await alice.says("^alice joined$")
    assert await server.ends(signal.SIGINT) == 130
    await alice.says("^-- the server stops")
    start("chat.py", "server", "--listen", str(endpoint))
    await alice.says("^alice joined$", times=2)
    alice.types("still here")
    await alice.says("^alice says: still here$")
    assert await alice.ends(signal.SIGINT) == 130


async def test_a_nickname_is_unique_while_its_member_is_online(start) -> None:
    _, endpoint = await open_room(start)
    alice = start("chat.py", "join", "--server", str(endpoint), "alice")
    await alice.says("^alice joined$")
    other = start("chat.py", "join", "--server", str(endpoint), "alice")
    assert await other.ends() == 1
    assert other.err == "chat.py: the server closed the line: the nickname alice is in use\n"
    bad = start("chat.py", "join", "--server", str(endpoint), "a b")
    assert await bad.ends() == 1
    assert "a nickname has 1 to 20 letters" in bad.err
    alice.kill()
    bob = start("chat.py", "join", "--server", str(endpoint), "bob")
    await bob.says("^alice is away |^bob joined$")
    again = start("chat.py", "join", "--server", str(endpoint), "alice")
    await bob.says("^alice joined$")
    assert again.process.poll() is None


async def test_the_input_line_on_a_terminal(start, start_on_terminal) -> None:
    _, endpoint = await open_room(start)
    bob = start("chat.py", "join", "--server", str(endpoint), "bob")
    await bob.says("^bob joined$")
    alice = start_on_terminal("chat.py", "join", "--server", str(endpoint), "alice")
    await alice.shows("alice joined")
    alice.presses("helo\x7flo\x1b[A")
    await alice.shows(r"\[online\] alice> hello$")
    alice.presses("\n")
    await bob.says("^alice says: hello$")
    await alice.shows("alice says: hello\r\n")
    alice.presses("\x04")
    assert await alice.ends() == 0
    assert alice.err == ""
    await bob.says("^alice left$")
