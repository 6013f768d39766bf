"""What a running service knows of itself, for whoever asks ``/api/status`` for more than a word.

Anybody may ask, as often as he likes: so what is told is read at most once a second, by nobody twice at a time, and
a part that does not answer soon is left out. Nothing of what is synced is in it; a held write's message is Postgres'
own, and may name a table or a column.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import asyncpg

from syncline.actors.devices.claims import ReadConnected, ReadContested
from syncline.actors.names import WRITER
from syncline.actors.postgres.apply import Held
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.pruning import REMOVED
from syncline.actors.postgres.slot import slot_state
from syncline.actors.postgres.writer import ReadHeld
from syncline.actors.shapes.census import Census, ReadCensus
from syncline.cluster import ActorDown, CallTimeout
from syncline.cluster.host import Host

FRESH_S = 1.0
ANSWER_S = 2.0

REJECTIONS_TOLD_MAX = 5

# What was written, and what Postgres said of it, may be anybody's secret.
REJECTIONS = """
SELECT (SELECT count(*) FROM electric.rejections) AS total, r.client_id AS device, r.sqlstate, r.table_name AS "table",
    r.constraint_name AS "constraint", to_char(r.rejected_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS "at"
FROM electric.rejections r ORDER BY r.id DESC LIMIT $1
"""
FORGOTTEN = "SELECT value FROM electric.meta WHERE key = $1"
ESTIMATES = "SELECT oid::int8, greatest(reltuples, 0)::int8 AS rows FROM pg_class WHERE oid = ANY ($1::oid[])"


class Vitals:
    """``pool``: of the database whose ``slot`` the service reads. ``shards``: the names of those with the shapes,
    ``counting``: of who knows all devices. ``devices_max``: how many there can be, where each has a process of its own;
    ``alone``: whether each shape is to have one."""

    def __init__(
        self,
        host: Host,
        pool: asyncpg.Pool,
        slot: str,
        shards: Iterable[str],
        counting: str,
        devices_max: int | None = None,
        *,
        alone: bool = False,
    ) -> None:
        self._counting = counting
        self._devices_max = devices_max
        self._alone = alone
        self._shards = tuple(shards)
        self._host = host
        self._pool = pool
        self._slot = slot
        self._reading = asyncio.Lock()
        self._read_at_s = float("-inf")
        self._facts: Mapping[str, object] = {}

    async def read(self) -> Mapping[str, object]:
        """``devices`` connected and ``devices_max``, the client ids of ``devices_contested`` (see ``contests``),
        ``shapes`` live (tables) and ``shapes_sharing`` a process that are to be alone, what they come to (see
        ``Census``), ``lag_bytes`` of WAL not confirmed yet, ``held_writes``, ``rejections``, and of what was remembered
        how much is ``forgotten``.

        None for what is not known now or has no meaning, and for contested devices and held writes when there are none.
        """
        async with self._reading:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._read_at_s >= FRESH_S:
                devices, contested, held, lag, rejections, forgotten, *answers = await asyncio.gather(
                    self._ask(self._counting, ReadConnected()),
                    self._ask(self._counting, ReadContested()),
                    self._ask(WRITER, ReadHeld()),
                    self._lag_bytes(),
                    self._rejections(),
                    self._forgotten(),
                    *(self._ask(shard, ReadCensus()) for shard in self._shards),
                )
                shards = [answer for answer in answers if isinstance(answer, Census)]
                known = len(shards) == len(answers)
                self._facts = {
                    "devices": devices,
                    "devices_max": self._devices_max,
                    "devices_contested": contested or None,
                    "shapes": sum(shard.tables for shard in shards) if known else None,
                    "shapes_sharing": _sharing(shards) if self._alone and known else None,
                    "shapes_loading": await self._loading(shards) if known else None,
                    "shapes_asleep": sum(shard.asleep for shard in shards) if known else None,
                    "shapes_slow": sum(shard.slow for shard in shards) if known else None,
                    "rows_outside": sum(shard.outside for shard in shards) if known else None,
                    "disk_bytes": _disk(shards) if known else None,
                    "oldest_position": _oldest(shards) if known else None,
                    "lag_bytes": lag,
                    "rejections": rejections,
                    "forgotten": forgotten,
                    "held_writes": (
                        {"writes": held.writes, "devices": held.devices, "message": held.message}
                        if isinstance(held, Held)
                        else None
                    ),
                }
                self._read_at_s = now_s
            return self._facts

    async def _ask(self, name: str, question: object) -> object:
        with contextlib.suppress(ActorDown, CallTimeout):
            return await self._host.ref(name).call(question, ANSWER_S)
        return None

    async def _loading(self, shards: Sequence[Census]) -> Mapping[str, int] | None:
        """Of the shapes that are being read: how many, the rows so far, and about how many their tables have."""
        loading = [one for shard in shards for one in shard.loading]
        if not loading:
            return None
        tables = Counter(relation_id for relation_id, _ in loading)
        estimate = 0
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(ANSWER_S):
                rows = await self._pool.fetch(ESTIMATES, list(tables))
                estimate = sum(row["rows"] * tables[row["oid"]] for row in rows)
        return {"shapes": len(loading), "rows": sum(rows for _, rows in loading), "rows_estimate": estimate}

    async def _rejections(self) -> Mapping[str, object] | None:
        """How many transactions of devices are on record as rejected, and the newest."""
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(ANSWER_S):
                newest = [dict(row) for row in await self._pool.fetch(REJECTIONS, REJECTIONS_TOLD_MAX)]
                total = [row.pop("total") for row in newest]
                return {"transactions": total[0] if total else 0, "newest": newest}
        return None

    async def _forgotten(self) -> Mapping[str, int] | None:
        """How many ``devices``, ``deleted_rows`` and ``written_rows`` were forgotten since the database is synced."""
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(ANSWER_S):
                counts = json.loads(await self._pool.fetchval(FORGOTTEN, REMOVED) or "{}")
                return {what: int(counts.get(what, 0)) for what in ("devices", "deleted_rows", "written_rows")}
        return None

    async def _lag_bytes(self) -> int | None:
        with contextlib.suppress(*AWAY):
            async with asyncio.timeout(ANSWER_S), self._pool.acquire() as connection:
                slot = await slot_state(connection, self._slot)
                return None if slot is None else slot.lag_bytes
        return None


def _sharing(shards: Sequence[Census]) -> int:
    """How many shapes, the schema's too, are not the only ones of their shard."""
    return sum(shard.shapes for shard in shards if shard.shapes > 1)


def _disk(shards: Sequence[Census]) -> Mapping[str, int]:
    return {
        "logs": sum(shard.log_bytes for shard in shards),
        "images": sum(shard.image_bytes for shard in shards),
        "other": sum(shard.other_bytes for shard in shards),
    }


def _oldest(shards: Sequence[Census]) -> int | None:
    return max((shard.since_lsn for shard in shards if shard.since_lsn), default=None)
