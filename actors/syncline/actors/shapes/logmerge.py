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
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record
from syncline.actors.shapes.together import Leaving, once
from syncline.proto import codec
from syncline.proto.codec import encode_commit
from syncline.proto.values import POSTGRES_ORIGIN, Relation

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
        self._leaving = Leaving(relations) if relations else None
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
            ops, besides = once(ops, self._leaving.relations)
            prelude += besides
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
