"""A thread that reads a device's file whenever it has changed: each commit of the device as another process sees it."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.oracle.expected import Key, Row, key_of
from tests.oracle.schema import Schema, Table
from tests.oracle.values import Value

PAUSE_S = 0.004


@dataclass(frozen=True)
class Sample:
    """What a device's file held at one moment.

    ``lsn``: how far it has come. ``subscriptions``: position -> (state, what was asked for, as stored). ``pending``:
    rows with writes of its own that nobody has confirmed. ``kept``: rows that are to go, and stay for as long as such
    rows refer to them. ``rows``: of all tables, by key.
    """

    lsn: int
    subscriptions: dict[int, tuple[str, str]]
    pending: frozenset[tuple[str, Key]]
    kept: frozenset[tuple[str, Key]]
    rows: dict[str, dict[Key, Row]]


def read_sample(connection: sqlite3.Connection, schema: Schema) -> Sample:
    """One consistent reading; nothing at all if the file has no tables yet."""
    connection.execute("BEGIN")
    try:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "_syncline_state" not in names:
            return Sample(0, {}, frozenset(), frozenset(), {})
        (lsn,) = connection.execute("SELECT lsn FROM _syncline_state").fetchone()
        subscriptions = {
            position: (state, shape)
            for position, state, shape in connection.execute(
                "SELECT position, state, shape FROM _syncline_subscriptions"
            )
        }
        pending, kept = (
            frozenset(
                (name, _key(schema[name], key))
                for name, key in connection.execute(f"SELECT DISTINCT table_name, key FROM {table}")
            )
            for table in ("_syncline_oplog", "_syncline_leaving")
        )
        rows: dict[str, dict[Key, Row]] = {}
        for table in schema.tables:
            if table.name in names:
                found = connection.execute(f"SELECT {', '.join(table.names)} FROM {table.name}").fetchall()
                rows[table.name] = {key_of(table, row): row for row in found}
        return Sample(int(lsn or b"0"), subscriptions, pending, kept, rows)
    finally:
        connection.execute("COMMIT")


def _key(table: Table, text: str) -> Key:
    values: list[Value] = json.loads(text)
    return tuple(
        int(value) if table.types[name] in ("int4", "int8") else value  # type: ignore[arg-type]
        for name, value in zip(table.key, values, strict=True)
    )


class Sampler:
    """``samples``: what it has seen so far, without repetitions. ``failure``: what ended it before its time."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.samples: list[Sample] = []
        self.failure: BaseException | None = None
        self._path = path
        self._schema = schema
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sampler of {path.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as failure:  # it is reported by whoever stops the thread
            self.failure = failure

    def _watch(self) -> None:
        while not self._path.exists():
            if self._stopped.wait(PAUSE_S):
                return
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None, timeout=30.0)
        version = None
        try:
            while True:
                last = self._stopped.is_set()
                (now,) = connection.execute("PRAGMA data_version").fetchone()
                if now != version:
                    version = now
                    sample = read_sample(connection, self._schema)
                    if not self.samples or sample != self.samples[-1]:
                        self.samples.append(sample)
                if last:
                    return
                self._stopped.wait(PAUSE_S)
        finally:
            connection.close()
