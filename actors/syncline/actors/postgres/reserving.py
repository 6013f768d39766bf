"""Values of sequences, reserved for devices and given back. See ``sql/reserving.sql``.

What is reserved is taken from the sequence itself, and noted down, before the device hears of it. A table may have been
altered since it was electrified, so whether the column has a sequence is asked of Postgres, not of its description.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from syncline.actors.postgres.catalog import TableInfo
from syncline.proto.blocks import Block


@dataclass(frozen=True, slots=True)
class NothingReserved:
    """``code``: NO_SEQUENCE or EXHAUSTED, see ``SatReserveResp``. ``message``: for a human."""

    code: str
    message: str


async def reserve(
    pool: asyncpg.Pool, client_id: str, table: TableInfo | None, column: str, count: int, left: int
) -> tuple[Block, ...] | NothingReserved:
    """Up to ``count`` values of the sequence of ``column`` for the device, which has ``left``; durable. ``table``: None
    for one that is not synced. Raises what asyncpg raises, but for a right that our role lacks."""
    name = _name_now(table, column)
    if table is None or name is None:
        return NothingReserved("NO_SEQUENCE", "there is no such column")
    try:
        text = await pool.fetchval(
            "SELECT electric.reserve($1, $2, $3, $4, $5)::text", client_id, table.oid, name, count, left
        )
    except asyncpg.InsufficientPrivilegeError as error:
        return NothingReserved("NO_SEQUENCE", str(error))
    answer = json.loads(text)
    if "refused" in answer:
        return NothingReserved(answer["refused"], answer["message"])
    return tuple(Block(*block) for block in answer["blocks"])


async def release(
    pool: asyncpg.Pool, client_id: str, table: TableInfo | None, column: str, blocks: Sequence[Block]
) -> None:
    """The device does not use these values, and others may; of values that it does not have nothing comes. Raises what
    asyncpg raises."""
    name = _name_now(table, column)
    if table is not None and name is not None:
        given = json.dumps([(block.first, block.last, block.step) for block in blocks])
        await pool.execute("SELECT electric.release($1, $2, $3, $4::jsonb)", client_id, table.oid, name, given)


def _name_now(table: TableInfo | None, column: str) -> str | None:
    """What a column of a synced table is called, which a device calls so; None: it has none."""
    return None if table is None or column not in table.types else table.column_now(column)
