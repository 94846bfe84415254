"""Runs the migrations over the connection that `serve.store.migrate` hands in."""

from alembic import context

from serve.store import people, tables

assert people  # noqa: S101 - imported so that its tables are known

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.Base.metadata,
    render_as_batch=context.config.attributes["connection"].dialect.name == "sqlite",
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
