"""The metadata of the distributions, as a package index shows it. ``make package`` builds and checks them."""

import re
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

import landline

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_of(extra: str) -> set[str]:
    """Return the names of the packages that an extra installs, with those of the extras it includes."""
    found = set()
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
        if requirement.name == "landline":
            found |= {name for included in requirement.extras for name in packages_of(included)}
        else:
            found.add(requirement.name)
    return found


def test_the_page_of_the_index_has_no_relative_link():
    [substitution] = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = (ROOT / "README.md").read_text()
    shown = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert "](docs/" in text
    targets = re.findall(r"\]\(([^)\s]+)\)", shown)
    assert [target for target in targets if not target.startswith(("https://", "http://", "#"))] == []
    # The text of a removed link stays.
    assert shown.count("docs/fleet.md") == len(re.findall(r"\[docs/fleet\.md\]", text))


def test_uvloop_is_required_only_where_it_can_be_installed():
    [uvloop] = [
        requirement
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
        if requirement.name == "uvloop"
    ]
    here = {**default_environment(), "sys_platform": "linux", "platform_python_implementation": "CPython"}
    assert uvloop.marker.evaluate(here)
    assert not uvloop.marker.evaluate(here | {"sys_platform": "win32"})
    assert not uvloop.marker.evaluate(here | {"platform_python_implementation": "PyPy"})


def test_the_command_line_needs_no_package_of_the_fleet():
    assert packages_of("cli") == {"click", "ifaddr", "rich", "websockets", "zeroconf"}
    assert packages_of("cli") < packages_of("fleet")


def test_the_versions_agree():
    assert PROJECT["project"]["version"] == landline.__version__
    minimum = PROJECT["project"]["requires-python"].removeprefix(">=")
    classifiers = PROJECT["project"]["classifiers"]
    assert f"Programming Language :: Python :: {minimum}" in classifiers
    assert classifiers == sorted(classifiers)
