"""The first schema: machines, jobs, executions and their events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "machines",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("presence", sa.Text, nullable=False),
        sa.Column("first_seen_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_machines")),
        sa.UniqueConstraint("name", name=op.f("uq_machines_name")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("action", sa.String, nullable=False),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("requested_by", sa.String, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("delay_s", sa.Double, nullable=True),
        sa.Column("valid_for_s", sa.Double, nullable=False),
        sa.Column("queue_for_s", sa.Double, nullable=True),
        sa.Column("may_cancel", sa.Boolean, nullable=False),
        sa.Column("may_postpone", sa.Boolean, nullable=False),
        sa.Column("request_id", sa.String, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("request_id", name=op.f("uq_jobs_request_id")),
    )
    op.create_index(op.f("ix_jobs_created_at"), "jobs", ["created_at"])
    op.create_table(
        "executions",
        sa.Column("id", sa.String, nullable=False),
        sa.Column("job_id", sa.String, nullable=False),
        sa.Column("machine_id", sa.String, nullable=False),
        sa.Column("machine_name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("boot_id_before", sa.String, nullable=False),
        sa.Column("postponed_s", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executions")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_executions_job_id_jobs")),
        sa.UniqueConstraint("job_id", "machine_id", name=op.f("uq_executions_job_id_machine_id")),
    )
    op.create_index(op.f("ix_executions_machine_id"), "executions", ["machine_id"])
    op.create_index(op.f("ix_executions_state"), "executions", ["state"])
    op.create_table(
        "execution_events",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("execution_id", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_execution_events")),
        sa.ForeignKeyConstraint(
            ["execution_id"], ["executions.id"], name=op.f("fk_execution_events_execution_id_executions")
        ),
    )
    op.create_index(op.f("ix_execution_events_execution_id"), "execution_events", ["execution_id"])
