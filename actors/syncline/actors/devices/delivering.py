"""What a delivery is made of: the rows of a new subscription that arrive, or those of an ended one that leave. Pure.

``outbound`` decides when one is made, and as of which LSN. Shapes may have rows in common: what is there already does
not arrive, and what another shape holds does not leave.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from syncline.actors.devices.overlaps import sharing
from syncline.actors.devices.steps import AnyHolds, CountRows, Delivery, ReadImage, Send, Shapes, Step, Steps
from syncline.actors.shapes.frames import lsn_bytes
from syncline.actors.shapes.image import ImageChunk
from syncline.proto import codec
from syncline.proto.values import Gone, Insert, Relation


def arriving(delivery: Delivery, held: Shapes, at: int, *, estimating: bool) -> Steps:
    """The rows of ``delivery`` as of ``at``, of the shapes that are not ``held`` yet. ``estimating``: the device is
    told about how many there are."""
    # The relations go out again each time: read in one chunk with the subscribe answer, the npm client would
    # otherwise start on the data before it knows the subscription.
    shapes = dict.fromkeys(shape for _, requested in delivery.requests for shape in requested)
    relations = {relation.id: relation for shape in shapes for relation in delivery.shapes[shape]}
    estimate: int | None = None
    if estimating:
        answer = yield CountRows(tuple(shape for shape in shapes if shape not in held))
        assert isinstance(answer, int)
        estimate = answer
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations.values()),
            codec.subs_data_begin(delivery.subscription_ids[0], lsn_bytes(at), estimate),
        )
    )
    there = dict(held)
    for request_id, requested in delivery.requests:
        yield Send((codec.shape_data_begin(request_id),))
        for shape in requested:
            if shape not in there:
                yield from _image(shape, at, sharing(there, delivery.shapes[shape]))
                there[shape] = delivery.shapes[shape]
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
    for shape, of_shape in shapes.items():
        others = sharing(staying, of_shape)
        cursor = 0
        while of_shape:
            chunk, cursor = yield from _chunk(shape, at, cursor)
            if chunk is None:
                break
            inserts = yield from _held_by_none(_inserts(chunk), others, at)
            gone = [_gone(relations[insert.relation_id], insert) for insert in inserts]
            if gone:
                yield Send((codec.oplog_message(codec.encode_ops(gone)),))
    yield Send((codec.unsubs_data_end(),))


def _image(shape: str, at: int, others: Shapes) -> Steps:
    cursor = 0
    while True:
        chunk, cursor = yield from _chunk(shape, at, cursor)
        if chunk is None:
            return
        ops: Sequence[bytes] = chunk.ops
        if others:
            fresh = yield from _held_by_none(_inserts(chunk), others, at)
            ops = [codec.encode_ops(fresh)] if fresh else ()
        if ops:
            yield Send((codec.oplog_message(*ops),))


def _chunk(shape: str, at: int, cursor: int) -> Generator[Step, object, tuple[ImageChunk | None, int]]:
    answer = yield ReadImage(shape, at, cursor)
    assert isinstance(answer, tuple)
    return answer


def _held_by_none(inserts: Sequence[Insert], others: Shapes, at: int) -> Generator[Step, object, Sequence[Insert]]:
    if not others or not inserts:
        return inserts
    answer = yield AnyHolds(others, at, tuple((insert.relation_id, insert.row) for insert in inserts))
    assert isinstance(answer, list)
    return [insert for insert, held in zip(inserts, answer, strict=True) if not held]


def _inserts(chunk: ImageChunk) -> list[Insert]:
    return [change for change in codec.decode_ops(b"".join(chunk.ops)) if isinstance(change, Insert)]


def _gone(relation: Relation, insert: Insert) -> Gone:
    return Gone(relation.id, relation.key_row(relation.key_of(insert.row)))
