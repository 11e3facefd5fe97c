"""The documents exist, name everything public, and their programs run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import landline

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = (
    "demo",
    "serve",
    "agent",
    "discover",
    "ls",
    "watch",
    "logoff",
    "restart",
    "shutdown",
    "wake",
    "jobs",
    "cancel",
    "ping",
    "send-file",
    "receive-files",
)


def programs(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("name", [name for name in landline.__all__ if name != "__version__"])
def test_every_public_name_is_in_the_library_document(name: str) -> None:
    text = (ROOT / "docs" / "library.md").read_text()
    assert re.search(rf"landline\.{name}\b", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_fleet_document(command: str) -> None:
    text = (ROOT / "docs" / "fleet.md").read_text()
    assert re.search(rf"landline [a-z|]*\b{command}\b", text)


def test_the_command_line_has_no_other_commands() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "landline", "--help"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    listed = re.findall(r"^  ([\w-]+)  ", shown.split("Commands:")[1], flags=re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_in_the_documents(command: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "landline", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout
    text = (ROOT / "docs" / "fleet.md").read_text()
    options = set(re.findall(r"^\s+(--[a-z-]+)", shown, flags=re.MULTILINE)) - {"--help"}
    assert options
    assert {option for option in options if option not in text} == set()


def test_the_tests_that_are_named_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(tests/[\w./]+)`", text))
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_links_between_documents_lead_somewhere() -> None:
    broken = [
        (document.name, target)
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", ROOT / "docs" / "library.md"], ids=lambda path: path.name
)
def test_the_server_and_the_client_of_the_document_talk(document: Path, tmp_path: Path) -> None:
    server_text, client_text = [text for text in programs(document) if "async def main" in text][:2]
    # The document's port may be taken on this machine.
    url = f"unix://{tmp_path}/line.sock"
    server, client = (text.replace("tcp://127.0.0.1:5463", url) for text in (server_text, client_text))
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.DEVNULL) as serving:
        try:
            # The client retries until the server is there.
            answered = subprocess.run(
                [sys.executable, "-c", client], capture_output=True, text=True, timeout=50, check=False
            )
        finally:
            serving.terminate()
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout.splitlines()[0] in {"{'hello': 'world'}", "6"}


@pytest.mark.parametrize("name", ["library.md", "files.md"])
def test_the_other_programs_of_the_documents_run(name: str) -> None:
    for text in programs(ROOT / "docs" / name):
        if "async def main" not in text:
            subprocess.run([sys.executable, "-c", text], check=True, timeout=30)
