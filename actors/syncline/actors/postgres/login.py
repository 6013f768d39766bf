"""The rights of the role that logged in, where another one is set for it (``ALTER ROLE ... SET role``).

Sessions have the name of the role that logged in. The one that is set may neither end them nor see what they do, unless
it happens to be a member of the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import asyncpg

AS_LOGIN: Final = "SET ROLE NONE"
AS_BEFORE: Final = "RESET ROLE"


@contextlib.asynccontextmanager
async def as_login(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """In a transaction of ``connection``, which is in none, it has the rights of the role that logged in. Raises what
    asyncpg raises."""
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE NONE")
        yield
