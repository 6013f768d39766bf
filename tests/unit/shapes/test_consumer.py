"""The actor of one shape: changes in, records out to log and edges, rows at any position."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, TRUNCATED, FakeSnapshot, ids, insert, piece, row

from syncline.actors.postgres.catalog import TableGone
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.image import ImageChunk, key_bytes
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page
from syncline.actors.shapes.messages import (
    Append,
    Appended,
    Arrived,
    Join,
    Joined,
    Leave,
    MarkSeen,
    NotifyReady,
    ReadPage,
    ReadRows,
    ShapeGone,
    ShapeReady,
)
from syncline.actors.shapes.projection import projection
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import ActorDown, Address, Context, Exit, ExitKind
from syncline.cluster.local_ref import LocalRef
from syncline.cluster.testing import Probe, crash, probe, spawn
from syncline.proto import codec
from syncline.proto.values import Delete, Insert, Update

READY = 100
T = TypeVar("T")


class Scene:
    """A shape of which rows 1 and 2 were read at 100, its shard and an edge."""

    def __init__(self, directory: Path, shape: Shape = SHAPE) -> None:
        self.context = Context()
        self.store = ShapeStore(directory, shape)
        self.store.write_image_chunk(image_chunk(1, 2))
        self.store.finish_image(READY)

    async def start(self, take_snapshot: Any = None) -> LocalRef:
        self.shard, self.edge = await probe(self.context), await probe(self.context)
        self.shape = await spawn(Consumer(self.store, (ITEMS,), take_snapshot, self.shard.ref), self.context)
        return self.shape

    async def append(self, *pieces: Any, upto: int = 0) -> None:
        await self.shape.send(Append(pieces, upto or pieces[-1].head.lsn))
        assert isinstance(await self.shard.next(), Appended)

    async def join(self, number: int = 1) -> Joined:
        self.shape.inform(Join(self.edge.ref, number))
        joined = await self.edge.next()
        assert isinstance(joined, Joined)
        return joined

    async def logged(self) -> Page:
        page = await self.shape.call(ReadPage((0, END_OF_TRANSACTION), 1 << 62, 1 << 30))
        assert isinstance(page, Page)
        return page

    async def rows(self, lsn: int) -> set[int]:
        found, cursor = set(), 0
        while True:
            chunk, cursor = await self.shape.call(ReadRows(lsn, cursor))
            if chunk is None:
                return found
            found |= set(ids_of(chunk))


def image_chunk(*ids: int) -> ImageChunk:
    return ImageChunk(
        tuple(key_bytes(ITEMS.id, (b"%d" % id,)) for id in ids), tuple(codec.encode_ops((insert(id),)) for id in ids)
    )


def ids_of(chunk: ImageChunk) -> list[int]:
    return [int(change.row[0] or b"") for change in codec.decode_ops(b"".join(chunk.ops)) if isinstance(change, Insert)]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "shape")


async def test_changes_go_to_the_log_to_edges_and_the_shard_hears_of_it(scene: Scene) -> None:
    await scene.start()
    await scene.join()
    await scene.shape.send(Append((piece(110, insert(3)),), 115))
    assert await scene.shard.next() == Appended(SHAPE.hash, 115)
    arrived = await scene.edge.next()
    assert isinstance(arrived, Arrived)
    assert ids(arrived.records) == ids((await scene.logged()).records) == [3]


async def test_where_devices_lack_columns_a_row_that_is_deleted_and_inserted_anew_does_not_go_in_between(
    tmp_path: Path,
) -> None:
    """It would lose what other shapes have said of its other columns."""
    scene = Scene(tmp_path / "shape", replace(SHAPE, projected=((ITEMS.id, ("id",)),)))
    await scene.start()
    await scene.join()
    await scene.append(piece(110, Delete(ITEMS.id, row(1)), insert(1, "anew")))
    arrived = await scene.edge.next()
    assert isinstance(arrived, Arrived)
    ids_only = projection(ITEMS, frozenset({"id"}))
    for records in (arrived.records, (await scene.logged()).records):
        (change,) = codec.decode_ops(records[0].ops)
        assert change == Update(ids_only.id, (b"1",), (b"1",), ("postgres_1@1",))


async def test_repeats_of_what_was_appended_are_skipped_and_count_as_appended(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, insert(3)))
    await scene.append(piece(110, insert(3)), piece(120, insert(4)), upto=120)
    assert ids((await scene.logged()).records) == [3, 4]


async def test_an_edge_joins_where_the_log_ends_and_its_number_comes_back(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, insert(3)))
    assert await scene.join(number=5) == Joined(SHAPE.hash, READY, 110, 5)
    scene.shape.inform(Leave(scene.edge.ref))
    await scene.append(piece(120, insert(4)))
    assert not scene.edge.received


async def test_an_edge_that_has_ended_is_forgotten(scene: Scene) -> None:
    await scene.start()
    await scene.join()
    crash(scene.edge.ref)
    await scene.edge.ref.join()
    await scene.append(piece(110, insert(3)))
    assert scene.shape.alive


async def test_the_shard_is_answered_even_when_it_has_no_room(scene: Scene) -> None:
    context = scene.context
    shard = await spawn(Stuck(), context, mailbox_capacity=1)
    for message in ("taken", "waiting"):
        await shard.send(message)
    shape = await spawn(Consumer(scene.store, (ITEMS,), None, shard), context)  # type: ignore[arg-type]
    for lsn in (110, 120, 130):
        await shape.send(Append((piece(lsn, insert(lsn)),), lsn))
    page = await shape.call(ReadPage((0, END_OF_TRANSACTION), 1 << 62, 1 << 30), 1.0)
    assert ids(page.records) == [110, 120, 130]


class Stuck(Probe):
    async def handle_cast(self, message: Any) -> None:
        await asyncio.Event().wait()


async def test_a_transaction_in_pieces_reaches_edges_as_a_hint_to_read_the_log(scene: Scene) -> None:
    await scene.start()
    await scene.join()
    await scene.append(piece(110, insert(3), last=False), upto=105)
    assert not scene.edge.received
    await scene.append(piece(110, insert(4), first=False))
    arrived = await scene.edge.next()
    assert [(record.lsn, record.ops) for record in arrived.records] == [(110, b"")]
    assert ids((await scene.logged()).records) == [3, 4]


async def test_a_transaction_that_is_cut_off_and_begins_again_counts_once(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, insert(3), last=False), upto=105)
    await scene.append(piece(110, insert(3), last=False), upto=105)
    await scene.append(piece(110, insert(4), first=False))
    assert ids((await scene.logged()).records) == [3, 4]


async def test_a_transaction_cut_off_and_begun_again_within_one_message_counts_once(scene: Scene) -> None:
    await scene.start()
    await scene.append(
        piece(105, insert(9)), piece(110, insert(3), last=False), piece(110, insert(3), last=False), upto=105
    )
    await scene.append(piece(110, insert(4), first=False))
    assert ids((await scene.logged()).records) == [9, 3, 4]


async def test_a_truncate_deletes_every_row_there_is(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, insert(3)))
    await scene.append(piece(120, insert(4), TRUNCATED, insert(5)))
    page = await scene.logged()
    assert sorted(ids(page.records, Delete)) == [1, 2, 3, 4]
    assert await scene.rows(120) == {5}
    assert await scene.rows(110) == {1, 2, 3}


async def test_a_truncate_cut_off_and_begun_again_still_deletes_every_row(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(120, TRUNCATED, insert(5), last=False), upto=105)
    await scene.append(piece(120, TRUNCATED, insert(5), last=False), upto=105)
    await scene.append(piece(120, insert(6), first=False))
    page = await scene.logged()
    assert sorted(ids(page.records, Delete)) == [1, 2]
    assert await scene.rows(120) == {5, 6}


async def test_rows_as_of_a_position_are_the_image_and_what_the_log_says_since(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, Delete(ITEMS.id, row(1)), insert(3)), piece(120, insert(4)))
    assert await scene.rows(110) == {2, 3}
    assert await scene.rows(120) == {2, 3, 4}


# --- the loop is everybody's ------------------------------------------------------------------------------------------

MANY = 4_000


async def turns_while(work: Awaitable[T]) -> tuple[T, int]:
    """What ``work`` gives, and how often somebody else had a turn in the event loop meanwhile."""
    turns, over = 0, False

    async def somebody_else() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(somebody_else())
    result = await work
    over = True
    await task
    return result, turns


@pytest.mark.parametrize("transactions", [1, MANY // 5, MANY])
async def test_others_have_their_turn_while_a_long_log_is_laid_over_the_image(scene: Scene, transactions: int) -> None:
    await scene.start()
    size = MANY // transactions
    for lsn in range(transactions):
        changes = [insert(id) for id in range(lsn * size, (lsn + 1) * size)]
        await scene.append(piece(1_000 + lsn, *changes))
    rows, turns = await turns_while(scene.rows(9_000))
    assert rows == set(range(MANY))
    assert turns > MANY / 100


async def test_others_have_their_turn_while_a_large_table_is_emptied(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, *[insert(id) for id in range(MANY)]))
    _, turns = await turns_while(scene.append(piece(120, TRUNCATED)))
    assert turns > MANY / 100
    assert sorted(ids((await scene.logged()).records, Delete)) == list(range(MANY))
    assert await scene.rows(120) == set()


async def test_others_have_their_turn_while_a_large_transaction_is_encoded(scene: Scene) -> None:
    await scene.start()
    changes = [insert(id) for id in range(MANY)]
    _, turns = await turns_while(scene.append(piece(110, *changes)))
    assert turns > MANY / 1_000
    (record,) = (await scene.logged()).records
    assert ids([record]) == list(range(MANY))


async def test_devices_that_ask_at_the_same_time_share_one_reading_of_the_log(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.start()
    await scene.append(piece(110, *[insert(id) for id in range(3, MANY)]))
    readings, records = [], scene.store.records
    monkeypatch.setattr(scene.store, "records", lambda *place: readings.append(place) or records(*place))
    found = await asyncio.gather(*[scene.rows(110) for _ in range(5)])
    assert found == [set(range(1, MANY))] * 5
    assert len(readings) == 1


async def test_what_is_appended_while_rows_are_put_together_does_not_get_among_them(scene: Scene) -> None:
    await scene.start()
    await scene.append(piece(110, *[insert(id) for id in range(3, MANY)]))
    reading = asyncio.create_task(scene.rows(110))
    await asyncio.sleep(0)
    for lsn in range(111, 131):
        await scene.append(piece(lsn, Delete(ITEMS.id, row(lsn)), insert(MANY + lsn)))
        await scene.append(piece(lsn + 1, insert(9), last=False), upto=lsn)
    later = asyncio.create_task(scene.rows(120))
    await scene.append(piece(131, insert(9)))
    assert await reading == set(range(1, MANY))
    assert await later == set(range(1, MANY)) - set(range(111, 121)) | {MANY + lsn for lsn in range(111, 121)}


# --- being read for the first time ------------------------------------------------------------------------------------


class Loading(Scene):
    """A shape that has not been read. ``take``: what each attempt does."""

    def __init__(self, directory: Path, *takes: Callable[[], FakeSnapshot]) -> None:
        self.context = Context()
        self.store = ShapeStore(directory, SHAPE)
        self.takes = list(takes)
        self.attempts = 0

    async def take(self, *_: object) -> FakeSnapshot:
        self.attempts += 1
        return self.takes.pop(0)()


def fails(error: Exception) -> Callable[[], FakeSnapshot]:
    def take() -> FakeSnapshot:
        raise error

    return take


async def test_a_shape_is_ready_at_its_mark_and_everybody_who_waits_hears_of_it(tmp_path: Path) -> None:
    scene = Loading(tmp_path / "shape", lambda: FakeSnapshot("mine", row(1)))
    await scene.start(scene.take)
    device = await probe(scene.context)
    scene.shape.inform(NotifyReady(device.ref))
    scene.shape.inform(Join(scene.edge.ref, 3))
    await scene.append(piece(90, insert(2)))
    await scene.shape.send(MarkSeen("another", 95))
    await scene.append(piece(110, insert(3)))
    assert not device.received
    await scene.shape.send(MarkSeen("mine", 120))
    assert await device.next() == ShapeReady(SHAPE.hash)
    assert await scene.edge.next() == Joined(SHAPE.hash, 120, 120, 3)
    assert await scene.rows(120) == {1, 2, 3}


async def test_reading_is_tried_again_when_postgres_or_the_router_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.actors.shapes.consumer.LOAD_BACKOFF_FIRST_S", 0.001)
    down = ActorDown(Address("local", "router"), Exit(ExitKind.NOT_FOUND))
    scene = Loading(tmp_path / "shape", fails(OSError("away")), fails(down), lambda: FakeSnapshot("third"))
    await scene.start(scene.take)
    device = await probe(scene.context)
    scene.shape.inform(NotifyReady(device.ref))
    await scene.shape.send(MarkSeen("third", 120))
    assert await device.next() == ShapeReady(SHAPE.hash)
    assert scene.attempts == 3


async def test_a_table_that_is_gone_is_told_to_who_waits_and_who_asks_later(tmp_path: Path) -> None:
    scene = Loading(tmp_path / "shape", fails(TableGone("items")))
    await scene.start(scene.take)
    first, later = await probe(scene.context), await probe(scene.context)
    scene.shape.inform(NotifyReady(first.ref))
    assert await first.next() == ShapeGone(SHAPE.hash)
    scene.shape.inform(NotifyReady(later.ref))
    assert await later.next() == ShapeGone(SHAPE.hash)
