"""A database, its logs and bundles as plain lists, and a device that believes nothing: what ``Outbound`` is played
against.

Every transaction inserts one row, named by its LSN, into each table it touches. So what a device holds of a table can
be compared with what it must hold at its position: a row missing, sent twice or sent too early shows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from syncline.actors.devices.steps import Subscriptions
from syncline.actors.shapes.frames import Frame, begin_of, lsn_bytes
from syncline.actors.shapes.image import THE_END, ImageChunk
from syncline.proto import codec
from syncline.proto import satellite_pb2 as pb
from syncline.proto.codec import MessageType
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import POSTGRES_ORIGIN, Column, Gone, Insert, Relation

ME = "device"
SCHEMA = "schema"
TABLES = {name: Relation(oid, "public", name, (Column("id", "int8", True),)) for oid, name in enumerate("abc", 1)}
FIRST_LSN = 10_000_000
MIGRATION_IDS = 1_000
IMAGE_ROWS = 2


@dataclass(frozen=True)
class Committed:
    """``touches``: names of tables, or ``SCHEMA`` for a migration. ``large``: beyond the live path."""

    lsn: int
    touches: frozenset[str]
    mine: bool
    large: bool

    @property
    def origin(self) -> str:
        return ME if self.mine else POSTGRES_ORIGIN

    @property
    def commit_ms(self) -> int:
        return self.lsn + 7


@dataclass
class World:
    """``released``: how far the watermark has come. ``resting``: shapes that stay behind it, and where."""

    transactions: list[Committed] = field(default_factory=list)
    released: int = FIRST_LSN
    resting: dict[str, int] = field(default_factory=dict)

    def upto(self, shapes: Iterable[str]) -> int:
        """How far the bundle of ``shapes`` has come."""
        return min([self.released, *(self.resting[shape] for shape in self.resting.keys() & set(shapes))])

    def commit(self, touches: Iterable[str], *, mine: bool = False, large: bool = False) -> None:
        last = self.transactions[-1].lsn if self.transactions else FIRST_LSN
        self.transactions.append(Committed(last + 10, frozenset(touches), mine, large))

    def between(self, after: int, upto: int) -> list[Committed]:
        return [tx for tx in self.transactions if after < tx.lsn <= upto]

    def rows(self, table: str, upto: int) -> set[int]:
        """What is in ``table`` at LSN ``upto``."""
        return {tx.lsn for tx in self.transactions if table in tx.touches and tx.lsn <= upto}

    def live(self, shapes: frozenset[str], after: int, upto: int) -> tuple[Frame, ...]:
        """What the bundle of ``shapes`` releases."""
        frames = []
        for tx in self.between(after, upto):
            touched = sorted(tx.touches & shapes)
            if touched:
                (frame,) = pieces(tx, [touched])
                frames.append(Frame(tx.lsn, tx.commit_ms, tx.origin, None) if tx.large else frame)
        return tuple(frames)

    def logged(self, shapes: frozenset[str], after: int, upto: int) -> list[Frame]:
        """What the logs of ``shapes`` hold; every shape's part of a large transaction is a piece of its own."""
        frames: list[Frame] = []
        for tx in self.between(after, upto):
            touched = sorted(shape for shape in tx.touches & shapes if tx.lsn <= self.upto({shape}))
            if touched:
                frames += pieces(tx, [[shape] for shape in touched] if tx.large else [touched])
        return frames

    def image(self, table: str, lsn: int, cursor: int) -> tuple[ImageChunk | None, int]:
        every = sorted(self.rows(table, lsn))
        rows = every[cursor * IMAGE_ROWS : (cursor + 1) * IMAGE_ROWS]
        if not rows:
            return None, THE_END
        ops = tuple(codec.encode_ops((Insert(TABLES[table].id, (b"%d" % row,), ("postgres_1@0",)),)) for row in rows)
        return ImageChunk(tuple(b"%d" % row for row in rows), ops), cursor + 1 if (cursor + 1) * IMAGE_ROWS < len(
            every
        ) else THE_END


def pieces(tx: Committed, parts: Sequence[Sequence[str]]) -> list[Frame]:
    frames = []
    for number, part in enumerate(parts):
        starts, ends = number == 0, number == len(parts) - 1
        inserts = [Insert(TABLES[shape].id, (b"%d" % tx.lsn,), ()) for shape in part if shape != SCHEMA]
        prelude = (codec.relation_message(migrated(tx)),) if SCHEMA in part else ()
        body = codec.encode_ops(inserts)
        if starts:
            body = begin_of(tx.lsn, tx.commit_ms, tx.origin) + body
        if ends:
            body += codec.encode_commit(tx.commit_ms, lsn_bytes(tx.lsn))
        frames.append(Frame(tx.lsn, tx.commit_ms, tx.origin, body, starts, ends, prelude))
    return frames


def migrated(tx: Committed) -> Relation:
    """What a migration announces ahead of itself."""
    return Relation(MIGRATION_IDS + tx.lsn, "public", f"t{tx.lsn}", (Column("id", "int8", True),))


class Device:
    """Takes messages and fails on the first that it should not have been sent."""

    def __init__(self, world: World, position: int, subscriptions: Subscriptions, window: int) -> None:
        self.world = world
        self.position = position
        self.subscriptions = dict(subscriptions)
        self.rows = {table: world.rows(table, position) for table in self.held}
        self.window = window
        self.unacked: list[int] = []
        self.echoed: list[int] = []
        self.expected_echoes: list[tuple[int, int]] = []  # (LSN, ms) of own transactions that must come back in place
        self.known: set[int] = set()  # relation ids
        self._inside: str | None = None  # "transaction", "delivery", "shape" or "leaving"
        self._begin: Begin | None = None
        self._arriving: str = ""
        self._leaving: tuple[str, ...] = ()
        self._fresh: dict[str, set[int]] = {}
        self._missing_requests: set[str] = set()
        self.requests: dict[str, dict[str, tuple[str, ...]]] = {}  # asked for: by subscription, by request id
        self.unsubscribed: list[tuple[str, ...]] = []  # batches that are owed

    @property
    def held(self) -> set[str]:
        return {shape for shapes in self.subscriptions.values() for shape in shapes}

    @property
    def stays(self) -> set[str]:
        """What it holds but for what it is being told the leaving of: such rows go one by one."""
        leaving = self._leaving if self._inside == "leaving" else ()
        return {shape for id, shapes in self.subscriptions.items() if id not in leaving for shape in shapes}

    def receive(self, message: bytes) -> None:
        if message[:1] == b"\x09":
            for op in codec.decode_ops(message[1:]):
                self._operation(op)
            return
        kind, body = codec.decode(message)
        match kind:
            case MessageType.RELATION:
                self.known.add(codec.expect(pb.SatRelation, body).relation_id)
            case MessageType.SUBS_DATA_BEGIN:
                self._enter("delivery")
                begin = codec.expect(pb.SatSubsDataBegin, body)
                self._arriving, self._missing_requests = (
                    begin.subscription_id,
                    set(self.requests[begin.subscription_id]),
                )
                self._move(int(begin.lsn))
                self._fresh = {}
            case MessageType.SHAPE_DATA_BEGIN:
                assert self._inside == "delivery"
                self._inside = "shape"
                self._missing_requests.remove(codec.expect(pb.SatShapeDataBegin, body).request_id)
            case MessageType.SHAPE_DATA_END:
                assert self._inside == "shape"
                self._inside = "delivery"
            case MessageType.SUBS_DATA_END:
                assert self._inside == "delivery"
                assert not self._missing_requests
                shapes = [shape for needed in self.requests.pop(self._arriving).values() for shape in needed]
                self.subscriptions[self._arriving] = dict.fromkeys(shapes)
                self.rows.update({shape: self._fresh.get(shape, set()) for shape in shapes if shape not in self.rows})
                self._leave()
            case MessageType.UNSUBS_DATA_BEGIN:
                self._enter("leaving")
                gone = codec.expect(pb.SatUnsubsDataBegin, body)
                self._leaving = tuple(gone.subscription_ids)
                self._move(int(gone.lsn))
            case MessageType.UNSUBS_DATA_END:
                assert self._inside == "leaving"
                self.unsubscribed.remove(self._leaving)
                for subscription_id in self._leaving:
                    self.subscriptions.pop(subscription_id, None)
                for table in self.rows.keys() - self.held:
                    assert not self.rows.pop(table), "rows that no subscription holds are taken away"
                self._leave()
            case _:
                raise AssertionError(kind)

    def _operation(self, op: object) -> None:
        match op:
            case Begin():
                self._enter("transaction")
                self._begin = op
                assert op.transaction_id is not None
                self.unacked.append(op.transaction_id)
                assert len(self.unacked) <= self.window, "the window is exceeded"
                self._expect_echoes_before(op)
            case Commit():
                assert self._inside == "transaction"
                assert self._begin is not None
                if self._begin.origin == ME:
                    self._echo(self._begin.commit_ms)
                streamed = self._begin.transaction_id == int(op.lsn)
                for tx in self.world.between(int(op.lsn) - 1, int(op.lsn)) if streamed else ():
                    assert SCHEMA not in tx.touches or migrated(tx).id in self.known, "a migration before its relation"
                self._leave()
            case Insert(relation_id, (row,), _):
                table = self._table(relation_id)
                if self._inside == "shape":
                    assert table not in self.rows, "rows of a shape that is held already"
                    assert int(row or 0) not in self._fresh.setdefault(table, set())
                    self._fresh[table].add(int(row or 0))
                else:
                    assert self._inside == "transaction"
                    assert self._begin is not None
                    assert row == self._begin.lsn
                    assert int(row or 0) not in self.rows[table], "a transaction came twice"
                    self.rows[table].add(int(row or 0))
            case Gone(relation_id, (row,)):
                assert self._inside == "leaving"
                self.rows[self._table(relation_id)].remove(int(row or 0))
            case _:
                raise AssertionError(op)

    def _table(self, relation_id: int) -> str:
        assert relation_id in self.known, "rows before their relation"
        return next(name for name, relation in TABLES.items() if relation.id == relation_id)

    def _expect_echoes_before(self, begin: Begin) -> None:
        lsn = int(begin.lsn)
        if begin.transaction_id != lsn:
            return  # not a transaction of the stream
        assert lsn > self.position, "the stream goes back"
        missing = [(at, ms) for at, ms in self.expected_echoes if at < lsn and ms not in self.echoed]
        assert not missing, f"echoes that belong before {lsn}: {missing}"
        self._move(lsn)

    def _echo(self, ms: int) -> None:
        assert ms not in self.echoed, "an echo came twice"
        self.echoed.append(ms)

    def _enter(self, state: str) -> None:
        assert self._inside is None, f"{state} in the middle of a {self._inside}"
        self._inside = state

    def _move(self, lsn: int) -> None:
        assert lsn >= self.position
        self.position = lsn

    def _leave(self) -> None:
        self._inside = None
        for table in self.rows:
            assert self.rows[table] == self.world.rows(table, self.position), f"{table} at {self.position}"
