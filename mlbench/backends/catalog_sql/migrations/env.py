"""Alembic's door: the connection, with its transaction, comes from `mlbench.backends.catalog_sql.opening`."""

from alembic import context

from mlbench.backends.catalog_sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
