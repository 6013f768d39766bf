"""Where shapes live, when that is not the same for everybody by itself: kept in ``electric.shape_homes``.

Whoever asks first decides, and everybody else is told the same: one transaction at a time may add to the table.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import asyncpg

from syncline.actors.postgres.ownership import Ownership
from syncline.actors.postgres.session import connect
from syncline.actors.shapes.homes import freest

log = logging.getLogger(__name__)


class Homes:
    """Of the shapes of ``shards``. Everything raises what asyncpg raises."""

    def __init__(self, pool: asyncpg.Pool, shards: Sequence[str]) -> None:
        self._pool = pool
        self._shards = tuple(shards)

    async def home(self, shape: str, prefers: str | None = None) -> str:
        """The shard of ``shape``, from now on. ``prefers``: who has its files; the freest otherwise."""
        known = await self._pool.fetchval("SELECT shard FROM electric.shape_homes WHERE shape = $1", shape)
        if known in self._shards:
            return str(known)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE electric.shape_homes IN SHARE ROW EXCLUSIVE MODE")
            given = dict(await connection.fetch("SELECT shape, shard FROM electric.shape_homes"))
            if given.get(shape) in self._shards:
                return str(given[shape])
            shard = prefers or freest(given.values(), self._shards)
            if shard in given.values():
                log.warning("shapes hosts are all taken: shape %s shares %s", shape, shard)
            await connection.execute(
                "INSERT INTO electric.shape_homes (shape, shard) VALUES ($1, $2) "
                "ON CONFLICT (shape) DO UPDATE SET shard = excluded.shard",
                shape,
                shard,
            )
            return shard

    async def release(self, shape: str) -> None:
        """It has no home any more: whoever asks decides anew."""
        await self._pool.execute("DELETE FROM electric.shape_homes WHERE shape = $1", shape)


async def write_homes(dsn: str, homes: Mapping[str, str], owner: Ownership) -> None:
    """These are the homes, and there are no others. Nobody may be asking. Raises Superseded when that is up to another
    ``owner`` by now, and what asyncpg raises."""
    connection = await connect(dsn, {"application_name": owner.application_name("homes")})
    try:
        await owner.admit(connection)
        async with connection.transaction():
            await connection.execute("DELETE FROM electric.shape_homes")
            await connection.executemany("INSERT INTO electric.shape_homes VALUES ($1, $2)", homes.items())
    finally:
        await connection.close()
