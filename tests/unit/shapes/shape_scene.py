"""A table, its transactions and its shape, for tests of the actors between the stream and the devices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.streamed import StreamChange, TransactionChunk, TransactionHead, Truncated
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import Piece
from syncline.actors.shapes.shape import Shape
from syncline.proto import codec
from syncline.proto.values import Column, Delete, Insert, Relation, Row

ITEMS = Relation(7, "public", "items", (Column("id", "int8", True), Column("body", "text", nullable=True)))
SHAPE = Shape("table", "public", "items", ITEMS.id, ITEMS.names)
TRUNCATED = Truncated((ITEMS.id,))


def row(id: int, body: str = "") -> Row:
    return (b"%d" % id, body.encode())


def insert(id: int, body: str = "", relation: Relation = ITEMS) -> Insert:
    return Insert(relation.id, row(id, body), ("postgres_1@1",))


def head(lsn: int, origin: str | None = None, xid: int = 0) -> TransactionHead:
    return TransactionHead(Lsn(lsn), lsn, xid or lsn, origin)


def piece(lsn: int, *changes: StreamChange, first: bool = True, last: bool = True) -> Piece:
    return Piece(head(lsn), changes, first, last)


def chunk(
    lsn: int,
    *changes: StreamChange,
    first: bool = True,
    last: bool = True,
    origin: str | None = None,
    marks: tuple[str, ...] = (),
) -> TransactionChunk:
    return TransactionChunk(head(lsn, origin), list(changes), first, last, marks=marks)


def ids(records: Sequence[Record], kind: type = Insert) -> list[int]:
    """The first columns of what ``records`` insert (or delete), in order."""
    found = []
    for record in records:
        for change in codec.decode_ops(record.ops):
            if isinstance(change, kind):
                cells = change.old_row if isinstance(change, Delete) else change.row  # type: ignore[union-attr]
                found.append(int(cells[0] or b""))
    return found


class FakeSnapshot:
    """Some rows, whose place in the stream is the passing of ``mark``."""

    selected = True

    def __init__(self, mark: str, *rows: Row) -> None:
        self.mark = mark
        self._rows = rows

    async def __aiter__(self) -> AsyncGenerator[list[tuple[Row, tuple[str, ...]]], None]:
        if self._rows:
            yield [(row, ("postgres_1@0",)) for row in self._rows]
