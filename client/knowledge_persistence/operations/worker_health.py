"""Whether the worker of this container lives: `python -m knowledge_persistence.operations.worker_health`.

A worker listens on a connection of its own for as long as it works. Ended, hung before its database or out of its
wits, it does not.
"""

from __future__ import annotations

import sys

import psycopg

from .._target import read_embedded_stack
from ..settings import Settings

LISTENERS = """
select count(*)
  from pg_catalog.pg_stat_activity
 where query = 'listen knowledge_embeddings'
   and usename = current_user
   and (%(anywhere)s or client_addr is not distinct from inet_client_addr())
"""


def count_workers(connection: psycopg.Connection, *, anywhere: bool) -> int:
    """Count the workers that listen for texts to embed.

    Args:
        connection: of the role that the workers log in as.
        anywhere: count those on other machines (containers), too.
    """
    row = connection.execute(LISTENERS, {"anywhere": anywhere}).fetchone()
    return 0 if row is None else int(row[0])


def main() -> int:
    """Run the check and return its exit code: 0 alive, 1 not."""
    settings = Settings.load()
    url = settings.database_url
    if url is None:
        stack = read_embedded_stack(settings)
        url = stack.database_url if stack is not None else None
    if url is None:
        sys.stderr.write("no database: set KP_DATABASE_URL\n")
        return 1
    try:
        with psycopg.connect(url, connect_timeout=10, application_name="kp worker health") as connection:
            workers = count_workers(connection, anywhere=False)
    except psycopg.Error as error:
        sys.stderr.write(f"the database can't be asked: {error}\n")
        return 1
    sys.stderr.write(f"{workers} listening\n")
    return 0 if workers else 1


if __name__ == "__main__":
    sys.exit(main())
