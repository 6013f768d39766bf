"""Concurrent writes to one row: any order, any number of times, and on both sides, they make the same row."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from syncline.proto.merge import (
    DirectKind,
    Incoming,
    RowState,
    RowWrite,
    WriteKind,
    apply_direct,
    apply_write,
    merge_incoming,
    unrecorded,
)
from syncline.proto.tags import Tag
from syncline.proto.values import POSTGRES_ORIGIN, Row

EXAMPLES = settings(max_examples=200, deadline=None)

BASE_ROW: Row = (b"k", b"x0", b"y0")
BASE = RowState(BASE_ROW, frozenset((Tag(POSTGRES_ORIGIN, 100),)), (Tag(POSTGRES_ORIGIN, 100),) * 3)
BASES = st.sampled_from([BASE, unrecorded(BASE_ROW)])
# Postgres wrote it, in some columns, over a device whose clock was ahead, further than some of the writers' are.
AHEAD = RowState(BASE_ROW, frozenset((Tag("ahead", 103),)), (Tag("ahead", 103),) * 3)
OVER_ONE_AHEAD = st.sampled_from(
    [apply_direct(AHEAD, "update", BASE_ROW, (True, x, y), 100) for x in (True, False) for y in (True, False)]
)
ORIGINS = ["a", "b", "zz"]
# So few instants that ties are common; all later than what every writer has seen.
instants = st.integers(101, 104)


@st.composite
def histories(draw: st.DrawFn, origin: str, seen: RowState, length: int = 3) -> list[RowWrite]:
    """What one device writes on top of ``seen``, knowing its own earlier writes and nobody else's."""
    state = seen
    writes: list[RowWrite] = []
    for _ in range(draw(st.integers(0, length))):
        after = max((write.tag.ms for write in writes), default=100)
        tag = Tag(origin, after + draw(st.integers(1, 2)))
        write = draw(device_write(state, tag))
        writes.append(write)
        state = apply_write(state, write)
    return writes


@st.composite
def device_write(draw: st.DrawFn, state: RowState, tag: Tag) -> RowWrite:
    kinds: list[WriteKind] = ["insert"] if state.row is None else ["update", "delete", "compensation"]
    kind = draw(st.sampled_from(kinds))
    observed = state.tags | {tag} if state.tags else frozenset[Tag]()
    row = state.row or BASE_ROW
    modified = (False, False, False)
    if kind == "insert":
        modified = (True, True, True)
    elif kind == "update":
        modified = (False, draw(st.booleans()), draw(st.booleans()))
    written = tuple(
        b"%s@%d" % (tag.origin.encode(), tag.ms) if changed and column else cell
        for column, (cell, changed) in enumerate(zip(row, modified, strict=True))
    )
    if kind == "compensation":
        written = (row[0], None, None)
    return RowWrite(kind, written, modified, tag, observed)


@st.composite
def interleavings(draw: st.DrawFn, histories: list[list[RowWrite]]) -> list[RowWrite]:
    """All writes in some order that keeps each origin's own."""
    queues = [list(history) for history in histories if history]
    order: list[RowWrite] = []
    while queues:
        queue = draw(st.sampled_from(queues))
        order.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return order


def begins_anew(histories: list[list[RowWrite]]) -> bool:
    """Whether one of them inserts the row, and another may have deleted before what was there then."""
    kinds = [{write.kind for write in history} for history in histories]
    return any("insert" in one and "delete" in other for one in kinds for other in kinds if one is not other)


def applied(state: RowState, writes: list[RowWrite]) -> RowState:
    for write in writes:
        state = apply_write(state, write)
    return state


@EXAMPLES
@given(BASES, st.data())
def test_concurrent_histories_make_one_row_in_any_order(base: RowState, data: st.DataObject) -> None:
    written = [data.draw(histories(origin, base)) for origin in ORIGINS]
    one, other = (applied(base, data.draw(interleavings(written))) for _ in range(2))
    assert (one.row is None, one.tags) == (other.row is None, other.tags)
    assert begins_anew(written) or one == other


@EXAMPLES
@given(st.data())
def test_concurrent_inserts_of_a_new_key_make_one_row_in_any_order(data: st.DataObject) -> None:
    written = [data.draw(histories(origin, RowState())) for origin in ORIGINS]
    one, other = (applied(RowState(), data.draw(interleavings(written))) for _ in range(2))
    assert (one.row is None, one.tags) == (other.row is None, other.tags)
    assert begins_anew(written) or one.row == other.row


@EXAMPLES
@given(BASES | OVER_ONE_AHEAD, st.data())
def test_a_write_delivered_again_changes_nothing(base: RowState, data: st.DataObject) -> None:
    written = [data.draw(histories(origin, base, length=1)) for origin in ORIGINS]
    order = data.draw(interleavings(written))
    assume(order)
    again = data.draw(st.sampled_from(order))
    state = applied(base, order)
    assert apply_write(state, again) == state


@EXAMPLES
@given(BASES | OVER_ONE_AHEAD, st.data())
def test_what_all_writers_had_seen_stands_over_none_of_them(base: RowState, data: st.DataObject) -> None:
    written = [data.draw(histories(origin, base, length=1)) for origin in ORIGINS]
    state = applied(base, data.draw(interleavings(written)))
    assume(state.row is not None)
    assert state.row is not None
    for column in (1, 2):
        if any(write.modified[column] for history in written for write in history):
            assert state.row[column] != BASE_ROW[column]


@EXAMPLES
@given(BASES, st.data())
def test_a_write_survives_every_delete_that_had_not_seen_it(base: RowState, data: st.DataObject) -> None:
    kept = data.draw(device_write(base, Tag("a", data.draw(instants))))
    assume(kept.kind != "delete")
    tag = Tag("b", data.draw(instants))
    delete = RowWrite("delete", BASE_ROW, (False,) * 3, tag, base.tags | {tag})
    for order in ([kept, delete], [delete, kept]):
        state = applied(base, order)
        assert state.row is not None
        assert state.tags == {kept.tag}


@EXAMPLES
@given(BASES, st.data())
def test_postgres_wins_over_all_that_is_applied_and_leaves_one_tag(base: RowState, data: st.DataObject) -> None:
    state = applied(base, data.draw(interleavings([data.draw(histories(origin, base)) for origin in ORIGINS])))
    assume(state.row is not None)
    ms = data.draw(st.integers(0, 110))
    after = apply_direct(state, "update", (b"k", b"px", b"py"), (False, True, True), ms)
    assert after.row == (b"k", b"px", b"py")
    assert after.tags == {Tag(POSTGRES_ORIGIN, ms)}


def streamed(before: RowState, tag: Tag, after: RowState) -> Incoming:
    """What the server sends devices of the step from ``before`` to ``after``."""
    if after.row is None:
        image = before.row or before.tombstone
        assert image is not None
        return Incoming("delete", image, (False,) * len(image), tag, after.tags)
    if before.row is None:
        return Incoming("insert", after.row, (True,) * len(after.row), tag, after.tags)
    changed = tuple(new != old for new, old in zip(after.row, before.row, strict=True))
    return Incoming("update", after.row, changed, tag, after.tags)


@EXAMPLES
@given(BASES, st.data())
def test_a_device_predicts_the_row_that_the_server_makes_of_its_pending_writes(
    base: RowState, data: st.DataObject
) -> None:
    pending = data.draw(histories("m", base))
    tag = Tag(data.draw(st.sampled_from([*ORIGINS, POSTGRES_ORIGIN])), data.draw(instants))
    if tag.origin != POSTGRES_ORIGIN:
        on_server = apply_write(base, data.draw(device_write(base, tag)))
    else:
        kind: DirectKind = data.draw(st.sampled_from(["update", "delete"]))
        row = BASE_ROW if kind == "delete" else (b"k", b"px", b"y0")
        on_server = apply_direct(base, kind, row, (False, kind == "update", False), tag.ms)
    predicted = merge_incoming(pending, streamed(base, tag, on_server))
    resolved = applied(on_server, pending)
    assert predicted.row == resolved.row
    assert predicted.tags == resolved.tags


@EXAMPLES
@given(st.data())
def test_a_device_predicts_what_becomes_of_a_key_that_another_has_inserted_too(data: st.DataObject) -> None:
    pending = data.draw(histories("m", RowState()))
    other = data.draw(device_write(RowState(), Tag(data.draw(st.sampled_from(ORIGINS)), data.draw(instants))))
    on_server = apply_write(RowState(), other)
    predicted = merge_incoming(pending, streamed(RowState(), other.tag, on_server))
    resolved = applied(on_server, pending)
    assert (predicted.row, predicted.tags) == (resolved.row, resolved.tags)
