"""How Alembic reaches the catalogue: over the connection on which `database` holds the writers' lock."""

from alembic import context

from dermanet.database.engine import VERSION_TABLE
from dermanet.database.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
