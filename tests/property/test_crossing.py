"""Rows cross from host to host as they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.actors.crossing import FORMS, TYPES
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.pgoutput import RelationColumn, RelationMessage
from syncline.actors.postgres.streamed import MigrationNotice, TransactionChunk, TransactionHead, Truncated
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.messages import AskHeld, HeldBelow, Piece
from syncline.actors.shapes.shape import Included, Reference, Shape
from syncline.cluster.wire import Wire, WireError
from syncline.proto.values import Delete, Insert, Update

WIRE = Wire((), FORMS)
ids = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**63 - 1)
rows = st.lists(st.none() | st.binary(max_size=20), max_size=4).map(tuple)
tags = st.lists(st.text(max_size=10), max_size=2).map(tuple)
changes = st.lists(
    st.builds(Insert, ids, rows, tags)
    | st.builds(Update, ids, rows, st.none() | rows, tags)
    | st.builds(Delete, ids, rows, tags)
    | st.builds(Truncated, st.lists(ids, max_size=3).map(tuple)),
    max_size=5,
)
heads = st.builds(
    TransactionHead,
    positions.map(Lsn),
    positions,
    ids,
    st.none() | st.text(max_size=36),
    st.none() | positions,
    st.none() | positions,
    st.booleans(),
)
columns = st.builds(RelationColumn, st.text(max_size=5), ids, st.integers(-1, 2**31 - 1), st.booleans())
relations = st.builds(
    RelationMessage,
    ids,
    st.text(max_size=5),
    st.text(max_size=5),
    st.sampled_from("dnfi"),
    st.lists(columns, max_size=3).map(tuple),
)
chunks = st.builds(
    TransactionChunk,
    heads,
    changes,
    st.booleans(),
    st.booleans(),
    st.lists(st.builds(MigrationNotice, ids, st.text(max_size=14)), max_size=2).map(tuple),
    st.lists(st.text(max_size=20), max_size=2).map(tuple),
    st.lists(relations, max_size=2).map(tuple),
)
pieces = st.builds(Piece, heads, changes, st.booleans(), st.booleans())
records = st.builds(
    Record,
    positions,
    positions,
    st.text(max_size=36),
    ids,
    st.booleans(),
    ids,
    st.binary(max_size=50),
    st.lists(st.binary(max_size=5), max_size=2).map(tuple),
    st.booleans(),
    st.binary(max_size=20),
)
names = st.lists(st.text(max_size=5), max_size=2).map(tuple)
shapes = st.builds(
    Shape,
    st.just("table"),
    st.text(max_size=5),
    st.text(max_size=5),
    ids,
    names,
    where=st.text(max_size=5),
    included=st.lists(st.builds(Included, ids, ids, st.booleans(), names, names, st.text()), max_size=2).map(tuple),
    references=st.lists(st.builds(Reference, ids, names, ids, names), max_size=2).map(tuple),
    others=st.lists(st.tuples(ids, names), max_size=2).map(tuple),
    one_of=st.none() | st.tuples(st.text(max_size=5), names),
)
asked = st.builds(AskHeld, positions, st.lists(st.tuples(ids, rows), max_size=3).map(tuple))
held = st.builds(HeldBelow, st.text(max_size=5), st.none() | positions)


def no_refs(_: Any) -> Any:
    raise AssertionError("no ref was expected")


@given(chunks | pieces | records)
def test_what_arrives_is_what_was_sent(message: object) -> None:
    arrived = WIRE.decode(WIRE.encode((message,), no_refs), no_refs)
    assert arrived == (message,)
    assert type(arrived[0]) is type(message)
    if isinstance(message, TransactionChunk | Piece):
        assert type(arrived[0].head.lsn) is Lsn


@given(shapes | asked | held)
def test_what_is_said_of_shapes_arrives_as_it_was_said(message: object) -> None:
    wire = Wire(TYPES, FORMS)
    arrived = wire.decode(wire.encode((message,), no_refs), no_refs)
    assert arrived == (message,)
    if isinstance(message, Shape):
        assert arrived[0].one_of == message.one_of
        assert arrived[0].hash == message.hash


def test_what_the_stream_cannot_bring_is_refused() -> None:
    head = TransactionHead(Lsn(1), 1, 1)
    with pytest.raises(WireError, match="no str"):
        WIRE.encode(Piece(head, ["text"], first=True, last=True), no_refs)  # type: ignore[list-item]
