"""What a delivery is made of: the rows of a new subscription that arrive, or those of an ended one that leave. Pure.

``outbound`` decides when one is made, and as of which LSN.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncline.actors.devices.steps import Delivery, ReadImage, Send, Shapes, Steps
from syncline.actors.shapes.frames import lsn_bytes
from syncline.actors.shapes.image import ImageChunk
from syncline.proto import codec
from syncline.proto.values import Gone, Insert, Relation, Row


def arriving(delivery: Delivery, held: set[str], at: int) -> Steps:
    """The rows of ``delivery`` as of ``at``, of the shapes that are not ``held`` yet."""
    # The relations go out again each time: read in one chunk with the subscribe answer, the npm client would
    # otherwise start on the data before it knows the subscription.
    shapes = dict.fromkeys(shape for _, requested in delivery.requests for shape in requested)
    relations = {relation.id: relation for shape in shapes for relation in delivery.shapes[shape]}
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations.values()),
            codec.subs_data_begin(delivery.subscription_ids[0], lsn_bytes(at)),
        )
    )
    for request_id, requested in delivery.requests:
        yield Send((codec.shape_data_begin(request_id),))
        for shape in requested:
            if shape not in held:
                held.add(shape)
                yield from _image(shape, at)
        yield Send((codec.shape_data_end(),))
    yield Send((codec.subs_data_end(),))


def _image(shape: str, at: int) -> Steps:
    cursor = 0
    while True:
        answer = yield ReadImage(shape, at, cursor)
        assert isinstance(answer, tuple)
        chunk, cursor = answer
        if chunk is None:
            return
        if chunk.ops:
            yield Send((codec.oplog_message(*chunk.ops),))


def leaving(delivery: Delivery, shapes: Shapes, at: int) -> Steps:
    """That the rows of ``shapes`` go away with ``delivery``, as they are as of ``at``."""
    relations = {relation.id: relation for of_shape in shapes.values() for relation in of_shape}
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations.values()),
            codec.unsubs_data_begin(delivery.subscription_ids, lsn_bytes(at)),
        )
    )
    for shape, of_shape in shapes.items():
        cursor = 0
        while of_shape:
            answer = yield ReadImage(shape, at, cursor)
            assert isinstance(answer, tuple)
            chunk, cursor = answer
            if chunk is None:
                break
            gone = _gone_of(chunk, relations)
            yield Send((codec.oplog_message(codec.encode_ops(gone)),))
    yield Send((codec.unsubs_data_end(),))


def _gone_of(chunk: ImageChunk, relations: Mapping[int, Relation]) -> tuple[Gone, ...]:
    rows = (change for change in codec.decode_ops(b"".join(chunk.ops)) if isinstance(change, Insert))
    return tuple(_gone(relations[insert.relation_id], insert.row) for insert in rows)


def _gone(relation: Relation, row: Row) -> Gone:
    return Gone(relation.id, relation.key_row(relation.key_of(row)))
