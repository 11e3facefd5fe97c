"""Machines that share one identity are remembered until an operator has decided, and which of them was given leave."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("machines", sa.Column("claimants", sa.Text, nullable=False, server_default="[]"))
    op.add_column(
        "executions", sa.Column("hardware_before", sa.String, nullable=False, server_default=sa.text("''"))
    )
