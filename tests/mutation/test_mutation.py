"""The mutator: which faults it makes, and that it sees whether tests find them."""

import pytest
from tests.mutation import __main__ as command
from tests.mutation.areas import AREAS, PACKAGE, Area, sources_of, stages_of
from tests.mutation.operators import mutants_of
from tests.mutation.runner import Trial, draw, score, try_mutants

BACKOFF = "landline/client/backoff.py"
ERRORS = "landline/errors.py"


def changes(source: str) -> set[str]:
    return {mutant.apply(source) for mutant in mutants_of(source)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b", {"(a <= b)"}),
        ("a is None", {"(a is not None)"}),
        ("a and b", {"(a or b)", "((a))", "((b))"}),
        ("not a", {"(bool(a))"}),
        ("return", {"pass"}),
        ("self.x = y", {"pass"}),
        ("f(x)", {"pass"}),
        ("size + 1", {"(size - 1)", "size + 2", "size + 0"}),
        ("x = True", {"x = False"}),
        ("if a: b", {"if (not (a)): b"}),
        ("def f(x=''): ...", {"def f(x='x'): ..."}),
        ("x = min(a, b)", {"x = max(a, b)"}),
        ("'ä', x > 0", {"'ä', (x >= 0)", "'ä', x > 1", "'ä', x > (-1)"}),
    ],
)
def test_the_faults_that_are_made(source: str, expected: set[str]) -> None:
    assert changes(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        '"""Only words."""',
        "logger.info(1)",
        "assert x > 0",
        "x = f'{a + 1}'",
        "if TYPE_CHECKING:\n    x = 1",
        "def __repr__(self): return 1",
        "__slots__ = (1,)",
        "def f(x: int | None): ...",
    ],
)
def test_places_without_behaviour_are_left_alone(source: str) -> None:
    assert changes(source) == set()


@pytest.mark.parametrize("name", AREAS)
def test_the_same_seed_draws_the_same_mutants_of_every_kind(name: str) -> None:
    area = AREAS[name]
    drawn = draw(area, 30, seed=7)
    assert drawn == draw(area, 30, seed=7) != draw(area, 30, seed=8)
    assert len(set(drawn)) == 30
    assert len({mutant.operator for _, mutant in drawn}) > 5
    sources = sources_of(area)
    for module, mutant in drawn:
        assert mutant.apply(sources[module]) != sources[module]
        compile(mutant.apply(sources[module]), module, "exec")


@pytest.mark.parametrize("name", AREAS)
def test_the_tests_of_an_area_exist(name: str) -> None:
    for module in sources_of(AREAS[name]):
        for stage in stages_of(AREAS[name], module):
            for path in stage:
                assert (PACKAGE.parents[1] / path).exists(), path


def test_a_fault_that_tests_find_and_one_that_none_looks_for(tmp_path) -> None:
    source = (PACKAGE.parent / BACKOFF).read_text(encoding="utf-8")
    mutants = mutants_of(source)
    fault = next(mutant for mutant in mutants if mutant.operator == "comparison")
    blind = Area(modules=("client/backoff.py",), stages=(), wanted=1.0)
    told: list[Trial] = []
    [found] = try_mutants("a", blind, [(BACKOFF, fault)], tmp_path / "a", jobs=1, report=told.append)
    assert found.killed_by == "tests/client/test_backoff.py"
    # The tests of another module do not see it.
    errors = (PACKAGE.parent / ERRORS).read_text(encoding="utf-8")
    unseen = next(mutant for mutant in mutants_of(errors) if mutant.operator == "remove statement")
    elsewhere = Area(modules=("errors.py",), stages=(("tests/client/test_backoff.py",),), wanted=1.0)
    [survivor] = try_mutants("a", elsewhere, [(ERRORS, unseen)], tmp_path / "b", jobs=1, report=told.append)
    assert survivor.killed_by is None
    assert told == [found, survivor]
    assert (PACKAGE.parent / BACKOFF).read_text(encoding="utf-8") == source


def test_the_score_counts_what_can_be_found(capsys) -> None:
    trial = {"area": "session", "module": "m", "line": 1, "mutant": "x"}
    found = Trial(**trial, killed_by="tests/session")
    survivor = Trial(**trial, killed_by=None)
    equivalent = Trial(**trial, killed_by=None, equivalent="the same for every input")
    assert score([found, found, found, survivor, equivalent]) == 0.75
    assert command._sum_up(["session"], [found, survivor]) == 1
    assert command._sum_up(["session"], [found, equivalent]) == 0
    assert "1 of 1 found (100%; 95% wanted), 1 equivalent" in capsys.readouterr().out
