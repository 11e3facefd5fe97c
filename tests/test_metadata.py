"""What a package index shows of the project."""

import re
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_page_of_the_index_has_no_link_into_a_tree_it_does_not_have():
    [substitution] = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]
    text = (ROOT / "README.md").read_text()
    shown = re.sub(substitution["pattern"], substitution["replacement"], text)
    assert "](docs/" in text
    targets = re.findall(r"\]\(([^)\s]+)\)", shown)
    assert [target for target in targets if not target.startswith(("https://", "http://", "#"))] == []
    # What was linked is still named.
    assert shown.count("docs/fleet.md") == len(re.findall(r"\[docs/fleet\.md\]", text))


def test_uvloop_is_wanted_only_where_it_can_be_installed():
    [uvloop] = [
        requirement
        for requirement in map(Requirement, PROJECT["project"]["dependencies"])
        if requirement.name == "uvloop"
    ]
    here = {**default_environment(), "sys_platform": "linux", "platform_python_implementation": "CPython"}
    assert uvloop.marker.evaluate(here)
    assert not uvloop.marker.evaluate(here | {"sys_platform": "win32"})
    assert not uvloop.marker.evaluate(here | {"platform_python_implementation": "PyPy"})
