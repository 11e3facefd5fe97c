"""The fuzzer starts from useful seeds, finds faults, and reports how to reproduce them."""

import itertools

import pytest
from tests.fuzz import engines
from tests.fuzz.__main__ import main
from tests.fuzz.memory import held_bytes
from tests.fuzz.seeds import SEEDS, seeds_of
from tests.fuzz.targets import TARGETS


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "FOLDER", tmp_path)
    monkeypatch.setattr("tests.fuzz.__main__.has_atheris", lambda: False)
    return tmp_path


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_passes_on_its_seeds_and_their_mutations(target):
    outcome = engines.run_unguided(target, 0.3, seed=1)
    assert outcome.crash is None
    assert int(outcome.summary.split()[0]) >= len(seeds_of(target)) > 0
    TARGETS[target](b"")


def test_every_target_has_seeds():
    assert list(SEEDS) == list(TARGETS)


def test_the_seeds_of_handshakes_succeed():
    """Otherwise the code after WELCOME would not be fuzzed."""
    from tests.fuzz.targets import IDENTITY, SERVER_RANDOM, TOKEN, is_proven

    from landline.session.handshake import ServerHandshake

    plain, resuming, *_ = seeds_of("server_handshake")
    for seed, wants_resume in ((plain, False), (resuming, True)):
        server = ServerHandshake(random=SERVER_RANDOM, now=0.0)
        hello = server.feed(seed)
        assert TOKEN.identify(hello.auth, server_nonce=server.nonce, client_nonce=hello.nonce) == IDENTITY
        assert (hello.resume is not None and is_proven(hello.resume, SERVER_RANDOM)) == wants_resume


def test_a_crash_is_saved_and_replayed(folder, monkeypatch, capsys):
    def values(data):
        assert data[:1] != b"\x05", "five"

    monkeypatch.setitem(TARGETS, "values", values)
    assert main(["--target", "values", "--minutes", "0.01", "--seed", "1"]) == 1
    printed = capsys.readouterr()
    [crash] = (folder / "crashes").iterdir()
    assert "atheris is not installed" in printed.out
    assert f"-m tests.fuzz --replay {crash}" in printed.out
    assert "AssertionError: five" in printed.err
    assert main(["--replay", str(crash)]) == 1
    monkeypatch.setitem(TARGETS, "values", lambda data: None)
    assert main(["--replay", str(crash)]) == 0
    assert "values holds on these" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text"), [("other-1", "does not begin with the name of a target"), ("values-1", "cannot read")]
)
def test_a_file_that_cannot_be_replayed_is_explained(folder, capsys, name, text):
    with pytest.raises(SystemExit):
        main(["--replay", str(folder / name)])
    assert text in capsys.readouterr().err


def test_the_targets_are_listed(capsys):
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TARGETS)


def test_memory_is_counted_completely_and_once():
    class Slotted:
        __slots__ = ("one", "two", "unset")

    text, thing = "x" * 1000, Slotted()
    thing.one, thing.two = {"key": [text]}, {text}
    assert 2000 > held_bytes(thing) > 1000
    assert held_bytes([text, text], text) < 2000
    assert held_bytes([bytes(1000)], bytearray(2000)) > 3000
    assert held_bytes(list(itertools.repeat(None, 100))) > 800
