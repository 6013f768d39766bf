"""Whatever is written here and there, no reader of a device sees a reference that leads nowhere; in the end it holds
what the server does.

The server here is a simple one, whose states hold together: it cascades, brings back what a row refers to, and keeps
what others refer to. Now and then it rejects a transaction of the device. It decides on them in their order, and brings
them back in any: a row comes with the last of those that write it.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.client.referring_scene import COLUMNS, KEYS, REFERENCES, Referring, referring

from syncline.client.oplog import Entry
from syncline.proto.values import Change

Key: TypeAlias = tuple[Any, ...]
RowKey: TypeAlias = tuple[str, Key]
Row: TypeAlias = dict[str, Any]
IDS = 4
OUT_OF_ORDER_MAX = 3
CONTENT = {"projects": "name", "issues": "title", "comments": "body", "nodes": "title", "rooms": "title"}


class Server:
    def __init__(self) -> None:
        self.rows: dict[RowKey, Row] = {}
        self.graves: dict[RowKey, Row] = {}
        self.changed: set[RowKey] = set()

    def parent(self, table: str, row: Row) -> RowKey | None:
        if table not in REFERENCES:
            return None
        columns, parent, there = REFERENCES[table]
        named = dict(zip(there, (row[column] for column in columns), strict=True))
        key = tuple(named[column] for column in KEYS[parent])
        return None if None in key else (parent, key)

    def children(self, key: RowKey) -> list[RowKey]:
        return [other for other, row in self.rows.items() if other != key and self.parent(other[0], row) == key]

    def put(self, table: str, row: Row) -> None:
        key = (table, tuple(row[column] for column in KEYS[table]))
        parent = self.parent(table, row)
        self.rows[key] = row
        self.changed.add(key)
        if parent is not None and parent not in self.rows:
            self.put(parent[0], self.graves.get(parent) or _blank(parent))

    def delete(self, key: RowKey) -> None:
        """With all that refers to it."""
        row = self.rows.pop(key, None)
        if row is not None:
            self.graves[key] = row
            self.changed.add(key)
            for child in self.children(key):
                self.delete(child)

    def delete_alone(self, key: RowKey) -> None:
        """Unless others refer to it: the author had not seen them."""
        if key in self.rows and not self.children(key):
            self.delete(key)
        self.changed.add(key)

    def changes(self, device: Referring, tag: str, waiting: Collection[RowKey] = ()) -> list[Change]:
        """What has changed since they were last asked for, but for the rows that are ``waiting``."""
        made: list[Change] = []
        for key in sorted(self.changed.difference(waiting), key=repr):
            row = self.rows.get(key)
            if row is not None:
                made.append(device.insert(key[0], *(row[column] for column in COLUMNS[key[0]]), tags=(tag,)))
            else:
                gone = self.graves.get(key) or _blank(key)
                made.append(device.delete(key[0], *(gone[column] for column in COLUMNS[key[0]])))
        self.changed.intersection_update(waiting)
        return made


def _blank(key: RowKey) -> Row:
    return {**dict.fromkeys(COLUMNS[key[0]]), **dict(zip(KEYS[key[0]], key[1], strict=True))}


class Play:
    def __init__(self, device: Referring, rng: random.Random) -> None:
        self.device = device
        self.rng = rng
        self.server = Server()
        self.pending: list[int] = []
        self.decided = 0  # of these, from the first on
        # Where they are few, more of what happens is to the same rows.
        self.tables = rng.choice((list(COLUMNS), ["projects", "issues"], ["nodes"]))
        self.ms = 50

    def key(self, table: str) -> Key:
        number = self.rng.randint(1, IDS)
        return ("h", number) if table == "rooms" else (f"{table}{number}",)

    def row(self, table: str) -> Row:
        row = {
            **dict.fromkeys(COLUMNS[table], f"value {self.ms}"),
            **dict(zip(KEYS[table], self.key(table), strict=True)),
        }
        if table in REFERENCES:
            columns, parent, there = REFERENCES[table]
            named = dict(zip(KEYS[parent], self.key(parent), strict=True))
            row |= {column: named[other] for column, other in zip(columns, there, strict=True)}
        return row

    async def remote(self) -> None:
        self.ms += 1
        for _ in range(self.rng.randint(1, 3)):
            table = self.rng.choice(self.tables)
            if self.rng.random() < 0.4:
                self.server.delete((table, self.key(table)))
            else:
                row = self.row(table)
                parent = self.server.parent(table, row)
                if parent is None or parent in self.server.rows:
                    self.server.put(table, row)
        await self.device.receive(*self.server.changes(self.device, f"other@{self.ms}"), ms=self.ms)

    async def local(self) -> None:
        before = await self.device.replica.backlog(0, 10_000)
        table = self.rng.choice(self.tables)
        match self.rng.choice(("put", "put", "change", "delete", "delete")):
            case "put":
                row = self.row(table)
                parent = self.server.parent(table, row)
                there = "1" if parent is None else _is_there(parent)
                names, values = ", ".join(row), ", ".join(map(_sql, row.values()))
                setters = ", ".join(f"{name} = excluded.{name}" for name in row if name not in KEYS[table])
                sql = (
                    f"INSERT INTO {table} ({names}) SELECT {values} WHERE {there} "
                    f"ON CONFLICT ({', '.join(KEYS[table])}) DO UPDATE SET {setters}"
                )
            case "change":
                column = CONTENT.get(table)
                setting = f"{column} = {column} || '+'" if column else "house = NULL"
                sql = f"UPDATE {table} SET {setting} WHERE {_is(table, self.key(table))}"
            case _:
                sql = f"DELETE FROM {table} WHERE {_is(table, self.key(table))}"
        if await self.changes(sql):
            after = await self.device.replica.backlog(0, 10_000)
            self.pending.append(after[-1].commit_ms)
            assert len(after) > len(before)

    async def changes(self, sql: str) -> bool:
        def work(connection: Any) -> bool:
            connection.execute(sql)
            return self.device.replica.stamp(connection) is not None

        return await self.device.store.write(work)

    async def echo(self) -> None:
        if not self.pending:
            return
        place = self.rng.randrange(min(len(self.pending), OUT_OF_ORDER_MAX))
        entries = await self.device.replica.backlog(0, 10_000)
        for ms in self.pending[self.decided : place + 1]:
            self.decide([entry for entry in entries if entry.commit_ms == ms])
        self.decided = max(self.decided, place + 1) - 1
        ms = self.pending.pop(place)
        self.server.changed.update(_key(entry) for entry in entries if entry.commit_ms == ms)
        waiting = {_key(entry) for entry in entries if entry.commit_ms != ms and entry.op != "C"}
        await self.device.echo(ms, *self.server.changes(self.device, f"me@{ms}", waiting))

    def decide(self, entries: list[Entry]) -> None:
        if self.rng.random() < 0.4:
            return
        for entry in entries:
            key = _key(entry)
            if entry.op in ("I", "U"):
                self.server.put(entry.table_name, dict(entry.new or {}))
            elif entry.op == "D":
                self.server.delete_alone(key)
            elif key not in self.server.rows:
                self.server.put(key[0], self.server.graves.get(key) or _blank(key))

    async def refetch(self) -> None:
        """All rows come anew."""
        await self.device.replica.reset()
        await self.whole()
        rows = [
            self.device.insert(table, *(row[column] for column in COLUMNS[table]), tags=(f"other@{self.ms}",))
            for (table, _), row in self.server.rows.items()
        ]
        await self.device.repair(*rows)

    async def whole(self) -> None:
        assert await self.device.dangling() == []

    async def act(self) -> None:
        step = self.rng.choices((self.remote, self.local, self.echo, self.refetch), (3, 8, 4, 1))[0]
        await step()
        await self.whole()


def _key(entry: Entry) -> RowKey:
    image = entry.new or entry.old or {}
    return entry.table_name, tuple(image[column] for column in KEYS[entry.table_name])


def _sql(value: Any) -> str:
    return "NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'"


def _is(table: str, key: Key) -> str:
    return " AND ".join(f"{column} = {_sql(value)}" for column, value in zip(KEYS[table], key, strict=True))


def _is_there(parent: RowKey) -> str:
    return f"EXISTS (SELECT 1 FROM {parent[0]} WHERE {_is(*parent)})"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
@example(226)  # the upper of two rows that are kept comes back after the lower
def test_every_reference_leads_somewhere(seed: int) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with referring(Path(folder)) as device:
                it = Play(device, random.Random(seed))
                for _ in range(40):
                    await it.act()
                while it.pending:
                    await it.echo()
                    await it.whole()
                await it.remote()
                for table in COLUMNS:
                    there = [
                        tuple(row[c] for c in COLUMNS[table]) for (of, _), row in it.server.rows.items() if of == table
                    ]
                    assert sorted(await device.rows(table), key=repr) == sorted(there, key=repr), table
                assert await device.leaving() == []

    asyncio.run(play())
