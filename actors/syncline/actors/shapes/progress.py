"""How far everything in a folder of shapes is on the disk: ``progress.json``, beside the shapes."""

from __future__ import annotations

import json
from pathlib import Path

from syncline.actors.shapes.disk import replace_file

_NAME = "progress.json"


def read_progress(folder: Path) -> int:
    """The LSN up to which everything is on the disk; 0 when there is no word of it."""
    try:
        return int(json.loads((folder / _NAME).read_text())["durable_lsn"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def write_progress(folder: Path, lsn: int) -> None:
    """Says so, durably, and with it makes the names of new shapes durable."""
    replace_file(folder / _NAME, json.dumps({"durable_lsn": lsn}))


def has_progress(folder: Path) -> bool:
    """Whether there is any word of it: the folder is, or was, a shard's."""
    return (folder / _NAME).exists()


def remove_progress(folder: Path) -> None:
    """The folder is no shard's any more."""
    (folder / _NAME).unlink(missing_ok=True)
