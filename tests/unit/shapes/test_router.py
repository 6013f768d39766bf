"""The stream's crossing, with a shard that only keeps what it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import asyncpg
import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, TRUNCATED, chunk, insert

from syncline.actors.names import SHARD
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.history import MigrationSteps
from syncline.actors.postgres.pgoutput import RelationMessage
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.streamed import MigrationNotice, TransactionChunk
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import Dispatch, LiveShapes, OwnTransaction, Piece
from syncline.actors.shapes.router import (
    AddRoutes,
    DropRoutes,
    ReadMigrations,
    ReadRoutes,
    Router,
    ShownUpTo,
    Streamed,
    new_mark,
)
from syncline.actors.shapes.shape import Shape, schema_shape
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Context
from syncline.cluster.testing import Probe, crash, spawn
from syncline.proto.values import Migrate, Relation

TABLE = TableInfo(ITEMS, {})
OTHER = replace(SHAPE, table="others", relation_id=8)
SQLITE, POSTGRES = schema_shape("sqlite").hash, schema_shape("postgresql").hash


class Scene:
    """A router in front of a shard that has ``shapes``."""

    def __init__(self, *shapes: Shape) -> None:
        self.context = Context()
        self.shard = Probe(lambda message: shapes if isinstance(message, LiveShapes) else None)

    async def start(self, read: ReadMigrations | None = None) -> Scene:
        if self.context.registry.lookup(SHARD) is None:
            await spawn(self.shard, self.context, name=SHARD)
        self.absorber = Probe()
        absorber = await spawn(self.absorber, self.context)
        shards = Shards({SHARD: self.context.registry.ref(SHARD)})
        self.router = await spawn(
            Router(read or read_migrations, lambda relation_id: TABLE, shards, absorber), self.context
        )
        await self.shard.next()  # the question which shapes there are
        return self

    async def stream(self, *chunks: TransactionChunk, idle: int = 0) -> Dispatch:
        await self.router.send(Streamed(chunks, idle))
        dispatch = await self.shard.next()
        assert isinstance(dispatch, Dispatch)
        return dispatch


async def read_migrations(notices: Sequence[MigrationNotice]) -> Sequence[MigrationSteps]:
    steps = []
    for notice in notices:
        relation = Relation(100 + notice.id, "public", f"t{notice.id}", ITEMS.columns)
        step = (Migrate(notice.version, ((0, f"CREATE TABLE t{notice.id} (id)"),)),)
        steps.append(
            MigrationSteps(notice.id, notice.version, 1, (), (relation,), {"sqlite": step, "postgresql": step})
        )
    return steps


def pieces(dispatch: Dispatch, shape: Shape = SHAPE) -> list[tuple[int, int, bool, bool]]:
    """(LSN, number of changes, first, last) of what goes to ``shape``."""
    found = []
    for entry in dispatch.entries.get(shape.hash, ()):
        assert isinstance(entry, Piece)
        found.append((int(entry.head.lsn), len(entry.changes), entry.first, entry.last))
    return found


def migrations(dispatch: Dispatch, schema: str = SQLITE) -> list[tuple[int, int, bool]]:
    """(index, rows, last) of the records of a schema shape."""
    return [(e.index, e.rows, e.last) for e in dispatch.entries.get(schema, ()) if isinstance(e, Record)]


async def test_a_transaction_goes_to_the_shapes_it_touches_and_to_nobody_else() -> None:
    scene = await Scene(SHAPE, OTHER).start()
    dispatch = await scene.stream(chunk(110, insert(1), insert(2)), chunk(120))
    assert dispatch.upto == 120
    assert pieces(dispatch) == [(110, 2, True, True)]
    assert not pieces(dispatch, OTHER)


async def test_a_shape_touched_by_an_early_piece_is_told_of_the_end() -> None:
    scene = await Scene(SHAPE).start()
    first = await scene.stream(chunk(110, insert(1), last=False))
    assert (first.upto, pieces(first)) == (0, [(110, 1, True, False)])
    last = await scene.stream(chunk(110, first=False))
    assert (last.upto, pieces(last)) == (110, [(110, 0, False, True)])


async def test_pieces_say_where_in_the_transaction_they_are_and_none_spans_a_truncate() -> None:
    scene = await Scene(SHAPE, OTHER).start()
    other = replace(ITEMS, id=8)
    dispatch = await scene.stream(
        chunk(110, insert(1), TRUNCATED, insert(2), last=False),
        chunk(110, insert(3), insert(1, relation=other), first=False, last=False),
        chunk(110, insert(4), first=False),
        chunk(120, insert(5)),
    )
    found = {
        shape.hash: [
            (int(entry.head.lsn), entry.since, entry.until, len(entry.changes), entry.first, entry.last)
            for entry in dispatch.entries[shape.hash]
            if isinstance(entry, Piece)
        ]
        for shape in (SHAPE, OTHER)
    }
    assert found == {
        SHAPE.hash: [
            (110, 0, 1, 1, True, False),
            (110, 1, 2, 1, False, False),
            (110, 2, 3, 1, False, False),
            (110, 3, 5, 1, False, False),
            (110, 5, 6, 1, False, True),
            (120, 0, 1, 1, True, True),
        ],
        OTHER.hash: [(110, 3, 5, 1, True, False), (110, 5, 6, 0, False, True)],
    }


async def test_a_transaction_that_is_cut_off_begins_anew_for_every_shape() -> None:
    scene = await Scene(SHAPE).start()
    await scene.stream(chunk(110, insert(1), last=False))
    again = await scene.stream(chunk(110, insert(1), last=False), chunk(110, insert(2), first=False))
    assert pieces(again) == [(110, 1, True, False), (110, 1, False, True)]


async def test_an_idle_stretch_moves_on_and_repeats_of_it_are_not_passed() -> None:
    scene = await Scene().start()
    assert (await scene.stream(idle=200)).upto == 200
    await scene.router.send(Streamed((), 200))
    assert (await scene.stream(idle=300)).upto == 300


async def test_a_new_shape_hears_which_transactions_its_snapshot_must_see() -> None:
    scene = await Scene().start()
    await scene.stream(chunk(110), chunk(120))
    assert await scene.router.call(AddRoutes(((SHAPE, SHARD),))) == (110, 120)
    assert pieces(await scene.stream(chunk(130, insert(1)))) == [(130, 1, True, True)]


async def test_a_new_shape_hears_of_the_transaction_too_of_which_a_part_has_passed() -> None:
    scene = await Scene().start()
    other = insert(1, relation=replace(ITEMS, id=8))
    await scene.stream(chunk(110), chunk(120, insert(1), last=False))
    assert await scene.router.call(AddRoutes(((SHAPE, SHARD),))) == (110, 120)
    assert pieces(await scene.stream(chunk(120, insert(2), first=False, last=False))) == [(120, 1, True, False)]
    assert await scene.router.call(AddRoutes(((OTHER, SHARD),))) == (110, 120)
    assert pieces(await scene.stream(chunk(120, other, first=False)), OTHER) == [(120, 1, True, True)]
    assert await scene.router.call(AddRoutes(((SHAPE, SHARD),))) == (110, 120)


async def test_a_transaction_that_is_cut_off_is_heard_of_once_when_it_has_come_again() -> None:
    scene = await Scene().start()
    await scene.stream(chunk(110), chunk(120, insert(1), last=False), chunk(120, insert(1)))
    assert await scene.router.call(AddRoutes(((SHAPE, SHARD),))) == (110, 120)


async def test_a_mark_is_passed_on_also_by_a_router_that_started_again_meanwhile() -> None:
    scene = await Scene(SHAPE).start()
    mark = new_mark(SHAPE)
    await scene.router.call(AddRoutes(((SHAPE, SHARD),)))
    crash(scene.router)
    await scene.router.join()
    await scene.start()
    assert (await scene.stream(chunk(110, marks=(mark,)))).marks == ((SHAPE.hash, mark, 110),)


async def test_a_device_is_told_of_by_its_transaction() -> None:
    scene = await Scene(SHAPE).start()
    dispatch = await scene.stream(chunk(110, insert(1), origin="me"), chunk(120))
    assert dispatch.own == (OwnTransaction(110, "me", 110),)


def migrating(lsn: int, *ids: int, first: bool = True, last: bool = True) -> TransactionChunk:
    notices = tuple(MigrationNotice(id, f"2026{id}") for id in ids)
    return replace(chunk(lsn, first=first, last=last), migrations=notices)


@pytest.mark.parametrize("schema", [SQLITE, POSTGRES])
async def test_migrations_become_one_transaction_of_the_schema_shapes(schema: str) -> None:
    scene = await Scene().start()
    assert migrations(await scene.stream(migrating(110, 1)), schema) == [(0, 1, True)]
    assert migrations(await scene.stream(migrating(120, 2, 3)), schema) == [(0, 1, False), (1, 1, True)]


async def test_migrations_in_several_pieces_of_a_transaction_all_count() -> None:
    scene = await Scene(SHAPE).start()
    first = await scene.stream(migrating(110, 1, last=False), chunk(110, insert(1), first=False, last=False))
    assert migrations(first) == [(0, 1, False)]
    assert migrations(await scene.stream(migrating(110, 2, first=False, last=False))) == [(1, 1, False)]
    assert migrations(await scene.stream(chunk(110, insert(2), first=False))) == [(2, 0, True)]
    assert not migrations(await scene.stream(chunk(120, insert(3))))


WITHOUT_ITS_KEY = RelationMessage(ITEMS.id, "public", "items", "f", ())


@pytest.mark.parametrize("news", [migrating(110, 1), replace(chunk(110), relations=(WITHOUT_ITS_KEY,))])
async def test_the_catalogue_is_read_again_when_postgres_was_away(
    news: TransactionChunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.shapes.router.READ_RETRY_S", 0)
    away: list[Exception] = [OSError("Postgres is away"), asyncpg.TooManyConnectionsError("for a moment")]

    async def read_in_the_end(notices: Sequence[MigrationNotice]) -> Sequence[MigrationSteps]:
        if away:
            raise away.pop()
        return await read_migrations(notices)

    scene = await Scene(SHAPE).start(read_in_the_end)
    assert (await scene.stream(news)).upto == 110
    assert not away


async def test_a_router_that_has_started_again_vouches_for_nothing_before_the_stream_has_come_by() -> None:
    """What it forgot was streamed may be a commit that a standby holds back: no snapshot sees it yet."""
    scene = await Scene(SHAPE).start()
    await scene.stream(chunk(110, insert(1)), chunk(120))
    older = Visibility(0, 0, frozenset())  # sees nothing
    newer = Visibility(1 << 20, 1 << 20, frozenset())
    assert not await scene.router.call(ShownUpTo(older, 120))
    assert await scene.router.call(ShownUpTo(newer, 120))
    crash(scene.router)
    await scene.router.join()
    await scene.start()
    assert not await scene.router.call(ShownUpTo(newer, 120))
    await scene.router.send(Streamed((), 125))
    assert await scene.router.call(ShownUpTo(newer, 120))


async def test_a_route_is_dropped_unless_the_shape_has_been_added_again() -> None:
    scene = await Scene(SHAPE, OTHER).start()
    known = await scene.router.call(ReadRoutes())
    await scene.router.call(AddRoutes(((OTHER, SHARD),)))
    await scene.router.call(DropRoutes((SHAPE, OTHER), known))
    dispatch = await scene.stream(chunk(110, insert(1), insert(2, relation=replace(ITEMS, id=8))))
    assert set(dispatch.entries) == {OTHER.hash}
    await scene.router.call(DropRoutes((OTHER,), await scene.router.call(ReadRoutes())))
    assert (await scene.stream(chunk(120, insert(2, relation=replace(ITEMS, id=8))))).entries == {}


async def test_a_router_that_has_started_again_drops_nothing_that_an_earlier_one_was_asked_about() -> None:
    scene = await Scene(SHAPE).start()
    known = await scene.router.call(ReadRoutes())
    crash(scene.router)
    await scene.router.join()
    await scene.start()
    await scene.router.call(DropRoutes((SHAPE,), known))
    assert set((await scene.stream(chunk(110, insert(1)))).entries) == {SHAPE.hash}
