"""The result of a reconnect storm."""

from __future__ import annotations

import msgspec


class ReconnectCurve(msgspec.Struct, frozen=True):
    """How many clients reconnected over time to a server that was down."""

    clients: int
    away_s: float
    jitter: bool
    per_s: float | None
    """The rate of the admission; ``None`` without a limit."""
    bin_s: float
    attempts: list[int]
    """Connections that reached the server in each bin, counted from its return."""
    returned: list[int]
    """Clients that were admitted in each bin."""

    @property
    def peak(self) -> int:
        """Return the highest number of attempts within one second."""
        bins = max(1, round(1.0 / self.bin_s))
        return max(sum(self.attempts[at : at + bins]) for at in range(len(self.attempts)))

    def share_back_s(self, share: float) -> float:
        """Return the seconds from the server's return until that share of the clients has reconnected."""
        count = 0
        for number, returned in enumerate(self.returned, 1):
            count += returned
            if count >= share * self.clients:
                return number * self.bin_s
        raise ValueError(f"only {count} of {self.clients} reconnected")

    def __str__(self) -> str:
        return (
            f"{self.clients:,} clients, {sum(self.attempts):,} attempts, at most {self.peak:,} within a second; "
            f"half are back after {self.share_back_s(0.5):.1f} s, all after {self.share_back_s(1.0):.1f} s"
        )

    @property
    def title(self) -> str:
        """Return the settings as a title."""
        admission = f"admission {self.per_s:,.0f}/s" if self.per_s else "no admission"
        return f"{'jitter' if self.jitter else 'no jitter'}, {admission}"
