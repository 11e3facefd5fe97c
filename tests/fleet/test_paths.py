"""Where a control server and its commands find each other."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from landline.fleet.paths import control_socket, control_sockets, is_there

DOCUMENT = Path(__file__).parents[2] / "docs" / "fleet.md"
SYSTEM = Path("/run/landline/control.sock")


@pytest.fixture
def variables(monkeypatch):
    """Sets the user and the variables; all others that count are unset."""

    def set_them(user: int, **values: str) -> None:
        monkeypatch.setattr(os, "getuid", lambda: user)
        for name in ("LANDLINE_RUNTIME_DIR", "XDG_RUNTIME_DIR", "RUNTIME_DIRECTORY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_them


@pytest.mark.parametrize(
    "values", [{}, {"XDG_RUNTIME_DIR": "/run/user/0"}, {"RUNTIME_DIRECTORY": "/run/landline"}], ids=str
)
def test_roots_service_and_shell_agree(variables, values):
    variables(0, **values)
    assert control_socket() == SYSTEM
    assert control_sockets() == (SYSTEM,)


def test_a_users_places_in_order(variables, tmp_path):
    temporary = Path("/tmp/landline-4000000001/control.sock")
    variables(4_000_000_001)
    assert control_socket() == temporary
    assert control_sockets() == (temporary, SYSTEM)
    variables(4_000_000_001, XDG_RUNTIME_DIR=str(tmp_path))
    assert control_socket() == tmp_path / "landline" / "control.sock"
    assert control_sockets() == (tmp_path / "landline" / "control.sock", temporary, SYSTEM)


def test_the_directory_of_logind_is_found_without_the_variable(variables, monkeypatch):
    variables(4_000_000_001)
    of_user = Path("/run/user/4000000001")
    is_dir = Path.is_dir
    monkeypatch.setattr(Path, "is_dir", lambda self: self == of_user or is_dir(self))
    assert control_socket() == of_user / "landline" / "control.sock"
    assert len(control_sockets()) == 3


def test_a_unit_determines_its_socket(variables):
    variables(4_000_000_001, RUNTIME_DIRECTORY="/run/landline:/run/other")
    assert control_socket() == SYSTEM
    assert SYSTEM in control_sockets()


@pytest.mark.parametrize("user", [0, 4_000_000_001])
def test_an_explicit_directory_is_the_only_one(variables, tmp_path, user):
    variables(user, LANDLINE_RUNTIME_DIR=str(tmp_path), XDG_RUNTIME_DIR="/x", RUNTIME_DIRECTORY="/y")
    assert control_socket() == tmp_path / "control.sock"
    assert control_sockets() == (tmp_path / "control.sock",)


def test_a_directory_that_keeps_us_out_may_hold_it(tmp_path, monkeypatch):
    assert not is_there(tmp_path / "none")
    assert not is_there(tmp_path / "none" / "control.sock")
    (tmp_path / "control.sock").touch()
    assert is_there(tmp_path / "control.sock")

    def refuse(self):
        raise PermissionError

    monkeypatch.setattr(Path, "lstat", refuse)
    assert is_there(tmp_path / "control.sock")


def units() -> list[str]:
    return [
        unit
        for unit in re.findall(r"```ini\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
        if "[Unit]" in unit
    ]


def test_the_units_of_the_document_are_right(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze")
    assert len(units()) >= 2
    for number, unit in enumerate(units()):
        # Whether the program is there is not what is checked.
        path = tmp_path / f"landline-{number}.service"
        path.write_text(
            unit.replace("/opt/landline/bin/landline", "/bin/true").replace("User=landline", "User=root")
        )
        ended = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
        )
        assert ended.stderr + ended.stdout == ""
        assert ended.returncode == 0
