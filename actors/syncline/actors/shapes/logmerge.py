"""The logs of several shapes as one stream of frames, from one position to another.

``LogMerge`` walks the logs in step: it takes the transaction with the smallest commit LSN among the heads, gives out
its begin, every shape's operations, and its commit. It never holds more than the pages it was fed, whatever the size of
a transaction, and some of the rows that leave (see ``departures``).

What several shapes tell of a transaction that came in pieces is given in the order of the pieces. So of a row that
changes hands in it a device is told last what it is in the end, whichever shapes have told of it before.

A *final stretch* is where one of the logs has only final operations (see ``finals``): what was a transaction there is
fragments now. It is given as one transaction at its end. Migrations in it come first, as transactions of their own that
leave the device where it stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

from syncline.actors.shapes.departures import Departures
from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page, Record
from syncline.actors.shapes.together import put_together
from syncline.proto import codec
from syncline.proto.codec import encode_commit
from syncline.proto.values import FINAL_MS, POSTGRES_ORIGIN, Change, Relation, Update

# Ids of migrations in a final stretch: beyond those that ``outbound`` makes up itself, and far below any LSN.
MIGRATION_ID_FIRST = 1 << 21


@dataclass(slots=True)
class _Cursor:
    records: deque[Record] = field(default_factory=deque)
    position: tuple[int, int] = (0, 0)
    more: bool = True


class LogMerge:
    """The transactions of ``shapes`` after LSN ``after`` up to and including ``upto``, as frames in commit order.

    ``relations``: of shapes that may have rows in common; none if they have not. What two of them tell of a row in the
    same piece of a transaction is told once. ``migrating``: the shapes that bring migrations.
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
        self._migrating = sorted(migrating)
        self._migrations = 0
        self._migration: list[Record] = []
        relations = tuple(relations)
        self._departures = Departures(relations) if relations else None
        self._cursors = {shape: _Cursor(position=(after, END_OF_TRANSACTION)) for shape in sorted(shapes)}
        self._open: Record | None = None
        self._unfinished: set[str] = set()
        self._alone = False  # one shape tells of it
        self._told: dict[str, int] = {}  # up to where of it each shape has told something

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
                self._alone = len(self._unfinished) == 1
                self._told.clear()
                starts = True
            else:
                starts = False
            frame = self._next_piece(self._open, starts)
            if frame is not None:
                yield frame
            if frame is None:
                return

    def _next_piece(self, head: Record, starts: bool) -> Frame | None:
        """What the pages fed so far have of the open transaction; None if that is nothing."""
        ops: list[bytes] = []
        prelude: list[bytes] = []
        together: dict[str, list[Record]] = {}  # what ends at the same place of the transaction
        places = [_place(self._cursors[shape].records[0], shape) for shape in self._unfinished if self._fed(shape)]
        if len(places) < len(self._unfinished):
            return None
        heapify(places)
        until = 0
        while places:
            before, (until, _, shape) = until, heappop(places)
            records = self._cursors[shape].records
            if together and until != before:
                ops.append(self._ops(together, (head.lsn, before)))
                together = {}
            record = records.popleft()
            together.setdefault(shape, []).append(record)
            prelude += record.prelude
            if record.last:
                self._unfinished.discard(shape)
            elif records:
                heappush(places, _place(records[0], shape))
            else:
                break  # what comes next may be in its next page
        ends = not self._unfinished
        ops.append(self._ops(together, (head.lsn, until), more=not ends))
        if self._departures is not None:
            ops += (self._departures.rest(),) if ends else ()
            prelude += self._departures.relations_told()
        if starts:
            ops.insert(0, begin_of(head.lsn, head.commit_ms, head.origin))
        if ends:
            ops.append(encode_commit(head.commit_ms, lsn_bytes(head.lsn)))
            self._open = None
        body = b"".join(ops)
        if not body and not prelude:
            return None
        return Frame(head.lsn, head.commit_ms, head.origin, body, starts, ends, tuple(prelude))

    def _fed(self, shape: str) -> bool:
        return bool(self._cursors[shape].records)

    def _ops(self, together: Mapping[str, Sequence[Record]], place: tuple[int, int], *, more: bool = False) -> bytes:
        """What shapes tell of the same ``place`` of a transaction, or what there is of it, if there may be ``more``."""
        if self._departures is None or self._alone:
            return b"".join(record.ops for records in together.values() for record in records)
        parts = []
        for shape, records in together.items():
            changes = [change for record in records for change in codec.decode_changes(record.ops)]
            if any(told > records[0].since for other, told in self._told.items() if other != shape):
                # The device has heard since of what these rows were, and some clients take for the whole change what
                # an update has changed.
                changes = [replace(one, old_row=None) if isinstance(one, Update) else one for one in changes]
            parts.append(changes)
        self._told.update(
            (shape, records[0].until) for shape, records in together.items() if any(record.ops for record in records)
        )
        return self._together(parts, place, more=more)

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
                records = _first(heads)
                ops.append(self._passed(records, more=any(not c.records and c.more for c in self._cursors.values())))
                prelude += (message for of_shape in records for record in of_shape for message in record.prelude)
            ends = not heads
        if self._departures is not None:
            ops += (self._departures.rest(),) if ends else ()
            prelude += self._departures.relations_told()
        self._final_open = not ends
        starts = not self._final_begun and any(ops)
        if starts or (self._final_begun and (ends or any(ops))):
            self._final_begun = True
            yield self._final_frame(ops, prelude, starts=starts, ends=ends)

    def _passed(self, records: Sequence[Sequence[Record]], *, more: bool) -> bytes:
        """What shapes, one after the other, tell of the same place in a final stretch, as ``_ops``."""
        if self._departures is None:
            return b"".join(record.ops for of_shape in records for record in of_shape)
        first = records[0][0]
        parts = [[change for record in one for change in codec.decode_changes(record.ops)] for one in records]
        return self._together(parts, (first.lsn, first.until), more=more)

    def _together(self, parts: Sequence[Sequence[Change]], place: tuple[int, int], *, more: bool) -> bytes:
        assert self._departures is not None
        changes, besides = put_together(parts, self._departures.relations)
        self._departures.described(besides)
        return codec.encode_ops(self._departures.passed(changes, place, more=more))

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


def _place(record: Record, shape: str) -> tuple[int, int, str]:
    """Where ``record`` stands among those of its transaction. What it tells is so at ``until``. A migration takes no
    place there: it comes behind what ends where it is, and before what begins."""
    return (record.until, record.since, shape)


def _first(cursors: Sequence[_Cursor]) -> list[list[Record]]:
    """The next records of those that stand at the earliest place: what they tell is so there. All of them have some."""
    place = min((cursor.records[0].lsn, cursor.records[0].until) for cursor in cursors)
    first: list[list[Record]] = []
    for cursor in cursors:
        of_shape = []
        while cursor.records and (cursor.records[0].lsn, cursor.records[0].until) == place:
            of_shape.append(cursor.records.popleft())
        if of_shape:
            first.append(of_shape)
    return first
