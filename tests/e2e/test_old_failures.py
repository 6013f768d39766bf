"""What users of the old service reported as broken under concurrency, and was never mended there: its issues 1112,
1245, 1254, 919 and 526 (electric-sql/electric). Two Python and two npm devices do here what failed there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import asyncpg
from tests.e2e.conflict_scene import Device, Kind, NodeDevice, Rows, Scene, conflict_scene

MIXED: tuple[Kind, ...] = ("python", "npm", "python", "npm")
TRANSACTIONS = 25


async def _each(devices: Sequence[Device], write: Callable[[Device, str, int], Awaitable[None]]) -> None:
    """Every device writes its transactions, one after the other, all devices at once."""

    async def one(number: int, device: Device) -> None:
        for n in range(TRANSACTIONS):
            await write(device, f"d{number}", n)

    await asyncio.gather(*(one(number, device) for number, device in enumerate(devices)))


async def _until_done(writing: Awaitable[None], *reading: Callable[[], Awaitable[None]]) -> int:
    """Reads again and again while ``writing`` goes on, and once more after it; how often."""
    looks = 0
    done = asyncio.Event()

    async def again(read: Callable[[], Awaitable[None]]) -> None:
        nonlocal looks
        ending = False
        while not ending:
            ending = done.is_set()
            await read()
            looks += 1

    readers = [asyncio.create_task(again(read)) for read in reading]
    try:
        await writing
    finally:
        done.set()
        await asyncio.gather(*readers)
    return looks


SETS = """
CREATE TABLE lefts (id text PRIMARY KEY, tx text NOT NULL);
CREATE TABLE rights (id text PRIMARY KEY, tx text NOT NULL);
"""


async def test_sql_sees_a_transaction_of_a_device_whole_or_not_at_all(database: str, tmp_path: Path) -> None:
    """electric#1112: rows of two insert-only sets, written together."""
    async with conflict_scene(database, tmp_path, MIXED, SETS, "lefts", "rights") as scene:
        sizes: set[int] = set()

        async def write(device: Device, name: str, n: int) -> None:
            inserts = [
                f"INSERT INTO {table} VALUES ('{name} {n} {row}', '{name} {n}')"
                for row in range(2)
                for table in ("rights", "lefts")
            ]
            await device.write(*inserts)

        async def in_two_statements() -> None:
            async with scene.postgres.transaction(isolation="repeatable_read"):
                lefts = await _transactions(scene.postgres, "lefts")
                rights = await _transactions(scene.postgres, "rights")
            assert lefts == rights
            assert set(lefts.values()) <= {2}
            sizes.add(len(lefts))

        await _until_done(_each(scene.devices, write), in_two_statements)
        assert len(sizes) > 3, "it looked while they arrived"
        await scene.settled()
        assert len(await _transactions(scene.postgres, "lefts")) == len(MIXED) * TRANSACTIONS


async def _transactions(postgres: asyncpg.Connection, table: str) -> dict[str, int]:
    rows = await postgres.fetch(f"SELECT tx, count(*) FROM {table} GROUP BY tx")
    return dict(rows)


LISTS = """
CREATE TABLE lists (k text PRIMARY KEY, v text NOT NULL);
INSERT INTO lists VALUES ('a', ''), ('b', '');
"""


async def test_nobody_reads_what_a_transaction_had_written_only_for_a_time(database: str, tmp_path: Path) -> None:
    """electric#1245: each appends twice to two lists. Whoever has the first has the second, and in both lists."""
    async with conflict_scene(database, tmp_path, MIXED, LISTS, "lists") as scene:
        seen: set[str] = set()

        async def write(device: Device, name: str, n: int) -> None:
            appends = [f"UPDATE lists SET v = v || ' {name}.{n}.{part}'" for part in ("first", "second")]
            await device.write(*appends)

        def check(rows: Rows) -> None:
            assert rows[0] == rows[1]
            words = rows[0][0].split()
            pairs = zip(words[::2], words[1::2], strict=True)
            assert all(second == first.replace("first", "second") for first, second in pairs), words
            seen.add(rows[0][0])

        def reader(device: Device) -> Callable[[], Awaitable[None]]:
            async def read() -> None:
                check(await device.rows("SELECT v FROM lists ORDER BY k"))

            return read

        async def sql() -> None:
            check([tuple(row) for row in await scene.postgres.fetch("SELECT v FROM lists ORDER BY k")])

        await _until_done(_each(scene.devices, write), sql, *map(reader, scene.devices))
        assert len(seen) > TRANSACTIONS, "it read while they wrote"
        await scene.settled()


REGISTERS = """
CREATE TABLE counters (device text PRIMARY KEY, n int4 NOT NULL);
CREATE TABLE registers (k text PRIMARY KEY, v text NOT NULL);
CREATE TABLE journal (id text PRIMARY KEY);
INSERT INTO counters SELECT 'd' || n, -1 FROM generate_series(0, 3) n;
INSERT INTO registers VALUES ('shared', 'nothing');
"""


async def test_a_device_reads_its_writes_and_never_back_in_time_and_no_write_is_lost(
    database: str, tmp_path: Path
) -> None:
    """electric#1254: counters that one device writes, a register that all write and direct SQL too, and a set that
    grows."""
    async with conflict_scene(database, tmp_path, MIXED, REGISTERS, "counters", "registers", "journal") as scene:

        async def write(device: Device, name: str, n: int) -> None:
            await device.write(
                f"UPDATE counters SET n = {n} WHERE device = '{name}'",
                f"UPDATE registers SET v = '{name} {n}'",
                f"INSERT INTO journal VALUES ('{name} {n}')",
            )
            [(mine,)] = await device.rows(f"SELECT n FROM counters WHERE device = '{name}'")
            assert mine == n, "its own write"

        numbers = itertools.count()

        async def sql() -> None:
            await scene.postgres.execute("UPDATE registers SET v = $1", f"by SQL {next(numbers)}")

        sessions = [Session(device, f"d{n}") for n, device in enumerate(scene.devices)]
        await _until_done(_each(scene.devices, write), sql, *(session.read for session in sessions))
        await scene.settled()
        for session in sessions:
            await session.read()
            assert len(session.replaced) > 3, "others wrote while it read"
        assert len(await scene.rows("journal")) == len(MIXED) * TRANSACTIONS
        assert await scene.rows("counters") == [(f"d{n}", TRANSACTIONS - 1) for n in range(len(MIXED))]


class Session:
    """What one reader saw, by the ``name`` with which it writes. ``left``: values of the register that it has seen
    replaced. The published client does not know since when a column is what it is, and shows a value of its own that
    has been beaten again, until that has come back: that is its own, and left out.
    """

    def __init__(self, device: Device, name: str) -> None:
        self._device = device
        self._own = f"{name} " if isinstance(device, NodeDevice) else None
        self._counters: dict[str, int] = {}
        self._register = ""
        self._journal = 0
        self.left: set[str] = set()
        self.replaced: set[str] = set()  # its own too

    async def read(self) -> None:
        """Asserts that nothing is older than it was."""
        rows = await self._device.rows(
            "SELECT 'register', v FROM registers UNION ALL SELECT device, n FROM counters "
            "UNION ALL SELECT 'journal', count(*) FROM journal"
        )
        state = dict(rows)
        register, journal = str(state.pop("register")), int(state.pop("journal"))
        if register != self._register:
            self.replaced.add(self._register)
            if self._own is None or not self._register.startswith(self._own):
                self.left.add(self._register)
            assert register not in self.left, f"{register} is back, after {self._register}"
            self._register = register
        assert journal >= self._journal
        self._journal = journal
        for name, n in state.items():
            assert n >= self._counters.get(name, -1), name
            self._counters[name] = n


ACCOUNTS = """
CREATE TABLE accounts (id text PRIMARY KEY, writer text NOT NULL, by_sql int4 NOT NULL);
CREATE TABLE journal (id text PRIMARY KEY);
INSERT INTO accounts SELECT 'a' || n, 'nobody', 0 FROM generate_series(1, 6) n;
"""


async def test_writers_that_lock_rows_in_opposite_orders_lose_nothing_and_no_sql_is_their_victim(
    database: str, tmp_path: Path
) -> None:
    """electric#919: devices go up and down the rows, direct SQL goes down and holds what it has got."""
    async with conflict_scene(database, tmp_path, MIXED, ACCOUNTS, "accounts", "journal") as scene:
        ids = [f"a{n}" for n in range(1, 7)]

        async def write(device: Device, name: str, n: int) -> None:
            order = ids if n % 2 else ids[::-1]
            await device.write(
                f"INSERT INTO journal VALUES ('{name} {n}')",
                *(f"UPDATE accounts SET writer = '{name} {n}' WHERE id = '{id}'" for id in order),
            )

        async def sql(postgres: asyncpg.Connection) -> None:
            async with postgres.transaction():
                for id in reversed(ids):
                    await postgres.execute("UPDATE accounts SET by_sql = by_sql + 1 WHERE id = $1", id)

        async with _another(scene) as other:
            count = await _until_done(_each(scene.devices, write), lambda: sql(scene.postgres), lambda: sql(other))
        await scene.settled()
        assert count > TRANSACTIONS
        rows = await scene.rows("accounts")
        assert [(id, by_sql) for id, _, by_sql in rows] == [(id, count) for id in ids]
        assert len({writer for _, writer, _ in rows}) == 1, "each transaction wrote all rows"
        assert len(await scene.rows("journal")) == len(MIXED) * TRANSACTIONS
        assert await scene.rejections() == []


PARENTS = """
CREATE TABLE parents (id text PRIMARY KEY, name text NOT NULL, by_sql int4 NOT NULL);
CREATE TABLE children (id text PRIMARY KEY, parent text NOT NULL REFERENCES parents);
INSERT INTO parents VALUES ('p', 'parent', 0), ('q', 'another', 0);
"""


async def test_children_of_a_row_that_sql_updates_all_the_time_all_arrive(database: str, tmp_path: Path) -> None:
    """electric#526: each child says of its parent that it stays, which writes that row and changes nothing in it.
    Tables are opened to devices meanwhile."""
    async with conflict_scene(database, tmp_path, MIXED, PARENTS, "parents", "children") as scene:

        async def write(device: Device, name: str, n: int) -> None:
            await device.write(f"INSERT INTO children VALUES ('{name} {n}', '{'pq'[n % 2]}')")

        numbers = itertools.count()
        updates = itertools.count()

        async def sql() -> None:
            await scene.postgres.execute("UPDATE parents SET by_sql = by_sql + 1")
            next(updates)

        async with _another(scene) as other, _another(scene) as third:

            async def electrify(postgres: asyncpg.Connection) -> None:
                if (number := next(numbers)) < 10:
                    await postgres.execute(f"CREATE TABLE more_{number} (id text PRIMARY KEY)")
                    await postgres.execute(f"CALL electric.electrify('more_{number}')")
                await asyncio.sleep(0.1)  # others write between two tables

            await _until_done(_each(scene.devices, write), sql, lambda: electrify(other), lambda: electrify(third))
        await scene.settled()
        count = next(updates)
        assert await scene.rows("parents") == [("p", "parent", count), ("q", "another", count)]
        assert len(await scene.rows("children")) == len(MIXED) * TRANSACTIONS
        assert await scene.rejections() == []
        assert "concurrently updated" not in scene.service.said()


@contextlib.asynccontextmanager
async def _another(scene: Scene) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(scene.dsn)
    try:
        yield connection
    finally:
        await connection.close()
