"""Plots of rows and reconnect curves. The same figures give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from benchmarks.reconnect_curve import ReconnectCurve
from benchmarks.report import Row, format_number

# Readable on white and on black: the background is transparent.
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
"""The ratio of the largest to the smallest figure above which the scale is logarithmic."""


def plot(row: Row, path: Path) -> None:
    """Draw the medians as bars, the lowest and highest values as whiskers, and the budget as a line."""
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
        _style(axes)
        _save(canvas, path)


def plot_curves(curves: list[ReconnectCurve], path: Path) -> None:
    """Draw the attempts a second and the share of reconnected clients, over the seconds since the server's return."""
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(8, 1.7 * len(curves)), layout="constrained")
        FigureCanvasSVG(canvas)
        end_s = max(curve.share_back_s(1.0) for curve in curves) * 1.03
        peak = max(max(curve.attempts) / curve.bin_s for curve in curves)
        for curve, axes in zip(curves, canvas.subplots(len(curves), sharex=True), strict=True):
            edges = [curve.bin_s * number for number in range(len(curve.attempts) + 1)]
            axes.stairs([count / curve.bin_s for count in curve.attempts], edges, fill=True, color=OURS)
            axes.set_yscale("symlog", linthresh=100)
            axes.set_ylim(0, peak * 3)
            axes.set_xlim(0, end_s)
            axes.set_ylabel("attempts/s", color=INK)
            axes.set_title(curve.title, color=INK, loc="left", fontsize=10)
            back = axes.twinx()
            total = 0
            share = [100.0 * (total := total + count) / curve.clients for count in curve.returned]
            back.plot(edges[1 : len(share) + 1], share, color=LIMIT, linewidth=1.2)
            back.set_ylim(0, 105)
            back.set_ylabel("% back", color=LIMIT)
            back.tick_params(colors=INK)
            for spine in back.spines.values():
                spine.set_visible(False)
        axes.set_xlabel("seconds since the server is there again", color=INK)
        for axes in canvas.axes:
            _style(axes)
        _save(canvas, path)


def _style(axes: Axes) -> None:
    axes.tick_params(colors=INK, which="both")
    for name, spine in axes.spines.items():
        spine.set_visible(spine.get_visible() and name in {"left", "bottom"})
        spine.set_color(INK)


def _save(canvas: Canvas, path: Path) -> None:
    canvas.savefig(path, format="svg", transparent=True, metadata={"Date": None})
