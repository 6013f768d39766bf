"""The first snapshots of shapes of one table: those that name values and are asked for at the same time share one.

Whoever asks while a snapshot is being taken shares the next one with all others of the table who do: one registration
with the router, one transaction, one commit of marks, and one query for the rows of all their clauses. Each row goes to
those shapes which name the value that it has, however many there are, and each of them decides whether it belongs to
it. So a single shape waits for nobody, and a thousand cost a few queries.

A shape that names no value, or whose clause Python cannot evaluate, and one of several tables, share all of that but
the query: they read the same snapshot, one after the other.

One that was among others when their query failed has a snapshot of its own the next time, for it may be the reason. So
has always who asks for a whole table, which takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import asyncpg

from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.database import Database
from syncline.actors.postgres.snapshot import Snapshot, TaggedRow, Visibility, take_snapshot
from syncline.actors.postgres.snapshot_turns import Turn, take_turns
from syncline.actors.postgres.subtree import Subtree
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.router import new_mark
from syncline.actors.shapes.shape import Shape
from syncline.proto.values import Cell, Relation

SHARING_MAX = 200  # shapes of one snapshot
SHARING_CHARACTERS_MAX = 200_000  # of their clauses
TURNS_MAX = 50  # shapes that read one snapshot by turns; others need not wait for them
# Buffers of a COPY, of some 100 KB each, whose rows are kept until each shape is handed its part.
BUFFERS_AT_ONCE = 20

# What a clause may be the reason of.
OF_THE_QUERY = (asyncpg.DataError, asyncpg.SyntaxOrAccessError, asyncpg.ProgramLimitExceededError)

Route: TypeAlias = Callable[[Sequence[Shape]], Awaitable[Sequence[int]]]
"""Registers shapes with the router. Answer: the transactions that their snapshot must show. Raises what a call raises.
"""


class Part:
    """What concerns ``shape`` of a snapshot that is shared. Iterate it once, for chunks of rows some of which may not
    belong to the shape: where its ``clause`` holds has to be found out still. Iteration raises what asyncpg raises."""

    selected = False

    def __init__(self, shape: Shape, clause: str) -> None:
        self.shape = shape
        self.clause = clause
        self.mark = new_mark(shape)
        self._found: list[TaggedRow] = []
        self._handed: asyncio.Queue[tuple[list[TaggedRow], BaseException | None, bool]] = asyncio.Queue(1)
        self.closed = False

    def found(self, row: TaggedRow) -> None:
        """One more row."""
        self._found.append(row)

    async def hand(self, *, last: bool = False, error: BaseException | None = None) -> None:
        """Gives away what was found; waits for those who take it."""
        if not self.closed and (self._found or last):
            found, self._found = self._found, []
            await self._handed.put((found, error, last))

    async def __aiter__(self) -> AsyncGenerator[list[TaggedRow], None]:
        try:
            last = False
            while not last:
                rows, error, last = await self._handed.get()
                if error is not None:
                    raise error
                if rows:
                    yield rows
        finally:
            self.close()

    def close(self) -> None:
        """Nobody takes the rest."""
        self.closed = True
        self._found.clear()
        while not self._handed.empty():
            self._handed.get_nowait()


class Loading:
    """For the shapes of one host. ``taking``: whoever takes a snapshot holds a connection and needs another for its
    mark; were there several, all connections might be held by those who wait for one more."""

    def __init__(self, database: Database, route: Route, taking: asyncio.Lock) -> None:
        self._database = database
        self._route = route
        self._taking = taking
        self._waiting: dict[int, list[tuple[Part, asyncio.Future[None]]]] = {}  # by relation id
        self._sharing: dict[int, asyncio.Task[None]] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._alone: set[str] = set()  # shapes that others had better not share a query with
        # By relation ids: who waits for a turn.
        self._queued: dict[frozenset[int], list[tuple[Shape, asyncio.Future[Turn]]]] = {}
        self._queues: dict[frozenset[int], asyncio.Task[None]] = {}

    async def snapshot(self, shape: Shape, relation: Relation, clauses: Clauses | None) -> Snapshot | Part:
        """The rows of ``shape``, which gets its changes from then on. Raises TableGone, and what asyncpg and calls
        raise."""
        clause = "" if clauses is None else clauses.sql(0)
        if clauses is None or shape.hash in self._alone:
            snapshot = await self._take(relation, (shape,), (new_mark(shape),), clause)
            self._alone.discard(shape.hash)
            return snapshot
        if not clauses.compiled(0) or shape.one_of is None:
            turn = await self._turn(shape, frozenset({relation.id}))
            return await turn.snapshot(relation.id, clause)
        loop = asyncio.get_running_loop()
        part, taken = Part(shape, clause), loop.create_future()
        self._waiting.setdefault(relation.id, []).append((part, taken))
        if relation.id not in self._sharing:
            self._sharing[relation.id] = loop.create_task(self._share(relation))
        try:
            await taken
        except BaseException:
            part.close()
            raise
        return part

    async def subtree(self, shape: Shape, shown: Callable[[Visibility], object]) -> tuple[Subtree, str]:
        """The rows of the tables of ``shape``, which gets its changes from then on, and the mark. ``shown``: called
        with what the snapshot shows as soon as that is known; the turn to read it may come much later. Raises
        TableGone, and what asyncpg and calls raise."""
        turn = await self._turn(shape, frozenset(shape.tables))
        shown(turn.visibility)
        return await turn.subtree(), turn.mark

    async def _turn(self, shape: Shape, ids: frozenset[int]) -> Turn:
        """To read the tables with these relation ids."""
        loop = asyncio.get_running_loop()
        taken: asyncio.Future[Turn] = loop.create_future()
        self._queued.setdefault(ids, []).append((shape, taken))
        if ids not in self._queues:
            self._queues[ids] = loop.create_task(self._hand_out(ids))
        try:
            return await taken
        except BaseException:
            if taken.done() and not taken.cancelled() and taken.exception() is None:
                await taken.result().end()
            raise

    async def _hand_out(self, ids: frozenset[int]) -> None:
        """Takes snapshots until nobody waits; they are read beside that."""
        try:
            while queued := self._queued.pop(ids, None):
                if len(queued) > TURNS_MAX:
                    self._queued[ids] = queued[TURNS_MAX:]
                await self._hand_out_to(
                    ids, [(shape, taken) for shape, taken in queued[:TURNS_MAX] if not taken.done()]
                )
        finally:
            del self._queues[ids]

    async def _hand_out_to(self, ids: frozenset[int], queued: Sequence[tuple[Shape, asyncio.Future[Turn]]]) -> None:
        if not queued:
            return
        shapes = [shape for shape, _ in queued]

        async def take(tables: Mapping[int, TableInfo]) -> Sequence[Turn]:
            async with self._taking:
                marks = [new_mark(shape) for shape in shapes]
                return await take_turns(self._database.snapshot_pool, tables, marks, streamed)

        try:
            streamed = await self._route(shapes)
            turns = await self._database.reading(ids, take)
        except Exception as error:
            for _, taken in queued:
                if not taken.done():
                    taken.set_exception(error)
            return
        for (_, taken), turn in zip(queued, turns, strict=True):
            if taken.done():
                await turn.end()
            else:
                taken.set_result(turn)

    async def _share(self, relation: Relation) -> None:
        """Takes snapshots until nobody waits; they are read beside that."""
        try:
            while waiting := self._waiting.pop(relation.id, None):
                sharing = _as_many_as_fit(waiting)
                if len(sharing) < len(waiting):
                    self._waiting[relation.id] = waiting[len(sharing) :]
                await self._take_shared(relation, [(part, taken) for part, taken in sharing if not taken.done()])
        finally:
            del self._sharing[relation.id]

    async def _take_shared(self, relation: Relation, sharing: Sequence[tuple[Part, asyncio.Future[None]]]) -> None:
        if not sharing:
            return
        parts = [part for part, _ in sharing]
        try:
            snapshot = await self._take(
                relation,
                [part.shape for part in parts],
                [part.mark for part in parts],
                " OR ".join(part.clause for part in parts),
            )
        except Exception as error:
            self._doubt(parts, error)
            for _, taken in sharing:
                if not taken.done():
                    taken.set_exception(error)
            return
        for _, taken in sharing:
            if not taken.done():
                taken.set_result(None)
        reading = asyncio.create_task(self._read(snapshot, relation, parts))
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)

    async def _read(self, snapshot: Snapshot, relation: Relation, parts: Sequence[Part]) -> None:
        error: BaseException | None = None
        naming = _by_value(relation, parts)
        buffers = 0
        try:
            async with contextlib.aclosing(aiter(snapshot)) as chunks:
                async for rows in chunks:
                    for row in rows:
                        for place, by_cell in naming:
                            for part in by_cell.get(row[0][place], ()):
                                part.found(row)
                    buffers += 1
                    if buffers % BUFFERS_AT_ONCE == 0:
                        for part in parts:
                            await part.hand()
                        if all(part.closed for part in parts):
                            break
        except Exception as failed:
            self._doubt(parts, failed)
            error = failed
        for part in parts:
            await part.hand(last=True, error=error)

    def _doubt(self, parts: Sequence[Part], error: Exception) -> None:
        if len(parts) > 1 and isinstance(error, OF_THE_QUERY):
            self._alone.update(part.shape.hash for part in parts)

    async def _take(self, relation: Relation, shapes: Sequence[Shape], marks: Sequence[str], clause: str) -> Snapshot:
        streamed = await self._route(shapes)

        async def take(tables: Mapping[int, TableInfo]) -> Snapshot:
            table = tables[relation.id]
            async with self._taking:
                return await take_snapshot(
                    self._database.snapshot_pool, table, marks[0], lambda: streamed, clause, marks[1:]
                )

        return await self._database.reading((relation.id,), take)


def _as_many_as_fit(
    waiting: Sequence[tuple[Part, asyncio.Future[None]]],
) -> Sequence[tuple[Part, asyncio.Future[None]]]:
    """The first of them, at least one."""
    characters = 0
    for number, (part, _) in enumerate(waiting[:SHARING_MAX]):
        characters += len(part.clause)
        if number and characters > SHARING_CHARACTERS_MAX:
            return waiting[:number]
    return waiting[:SHARING_MAX]


def _by_value(relation: Relation, parts: Iterable[Part]) -> list[tuple[int, Mapping[Cell, list[Part]]]]:
    """Place of a column -> cell -> those which name it. A row has one cell in the column that a part goes by."""
    found: dict[int, dict[Cell, list[Part]]] = {}
    for part in parts:
        assert part.shape.one_of is not None
        column, cells = part.shape.one_of
        by_cell = found.setdefault(relation.names.index(column), {})
        for cell in cells:
            by_cell.setdefault(cell.encode(), []).append(part)
    return list(found.items())
