"""Several shapes' logs as one stream, by pages or by a bundle: every transaction whole, once and in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.actors.devices.bundle import Bundle
from syncline.actors.shapes.frames import Frame, lsn_bytes, whole_frame
from syncline.actors.shapes.log import Page, Record
from syncline.actors.shapes.logmerge import LogMerge
from syncline.proto import codec
from syncline.proto.ops import Begin, Commit
from syncline.proto.values import Insert

SHAPES = ("a", "b", "c")
RELATION_IDS = {shape: number for number, shape in enumerate(SHAPES, 1)}

# A transaction is, for each shape it touches, how many rows each of its records holds.
TRANSACTIONS = st.lists(
    st.dictionaries(st.sampled_from(SHAPES), st.lists(st.integers(0, 2), min_size=1, max_size=3), max_size=3),
    max_size=10,
)


@dataclass(frozen=True)
class History:
    """Logs of shapes, and what a transaction of the stream then has to be: LSN -> (shape, row) of all its rows."""

    logs: dict[str, list[Record]]
    rows: dict[int, list[tuple[int, bytes]]]


def history_of(transactions: list[dict[str, list[int]]]) -> History:
    logs: dict[str, list[Record]] = {shape: [] for shape in SHAPES}
    rows: dict[int, list[tuple[int, bytes]]] = {}
    for number, touched in enumerate(transactions, 1):
        lsn = number * 10
        for shape in sorted(touched):
            for index, count in enumerate(touched[shape]):
                named = [b"%d.%d.%d" % (lsn, index, row) for row in range(count)]
                inserts = [Insert(RELATION_IDS[shape], (name,), ()) for name in named]
                last = index == len(touched[shape]) - 1
                logs[shape].append(
                    Record(lsn, lsn, "postgres_1", index, last, count, codec.encode_ops(inserts), (b"prelude",))
                )
                rows.setdefault(lsn, []).extend((RELATION_IDS[shape], name) for name in named)
    return History(logs, rows)


def stream_of(frames: Sequence[Frame]) -> dict[int, list[tuple[int, bytes]]]:
    """What a device reads out of frames. Fails if a transaction is not one begin, its rows, one commit."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    open_lsn: bytes | None = None
    for frame in frames:
        assert frame.body is not None
        assert frame.starts == (open_lsn is None)
        for op in codec.decode_ops(frame.body):
            if isinstance(op, Begin):
                assert open_lsn is None
                open_lsn = op.lsn
                found[int(op.lsn)] = []
            elif isinstance(op, Commit):
                assert op.lsn == open_lsn
                open_lsn = None
            else:
                assert isinstance(op, Insert)
                assert open_lsn == lsn_bytes(frame.lsn)
                found[frame.lsn].append((op.relation_id, op.row[0] or b""))
        assert frame.ends == (open_lsn is None)
    assert open_lsn is None
    assert list(found) == sorted(found)
    return found


@settings(max_examples=100)
@given(TRANSACTIONS, st.sets(st.sampled_from(SHAPES), min_size=1), st.integers(0, 11), st.integers(0, 11), st.data())
def test_logs_are_merged_into_whole_transactions_whatever_the_pages(
    transactions: list[dict[str, list[int]]], shapes: set[str], start: int, length: int, data: st.DataObject
) -> None:
    history = history_of(transactions)
    after, upto = start * 10, (start + length) * 10
    logs = {shape: [r for r in history.logs[shape] if after < r.lsn <= upto] for shape in shapes}
    merge = LogMerge(shapes, after, upto)
    fed = dict.fromkeys(shapes, 0)
    frames: list[Frame] = []
    while not merge.done:
        for shape, position in merge.wanted():
            if fed[shape]:
                assert position == logs[shape][fed[shape] - 1].position
            size = data.draw(st.integers(1, 3))
            page = tuple(logs[shape][fed[shape] : fed[shape] + size])
            fed[shape] += len(page)
            merge.feed(shape, Page(page, more=fed[shape] < len(logs[shape])))
        frames += merge.frames()
    wanted = {
        lsn: sorted(row for row in rows if row[0] in {RELATION_IDS[shape] for shape in shapes})
        for lsn, rows in history.rows.items()
        if any(record.lsn == lsn for log in logs.values() for record in log)
    }
    assert {lsn: sorted(rows) for lsn, rows in stream_of(frames).items()} == wanted
    assert sum(len(frame.prelude) for frame in frames) == sum(len(log) for log in logs.values())


@settings(max_examples=100)
@given(TRANSACTIONS, st.sets(st.sampled_from(SHAPES), min_size=1), st.data())
def test_a_bundle_releases_every_transaction_whole_and_once_from_where_it_opened(
    transactions: list[dict[str, list[int]]], shapes: set[str], data: st.DataObject
) -> None:
    # Only records that are sent live: one a shape and transaction.
    history = history_of([{shape: counts[:1] for shape, counts in touched.items()} for touched in transactions])
    joins = {shape: data.draw(st.integers(0, len(transactions))) for shape in sorted(shapes)}
    bundle = Bundle(shapes, watermark=data.draw(st.integers(0, len(transactions))) * 10)
    frames: list[Frame] = []
    opened_at: int | None = None
    for number in range(len(transactions) + 2):
        lsn = number * 10
        for shape in sorted(shapes):
            if joins[shape] == number:
                bundle.joined(shape, max((r.lsn for r in history.logs[shape] if r.lsn <= lsn), default=0))
            elif joins[shape] < number:
                bundle.arrived([r for r in history.logs[shape] if r.lsn == lsn])
        if opened_at is None and bundle.open:
            opened_at = bundle.released
        # The watermark passes when every shape has appended; it may lag behind, and then jump.
        if number > len(transactions) or data.draw(st.booleans()):
            frames += bundle.watermark(lsn)
        if opened_at is None and bundle.open:
            assert frames == [], "what came before it opened is in the logs"
            opened_at = bundle.released
    assert opened_at is not None
    assert bundle.released == (len(transactions) + 1) * 10
    wanted = {
        lsn: sorted(row for row in rows if row[0] in {RELATION_IDS[shape] for shape in shapes})
        for lsn, rows in history.rows.items()
        if lsn > opened_at and any(r.lsn == lsn for shape in shapes for r in history.logs[shape])
    }
    assert {lsn: sorted(rows) for lsn, rows in stream_of(frames).items()} == wanted


@given(st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_a_frame_of_several_shapes_is_what_the_merge_of_their_logs_gives(counts: list[int]) -> None:
    touched = {shape: [count] for shape, count in zip(SHAPES, counts, strict=False)}
    history = history_of([touched])
    records = [record for shape in sorted(touched) for record in history.logs[shape]]
    merge = LogMerge(touched, 0, 10)
    for shape, _ in merge.wanted():
        merge.feed(shape, Page(tuple(history.logs[shape]), more=False))
    assert list(merge.frames()) == [whole_frame(records)]
