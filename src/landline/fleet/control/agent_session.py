"""What the control server keeps per line of an agent, as ``line.data``."""

from __future__ import annotations

from landline.fleet.model import Claimant, Facts


class AgentSession:
    """A machine joined over this line."""

    __slots__ = ("facts_at", "is_join_completed", "join", "late_facts", "machine_id")

    def __init__(self, machine_id: str, join: str) -> None:
        self.machine_id: str = machine_id
        self.join: str = join
        """The join that made the machine's presence; see :attr:`landline.fleet.model.Presence.join`."""
        self.is_join_completed: bool = False
        """Whether the join was answered, so that the next one may come."""
        self.facts_at: float = float("-inf")
        """When facts were taken last, on the event loop's clock."""
        self.late_facts: Facts | None = None
        """The facts that arrived since then and are taken later."""


class RefusedClone:
    """A machine asked to join over this line while another machine with its identity was connected."""

    __slots__ = ("claimant", "machine_id")

    def __init__(self, machine_id: str, claimant: Claimant) -> None:
        self.machine_id: str = machine_id
        self.claimant: Claimant = claimant
