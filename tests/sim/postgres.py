"""Postgres as far as the service can tell: rows with their tags, a WAL, a slot, and what a crash does to them.

What a transaction does to rows is in ``work``. Every version of every row is kept with its LSN, so that what a device
holds at a position can be compared with what Postgres held there, exactly.

Three kinds of trouble are modelled because the service has to live with them: commits that are not on the disk yet (a
crash takes them back; they were never streamed), commits that are in the WAL and not visible yet (a snapshot misses
them, their rows are locked), and a slot whose confirmed position goes back after a crash.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.sim.schema import RELATIONS, RowKey
from tests.sim.waiting import Scheduler
from tests.sim.work import ABSENT, Executed, Mend, Violation, Work

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.streamed import StreamChange, TransactionHead, Truncated
from syncline.actors.postgres.writer import SKEW_MS
from syncline.proto.merge import RowState
from syncline.proto.tags import UNRECORDED, Tag, format_tags
from syncline.proto.values import POSTGRES_ORIGIN, Delete, Insert, Row, Update

# Commits that are in the WAL, and streamed, before anybody sees them; for how long at most.
INVISIBLE_SHARE = 0.4
INVISIBLE_US = 150_000


class PostgresGone(ConnectionError):
    """The server is down or has just gone down."""


@dataclass(frozen=True, slots=True)
class Version:
    """A row from ``lsn`` on; ``row`` None: none. ``state``: all that is known of it; ``writer``: by whom."""

    lsn: int
    row: Row | None
    tags: tuple[str, ...]
    state: RowState
    writer: Tag


NOTHING = Version(0, None, (), ABSENT, UNRECORDED)


@dataclass(slots=True)
class Commit:
    """``server_ms``: when it was, by the server's clock. ``ops``: a device's operations as they were sent, ``executed``
    as they were carried out."""

    head: TransactionHead
    changes: list[StreamChange]
    server_ms: int
    marks: tuple[str, ...] = ()
    before: dict[RowKey, RowState] = field(default_factory=dict)
    ops: tuple[dict[str, Any], ...] = ()
    executed: tuple[Executed, ...] = ()
    undo: list[Callable[[], None]] = field(default_factory=list)

    def keeps(self, key: RowKey) -> bool:
        """Whether the row was to be deleted, and is kept for those that refer to it."""
        return any(executed.kept and executed.key == key for executed in self.executed)


class SimPostgres:
    """``wall_ms``: the server's clock. ``flushed``: called when more of the WAL can be streamed."""

    def __init__(self, scheduler: Scheduler, wall_ms: Callable[[], int]) -> None:
        self.scheduler = scheduler
        self.rng = scheduler.rng
        self.wall_ms = wall_ms
        self.up = True
        self.incarnation = 0
        self.rows: dict[RowKey, RowState] = {}
        self.versions: dict[RowKey, list[Version]] = {}
        self.wal: list[Commit] = []
        self.insert_lsn = 1000
        self.flushed_lsn = 1000
        self.confirmed_lsn = 1000
        self.clients: dict[str, tuple[int, int]] = {}
        self.rejections: dict[tuple[str, int, int], dict[str, Any]] = {}
        # By device and the milliseconds of its transaction: the commit by which it was applied or rejected.
        self.decided: dict[tuple[str, int], Commit] = {}
        self.violations: list[Violation] = []
        self.executions: Counter[str] = Counter()
        self.subscriptions: dict[str, dict[str, Any]] = {}
        self.invisible: dict[int, Commit] = {}
        self.conflicts = 0
        self.when_flushed: Callable[[], None] = lambda: None
        self.mark_numbers = itertools.count(1)
        self._xid = 100
        self._unflushed: list[Commit] = []

    # --- reading ------------------------------------------------------------------------------------------------------

    def row_at(self, key: RowKey, lsn: int) -> Version:
        versions = self.versions.get(key)
        if not versions:
            return NOTHING
        place = bisect.bisect_right(versions, lsn, key=lambda version: version.lsn)
        return versions[place - 1] if place else NOTHING

    def visible(self, key: RowKey) -> RowState:
        """The row as a new snapshot sees it."""
        state = self.rows.get(key, ABSENT)
        for commit in reversed(self.invisible.values()):
            state = commit.before.get(key, state)
        return state

    def visibility(self) -> Visibility:
        """What a new snapshot sees."""
        upto = self._xid + 1
        return Visibility(min(self.invisible, default=upto), upto, frozenset(self.invisible))

    def snapshot(self, relation_id: int) -> list[tuple[Row, tuple[str, ...]]]:
        seen = (self.visible(key) for key in self.rows if key[0] == relation_id)
        return [(state.row, self.fetched_tags(state)) for state in seen if state.row is not None]

    def fetched_tags(self, state: RowState) -> tuple[str, ...]:
        """What a row carries that is read now. When direct SQL wrote it last is not told; it was not later than now."""
        if all(tag.origin == POSTGRES_ORIGIN for tag in state.tags):
            return (f"{POSTGRES_ORIGIN}@{self.wall_ms()}",)
        return format_tags(state.tags)

    def streamable(self, after_lsn: int) -> list[Commit]:
        """What is flushed and lies after ``after_lsn``."""
        place = bisect.bisect_right(self.wal, after_lsn, key=lambda commit: int(commit.head.lsn))
        return [commit for commit in self.wal[place:] if commit.head.lsn <= self.flushed_lsn]

    # --- writing ------------------------------------------------------------------------------------------------------

    def direct(self, write: Callable[[Work], None]) -> bool:
        """A transaction of direct SQL, durable at once. False: it met a lock or a constraint and did nothing."""
        work = Work(self.rows, self.wall_ms(), self.insert_lsn)
        try:
            write(work)
            work.check()
        except Violation:
            return False
        if not work.changes or work.locks() & self._locked():
            return False
        commit = self._commit(work, None, 0, 0)
        if self.rng.random() < INVISIBLE_SHARE:
            self.invisible[commit.head.xid] = commit
            self.scheduler.soon(INVISIBLE_US, lambda: self.invisible.pop(commit.head.xid, None))
        self.flush()
        return True

    def mark(self, mark: str) -> None:
        # A slot that goes back brings old marks again: one that is used twice is taken for the wrong snapshot's.
        if any(mark in commit.marks for commit in self.wal):
            raise AssertionError(f"the mark {mark} is not the first of its name")
        self._append(Commit(self._head(None, 0, 0), [], self.wall_ms(), (mark,)))
        self.flush()

    def apply(self, element: dict[str, Any]) -> dict[str, Any]:
        """One transaction of the batch that ``electric.apply`` takes; not flushed yet."""
        client_id, lsn, ms = element["client"], element["lsn"], element["ms"]
        known = self.clients.get(client_id, (-1, -1))
        if not (lsn > known[0] or ms > known[1]):
            return self.rejections.get((client_id, lsn, ms), {"status": "duplicate"})
        if "refuse" in element:
            return self._reject(element, element["refuse"])
        if self.rng.random() < 0.02:
            return {"status": "retry", "sqlstate": "55P03", "message": "a lock was not available"}
        stamp_ms = min(ms, self.wall_ms() + SKEW_MS)
        work = Work(self.rows, self.wall_ms())
        try:
            work.carry_out(element["ops"], client_id, stamp_ms)
        except (Mend, Violation):
            work = Work(self.rows, self.wall_ms())
            try:
                work.mend(element["ops"], client_id, stamp_ms)
            except Violation as violation:
                self.violations.append(violation)
                return self._reject(element, {"sqlstate": "23503", "message": violation.args[0]})
        if work.locks() & self._locked():
            return {"status": "retry", "sqlstate": "55P03", "message": "a row is locked"}
        self.conflicts += work.conflicts
        commit = self._commit(work, client_id, ms, lsn)
        commit.ops, commit.executed = tuple(element["ops"]), tuple(work.executed)
        self._advance(commit, client_id, lsn, ms)
        return {"status": "applied"}

    def flush(self) -> None:
        """Everything so far is on the disk, and may be streamed."""
        self.insert_lsn += self.rng.randrange(1, 30)
        self.flushed_lsn = self.insert_lsn
        for commit in self._unflushed:
            commit.undo.clear()
        self._unflushed.clear()
        self.when_flushed()

    def crash(self) -> None:
        """What was not flushed is gone; the slot may remember an older position."""
        for commit in reversed(self._unflushed):
            for undo in reversed(commit.undo):
                undo()
            self.wal.remove(commit)
        self._unflushed.clear()
        self.invisible.clear()
        self.insert_lsn = self.flushed_lsn
        self.confirmed_lsn -= self.rng.randrange(0, 300)
        self.up = False
        self.incarnation += 1

    # --- inside -------------------------------------------------------------------------------------------------------

    def _locked(self) -> set[RowKey]:
        return {key for commit in self.invisible.values() for key in commit.before}

    def _head(self, client_id: str | None, ms: int, client_lsn: int) -> TransactionHead:
        self.insert_lsn += self.rng.randrange(8, 100)
        self._xid += 1
        lsn = Lsn(self.insert_lsn)
        self.insert_lsn += 5  # the commit's record; its LSN is where that begins
        if client_id is None:
            return TransactionHead(lsn, self.wall_ms(), self._xid)
        return TransactionHead(lsn, self.wall_ms(), self._xid, client_id, ms, client_lsn)

    def _append(self, commit: Commit) -> None:
        self.wal.append(commit)
        self._unflushed.append(commit)

    def _commit(self, work: Work, client_id: str | None, ms: int, client_lsn: int) -> Commit:
        head = self._head(client_id, ms, client_lsn)
        direct = (f"{POSTGRES_ORIGIN}@{head.commit_ms}",)
        changes = [self._tagged(change, work, None if client_id else direct) for change in work.changes]
        commit = Commit(head, changes, self.wall_ms())
        for key, state in work.rows.items():
            before = self.rows.get(key)
            commit.before[key] = before if before is not None else ABSENT
            self.rows[key] = state
            tags = () if state.row is None else format_tags(state.tags)
            versions = self.versions.setdefault(key, [])
            versions.append(Version(int(head.lsn), state.row, tags, state, Tag(head.author, head.authored_ms)))
            commit.undo.append(lambda key=key, before=before, versions=versions: self._restore(key, before, versions))
        for entry in work.journal:
            self.executions[entry] += 1
            commit.undo.append(lambda entry=entry: self.executions.subtract([entry]))
        self._append(commit)
        return commit

    def _restore(self, key: RowKey, before: RowState | None, versions: list[Version]) -> None:
        versions.pop()
        if before is None:
            del self.rows[key]
        else:
            self.rows[key] = before

    @staticmethod
    def _tagged(change: StreamChange, work: Work, direct: tuple[str, ...] | None) -> StreamChange:
        if isinstance(change, Truncated):
            return change
        row = change.old_row if isinstance(change, Delete) else change.row
        key = (change.relation_id, RELATIONS[change.relation_id].key_of(row))
        tags = direct if direct is not None else format_tags(work.get(key).tags)
        if isinstance(change, Delete):
            return Delete(change.relation_id, change.old_row, () if direct is not None else tags)
        if isinstance(change, Insert):
            return Insert(change.relation_id, change.row, tags)
        assert isinstance(change, Update)
        return Update(change.relation_id, change.row, change.old_row, tags)

    def _advance(self, commit: Commit, client_id: str, lsn: int, ms: int) -> None:
        before = self.clients.get(client_id)
        self.clients[client_id] = (lsn, max(ms, before[1] if before else -1))
        self.decided[client_id, ms] = commit

        def undo() -> None:
            del self.decided[client_id, ms]
            if before is None:
                del self.clients[client_id]
            else:
                self.clients[client_id] = before

        commit.undo.append(undo)

    def _reject(self, element: dict[str, Any], reason: dict[str, Any]) -> dict[str, Any]:
        client_id, lsn, ms = element["client"], element["lsn"], element["ms"]
        answer = {**reason, "status": "rejected"}
        commit = Commit(self._head(None, 0, 0), [], self.wall_ms())
        self._append(commit)
        self._advance(commit, client_id, lsn, ms)
        self.rejections[client_id, lsn, ms] = answer
        commit.undo.append(lambda: self.rejections.pop((client_id, lsn, ms), None) and None)
        return answer


def chunked(changes: Sequence[StreamChange], size: int) -> Iterable[list[StreamChange]]:
    """Pieces of at most ``size``; at least one."""
    for start in range(0, max(1, len(changes)), size):
        yield list(changes[start : start + size])
