"""examples/echo.py"""

import re
import signal

from landline import parse_url
from landline.testing import FaultProxy


async def test_words_are_returned(start) -> None:
    url = await start("echo.py", "server", "--listen", "tcp://127.0.0.1:0").listens()
    client = start("echo.py", "client", "--server", url, "hello", "wörld")
    assert await client.ends() == 0
    assert re.fullmatch(r"-- online, new session\nhello  \(.* ms\)\nwörld  \(.* ms\)\n", client.out)


async def test_numbers_continue_over_cuts_and_a_restart(start) -> None:
    server = start("echo.py", "server", "--listen", "tcp://127.0.0.1:0")
    endpoint = parse_url(await server.listens())
    async with FaultProxy(endpoint.host, endpoint.port) as proxy:
        client = start("echo.py", "client", "--server", proxy.url, "--interval", "0.02")
        await client.says(r"^5  ")
        proxy.reset()
        await client.says("^-- online, session resumed")
        assert await server.ends(signal.SIGINT) == 130
        await client.says("^-- the server stops; retrying in ")
        again = start("echo.py", "server", "--listen", str(endpoint))
        await again.listens()
        await client.says("^-- online, new session", times=2)
        last = int((await client.says(r"^(\d+)[: ]")).group(1))
        await client.says(rf"^{last + 3}  ")
        assert await client.ends(signal.SIGINT) == 130
    assert "retrying" not in client.err
    numbers = [int(number) for number in re.findall(r"^(\d+)[: ]", client.out, flags=re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
