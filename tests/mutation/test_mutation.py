"""The mutator: which faults it makes, and that it sees whether tests find them."""

import ast
from pathlib import Path

import pytest
from tests.mutation import __main__ as command
from tests.mutation.areas import AREAS, PACKAGE, Area, sources_of, stages_of
from tests.mutation.known_faults import FROM_HISTORY, KNOWN_FAULTS, SAFEGUARDS, KnownFault
from tests.mutation.known_runner import KnownTrial, import_problem, judge
from tests.mutation.operators import mutants_of
from tests.mutation.runner import PytestRun, Trial, draw, score, try_mutants
from tests.simulation.ablations import ABLATIONS

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


@pytest.mark.parametrize("fault", KNOWN_FAULTS, ids=lambda fault: fault.name)
def test_a_known_fault_can_be_put_into_the_code_of_today(fault: KnownFault) -> None:
    source = (PACKAGE / fault.module).read_text(encoding="utf-8")
    faulty = fault.apply(source)
    assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(source))
    for test in fault.tests:
        path, _, function = test.partition("::")
        text = (PACKAGE.parents[1] / path).read_text(encoding="utf-8") if path.endswith(".py") else ""
        assert text or (PACKAGE.parents[1] / path).is_dir()
        assert not function or f"def {function.partition('[')[0]}(" in text


def test_the_list_of_known_faults_is_complete() -> None:
    assert len({fault.name for fault in KNOWN_FAULTS}) == len(KNOWN_FAULTS)
    assert len(FROM_HISTORY) >= 20
    assert all(fault.commit for fault in FROM_HISTORY)
    # The simulation switches off jitter in its own way.
    switched_off = {ablation.name for ablation in ABLATIONS} | {"jitter"}
    assert {fault.ablation for fault in SAFEGUARDS} == switched_off


def test_a_fault_that_cannot_be_put_in_is_an_error() -> None:
    fault = KnownFault(name="x", what="", module="errors.py", old="no such text", new="", tests=())
    with pytest.raises(ValueError, match=r"x: the text to replace occurs 0 times in errors\.py"):
        fault.apply("")


@pytest.mark.parametrize(
    ("faulty", "unchanged", "found_by", "problem"),
    [
        (PytestRun(status=1, first_failed="t.py::a"), 0, "t.py::a", ""),
        (PytestRun(status=None), 0, "a test that did not end", ""),
        (PytestRun(status=0), None, None, ""),
        (PytestRun(status=1, first_failed="t.py::a"), 1, None, "without the fault, t.py::b fails too"),
        (PytestRun(status=2), None, None, "pytest ended with status 2"),
    ],
)
def test_a_known_fault_counts_only_if_a_test_finds_it(
    faulty: PytestRun, unchanged: int | None, found_by: str | None, problem: str
) -> None:
    def run_unchanged() -> PytestRun:
        assert unchanged is not None
        return PytestRun(status=unchanged, first_failed="t.py::b" if unchanged else "")

    assert judge("x", faulty, run_unchanged) == KnownTrial(name="x", found_by=found_by, problem=problem)


def test_a_module_that_cannot_be_imported_is_no_fault_of_behaviour(tmp_path: Path) -> None:
    package = tmp_path / "src" / "landline"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "good.py").touch()
    (package / "bad.py").write_text("1 / 0")
    assert import_problem("good.py", tmp_path) == ""
    assert "landline.bad cannot be imported" in import_problem("bad.py", tmp_path)
