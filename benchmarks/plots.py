"""Rows and storms as plots. The same figures give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from benchmarks.report import Row, format_number
from benchmarks.scale import Return

# Readable on white and on black: the background is left transparent.
INK: Final = "#7a7f87"
OURS: Final = "#2f81f7"
PEER: Final = "#9aa4b1"
LIMIT: Final = "#d1242f"
STYLE: Final[dict[str, Any]] = {
    "svg.hashsalt": "landline",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}
LOGARITHMIC_FROM: Final = 20.0
"""How far the largest and the smallest figure must be apart for a logarithmic scale."""


def plot(row: Row, path: Path) -> None:
    """Draws the medians as bars, lowest and highest as a whisker, and the budget as a line."""
    figures = [figure for figure in row.figures if figure.median]
    medians = [figure.median or 0.0 for figure in figures]
    errors = [
        [median - (figure.low or 0.0) for median, figure in zip(medians, figures, strict=True)],
        [(figure.high or 0.0) - median for median, figure in zip(medians, figures, strict=True)],
    ]
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(8, 0.9 + 0.4 * len(figures)), layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.subplots()
        bars = axes.barh(
            [figure.title for figure in figures],
            medians,
            xerr=errors,
            color=[OURS if figure.peer.startswith("landline") else PEER for figure in figures],
            error_kw={"ecolor": INK, "capsize": 2},
        )
        axes.bar_label(bars, [f" {format_number(median)}" for median in medians], color=INK, padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        if max(medians) > LOGARITHMIC_FROM * min(medians):
            axes.set_xscale("log")
            axes.set_xlim(min(medians) / 3, max(medians) * 3)
        for budget in dict.fromkeys(figure.budget for figure in figures if figure.budget is not None):
            axes.axvline(budget.value, color=LIMIT, linestyle="--", linewidth=1)
            axes.annotate(
                f"budget {budget}",
                (budget.value, 1),
                xycoords=("data", "axes fraction"),
                xytext=(2, 2),
                textcoords="offset points",
                color=LIMIT,
                fontsize=8,
            )
        axes.set_xlabel(f"{row.title}, {row.unit}", color=INK)
        _tone(axes)
        _save(canvas, path)


def plot_curves(found: list[Return], path: Path) -> None:
    """Draws attempts a second, and the share of the crowd that is back, over the seconds since the server's return."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(8, 1.7 * len(found)), layout="constrained")
        FigureCanvasSVG(canvas)
        end_s = max(each.share_back_s(1.0) for each in found) * 1.03
        peak = max(max(each.attempts) / each.bin_s for each in found)
        for each, axes in zip(found, canvas.subplots(len(found), sharex=True), strict=True):
            edges = [each.bin_s * number for number in range(len(each.attempts) + 1)]
            axes.stairs([count / each.bin_s for count in each.attempts], edges, fill=True, color=OURS)
            axes.set_yscale("symlog", linthresh=100)
            axes.set_ylim(0, peak * 3)
            axes.set_xlim(0, end_s)
            axes.set_ylabel("attempts/s", color=INK)
            axes.set_title(each.title, color=INK, loc="left", fontsize=10)
            back = axes.twinx()
            total = 0
            share = [100.0 * (total := total + count) / each.clients for count in each.returned]
            back.plot(edges[1 : len(share) + 1], share, color=LIMIT, linewidth=1.2)
            back.set_ylim(0, 105)
            back.set_ylabel("% back", color=LIMIT)
            back.tick_params(colors=INK)
            for spine in back.spines.values():
                spine.set_visible(False)
        axes.set_xlabel("seconds since the server is there again", color=INK)
        for axes in canvas.axes:
            _tone(axes)
        _save(canvas, path)


def _tone(axes: Axes) -> None:
    axes.tick_params(colors=INK, which="both")
    for name, spine in axes.spines.items():
        spine.set_visible(spine.get_visible() and name in {"left", "bottom"})
        spine.set_color(INK)


def _save(canvas: Canvas, path: Path) -> None:
    canvas.savefig(path, format="svg", transparent=True, metadata={"Date": None})
