"""Files that nobody but the service's user can read, and that are on the disk when we say so."""

from __future__ import annotations

import os
from pathlib import Path


def private(path: str, flags: int) -> int:
    """The ``opener`` of every file we make: it holds rows, which are nobody else's to read."""
    return os.open(path, flags, 0o600)


def sync_file(path: Path) -> None:
    """What was written to ``path``, a file or a folder's list of names, is on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, text: str) -> None:
    """``text`` becomes what ``path`` holds, whole or not at all. It is on the disk when this returns, and so are the
    names of all files in the folder."""
    building = path.with_name(f"{path.name}.new")
    with open(building, "w", opener=private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    building.rename(path)
    sync_file(path.parent)
