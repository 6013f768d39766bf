"""A whole schema, its service, and devices that hold all of it.

The schema is a file that psql runs, as an application's own would be: types, tables, triggers, and some rows. What of
it syncs, and whether everybody holds the same, is asked of Postgres' catalogue, so that any schema can be tried.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import asyncpg
from tests.npm.service import serving
from tests.patience import until
from tests.schemas.catalogue import Table, application_tables, quoted, synced_tables
from tests.schemas.devices import Device, PythonDevice, Refused, npm_device, python_device
from tests.schemas.values import on_devices
from tests.schemas.writing import Author, Kind, Row, Write

from syncline.actors.postgres.electrify import plan
from syncline.actors.postgres.embedded import binaries

ClientKind: TypeAlias = Literal["python", "npm"]

ROWS_AT_FIRST = 3
"""Of a table that its schema leaves empty."""
CONSTRAINTS, RAISED = "23", "P0001"
"""The class of SQLSTATEs of constraints, and what a trigger raises."""
DIFFERENCES_SHOWN = 8
# As the service has Postgres print what it sends.
PRINTED = {"TimeZone": "UTC", "lc_monetary": "C", "DateStyle": "ISO", "IntervalStyle": "postgres"}


@dataclass(frozen=True)
class Refusal:
    """A transaction of a device that Postgres did not take."""

    client_id: str
    ms: int
    sqlstate: str
    message: str

    @property
    def explained(self) -> bool:
        """Whether the schema itself says no: one of its constraints, or one of its triggers."""
        return self.sqlstate.startswith(CONSTRAINTS) or self.sqlstate == RAISED


class Scene:
    """``refused``: tables that are not open to devices, and why. ``tally``: what was written, and what came of it."""

    def __init__(
        self,
        postgres: asyncpg.Connection,
        tables: Sequence[Table],
        refused: dict[str, str],
        devices: Sequence[Device],
        seed: str,
    ) -> None:
        self.postgres = postgres
        self.tables = tables
        self.refused = refused
        self.devices = devices
        self.tally: Counter[str] = Counter()
        self.complaints: list[str] = []
        self._authors = {device.name: Author(tables, device.rows, f"{seed} {device.name}") for device in devices}
        self._written: list[tuple[str, int | None, list[Write]]] = []
        self._sql = Author(tables, self.rows, f"{seed} sql")

    # -- what is there

    async def rows(self, table: Table) -> list[Row]:
        """As devices are to hold them."""
        cells = ", ".join(
            f"CASE WHEN {quoted(name)} IS DISTINCT FROM NULL THEN format('%s', {quoted(name)}) END"
            for name in table.column
        )
        only = "" if table.partitioned else "ONLY "
        found = await self.postgres.fetch(f"SELECT ARRAY[{cells}]::text[] AS cells FROM {only}{table.name}")
        return sorted(
            (
                {
                    column.name: on_devices(column, text)
                    for column, text in zip(table.columns, record["cells"], strict=True)
                }
                for record in found
            ),
            key=lambda row: _printed(table, row),
        )

    async def equal(self) -> None:
        """Waits until every device has all that Postgres has, in every table and column, with nothing left to send."""
        try:
            await until(self._is_equal)
        except AssertionError as late:
            raise AssertionError("\n".join(await self.differences())) from late

    async def differences(self) -> list[str]:
        found = [f"{device.name} waits for {n}" for device in self.devices if (n := await device.pending())]
        for table in self.tables:
            there = await self.rows(table)
            for device in self.devices:
                found += _differences(device.name, table, await device.rows(table), there)
        return found

    async def _is_equal(self) -> bool:
        if any([await device.pending() for device in self.devices]):
            return False
        return not await self.differences()

    # -- what is written

    async def fill(self) -> None:
        """A few rows by direct SQL where the schema has none: there is nothing to copy otherwise."""
        for table in self.tables:
            for _ in range(0 if await self.rows(table) else ROWS_AT_FIRST):
                await self._transaction_by_sql([("insert", table)])

    async def offline(self) -> None:
        for device in self.devices:
            await device.offline()

    async def online(self) -> None:
        for device in self.devices:
            await device.online()

    async def write(self) -> None:
        """Everybody writes to every table, at the same time."""
        async with asyncio.TaskGroup() as group:
            for device in self.devices:
                group.create_task(self._write_on(device))
            group.create_task(self._write_by_sql())

    async def _write_on(self, device: Device) -> None:
        author = self._authors[device.name]
        for steps in author.plan(deletes=1 + len(self.tables) // 2):
            writes = await author.transaction(steps)
            try:
                if writes:
                    self._written.append((device.name, await device.write(writes), writes))
                    self.tally["device transactions"] += 1
            except Refused as refused:
                self.tally["refused on the device"] += 1
                self.complaints.append(f"{device.name}: {refused}, of {[write.on_device() for write in writes]}")

    async def _write_by_sql(self) -> None:
        for steps in self._sql.plan(deletes=1 + len(self.tables) // 4, renames=1 + len(self.tables) // 2):
            await self._transaction_by_sql(steps)

    async def _transaction_by_sql(self, steps: Sequence[tuple[Kind, Table]]) -> None:
        writes = await self._sql.transaction(steps)
        try:
            async with self.postgres.transaction():
                for write in writes:
                    sql, texts = write.in_postgres()
                    await self.postgres.execute(sql, *texts)
            self.tally["SQL transactions"] += 1
        except (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError) as error:
            self.tally["refused to SQL"] += 1
            self.complaints.append(f"SQL: {error}, of {[write.in_postgres() for write in writes]}")

    async def kept(self) -> float:
        """How much of what devices have written, and was not rejected, Postgres has now, cell by cell. Others write the
        same rows, delete what these refer to, and so do triggers; so it is never all of it."""
        rejected = {
            (device.name, one.transaction_id)
            for device in self.devices
            if isinstance(device, PythonDevice)
            for one in await device.db.rejections()
        }
        there = {(table.name, _printed(table, row)): row for table in self.tables for row in await self.rows(table)}
        cells = {
            (write.table.name, _printed(write.table, {**write.values, **write.key}), name): value
            for author, transaction, writes in self._written
            if (author, transaction) not in rejected
            for write in writes
            if {*write.values, *write.key}.issuperset(write.table.key)
            for name, value in write.values.items()
        }
        found = sum(there.get((table, key), {}).get(name, ...) == value for (table, key, name), value in cells.items())
        return found / len(cells) if cells else 0.0

    async def rejections(self) -> list[Refusal]:
        """What Postgres has refused of all devices. Those in Python have been told all of theirs."""
        found = [
            Refusal(*row)
            for row in await self.postgres.fetch("SELECT client_id, ms, sqlstate, message FROM electric.rejections")
        ]
        for device in self.devices:
            if isinstance(device, PythonDevice):
                told = {(one.transaction_id, one.sqlstate) for one in await device.db.rejections()}
                assert told == {(one.ms, one.sqlstate) for one in found if one.client_id == device.db.client_id}
        return found


@contextlib.asynccontextmanager
async def schema_scene(
    dsn: str, folder: Path, schema: Path, kinds: Sequence[ClientKind] = ("python", "python"), seed: int = 1
) -> AsyncIterator[Scene]:
    """A service on a database with the schema, all its tables open to devices, and devices that hold them."""
    await run_file(dsn, schema)
    async with serving(dsn, folder) as (service, postgres), contextlib.AsyncExitStack() as stack:
        for name, value in PRINTED.items():
            await postgres.execute(f"SET {name} = '{value}'")
        refused = await electrify_all(postgres)
        tables = await synced_tables(postgres)
        devices: list[Device] = []
        for number, kind in enumerate(kinds):
            opened = (python_device if kind == "python" else npm_device)(f"{kind} {number}", folder, service.url)
            devices.append(await stack.enter_async_context(opened))
        scene = Scene(postgres, tables, refused, devices, f"{seed} {schema.stem}")
        await scene.fill()
        for device in devices:
            await device.sync(tables)
        yield scene


async def run_file(dsn: str, path: Path) -> None:
    """As psql does: with COPY from the file, and in a session of its own, whose settings nobody else has."""
    psql = await asyncio.create_subprocess_exec(
        str(binaries() / "bin" / "psql"),
        *("--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", dsn, "--file", str(path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await psql.communicate()
    assert psql.returncode == 0, complaint.decode()


async def electrify_all(postgres: asyncpg.Connection) -> dict[str, str]:
    """Opens all tables of the application to devices that can be; those that are not then, and why."""
    reasons = {table.name: table.message for table in await plan(postgres, None) if table.action == "refused"}
    await postgres.execute("CALL electric.electrify_all()")
    opened = {row["relid"] for row in await postgres.fetch("SELECT relid FROM electric.tables")}
    return {
        name: reasons.get(name, "nothing is said of it")
        for relid, name in (await application_tables(postgres)).items()
        if relid not in opened
    }


def _printed(table: Table, row: Row) -> str:
    """Its key."""
    return repr([row[name] for name in table.key])


def _differences(device: str, table: Table, here: Sequence[Row], there: Sequence[Row]) -> list[str]:
    def by_key(rows: Sequence[Row]) -> dict[str, Row]:
        return {_printed(table, row): row for row in rows}

    mine, wanted = by_key(here), by_key(there)
    found = [f"{device} lacks {key} of {table.name}" for key in wanted if key not in mine]
    found += [f"{device} has {key} of {table.name}, which Postgres has not" for key in mine if key not in wanted]
    for key, row in wanted.items():
        for name, value in row.items():
            held = mine.get(key, row)[name]
            if held != value or type(held) is not type(value):
                found.append(f"{device} has {held!r} as {name} of {table.name} {key}, and not {value!r}")
    return found[:DIFFERENCES_SHOWN]
