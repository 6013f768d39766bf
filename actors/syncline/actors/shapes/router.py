"""The stream's crossing: every transaction goes to the shapes it touches, and to nobody else.

The replicator hands over what arrived together; what goes to a shard goes as one message. A transaction may come in
pieces; a shape that was touched by any piece is told when the transaction ends. Migrations become records of the schema
shapes, one a dialect, so that they reach devices in the order of the stream, before the rows that need them.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from syncline.actors.postgres.absorber import Absorb
from syncline.actors.postgres.absorption import Stretch, Types, direct_changes
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.catalog import TableInfo
from syncline.actors.postgres.flush import RECENT_TRANSACTIONS_MAX
from syncline.actors.postgres.history import MigrationSteps
from syncline.actors.postgres.pgoutput import RelationMessage
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.postgres.streamed import (
    MigrationNotice,
    StreamChange,
    TransactionChunk,
    TransactionHead,
    Truncated,
)
from syncline.actors.postgres.typemap import to_wire, to_wire_by_oid
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.matcher import Matcher
from syncline.actors.shapes.messages import Dispatch, LiveShapes, OwnTransaction, Piece
from syncline.actors.shapes.shape import Shape, schema_shape
from syncline.actors.shapes.shard import DIALECTS
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Actor, Ref
from syncline.proto import codec
from syncline.proto.values import Delete, Insert, Relation, Row, Update

log = logging.getLogger(__name__)

READ_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Streamed:
    """Pieces of transactions in stream order. ``idle_lsn``: besides them the stream holds nothing up to there."""

    chunks: tuple[TransactionChunk, ...]
    idle_lsn: int = 0


@dataclass(frozen=True, slots=True)
class AddRoutes:
    """Call. From now on these shapes, each with the shard it lives in, get their changes. Answer: the xids of the
    transactions streamed lately, which their snapshot must see because the shapes were not sent them; or only the rest
    of the last one, of which a part has passed."""

    routes: tuple[tuple[Shape, str], ...]


@dataclass(frozen=True, slots=True)
class ReadRoutes:
    """Call. Answer: what ``DropRoutes`` is to be told (str): which routes there are by now."""


@dataclass(frozen=True, slots=True)
class DropRoutes:
    """Call. These shapes have been removed, and get no changes any more; but for those that have been added since
    ``known``, the answer to ``ReadRoutes``: they are new ones. Answer: None."""

    shapes: tuple[Shape, ...]
    known: str


@dataclass(frozen=True, slots=True)
class ShownUpTo:
    """Call. Whether it is known that a snapshot of this ``visibility`` sees every transaction that was streamed lately
    and lies at or below ``lsn``, which the stream has passed. Answer: bool."""

    visibility: Visibility
    lsn: int


def new_mark(shape: Shape) -> str:
    """A mark for a snapshot of ``shape``. It names the shape, so that whichever router meets it knows who waits."""
    return f"{shape.hash}:{uuid.uuid4().hex}"


ReadMigrations = Callable[[Sequence[MigrationNotice]], Awaitable[Sequence[MigrationSteps]]]


TableOf = Callable[[int], TableInfo | None]


Projection = tuple[int | None, ...]


def project(change: StreamChange, places: Projection) -> StreamChange:
    """``change`` with its rows in the order of ``places``; a column that is not there is NULL."""

    def row_of(row: Row) -> Row:
        return tuple(None if place is None else row[place] for place in places)

    match change:
        case Insert():
            return replace(change, row=row_of(change.row))
        case Update():
            old_row = None if change.old_row is None else row_of(change.old_row)
            return replace(change, row=row_of(change.row), old_row=old_row)
        case Delete():
            return replace(change, old_row=row_of(change.old_row))
        case _:
            return change


class Router(Actor):
    """``read_migrations`` brings the catalogue up to the given notices and returns what they do to a device.

    ``table_of``: a synced table as the catalogue has it now. ``absorber``: gets what direct SQL did.
    """

    def __init__(self, read_migrations: ReadMigrations, table_of: TableOf, shards: Shards, absorber: Ref) -> None:
        self._shards = shards
        self._absorber = absorber
        self._table_of = table_of
        self._streamed: dict[int, RelationMessage] = {}
        self._odd: dict[int, Projection] | None = None  # None: to be worked out, and the types with it
        self._types: Types = {}
        self._read_migrations = read_migrations
        self._matcher = Matcher((), self._relation_of)
        self._life = uuid.uuid4().hex
        self._additions = 0
        self._added: dict[str, int] = {}  # shape -> the number of its last addition
        self._recent: deque[tuple[int, int]] = deque(maxlen=RECENT_TRANSACTIONS_MAX)  # (LSN, xid)
        # Of the transaction that is passing: its xid, the shapes it has touched, and the number of its migrations.
        self._passing: int | None = None
        self._open: dict[str, None] = {}
        self._migrations = 0
        self._place = 0  # how many changes of it have passed
        self._upto = 0

    async def init(self) -> None:
        shapes: list[Shape] = []
        for name, shard in self._shards.refs.items():
            live = await shard.call(LiveShapes())
            for shape in live:
                self._shards.note(shape.hash, name)
            shapes += live
        self._matcher = Matcher(shapes, self._relation_of)

    async def handle_call(self, message: object) -> object:
        match message:
            case AddRoutes(routes):
                for shape, shard in routes:
                    self._shards.note(shape.hash, shard)
                    self._matcher.add(shape)
                    self._additions += 1
                    self._added[shape.hash] = self._additions
                passing = () if self._passing is None else (self._passing,)
                return (*(xid for _, xid in self._recent), *passing)
            case ReadRoutes():
                return f"{self._life}:{self._additions}"
            case DropRoutes(shapes, known):
                self._drop(shapes, known)
                return None
            case ShownUpTo(visibility, lsn):
                # A router that has started again does not know yet what was streamed before it.
                return lsn <= self._upto and visibility.sees_all(xid for at, xid in self._recent if at <= lsn)
            case _:
                raise TypeError(f"the router does not understand {message!r}")

    def _drop(self, shapes: Sequence[Shape], known: str) -> None:
        life, _, additions = known.partition(":")
        if life != self._life:
            return  # a router that has started again has asked what there is
        for shape in shapes:
            if self._added.get(shape.hash, 0) <= int(additions):
                self._added.pop(shape.hash, None)
                self._matcher.remove(shape)
                self._shards.forget(shape.hash)

    async def handle_cast(self, message: object) -> None:
        match message:
            case Streamed(chunks, idle_lsn):
                dispatch, absorb = await self._route(chunks, idle_lsn)
                if dispatch is not None:
                    await self._send(dispatch)
                if absorb is not None:
                    await self._absorber.send(absorb)
            case _:
                raise TypeError(f"the router does not understand {message!r}")

    async def _send(self, dispatch: Dispatch) -> None:
        """To every shard, also one that has none of its shapes: how far the stream has come concerns them all."""
        entries = self._shards.split(dispatch.entries)
        for name, shard in self._shards.refs.items():
            marks = tuple(mark for mark in dispatch.marks if self._shards.home(mark[0]) == name)
            await shard.send(replace(dispatch, entries=entries[name], marks=marks))

    async def _route(self, chunks: Sequence[TransactionChunk], idle_lsn: int) -> tuple[Dispatch | None, Absorb | None]:
        """What the shards get, and what the absorber gets; None where there is nothing new."""
        heads: list[TransactionHead] = []
        direct: list[Stretch] = []
        entries: dict[str, list[Piece | Record]] = {}
        own: list[OwnTransaction] = []
        marks: list[tuple[str, str, int]] = []
        before = self._upto
        for chunk in chunks:
            head = chunk.head
            self._passing = None if chunk.last else head.xid
            if chunk.first:
                self._open.clear()
                self._migrations = self._place = 0
            if chunk.relations:
                await self._learn(chunk.relations)
                self._odd = None
            if chunk.migrations:
                await self._add_migrations(head, chunk.migrations, entries)
                self._odd = None
            changes = self._as_catalogued(chunk.changes)
            place = self._place
            self._split(chunk, changes, entries)
            not_of_devices = tuple(direct_changes(chunk, changes))
            if not_of_devices:
                direct.append(Stretch(head, place, not_of_devices, self._types))
            marks += [(mark.partition(":")[0], mark, int(head.lsn)) for mark in chunk.marks]
            if not chunk.last:
                continue
            self._end_migrations(head, entries)
            if head.origin is not None and not head.unheeded:
                own.append(OwnTransaction(int(head.lsn), head.origin, head.authored_ms))
            heads.append(head)
            self._recent.append((int(head.lsn), head.xid))
            self._upto = int(head.lsn)
        self._upto = max(self._upto, idle_lsn)
        dispatch = absorb = None
        if direct or self._upto > before:
            absorb = Absorb(tuple(heads), tuple(direct), self._upto)
        if entries or marks or self._upto > before:
            pieces = {shape: tuple(found) for shape, found in entries.items()}
            dispatch = Dispatch(self._upto, pieces, tuple(own), tuple(marks))
        return dispatch, absorb

    def _split(
        self, chunk: TransactionChunk, changes: Sequence[StreamChange], entries: dict[str, list[Piece | Record]]
    ) -> None:
        """The ``changes`` of ``chunk``, to the shapes that they touch."""
        head = chunk.head
        runs = _runs(changes)
        for number, run in enumerate(runs, 1):
            last = chunk.last and number == len(runs)
            touched: Mapping[str, Sequence[StreamChange]] = self._matcher.split(run)
            since, self._place = self._place, self._place + len(run)
            if last:
                touched = {**touched, **dict.fromkeys(self._open.keys() - touched.keys(), ())}
            for shape, changes in touched.items():
                piece = Piece(head, changes, shape not in self._open, last, since, self._place)
                entries.setdefault(shape, []).append(piece)
            self._open.update(dict.fromkeys(touched))

    def _relation_of(self, relation_id: int) -> Relation | None:
        table = self._table_of(relation_id)
        return None if table is None else table.relation

    async def _learn(self, relations: Sequence[RelationMessage]) -> None:
        """Definitions have come. Of a table that has been altered the catalogue knows more when it is read anew."""
        self._streamed.update((relation.oid, relation) for relation in relations)
        tables = [(self._table_of(relation.oid), relation) for relation in relations]
        if any(table is not None and _altered(table, relation) for table, relation in tables):
            await self._read(())

    async def _read(self, notices: Sequence[MigrationNotice]) -> Sequence[MigrationSteps]:
        while True:
            try:
                return await self._read_migrations(notices)
            except AWAY as error:
                log.warning("the catalogue could not be read, which the stream waits for: %s", error)
                await asyncio.sleep(READ_RETRY_S)

    def _as_catalogued(self, changes: Sequence[StreamChange]) -> Sequence[StreamChange]:
        """``changes`` in the catalogue's columns: a column nobody told devices of may have come or gone meanwhile."""
        if self._odd is None:
            self._odd, self._types = self._places()
        if not self._odd:
            return changes
        return [
            project(change, self._odd[change.relation_id])
            if not isinstance(change, Truncated) and change.relation_id in self._odd
            else change
            for change in changes
        ]

    def _places(self) -> tuple[dict[int, Projection], Types]:
        """Of the tables whose rows come in other columns than the catalogue's, where these are. And the types."""
        odd: dict[int, Projection] = {}
        types: dict[int, tuple[int, ...]] = {}
        for relation_id, streamed in self._streamed.items():
            table = self._table_of(relation_id)
            if table is not None:
                places = table.places(streamed.names)
                types[relation_id] = tuple(0 if at is None else streamed.columns[at].type_oid for at in places)
                if streamed.names != table.relation.names:
                    odd[relation_id] = places
        return odd, types

    async def _add_migrations(
        self, head: TransactionHead, notices: Sequence[MigrationNotice], entries: dict[str, list[Piece | Record]]
    ) -> None:
        for steps in await self._read(notices):
            log.info("migration %s: %s", steps.version, ", ".join(relation.table for relation in steps.relations))
            prelude = tuple(codec.relation_message(relation) for relation in steps.relations)
            for dialect in DIALECTS:
                changes = steps.steps[dialect]
                ops = codec.encode_ops(changes)
                record = _record(head, self._migrations, len(changes), ops, prelude)
                record.since = record.until = self._place
                entries.setdefault(schema_shape(dialect).hash, []).append(record)
            self._migrations += 1

    def _end_migrations(self, head: TransactionHead, entries: dict[str, list[Piece | Record]]) -> None:
        """The transaction ends, and with it the schema shapes' part of it, if there is one."""
        if not self._migrations:
            return
        for dialect in DIALECTS:
            records = entries.setdefault(schema_shape(dialect).hash, [])
            newest = records[-1] if records else None
            if isinstance(newest, Record) and newest.lsn == head.lsn:
                records[-1] = replace(newest, last=True)
            else:
                place = self._place
                records.append(replace(_record(head, self._migrations), last=True, since=place, until=place))


def _altered(table: TableInfo, streamed: RelationMessage) -> bool:
    """Whether the stream has no longer the key that the catalogue has, or spells values by other types."""
    return table.key_places(streamed.names) is None or any(
        to_wire_by_oid(column.type_oid) is not to_wire(table.type_now(column.name))
        for column in streamed.columns
        if column.name in table.types
    )


def _runs(changes: Sequence[StreamChange]) -> list[Sequence[StreamChange]]:
    """``changes`` cut before and behind every TRUNCATE, at least one run. What a shape nets must not span one: it would
    say that a row has gone, and no more of one that came anew and is not its."""
    runs: list[Sequence[StreamChange]] = []
    start = 0
    for place, change in enumerate(changes):
        if isinstance(change, Truncated):
            runs += [run for run in (changes[start:place], (change,)) if run]
            start = place + 1
    if start < len(changes) or not runs:
        runs.append(changes[start:])
    return runs


def _record(
    head: TransactionHead, index: int, rows: int = 0, ops: bytes = b"", prelude: tuple[bytes, ...] = ()
) -> Record:
    return Record(int(head.lsn), head.authored_ms, head.author, index, False, rows, ops, prelude)
