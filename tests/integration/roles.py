"""A role that is set for the one that logs in."""

from __future__ import annotations

import asyncpg


async def set_another_role(dsn: str) -> None:
    """Sessions that begin from now on have the rights of another role, which may create in the database and replicate.
    It may neither end sessions of the role that logs in nor see what they do."""
    connection = await asyncpg.connect(dsn)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE ROLE {name} REPLICATION; GRANT CREATE ON DATABASE {name} TO {name}")
    await connection.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {name} SET role = {name}")
    await connection.close()
