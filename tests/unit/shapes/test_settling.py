"""Shapes move to where another number of shards looks for them, however often that is cut short."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.shapes.shape_scene import ITEMS, SHAPE, insert
from tests.unit.shapes.test_consumer import ids_of, image_chunk
from tests.unit.shapes.test_fold import record

from syncline.actors.names import shard_names
from syncline.actors.shapes import settling
from syncline.actors.shapes.progress import read_progress, write_progress
from syncline.actors.shapes.rows import Rows
from syncline.actors.shapes.settling import furthest, settle
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.slabs import Slabs
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster.placement import place

SHAPES = [f"{number:032x}" for number in range(40)]


def folders(root: Path, count: int) -> dict[str, Path]:
    return {name: root if count == 1 else root / name for name in shard_names(count)}


def fill(root: Path, count: int) -> None:
    """Shapes as that many shards leave them; each shard stands elsewhere."""
    for number, folder in enumerate(folders(root, count).values()):
        folder.mkdir(exist_ok=True)
        write_progress(folder, 100 + number)
    for shape in SHAPES:
        home = folders(root, count)[place(shape, shard_names(count))] / shape
        home.mkdir()
        (home / "log-0").write_text(shape)


def is_settled(root: Path, count: int) -> None:
    homes = folders(root, count)
    for shape in SHAPES:
        assert (homes[place(shape, homes)] / shape / "log-0").read_text() == shape
    assert {read_progress(folder) for folder in homes.values()} == {100}
    shards = set(root.glob("shard-*"))
    assert shards == ({*homes.values()} if count > 1 else set())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2), (4, 1)])
def test_every_shape_finds_its_home_and_no_shard_claims_more_than_the_last_one_has(
    tmp_path: Path, before: int, after: int
) -> None:
    fill(tmp_path, before)
    assert furthest(tmp_path) == 99 + before
    settle(tmp_path, folders(tmp_path, after))
    is_settled(tmp_path, after)


async def fill_slab(folder: Path, shapes: Sequence[Shape]) -> None:
    """Each has a row of its number, and every second one another row since."""
    slabs = Slabs(folder)
    writing = asyncio.create_task(slabs.write())
    for number, shape in enumerate(shapes):
        store = ShapeStore(folder / shape.hash, shape, slabs)
        store.write_image_chunk(image_chunk(number))
        await store.finish(store.snapshot_at(100))
        if number % 2:
            store.append([record(110, insert(20))])
        store.close()
    writing.cancel()


async def ids(folder: Path) -> set[int]:
    moved = ShapeStore.load(folder)
    assert moved is not None
    return {id async for chunk in Rows(moved, {ITEMS.id: ITEMS}).all(110) for id in ids_of(chunk)}


def test_shapes_without_a_folder_move_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all they have, however often that is cut short."""
    shapes = [replace(SHAPE, where=f"n = {number}") for number in range(6)]
    write_progress(tmp_path, 100)
    asyncio.run(fill_slab(tmp_path, shapes))
    three = folders(tmp_path, 3)
    for steps in range(8):
        with cut_short(monkeypatch, steps):
            settle(tmp_path, three)
    settle(tmp_path, three)
    assert not list(tmp_path.glob("slab-*"))
    for number, shape in enumerate(shapes):
        rows = asyncio.run(ids(three[place(shape.hash, three)] / shape.hash))
        assert rows == ({number, 20} if number % 2 else {number})


@contextlib.contextmanager
def cut_short(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """What goes on in it ends when it is about to rename a file, as a kill -9 might, after so many ``steps``."""
    left = steps
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return rename(self, target)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(Path, "rename", killed)
        yield


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("steps", [0, 1, 5, 20])
def test_what_is_cut_short_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int, steps: int
) -> None:
    fill(tmp_path, before)
    with cut_short(monkeypatch, steps):
        settle(tmp_path, folders(tmp_path, after))
    settle(tmp_path, folders(tmp_path, after))
    is_settled(tmp_path, after)


def test_shards_that_are_at_home_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 3)
    monkeypatch.setattr(settling, "write_progress", None)
    settle(tmp_path, folders(tmp_path, 3))
    assert furthest(tmp_path) == 102


def held(root: Path, count: int) -> dict[str, set[str]]:
    """Which shard has the files of which shapes."""
    return {
        name: {path.name for path in folder.iterdir() if (path / "log-0").exists()}
        for name, folder in folders(root, count).items()
    }


@pytest.mark.parametrize(("before", "after"), [(1, 50), (3, 45), (40, 40), (4, 8), (50, 3)])
@pytest.mark.parametrize("steps", [0, 7, 1000])
def test_shapes_that_are_to_be_alone_are_as_far_as_there_are_shards_also_when_it_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, after: int, steps: int
) -> None:
    fill(tmp_path, before)
    with cut_short(monkeypatch, steps):
        settle(tmp_path, folders(tmp_path, after), alone=True)
    homes = settle(tmp_path, folders(tmp_path, after), alone=True)
    found = held(tmp_path, after)
    assert {shape: name for name, shapes in found.items() for shape in shapes} == homes
    assert homes.keys() == set(SHAPES)
    assert max(map(len, found.values())) == 1 or all(found.values())
    assert {read_progress(folder) for folder in folders(tmp_path, after).values()} == {100}
    assert settle(tmp_path, folders(tmp_path, after), alone=True) == homes, "and there they stay"


def test_a_new_folder_has_nothing_to_settle(tmp_path: Path) -> None:
    settle(tmp_path, folders(tmp_path, 3))
    assert list(tmp_path.iterdir()) == []
