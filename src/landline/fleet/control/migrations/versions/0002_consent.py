"""What happens where nobody can be asked, who was asked, and who answered.

Jobs that are open wait where nobody can be asked: that is the harmless reading. What machines say of themselves is
one JSON value and needs no change: what it lacks is read as "not known".
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("unasked", sa.String, nullable=False, server_default="wait"))
    op.add_column("executions", sa.Column("asked", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column(
        "executions", sa.Column("answered_by", sa.Text, nullable=False, server_default=sa.text("''"))
    )
    op.add_column("executions", sa.Column("notices", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("executions", sa.Column("rounds", sa.Integer, nullable=False, server_default="0"))
