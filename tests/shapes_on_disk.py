"""Which shapes a folder has, beside the service that uses it."""

from __future__ import annotations

from pathlib import Path

from syncline.actors.shapes.slabs import DROPPED, scan
from syncline.actors.shapes.storemeta import Meta


def shapes_in(folder: Path) -> set[str]:
    """The hashes of the shapes whose snapshot is whole, of the shard in ``folder``."""
    found = {path.parent.name for path in folder.glob("*/shape.json")}
    for path in folder.glob("slab-*"):
        for meta, _, _, state in scan(path.read_bytes()):
            if state != DROPPED:
                found.add(Meta.from_json(meta.decode()).shape.hash)
    return found
