"""What a replica knows of its durable state without asking for it, and how that follows a commit.

A transaction that brings something begins and ends here: while it is under way nothing is captured, and once it is
committed the mirror takes over what it has made of the schema.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from syncline.client import rejections
from syncline.client.apply import Plan
from syncline.client.cells import Value
from syncline.client.column_rows import follow
from syncline.client.durability import Decisions
from syncline.client.foreign_keys import link
from syncline.client.keeping import Keeping
from syncline.client.live import Changes
from syncline.client.oplog import Times, observed_clock_ms
from syncline.client.references import References
from syncline.client.reserved import Reserves
from syncline.client.schema import Table, table_from_json, table_to_json
from syncline.client.sequences import ColumnName, columns_used
from syncline.client.shapes import WANTED, Subscription
from syncline.client.staged import Staged
from syncline.client.store import Store
from syncline.client.subscription_rows import load


class Mirror:
    """``now_ms`` tells the time in milliseconds since the epoch."""

    def __init__(self, store: Store, changes: Changes, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._changes = changes
        self._now_ms = now_ms
        self.client_id = ""
        self.lsn = b""
        self.pending_writes = 0
        self.rejections = 0
        self.reserves = Reserves(store)
        self.tables: dict[str, Table] = {}
        self.versions: list[str] = []
        self.subscriptions: dict[int, Subscription] = {}
        self.decisions = Decisions()
        self._references = References(self.tables)
        self._accepted = False
        self._staged = Staged()
        self._staged_times = Times()

    @property
    def schema_version(self) -> str | None:
        """The newest migration applied, None before the first."""
        return self.versions[-1] if self.versions else None

    def columns_with_sequences(self) -> list[ColumnName]:
        """Of all tables that the application may write to by its shapes."""
        return columns_used([s.spec for s in self.subscriptions.values() if s.state in WANTED], self.tables)

    def filled_in(self, table: str, column: str, default: Value) -> Value:
        """``DEFAULT_FUNCTION``: what a row has in a column that its insert leaves out."""
        return None if column in self.tables[table].lacking else default

    def _mirror(self, connection: sqlite3.Connection) -> None:
        self.client_id, self.lsn = connection.execute("SELECT client_id, lsn FROM _syncline_state").fetchone()
        (self.pending_writes,) = connection.execute("SELECT count(DISTINCT commit_ms) FROM _syncline_oplog").fetchone()
        self.rejections = rejections.count(connection)
        self.tables = {
            name: table_from_json(table_id, name, description)
            for table_id, name, description in connection.execute(
                "SELECT id, name, description FROM _syncline_tables ORDER BY id"
            )
        }
        self.reserves.tables = self.tables
        self.versions = [
            version for (version,) in connection.execute("SELECT version FROM _syncline_migrations ORDER BY position")
        ]
        self.subscriptions = load(connection)

    # --- transactions that bring something ----------------------------------------------------------------------------

    def _keeping(self, connection: sqlite3.Connection) -> Keeping:
        if self._references.tables is not self.tables:
            self._references = References(self.tables)
        return Keeping(connection, self.client_id, self._references)

    def _begin_incoming(self, connection: sqlite3.Connection, lsn: bytes, times: Times | None = None) -> None:
        """Stop capturing, move to ``lsn``, and let the clock see the ``times`` of what follows."""
        clock_ms, seen_ms = connection.execute("SELECT clock_ms, seen_ms FROM _syncline_state").fetchone()
        if times is not None:
            times = replace(times, of_postgres=max(seen_ms, times.of_postgres))
            clock_ms, seen_ms = observed_clock_ms(clock_ms, times, self._now_ms()), times.of_postgres
        connection.execute(
            "UPDATE _syncline_state SET capture = 0, lsn = ?, clock_ms = ?, seen_ms = ?", (lsn, clock_ms, seen_ms)
        )

    def _end_incoming(
        self, connection: sqlite3.Connection, plan: Plan, subscriptions: Iterable[Subscription] | None = None
    ) -> None:
        """Note down what ``plan``, which has been run, has made of the schema; capture again.

        ``subscriptions``: as they are now, where that may change the columns that are held.
        """
        if plan.redescribed:
            link(connection, plan)
        if subscriptions is not None or plan.redescribed:
            follow(connection, plan, self.subscriptions.values() if subscriptions is None else subscriptions)
        connection.executemany(
            "INSERT OR REPLACE INTO _syncline_tables (id, name, description) VALUES (?, ?, ?)",
            [(table.id, table.name, table_to_json(table)) for table in plan.redescribed.values()],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO _syncline_migrations (version) VALUES (?)", [(version,) for version in plan.versions]
        )
        connection.execute("UPDATE _syncline_state SET capture = 1")

    def _adopt(self, plan: Plan) -> None:
        self.versions += plan.versions
        if plan.redescribed:
            self.tables = self.reserves.tables = plan.tables
            self.reserves.due = True
            self._changes.publish_all()
        elif plan.changed:
            self._changes.publish(frozenset(plan.changed))

    # --- subscriptions ------------------------------------------------------------------------------------------------

    def _with(self, changed: Iterable[Subscription]) -> list[Subscription]:
        return list(
            {**self.subscriptions, **{subscription.position: subscription for subscription in changed}}.values()
        )

    def _without(self, positions: Collection[int]) -> list[Subscription]:
        return [subscription for position, subscription in self.subscriptions.items() if position not in positions]

    def _resubscribed(self, connection: sqlite3.Connection, subscriptions: Sequence[Subscription]) -> Plan:
        plan = Plan(dict(self.tables))
        self._end_incoming(connection, plan, subscriptions)
        return plan

    def _keep(self, subscriptions: Iterable[Subscription]) -> None:
        self.subscriptions.update({subscription.position: subscription for subscription in subscriptions})
