"""What a delivery is made of: the rows of a new subscription that arrive, or those of an ended one that leave. Pure.

``outbound`` decides when one is made, and as of which LSN.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncline.actors.devices.steps import Delivery, ReadImage, Send, Steps
from syncline.actors.shapes.frames import lsn_bytes
from syncline.actors.shapes.image import ImageChunk
from syncline.proto import codec
from syncline.proto.values import Gone, Insert, Relation


def arriving(delivery: Delivery, held: set[str], at: int) -> Steps:
    """The rows of ``delivery`` as of ``at``, of the shapes that are not ``held`` yet."""
    # The relations go out again each time: read in one chunk with the subscribe answer, the npm client would
    # otherwise start on the data before it knows the subscription.
    shapes = dict.fromkeys(shape for _, requested in delivery.requests for shape in requested)
    relations = [relation for shape in shapes if (relation := delivery.shapes[shape]) is not None]
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations),
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


def leaving(delivery: Delivery, shapes: Mapping[str, Relation | None], at: int) -> Steps:
    """That the rows of ``shapes`` (hash -> relation) go away with ``delivery``, as they are as of ``at``."""
    relations = [relation for relation in shapes.values() if relation is not None]
    yield Send(
        (
            *(codec.relation_message(relation) for relation in relations),
            codec.unsubs_data_begin(delivery.subscription_ids, lsn_bytes(at)),
        )
    )
    for shape, relation in shapes.items():
        cursor = 0
        while relation is not None:
            answer = yield ReadImage(shape, at, cursor)
            assert isinstance(answer, tuple)
            chunk, cursor = answer
            if chunk is None:
                break
            gone = _gone_of(chunk, relation)
            yield Send((codec.oplog_message(codec.encode_ops(gone)),))
    yield Send((codec.unsubs_data_end(),))


def _gone_of(chunk: ImageChunk, relation: Relation) -> tuple[Gone, ...]:
    rows = (change.row for change in codec.decode_ops(b"".join(chunk.ops)) if isinstance(change, Insert))
    return tuple(Gone(relation.id, relation.key_row(relation.key_of(row))) for row in rows)
