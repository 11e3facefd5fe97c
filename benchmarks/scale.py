"""The tables and curves of docs/scale.md, from the files in docs/scale: ``python -m benchmarks.scale``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import document

DIRECTORY: Final = document.PATH.parent / "scale"
PATH: Final = document.PATH.parent / "scale.md"
FILES: Final = {"real": DIRECTORY / "real.json", "simulated": DIRECTORY / "simulated.json"}


class Return(msgspec.Struct, frozen=True):
    """How a crowd came back to a server that was away."""

    clients: int
    away_s: float
    jitter: bool
    per_s: float | None
    """The admission's rate; ``None`` where everybody was taken in at once."""
    bin_s: float
    attempts: list[int]
    """Connections that reached the server in each bin, from its return on."""
    returned: list[int]
    """Clients that were let in in each bin."""

    @property
    def peak(self) -> int:
        """The most attempts within one second."""
        width = max(1, round(1.0 / self.bin_s))
        return max(sum(self.attempts[at : at + width]) for at in range(len(self.attempts)))

    def share_back_s(self, share: float) -> float:
        """Seconds from the server's return until so much of the crowd is back."""
        count = 0
        for number, returned in enumerate(self.returned, 1):
            count += returned
            if count >= share * self.clients:
                return number * self.bin_s
        raise ValueError(f"only {count} of {self.clients} came back")

    def __str__(self) -> str:
        return (
            f"{self.clients:,} clients, {sum(self.attempts):,} attempts, at most {self.peak:,} within a second; "
            f"half are back after {self.share_back_s(0.5):.1f} s, all after {self.share_back_s(1.0):.1f} s"
        )

    @property
    def title(self) -> str:
        """What was switched on."""
        admission = f"admission {self.per_s:,.0f}/s" if self.per_s else "no admission"
        return f"{'jitter' if self.jitter else 'no jitter'}, {admission}"


def load(path: Path) -> list[Return]:
    """Raises :class:`msgspec.MsgspecError` for a file that holds something else."""
    return msgspec.json.decode(path.read_bytes(), type=list[Return])


def format_table(found: list[Return]) -> str:
    """The storms of a file as a table of Markdown."""
    lines = [
        f"{found[0].clients:,} clients; the server is away for {found[0].away_s:.0f} s.",
        "",
        "| clients' back-off, server's admission | attempts | most within 1 s | half back after | all back after |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each.title} | {sum(each.attempts):,} | {each.peak:,} "
        f"| {each.share_back_s(0.5):.1f} s | {each.share_back_s(1.0):.1f} s |"
        for each in found
    ]
    return "\n".join(lines) + "\n"


def rendered(text: str) -> str:
    """The document with the tables of all files."""
    for name, path in FILES.items():
        text = document.filled(text, name, format_table(load(path)))
    return text


def main() -> int:
    """Returns the exit status."""
    if document.missing_for_plots():
        print("the plots need matplotlib: uv sync --group plots", file=sys.stderr)
        return 2
    from benchmarks.plots import plot_curves

    PATH.write_text(rendered(PATH.read_text(encoding="utf-8")), encoding="utf-8")
    for path in FILES.values():
        plot_curves(load(path), path.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
