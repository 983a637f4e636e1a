"""The catalog in a database, through SQLAlchemy Core: SQLite, or PostgreSQL where a URL names one.

`catalog` fulfils the port, `tables` says what there is, `opening` makes, migrates and opens a database, `migrations`
holds each change of the tables as Alembic has it. Importing this loads SQLAlchemy: kernels and steps do without.
"""

from mlbench.backends.catalog_sql.catalog import SqlCatalog
from mlbench.backends.catalog_sql.checking import problem_of
from mlbench.backends.catalog_sql.opening import MADE_ANEW
from mlbench.backends.catalog_sql.replacing import replace_catalog

__all__ = ["MADE_ANEW", "SqlCatalog", "problem_of", "replace_catalog"]
