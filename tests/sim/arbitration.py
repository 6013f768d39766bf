"""How Postgres decided between the writes to one column: by one order, that of their tags.

A second account of what came of them, which does not use the rules of the product: it follows what direct SQL and
devices wrote through the WAL, and remembers of each column the tag that holds it. A device's write with a smaller one
changes nothing, any other changes what it says, and no operation changes anything else; what direct SQL writes stands,
as of its commit or of what it has overwritten. A row is there as long as it has a tag that no operation had observed;
one that comes back has the values it was deleted with, one that is inserted where there is none those of the insert. So
all replicas see the values of a column in one order, and no write is lost but to a later one, or to a delete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sim.postgres import Commit, SimPostgres
from tests.sim.schema import REFERRED, RELATIONS, TIED, RowKey
from tests.sim.shown import named
from tests.sim.work import Executed

from syncline.actors.postgres.streamed import Truncated
from syncline.proto.merge import RowWrite
from syncline.proto.tags import UNRECORDED, Tag, format_tag
from syncline.proto.values import POSTGRES_ORIGIN, Cell, Delete, Insert, Row, Update

# No device's write counts as later than so long after its arrival.
AHEAD_MS_MAX = 1_000


@dataclass(slots=True)
class Account:
    """Of a row. ``cells``: what it holds, or held when it was deleted; empty when that is not known. ``direct_ms``: of
    direct SQL, if that wrote it last."""

    alive: bool = False
    cells: list[Cell] = field(default_factory=list)
    held_by: dict[int, Tag] = field(default_factory=dict)
    tags: set[Tag] = field(default_factory=set)
    direct_ms: int | None = None


class Arbiter:
    """One pass through the WAL of ``postgres``."""

    def __init__(self, postgres: SimPostgres) -> None:
        self._postgres = postgres
        self._accounts: defaultdict[RowKey, Account] = defaultdict(Account)

    def wrong(self) -> Iterator[str]:
        for commit in self._postgres.wal:
            if commit.head.origin is None:
                self._direct(commit)
            written: set[RowKey] = set()
            for executed in commit.executed:
                yield from self._device(commit, executed, anew=executed.key not in written)
                written.add(executed.key)
            for key in commit.before:
                yield from self._compare(commit, key)

    def _compare(self, commit: Commit, key: RowKey) -> Iterator[str]:
        account, lsn = self._accounts[key], int(commit.head.lsn)
        version = self._postgres.row_at(key, lsn)
        expected = tuple(account.cells) if account.alive else None
        if version.state.tags != account.tags:
            found, left = (sorted(map(format_tag, tags)) for tags in (version.state.tags, account.tags))
            yield f"at {lsn} {named(key)} is {version.row} with the tags {found}, of which {left} should be left"
        elif version.row != expected:
            by = commit.head.author
            yield f"at {lsn} {by} left {named(key)} as {version.row}, by the order of the tags it is {expected}"

    # --- direct SQL ---------------------------------------------------------------------------------------------------

    def _direct(self, commit: Commit) -> None:
        tag = Tag(POSTGRES_ORIGIN, commit.server_ms)
        for change in commit.changes:
            if isinstance(change, Truncated):
                for key, account in self._accounts.items():
                    if key[0] in change.relation_ids and account.alive:
                        account.alive, account.cells, account.tags = False, [], set()
            elif isinstance(change, Insert | Update):
                key = change.relation_id, RELATIONS[change.relation_id].key_of(change.row)
                old = change.old_row if isinstance(change, Update) else None
                self._wrote(self._accounts[key], key, change.row, old, tag)
            elif isinstance(change, Delete):
                account = self._accounts[change.relation_id, RELATIONS[change.relation_id].key_of(change.old_row)]
                account.alive, account.cells, account.tags = False, list(change.old_row), set()
                account.direct_ms = tag.ms

    @staticmethod
    def _wrote(account: Account, key: RowKey, row: Row, old: Row | None, tag: Tag) -> None:
        changed = {column for column, cell in enumerate(row) if old is None or cell != old[column]}
        for column in _with_tied(key, changed):
            before = account.held_by.get(column, UNRECORDED)
            account.held_by[column] = tag if before.ms <= tag.ms else Tag(tag.origin, before.ms, tag.ms)
        account.alive, account.cells, account.tags, account.direct_ms = True, list(row), {tag}, tag.ms

    # --- devices ------------------------------------------------------------------------------------------------------

    def _device(self, commit: Commit, executed: Executed, *, anew: bool) -> Iterator[str]:
        key, write = executed.key, executed.write
        account = self._accounts[key]
        as_of_ms = min(commit.head.authored_ms, commit.server_ms + AHEAD_MS_MAX)
        if write.tag.ms != as_of_ms and not executed.revived:
            yield f"at {int(commit.head.lsn)} {format_tag(write.tag)} counts as of then, not as of {as_of_ms}"
        if executed.kept:
            if not self._is_referred_to(key, int(commit.head.lsn)):
                yield f"at {int(commit.head.lsn)} {named(key)} is kept for those that refer to it, and nobody does"
            return
        if account.direct_ms is not None:  # whoever has seen that has seen all that is there
            for column, held in account.held_by.items():
                if held.ms > account.direct_ms:
                    account.held_by[column] = Tag(POSTGRES_ORIGIN, held.ms, min(account.direct_ms, held.seen_ms))
            account.direct_ms = None
        tag = _as_of(write, account, anew=anew)
        account.tags = {other for other in account.tags if not _seen(other, write)}
        if write.kind == "delete":
            account.alive = bool(account.tags)
            return
        account.tags.add(tag)
        if write.kind == "insert" and not account.alive:  # what was deleted is no matter
            account.cells, account.held_by = list(write.row), {}
        if not account.cells:
            account.cells = list(write.row)
        account.alive = True
        for register in _registers(key, {column for column, said in enumerate(write.modified) if said}):
            if all(tag >= account.held_by.get(column, UNRECORDED) for column in register):
                for column in register:
                    account.cells[column], account.held_by[column] = write.row[column], tag

    def _is_referred_to(self, key: RowKey, lsn: int) -> bool:
        referring = {fk.child: fk for fk in REFERRED[key[0]]}
        rows = ((child, self._postgres.row_at(child, lsn).row) for child in self._postgres.versions if child != key)
        return any(
            row is not None and any(fk.child == child[0] and fk.parent_of(row) == key for fk in REFERRED[key[0]])
            for child, row in rows
            if child[0] in referring
        )


def _registers(key: RowKey, columns: set[int]) -> set[tuple[int, ...]]:
    """What is written with ``columns``, each together with those it is tied to."""
    together = {column: register for register in TIED[key[0]] for column in register}
    return {together.get(column, (column,)) for column in columns}


def _with_tied(key: RowKey, columns: set[int]) -> set[int]:
    return {column for register in _registers(key, columns) for column in register}


def _as_of(write: RowWrite, account: Account, *, anew: bool) -> Tag:
    """Later than what its author knew, whatever the clocks said, but for what the same transaction has written.
    ``anew``: that has not written the row before."""
    origin = write.tag.origin
    known = [tag for tag in (*account.tags, *account.held_by.values()) if _seen(tag, write)]
    return Tag(origin, max([write.tag.ms, *(tag.ms + (anew or tag.origin != origin) for tag in known)]))


def _seen(tag: Tag, write: RowWrite) -> bool:
    """Whether the author knew of ``tag``, as far as the order of times goes: its own it knows."""
    if tag.origin == write.tag.origin:
        return True
    if tag == UNRECORDED and any(seen.origin != write.tag.origin for seen in write.observed):
        return True
    return any(seen.origin == tag.origin and seen.ms >= tag.seen_ms for seen in write.observed)
