"""Shapes that are asked for at the same time share a snapshot, on a real Postgres: each gets its own rows, whatever
becomes of the others."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from functools import partial

import asyncpg
import pytest
from tests.patience import PATIENCE_S

from syncline.actors.devices.planning import selected_shape
from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.catalog import TableGone
from syncline.actors.postgres.database import Database, connect
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.snapshot_turns import take_turns
from syncline.actors.postgres.where_sql import evaluate
from syncline.actors.shapes import loading
from syncline.actors.shapes.clauses import Clauses, clauses_of
from syncline.actors.shapes.filtering import selected
from syncline.actors.shapes.loading import Loading
from syncline.actors.shapes.shape import Shape
from syncline.proto.values import ShapeRequest

pytestmark = pytest.mark.every_major

ROWS = 400
PROJECTS = 20


class Scene:
    """``notes`` has ``ROWS`` rows, dealt to projects and teams. ``routed``: what came to the router together."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.routed: list[list[str]] = []
        self.loading = Loading(database, self._route, asyncio.Lock())

    async def _route(self, shapes: Sequence[Shape]) -> Sequence[int]:
        self.routed.append([shape.hash for shape in shapes])
        await asyncio.sleep(0)  # others ask meanwhile
        return ()

    def shape(self, where: str) -> Shape:
        return selected_shape(ShapeRequest(str(uuid.uuid4()), "notes", where), self.database.catalog)

    def clauses(self, shape: Shape) -> Clauses:
        return clauses_of(shape, self.database.catalog.tables, partial(evaluate, self.database.pool))

    async def load(self, where: str, clauses: Clauses | None = None) -> set[int]:
        """The ids of the rows that a shape gets."""
        shape = self.shape(where)
        clauses = clauses or self.clauses(shape)
        found: list[int] = []
        async with asyncio.timeout(PATIENCE_S):
            snapshot = await self.loading.snapshot(
                shape, self.database.catalog.tables[shape.relation_id].relation, clauses
            )
            async for rows in snapshot:
                mine = rows if snapshot.selected and clauses.sql(0) else await selected(rows, clauses)
                found += [int(row[0] or b"") for row, _ in mine]
        assert len(found) == len(set(found))
        return set(found)

    async def expected(self, where: str) -> set[int]:
        rows = await self.database.pool.fetch(f"SELECT id FROM notes this WHERE {where}")
        return {row["id"] for row in rows}


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    await bootstrap(database)
    opened = await connect(database, "test")
    await opened.pool.execute(
        "CREATE TABLE notes (id int4 PRIMARY KEY, project int4, team text, done bool, body text);"
        f"INSERT INTO notes SELECT n, nullif(n % {PROJECTS}, 0), 'team ' || n % 7, n % 3 = 0, repeat('x', n) "
        f"FROM generate_series(1, {ROWS}) n"
    )
    await opened.pool.execute("CALL electric.electrify('public.notes')")
    await opened.read()
    yield Scene(opened)
    opened.terminate()


CLAUSES = (
    *(f"this.project = {n}" for n in range(PROJECTS)),
    *(f"this.team = 'team {n}'" for n in range(8)),
    "this.project IN (1, 2, 3) AND this.done",
    "this.project = 4 AND this.id < 100",
    "this.project IN (4, 5) OR (this.project = 6 AND this.team = 'team 1')",
    "this.body ILIKE '%xxx'",
    "this.project = 7 AND this.body ~ '^x{20}'",
)


async def test_each_gets_its_own_rows_and_those_that_name_values_are_read_together(scene: Scene) -> None:
    found = await asyncio.gather(*(scene.load(where) for where in CLAUSES))
    for where, rows in zip(CLAUSES, found, strict=True):
        assert rows == await scene.expected(where), where
    sizes = sorted(map(len, scene.routed))
    assert sum(sizes) == len(CLAUSES)
    assert sizes[-1] > 10
    assert len(sizes) < 6


WITHOUT_VALUES = (
    *(f"this.body ILIKE '%{'x' * n}' AND this.id % 5 = {n % 5}" for n in range(1, 12)),
    "this.body ~ '^x{20}'",  # Postgres alone can tell
    "this.id / (this.id - 7) > 0",  # and raises an error for a row
    "this.id > 390 OR this.done",
)


async def test_those_that_name_no_value_read_one_snapshot_by_turns(scene: Scene) -> None:
    found = await asyncio.gather(*map(scene.load, WITHOUT_VALUES))
    for where, rows in zip(WITHOUT_VALUES, found, strict=True):
        safe = where.replace("(this.id - 7)", "nullif(this.id - 7, 0)")
        assert rows == await scene.expected(safe), where
    assert max(map(len, scene.routed)) >= len(WITHOUT_VALUES) - 1


async def test_what_fails_in_one_turn_is_nothing_to_the_next(scene: Scene) -> None:
    class Failing(Clauses):
        def sql(self, node: int) -> str:
            return "(1 / (t.id - t.id) = 1)"

    where = "this.id > 3"
    failing = Failing(scene.clauses(scene.shape(where))._wheres, partial(evaluate, scene.database.pool))
    others = [f"this.id > {n}" for n in range(4, 8)]
    asked = (scene.load("this.id > 2"), scene.load(where, failing), *map(scene.load, others))
    first, failed, *found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(failed, asyncpg.DivisionByZeroError)
    assert first == await scene.expected("this.id > 2")
    assert found == [await scene.expected(where) for where in others]
    assert max(map(len, scene.routed)) >= 5, "they were together"


async def test_whoever_goes_away_before_its_turn_or_in_it_leaves_the_connection_in_order(scene: Scene) -> None:
    busy = asyncio.Event()

    async def hold(where: str) -> None:
        shape = scene.shape(where)
        relation = scene.database.catalog.tables[shape.relation_id].relation
        snapshot = await scene.loading.snapshot(shape, relation, scene.clauses(shape))
        busy.set()
        try:
            await asyncio.Event().wait()
        finally:
            await snapshot.aclose()  # type: ignore[union-attr]

    async with asyncio.timeout(PATIENCE_S):
        holding = asyncio.create_task(hold("this.id > 1"))
        await busy.wait()
        busy.clear()
        first = asyncio.create_task(hold("this.id > 2"))
        second = asyncio.create_task(hold("this.id > 3"))
        last = asyncio.create_task(scene.load("this.id > 4"))
        await busy.wait()  # one of them has its turn
        second.cancel()
        first.cancel()
        assert await last == await scene.expected("this.id > 4")
        holding.cancel()
        await asyncio.gather(holding, first, second, return_exceptions=True)
    assert scene.database.snapshot_pool.get_idle_size() == scene.database.snapshot_pool.get_size()


async def test_shapes_of_several_tables_read_one_snapshot_by_turns(scene: Scene) -> None:
    relation_id = scene.shape("this.id = 1").relation_id

    shown: list[Visibility] = []
    known: list[int] = []  # how many knew what the snapshot shows by the time one had its turn

    async def load(n: int) -> list[bytes | None]:
        shape = scene.shape(f"this.id = {n}")
        subtree, mark = await scene.loading.subtree(shape, shown.append)
        known.append(len(shown))
        assert subtree.visibility in shown
        async with contextlib.aclosing(subtree.having(relation_id, (0,), [(b"%d" % n,)])) as parts:
            found = [row[0] async for part in parts for row, _ in part]
        await subtree.aclose()
        assert mark
        return found

    async with asyncio.timeout(PATIENCE_S):
        assert await asyncio.gather(*map(load, range(1, 30))) == [[b"%d" % n] for n in range(1, 30)]
    assert len(scene.routed) <= 2
    assert known[2:] == [29] * 27, "nobody waits for a turn to hear that"
    assert scene.database.snapshot_pool.get_idle_size() == scene.database.snapshot_pool.get_size()


async def test_whoever_is_cancelled_as_a_turn_ends_leaves_it_to_the_next(scene: Scene) -> None:
    tables = scene.database.catalog.tables
    relation_id = scene.shape("this.id = 1").relation_id
    pool = scene.database.snapshot_pool
    first, last = await take_turns(pool, {relation_id: tables[relation_id]}, ["one", "two"], ())
    subtree = await first.subtree()
    ending = asyncio.create_task(subtree.aclose())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    async with asyncio.timeout(PATIENCE_S):
        await (await last.subtree()).aclose()
    assert pool.get_idle_size() == pool.get_size()


async def test_a_turn_that_never_came_does_not_give_back_what_another_is_at_work_with(scene: Scene) -> None:
    tables = scene.database.catalog.tables
    relation_id = scene.shape("this.id = 1").relation_id
    pool = scene.database.snapshot_pool
    first, last = await take_turns(pool, {relation_id: tables[relation_id]}, ["one", "two"], ())
    subtree = await first.subtree()
    await asyncio.gather(subtree.aclose(), last.end())
    assert pool.get_idle_size() == pool.get_size()


async def test_what_is_a_large_part_of_the_table_is_handed_over_as_it_comes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "BUFFERS_AT_ONCE", 1)
    await scene.database.pool.execute(
        f"INSERT INTO notes SELECT n, n % 3, 'new', true, repeat('y', 5000) FROM generate_series({ROWS + 1}, 1500) n"
    )
    clauses = [f"this.project = {n}" for n in range(4)]
    found = await asyncio.gather(*(scene.load(where) for where in clauses))
    assert found == [await scene.expected(where) for where in clauses]


async def test_one_that_makes_the_query_fail_is_asked_alone_from_then_on(scene: Scene) -> None:
    class Failing(Clauses):
        def sql(self, node: int) -> str:
            return "(1 / (t.id - t.id) = 1)"

    shape = scene.shape("this.project = 1")
    failing = Failing(scene.clauses(shape)._wheres, partial(evaluate, scene.database.pool))
    others = [f"this.project = {n}" for n in range(2, 6)]
    asked = (scene.load("this.project = 1", failing), *map(scene.load, others))
    first = await asyncio.gather(*asked, return_exceptions=True)
    assert any(isinstance(rows, asyncpg.DivisionByZeroError) for rows in first)
    asked = (scene.load("this.project = 1", failing), *map(scene.load, others))
    again = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(again[0], asyncpg.DivisionByZeroError)
    assert again[1:] == [await scene.expected(where) for where in others]


async def test_those_that_go_away_hold_up_nobody(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "BUFFERS_AT_ONCE", 1)
    await scene.database.pool.execute(
        f"INSERT INTO notes SELECT n, n % 3, 'new', true, repeat('y', 5000) FROM generate_series({ROWS + 1}, 1500) n"
    )

    async def leave(where: str) -> None:
        shape = scene.shape(where)
        relation = scene.database.catalog.tables[shape.relation_id].relation
        part = await scene.loading.snapshot(shape, relation, scene.clauses(shape))
        async with asyncio.timeout(PATIENCE_S):
            async for _ in part:
                break

    leaving = [asyncio.create_task(leave("this.project = 1")) for _ in range(2)]
    cancelled = asyncio.create_task(scene.load("this.project IN (0, 1)"))
    staying = asyncio.create_task(scene.load("this.project = 2"))
    await asyncio.sleep(0)  # all of them have asked
    cancelled.cancel()
    assert await staying == await scene.expected("this.project = 2")
    await asyncio.gather(*leaving)


@pytest.mark.parametrize(
    ("alter", "there"),
    [
        ("ALTER TABLE notes RENAME TO former", ({20, 40}, {7}, set(), set(range(1, 401)))),
        ("ALTER TABLE notes RENAME project TO subject", ({20, 40}, {7}, {21}, set(range(1, 401)))),
        ("ALTER TABLE notes DROP body", (set(), {7}, set(), set(range(1, 401)))),
        ("ALTER TABLE notes RENAME id TO key", ({20, 40}, {7}, set(), set(range(1, 401)))),
        ("ALTER TABLE notes DROP id", (set(), set(), set(), set())),
    ],
)
async def test_whoever_asks_gets_the_rows_of_a_table_that_was_altered_after_the_catalogue_was_read(
    scene: Scene, alter: str, there: tuple[set[int], ...]
) -> None:
    """A clause takes a column that is gone for NULL."""
    clauses = (
        "this.id IN (20, 40) AND length(this.body) > 1",
        "this.id = 7 AND this.team = 'team 0'",
        "this.id = 21 AND this.project IS NULL AND coalesce(this.project, 5) = 5",
        "this.id > 0 OR coalesce(length(this.body), 5) > 0",
    )
    await scene.database.pool.execute(alter)
    assert tuple(await asyncio.gather(*map(scene.load, clauses))) == there


async def test_a_table_that_is_gone_is_gone_for_all(scene: Scene) -> None:
    shapes = [scene.shape(f"this.project = {n}") for n in range(3)]
    relation = scene.database.catalog.tables[shapes[0].relation_id].relation
    clauses = [scene.clauses(shape) for shape in shapes]
    await scene.database.pool.execute("DROP TABLE notes")
    asked = (scene.loading.snapshot(s, relation, c) for s, c in zip(shapes, clauses, strict=True))
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [TableGone] * 3
