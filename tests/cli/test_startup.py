"""Starting fast: what the command line must not import before it needs it."""

import re
import subprocess
import sys

import pytest

import landline

FORBIDDEN = {
    "litestar",
    "uvicorn",
    "sqlalchemy",
    "uvloop",
    "asyncio",
    "rich",
    "structlog",
    "pydantic",
    "anyio",
    "ssl",
}

PROGRAM = """
import sys
from landline.cli import main
try:
    main()
except SystemExit:
    pass
print(*sorted(sys.modules), file=sys.stderr)
"""


def modules_after(*arguments, directory):
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        env={"LANDLINE_RUNTIME_DIR": str(directory), "PATH": ""},
    )
    return set(ended.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ls", "--help"], ["ls"], ["jobs"], ["restart", "a", "--yes"]]
)
def test_no_server_code_is_imported(arguments, directory):
    loaded = modules_after(*arguments, directory=directory)
    assert "landline.cli.job_commands" in loaded
    # http.client brings ssl along where it is used.
    forbidden = FORBIDDEN if "--help" in arguments else FORBIDDEN - {"ssl"}
    assert loaded & forbidden == set()
    ours = {m for m in loaded if m.startswith("landline.") and not m.startswith("landline.cli")}
    assert ours <= {
        "landline.texts",
        "landline.fleet",
        "landline.fleet.api",
        "landline.fleet.model",
        "landline.fleet.paths",
    }


@pytest.mark.parametrize("command", ["jobs", "ping", "restart", "send-file", "receive-files", "agent"])
async def test_help_is_for_people_who_know_no_python(cli, command):
    ended = await cli.run(command, "--help")
    assert ended.status == 0
    assert "str" not in re.findall(r"\w+", ended.out)
    assert "[[" not in ended.out


async def test_the_version(cli):
    ended = await cli.run("--version")
    assert (ended.status, ended.out) == (0, f"landline {landline.__version__}\n")


def test_without_typer_one_sentence_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; from landline.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "The command line needs more than the library; install landline[fleet].\n"
