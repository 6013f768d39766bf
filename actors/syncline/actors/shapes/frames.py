"""From log records to the bytes devices get: frames, and the merge of several logs into one stream of them.

A frame is one transaction, or a piece of a large one, encoded once for all devices that hold the same set of shapes.
``body`` is the inside of a SatOpLog, and such bodies concatenate, so a device sends several frames as one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from syncline.actors.shapes.log import Record
from syncline.actors.shapes.together import once
from syncline.proto.codec import encode_begin, encode_commit
from syncline.proto.values import Relation

# A transaction whose part in one shape is larger than this is read from the log by each device at its own pace.
LIVE_TRANSACTION_BYTES_MAX = 1 << 20
LSN_CHARS_MAX = 20  # a 64-bit number in decimal
NONE_SHARED: Mapping[int, Relation] = {}


@dataclass(frozen=True, slots=True)
class Frame:
    """A transaction or a piece of one. ``starts``/``ends``: it holds the begin / the commit.

    ``body`` None: too large for the live path; whoever gets this reads the log instead. ``transaction_id``: by which
    acks name it; None: by its LSN. ``since``: it stands for all transactions behind that LSN up to its own.
    """

    lsn: int
    commit_ms: int
    origin: str
    body: bytes | None
    starts: bool = True
    ends: bool = True
    prelude: tuple[bytes, ...] = ()
    transaction_id: int | None = None
    since: int | None = None


def lsn_bytes(lsn: int) -> bytes:
    """An LSN as devices see it: decimal text."""
    return b"%d" % lsn


def begin_of(lsn: int, commit_ms: int, origin: str, transaction_id: int | None = None) -> bytes:
    """The encoded begin. Acks name the transaction by ``transaction_id``, by default its LSN."""
    return encode_begin(commit_ms, lsn_bytes(lsn), origin, lsn if transaction_id is None else transaction_id)


def begun_by(frame: Frame, origin: str, carried_out: tuple[int, ...] = ()) -> bytes:
    """The body of ``frame``, which starts a transaction, as if that were of another origin, or said of others that they
    are ``carried_out``."""
    id = frame.lsn if frame.transaction_id is None else frame.transaction_id
    begin = begin_of(frame.lsn, frame.commit_ms, frame.origin, id)
    body = frame.body or b""
    assert body.startswith(begin), "its begin is the first thing in it"
    begins = encode_begin(frame.commit_ms, lsn_bytes(frame.lsn), origin, id, carried_out=carried_out)
    return begins + body[len(begin) :]


def whole_frame(records: Iterable[Record], relations: Mapping[int, Relation] = NONE_SHARED) -> Frame:
    """One frame of all shapes' records of one transaction; without a body when it is too large to be sent live, or when
    a row leaves one of the shapes that may have rows in common, of which these are the ``relations`` by id: who reads
    the logs asks whether another holds it."""
    parts = list(records)
    head = parts[0]
    prelude = [message for record in parts for message in record.prelude]
    size = sum(len(record.ops) for record in parts)
    if size > LIVE_TRANSACTION_BYTES_MAX or any(not record.last or record.index for record in parts):
        return Frame(head.lsn, head.commit_ms, head.origin, None)
    if relations and any(record.gone for record in parts):
        return Frame(head.lsn, head.commit_ms, head.origin, None)
    ops = [record.ops for record in parts if record.ops]
    if relations and len(ops) > 1:
        ops, besides = once(ops, relations)
        prelude += besides
    begin, commit = begin_of(head.lsn, head.commit_ms, head.origin), encode_commit(head.commit_ms, lsn_bytes(head.lsn))
    return Frame(head.lsn, head.commit_ms, head.origin, b"".join((begin, *ops, commit)), prelude=tuple(prelude))


def for_edges(records: Iterable[Record]) -> Iterator[Record]:
    """Records as edges get them: of a large transaction only that it exists, its content is read from the log."""
    for record in records:
        if record.last and record.index == 0 and len(record.ops) <= LIVE_TRANSACTION_BYTES_MAX:
            yield record
        elif record.last:
            yield replace(record, index=max(1, record.index), ops=b"", rows=0)
