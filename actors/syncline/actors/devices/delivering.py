"""What a delivery is made of: the rows of a new subscription that arrive, or those of an ended one that leave. Pure.

``outbound`` decides when one is made, and as of which LSN. Shapes may have rows in common: what is there already does
not arrive, and what another shape holds does not leave.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from syncline.actors.devices.layers import Layers, Named
from syncline.actors.devices.overlaps import fewer_columns, holding
from syncline.actors.devices.steps import (
    MESSAGE_BYTES,
    CountRows,
    Delivery,
    ReadImage,
    Send,
    Shapes,
    Step,
    Steps,
)
from syncline.actors.shapes.frames import lsn_bytes
from syncline.actors.shapes.image import THE_END, ImageChunk
from syncline.actors.shapes.projection import columns_of, forgotten, lost
from syncline.proto import codec
from syncline.proto.values import Change, Gone, Insert, Relation


def arriving(
    delivery: Delivery, there: Layers, at: int, named: Callable[[str], Named | None], *, estimating: bool
) -> Steps:
    """The rows of ``delivery`` as of ``at``, of the shapes that are not ``there`` yet, and are then. ``named``: by what
    the rows of a shape are known. ``estimating``: the device is told about how many there are."""
    return _together(_arriving(delivery, there, at, named, estimating=estimating))


def _together(steps: Steps) -> Steps:
    """``steps`` that send their messages several at a time, where these are small."""
    gathered: list[bytes] = []
    size = 0
    answer: object = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration:
            if gathered:
                yield Send(tuple(gathered))
            return
        answer = None
        if not isinstance(step, Send):
            answer = yield step
            continue
        gathered += step.messages
        size += sum(map(len, step.messages))
        if size >= MESSAGE_BYTES:
            yield Send(tuple(gathered))
            gathered.clear()
            size = 0


def _arriving(
    delivery: Delivery, there: Layers, at: int, named: Callable[[str], Named | None], *, estimating: bool
) -> Steps:
    # The relations go out again each time: read in one chunk with the subscribe answer, the npm client would
    # otherwise start on the data before it knows the subscription.
    shapes = dict.fromkeys(shape for _, requested in delivery.requests for shape in requested)
    relations = {relation.id: relation for shape in shapes for relation in delivery.shapes[shape]}
    estimate: int | None = None
    if estimating:
        answer = yield CountRows(tuple(shape for shape in shapes if shape not in there))
        assert isinstance(answer, int)
        estimate = answer
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations.values()),
            codec.subs_data_begin(delivery.subscription_ids[0], lsn_bytes(at), estimate),
        )
    )
    for request_id, requested in delivery.requests:
        yield Send((codec.shape_data_begin(request_id),))
        for shape in requested:
            if shape not in there:
                yield from _image(shape, at, delivery.shapes[shape], there, named(shape))
                there.add(shape, delivery.shapes[shape])
        yield Send((codec.shape_data_end(),))
    yield Send((codec.subs_data_end(),))


def leaving(delivery: Delivery, shapes: Shapes, staying: Shapes, at: int) -> Steps:
    """That the rows of ``shapes`` go away with ``delivery``, as they are as of ``at``, but for those of ``staying``."""
    relations = {relation.id: relation for of_shape in shapes.values() for relation in of_shape}
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations.values()),
            codec.unsubs_data_begin(delivery.subscription_ids, lsn_bytes(at)),
        )
    )
    others = Layers(staying)
    for shape, of_shape in shapes.items():
        by_table = {relation.table_id: relation for relation in of_shape}
        cursor = 0
        while cursor != THE_END and of_shape:
            chunk, cursor = yield from read_chunk(shape, at, cursor, whole=True)
            if chunk is None:
                break
            inserts = _inserts(chunk)
            held = yield from held_by(inserts, others, at)
            gone = [
                _gone(by_table[insert.relation_id], insert) for insert, by in zip(inserts, held, strict=True) if not by
            ]
            if gone:
                yield Send((codec.oplog_message(codec.encode_ops(gone)),))
    yield Send((codec.unsubs_data_end(),))


def narrowing(shapes: Shapes, staying: Shapes, at: int, send: Callable[[tuple[Change, ...]], Steps]) -> Steps:
    """That rows of ``shapes``, which are about to leave, stay because of ``staying`` with fewer columns."""
    others = Layers(staying)
    for shape, of_shape in shapes.items():
        by_table = {relation.table_id: relation for relation in of_shape}
        cursor = 0
        while cursor != THE_END and any(_lacks(relation, others) for relation in of_shape):
            chunk, cursor = yield from read_chunk(shape, at, cursor, whole=True)
            if chunk is None:
                break
            inserts = _inserts(chunk)
            held = yield from held_by(inserts, others, at)
            less = fewer_columns(by_table, inserts, held)
            if less:
                relations = {relation.id: relation for relation, _ in less}
                yield Send(tuple(map(codec.relation_message, relations.values())))
                yield from send(tuple(forgotten(relation, key) for relation, key in less))


def _lacks(relation: Relation, others: Layers) -> bool:
    """Whether any of ``others`` has rows of the table without all columns of ``relation``."""
    return any(lost(relation, one.names) is not None for one in others.relations(relation.table_id))


def _image(shape: str, at: int, of_shape: tuple[Relation, ...], others: Layers, named: Named | None) -> Steps:
    by_table = {relation.table_id: relation for relation in of_shape}
    shared = others.may_share(of_shape, named)
    cursor = 0
    while cursor != THE_END:
        chunk, cursor = yield from read_chunk(shape, at, cursor, whole=shared)
        if chunk is None:
            return
        ops: Sequence[bytes] = chunk.ops
        if shared:
            inserts = _inserts(chunk)
            held = yield from held_by(inserts, others, at)
            fresh = [
                Insert(relation.id, relation.narrowed(insert.row), insert.tags)
                for insert, by in zip(inserts, held, strict=True)
                if lost(relation := by_table[insert.relation_id], columns_of(by)) is not None
            ]
            ops = [codec.encode_ops(fresh)] if fresh else ()
        if ops:
            yield Send((codec.oplog_message(*ops),))


def read_chunk(
    shape: str, at: int, cursor: int, *, whole: bool
) -> Generator[Step, object, tuple[ImageChunk | None, int]]:
    """The rows of ``shape`` as of ``at`` from ``cursor`` on, some of them, and the next cursor; None for no rows.
    ``whole``: with all columns of their tables."""
    answer = yield ReadImage(shape, at, cursor, whole)
    assert isinstance(answer, tuple)
    return answer


def held_by(
    inserts: Sequence[Insert], others: Layers, at: int
) -> Generator[Step, object, Sequence[tuple[Relation, ...]]]:
    """By which relations of ``others`` a device has these rows, which are whole."""
    return (yield from holding(others, at, [(insert.relation_id, insert.row) for insert in inserts]))


def _inserts(chunk: ImageChunk) -> list[Insert]:
    return [change for change in codec.decode_ops(b"".join(chunk.ops)) if isinstance(change, Insert)]


def _gone(relation: Relation, insert: Insert) -> Gone:
    return Gone(relation.id, relation.key_row(relation.whole.key_of(insert.row)))
