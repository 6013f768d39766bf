"""A transaction of Postgres being written: by direct SQL, or with a device's operations as ``electric.apply`` does.

How a write meets a row is decided by ``syncline.proto.merge``, which is the oracle of the SQL that does it in
production. Modelled is what lies around that: what ON DELETE says, and how operations that leave references dangling
are mended. A child brings back the parent it refers to, with its content; a parent that somebody refers to is kept,
for the author of its delete had not seen that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.sim.schema import (
    DEPTHS,
    JOURNAL,
    NAMES,
    REFERRED,
    REFERRING,
    RELATIONS,
    TIED,
    ForeignKey,
    RowKey,
)

from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.proto.merge import DirectKind, RowState, RowWrite, apply_direct, apply_write
from syncline.proto.tags import Seen, Tag, observe, parse_tags
from syncline.proto.values import Cell, Delete, Insert, Row, Update

ABSENT = RowState()
KINDS = {"I": "insert", "U": "update", "D": "delete", "C": "compensation"}


class Violation(Exception):
    """A foreign key does not hold: ``child`` refers to ``parent``, which is not there. ``circular``: because the two
    refer to one another, so that neither can come back first. ``parent_unknown``: nobody knows what it was."""

    def __init__(self, child: RowKey, parent: RowKey, *, circular: bool = False, parent_unknown: bool = False) -> None:
        super().__init__(f"{NAMES[child[0]]} {child[1]} refers to {NAMES[parent[0]]} {parent[1]}")
        self.child = child
        self.parent = parent
        self.circular = circular
        self.parent_unknown = parent_unknown


class Mend(Exception):
    """Rows refer to what is deleted that Postgres would change with it."""


@dataclass(frozen=True, slots=True)
class Executed:
    """A device's write to a row as it was carried out. ``kept``: a delete of what others refer to. ``revived``: not the
    device's own, it brings back what a row refers to that the device has written."""

    key: RowKey
    write: RowWrite
    kept: bool = False
    revived: bool = False


class Work:
    """Reads its own writes. ``committed``: the rows before it; ``now_ms``: the server's clock."""

    def __init__(self, committed: Mapping[RowKey, RowState], now_ms: int, position: int = 0) -> None:
        self._committed = committed
        self.now_ms = now_ms
        # Another one in each transaction of direct SQL.
        self.position = position
        self.rows: dict[RowKey, RowState] = {}
        self.changes: list[StreamChange] = []
        self.executed: list[Executed] = []
        self.journal: list[str] = []
        self.conflicts = 0

    def get(self, key: RowKey) -> RowState:
        found = self.rows.get(key)
        return found if found is not None else self._committed.get(key, ABSENT)

    # --- direct SQL ---------------------------------------------------------------------------------------------------

    def put(self, relation_id: int, row: Row) -> None:
        """INSERT ... ON CONFLICT DO UPDATE."""
        key = (relation_id, RELATIONS[relation_id].key_of(row))
        before = self.get(key).row
        if before is None:
            self._direct(key, "insert", row, (True,) * len(row))
            self.changes.append(Insert(relation_id, row))
        else:
            self._direct(key, "update", row, tuple(new != old for new, old in zip(row, before, strict=True)))
            self.changes.append(Update(relation_id, row, before))

    def update(self, key: RowKey, column: int, value: Cell) -> None:
        row = self.get(key).row
        if row is not None:
            self.put(key[0], (*row[:column], value, *row[column + 1 :]))

    def delete(self, key: RowKey) -> None:
        row = self.get(key).row
        if row is not None:
            self._direct(key, "delete", row, (False,) * len(row))
            self.changes.append(Delete(key[0], row))
            self._act(key)

    def truncate(self, *relation_ids: int) -> None:
        """Postgres demands that those which refer to a table are emptied with it. What was there is not kept."""
        for key in [*self._committed, *self.rows]:
            if key[0] in relation_ids and self.get(key).row is not None:
                self.rows[key] = RowState(None, frozenset(), self.get(key).column_tags)
        self.changes.append(Truncated(relation_ids))

    def _direct(self, key: RowKey, kind: DirectKind, row: Row, modified: tuple[bool, ...]) -> None:
        self.rows[key] = apply_direct(self.get(key), kind, row, modified, self.now_ms, TIED[key[0]])

    def _act(self, deleted: RowKey) -> None:
        """What ON DELETE of the foreign keys to ``deleted`` says."""
        for fk in REFERRED[deleted[0]]:
            for child in self._referring(fk, deleted) if fk.on_delete != "NO ACTION" else ():
                row = self.get(child).row
                if fk.on_delete == "CASCADE":
                    self.delete(child)
                elif row is not None:
                    self.put(child[0], tuple(None if i in fk.columns else cell for i, cell in enumerate(row)))

    # --- a device's operations ----------------------------------------------------------------------------------------

    def carry_out(self, ops: Sequence[dict[str, Any]], client_id: str, ms: int) -> None:
        """In their order. Raises Mend or, if references dangle at the end, Violation: then they are to be mended."""
        for op in ops:
            self._merge(op, Tag(client_id, ms), mending=0)
        self.check()

    def mend(self, ops: Sequence[dict[str, Any]], client_id: str, ms: int) -> None:
        """In the order of references, with what they refer to. Raises Violation: it cannot be mended."""
        tag = Tag(client_id, ms)
        left = [op for op in parents_first(ops) if not self._merge(op, tag, mending=1)]
        # Of rows that refer to one another the last goes first; what then is still referred to stays.
        while left:
            again = [op for op in left if not self._merge(op, tag, mending=1)]
            if len(again) == len(left):
                break
            left = again
        for op in left:
            self._merge(op, tag, mending=2)
        self.check()

    def _merge(self, op: dict[str, Any], tag: Tag, *, mending: int) -> bool:
        """False: the row is still referred to, and to be deleted later."""
        relation_id = op["rel"]
        row = tuple(None if cell is None else cell.encode() for cell in op["row"])
        key = (relation_id, RELATIONS[relation_id].key_of(row))
        modified = (True,) * len(row) if op["op"] == "I" else tuple(op["modified"])
        write = RowWrite(KINDS[op["op"]], row, modified, tag, parse_tags(op["tags"]))  # type: ignore[arg-type]
        if write.kind != "delete":
            if relation_id == JOURNAL and op["op"] == "I":
                self.journal.append(row[0].decode())  # type: ignore[union-attr]
            self._write(key, write, mending=mending > 0)
            return True
        before = self.get(key)
        if before.row is None:
            return True
        kept = False
        if self._applied(key, write).row is None:
            if mending == 0 and self._is_referred_to(key, acting=True):
                raise Mend
            kept = mending > 0 and self._is_referred_to(key, acting=False)
            if kept and mending == 1:
                return False
        self._execute(key, write, kept=kept)
        return True

    def _write(self, key: RowKey, write: RowWrite, *, mending: bool, coming: frozenset[RowKey] = frozenset()) -> None:
        """``coming``: what is being brought back for those that refer to it."""
        if mending:
            after = self._applied(key, write)
            as_of = next(tag for tag in after.tags if tag.origin == write.tag.origin)
            for parent in _parents(key, after.row):
                if parent == key or self.get(parent).row is not None or self.get(parent).tombstone is None:
                    continue
                if parent in coming:
                    raise Violation(key, parent, circular=True)
                width = len(RELATIONS[parent[0]].columns)
                revived = RowWrite("compensation", (None,) * width, (False,) * width, as_of, frozenset())
                self._write(parent, revived, mending=True, coming=coming | {key})
        self._execute(key, write, revived=bool(coming))

    def _applied(self, key: RowKey, write: RowWrite) -> RowState:
        return apply_write(self.get(key), write, TIED[key[0]], anew=key not in self.rows)

    def _execute(self, key: RowKey, write: RowWrite, *, kept: bool = False, revived: bool = False) -> None:
        before = self.get(key)
        if any(tag.origin != write.tag.origin for tag in observe(before.tags, Seen(write.observed, ""), None)):
            self.conflicts += 1
        self.executed.append(Executed(key, write, kept, revived))
        after = self.rows[key] = before if kept else self._applied(key, write)
        if after.row is None:
            self.changes.append(Delete(key[0], before.row or write.row))
        elif before.row is None:
            self.changes.append(Insert(key[0], after.row))
        else:
            self.changes.append(Update(key[0], after.row, before.row))

    # --- references ---------------------------------------------------------------------------------------------------

    def _referring(self, fk: ForeignKey, parent: RowKey) -> list[RowKey]:
        keys = dict.fromkeys(key for key in (*self._committed, *self.rows) if key[0] == fk.child)
        return [key for key in keys if (row := self.get(key).row) is not None and fk.parent_of(row) == parent]

    def _is_referred_to(self, key: RowKey, *, acting: bool) -> bool:
        """By another row; ``acting``: which Postgres would change with it."""
        return any(
            child != key
            for fk in REFERRED[key[0]]
            if not acting or fk.on_delete != "NO ACTION"
            for child in self._referring(fk, key)
        )

    def check(self) -> None:
        """Raises Violation when a foreign key does not hold."""
        for key, state in self.rows.items():
            for parent in _parents(key, state.row):
                there = self.get(parent)
                if there.row is None:
                    raise Violation(key, parent, parent_unknown=there.tombstone is None)
            if state.row is None:
                for child in (child for fk in REFERRED[key[0]] for child in self._referring(fk, key)):
                    raise Violation(child, key)

    def locks(self) -> set[RowKey]:
        """The rows this transaction has to lock: those it writes and those they refer to."""
        return {*self.rows, *(parent for key in self.rows for parent in _parents(key, self.get(key).row))}


def _parents(key: RowKey, row: Row | None) -> Iterable[RowKey]:
    """What the row refers to."""
    if row is not None:
        for fk in REFERRING[key[0]]:
            parent = fk.parent_of(row)
            if parent is not None:
                yield parent


def parents_first(ops: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """As ``electric.parents_first``: parents are written before their children, also in one table, and deleted after
    them. A delete that a later write to the same row takes back is left out; that write then has observed what the
    delete had."""
    keys = [(op["rel"], RELATIONS[op["rel"]].key_of(tuple(op["row"]))) for op in ops]
    last_write = {key: place for place, (op, key) in enumerate(zip(ops, keys, strict=True)) if op["op"] != "D"}
    inserted: dict[Any, int] = {}
    back: defaultdict[int, list[str]] = defaultdict(list)
    gone = set()
    for place, (op, key) in enumerate(zip(ops, keys, strict=True)):
        if op["op"] == "I":
            inserted.setdefault(key, place)
        elif op["op"] == "D" and last_write.get(key, -1) > place:
            gone.add(place)
            back[last_write[key]] += op["tags"]

    nested = _nested(ops, keys, last_write)

    def rank(place: int) -> tuple[bool, int, bool, int, int]:
        kind, depth = ops[place]["op"], DEPTHS[keys[place][0]]
        kept_alive = kind == "C" and not inserted.get(keys[place], place) < place
        level = 0 if kind == "D" else nested.get(keys[place], 0)
        return kind == "D", -depth if kind == "D" else depth, not kept_alive, level, place

    order = sorted((place for place in range(len(ops)) if place not in gone), key=rank)
    return [{**ops[place], "tags": [*ops[place]["tags"], *back[place]]} for place in order]


def _nested(ops: Sequence[dict[str, Any]], keys: Sequence[RowKey], written: Collection[RowKey]) -> dict[RowKey, int]:
    """How far below another written row of its table, which refers to none, a row is; of a circle's it is not said."""
    children: defaultdict[RowKey, set[RowKey]] = defaultdict(set)
    for op, key in zip(ops, keys, strict=True):
        if op["op"] in ("I", "U"):
            for fk in REFERRING[key[0]]:
                parent = fk.parent_of(tuple(op["row"]))
                if parent in written and parent is not None and parent[0] == key[0] and parent != key:
                    children[parent].add(key)
    below = {key for own in children.values() for key in own}
    level = {key: 0 for key in children if key not in below}
    reached = set(level)
    for depth in range(1, len(written) + 1):
        reached = {child for key in reached for child in children[key]}
        level.update(dict.fromkeys(reached, depth))
    return level
