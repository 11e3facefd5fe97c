"""What the library exports, and that the fleet and the command line use nothing else of it."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import landline

PACKAGE = Path(landline.__file__).parent
REPOSITORY = Path(__file__).parent.parent
ABOVE = {"fleet", "cli"}


def test_all_names_what_is_loaded_lazily():
    lazy = [name for names in landline._HOMES.values() for name in names]
    assert len(lazy) == len(set(lazy))
    assert set(landline.__all__) == {*lazy, "__version__"}
    assert len(landline.__all__) == len(set(landline.__all__))
    assert dir(landline) == sorted(landline.__all__)


def test_type_checkers_see_the_same_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        (node.module, alias.name)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(home, name) for home, names in landline._HOMES.items() for name in names}


@pytest.mark.parametrize("name", landline.__all__)
def test_every_name_resolves(name):
    assert getattr(landline, name) is not None


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="module 'landline' has no attribute 'nonsense'"):
        landline.nonsense  # noqa: B018
    with pytest.raises(ImportError):
        from landline import nonsense  # noqa: F401


def test_importing_landline_alone_loads_next_to_nothing():
    script = (
        "import sys, landline; dir(landline); landline.__version__; "
        "print([name for name in ('asyncio', 'uvloop', 'msgspec', 'ssl', 'landline.testing') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", landline.__all__)
def test_everything_public_says_what_it_is_for(name):
    value = getattr(landline, name)
    if inspect.isfunction(value):
        assert value.__doc__
    if not inspect.isclass(value):
        return
    assert vars(value).get("__doc__")
    protocol = getattr(value, "_is_protocol", False)
    for name, member in members(value):
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(inspect.unwrap(function)):
            continue
        inherited = any(getattr(base, name, None) for base in implemented(value)) and not protocol
        assert inspect.getdoc(function) or inherited, f"{value.__name__}.{name} has no docstring"


@pytest.mark.parametrize(
    ("kind", "variable"),
    [
        (landline.Server, "server"),
        (landline.Connector, "connector"),
        (landline.Group, "group"),
        (landline.IdentityTracker, "identities"),
    ],
)
def test_a_public_object_shows_its_documented_names_only(kind, variable):
    # dir() of an object, as auto-completion uses it.
    made = {"server": landline.Server(), "connector": landline.connect("tcp://127.0.0.1:1")}
    made |= {"group": made["server"].group("all"), "identities": made["server"].identities}
    assert isinstance(made[variable], kind)
    shown = {name for name in dir(made[variable]) if not name.startswith("_")}
    pages = "".join((REPOSITORY / "docs" / page).read_text() for page in ("reference.md", "files.md"))
    documented = set(re.findall(rf"\b{variable}\.(\w+)", pages))
    assert shown == documented & shown
    # "server.pem" and "server.key" are files.
    assert documented - shown <= {"pem", "key"}


def members(value):
    """What a class offers, with what it has from the classes of landline's it is built on."""
    for layer in value.__mro__:
        if layer.__module__.split(".")[0] == "landline":
            yield from vars(layer).items()


def implemented(value):
    """The protocols in which the methods of a class are described."""
    from landline.line.interfaces import LineHost

    return (landline.ClientAuth, landline.ServerAuth, LineHost)


def imports_of(path: Path):
    """``(module, name)`` of every import of landline's in a file; the name is empty for ``import module``."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "landline":
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module.split(".")[0] == "landline":
                for alias in node.names:
                    yield node.module, alias.name


def is_above(module: str) -> bool:
    return module.split(".")[1:2] in (["fleet"], ["cli"])


@pytest.mark.parametrize("part", sorted(ABOVE))
def test_the_parts_above_use_only_public_names_of_the_library(part):
    wrong = []
    for path in sorted((PACKAGE / part).rglob("*.py")):
        for module, name in imports_of(path):
            if is_above(module):
                continue
            if module == "landline" and (not name or name in landline.__all__ or name in ABOVE):
                continue
            wrong.append(f"{path.relative_to(PACKAGE)}: from {module} import {name}")
    assert wrong == []


def test_the_library_knows_nothing_of_the_parts_above():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in ABOVE | {"__main__.py"}:
            continue
        wrong.extend(
            f"{path.relative_to(PACKAGE)}: {module} {name}"
            for module, name in imports_of(path)
            if is_above(module) or (module == "landline" and name in ABOVE)
        )
    assert wrong == []
