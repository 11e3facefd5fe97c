"""Start-up: what a command must not import before it needs it, and what it says when a package is missing."""

import subprocess
import sys

import pytest

import landline

SLOW_TO_IMPORT = {
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


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nonsense"]])
def test_no_command_is_imported_before_it_is_used(arguments, directory):
    loaded = modules_after(*arguments, directory=directory)
    assert "landline.cli.command_line" in loaded
    assert loaded & (SLOW_TO_IMPORT | {"msgspec"}) == set()
    assert not any(name.startswith("landline.fleet") or name.endswith("_commands") for name in loaded)


@pytest.mark.parametrize("arguments", [["ls", "--help"], ["ls"], ["jobs"], ["restart", "a", "--yes"]])
def test_no_server_code_is_imported(arguments, directory):
    loaded = modules_after(*arguments, directory=directory)
    assert "landline.cli.api_client" in loaded
    # http.client imports ssl.
    forbidden = SLOW_TO_IMPORT if "--help" in arguments else SLOW_TO_IMPORT - {"ssl"}
    assert loaded & forbidden == set()
    own = {m for m in loaded if m.startswith("landline.") and not m.startswith("landline.cli")}
    assert own <= {
        "landline.texts",
        "landline.fleet",
        "landline.fleet.api",
        "landline.fleet.model",
        "landline.fleet.paths",
    }


async def test_the_version(cli):
    ended = await cli.run_process("--version")
    assert (ended.status, ended.out) == (0, f"landline {landline.__version__}\n")


def run_without(package, *arguments):
    program = f"import sys; sys.modules[{package!r}] = None; from landline.cli import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


def test_without_click_a_sentence_names_the_extra_to_install():
    ended = run_without("click", "--version")
    assert ended.returncode == 2
    assert ended.stderr == "The command line is not installed; install it with: pip install 'landline[cli]'\n"


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("litestar", ["serve"]),
        ("sqlalchemy", ["demo"]),
        ("structlog", ["agent", "--server", "tcp://127.0.0.1:1", "--token-file", "TOKEN"]),
    ],
)
def test_without_the_fleet_its_commands_name_the_extra_to_install(package, arguments, tmp_path):
    (tmp_path / "token").write_text("a token of sixteen characters or more\n")
    (tmp_path / "token").chmod(0o600)
    arguments = [str(tmp_path / "token") if each == "TOKEN" else each for each in arguments]
    ended = run_without(package, *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"'landline {arguments[0]}' needs the fleet, which is not installed ({package} is missing); install it with: "
        "pip install 'landline[fleet]'\n"
    )


@pytest.mark.parametrize("command", ["ls", "ping", "call", "send-file", "receive-files", "discover"])
def test_other_commands_need_no_package_of_the_fleet(command):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['litestar', 'sqlalchemy', 'structlog', 'uvicorn', 'alembic', "
        "'aiosqlite', 'wakeonlan', 'dbus_fast'])); from landline.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", program, command, "--help"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
