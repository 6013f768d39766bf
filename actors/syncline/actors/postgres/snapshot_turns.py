"""One snapshot for several who read it one after the other: one transaction, one commit of marks, one connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.snapshot import Snapshot, Visibility, begin, emit_marks, give_back
from syncline.actors.postgres.subtree import Subtree


class _Shared:
    """``left``: how many have not had their turn. What has been found out of the tables holds for all of them."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        connection: asyncpg.Connection,
        tables: Mapping[int, TableInfo],
        visibility: Visibility,
        left: int,
    ) -> None:
        self.pool = pool
        self.connection = connection
        self.tables = tables
        self.visibility = visibility
        self.has_tags: dict[int, bool] = {}
        self.busy = asyncio.Lock()
        self.left = left


class Turn:
    """Of one of them. Whoever has it must ``end`` it, whether or not it has come; or what it opened, which does."""

    def __init__(self, shared: _Shared, mark: str) -> None:
        self._shared = shared
        self.mark = mark
        self._come = False
        self._ending: asyncio.Task[None] | None = None

    @property
    def visibility(self) -> Visibility:
        """What the snapshot shows; known before the turn has come."""
        return self._shared.visibility

    async def snapshot(self, relation_id: int, clause: str) -> Snapshot:
        """The rows ``t`` of one of the tables for which the SQL ``clause`` holds. Returns when the turn has come."""
        shared = await self._came()
        table = shared.tables[relation_id]
        return Snapshot(
            self.end, shared.connection, table, self.mark, shared.visibility, clause, has_tags=shared.has_tags
        )

    async def subtree(self) -> Subtree:
        """Returns when the turn has come."""
        shared = await self._came()
        return Subtree(self.end, shared.connection, shared.tables, shared.visibility, has_tags=shared.has_tags)

    async def _came(self) -> _Shared:
        try:
            await self._shared.busy.acquire()
        except BaseException:
            await self.end()
            raise
        self._come = True
        return self._shared

    async def end(self) -> None:
        """It is the next one's when this returns, and in any case soon. Repeats are harmless."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        shared = self._shared
        try:
            if self._come and shared.left > 1:
                await _cleared(shared.connection)
            shared.left -= 1
            if not shared.left:
                await give_back(shared.pool, shared.connection)
        finally:
            if self._come:
                shared.busy.release()


async def _cleared(connection: asyncpg.Connection) -> None:
    """Whatever went wrong in a turn, the next one finds the snapshot as it was; if the connection has not gone."""
    with contextlib.suppress(*AWAY):
        await connection.execute("ROLLBACK TO SAVEPOINT turn")


async def take_turns(
    pool: asyncpg.Pool, tables: Mapping[int, TableInfo], marks: Sequence[str], streamed_before: Iterable[int]
) -> list[Turn]:
    """A snapshot of ``tables`` (by relation id) for as many as there are ``marks``, which are committed. See
    ``take_snapshot``."""
    streamed = tuple(streamed_before)

    async def seen(visibility: Visibility) -> bool:
        return visibility.sees_all(streamed)

    connection = await pool.acquire()
    try:
        visibility = await begin(connection, tables.values(), seen)
        await connection.execute("SAVEPOINT turn")
        await emit_marks(pool, marks)
    except BaseException:
        await give_back(pool, connection)
        raise
    shared = _Shared(pool, connection, tables, visibility, len(marks))
    return [Turn(shared, mark) for mark in marks]
