"""Entry point of Alembic: runs the migrations on the connection that catalog.engine passes."""

from __future__ import annotations

from alembic import context

from stash_sense_pipeline.catalog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
