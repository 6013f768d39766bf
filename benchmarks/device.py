"""What one device can take and give, without a service: the Python library against a peer that only speaks.

    python -m benchmarks.device [--transactions N] [--rows N] [--repeats N]

*Drain*: the device is N one-row transactions behind when it connects; the clock runs until the last of them is in its
SQLite. *Push*: N local one-row transactions wait; the clock runs until every echo is in. *First sync*: a shape of many
rows; the clock runs from ``sync`` to ``synced``. *Local write*: ``execute`` of one INSERT, offline, with its entry.

The peer is the protocol's server session on a real WebSocket, in a process of its own. It has made all its frames
before the clock starts, keeps the window of 30 unacknowledged transactions, and joins as many as the window allows into
one message, as the service does. Limits in the same run: SQLite alone, with the same settings, one INSERT OR REPLACE a
transaction; and ``executemany`` of the same rows, in memory as Python values, as one transaction.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from benchmarks.figures import Figure
from benchmarks.program import Program, run
from benchmarks.side import beside
from syncline.client import Database, open_db
from syncline.proto import codec
from syncline.proto.events import AckReceived, AuthRequested, StartRequested, SubscribeRequested, WriteReceived
from syncline.proto.flow import Window
from syncline.proto.session import ServerSession, State
from syncline.proto.values import (
    CREATE_TABLE,
    Column,
    Insert,
    Migrate,
    MigrationColumn,
    MigrationTable,
    Relation,
    Row,
)

TYPES = {"id": "int8", "title": "text", "body": "text", "done": "bool", "rank": "int4", "created": "timestamptz"}
SQLITE = {"int8": "INTEGER", "int4": "INTEGER", "bool": "INTEGER", "text": "TEXT", "timestamptz": "TEXT"}
ITEMS = Relation(1, "public", "items", tuple(Column(n, t, primary_key=n == "id") for n, t in TYPES.items()))
# The last transaction of a drain is of this table, so that a live query can wait for it at no cost.
FINISHED = Relation(2, "public", "finished", (Column("id", "int8", primary_key=True),))
TAGS = ("postgres_1@0",)
CREATE_ITEMS = "CREATE TABLE items ({}, PRIMARY KEY (id))".format(
    ", ".join(f"{n} {SQLITE[t]}" for n, t in TYPES.items())
)
SCHEMA = [
    Migrate(
        str(relation.id),
        ((CREATE_TABLE, ddl),),
        MigrationTable(
            relation.table,
            tuple(MigrationColumn(c.name, SQLITE[c.type_name], c.type_name) for c in relation.columns),
            (),
            ("id",),
        ),
    )
    for relation, ddl in ((ITEMS, CREATE_ITEMS), (FINISHED, "CREATE TABLE finished (id INTEGER PRIMARY KEY)"))
]
INSERT = "INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?)"
BODY = "a few words of text, as people write them"
ROWS_PER_FRAME = 500


def wire_row(number: int) -> Row:
    return (str(number).encode(), b"a row", BODY.encode(), b"f", b"7", b"2024-01-01 00:00:00Z")


def values(number: int) -> tuple[int, str, str, int, int, str]:
    return (number, "a row", BODY, 0, 7, "2024-01-01 00:00:00Z")


# --- the peer ---------------------------------------------------------------------------------------------------------


class Peer:
    """Sends a device what it has been told to, as fast as the window allows."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, bytes]] = []  # transactions: id, encoded
        self.shape: list[bytes] = []
        self._next_id = 1_000

    def commit(self, relation: Relation, row: Row, origin: str = "postgres_1", commit_ms: int = 1) -> None:
        self._next_id += 1
        tags = TAGS if origin == "postgres_1" else (f"{origin}@{commit_ms}",)
        lsn = str(self._next_id).encode()
        body = codec.encode_begin(commit_ms, lsn, origin, self._next_id)
        body += codec.encode_ops([Insert(relation.id, row, tags)]) + codec.encode_commit(commit_ms, lsn)
        self.waiting.append((self._next_id, body))

    async def serve(self, connection: ServerConnection) -> None:
        session, window = ServerSession(), Window()
        client_id = ""
        async for frame in connection:
            assert isinstance(frame, bytes)
            for event in session.receive(frame):
                match event:
                    case AuthRequested(request_id, client_id, _):
                        await connection.send(session.authenticated(request_id, "peer"))
                    case StartRequested(request_id):
                        await connection.send(session.start_accepted(request_id))
                        await connection.send(session.start_write())
                        for relation in (ITEMS, FINISHED):
                            await connection.send(codec.relation_message(relation))
                    case SubscribeRequested(request_id, subscription_id, shapes):
                        await connection.send(session.subscribed(request_id, subscription_id))
                        await connection.send(codec.subs_data_begin(subscription_id, b"999"))
                        await connection.send(codec.shape_data_begin(shapes[0].request_id))
                        for rows in self.shape:
                            await connection.send(rows)
                        await connection.send(codec.shape_data_end())
                        await connection.send(codec.subs_data_end())
                    case WriteReceived():
                        ((_, change),) = event.changes
                        assert isinstance(change, Insert)
                        self.commit(ITEMS, change.row, client_id, event.commit_ms)
                    case AckReceived():
                        window.acked(event.transaction_id)
            if session.state is State.STREAMING:
                await self._send_waiting(connection, window)

    async def _send_waiting(self, connection: ServerConnection, window: Window) -> None:
        bodies: list[bytes] = []
        while window.open and self.waiting:
            transaction_id, body = self.waiting.pop(0)
            window.sent(transaction_id, transaction_id)
            bodies.append(body)
        if bodies:
            await connection.send(codec.oplog_message(*bodies))


def peer(pipe: Connection, transactions: int, rows: int) -> None:
    """Sends its address, then a device may connect after each "drain", "shape" or "echo" it is told."""
    asyncio.run(_peer(pipe, transactions, rows))


async def _peer(pipe: Connection, transactions: int, rows: int) -> None:
    speaker = Peer()
    shape = [
        codec.oplog_message(codec.encode_ops([Insert(1, wire_row(n), TAGS) for n in range(at, at + ROWS_PER_FRAME)]))
        for at in range(0, rows, ROWS_PER_FRAME)
    ]
    async with serve(
        speaker.serve, "127.0.0.1", 0, subprotocols=[Subprotocol("electric.0.12")], compression=None, max_size=None
    ) as server:
        pipe.send(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        while True:
            command = await asyncio.to_thread(pipe.recv)
            speaker.waiting.clear()
            speaker.shape = shape if command == "shape" else []
            if command == "drain":
                for number in range(transactions - 1):
                    speaker.commit(ITEMS, wire_row(number))
                speaker.commit(FINISHED, (b"1",))
            pipe.send("ready")


# --- the device -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def device(path: Path, url: str) -> AsyncIterator[Database]:
    async with open_db(path, url, migrations=SCHEMA) as db:
        yield db


async def drain(path: Path, url: str) -> float:
    """Seconds from the connection to the last transaction in SQLite."""
    async with device(path, url) as db, db.sql("SELECT id FROM finished").live() as results:
        started_s = time.perf_counter()
        await db.connect("token")
        async for rows in results:
            if rows:
                return time.perf_counter() - started_s
    raise AssertionError("a live query does not end")


async def write_and_push(path: Path, url: str, transactions: int) -> tuple[float, float]:
    """Seconds of the local writes, and from the connection to the last echo."""
    async with device(path, url) as db:
        started_s = time.perf_counter()
        for number in range(transactions):
            await db.execute(INSERT, values(number))
        written_s = time.perf_counter()
        await db.connect("token")
        async for status in db.status_changes():
            if status.pending_writes == 0:
                return written_s - started_s, time.perf_counter() - written_s
    raise AssertionError("the status does not end")


async def first_sync(path: Path, url: str) -> float:
    async with device(path, url) as db:
        await db.connect("token")
        started_s = time.perf_counter()
        await (await db.sync("items")).synced()
        return time.perf_counter() - started_s


def sqlite_alone(path: Path) -> sqlite3.Connection:
    file = sqlite3.connect(path, isolation_level=None)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute(CREATE_ITEMS)
    return file


def one_by_one(path: Path, transactions: int) -> float:
    file = sqlite_alone(path)
    started_s = time.perf_counter()
    for number in range(transactions):
        file.execute("BEGIN IMMEDIATE")
        file.execute(INSERT, values(number))
        file.execute("COMMIT")
    taken_s = time.perf_counter() - started_s
    file.close()
    return taken_s


def all_at_once(path: Path, rows: int) -> float:
    every = [values(number) for number in range(rows)]
    file = sqlite_alone(path)
    started_s = time.perf_counter()
    file.execute("BEGIN IMMEDIATE")
    file.executemany(INSERT, every)
    file.execute("COMMIT")
    taken_s = time.perf_counter() - started_s
    file.close()
    return taken_s


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--transactions", type=int, default=2_000, help="of a backlog (default 2000)")
    parser.add_argument("--rows", type=int, default=200_000, help="of the shape (default 200000)")
    parser.add_argument("--repeats", type=int, default=3, help="default 3")


async def measure(options: argparse.Namespace, folder: Path) -> Sequence[Figure]:
    transactions, rows = options.transactions, options.rows
    found: dict[str, list[float]] = defaultdict(list)
    async with beside(peer, transactions, rows) as side:
        url = await side.receive()

        async def told(command: str) -> None:
            side.send(command)
            await side.receive()

        for turn in range(options.repeats):
            found["alone"].append(transactions / one_by_one(folder / f"{turn}-alone.db", transactions))
            found["bulk"].append(rows / all_at_once(folder / f"{turn}-bulk.db", rows))
            await told("drain")
            cpu_s = time.process_time()
            found["drained"].append(transactions / await drain(folder / f"{turn}-drain.db", url))
            found["drained, CPU"].append(transactions / (time.process_time() - cpu_s))
            await told("echo")
            write_s, push_s = await write_and_push(folder / f"{turn}-push.db", url, transactions)
            found["written"].append(transactions / write_s)
            found["pushed"].append(transactions / push_s)
            await told("shape")
            cpu_s = time.process_time()
            found["synced"].append(rows / await first_sync(folder / f"{turn}-shape.db", url))
            found["synced, CPU"].append(rows / (time.process_time() - cpu_s))

    def figure(name: str, key: str, unit: str, goal: str = "") -> Figure:
        return Figure(name, tuple(found[key]), unit, goal=goal)

    commits = figure("SQLite alone, one row a transaction", "alone", "transactions/s")
    inserts = figure("executemany", "bulk", "rows/s")
    return [
        commits,
        figure("incoming one-row transactions drained", "drained", "transactions/s").against(commits),
        figure("the same a CPU second of the device", "drained, CPU", "transactions/s"),
        figure("local one-row transactions written", "written", "transactions/s").against(commits),
        figure("local one-row transactions pushed and echoed", "pushed", "transactions/s").against(commits),
        inserts,
        figure("shape rows synced", "synced", "rows/s", ">= 100,000").against(inserts),
        figure("the same a CPU second of the device", "synced, CPU", "rows/s"),
    ]


PROGRAM = Program("device", __doc__, options, measure, serves=False)

if __name__ == "__main__":
    run(PROGRAM)
