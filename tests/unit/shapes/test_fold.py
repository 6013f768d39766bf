"""A shape whose log has grown long: image and log are folded into a new image; a crash at any point loses nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, TRUNCATED, insert, piece, row
from tests.unit.shapes.test_consumer import Scene, ids_of, image_chunk

from syncline.actors.shapes.imagefile import Image
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import ReadReleased, ReadRows
from syncline.actors.shapes.rows import Rows
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Refusal
from syncline.proto import codec
from syncline.proto.values import Change, Delete

READY = 100


class Folding(Scene):
    async def grow(self, lsn: int, *ids: int) -> None:
        """Rows come, enough of them for a new image, which is there when this returns."""
        newest = self.store.image_at(lsn)
        size = max(2_000, newest.size_bytes) // len(ids) + 100
        await self.append(piece(lsn, *[insert(id, "x" * size) for id in ids]))
        await until(lambda: self.store.image_at(lsn) is not newest)


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(100_000):
        if happened():
            return
        await asyncio.sleep(0)
    pytest.fail("it did not come to it")


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folding:
    monkeypatch.setattr("syncline.actors.shapes.store.FOLD_BYTES_MIN", 2_000)
    return Folding(tmp_path / "shape")


async def test_a_log_longer_than_its_image_is_folded_and_later_readers_begin_behind_it(
    scene: Folding, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.start()
    await scene.append(piece(110, Delete(ITEMS.id, row(1))))
    await scene.grow(120, 3, 4, 5)
    await scene.append(piece(130, insert(6)))
    readings, records = [], scene.store.records
    monkeypatch.setattr(scene.store, "records", lambda *place: readings.append(place) or records(*place))
    assert await scene.rows(130) == {2, 3, 4, 5, 6}
    assert readings == [(120, 130)]


async def test_nothing_is_folded_while_the_log_is_short(scene: Folding) -> None:
    await scene.start()
    await scene.append(piece(110, *[insert(id, "x" * 100) for id in range(10)]))
    assert not scene.store.fold_due
    assert scene.store.image_at(110).lsn == READY


async def test_rows_from_before_a_fold_can_be_read_while_an_edge_has_not_come_so_far(scene: Folding) -> None:
    await scene.start()
    await scene.join()
    scene.edge._answer = lambda message: 110 if isinstance(message, ReadReleased) else None
    await scene.append(piece(110, Delete(ITEMS.id, row(1))))
    known = {1, 2}
    for lsn in range(1_000, 1_500, 100):
        await scene.grow(lsn, *range(lsn, lsn + 20))
    assert await scene.rows(110) == known - {1}
    assert await scene.rows(1_050) == {2, *range(1_000, 1_020)}
    assert len(await scene.rows(1_400)) == 1 + 5 * 20


@pytest.fixture
def in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new image has several chunks, so somebody can be in the middle of it."""
    monkeypatch.setattr("syncline.actors.shapes.rows.FOLD_CHUNK_BYTES", 10)


@pytest.mark.usefixtures("in_chunks")
async def test_who_is_in_the_middle_of_an_image_reads_it_to_its_end(scene: Folding) -> None:
    await scene.start()
    await scene.grow(110, 3, 4, 5)
    first, cursor = await scene.shape.call(ReadRows(110, 0))
    await scene.grow(120, *range(10, 30))
    found = set(ids_of(first))
    while first is not None:
        first, cursor = await scene.shape.call(ReadRows(110, cursor))
        found |= set(ids_of(first)) if first is not None else set()
    assert found == {1, 2, 3, 4, 5}


@pytest.mark.usefixtures("in_chunks")
async def test_who_was_in_the_middle_of_an_image_too_long_ago_is_told_to_begin_anew(scene: Folding) -> None:
    await scene.start()
    await scene.grow(110, 3, 4, 5)
    _, cursor = await scene.shape.call(ReadRows(110, 0))
    for lsn in range(1_000, 1_300, 100):
        await scene.grow(lsn, *range(lsn, lsn + 50))
    with pytest.raises(Refusal):
        await scene.shape.call(ReadRows(110, cursor))
    assert await scene.rows(1_200) >= {1, 2, 3, 4, 5}


async def test_a_disk_without_room_for_a_new_image_leaves_the_old_one(
    scene: Folding, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    await scene.start()
    monkeypatch.setattr(Image, "write", full)
    await scene.append(piece(110, *[insert(id, "x" * 1_000) for id in range(3, 6)]))
    await until(lambda: not scene.store.fold_due)
    assert await scene.rows(110) == {1, 2, 3, 4, 5}
    assert not list(scene.store.directory.glob("image-*"))
    monkeypatch.undo()
    monkeypatch.setattr("syncline.actors.shapes.store.FOLD_BYTES_MIN", 2_000)
    await scene.grow(120, 6, 7, 8)
    assert await scene.rows(120) == set(range(1, 9))


async def test_a_truncate_within_what_is_folded_leaves_what_came_after_it(scene: Folding) -> None:
    await scene.start()
    await scene.append(piece(110, insert(3), TRUNCATED, insert(4)))
    await scene.grow(120, 5, 6, 7)
    assert await scene.rows(120) == {4, 5, 6, 7}


# --- crashes ----------------------------------------------------------------------------------------------------------


class Crashed(Exception):
    """The end of the process."""


class Machine:
    """Files whose writer ends before its ``dies_at``-th step; what was not synced by then may be lost with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.dies_at: int | None = None
        self._synced: dict[int, int] = {}
        for owner, name in ((Path, "unlink"), (Path, "touch"), (Path, "rename"), (Image, "write"), (os, "fsync")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.steps == self.dies_at:
                raise Crashed
            result = step(*args, **kwargs)
            if step.__name__ == "fsync":
                state = os.fstat(args[0])
                self._synced[state.st_ino] = state.st_size
            return result

        return counted

    def lose_power(self, directory: Path) -> None:
        for path in directory.iterdir():
            state = path.stat()
            os.truncate(path, min(state.st_size, self._synced.get(state.st_ino, 0)))

    async def deaths(
        self,
        folder: Path,
        prepared: Callable[[Path], Awaitable[ShapeStore]],
        work: Callable[[ShapeStore], Awaitable[object]],
        *,
        power_lost: bool,
    ) -> AsyncIterator[tuple[int, ShapeStore]]:
        """For each step of ``work`` on a store of its own: its number, and what is there when the writer, and maybe the
        machine, has died before it."""
        for dies_at in count(1):
            directory = folder / str(dies_at)
            store = await prepared(directory)
            self.steps, self.dies_at = 0, dies_at
            try:
                await work(store)
                return
            except Crashed:
                pass
            finally:
                self.dies_at = None
                store.close()
            if power_lost:
                self.lose_power(directory)
            loaded = ShapeStore.load(directory)
            assert loaded is not None
            yield dies_at, loaded


def record(lsn: int, *changes: Change) -> Record:
    return Record(lsn, lsn, "postgres_1", 0, True, len(changes), codec.encode_ops(changes))


def grown(directory: Path) -> ShapeStore:
    """Rows 1 to 9 were read at 100; then some came and went, and one fold was made."""
    store = ShapeStore(directory, SHAPE)
    store.write_image_chunk(image_chunk(*range(1, 10)))
    store.finish_image(READY)
    store.append([record(110, insert(10), Delete(ITEMS.id, row(1))), record(120, insert(11))])
    return store


async def folded(store: ShapeStore) -> None:
    await Rows(store, {ITEMS.id: ITEMS}).fold()


async def rows_at(store: ShapeStore, lsn: int) -> set[int]:
    return {id async for chunk in Rows(store, {ITEMS.id: ITEMS}).all(lsn) for id in ids_of(chunk)}


EXPECTED = {
    100: set(range(1, 10)),
    110: set(range(2, 11)),
    120: set(range(2, 12)),
    130: set(range(3, 13)),
}


@pytest.mark.parametrize("power_lost", [False, True])
@pytest.mark.parametrize("earlier_folds", [0, 2])
async def test_a_crash_between_any_two_steps_of_a_fold_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier_folds: int, power_lost: bool
) -> None:
    async def prepared(directory: Path) -> ShapeStore:
        store = grown(directory)
        for _ in range(earlier_folds):
            await folded(store)
            store.append([record(store.appended_lsn + 1, insert(11))])
        store.append([record(130, insert(12), Delete(ITEMS.id, row(2)))])
        store.flush()
        return store

    dies_at = 0
    machine = Machine(monkeypatch)
    async for dies_at, loaded in machine.deaths(tmp_path, prepared, folded, power_lost=power_lost):
        for lsn, ids in EXPECTED.items():
            assert await rows_at(loaded, lsn) == ids, f"at {lsn}, dead before step {dies_at}"
        if loaded.image_at(130).lsn < 130:
            await folded(loaded)
        assert loaded.image_at(130).lsn == 130
        for lsn, ids in EXPECTED.items():
            assert await rows_at(loaded, lsn) == ids
        kept = {"image", *(loaded.image_at(lsn).path.name for lsn in range(100, 131))}
        assert {path.name for path in loaded.directory.glob("image*")} == kept
        loaded.close()
    assert dies_at >= 7, "there are steps to die between"
