"""The documents exist, name everything public, and their programs run."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.in_process import run_in_process

import landline
from landline.cli.command_line import SUBCOMMANDS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "landline"
EXAMPLES_OF_PATHS = {"src/landline/x/y.py", "tests/x/test_y.py", ".fuzz/", ".fuzz/crashes/"}
"""Paths in the pages for developers that stand for many, or are written by a program."""
PARAMETERS = {"now", "transport.write"}
"""Names of the architecture page that nothing in the source defines."""
DOCUMENTS = [
    path
    for folder in (ROOT, *(ROOT / name for name in ("docs", "examples", "benchmarks", "clients", "tests")))
    for path in sorted(folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
    if "node_modules" not in path.parts
]
COMMANDS = tuple(SUBCOMMANDS)
GROUPS = {"machines": ("resolve",)}
"""Commands that have commands of their own."""
LIBRARY_COMMANDS = ("ping", "call", "discover", "receive-files", "send-file")
"""Commands that work with any landline server."""
WHOLE_COMMANDS = (
    *(command for command in COMMANDS if command not in GROUPS),
    *(f"{group} {command}" for group, commands in GROUPS.items() for command in commands),
)


def programs(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("name", [name for name in landline.__all__ if name != "__version__"])
def test_every_public_name_is_in_the_reference(name: str) -> None:
    text = (ROOT / "docs" / "reference.md").read_text()
    assert re.search(rf"landline\.{name}\b", text)


@pytest.mark.parametrize("command", WHOLE_COMMANDS)
def test_every_command_is_in_the_documents(command: str) -> None:
    pages = ["library.md", "reference.md"] if command in LIBRARY_COMMANDS else ["fleet.md"]
    for page in pages:
        assert re.search(rf"landline [a-z|]*\b{command}\b", (ROOT / "docs" / page).read_text())


@pytest.mark.parametrize(("group", "commands"), GROUPS.items())
def test_the_command_line_has_no_other_commands(group: str, commands: tuple[str, ...]) -> None:
    shown = run_in_process([*group.split(), "--help"], os.environ).out
    listed = re.findall(r"^  ([\w-]+)  ", shown.split("Commands:")[1], flags=re.MULTILINE)
    assert sorted(listed) == sorted(commands)


@pytest.mark.parametrize("command", WHOLE_COMMANDS)
def test_every_option_of_a_command_is_in_the_documents(command: str) -> None:
    shown = run_in_process([*command.split(), "--help"], os.environ).out
    page = "reference.md" if command in LIBRARY_COMMANDS else "fleet.md"
    text = (ROOT / "docs" / page).read_text()
    options = set(re.findall(r"^\s+(--[a-z-]+)", shown, flags=re.MULTILINE)) - {"--help"}
    assert options
    assert {option for option in options if option not in text} == set()


def test_the_tests_that_are_named_exist() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(tests/[\w./]+)`", text))
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists()} == set()


def prose_of(document: Path) -> str:
    """The document without its blocks of code, in which brackets and ``#`` mean other things."""
    return re.sub(r"^(```|~~~).*?^\1[^\n]*$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, named as the web pages of code hosts name them."""
    anchors: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", prose_of(document), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        number = anchors.get(slug, 0)
        anchors[slug] = number + 1
        found.add(f"{slug}-{number}" if number else slug)
    return found


def links_of(document: Path) -> list[tuple[str, str]]:
    """``(path, anchor)`` of every relative link; the path is empty for a link within the document."""
    targets = re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", prose_of(document))
    return [
        (path, anchor)
        for path, _, anchor in (target.partition("#") for target in targets)
        if not re.match(r"[a-z][a-z0-9+.-]*:", path)
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_says_something_and_its_links_lead_somewhere(document: Path) -> None:
    assert len(document.read_text().split()) >= 20, "a merge once emptied a document"
    broken = []
    for path, anchor in links_of(document):
        target = document.parent / path if path else document
        if not target.exists():
            broken.append(f"{path}: no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors_of(target)):
            broken.append(f"{path}#{anchor}: no such heading")
    assert broken == []


def test_the_documents_that_must_exist_do() -> None:
    names = {str(document.relative_to(ROOT)) for document in DOCUMENTS}
    assert names >= {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"}
    library = {"library", "reference", "explanation", "files", "transports", "protocol"}
    assert names >= {f"docs/{name}.md" for name in library | {"fleet", "architecture", "reliability"}}


def test_anchors_are_those_of_the_headings(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# One `two` (three)!\n```\n# no heading\n```\n## Same\n## Same\n## See [it](x.md)\n")
    assert anchors_of(document) == {"one-two-three", "same", "same-1", "see-it"}
    document.write_text("[a](b.md#c) ![d](e.svg) [f](https://g/h#i) [j](#k)\n```\n[l](m.md)\n```\n")
    assert links_of(document) == [("b.md", "c"), ("e.svg", ""), ("", "k")]


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", ROOT / "docs" / "library.md"], ids=lambda path: path.name
)
def test_the_server_and_the_client_of_the_document_talk(document: Path, tmp_path: Path) -> None:
    server_text, client_text = [text for text in programs(document) if "async def main" in text]
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


OTHER_PROGRAMS = [
    pytest.param(text, id=f"{name}-{number}")
    for name in ("library.md", "reference.md", "explanation.md", "files.md")
    for number, text in enumerate(programs(ROOT / "docs" / name), 1)
    if "async def main" not in text
]


@pytest.mark.parametrize("text", OTHER_PROGRAMS)
def test_the_other_programs_of_the_documents_run(text: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == 0, ended.stderr


# The architecture page


def names_of_the_source() -> set[str]:
    """Modules, classes and functions, with their members: ``jobs.plan``, ``Session.attach``, ``FRAME_BYTES_MAX``."""
    names = set()

    def add(node: ast.AST, owners: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            found: list[str] = []
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found = [child.name]
            elif isinstance(child, ast.Assign | ast.AnnAssign):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                found = [target.id for target in targets if isinstance(target, ast.Name)]
            for name in found:
                names.update({name, *(f"{owner}.{name}" for owner in owners)})
            if isinstance(child, ast.ClassDef):
                add(child, (child.name, *(f"{owner}.{child.name}" for owner in owners)))

    for path in sorted(SOURCE.rglob("*.py")):
        module = path.parent.name if path.name == "__init__.py" else path.stem
        names.add(module)
        add(ast.parse(path.read_text()), (module,))
    return names


def quoted_names(document: Path) -> set[str]:
    """What the document has in backticks on one line; of ``a/{b,c}.py`` each of the two."""
    found = set()
    for quoted in re.findall(r"`([^`\n]+)`", prose_of(document)):
        braces = re.match(r"(.*)\{(.*)\}(.*)", quoted)
        found |= {braces[1] + one + braces[3] for one in braces[2].split(",")} if braces else {quoted}
    return found


def is_path(name: str) -> bool:
    return re.fullmatch(r"[\w.][\w./-]*/[\w./-]*|[\w-]+\.(?:py|md)", name) is not None


def exists(path: str) -> bool:
    """Whether it exists in the repository or in the package; a file without its folder anywhere in them."""
    is_found = (ROOT / path).exists() or (SOURCE / path).exists()
    return is_found or (
        "/" not in path and any(next(top.rglob(path), None) for top in (SOURCE, ROOT / "tests"))
    )


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_paths_of_a_page_for_developers_exist(page: str) -> None:
    paths = {name for name in quoted_names(ROOT / page) if is_path(name)} - EXAMPLES_OF_PATHS
    assert len(paths) > 20
    assert {path for path in paths if not exists(path)} == set()


def test_the_names_of_the_architecture_page_exist() -> None:
    quoted = quoted_names(ROOT / "docs" / "architecture.md")
    names = {
        name for name in quoted if re.fullmatch(r"[A-Za-z_][\w.]*", name) and not is_path(name)
    } - PARAMETERS
    assert len(names) > 40
    source = names_of_the_source()
    assert {name for name in names if re.sub(r"^landline\.(testing\.)?", "", name) not in source} == set()


def test_the_check_of_the_architecture_page_finds_names() -> None:
    names = names_of_the_source()
    assert {"Session.attach", "jobs.claim", "parse_url", "FRAME_BYTES_MAX", "texts.safe_text"} <= names
    assert "Session.detach_everything" not in names
