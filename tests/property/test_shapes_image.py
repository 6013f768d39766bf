"""The rows of a shape at a position: image and log together are what the table held there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.actors.shapes.image import EMPTY, ImageChunk, Overlay, key_bytes, overlaying
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.stretch import at_a_stretch
from syncline.proto import codec
from syncline.proto.values import Change, Column, Delete, Insert, Relation, Update

ITEMS = Relation(7, "public", "items", (Column("id", "text", primary_key=True), Column("value", "text")))
KEYS = [b"%d" % number for number in range(5)]

# A change of a key: a value to write, or None to delete. A transaction is some of them, or None: the table is emptied.
TRANSACTION = st.none() | st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=3)), max_size=4)
HISTORY = st.lists(TRANSACTION, max_size=12)

Rows = dict[bytes, bytes | None]


def played(transactions: list[list[tuple[bytes, bytes | None]] | None]) -> tuple[list[Record], list[Rows]]:
    """The log, and the table after each transaction (first: before them all)."""
    rows: Rows = {}
    states = [dict(rows)]
    log: list[Record] = []
    for number, transaction in enumerate(transactions, 1):
        changes: list[Change] = []
        if transaction is None:
            changes = [Delete(ITEMS.id, (key, value)) for key, value in rows.items()]
            rows.clear()
        for key, value in transaction or ():
            if value is None:
                if key in rows:
                    changes.append(Delete(ITEMS.id, (key, rows.pop(key))))
            elif key in rows:
                changes.append(Update(ITEMS.id, (key, value), (key, rows[key]), ("postgres_1@1",)))
                rows[key] = value
            else:
                changes.append(Insert(ITEMS.id, (key, value), ("postgres_1@1",)))
                rows[key] = value
        ops = codec.encode_ops(changes)
        log.append(Record(number, 1, "postgres_1", 0, True, len(changes), ops, truncates=transaction is None))
        states.append(dict(rows))
    return log, states


def image_of(rows: Rows, chunk_rows: int) -> list[ImageChunk]:
    items = list(rows.items())
    chunks = []
    for start in range(0, len(items), chunk_rows):
        part = items[start : start + chunk_rows]
        keys = tuple(key_bytes(ITEMS.id, (key,)) for key, _ in part)
        ops = tuple(codec.encode_ops((Insert(ITEMS.id, (key, value), ()),)) for key, value in part)
        chunks.append(ImageChunk(keys, ops))
    return chunks


def overlay_of(records: list[Record], base: Overlay = EMPTY) -> Overlay:
    return at_a_stretch(overlaying(records, {ITEMS.id: ITEMS}, base))


def rows_of(chunks: list[ImageChunk]) -> Rows:
    """What a device is given. Fails on a key that comes twice."""
    rows: Rows = {}
    for chunk in chunks:
        for change in codec.decode_ops(b"".join(chunk.ops)):
            assert isinstance(change, Insert)
            key, value = change.row
            assert key is not None
            assert key not in rows
            rows[key] = value
    return rows


def seen_through(overlay: Overlay, image: list[ImageChunk]) -> Rows:
    kept = [] if overlay.truncated else [overlay.apply(chunk) for chunk in image]
    return rows_of([*kept, *overlay.chunks()])


@settings(max_examples=150)
@given(HISTORY, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(1, 3))
def test_image_and_log_are_what_the_table_held(
    transactions: list[list[tuple[bytes, bytes | None]] | None], registered: int, later: int, ahead: int, chunk: int
) -> None:
    """The log begins before the snapshot, so that both know some transactions; reading is from the snapshot on."""
    log, states = played(transactions)
    registered = min(registered, len(log))
    snapshot = min(registered + later, len(log))
    at = min(snapshot + ahead, len(log))
    overlay = overlay_of([record for record in log if registered < record.lsn <= at])
    assert seen_through(overlay, image_of(states[snapshot], chunk)) == states[at]


@settings(max_examples=100)
@given(HISTORY, st.integers(0, 12))
def test_an_overlay_made_from_an_earlier_one_is_the_same(
    transactions: list[list[tuple[bytes, bytes | None]] | None], cut: int
) -> None:
    log, _ = played(transactions)
    whole = overlay_of(log)
    base = overlay_of(log[:cut])
    before = dict(base.rows)
    assert overlay_of(log[cut:], base) == whole
    assert base.rows == before, "the earlier one is still in use"
    assert EMPTY.rows == {}
