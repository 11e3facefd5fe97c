"""Run by Alembic for every migration, on the connection that :mod:`landline.fleet.control.storage` hands over.

There is no ``alembic.ini`` and no logging set-up: both belong to the program that runs the control server.
"""

from __future__ import annotations

from alembic import context

from landline.fleet.control.storage import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite changes a column only by copying its table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
