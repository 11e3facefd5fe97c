"""Reconnect storms at a tiny size, and the page that shows them. Their speed is not tested."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from benchmarks import scale, storm
from benchmarks.document import filled
from benchmarks.reconnect_curve import ReconnectCurve
from benchmarks.scale import FILES, PATH

CLIENTS = 30


def make_curve(**changes: object) -> ReconnectCurve:
    curve = ReconnectCurve(
        clients=10,
        away_s=5.0,
        jitter=True,
        per_s=1000.0,
        bin_s=0.5,
        attempts=[4, 5, 6, 1],
        returned=[4, 1, 5, 0],
    )
    return msgspec.structs.replace(curve, **changes)


def test_all_clients_reconnect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curves.json"
    options = ["--clients", str(CLIENTS), "--away-s", "0.3", "--steady-s", "0"]
    assert storm.main([*options, "--json", str(path)]) == 0
    found = scale.load(path)
    assert [(each.jitter, each.per_s is not None) for each in found] == [
        (True, True),
        (False, True),
        (True, False),
        (False, False),
    ]
    for each in found:
        assert each.clients == sum(each.returned) == sum(each.attempts) == CLIENTS
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("options", [["--clients", "0"], ["--away-s", "-1"], ["--per-s", "0"]])
def test_invalid_arguments_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert storm.main(options) == 2
    assert "greater than 0" in capsys.readouterr().err


def test_what_make_curve_says() -> None:
    found = make_curve()
    assert found.peak == 11
    assert found.share_back_s(0.5) == 1.0
    assert found.share_back_s(1.0) == 1.5
    assert found.title == "jitter, admission 1,000/s"
    assert make_curve(jitter=False, per_s=None).title == "no jitter, no admission"
    with pytest.raises(ValueError, match="only 4 of 10 reconnected"):
        make_curve(returned=[4]).share_back_s(1.0)


def test_the_page_shows_the_files() -> None:
    text = PATH.read_text(encoding="utf-8")
    assert scale.rendered(text) == text
    for path in FILES.values():
        assert f"(scale/{path.stem}.svg)" in text
        assert path.with_suffix(".svg").exists()
    with pytest.raises(ValueError, match="0 markers for the results of 'real'"):
        filled("", "real", "")


def test_the_same_curves_give_the_same_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots need matplotlib: uv sync --group plots")
    from benchmarks.plots import plot_curves

    for name in ("one.svg", "two.svg"):
        plot_curves([make_curve(), make_curve(jitter=False)], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
