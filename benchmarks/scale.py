"""The tables and curves of docs/scale.md, from the files in docs/scale: ``python -m benchmarks.scale``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import document
from benchmarks.reconnect_curve import ReconnectCurve

DIRECTORY: Final = document.PATH.parent / "scale"
PATH: Final = document.PATH.parent / "scale.md"
FILES: Final = {"real": DIRECTORY / "real.json", "simulated": DIRECTORY / "simulated.json"}


def load(path: Path) -> list[ReconnectCurve]:
    """Read the curves of a file. Raise :class:`msgspec.MsgspecError` for invalid contents."""
    return msgspec.json.decode(path.read_bytes(), type=list[ReconnectCurve])


def format_table(curves: list[ReconnectCurve]) -> str:
    """Return the curves of a file as a Markdown table."""
    lines = [
        f"{curves[0].clients:,} clients; the server is away for {curves[0].away_s:.0f} s.",
        "",
        "| clients' back-off, server's admission | attempts | most within 1 s | half back after | all back after |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {curve.title} | {sum(curve.attempts):,} | {curve.peak:,} "
        f"| {curve.share_back_s(0.5):.1f} s | {curve.share_back_s(1.0):.1f} s |"
        for curve in curves
    ]
    return "\n".join(lines) + "\n"


def rendered(text: str) -> str:
    """Return the document with the tables of all files."""
    for name, path in FILES.items():
        text = document.filled(text, name, format_table(load(path)))
    return text


def main() -> int:
    """Write the tables and plots. Return the exit status."""
    if document.missing_for_plots():
        print("the plots need matplotlib: uv sync --group plots", file=sys.stderr)
        return 2
    # Only after the check: it imports matplotlib.
    from benchmarks.plots import plot_curves

    PATH.write_text(rendered(PATH.read_text(encoding="utf-8")), encoding="utf-8")
    for path in FILES.values():
        plot_curves(load(path), path.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
