"""One live shape: its changes become records, records go to its log and to the edges that follow it.

    loading   the snapshot is being taken; changes are already appended to the log, nobody can join yet
    ready     the image and the log together give the shape at any position from ``ready_lsn`` on

A table shape encodes each change once; those bytes go to the log and to every device. A TRUNCATE becomes deletes of
every row a device may hold, because the wire knows no truncate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import asyncpg

from syncline.actors.postgres.snapshot import Snapshot
from syncline.actors.postgres.transaction import StreamChange, TransactionHead, Truncated
from syncline.actors.shapes.frames import LIVE_TRANSACTION_BYTES_MAX
from syncline.actors.shapes.image import EMPTY, Overlay, key_bytes, overlay_of
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.store import ImageChunk, ShapeStore
from syncline.cluster import Actor, ActorDown, Exit, Ref
from syncline.proto import codec
from syncline.proto.values import Change, Delete, Insert, Relation, RowChange

log = logging.getLogger(__name__)

OVERLAYS_MAX = 4
DELETE_ROWS_MAX = 1_000
LOAD_BACKOFF_FIRST_S = 0.2
LOAD_BACKOFF_MAX_S = 10.0


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """This shape's changes in (a piece of) one transaction.

    ``first``: none came before them. The stream may have been cut off in the middle of the transaction and begin it
    again: what came then does not count. ``last``: none of this transaction follow.
    """

    head: TransactionHead
    changes: Sequence[StreamChange]
    first: bool
    last: bool


@dataclass(frozen=True, slots=True)
class Append:
    """Changes in stream order; answered to the shard with the info ``Appended(upto)``."""

    pieces: tuple[Piece | Record, ...]
    upto: int


@dataclass(frozen=True, slots=True)
class Appended:
    shape: str
    upto: int


@dataclass(frozen=True, slots=True)
class MarkSeen:
    """The stream has reached the mark of this shape's snapshot; every change before it has been sent to us."""

    mark: str
    lsn: int


@dataclass(frozen=True, slots=True)
class Join:
    """Info. Send ``edge`` a ``Joined``, once ready, and from then on ``Arrived`` for everything appended. ``number``
    comes back in the answer."""

    edge: Ref
    number: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Info. ``edge`` wants no more."""

    edge: Ref


@dataclass(frozen=True, slots=True)
class Joined:
    """Info. ``shape`` is ready; what it appended up to ``appended`` is in its log. A device may stand no earlier than
    ``ready_lsn``."""

    shape: str
    ready_lsn: int
    appended: int
    number: int


@dataclass(frozen=True, slots=True)
class NotifyReady:
    """Info. Send ``device`` a ``ShapeReady`` as soon as the shape is, or a ``ShapeGone`` when it never will be."""

    device: Ref


@dataclass(frozen=True, slots=True)
class ShapeReady:
    """Info."""

    shape: str


@dataclass(frozen=True, slots=True)
class ShapeGone:
    """Info. The shape's table was dropped before its rows could be read."""

    shape: str


@dataclass(frozen=True, slots=True)
class Arrived:
    shape: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class ReadPage:
    """Call. Answer: Page of records after ``after`` = (lsn, index), up to LSN ``upto``."""

    after: tuple[int, int]
    upto: int
    bytes_max: int


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Call. Answer: (ImageChunk or None at the end, next cursor); the rows as of ``lsn``. The first cursor is 0."""

    lsn: int
    cursor: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Call. Answer: work for a thread; once it is done, everything appended by now is on the disk. The shape does not
    wait for the disk itself: changes go on to devices meanwhile."""


class TableGone(Exception):
    """The table of a shape exists no more."""


TakeSnapshot = Callable[[Shape, Relation], Awaitable[Snapshot]]


class Consumer(Actor):
    """The actor of one shape.

    ``relation`` is None for the schema shape, which is ready from birth. ``take_snapshot`` registers the shape with the
    router, so that changes flow, and then opens a snapshot; ``shard`` hears of what is appended.
    """

    def __init__(self, store: ShapeStore, relation: Relation | None, take_snapshot: TakeSnapshot, shard: Ref) -> None:
        self._store = store
        self._shape = store.shape
        self._hash = store.shape.hash
        self._relation = relation
        self._take_snapshot = take_snapshot
        self._shard = shard
        self._edges: dict[Ref, None] = {}
        self._waiting: dict[Ref, int] = {}
        self._to_notify: dict[Ref, None] = {}
        self._next_index = 0
        self._gone = False
        self._mark: MarkSeen | None = None
        self._mark_seen = asyncio.Event()
        self._overlays: dict[int, tuple[Overlay, tuple[ImageChunk, ...]]] = {}

    async def init(self) -> None:
        if self._store.ready_lsn is None:
            self.background(self._load())

    async def terminate(self, reason: Exit) -> None:
        self._store.close()

    async def handle_cast(self, message: object) -> None:
        match message:
            case Append(pieces, upto):
                await self._append(pieces, upto)
            case MarkSeen():
                self._mark = message
                self._mark_seen.set()
            case _:
                raise TypeError(f"a shape does not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        match message:
            case Join(edge, number):
                self._join(edge, number)
            case Leave(edge):
                self._edges.pop(edge, None)
                self._waiting.pop(edge, None)
            case NotifyReady(device):
                self._to_notify[device] = None
                self._notify()
            case _:
                pass

    async def handle_call(self, message: object) -> object:
        match message:
            case ReadPage(after, upto, bytes_max):
                return self._store.read(after, upto, bytes_max)
            case ReadRows(lsn, cursor):
                return self._read_rows(lsn, cursor)
            case Flush():
                return self._store.flushing()
            case _:
                raise TypeError(f"a shape does not understand {message!r}")

    # --- changes in ---------------------------------------------------------------------------------------------------

    async def _append(self, pieces: Iterable[Piece | Record], upto: int) -> None:
        fresh: list[Record] = []
        arrived: list[Record] = []

        def write() -> None:
            self._store.append(fresh)
            arrived.extend(_for_edges(fresh))
            fresh.clear()

        for piece in pieces:
            if (piece.lsn if isinstance(piece, Record) else piece.head.lsn) <= self._store.appended_lsn:
                continue
            if isinstance(piece, Record):
                fresh.append(piece)
                continue
            if piece.first:
                while fresh and not fresh[-1].last:
                    fresh.pop()
                if not fresh:  # else what is to be written ends with a whole transaction, whatever the log ends with
                    self._store.discard_unfinished()
                self._next_index = 0
            for rows in _split_at_truncates(piece.changes):
                if rows is None:
                    # What a truncate removes depends on everything before it, so that must be in the log first.
                    write()
                    for deletes in self._deletes(piece.head):
                        write()
                        fresh.append(self._record(piece.head, deletes, truncates=True))
                        await asyncio.sleep(0)  # a large table is a long way
                else:
                    fresh.append(self._record(piece.head, rows))
            if piece.last:
                fresh[-1].last = True
        write()
        if arrived:
            await self._tell_edges(Arrived(self._hash, tuple(arrived)))
        # The shard waits for room here; were we to wait for room there, both might wait for ever.
        self._shard.inform(Appended(self._hash, upto))

    async def _tell_edges(self, arrived: Arrived) -> None:
        for edge in tuple(self._edges):
            try:
                await edge.send(arrived)
            except ActorDown:
                self._edges.pop(edge, None)

    def _record(self, head: TransactionHead, changes: Sequence[Change], *, truncates: bool = False) -> Record:
        index = self._next_index
        self._next_index += 1
        ops = codec.encode_ops(changes)
        return Record(int(head.lsn), head.commit_ms, head.author, index, False, len(changes), ops, (), truncates)

    def _deletes(self, head: TransactionHead) -> Iterator[list[Change]]:
        """Deletes of every row the shape has at this point of the transaction; one empty list if it has none."""
        relation, some = self._relation, False
        if relation is not None and self._store.ready_lsn is not None:
            cursor: int = 0
            while True:
                chunk, cursor = self._read_rows(int(head.lsn), cursor)
                if chunk is None:
                    break
                inserts = codec.decode_ops(b"".join(chunk.ops))
                rows = [change.row for change in inserts if isinstance(change, Insert)]
                if rows:
                    some = True
                    yield [Delete(relation.id, row) for row in rows]
            self._overlays.pop(int(head.lsn), None)  # the transaction is not over: it may insert again
        if not some:
            yield []

    # --- rows out -----------------------------------------------------------------------------------------------------

    def _read_rows(self, lsn: int, cursor: int) -> tuple[ImageChunk | None, int]:
        """Cursors from 0 up are places in the stored image, those below 0 count chunks of the overlay."""
        overlay, chunks = self._overlays.get(lsn) or self._make_overlay(lsn)
        if cursor >= 0 and not overlay.truncated:
            chunk, following = self._store.read_image(cursor)
            if chunk is not None:
                return overlay.apply(chunk), following
        place = max(0, -cursor - 1)
        return (chunks[place], -(place + 2)) if place < len(chunks) else (None, cursor)

    def _make_overlay(self, lsn: int) -> tuple[Overlay, tuple[ImageChunk, ...]]:
        """The overlay as of ``lsn``, from the newest one made before it and the records since."""
        assert self._relation is not None, "only table shapes have rows"
        base_lsn = max((known for known in self._overlays if known <= lsn), default=0)
        base = self._overlays[base_lsn][0] if base_lsn else EMPTY
        overlay = overlay_of(self._store.records(base_lsn, lsn), self._relation, base)
        made = overlay, tuple(overlay.chunks())
        while len(self._overlays) >= OVERLAYS_MAX:
            del self._overlays[next(iter(self._overlays))]
        self._overlays[lsn] = made
        return made

    def _join(self, edge: Ref, number: int) -> None:
        if self._store.ready_lsn is None:
            self._waiting[edge] = number
            return
        self._edges[edge] = None
        appended = max(self._store.appended_lsn, self._store.ready_lsn)
        edge.inform(Joined(self._hash, self._store.ready_lsn, appended, number))

    def _notify(self) -> None:
        """Tells the devices that asked, once there is something to tell."""
        if self._store.ready_lsn is not None or self._gone:
            told = ShapeGone(self._hash) if self._gone else ShapeReady(self._hash)
            for device in self._to_notify:
                device.inform(told)
            self._to_notify.clear()

    # --- the first snapshot -------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Take the snapshot, again and again until it succeeds: Postgres may be away for a while."""
        assert self._relation is not None, "the schema shape needs no snapshot"
        delay_s = LOAD_BACKOFF_FIRST_S
        while True:
            try:
                ready_lsn = await self._load_once(self._relation)
                break
            except TableGone:
                log.warning(
                    "the table %s.%s was dropped before it could be read", self._shape.schema, self._shape.table
                )
                self._gone = True
                self._notify()
                return
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ActorDown) as error:
                log.warning("snapshot of %s failed: %s; again in %.1f s", self._shape.table, error, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(LOAD_BACKOFF_MAX_S, delay_s * 2)
        self._store.finish_image(ready_lsn)
        log.info("shape %s.%s ready: %d rows", self._shape.schema, self._shape.table, self._store.image_rows)
        for edge, number in self._waiting.items():
            self._join(edge, number)
        self._waiting.clear()
        self._notify()

    async def _load_once(self, relation: Relation) -> int:
        self._store.restart_image()
        self._mark_seen.clear()
        snapshot = await self._take_snapshot(self._shape, relation)
        async for rows in snapshot:
            keys = tuple(key_bytes(relation.key_of(row)) for row, _ in rows)
            ops = tuple(codec.encode_ops((Insert(relation.id, row, tags),)) for row, tags in rows)
            self._store.write_image_chunk(ImageChunk(keys, ops))
        while self._mark is None or self._mark.mark != snapshot.mark:
            await self._mark_seen.wait()
            self._mark_seen.clear()
        return self._mark.lsn


def _split_at_truncates(changes: Sequence[StreamChange]) -> Iterator[list[RowChange] | None]:
    """Runs of row changes, with None for each truncate between them. At least one run, maybe empty, comes out."""
    run: list[RowChange] = []
    for change in changes:
        if isinstance(change, Truncated):
            if run:
                yield run
                run = []
            yield None
        else:
            run.append(change)
    if run or not changes:
        yield run


def _for_edges(records: Iterable[Record]) -> Iterator[Record]:
    """Records as edges get them: of a large transaction only that it exists, its content is read from the log."""
    for record in records:
        if record.last and record.index == 0 and len(record.ops) <= LIVE_TRANSACTION_BYTES_MAX:
            yield record
        elif record.last:
            yield replace(record, index=max(1, record.index), ops=b"", rows=0)
