"""Properties of all examples."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SERVERS = {
    "echo.py": ("server", "--listen"),
    "chat.py": ("server", "--listen"),
    "calls.py": ("server", "--listen"),
    "telemetry.py": ("collector", "--listen"),
    "workers.py": ("count", "--listen"),
    "media.py": ("server", "--listen"),
    "filedrop.py": ("receive", "inbox", "--listen"),
    "game.py": ("server", "--listen"),
}
"""Arguments of the example that listens, before its URL."""
CLIENTS = {
    "echo.py": ("client", "--server"),
    "chat.py": ("join", "alice", "--server"),
    "calls.py": ("client", "--server"),
    "telemetry.py": ("sensors", "--count", "3", "--server"),
    "workers.py": ("work", "--server"),
    "media.py": ("view", "--server"),
    "filedrop.py": ("send", "file.txt", "--server"),
    "game.py": ("play", "alice", "--server"),
    "fastapi_app.py": ("join", "kiosk", "--server"),
}
"""Arguments of the example that connects, before its URL."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_has_help_usage_and_tests(path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert shown.startswith("usage: ")
    listed = (ROOT / "examples" / "README.md").read_text()
    assert f"[{path.name}]({path.name})" in listed
    assert f"python examples/{path.name}" in path.read_text().split('"""')[1]
    assert (Path(__file__).parent / f"test_{path.stem}.py").exists()


def test_the_readme_lists_all_examples() -> None:
    listed = set(re.findall(r"\]\((\w+\.py)\)", (ROOT / "examples" / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES} == set(CLIENTS)
    assert set(CLIENTS) - set(SERVERS) == {"fastapi_app.py"}  # it serves HTTP, on a port


@pytest.mark.parametrize(("name", "arguments"), [("echo.py", SERVERS["echo.py"]), *CLIENTS.items()])
async def test_an_invalid_url_prints_one_error_line(name: str, arguments: tuple[str, ...], start) -> None:
    program = start(name, *arguments, "http://127.0.0.1:5463")
    assert await program.ends() == 1
    assert re.fullmatch(
        rf"{name}: invalid URL 'http://127.0.0.1:5463': it does not begin with one of .*\n", program.err
    )


@pytest.mark.parametrize(("name", "arguments"), SERVERS.items())
async def test_ctrl_c_and_a_port_in_use_print_no_traceback(
    name: str, arguments: tuple[str, ...], start
) -> None:
    first = start(name, *arguments, "tcp://127.0.0.1:0")
    url = await first.listens()
    second = start(name, *arguments, url)
    assert await second.ends() == 1
    assert (
        second.err
        == f"{name}: {url} is already in use by another program; stop that program or choose another port\n"
    )
    assert await first.ends(signal.SIGINT) == 130
    assert first.err == ""


@pytest.mark.parametrize(("name", "arguments"), CLIENTS.items())
async def test_ctrl_c_ends_a_client_without_a_server(
    name: str, arguments: tuple[str, ...], start, until
) -> None:
    with socket.socket() as taken:
        # Bound and not listening: connections are refused, and no other program gets the port.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        url = f"ws://127.0.0.1:{port}/line/" if name == "fastapi_app.py" else f"tcp://127.0.0.1:{port}"
        client = start(name, *arguments, url)
        await until(
            lambda: re.search("connection refused|0 of 3 sensors are connected", client.out + client.err)
        )
        assert await client.ends(signal.SIGINT) == 130


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("telemetry.py", "sensors", "--count", "0"),
            2,
            "telemetry.py: error: --count must be at least 1",
        ),
        (
            ("media.py", "view", "--wav", "/nowhere/x.wav"),
            1,
            "media.py: [Errno 2] No such file or directory:",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_invalid_arguments_print_one_error_line(arguments, status: int, message: str) -> None:
    example, *options = arguments
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), *options],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == status
    assert ended.stderr.splitlines()[-1].startswith(message)
