"""A database with electrified tables, and devices that write to it: the words the write tests are told in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from tests.conftest import drop_database

from syncline.actors.postgres.absorber import ABSORB, columns_of
from syncline.actors.postgres.absorption import Entry
from syncline.actors.postgres.bootstrap import bootstrap
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.typemap import SESSION_SETTINGS

Operation = dict[str, Any]


@dataclass
class Scene:
    """``connection`` is a session as the writer has it; ``apply`` sends one batch through ``electric.apply``."""

    dsn: str
    connection: asyncpg.Connection
    relids: dict[str, int] = field(default_factory=dict)

    async def electrify(self, *tables: str) -> None:
        for table in tables:
            await self.connection.execute("CALL electric.electrify($1)", f"public.{table}")
            self.relids[table] = await self.connection.fetchval("SELECT to_regclass($1)::oid", f"public.{table}")

    def insert(self, table: str, *row: str | None, seen: Sequence[str] = ()) -> Operation:
        modified = [True] * len(row)
        return {"rel": self.relids[table], "op": "I", "row": row, "modified": modified, "tags": list(seen)}

    def update(self, table: str, *row: str | None, changed: Sequence[int], seen: Sequence[str] = ()) -> Operation:
        modified = [i in changed for i in range(len(row))]
        return {"rel": self.relids[table], "op": "U", "row": row, "modified": modified, "tags": list(seen)}

    def delete(self, table: str, *row: str | None, seen: Sequence[str] = ()) -> Operation:
        return {"rel": self.relids[table], "op": "D", "row": row, "modified": [], "tags": list(seen)}

    def keep(self, table: str, *row: str | None, seen: Sequence[str] = ()) -> Operation:
        return {"rel": self.relids[table], "op": "C", "row": row, "modified": [], "tags": list(seen)}

    async def apply(self, *transactions: dict[str, Any], absorbing: bool = False) -> list[dict[str, Any]]:
        """``absorbing``: what direct SQL wrote is read from a stream, of which nothing is known."""
        text = await self.connection.fetchval(
            "CALL electric.apply($1, NULL, $2)", json.dumps(transactions), '{"horizon": null}' if absorbing else None
        )
        results: list[dict[str, Any]] = json.loads(text)
        return results

    async def absorb(
        self, table: str, key: str, ms: int, *, changed: Sequence[int] = (), gone: Sequence[str | None] = ()
    ) -> None:
        """What the stream says of the last write of direct SQL to a row: at ``ms`` it ``changed`` columns, or deleted
        the row that was ``gone``."""
        entry = await self.entry(table, ms, changed=changed, gone=gone)
        await self.absorb_entry(table, key, entry)

    async def absorb_entry(self, table: str, key: str, entry: Entry) -> None:
        await self.connection.execute(ABSORB, *columns_of({(self.relids[table], f'["{key}"]'): entry}))

    async def entry(
        self, table: str, ms: int, *, changed: Sequence[int] = (), gone: Sequence[str | None] = ()
    ) -> Entry:
        """Of what direct SQL has just written."""
        lsn = await self.here()
        width = await self.connection.fetchval(
            "SELECT jsonb_array_length(description -> 'columns') FROM electric.tables WHERE relid = $1",
            self.relids[table],
        )
        column_ms = tuple(ms if i in changed else None for i in range(width))
        column_lsn = tuple(lsn if i in changed else None for i in range(width))
        return Entry(lsn, ms, column_ms, column_lsn, tuple(gone) or None)

    async def here(self) -> int:
        """Where the WAL is."""
        return int(await self.connection.fetchval("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8"))

    async def refresh(self) -> bool:
        """What the service does now and then: whether a merge function was made anew."""
        return bool(await self.connection.fetchval("SELECT electric.refresh_merges()"))

    async def statuses(self, *transactions: dict[str, Any]) -> list[str]:
        return [result["status"] for result in await self.apply(*transactions)]

    async def rows(self, table: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(f"SELECT * FROM {table} ORDER BY 1")]

    async def tags(self, table: str, key: str) -> list[str]:
        tags = await self.connection.fetchval(
            "SELECT tags FROM electric.shadow WHERE relid = $1 AND key = $2", self.relids[table], f'["{key}"]'
        )
        return sorted(tags or ())


def written(client: str, ms: int, *ops: Operation, lsn: int | None = None) -> dict[str, Any]:
    """A transaction of ``client`` committed there at ``ms``; its place in the device's log is ``lsn``, else ``ms``."""
    return {"client": client, "lsn": ms if lsn is None else lsn, "ms": ms, "ops": list(ops)}


@asynccontextmanager
async def scene(dsn: str, schema: str = "", *tables: str) -> AsyncIterator[Scene]:
    """Schema ``electric`` installed, ``schema`` run, ``tables`` (of schema public, parents first) electrified."""
    connection = await asyncpg.connect(dsn, server_settings=SESSION_SETTINGS)
    try:
        await bootstrap(connection)
        if schema:
            await connection.execute(schema)
        opened = Scene(dsn, connection)
        await opened.electrify(*tables)
        yield opened
    finally:
        await connection.close()


@dataclass
class Standing:
    """A scene for tests that are no coroutines, as those of hypothesis are."""

    runner: asyncio.Runner
    scene: Scene


@contextmanager
def standing(postgres: EmbeddedPostgres, name: str, schema: str, *tables: str) -> Iterator[Standing]:
    """As ``scene``, in a database of its own called ``name``."""

    async def open_scene(stack: AsyncExitStack) -> Scene:
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        return await stack.enter_async_context(scene(postgres.dsn(name), schema, *tables))

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        yield Standing(runner, runner.run(open_scene(stack)))
        runner.run(stack.aclose())
        runner.run(drop_database(postgres.dsn(), name))
