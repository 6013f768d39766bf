"""Some columns of a table: as which relation devices get them, and what becomes of rows on the way there."""

from __future__ import annotations

from dataclasses import replace

from syncline.actors.shapes.image import chunk_of
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.projection import Narrowing, clash, forgotten, lost, projection, wire_relations
from syncline.actors.shapes.shape import Shape
from syncline.proto import codec
from syncline.proto.subprotocols import LEAVING_ID_FIRST
from syncline.proto.values import Column, Delete, Gone, Insert, Relation, Update

TABLE = Relation(
    70,
    "public",
    "t",
    (
        Column("a", "text"),
        Column("id", "int4", primary_key=True, nullable=False),
        Column("b", "text"),
        Column("c", "text"),
    ),
)
ROW = (b"a", b"1", b"b", b"c")
SHAPE = Shape("table", "public", "t", 70, TABLE.names)


def test_a_projection_has_the_key_and_an_id_that_follows_from_its_columns() -> None:
    some = projection(TABLE, frozenset("c"))
    assert some.names == ("id", "c")
    assert (some.table_id, some.whole, some.table) == (70, TABLE, "t")
    assert some.narrowed(ROW) == (b"1", b"c")
    assert some.key_of(some.narrowed(ROW)) == TABLE.key_of(ROW)
    assert 1 << 31 <= some.id < 1 << 32
    assert projection(TABLE, frozenset({"c", "id"})) == some
    other = projection(replace(TABLE, id=71), frozenset("c"))
    assert len({some.id, projection(TABLE, frozenset("b")).id, other.id, TABLE.id}) == 4


def test_all_columns_are_the_table_itself() -> None:
    assert projection(TABLE, frozenset("abc")) is TABLE
    assert (TABLE.table_id, TABLE.whole, TABLE.narrowed(ROW)) == (70, TABLE, ROW)


def test_a_shape_that_names_columns_has_a_hash_of_its_own_and_others_keep_theirs() -> None:
    some = replace(SHAPE, projected=((70, ("id", "c")),))
    assert some.hash != SHAPE.hash
    assert Shape.from_json(some.to_json()) == some
    assert wire_relations(some, (TABLE,)) == (projection(TABLE, frozenset("c")),)
    assert wire_relations(SHAPE, (TABLE,)) == (TABLE,)


def test_relations_of_a_device_that_share_an_id_are_found() -> None:
    some = projection(TABLE, frozenset("c"))
    assert clash((TABLE, some, some, projection(TABLE, frozenset("b")))) is None
    pretender = replace(some, columns=TABLE.columns[:2])
    assert clash((some, pretender)) == (some, pretender)


def test_what_leaves_a_shape_is_narrowed_and_the_rows_that_others_judge_are_not() -> None:
    some = projection(TABLE, frozenset("c"))
    narrowing = Narrowing((some,))
    changes = (
        Insert(70, ROW, ("tag",)),
        Update(70, ROW, (b"x", b"1", b"y", b"z"), ("tag",)),
        Delete(70, ROW),
        Gone(70, TABLE.key_row((b"1",))),
        Insert(99, ROW),
    )
    gone = codec.encode_ops((Insert(70, ROW),))
    record = Record(5, 1, "o", 0, True, len(changes), codec.encode_ops(changes), gone=gone)
    narrowed = narrowing.record(record)
    assert list(codec.decode_changes(narrowed.ops)) == [
        Insert(some.id, (b"1", b"c"), ("tag",)),
        Update(some.id, (b"1", b"c"), (b"1", b"z"), ("tag",)),
        Delete(some.id, (b"1", b"c")),
        Gone(some.id, (b"1", None)),
        Insert(99, ROW),
    ]
    assert replace(narrowed, ops=record.ops) == record
    chunk = chunk_of([(ROW, ("tag",)), (ROW, ())], TABLE)
    ops = [list(codec.decode_changes(op)) for op in narrowing.chunk(chunk).ops]
    assert ops == [[Insert(some.id, (b"1", b"c"), ("tag",))], [Insert(some.id, (b"1", b"c"))]]
    assert not Narrowing((TABLE,))


def test_of_a_row_that_stays_with_others_those_columns_leave_that_nobody_else_has() -> None:
    some = projection(TABLE, frozenset("bc"))
    assert lost(some, {"id", "b", "c"}) is None
    less = lost(some, {"id", "a", "b"})
    assert less is not None
    assert less.names == ("id", "c")
    assert less.id >= LEAVING_ID_FIRST > projection(TABLE, frozenset("c")).id
    assert lost(some, ()) is some
    assert forgotten(less, (b"1",)) == Update(less.id, (b"1", None), None)
