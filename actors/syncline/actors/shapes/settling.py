"""The folders of all shards: how far they stand, and how shapes move when there are to be more shards, or fewer."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from syncline.actors.names import SHARD
from syncline.actors.shapes.homes import settled
from syncline.actors.shapes.progress import has_progress, read_progress, remove_progress, write_progress
from syncline.actors.shapes.slabs import Slabs
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster.placement import place

log = logging.getLogger(__name__)


def furthest(root: Path) -> int:
    """The LSN that the foremost shard below ``root`` has on its disk; 0 when there is none."""
    return max(map(read_progress, _present(root)), default=0)


def settle(root: Path, folders: Mapping[str, Path], *, alone: bool = False) -> dict[str, str]:
    """Moves every shape below ``root`` to its home among ``folders`` (shard name -> its folder). Nobody may use them.
    The home of each; ``alone``: that is a shard of its own, as far as there are any.

    All shards stand then where the last of them stood: what came after it is streamed once more, and shapes know what
    they have. It may be cut short at any moment and done again. Raises OSError.
    """
    present = _present(root)
    slabs = {folder: Slabs(folder) for folder in present}
    shapes = [path for folder in present for path in _shapes(folder, slabs[folder])]
    names = _homes(shapes, folders) if alone else {path.name: place(path.name, folders) for path in shapes}
    homes = {path: folders[names[path.name]] / path.name for path in shapes}
    away = [shape for shape, home in homes.items() if home != shape]
    if not away and set(present) <= set(folders.values()):
        return names
    for folder in present:
        _move_out(folder, slabs[folder])
    durable = min(map(read_progress, present))
    for folder in {*present, *folders.values()}:
        folder.mkdir(exist_ok=True)
        write_progress(folder, durable)
    for shape in filter(Path.exists, away):
        shape.rename(homes[shape])
    for folder in set(present).difference(folders.values()):
        remove_progress(folder)
        if folder != root:
            shutil.rmtree(folder)
            folder.with_name(f"{folder.name}.lock").unlink(missing_ok=True)
    log.info("%d shapes moved, as there are %d shards now", len(away), len(folders))
    return names


def _shapes(folder: Path, slabs: Slabs) -> list[Path]:
    """Where each of the shard's shapes is, or would be if it had a folder."""
    names = {path.name for path in folder.iterdir() if path.is_dir() and not _is_shard(path)}
    return [folder / name for name in sorted(names.union(slabs.found))]


def _move_out(folder: Path, slabs: Slabs) -> None:
    """Every shape has a folder."""
    for name in list(slabs.found):
        store = ShapeStore.load(folder / name, slabs)
        if store is not None:
            store.move_out()
            store.close()
    slabs.remove()


def _homes(shapes: Iterable[Path], folders: Mapping[str, Path]) -> dict[str, str]:
    named = {folder: name for name, folder in folders.items()}
    held: dict[str, list[str]] = {}
    for path in shapes:
        held.setdefault(named.get(path.parent, str(path.parent)), []).append(path.name)
    return settled(held, tuple(folders))


def _is_shard(folder: Path) -> bool:
    return folder.name.startswith(SHARD)


def _present(root: Path) -> list[Path]:
    """The folders of the shards that were here last: ``root`` itself if there was one, else folders in it."""
    return [folder for folder in (root, *sorted(root.glob(f"{SHARD}-*"))) if has_progress(folder)]
