"""One live shape: its changes become records, records go to its log and to the edges that follow it.

    loading   the snapshot is being taken; changes are already appended to the log, nobody can join yet
    ready     the image and the log together give the shape at any position from ``ready_lsn`` on

A table shape encodes each change once; those bytes go to the log and to every device. A TRUNCATE becomes deletes of
every row a device may hold, because the wire knows no truncate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.catalog import TableGone
from syncline.actors.postgres.snapshot import TaggedRow
from syncline.actors.postgres.streamed import StreamChange, TransactionHead, Truncated
from syncline.actors.shapes.asleep import UNKNOWN, Concerning, Kept, Satisfying, everything
from syncline.actors.shapes.clauses import NO_CLAUSES, Clauses
from syncline.actors.shapes.filtering import filtered, selected
from syncline.actors.shapes.frames import for_edges
from syncline.actors.shapes.image import ImageChunk, chunk_of
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import (
    Append,
    Appended,
    Arrived,
    AskHeld,
    CountImage,
    Flush,
    Join,
    Joined,
    Leave,
    MarkSeen,
    NotifyReady,
    Piece,
    ReadPage,
    ReadReleased,
    ReadRows,
    ShapeGone,
    ShapeReady,
)
from syncline.actors.shapes.projection import Narrowing, wire_relations
from syncline.actors.shapes.readers import Readers
from syncline.actors.shapes.reaping import ReadFollowed
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.shards import tell
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Actor, ActorDown, CallTimeout, Exit, Ref
from syncline.proto import codec
from syncline.proto.values import Change, Delete, Insert, Relation, Row, RowChange

log = logging.getLogger(__name__)

T = TypeVar("T")

# Rows encoded or decoded between two pauses: a few milliseconds' worth.
ENCODE_ROWS = 500
DELETE_ROWS_MAX = 50
RELEASED_TIMEOUT_S = 10.0  # an edge answers at once; it may have a long way
LOAD_BACKOFF_FIRST_S = 0.2
LOAD_BACKOFF_MAX_S = 10.0
# What is raised when Postgres, or a part of this service, is away: it passes.
PASSING: Final = (*AWAY, ActorDown)


class SnapshotRows(Protocol):
    """The rows of a snapshot, in chunks. ``mark``: where in the stream it belongs. ``selected``: whether they belong to
    the shape that was asked for, each of them."""

    mark: str

    @property
    def selected(self) -> bool: ...

    def __aiter__(self) -> AsyncGenerator[list[TaggedRow], None]: ...


TakeSnapshot = Callable[[Shape, Relation, Clauses | None], Awaitable[SnapshotRows]]
ReadClauses = Callable[[], Awaitable[Clauses]]


class Consumer(Actor):
    """The actor of one shape.

    ``relations``: of its tables; none for the schema shape, which is ready from birth. ``take_snapshot`` registers the
    shape with the router, so that changes flow, and then opens a snapshot of its rows; ``shard`` hears of what is
    appended. ``read_clauses``: None for a shape that has none.
    """

    def __init__(
        self,
        store: ShapeStore,
        relations: Sequence[Relation],
        take_snapshot: TakeSnapshot,
        shard: Ref,
        read_clauses: ReadClauses | None = None,
    ) -> None:
        self._store = store
        self._shape = store.shape
        self._hash = store.shape.hash
        self._relations = {relation.id: relation for relation in relations}
        self._take_snapshot = take_snapshot
        self._shard = shard
        self._read_clauses = read_clauses
        self._clauses: Clauses | None = None
        self._concerning: Concerning = everything
        self._edges: dict[Ref, None] = {}
        self._waiting: dict[Ref, int] = {}
        self._to_notify: dict[Ref, None] = {}
        self._next_index = 0
        self._gone = False
        self._mark: MarkSeen | None = None
        self._mark_seen = asyncio.Event()
        self._narrowing = Narrowing(wire_relations(store.shape, relations))
        self._readers = (
            Readers(store, self._relations, self._narrowing, self.background, self._safe_upto, self._packed)
            if relations
            else None
        )
        self._encoded = 0  # rows since the last pause

    async def init(self) -> None:
        await self._know_clauses()
        clauses = self._clauses
        if clauses is not None and self._shape.one_of is None and clauses.compiled(0):
            self._concerning = Satisfying(clauses)
        if self._store.ready_lsn is None:
            self.background(self._load())
        if self._readers is not None:
            self._readers.fold_if_due()

    async def _know_clauses(self) -> None:
        if self._read_clauses is not None and self._clauses is None:
            self._clauses = await self._read_clauses()

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
            case ReadPage(after, upto, bytes_max, generation):
                if self._readers is None:
                    return self._store.read(after, upto, bytes_max, generation)
                return self._readers.page(message, self.defer)
            case ReadRows(lsn, cursor, whole):
                assert self._readers is not None, "only table shapes have rows"
                return self._readers.ask(lsn, cursor, self.defer, whole=whole)
            case ReadFollowed():
                return bool(self._edges or self._waiting or self._to_notify)
            case CountImage():
                return self._store.image_rows
            case Flush():
                return self._store.flushing()
            case AskHeld(lsn, rows):
                return tuple(await self._held_at(lsn, rows))
            case _:
                raise TypeError(f"a shape does not understand {message!r}")

    async def _held_at(self, lsn: int, rows: Sequence[tuple[int, Row]]) -> Sequence[bool]:
        if self._clauses is None:
            return [relation_id in self._relations for relation_id, _ in rows]
        return await self._until_there(partial(self._clauses.judged, 0, [row for _, row in rows]))

    def concerning(self, pieces: Sequence[Piece | Record], *, at_rest: bool) -> Sequence[Piece | Record]:
        """See ``asleep.Concerning``."""
        return self._concerning(pieces, at_rest=at_rest)

    @property
    def may_sleep(self) -> bool:
        """Whether nobody wants anything of it: it is ready, not in the middle of anything, and nobody follows it."""
        followed = self._edges or self._waiting or self._to_notify
        ready = self._store.ready_lsn is not None and self._store.between_transactions
        return ready and not followed and self.quiet

    def kept(self) -> Kept:
        """To be told to the consumer that follows this one, which falls asleep and has ended with that."""
        if self._concerning is everything:
            return UNKNOWN  # clauses can be made again
        return Kept(self._concerning, self._clauses)

    async def resume(self, kept: Kept) -> None:
        """Before ``init``: what the consumer has ``kept`` that fell asleep. Unlike a start this may wait for Postgres:
        nobody who has its address is to notice."""
        self._clauses = kept.clauses
        await self._until_there(self._know_clauses, "the clauses of %s cannot be read")

    # --- changes in ---------------------------------------------------------------------------------------------------

    async def _append(self, pieces: Sequence[Piece | Record], upto: int) -> None:
        fresh: list[Record] = []
        arrived: list[Record] = []

        async def write() -> None:
            if self._store.segment_full:
                await asyncio.to_thread(self._store.flushing())
            self._store.append(fresh)
            arrived.extend(for_edges(fresh))
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
                    await write()
                    async for deletes in self._deletes(piece.head):
                        await write()
                        fresh.append(await self._record(piece, deletes, truncates=True))
                else:
                    record = await self._kept(piece, rows)
                    if record is not None:
                        fresh.append(record)
            if piece.last and fresh and fresh[-1].lsn == piece.head.lsn:
                fresh[-1].last = True
        await write()
        await self._tell(arrived)
        self._appended(upto)

    async def _kept(self, piece: Piece, rows: Sequence[RowChange]) -> Record | None:
        """What of ``rows``, which are of ``piece``, belongs to the shape; None if that is nothing, and need not be
        said: of a transaction in pieces others may have said something.

        Where devices get some columns only, a row that is deleted and inserted anew must not go in between: it would
        lose what other shapes have said of its other columns.
        """
        clauses = self._clauses
        if clauses is None and not self._narrowing:
            return await self._record(piece, rows)
        (relation,) = self._relations.values()
        kept, gone = await self._until_there(partial(filtered, rows, relation, clauses or NO_CLAUSES))
        if not kept and piece.first and piece.last:
            return None
        record = await self._record(piece, kept)
        record.gone = codec.encode_ops(gone)
        return record

    async def _until_there(self, work: Callable[[], Awaitable[T]], failed: str = "rows of %s cannot be read") -> T:
        """Postgres, or the router, may be away for a while. ``failed``: what is logged then, of a table."""
        delay_s = LOAD_BACKOFF_FIRST_S
        while True:
            try:
                return await work()
            except PASSING as error:
                log.warning(f"{failed}: %s; again in %.1f s", self._shape.table, error, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(LOAD_BACKOFF_MAX_S, delay_s * 2)

    async def _tell(self, arrived: Sequence[Record]) -> None:
        """Those who follow, of what was appended; and a long log is folded."""
        if arrived:
            await tell(self._edges, Arrived(self._hash, tuple(self._narrowing.records(arrived))))
        if self._readers is not None:
            self._readers.fold_if_due()

    def _appended(self, upto: int) -> None:
        # The shard waits for room here; were we to wait for room there, both might wait for ever.
        self._shard.inform(Appended(self._hash, upto))

    async def _record(self, piece: Piece, changes: Sequence[Change], *, truncates: bool = False) -> Record:
        """``changes`` are what the shape has to tell of ``piece``, or some of it."""
        head = piece.head
        index = self._next_index
        self._next_index += 1
        ops = await self._ops_of(changes)
        record = Record(int(head.lsn), head.authored_ms, head.author, index, False, len(changes), ops)
        record.truncates, record.since, record.until = truncates, piece.since, piece.until
        return record

    async def _ops_of(self, changes: Sequence[Change]) -> bytes:
        parts = [await self._encode(changes[at : at + ENCODE_ROWS]) for at in range(0, len(changes), ENCODE_ROWS)]
        return b"".join(parts)

    async def _encode(self, changes: Sequence[Change]) -> bytes:
        self._encoded += len(changes)
        if self._encoded >= ENCODE_ROWS:
            self._encoded = 0
            await asyncio.sleep(0)
        return codec.encode_ops(changes)

    async def _deletes(self, head: TransactionHead) -> AsyncIterator[list[Change]]:
        """Deletes of every row the shape has at this point of the transaction; one empty list if it has none."""
        readers, some = self._readers, False
        if readers is not None and self._store.ready_lsn is not None:
            async for chunk in readers.rows.all(int(head.lsn)):
                for at in range(0, len(chunk.ops), DELETE_ROWS_MAX):
                    inserts = codec.decode_ops(b"".join(chunk.ops[at : at + DELETE_ROWS_MAX]))
                    some = True
                    yield [Delete(row.relation_id, row.row) for row in inserts if isinstance(row, Insert)]
                    await asyncio.sleep(0)  # a large table is a long way
        if not some:
            yield []

    # --- edges and devices -------------------------------------------------------------------------------------------

    def _join(self, edge: Ref, number: int) -> None:
        if self._store.ready_lsn is None:
            self._waiting[edge] = number
            return
        self._edges[edge] = None
        self._tell_rest(edge)
        appended = max(self._store.appended_lsn, self._store.ready_lsn)
        edge.inform(Joined(self._hash, self._store.ready_lsn, appended, number))

    def _tell_rest(self, edge: Ref) -> None:
        """``edge`` follows from now on: what it has to know before it does."""

    async def _safe_upto(self) -> int:
        """No device reads, or will read, at a position below: those who follow have all been sent what is there."""

        upto = self._store.appended_lsn
        for edge in list(self._edges):
            try:
                released = await edge.call(ReadReleased(self._hash), RELEASED_TIMEOUT_S)
            except ActorDown:
                continue
            except CallTimeout:
                return 0
            assert released is None or isinstance(released, int)
            upto = upto if released is None else min(upto, released)
        return upto

    def _packed(self, lsn: int) -> None:
        """Nobody asks any more what was at a position below ``lsn``."""

    def _notify(self) -> None:
        """Tells the devices that asked, once there is something to tell."""
        if self._store.ready_lsn is not None or self._gone:
            told = ShapeGone(self._hash) if self._gone else ShapeReady(self._hash)
            for device in self._to_notify:
                device.inform(told)
            self._to_notify.clear()

    # --- the first snapshot -------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Take the snapshot, again and again until it succeeds."""
        try:
            ready_lsn = await self._until_there(self._load_once, "snapshot of %s failed")
        except TableGone:
            log.warning("the table %s.%s was dropped before it could be read", self._shape.schema, self._shape.table)
            self._gone = True
            self._notify()
            return
        await self._store.finish(self._store.snapshot_at(ready_lsn))
        log.info("shape %s.%s ready: %d rows", self._shape.schema, self._shape.table, self._store.image_rows)
        for edge, number in self._waiting.items():
            self._join(edge, number)
        self._waiting.clear()
        self._notify()

    async def _load_once(self) -> int:
        """The rows of a snapshot are in the image, and the log has what came after; its place."""
        (relation,) = self._relations.values()
        self._store.restart_image()
        clauses = self._clauses
        snapshot = await self._take_snapshot(self._shape, relation, clauses)
        async with contextlib.aclosing(aiter(snapshot)) as chunks:
            async for rows in chunks:
                if clauses is not None and not (snapshot.selected and clauses.sql(0)):
                    rows = await selected(rows, clauses)
                parts = []
                for at in range(0, len(rows), ENCODE_ROWS):
                    parts.append(chunk_of(rows[at : at + ENCODE_ROWS], relation))
                    await asyncio.sleep(0)
                self._store.write_image_chunk(ImageChunk.joined(parts))
        return await self._passed(snapshot.mark)

    async def _passed(self, mark: str) -> int:
        """Returns once the stream has come by ``mark``: where that is."""
        while self._mark is None or self._mark.mark != mark:
            self._mark_seen.clear()
            await self._mark_seen.wait()
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
