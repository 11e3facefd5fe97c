"""examples/game.py"""

import re
import signal
from pathlib import Path

import pytest
import trustme

from landline import parse_url
from landline.testing import DatagramFaults, DatagramProxy, FaultProxy

MEASURED = r"^(\d+) states, (\d+) lost \(.*%\), 0 overtaken; age [\d.]+ ms, at most [\d.]+ ms$"


def scores(program) -> list[str]:
    return re.findall(r"^\w+ scored, \d+$", program.out, flags=re.MULTILINE)


async def test_states_are_lost_during_an_outage_and_scores_are_not(start, until) -> None:
    server = start("game.py", "server", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await server.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        # The player whose connection breaks joins first, so that it must receive all scores.
        far = start("game.py", "play", "far", "--server", proxy.url, "--bot")
        await server.says("^far joined$")
        near = start("game.py", "play", "near", "--server", str(endpoint), "--bot")
        await far.says("^near joined$")
        states, lost = (await far.says(MEASURED)).groups()
        assert int(states) > 10
        assert int(lost) == 0
        before = len(scores(server))
        await proxy.refuse()
        proxy.reset()
        await until(lambda: len(scores(server)) >= before + 2)
        proxy.accept()
        await far.says(r"^\d+ states, [1-9]\d* lost ")
        assert await near.ends(signal.SIGINT) == 130
        await far.says("^near left$")
        await near.says(MEASURED)
        received = scores(far)
        assert len(received) >= before + 2
        assert received == scores(server)[: len(received)]
    assert re.findall(MEASURED, near.out, flags=re.MULTILINE)[-1][1] == "0"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ...]:
    """Options for a certificate for 127.0.0.1, issued by ``ca.pem`` in the working directory of the examples."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "game.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "game.key"))
    return ("--certificate", "game.pem", "--key", "game.key")


async def test_packet_loss_over_quic_loses_states_and_not_scores(start, certificate) -> None:
    server = start("game.py", "server", "--listen", "quic://127.0.0.1:0", *certificate)
    endpoint = parse_url(await server.listens())
    async with DatagramProxy(endpoint.host, endpoint.port) as proxy:
        proxy.down = DatagramFaults(loss=0.2)
        far = start("game.py", "play", "far", "--server", proxy.url("quic"), "--ca", "ca.pem")
        await far.says("^far joined$")
        near = start("game.py", "play", "near", "--server", str(endpoint), "--ca", "ca.pem")
        await far.says(r"^[1-9]\d\d states, [1-9]\d+ lost ")
        await far.says(r"^near scored, \d+$")
        assert await near.ends(signal.SIGINT) == 130
        await far.says("^near left$")
        received = scores(far)
        assert received == scores(server)[: len(received)]


async def test_a_new_game_begins_after_a_restart_of_the_server(start) -> None:
    server = start("game.py", "server", "--listen", "tcp://127.0.0.1:0")
    url = await server.listens()
    bot = start("game.py", "play", "bot", "--server", url)  # without a terminal it plays by itself
    await bot.says("^bot scored, 1$")
    await bot.says(MEASURED)
    assert await server.ends(signal.SIGINT) == 130
    start("game.py", "server", "--listen", url)
    await bot.says("^bot joined$", times=2)
    await bot.says("^bot scored, 1$", times=2)
    assert await bot.ends(signal.SIGINT) == 130


async def test_playing_at_a_terminal(start, start_on_terminal) -> None:
    server = start("game.py", "server", "--listen", "tcp://127.0.0.1:0")
    player = start_on_terminal("game.py", "play", "zoe", "--server", await server.listens())
    await player.shows(r"\|[ $]{30}z[ $]{29}\|")
    await player.shows(r"zoe 0\r\n\d+ states, ")
    player.presses("d")
    await player.shows(r"\|[ $]{40}z[ $]{19}\|")
    player.presses("q")
    assert await player.ends() == 0
    assert player.err == ""
    await server.says("^zoe left$")


async def test_a_name_with_control_characters_is_refused(start) -> None:
    server = start("game.py", "server", "--listen", "tcp://127.0.0.1:0")
    bad = start("game.py", "play", "a\x1b[2J", "--server", await server.listens())
    assert await bad.ends() == 1
    assert bad.err.startswith("game.py: the server closed the line: use a name of 1 to 20 letters")
    assert "\x1b" not in server.out + server.err
