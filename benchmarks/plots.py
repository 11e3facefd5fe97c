"""A row as a plot. The same figures give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from benchmarks.report import Row, format_number

# Readable on white and on black: the background is left transparent.
INK: Final = "#7a7f87"
OURS: Final = "#2f81f7"
PEER: Final = "#9aa4b1"
LIMIT: Final = "#d1242f"
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
    options: dict[str, Any] = {
        "svg.hashsalt": "landline",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(options):
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
        axes.tick_params(colors=INK, which="both")
        for name, spine in axes.spines.items():
            spine.set_visible(name in {"left", "bottom"})
            spine.set_color(INK)
        canvas.savefig(path, format="svg", transparent=True, metadata={"Date": None})
