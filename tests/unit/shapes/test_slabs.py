"""New small shapes share a file: what is said to be there is there, and what is given up never comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, insert
from tests.unit.shapes.test_consumer import ids_of, image_chunk
from tests.unit.shapes.test_fold import Crashed, folded, record

from syncline.actors.shapes import slabs as slabs_module
from syncline.actors.shapes import storemeta
from syncline.actors.shapes.rows import Rows
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.slabs import IMAGE_BYTES_MAX, Slabs, SlabsClosed
from syncline.actors.shapes.store import ShapeStore

READY = 100
SHAPES = [replace(SHAPE, where=f"n = {number}") for number in range(3)]


class Life:
    """A process with a shard's stores in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.slabs = Slabs(directory)
        self.writing = asyncio.create_task(self.slabs.write())
        self.stores: dict[Shape, ShapeStore] = {}

    def store(self, shape: Shape, *ids: int) -> ShapeStore:
        """A new one, whose snapshot has rows of these ids."""
        store = self.stores[shape] = ShapeStore(self.directory / shape.hash, shape, self.slabs)
        store.write_image_chunk(image_chunk(*ids))
        return store

    async def finish(self, *shapes: Shape) -> None:
        """Their snapshots, together."""
        finishing = asyncio.gather(*[self._finish(self.stores[shape]) for shape in shapes])
        done, _ = await asyncio.wait({finishing, self.writing}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    @staticmethod
    async def _finish(store: ShapeStore) -> None:
        await store.finish(store.snapshot_at(READY))

    async def made(self) -> Life:
        """Each of the three has a row of its number, and 10 to 12."""
        for number, shape in enumerate(SHAPES):
            self.store(shape, number, 10, 11, 12)
        await self.finish(*SHAPES)
        return self

    def load(self) -> set[Shape]:
        """What a start finds."""
        folders = {path.name for path in self.directory.iterdir() if path.is_dir()}
        for name in folders.union(self.slabs.found):
            store = ShapeStore.load(self.directory / name, self.slabs)
            if store is not None:
                self.stores[store.shape] = store
        return set(self.stores)

    async def rows(self, shape: Shape, lsn: int = READY) -> set[int]:
        rows = Rows(self.stores[shape], {ITEMS.id: ITEMS})
        return {id async for chunk in rows.all(lsn) for id in ids_of(chunk)}

    def files(self, shape: Shape) -> set[str]:
        folder = self.directory / shape.hash
        return {path.name for path in folder.iterdir()} if folder.exists() else set()

    def append(self, shape: Shape, lsn: int, id: int) -> None:
        self.stores[shape].append([record(lsn, insert(id))])

    async def flush(self, shape: Shape) -> None:
        """As the shard does before it says how far it is."""
        self.stores[shape].flush()
        self.slabs.sync()

    def end(self) -> None:
        self.writing.cancel()
        for store in self.stores.values():
            store.close()
        self.slabs.close()

    def again(self) -> Life:
        """The next process."""
        self.end()
        return Life(self.directory)


@pytest.fixture
async def life(tmp_path: Path) -> Life:
    return await Life(tmp_path / "shard").made()


def slab_files(life: Life) -> int:
    return len(list(life.directory.glob("slab-*")))


async def test_shapes_made_together_have_one_file_and_wait_for_the_disk_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path / "shard")
    life.store(SHAPES[0], 0)
    await life.finish(SHAPES[0])
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    for number, shape in enumerate(SHAPES[1:], 1):
        life.store(shape, number)
    await life.finish(*SHAPES[1:])
    assert len(synced) == 1
    assert [path.name for path in life.directory.iterdir()] == ["slab-000001"]
    assert [await life.rows(shape) for shape in SHAPES] == [{0}, {1}, {2}]


async def test_they_are_there_at_the_next_start_as_they_were(life: Life) -> None:
    life.append(SHAPES[1], 110, 20)
    await life.flush(SHAPES[1])
    life = life.again()
    assert life.load() == set(SHAPES)
    for number, shape in enumerate(SHAPES):
        assert life.stores[shape].ready_lsn == READY
        assert await life.rows(shape) == {number, 10, 11, 12}
    assert await life.rows(SHAPES[1], 110) == {1, 10, 11, 12, 20}
    assert life.files(SHAPES[0]) == set()
    assert life.files(SHAPES[1]) == {"log-000000"}


async def test_a_snapshot_that_is_not_small_has_files_of_its_own(tmp_path: Path) -> None:
    life = Life(tmp_path / "shard")
    ids = range(IMAGE_BYTES_MAX // 20)
    store = life.store(SHAPE, 0)
    for id in ids[1:]:
        store.write_image_chunk(image_chunk(id))
    await life.finish(SHAPE)
    assert life.files(SHAPE) == {"shape.json", "image"}
    assert slab_files(life) == 0
    life = life.again()
    life.load()
    assert await life.rows(SHAPE) == set(ids)


async def test_a_snapshot_that_is_begun_anew_has_nothing_of_the_one_before(tmp_path: Path) -> None:
    life = Life(tmp_path / "shard")
    store = life.store(SHAPE, 1)
    store.restart_image()
    store.write_image_chunk(image_chunk(2))
    await life.finish(SHAPE)
    assert await life.rows(SHAPE) == {2}
    assert store.image_rows == 1


async def test_a_new_image_takes_the_shape_out_of_the_slab(life: Life) -> None:
    life.append(SHAPES[0], 110, 20)
    await folded(life.stores[SHAPES[0]])
    assert await life.rows(SHAPES[0]) == {0, 10, 11, 12}
    assert {"shape.json", "image", "image-000001"} <= life.files(SHAPES[0])
    life = life.again()
    assert SHAPES[0].hash not in life.slabs.found
    life.load()
    assert await life.rows(SHAPES[0]) == {0, 10, 11, 12}
    assert await life.rows(SHAPES[0], 110) == {0, 10, 11, 12, 20}


@pytest.mark.parametrize("what", ["the folder", "the log", "shape.json"])
async def test_a_shape_of_which_somebody_has_removed_something_is_no_shape(life: Life, what: str) -> None:
    life.append(SHAPES[0], 110, 20)
    await life.flush(SHAPES[0])
    folder = life.directory / SHAPES[0].hash
    if what == "shape.json":
        await folded(life.stores[SHAPES[0]])
        (folder / "shape.json").unlink()
    elif what == "the log":
        (folder / "log-000000").unlink()
    else:
        shutil.rmtree(folder)
    life = life.again()
    assert life.load() == set(SHAPES[1:])
    life = life.again()
    assert SHAPES[0].hash not in life.slabs.found


async def test_a_slab_that_is_broken_ends_before_that(life: Life) -> None:
    life.end()
    (path,) = life.directory.glob("slab-*")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    life = Life(life.directory)
    found = life.load()
    assert 0 < len(found) < len(SHAPES)
    for shape in found:
        assert len(await life.rows(shape)) == 4
    await life.made()  # and goes on in another file
    assert Life(life.directory).slabs.found.keys() == {shape.hash for shape in SHAPES}


@pytest.mark.parametrize("small", [True, False])
async def test_what_is_torn_while_the_disk_is_waited_for_is_on_it_before_the_shape_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    life = Life(tmp_path / "shard")
    if small:
        store = life.store(SHAPE, 1)
    else:
        store = life.stores[SHAPE] = ShapeStore(life.directory / SHAPE.hash, SHAPE)
        store.write_image_chunk(image_chunk(1))
    loop, fsync = asyncio.get_running_loop(), os.fsync
    torn: list[int] = []

    async def tear() -> None:
        assert store.ready_lsn is None
        torn.append(1)
        store.tear(120, 150)()

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if not torn and (path.name.startswith("slab-") or (path / "shape.json").exists()):
            asyncio.run_coroutine_threadsafe(tear(), loop).result()

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced)
        await life.finish(SHAPE)
    assert torn
    assert store.torn == (120, 150)
    assert await life.rows(SHAPE) == {1}
    life = life.again()
    assert life.load() == {SHAPE}
    assert life.stores[SHAPE].torn == (120, 150)
    assert await life.rows(SHAPE) == {1}


async def test_a_snapshot_that_ends_after_its_shape_was_given_up_leaves_no_record(life: Life) -> None:
    store = life.store(SHAPE, 1)
    await asyncio.to_thread(store.give_up)
    with pytest.raises(SlabsClosed):
        await life.finish(SHAPE)
    assert life.again().load() == set(SHAPES)


@pytest.mark.parametrize("unreadable", [{0}, {1}, {0, 1}, {0, 1, 2}])
async def test_a_record_of_another_format_takes_none_of_its_neighbours_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: set[int]
) -> None:
    life = Life(tmp_path / "shard")
    for number, shape in enumerate(SHAPES):
        life.store(shape, number)
        with monkeypatch.context() as patch:
            if number in unreadable:
                patch.setattr(storemeta, "FORMAT", 99)
            await life.finish(shape)
    assert slab_files(life) == 1
    readable = {shape for number, shape in enumerate(SHAPES) if number not in unreadable}
    for _ in range(2):
        life = life.again()
        assert life.load() == readable
        assert slab_files(life) == bool(readable)


async def test_whoever_comes_later_keeps_an_earlier_life_from_writing(life: Life) -> None:
    later = Life(life.directory)
    life.store(SHAPE, 1)
    with pytest.raises(SlabsClosed):
        await life.finish(SHAPE)
    life.stores[SHAPES[0]].remove()
    assert later.load() == set(SHAPES)
    assert Life(life.directory).load() == set(SHAPES)


async def test_what_a_later_life_has_given_up_an_earlier_one_does_not_bring_back(life: Life) -> None:
    later = Life(life.directory)
    assert later.load() == set(SHAPES)
    record = life.stores[SHAPES[0]]._record
    assert record is not None
    later.stores[SHAPES[0]].give_up()
    record.has_log()
    (life.directory / SHAPES[0].hash).mkdir(exist_ok=True)
    assert Life(life.directory).load() == set(SHAPES[1:])


async def test_slabs_of_which_little_counts_are_written_anew_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(tmp_path / "shard")
    for number, shape in enumerate(SHAPES):
        life.store(shape, number)
        await life.finish(shape)
        life = life.again()
        life.load()
    life.append(SHAPES[2], 110, 20)
    life.stores[SHAPES[0]].remove()
    assert slab_files(life) == 2
    assert life.slabs.wasteful
    life.slabs.tidy()
    assert not life.slabs.wasteful
    assert slab_files(life) == 1
    assert await life.rows(SHAPES[2], 110) == {2, 20}
    shutil.rmtree(life.directory / SHAPES[2].hash)
    life = life.again()
    assert life.load() == {SHAPES[1]}, "that one has a log is known still"
    assert await life.rows(SHAPES[1]) == {1}


async def test_a_full_slab_is_followed_by_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slabs_module, "SLAB_BYTES_MAX", 1)
    life = Life(tmp_path / "shard")
    for number, shape in enumerate(SHAPES):
        life.store(shape, number)
        await life.finish(shape)
    assert slab_files(life) == 3
    life.stores[SHAPES[1]].remove()
    assert slab_files(life) == 2


async def test_a_disk_that_is_full_leaves_nothing_of_what_it_refused(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    life.store(SHAPE, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            await life.finish(SHAPE)
    life.store(SHAPE, 2)
    await life.finish(SHAPE)
    life.stores[SHAPE].remove()
    assert life.again().load() == set(SHAPES)


# --- crashes ----------------------------------------------------------------------------------------------------------


class Machine:
    """A process ends before its ``dies_at``-th step. What was not synced by then is lost with the machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.dies_at: int | None = None
        self._synced: dict[int, bytes] = {}
        for owner, name in (
            *((Path, name) for name in ("unlink", "touch", "rename", "mkdir")),
            *((os, name) for name in ("fsync", "pwrite", "write")),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.steps += 1
            if self.dies_at is not None and self.steps >= self.dies_at:
                raise Crashed
            result = step(*args, **kwargs)
            if step.__name__ == "fsync":
                path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
                if path.is_file():
                    self._synced[path.stat().st_ino] = path.read_bytes()
            return result

        return counted

    def lose_power(self, directory: Path) -> None:
        for path in (path for path in directory.rglob("*") if path.is_file()):
            path.write_bytes(self._synced.get(path.stat().st_ino, b""))


Work = Callable[[Life], Awaitable[object]]


async def making(life: Life) -> None:
    for number, shape in enumerate(SHAPES):
        life.store(shape, number, 10, 11, 12)
    life.append(SHAPES[1], 90, 13)  # came before the mark
    await life.finish(*SHAPES)


async def changing(life: Life) -> None:
    life.append(SHAPES[0], 110, 20)
    await life.flush(SHAPES[0])


async def folding(life: Life) -> None:
    life.append(SHAPES[0], 110, 20)
    await folded(life.stores[SHAPES[0]])


async def removing(life: Life) -> None:
    life.stores[SHAPES[0]].remove()


async def tidying(life: Life) -> None:
    life.slabs.tidy()


@pytest.mark.parametrize("power_lost", [False, True])
@pytest.mark.parametrize("work", [making, changing, folding, removing, tidying])
async def test_a_crash_between_any_two_steps_leaves_whole_shapes_and_all_that_was_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Work, power_lost: bool
) -> None:
    machine = Machine(monkeypatch)
    for dies_at in count(1):
        life = Life(tmp_path / str(dies_at))
        if work is not making:
            life = (await life.made()).again()
            life.load()
        if work is removing:
            await changing(life)
        machine.steps, machine.dies_at = 0, dies_at
        try:
            await work(life)
            died = False
        except Crashed:
            died = True
        finally:
            machine.dies_at = None
            life.end()
        if power_lost:
            machine.lose_power(life.directory)
        life = Life(life.directory)
        found = life.load()
        for number, shape in enumerate(SHAPES):
            if shape in found:
                more = {13} if work is making and shape is SHAPES[1] else set()
                assert await life.rows(shape) == {number, 10, 11, 12, *more}, f"dead before step {dies_at}"
        if work is removing:
            assert found >= set(SHAPES[1:])
            if SHAPES[0] in found:
                assert await life.rows(SHAPES[0], 110) == {0, 10, 11, 12, 20}, "all, or no shape"
        elif work is not making or not died:
            assert found == set(SHAPES), f"dead before step {dies_at}"
        if not died:
            if work in (changing, folding):
                assert await life.rows(SHAPES[0], 110) == {0, 10, 11, 12, 20}
            if work is removing:
                assert found == set(SHAPES[1:])
            break
        life.end()
    assert dies_at >= 3, "there are steps to die between"
