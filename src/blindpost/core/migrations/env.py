"""Alembic runs inside the connection and the transaction that `Database.migrate` opened."""

from alembic import context

from blindpost.core.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
)
context.run_migrations()
