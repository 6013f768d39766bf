"""A value that was replaced on the device does not come back: what is written here is never seen undone and redone.

One row, written here and elsewhere at the same time. Every write gives its columns values that no other has, so that
whatever is shown tells who wrote it. Between any two of all steps the row is looked at.
"""

from __future__ import annotations

import sqlite3
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.client.client_scene import ITEMS, TABLES, captured_database, entries_of, stamp_at

from syncline.client.apply import Bindings
from syncline.client.cells import encode_row
from syncline.client.execution import apply_transaction
from syncline.client.keeping import Keeping
from syncline.client.oplog import Outlines, Times, next_commit_ms, observed_clock_ms, transactions
from syncline.client.references import References
from syncline.client.staged import Staged
from syncline.proto.merge import RowState, RowWrite, apply_write, unrecorded, write_of
from syncline.proto.tags import Tag, format_tags
from syncline.proto.values import Insert, Row, RowChange, Transaction, Update

COLUMNS = ("title", "rank", "weight")
PLACES = tuple(ITEMS.columns.index(name) for name in COLUMNS)
RELATIONS = {ITEMS.id: ITEMS.relation}
FIRST = encode_row(("i", None, "0", None, 0, 0.0, None), ITEMS.encoders)
SOME = st.sets(st.sampled_from(range(3)), min_size=1)


class Flicker(RuleBasedStateMachine):
    connection: sqlite3.Connection

    @initialize()
    def begin(self) -> None:
        self.connection = captured_database()
        self.server: RowState = unrecorded(FIRST)
        self.stream: deque[tuple[Transaction, RowState]] = deque()
        self.at: RowState = self.server  # as of the device's position
        self.sent = 0
        self.clock = self.number = 1_000
        self._take([Insert(ITEMS.id, FIRST, ("postgres_1@0",))], "postgres_1", 1)
        self.seen: list[list[object]] = [[] for _ in COLUMNS]

    def teardown(self) -> None:
        if hasattr(self, "connection"):
            self.connection.close()

    def _values(self, columns: set[int]) -> dict[int, object]:
        self.number += 1
        return {column: (str(self.number), self.number, float(self.number))[column] for column in columns}

    def _take(self, changes: list[RowChange], origin: str, ms: int) -> None:
        (clock,) = self.connection.execute("SELECT clock_ms FROM _syncline_state").fetchone()
        now = observed_clock_ms(clock, Times(ms), self.clock)
        self.connection.execute("UPDATE _syncline_state SET capture = 0, clock_ms = ?", (now,))
        transaction = Transaction(ms, b"1", tuple(changes), origin, 1)
        keeping = Keeping(self.connection, "me", References(TABLES))
        apply_transaction(self.connection, "me", transaction, RELATIONS, TABLES, (), keeping, {})
        keeping.end()
        self.connection.execute("UPDATE _syncline_state SET capture = 1")

    def _executed(self, write: RowWrite) -> None:
        before, self.server = self.server, apply_write(self.server, write)
        assert before.row is not None
        assert self.server.row is not None
        update = Update(ITEMS.id, self.server.row, before.row, format_tags(self.server.tags))
        transaction = Transaction(write.tag.ms, b"1", (update,), write.tag.origin, 1)
        self.stream.append((transaction, self.server))

    @rule(passed=st.integers(1, 20))
    def time_passes(self, passed: int) -> None:
        self.clock += passed

    @rule(columns=SOME)
    def written_here(self, columns: set[int]) -> None:
        values = self._values(columns)
        sets = ", ".join(f"{COLUMNS[column]} = ?" for column in values)
        self.connection.execute(f"UPDATE items SET {sets}", tuple(values.values()))
        (clock,) = self.connection.execute("SELECT clock_ms FROM _syncline_state").fetchone()
        stamp_at(self.connection, next_commit_ms(self.clock, clock))

    @rule(columns=SOME, behind=st.integers(-15, 15), seen=st.booleans())
    def written_elsewhere(self, columns: set[int], behind: int, seen: bool) -> None:
        """By a device whose clock may be off a little, or that was away and sends late."""
        row = list(self.server.row or ())
        for column, value in self._values(columns).items():
            row[PLACES[column]] = str(value).encode()
        changed = tuple(place in [PLACES[column] for column in columns] for place in range(len(row)))
        newest = max((tag.ms for tag in (*self.server.tags, *self.server.column_tags)), default=0)
        ms = max(self.clock - behind, newest + 1 if seen else 1)
        observed = self.server.tags if seen else frozenset[Tag]()
        self._executed(RowWrite("update", tuple(row), changed, Tag(f"other {self.number}", ms), observed))

    @rule(count=st.integers(1, 3))
    def sent_up(self, count: int) -> None:
        entries = [entry for entry in entries_of(self.connection) if entry.id > self.sent][:count]
        for transaction in transactions(entries, TABLES, Outlines()):
            (change,) = transaction.changes
            assert isinstance(change, Update)
            self._executed(write_of(change, "me", transaction.commit_ms))
            self.sent = int.from_bytes(transaction.lsn, "big")

    @rule(count=st.integers(1, 3))
    def taken(self, count: int) -> None:
        for _ in range(min(count, len(self.stream))):
            transaction, self.at = self.stream.popleft()
            self._take(list(transaction.changes), transaction.origin or "", transaction.commit_ms)  # type: ignore[arg-type]
            self.it_is_looked_at()

    @rule()
    def delivered(self) -> None:
        """Another shape has the row too: it comes as it stands at the device's position."""
        assert self.at.row is not None
        staged = Staged()
        insert = Insert(ITEMS.id, self.at.row, format_tags(self.at.tags))
        staged.put(self.connection, [insert], Bindings(RELATIONS, TABLES))
        self.connection.execute("UPDATE _syncline_state SET capture = 0")
        keeping = Keeping(self.connection, "me", References(TABLES))
        staged.move(self.connection, "me", TABLES, keeping)
        keeping.end()
        self.connection.execute("UPDATE _syncline_state SET capture = 1")

    @invariant()
    def it_is_looked_at(self) -> None:
        if not hasattr(self, "seen"):
            return
        shown: Row = self.connection.execute("SELECT title, rank, weight FROM items").fetchone()
        for column, value in enumerate(shown):
            before = self.seen[column]
            if not before or before[-1] != value:
                assert value not in before, f"{COLUMNS[column]} is {value} again, after {before}"
                before.append(value)


Flicker.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestFlicker = Flicker.TestCase
