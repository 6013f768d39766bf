"""Which folder holds the shapes of a database, and that only one service uses it.

Shapes are only true of the history they were cut from: this database, read by this slot. A database made anew under the
same name, a slot made anew after a gap, a server restored to an earlier moment is another history, at positions that
mean nothing in the old one. So the folder is named by both: the server id in ``electric.meta``, which is lost with the
database, and a lineage written there whenever another history begins. Another history finds another folder, and starts
afresh.

What is restored or copied with everything in it looks the same from inside. It is told apart where Postgres tells:
by the server's identifier and timeline and the database's oid, which are noted beside the lineage, and by a server
whose WAL ends before what is on our disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

import asyncpg

from syncline.actors.postgres.bootstrap import read_meta, write_meta
from syncline.actors.postgres.turns import alone
from syncline.actors.shapes.settling import furthest

log = logging.getLogger(__name__)

LEFT_WITHIN_S: Final = 90.0
SAY_AFTER_S: Final = 3.0
LOCK_POLL_S: Final = 0.1

_LINEAGE = "slot_lineage"
# Positions of another server's WAL may lie ahead of ours, and what comes is to be later than what has been. Which of
# them is the later is to stay: so all get small numbers in their order. The entry of a row is still that of the version
# of it that it describes.
_AHEAD = """
SELECT EXISTS (SELECT FROM electric.shadow WHERE at_lsn > pg_current_wal_insert_lsn())
    OR EXISTS (SELECT FROM electric.direct WHERE lsn > pg_current_wal_insert_lsn())
"""
_OTHER_POSITIONS = """
WITH place AS MATERIALIZED (
    SELECT lsn, '0/0'::pg_lsn + row_number() OVER (ORDER BY lsn) AS number FROM (
        SELECT at_lsn AS lsn FROM electric.shadow UNION SELECT lsn FROM electric.direct
        UNION SELECT '0/0'::pg_lsn + n.lsn FROM electric.direct CROSS JOIN unnest(column_lsn) AS n (lsn)
        WHERE n.lsn IS NOT NULL) AS known
), described AS (
    UPDATE electric.shadow s SET at_lsn = p.number, row_xmin = coalesce(s.row_xmin, s.xmin)
    FROM place p WHERE p.lsn = s.at_lsn
)
UPDATE electric.direct d SET lsn = p.number, column_lsn = ARRAY(
    SELECT (c.number - '0/0'::pg_lsn)::bigint FROM unnest(d.column_lsn) WITH ORDINALITY AS n (lsn, i)
    LEFT JOIN place c ON c.lsn = '0/0'::pg_lsn + n.lsn ORDER BY n.i)
FROM place p WHERE p.lsn = d.lsn
"""
_HISTORY = "slot_history"
# The timeline is the one written now; that of the last checkpoint may be the former one still.
_HISTORY_PARTS = {
    "system": "SELECT system_identifier FROM pg_control_system()",
    "timeline": "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)",
    "database": "SELECT oid FROM pg_database WHERE datname = current_database()",
}


def open_data_dir(data_dir: Path) -> None:
    """Makes sure that there is a data folder and that shapes can be written in it. Raises OSError."""
    shapes = data_dir / "shapes"
    shapes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=shapes):
        pass


class FolderInUse(Exception):
    """Another service works in the folder; the message says which and what to do. ``owner``: the pid of a process of
    it, as far as that is known."""

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


async def new_lineage(connection: asyncpg.Connection, why: str = "the replication slot is made anew") -> None:
    """Another history begins: nothing on any disk continues into what will be streamed, and no device's position.

    Devices are noted as of the one before, until they have been repaired or have started over.
    """
    if await read_meta(connection, _LINEAGE) is not None:
        log.warning("%s, so a new history begins here: devices compare what they have with it, or fetch it anew", why)
    async with connection.transaction():
        await write_meta(connection, _LINEAGE, uuid.uuid4().hex)
        await write_meta(connection, _HISTORY, json.dumps(await read_history(connection)))
        if await connection.fetchval(_AHEAD):
            await connection.execute(_OTHER_POSITIONS)


async def read_history(connection: asyncpg.Connection) -> dict[str, str]:
    """What tells a server and its database from a copy: ``system``, ``timeline``, ``database``. Any role may ask; what
    a hosted Postgres does not tell is empty."""
    history = {}
    for part, query in _HISTORY_PARTS.items():
        try:
            async with connection.transaction():
                history[part] = str(await connection.fetchval(query))
        except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedFunctionError, asyncpg.FeatureNotSupportedError):
            history[part] = ""
    return history


async def shapes_folder(connection: asyncpg.Connection, data_dir: Path, server_id: str) -> Path:
    """The folder for the shapes of this database and slot, made if need be; those of its former slots are removed."""
    base = _in_a_name(server_id)
    shapes = data_dir / "shapes"
    async with alone(connection):
        lineage = await read_meta(connection, _LINEAGE)
        if lineage is not None:
            why = await _another_history(connection, shapes / f"{base}.{_in_a_name(lineage)}")
            if why is not None:
                await new_lineage(connection, why)
                lineage = await read_meta(connection, _LINEAGE)
        else:
            await new_lineage(connection)
            lineage = await read_meta(connection, _LINEAGE)
        assert lineage is not None, "it was written just now"
    folder = shapes / f"{base}.{_in_a_name(lineage)}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # it holds the rows of every table devices asked for
    for former in {path.with_name(path.name.removesuffix(".lock")) for path in shapes.glob(f"{base}.*")}:
        if former != folder:
            _remove_unused(former)
    return folder


def lineage_of(folder: Path) -> str:
    """The history that the shapes in ``folder`` are of, see ``shapes_folder``."""
    return folder.name.rpartition(".")[2]


async def _another_history(connection: asyncpg.Connection, folder: Path) -> str | None:
    """Why what ``folder`` holds, and devices were sent, is not of the history that ``connection`` sees; None if it may
    be. What was noted without being known is noted now."""
    noted = json.loads(await read_meta(connection, _HISTORY) or "{}")
    now = await read_history(connection)
    for part, value in now.items():
        if value and noted.get(part) and noted[part] != value:
            return f"Postgres was restored, copied or failed over ({part} {noted[part]} is {value} now)"
    ahead = await connection.fetchval("SELECT ($1::numeric > pg_current_wal_flush_lsn() - '0/0')", furthest(folder))
    if ahead:
        return "Postgres was set back behind what is on this disk"
    if now != noted:
        await write_meta(connection, _HISTORY, json.dumps({**noted, **{part: now[part] for part in now if now[part]}}))
    return None


def _in_a_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", text)


def _remove_unused(folder: Path) -> None:
    """A copied database has its original's server id, and the original may well be served from here."""
    try:
        lock = FolderLock(folder)
    except FolderInUse:
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.path.unlink(missing_ok=True)
    lock.release()


class FolderLock:
    """Held while the process lives, whatever its end. Raises FolderInUse when another process holds it, unless both
    hold it ``shared``, as hosts of one service do, each of which has a folder of its own in it, and the lock of that.

    The file stays as long as its folder: it means nothing unless somebody holds it.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.path = folder.with_name(f"{folder.name}.lock")
        while True:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            self._take(folder, shared=shared)
            # Whoever removes a folder takes the file along, maybe between our two steps: then this is nobody's lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                    break
            self.release()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)

    def _take(self, folder: Path, *, shared: bool) -> None:
        try:
            import fcntl

            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except ImportError:  # not on Windows, where one service a folder is the operator's to see to
            pass
        except OSError as held:
            owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._descriptor)
            raise FolderInUse(
                f"another service (process {owner}) works in {folder}: stop it, or set SYNCLINE_DATA_DIR", owner
            ) from held


def is_worked_in(data_dir: Path) -> bool:
    """Whether a process holds the folder of a shard there, which every service of either runtime does."""
    for path in (data_dir / "shapes").glob("**/*.lock"):
        try:
            FolderLock(path.with_name(path.name.removesuffix(".lock"))).release()
        except FolderInUse:
            return True
    return False


async def lock_left(folder: Path, *, shared: bool = False) -> FolderLock:
    """The lock of a ``folder`` whose holder is about to end. Says whom it waits for, and raises FolderInUse when that
    takes longer than any end in order."""
    began_s, said = time.monotonic(), False
    while True:
        try:
            return FolderLock(folder, shared=shared)
        except FolderInUse as error:
            waited_s = time.monotonic() - began_s
            if waited_s > LEFT_WITHIN_S:
                raise
            if waited_s > SAY_AFTER_S and not said:
                said = True
                log.warning("not ready yet, this waits for another process to end: %s", error)
        await asyncio.sleep(LOCK_POLL_S)
