"""What must hold, on every device after everything it commits, and everywhere at the end.

The strongest check: a device that stands at LSN L holds exactly the rows Postgres held at L, with their tags, in every
table it is subscribed to, except where it has writes of its own on the way. That is atomic visibility, order and
completeness in one: a part of a transaction, a lost or repeated one, one that came too early or too late all show.
Tags of Postgres count as one: a row that came by snapshot has ``postgres_1@0`` where the stream has a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from tests.sim.device import KEY, SimDevice
from tests.sim.postgres import RowKey, SimPostgres
from tests.sim.schema import ISSUES, JOURNAL, NAMES, PROJECTS, TABLES

from syncline.client.schema import UNTRACKED_TAG
from syncline.client.shapes import ShapeState, wanted
from syncline.proto.subprotocols import takes_extensions
from syncline.proto.values import POSTGRES_ORIGIN, Row

Held = dict[str, tuple[Any, ...]]
Tags = frozenset[str]
COUNTER = "counter-"
RANK = 3


def held_tables(device: SimDevice) -> set[int]:
    """The tables of the device's delivered shapes."""
    delivered = (s for s in device.replica.subscriptions.values() if s.state is ShapeState.DELIVERED)
    return closure(TABLES[subscription.spec.table] for subscription in delivered)


def closure(tables: Iterable[int]) -> set[int]:
    """``tables`` and what they refer to: an issue's projects come along."""
    held = set(tables)
    return held | {PROJECTS} if ISSUES in held else held


def rows_of(device: SimDevice, relation_id: int) -> Held:
    if NAMES[relation_id] not in device.replica.tables:
        return {}
    return {row[0]: row for row in device.store.connection.execute(f"SELECT * FROM {NAMES[relation_id]}")}


def pending_of(device: SimDevice) -> set[tuple[str, str]]:
    """(table, id) of rows with local writes on the way."""
    rows = device.store.connection.execute("SELECT DISTINCT table_name, key FROM _syncline_oplog")
    return {(table, id_of(key)) for table, key in rows}


def tags_of(device: SimDevice) -> dict[tuple[str, str], Tags]:
    rows = device.store.connection.execute("SELECT table_name, key, tags FROM _syncline_shadow")
    return {(table, id_of(key)): plain_json(tags) for table, key, tags in rows}


@lru_cache(maxsize=10_000)
def id_of(key: str) -> str:
    """The id in a key as the device stores it."""
    id: str = json.loads(key)[0]
    return id


@lru_cache(maxsize=10_000)
def plain_json(tags: str) -> Tags:
    return plain(tuple(json.loads(tags)))


@lru_cache(maxsize=10_000)
def plain(tags: tuple[str, ...]) -> Tags:
    """Tags with all of Postgres as one."""
    return frozenset(UNTRACKED_TAG if tag.startswith(f"{POSTGRES_ORIGIN}@") else tag for tag in tags)


def on_device(relation_id: int, row: Row) -> tuple[Any, ...]:
    """A row of Postgres as SQLite holds it."""
    numbers = {PROJECTS: 3, JOURNAL: 2}
    values: list[Any] = [None if cell is None else cell.decode() for cell in row]
    place = numbers.get(relation_id)
    if place is not None and values[place] is not None:
        values[place] = int(values[place])
    return tuple(values)


class Checks:
    """``anomaly``: the first thing found wrong, None while all is well."""

    def __init__(self, postgres: SimPostgres) -> None:
        self._postgres = postgres
        self.anomaly: str | None = None
        self.resets = 0
        self.repairs = 0
        self._empty_disks = 0
        self._started_over_at: dict[str, int] = {}
        self._deletes: list[tuple[str, int, RowKey, int]] = []
        self._counters_seen: dict[tuple[str, str], int] = {}

    def report(self, text: str) -> None:
        if self.anomaly is None:
            self.anomaly = text

    def wrote(self, device: SimDevice) -> None:
        """The device has written. Rows of tables it does not hold are strays: nobody tells it when they are deleted."""
        held = {NAMES[relation_id] for relation_id in held_tables(device)}
        device.strays |= {(table, id) for table, id in pending_of(device) if table not in held}
        self._note_deletes(device, held)

    def _note_deletes(self, device: SimDevice, held: set[str]) -> None:
        """Which rows the newest local transaction deletes having seen all there was to see, and what that was."""
        rows = device.store.connection.execute(
            "SELECT table_name, key, max(commit_ms), count(*), op FROM _syncline_oplog GROUP BY table_name, key"
        )
        for table, key, ms, count, op in rows:
            if op == "D" and count == 1 and table in held and ms == max(device.journal.values()):
                row_key = (TABLES[table], (id_of(key).encode(),))
                seen = self._postgres.row_at(row_key, int(device.replica.lsn))
                self._deletes.append((device.name, ms, row_key, seen.lsn))

    def _deletes_count(self) -> None:
        """A delete that had seen everything deletes."""
        committed = {(c.head.origin, c.head.client_ms): int(c.head.lsn) for c in self._postgres.wal if c.head.origin}
        for name, ms, row_key, seen_lsn in self._deletes:
            lsn = committed.get((name, ms))
            if lsn is None or self._postgres.row_at(row_key, lsn - 1).lsn != seen_lsn:
                continue
            if self._postgres.row_at(row_key, lsn).row is not None:
                self.report(f"{name} deleted {NAMES[row_key[0]]} {row_key[1]} knowing all of it, and it is still there")

    # --- along the way ------------------------------------------------------------------------------------------------

    def disk_emptied(self) -> None:
        """The service has lost all that it had on its disk: each device may have to start over, once."""
        self._empty_disks += 1

    def repaired(self, device: SimDevice) -> None:
        """The device has been sent what differs, which happens only when the service had lost its disk."""
        self.repairs += 1
        if not self._empty_disks:
            self.report(f"{device.name} had to be repaired, and the service had lost nothing of its disk")

    def reset(self, device: SimDevice, code: str | None) -> None:
        """The device has given up its rows because of ``code``: wrong unless it is one of the old line, and the service
        had lost its disk."""
        self.resets += 1
        if takes_extensions(device.protocol):
            self.report(f"{device.name} had to start over ({code}), and is one that can be repaired")
        device.strays |= pending_of(device)
        if self._started_over_at.get(device.name, 0) == self._empty_disks:
            self.report(f"{device.name} had to start over ({code}), and the service had lost nothing of its disk")
        self._started_over_at[device.name] = self._empty_disks

    def changed(self, device: SimDevice) -> None:
        """The device has committed something."""
        if self.anomaly is None:
            self._never_backwards(device)
            if device.replica.lsn:
                self.at_position(device, int(device.replica.lsn))

    def at_position(self, device: SimDevice, lsn: int) -> None:
        """Exactly what Postgres held at ``lsn``."""
        held = held_tables(device)
        if not held:
            return
        pending, tags = pending_of(device), tags_of(device)
        here = {relation_id: rows_of(device, relation_id) for relation_id in held}
        for relation_id, key in self._postgres.versions:
            if relation_id not in held:
                continue
            id = key[0].decode()  # type: ignore[union-attr]
            row = here[relation_id].pop(id, None)
            if (NAMES[relation_id], id) in pending:
                continue
            there = self._postgres.row_at((relation_id, key), lsn)
            expected = None if there.row is None else on_device(relation_id, there.row)
            if (NAMES[relation_id], id) in device.strays:
                if expected is None:
                    continue
                device.strays.discard((NAMES[relation_id], id))
            if row != expected:
                self.report(f"{device.name} at {lsn} has {NAMES[relation_id]} {id} as {row}, Postgres had {expected}")
            elif row is not None:
                has = tags.get((NAMES[relation_id], id), frozenset((UNTRACKED_TAG,)))
                if has != plain(there.tags):
                    self.report(
                        f"{device.name} at {lsn} has tags {sorted(has)} on {NAMES[relation_id]} {id}, "
                        f"Postgres had {sorted(plain(there.tags))}"
                    )
        for relation_id, rows in here.items():
            for id in rows:
                if (NAMES[relation_id], id) not in pending | device.strays:
                    self.report(f"{device.name} at {lsn} has {NAMES[relation_id]} {id}, which Postgres never had")

    def _never_backwards(self, device: SimDevice) -> None:
        """A counter has one writer and only grows: nobody may see it fall, its writer least of all."""
        if "projects" not in device.replica.tables:
            return
        query = "SELECT id, rank FROM projects WHERE id LIKE 'counter-%'"
        for id, rank in device.store.connection.execute(query):
            seen = self._counters_seen.get((device.name, id), 0)
            if rank is None or rank < seen:
                self.report(f"{device.name} saw {id} fall from {seen} to {rank}")
            else:
                self._counters_seen[device.name, id] = rank
            if id == COUNTER + device.name and rank is not None and rank < device.counter:
                self.report(f"{device.name} does not read its own write of {id}: {rank} instead of {device.counter}")

    def rows_left(self, device: SimDevice, tables: Sequence[str]) -> None:
        """Subscriptions to ``tables`` have ended: nothing of Postgres' is here now that no other shape holds."""
        leaving = closure(TABLES[table] for table in tables)
        wanted = closure(TABLES[s.spec.table] for s in device.replica.subscriptions.values())
        for relation_id in leaving - wanted:
            pending = pending_of(device)
            device.strays |= {(table, id) for table, id in pending if table == NAMES[relation_id]}
            for id in rows_of(device, relation_id):
                known = self._postgres.row_at((relation_id, (id.encode(),)), int(device.replica.lsn))
                if known.row is not None and (NAMES[relation_id], id) not in pending:
                    self.report(f"{device.name} unsubscribed from {NAMES[relation_id]} and still has {id}")

    # --- at the end ---------------------------------------------------------------------------------------------------

    def unfinished(self, device: SimDevice) -> str | None:
        """What the device still lacks, None when it is in step with Postgres."""
        if not device.live:
            return "is not connected"
        count = device.store.connection.execute("SELECT count(*) FROM _syncline_oplog").fetchone()[0]
        if count:
            return f"has {count} oplog entries"
        count = device.store.connection.execute("SELECT count(*) FROM _syncline_leaving").fetchone()[0]
        if count:
            return f"keeps {count} rows that have left its shapes, although nothing is pending on them"
        under_key = [s.spec.table for s in wanted(device.replica.subscriptions.values(), KEY)]
        if under_key != ([] if device.view is None else [device.view]):
            return f"has {under_key} under its key, and wants {device.view}"
        for subscription in device.replica.subscriptions.values():
            if subscription.state not in (ShapeState.DELIVERED, ShapeState.WITHDRAWN):
                return f"has its subscription to {subscription.spec.table} {subscription.state.value}"
        for relation_id in held_tables(device):
            here = rows_of(device, relation_id)
            there = {
                key[0].decode(): on_device(relation_id, state.row)  # type: ignore[union-attr]
                for (relation, key), state in self._postgres.rows.items()
                if relation == relation_id and state.row is not None
            }
            for table, id in device.strays:
                if table == NAMES[relation_id] and id not in there:
                    here.pop(id, None)
            if here != there:
                different = sorted(id for id in here.keys() | there.keys() if here.get(id) != there.get(id))
                first = different[0]
                return f"differs in {NAMES[relation_id]} {different}: {here.get(first)} here, {there.get(first)} there"
        return None

    def at_the_end(self, devices: list[SimDevice]) -> None:
        """Everything is in step; was every write carried out once?"""
        self._deletes_count()
        rejected = {(client_id, ms) for client_id, _, ms in self._postgres.rejections}
        for device in devices:
            for entry, ms in device.journal.items():
                expected = 0 if (device.name, ms) in rejected else 1
                executed = self._postgres.executions[entry]
                if executed != expected:
                    self.report(f"transaction {entry} of {device.name} was executed {executed} times, not {expected}")
            if device.replica.lsn:
                self.at_position(device, int(device.replica.lsn))
