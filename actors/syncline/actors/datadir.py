"""Which folder holds the shapes of a database, and that only one service uses it.

Shapes are only true of the history they were cut from: this database, read by this slot. A database made anew under the
same name, or a slot made anew after a gap, is another history, at positions that mean nothing in the old one. So the
folder is named by both: the server id in ``electric.meta``, which is lost with the database, and a lineage written
there whenever the slot has to be made. Another history finds another folder, and starts afresh.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from pathlib import Path

import asyncpg

_LINEAGE = "slot_lineage"


class FolderInUse(Exception):
    """Another service works in the folder; the message says which and what to do."""


async def new_lineage(connection: asyncpg.Connection) -> None:
    """The slot is about to be made: nothing on any disk continues into what it will stream, and no device's position.

    Subscriptions that a restored copy brought along are forgotten: their devices are told to start over.
    """
    await connection.execute("DELETE FROM electric.subscriptions")
    await connection.execute(
        "INSERT INTO electric.meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        _LINEAGE,
        uuid.uuid4().hex,
    )


async def shapes_folder(connection: asyncpg.Connection, data_dir: Path, server_id: str) -> Path:
    """The folder for the shapes of this database and slot, made if need be; those of its former slots are removed."""
    lineage = await connection.fetchval("SELECT value FROM electric.meta WHERE key = $1", _LINEAGE)
    if lineage is None:
        await new_lineage(connection)
        lineage = await connection.fetchval("SELECT value FROM electric.meta WHERE key = $1", _LINEAGE)
    base = re.sub(r"[^A-Za-z0-9-]", "_", server_id)
    folder = data_dir / "shapes" / f"{base}.{re.sub(r'[^A-Za-z0-9-]', '_', lineage)}"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # it holds the rows of every table devices asked for
    for former in folder.parent.glob(f"{base}.*"):
        if former.is_dir() and former != folder:
            _remove_unused(former)
    return folder


def _remove_unused(folder: Path) -> None:
    """A copied database has its original's server id, and the original may well be served from here."""
    try:
        lock = FolderLock(folder)
    except FolderInUse:
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()


class FolderLock:
    """Held while the process lives, whatever its end. Raises FolderInUse when another process holds it."""

    def __init__(self, folder: Path) -> None:
        path = folder.with_name(f"{folder.name}.lock")
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            import fcntl

            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # not on Windows, where one service a folder is the operator's to see to
            pass
        except OSError as held:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise FolderInUse(
                f"another service (process {owner or 'unknown'}) works in {folder}: stop it, or set SYNCLINE_DATA_DIR"
            ) from held
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
