"""What an agent tells of its machine: always something the control server takes."""

from __future__ import annotations

import uuid
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landline.fleet.agent import facts as facts_module
from landline.fleet.agent.facts import _mac_addresses, default_name, machine_facts, machine_id
from landline.fleet.messages import FactsChecked, Name


def test_the_facts_of_this_machine_are_taken() -> None:
    facts = machine_facts(None, power="dry-run", version="1")
    assert msgspec.convert(msgspec.to_builtins(facts), FactsChecked).name == facts.name
    assert facts.power == "dry-run"
    assert facts.os
    assert machine_facts("lab-1", power="dry-run", version="1").name == "lab-1"


@pytest.mark.parametrize(
    ("host_name", "name"),
    [
        ("lab-1", "lab-1"),
        ("lab-1.example.org", "lab-1"),
        ("Adas MacBook", "Adas-MacBook"),
        ("größe", "gr-e"),
        ("-_lab_-", "lab"),
        ("#", "machine"),
        ("", "machine"),
        ("../../x", "machine"),
        ("x" * 100, "x" * 64),
    ],
)
def test_names_made_of_host_names(host_name: str, name: str) -> None:
    assert default_name(host_name) == name


@given(st.text())
def test_every_host_name_makes_a_name_that_is_taken(host_name: str) -> None:
    msgspec.convert(default_name(host_name), Name)


def test_the_machines_id_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "agent" / "machine-id"
    made = machine_id(path)
    assert str(uuid.UUID(made)) == made
    assert machine_id(path) == made
    path.write_text("not one\n")
    with pytest.raises(ValueError):
        machine_id(path)


def make_interface(root: Path, name: str, address: str | None, *, device: bool = True) -> None:
    interface = root / name
    interface.mkdir()
    if device:
        (interface / "device").mkdir()
    if address is not None:
        (interface / "address").write_text(address + "\n")


def test_only_addresses_that_can_be_woken_are_told(tmp_path: Path) -> None:
    make_interface(tmp_path, "eth0", "02:00:00:00:00:0A")
    make_interface(tmp_path, "eth1", "02:00:00:00:00:01")
    make_interface(tmp_path, "docker0", "02:00:00:00:00:02", device=False)
    make_interface(tmp_path, "ib0", "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:01:02:03")
    make_interface(tmp_path, "wwan0", "")
    make_interface(tmp_path, "odd0", "00:00:00:00:00:00")
    make_interface(tmp_path, "gone0", None)
    found = _mac_addresses(tmp_path)
    assert found == ("02:00:00:00:00:0a", "02:00:00:00:00:01")
    msgspec.convert({"name": "a", "mac_addresses": found}, FactsChecked)
    assert _mac_addresses(tmp_path / "none") == ()


def test_no_more_addresses_than_are_taken(tmp_path: Path) -> None:
    for number in range(40):
        make_interface(tmp_path, f"eth{number}", f"02:00:00:00:00:{number:02x}")
    found = _mac_addresses(tmp_path)
    assert len(found) == 32
    msgspec.convert({"name": "a", "mac_addresses": found}, FactsChecked)


def test_a_system_that_does_not_say_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, str]:
        raise OSError("no os-release")

    monkeypatch.setattr(facts_module.platform, "freedesktop_os_release", missing)
    assert machine_facts("a", power="", version="").os
