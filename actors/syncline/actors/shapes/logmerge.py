"""The logs of several shapes as one stream of frames, from one position to another.

``LogMerge`` walks the logs in step: it takes the transaction with the smallest commit LSN among the heads, gives out
its begin, every shape's operations, and its commit. It never holds more than the pages it was fed, whatever the size of
a transaction; and of a final stretch the rows that leave.

A *final stretch* is where one of the logs has only final operations (see ``finals``): what was a transaction there is
fragments now. It is given as one transaction at its end. Migrations in it come first, as transactions of their own that
leave the device where it stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes, once
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record
from syncline.actors.shapes.projection import forgotten, lost
from syncline.proto import codec
from syncline.proto.codec import encode_commit
from syncline.proto.values import POSTGRES_ORIGIN, Change, Delete, Gone, Insert, Key, Relation, Update

# Ids of migrations in a final stretch: beyond those that ``outbound`` makes up itself, and far below any LSN.
MIGRATION_ID_FIRST = 1 << 21
# The time of a final stretch, as devices compare it with those of their own writes: these stand until they come back,
# for nobody knows which column was written when. The commit says the latest of its times.
FINAL_MS = 1


@dataclass(slots=True)
class _Cursor:
    records: deque[Record] = field(default_factory=deque)
    position: tuple[int, int] = (0, 0)
    more: bool = True


class _Leaving:
    """Rows that leave in a final stretch, unless a later operation of another shape tells of them; and rows that are
    deleted, unless another shape has them anew in the same transaction."""

    def __init__(self, relations: Iterable[Relation]) -> None:
        self.relations = {relation.id: relation for relation in relations}
        self._gone: dict[tuple[int, Key], Gone] = {}
        # Of the transaction that comes by: rows deleted, and the columns of those that somebody has.
        self._deleted: dict[tuple[int, Key], Delete] = {}
        self._there: dict[tuple[int, Key], frozenset[str]] = {}
        self._lsn = 0
        self.told_of: list[bytes] = []  # relations of which it tells besides, as messages

    def passed(self, lsn: int, ops: bytes, *, alone: bool) -> bytes:
        """Of ``ops``, which are of the transaction at ``lsn``, and of what came before all that can be told now.
        ``alone``: no other shape has anything of that transaction, of which nothing need be kept then."""
        told: list[Change] = []
        if lsn > self._lsn:
            self._lsn = lsn
            told += self._deleted.values()
            self._deleted.clear()
            self._there.clear()
        for change in codec.decode_changes(ops):
            assert isinstance(change, Insert | Update | Delete | Gone), "a shape has rows"
            row = change.old_row if isinstance(change, Delete) else change.row
            relation = self.relations.get(change.relation_id)
            if relation is None:  # it takes columns of a row that stays
                told.append(change)
                continue
            id = (relation.table_id, relation.key_of(row))
            before = [left.pop(id) for left in (self._gone, self._deleted) if id in left]
            if isinstance(change, Gone):
                self._gone[id] = change
            elif not isinstance(change, Delete):
                there = self._there.get(id, frozenset()).union(relation.names)
                if not alone:
                    self._there[id] = there
                for left in before:
                    told += self._less(left, there, id)
                told.append(change)
            elif alone:
                told.append(change)
            elif id in self._there:
                told += self._less(change, self._there[id], id)
            else:
                self._deleted[id] = change
        return codec.encode_ops(told)

    def _less(self, left: Gone | Delete, there: frozenset[str], id: tuple[int, Key]) -> Iterator[Change]:
        """The row stays, with what it has come with since, the columns that are ``there``."""
        less = lost(self.relations[left.relation_id], there)
        if less is not None:
            self.told_of.append(codec.relation_message(less))
            yield forgotten(less, id[1])

    def rest(self) -> bytes:
        """What could not be told before the end."""
        return codec.encode_ops((*self._deleted.values(), *self._gone.values()))


def _staying(parts: Sequence[bytes], relations: Mapping[int, Relation]) -> list[bytes]:
    """``parts``, each of what one shape tells of a transaction, without saying that a row goes which any of them tells
    of as it is in the end. A shape that a TRUNCATE has emptied knows no more of a row that came anew and is not its."""
    every = [list(codec.decode_changes(part)) for part in parts]
    stay: set[tuple[int, Key]] = set()
    for changes in every:
        last = {id: change for change in changes if (id := _row_id(change, relations)) is not None}
        stay.update(id for id, change in last.items() if not isinstance(change, Delete | Gone))
    return [
        codec.encode_ops(
            change
            for change in changes
            if not isinstance(change, Delete | Gone) or _row_id(change, relations) not in stay
        )
        for changes in every
    ]


def _row_id(change: Change, relations: Mapping[int, Relation]) -> tuple[int, Key] | None:
    """None for what is not of a row that a shape has."""
    if not isinstance(change, Insert | Update | Delete | Gone):
        return None
    relation = relations.get(change.relation_id)
    if relation is None:
        return None
    return relation.table_id, relation.key_of(change.old_row if isinstance(change, Delete) else change.row)


class LogMerge:
    """The transactions of ``shapes`` after LSN ``after`` up to and including ``upto``, as frames in commit order.

    ``relations``: of shapes that may have rows in common; none if they have not. A row of which two of them tell is
    told once, unless the transaction is in pieces. ``migrating``: the shapes that bring migrations.
    """

    def __init__(
        self,
        shapes: Iterable[str],
        after: int,
        upto: int,
        *,
        relations: Iterable[Relation] = (),
        migrating: Collection[str] = (),
    ) -> None:
        self.after = after
        self.upto = upto
        self.final_upto = 0
        self._final_ms = 0
        self._final_open = self._final_begun = False
        self._final_lsn, self._alone = 0, False  # of the transaction there that comes by; one shape only has told of it
        self._migrating = sorted(migrating)
        self._migrations = 0
        self._migration: list[Record] = []
        relations = tuple(relations)
        self._leaving = _Leaving(relations) if relations else None
        self._cursors = {shape: _Cursor(position=(after, END_OF_TRANSACTION)) for shape in sorted(shapes)}
        self._open: Record | None = None
        self._unfinished: set[str] = set()

    @property
    def done(self) -> bool:
        if self._open is not None or self._final_open:
            return False
        return all(not c.records and not c.more for c in self._cursors.values())

    def make_final(self, upto: int) -> None:
        """What comes first, up to and including LSN ``upto``, is a final stretch: to be said before ``frames``."""
        self.final_upto = upto
        self._final_open = upto > self.after

    def wanted(self) -> list[tuple[str, tuple[int, int]]]:
        """The shapes of which a page is needed before anything more can be given out, and where it begins."""
        return [(shape, c.position) for shape, c in self._cursors.items() if not c.records and c.more]

    def feed(self, shape: str, page: Page) -> None:
        cursor = self._cursors[shape]
        cursor.records.extend(page.records)
        cursor.more = page.more
        self._final_ms = max(self._final_ms, page.final_ms)
        if page.records:
            cursor.position = page.records[-1].position

    def frames(self) -> Iterator[Frame]:
        """Every frame that the pages fed so far allow."""
        if self._final_open:
            yield from self._final_frames()
        while not self._final_open:
            if self._open is None:
                if any(not c.records and c.more for c in self._cursors.values()):
                    return
                heads = {shape: c.records[0] for shape, c in self._cursors.items() if c.records}
                if not heads:
                    return
                self._open = min(heads.values(), key=lambda record: record.lsn)
                self._unfinished = {shape for shape, record in heads.items() if record.lsn == self._open.lsn}
                starts = True
            else:
                starts = False
            frame = self._next_piece(self._open, starts)
            if frame is not None:
                yield frame
            if frame is None:
                return

    def _next_piece(self, head: Record, starts: bool) -> Frame | None:
        ops: list[bytes] = []
        prelude: list[bytes] = []
        for shape in sorted(self._unfinished):
            records = self._cursors[shape].records
            of_shape: list[bytes] = []
            while records and shape in self._unfinished:
                record = records.popleft()
                of_shape.append(record.ops)
                prelude.extend(record.prelude)
                if record.last:
                    self._unfinished.discard(shape)
            if of_shape:
                ops.append(b"".join(of_shape))
        ends = not self._unfinished
        if not ops:
            return None
        if starts and ends and self._leaving is not None and len(ops) > 1:
            ops = once(_staying(ops, self._leaving.relations))
        if starts:
            ops.insert(0, begin_of(head.lsn, head.commit_ms, head.origin))
        if ends:
            ops.append(encode_commit(head.commit_ms, lsn_bytes(head.lsn)))
            self._open = None
        return Frame(head.lsn, head.commit_ms, head.origin, b"".join(ops), starts, ends, tuple(prelude))

    def _final_frames(self) -> Iterator[Frame]:
        """What the pages allow of the final stretch."""
        for shape in self._migrating:
            cursor = self._cursors[shape]
            while cursor.records and cursor.records[0].lsn <= self.final_upto:
                self._migration.append(cursor.records.popleft())
                if self._migration[-1].last:
                    yield self._migrated()
            if not cursor.records and cursor.more:
                return
        ops: list[bytes] = []
        prelude: list[bytes] = []
        ends = False
        while not ends and all(cursor.records or not cursor.more for cursor in self._cursors.values()):
            heads = [c for c in self._cursors.values() if c.records and c.records[0].lsn <= self.final_upto]
            if heads:
                first = min(heads, key=lambda cursor: cursor.records[0].position)
                lsn = first.records[0].lsn
                if lsn > self._final_lsn:
                    self._final_lsn, self._alone = (
                        lsn,
                        not any(c.records[0].lsn == lsn for c in heads if c is not first),
                    )
                record = first.records.popleft()
                if self._leaving is None:
                    ops.append(record.ops)
                else:
                    ops.append(self._leaving.passed(lsn, record.ops, alone=self._alone))
                prelude += record.prelude
            ends = not heads
        if self._leaving is not None:
            prelude += self._leaving.told_of
            self._leaving.told_of.clear()
        if ends and self._leaving is not None:
            ops.append(self._leaving.rest())
        self._final_open = not ends
        starts = not self._final_begun and any(ops)
        if starts or (self._final_begun and (ends or any(ops))):
            self._final_begun = True
            yield self._final_frame(ops, prelude, starts=starts, ends=ends)

    def _final_frame(self, ops: list[bytes], prelude: list[bytes], *, starts: bool, ends: bool) -> Frame:
        lsn = self.final_upto
        begin = (begin_of(lsn, FINAL_MS, POSTGRES_ORIGIN),) if starts else ()
        commit = (encode_commit(self._final_ms, lsn_bytes(lsn)),) if ends else ()
        body = b"".join((*begin, *ops, *commit))
        return Frame(lsn, FINAL_MS, POSTGRES_ORIGIN, body, starts, ends, tuple(prelude), since=self.after)

    def _migrated(self) -> Frame:
        """A migration in the final stretch, of which the device has nothing else yet."""
        records, self._migration = self._migration, []
        head = records[0]
        id = MIGRATION_ID_FIRST + self._migrations
        self._migrations += 1
        lsn = lsn_bytes(self.after)
        begin = codec.encode_begin(head.commit_ms, lsn, head.origin, id)
        body = b"".join((begin, *(record.ops for record in records), encode_commit(head.commit_ms, lsn)))
        prelude = tuple(message for record in records for message in record.prelude)
        return Frame(self.after, head.commit_ms, head.origin, body, prelude=prelude, transaction_id=id)
