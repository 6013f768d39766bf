"""The worked examples of the merge rules. Rows are (id, v) or (id, x, y); tags read ``origin@ms``; P is Postgres."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.proto.errors import ProtocolError
from syncline.proto.merge import (
    Incoming,
    Merged,
    RowState,
    RowWrite,
    apply_direct,
    apply_write,
    incoming_of,
    merge_incoming,
    unrecorded,
    write_of,
)
from syncline.proto.tags import Tag, parse_tags
from syncline.proto.values import POSTGRES_ORIGIN, Compensation, Delete, Gone, Insert, Row, Update


def tags(text: str) -> frozenset[Tag]:
    return parse_tags(part.replace("P@", f"{POSTGRES_ORIGIN}@") for part in text.split())


def tag(text: str) -> Tag:
    return next(iter(tags(text)))


def alive(row: Row, at: str = "P@100") -> RowState:
    return RowState(row, tags(at), tuple(tag(at) for _ in row))


def update(by: str, row: Row, old: Row, observed: str = "") -> RowWrite:
    origin, ms = by.split("@")
    return write_of(Update(1, row, old, tuple(map(str, _texts(observed)))), origin, int(ms))


def insert(by: str, row: Row, observed: str = "") -> RowWrite:
    origin, ms = by.split("@")
    return write_of(Insert(1, row, _texts(observed)), origin, int(ms))


def delete(by: str, row: Row, observed: str) -> RowWrite:
    origin, ms = by.split("@")
    return write_of(Delete(1, row, _texts(observed)), origin, int(ms))


def compensation(by: str, key: Row, observed: str) -> RowWrite:
    origin, ms = by.split("@")
    return write_of(Compensation(1, key, _texts(observed)), origin, int(ms))


def _texts(observed: str) -> tuple[str, ...]:
    return tuple(part.replace("P@", f"{POSTGRES_ORIGIN}@") for part in observed.split())


def apply(state: RowState, *writes: RowWrite) -> RowState:
    for write in writes:
        state = apply_write(state, write)
    return state


def test_example_1_a_late_update_keeps_the_row_and_loses_its_column() -> None:
    state = apply(alive((b"k", b"1")), update("A@50", (b"k", b"9"), (b"k", b"0")))
    assert state.row == (b"k", b"1")
    assert state.tags == tags("P@100 A@50")
    assert state.column_tag(1) == tag("P@100")


def test_example_2_concurrent_updates_of_different_columns_both_win() -> None:
    base = (b"k", b"x0", b"y0")
    a = update("A@200", (b"k", b"xa", b"y0"), base, "A@200 P@100")
    b = update("B@210", (b"k", b"x0", b"yb"), base, "B@210 P@100")
    for state in (apply(alive(base), a, b), apply(alive(base), b, a)):
        assert state.row == (b"k", b"xa", b"yb")
        assert state.tags == tags("A@200 B@210")


def test_example_2_on_the_same_column_the_later_write_wins_in_either_order() -> None:
    base = (b"k", b"x0", b"y0")
    a = update("A@200", (b"k", b"xa", b"y0"), base, "A@200 P@100")
    b = update("B@210", (b"k", b"xb", b"y0"), base, "B@210 P@100")
    assert apply(alive(base), a, b) == apply(alive(base), b, a)
    assert apply(alive(base), a, b).row == (b"k", b"xb", b"y0")


def test_example_3_a_delete_loses_to_an_update_it_had_not_seen_although_it_is_later() -> None:
    base = (b"k", b"x0", b"y0")
    a = delete("A@200", base, "A@200 P@100")
    b = update("B@150", (b"k", b"xb", b"y0"), base, "B@150 P@100")
    between = apply(alive(base), a)
    assert between.row is None
    assert between.tombstone == base
    for state in (apply(alive(base), a, b), apply(alive(base), b, a)):
        assert state.row == (b"k", b"xb", b"y0")
        assert state.tags == tags("B@150")


def test_example_4_a_delete_that_saw_everything_removes_the_row_and_an_unaware_update_revives_it() -> None:
    base = (b"k", b"x0", b"y0")
    a = update("A@150", (b"k", b"xa", b"y0"), base, "A@150 P@100")
    b = delete("B@160", (b"k", b"xa", b"y0"), "B@160 A@150")
    gone = apply(alive(base), a, b)
    assert gone.row is None
    c = update("C@170", (b"k", b"x0", b"yc"), base, "C@170 P@100")
    assert apply(gone, c).row == (b"k", b"xa", b"yc")


def test_example_5_concurrent_inserts_of_one_key_keep_both_tags_and_the_later_values() -> None:
    a, b = insert("A@100", (b"k", b"1", b"2")), insert("B@110", (b"k", b"3", b"4"))
    for state in (apply(RowState(), a, b), apply(RowState(), b, a)):
        assert state.row == (b"k", b"3", b"4")
        assert state.tags == tags("A@100 B@110")
        after = apply(state, delete("A@120", (b"k", b"1", b"2"), "A@120 A@100"))
        assert after.tags == tags("B@110")
        assert after.row == (b"k", b"3", b"4")


def test_example_6_a_write_of_postgres_outranks_a_device_whose_clock_runs_ahead() -> None:
    # It says 350, and counts as of 299, when it came.
    state = apply(alive((b"k", b"1")), update("B@299", (b"k", b"b"), (b"k", b"1"), "B@350 P@100"))
    after = apply_direct(state, "update", (b"k", b"p"), (False, True), ms=300)
    assert after == RowState((b"k", b"p"), tags("P@300"), (tag("P@100"), tag("P@300")), direct_ms=300)
    unaware = update("C@290", (b"k", b"c"), (b"k", b"1"), "C@290 P@100")
    assert apply(after, unaware).row == (b"k", b"p")


def test_example_7_a_compensation_brings_back_a_parent_that_was_deleted_meanwhile() -> None:
    parent = (b"p", b"name")
    deleted = apply_direct(alive(parent), "delete", parent, (False, False), ms=150)
    assert deleted.row is None
    kept = apply(deleted, compensation("A@200", (b"p", None), "A@200 P@100"))
    assert kept.row == parent
    assert kept.tags == tags("A@200")


def test_example_7_a_delete_that_had_not_seen_the_compensation_leaves_the_parent_alone() -> None:
    parent = (b"p", b"name")
    state = apply(alive(parent), compensation("A@200", (b"p", None), "A@200 P@100"))
    after = apply(state, delete("B@250", parent, "B@250 P@100"))
    assert after.row == parent
    assert after.tags == tags("A@200")


def test_example_8_a_compensation_changes_no_value() -> None:
    state = apply(alive((b"p", b"x"), "P@180"), compensation("A@200", (b"p", None), "A@200 P@100"))
    assert state.row == (b"p", b"x")
    assert state.tags == tags("P@180 A@200")


def test_example_9_a_row_deleted_and_inserted_in_one_transaction_is_alive() -> None:
    seen = "A@200 P@100"
    state = apply(
        alive((b"p", b"old")),
        delete("A@200", (b"p", b"old"), seen),
        insert("A@200", (b"p", b"new"), seen),
        compensation("A@200", (b"p", None), seen),
    )
    assert state.row == (b"p", b"new")
    assert state.tags == tags("A@200")


def test_example_10_a_pending_update_revives_a_row_that_the_server_deletes() -> None:
    old = (b"k", b"x0", b"y1")
    pending = update("A@300", (b"k", b"5", b"y0"), (b"k", b"x0", b"y0"), "A@300 P@100")
    incoming = incoming_of(Delete(1, old), POSTGRES_ORIGIN, 310)
    assert merge_incoming([pending], incoming) == Merged((b"k", b"5", b"y1"), tags("A@300"))


def test_example_11_the_echo_finds_nothing_pending_and_is_taken_as_it_is() -> None:
    echo = incoming_of(Update(1, (b"k", b"5"), (b"k", b"1"), ("A@300",)), "A", 300)
    assert merge_incoming([], echo) == Merged((b"k", b"5"), tags("A@300"))


def test_a_gone_removes_the_row_whatever_is_pending() -> None:
    pending = update("A@300", (b"k", b"5"), (b"k", b"1"), "A@300 P@100")
    assert merge_incoming([pending], incoming_of(Gone(1, (b"k", None)), "B", 310)).row is None


def test_a_pending_delete_that_saw_the_row_removes_it() -> None:
    pending = delete("A@300", (b"k", b"1"), "A@300 P@100")
    incoming = Incoming("insert", (b"k", b"1"), (True, True), tag("P@100"), tags("P@100"))
    assert merge_incoming([pending], incoming).row is None


@pytest.mark.parametrize(
    ("weaker", "stronger"),
    [("A@200", "B@200"), ("B@200", "P@200"), ("zzz@200", "P@200"), ("P@199", "A@200")],
)
def test_ties_go_to_postgres_then_to_the_larger_id_on_both_sides(weaker: str, stronger: str) -> None:
    base = (b"k", b"0")
    assert tag(weaker) < tag(stronger)

    def wrote(by: str) -> RowWrite:
        return RowWrite("update", (b"k", by.encode()), (False, True), tag(by), tags(f"{by} P@100"))

    server = apply(alive(base), wrote(weaker), wrote(stronger))
    assert server.row == (b"k", stronger.encode())
    assert apply(alive(base), wrote(stronger), wrote(weaker)) == server
    incoming = Incoming("update", (b"k", weaker.encode()), (False, True), tag(weaker), tags(weaker))
    assert merge_incoming([wrote(stronger)], incoming).row == server.row
    incoming = Incoming("update", (b"k", stronger.encode()), (False, True), tag(stronger), tags(stronger))
    assert merge_incoming([wrote(weaker)], incoming).row == server.row


def test_a_row_without_a_record_is_covered_by_any_observed_tag_of_postgres() -> None:
    state = apply(unrecorded((b"k", b"1")), delete("A@200", (b"k", b"1"), "A@200 P@100"))
    assert state.row is None


def test_a_row_without_a_record_is_covered_by_whoever_has_seen_anything_of_it_and_nobody_else() -> None:
    row = (b"k", b"1")
    assert apply(unrecorded(row), delete("A@200", row, "A@200 B@100")).row is None
    assert apply(unrecorded(row), delete("A@200", row, "A@200 A@150")).row == row


def test_a_write_beats_what_its_author_had_seen_although_his_clock_is_behind() -> None:
    base = (b"k", b"x0", b"y0")
    state = apply(alive(base), update("A@50", (b"k", b"xa", b"y0"), base, "A@50 P@100"))
    assert state.row == (b"k", b"xa", b"y0")
    assert state.tags == tags("A@101")
    concurrent = update("B@90", (b"k", b"xb", b"y0"), base, "B@90 P@80")
    assert apply(state, concurrent).row == (b"k", b"xa", b"y0")


def test_an_author_has_seen_his_own_writes_whether_he_says_so_or_not() -> None:
    state = apply(RowState(), insert("A@100", (b"k", b"1")), update("A@90", (b"k", b"2"), (b"k", b"1")))
    assert (state.row, state.tags) == ((b"k", b"2"), tags("A@100"))
    assert apply(state, delete("A@80", (b"k", b"2"), "")).row is None


def test_a_device_does_not_put_an_older_write_of_its_own_upon_a_later_one_that_has_come_back() -> None:
    pending = insert("A@100", (b"k", b"1"))
    incoming = incoming_of(Update(1, (b"k", b"2"), (b"k", b"1"), ("A@110",)), "A", 110)
    assert merge_incoming([pending], incoming) == Merged((b"k", b"2"), tags("A@110"))


def test_columns_that_are_tied_go_together() -> None:
    base = (b"k", b"1", b"9", b"n")
    tied = ((1, 2),)
    a = update("A@200", (b"k", b"8", b"9", b"a"), base, "A@200 P@100")
    b = update("B@210", (b"k", b"1", b"2", b"n"), base, "B@210 P@100")
    for first, second in ((a, b), (b, a)):
        state = apply_write(apply_write(alive(base), first, tied), second, tied)
        assert state.row == (b"k", b"1", b"2", b"a")
    assert apply_direct(alive(base), "update", base, (False, True, False, False), 300, tied).column_tags == tuple(
        tag(at) for at in ("P@100", "P@300", "P@300", "P@100")
    )


def test_of_tied_columns_those_that_their_author_does_not_hold_stay_and_count_as_written() -> None:
    base = (b"k", b"1", b"9")
    held = update("A@200", (b"k", b"8", None), (b"k", b"1", None), "A@200 P@100")
    state = apply_write(alive(base), replace(held, absent=frozenset((2,))), ((1, 2),))
    assert state.row == (b"k", b"8", b"9")
    earlier = update("B@150", (b"k", b"1", b"2"), base, "B@150 P@100")
    assert apply_write(state, earlier, ((1, 2),)).row == (b"k", b"8", b"9")


def test_a_column_added_later_counts_as_unrecorded() -> None:
    state = RowState((b"k", b"1", b"new"), tags("P@100"), (tag("P@100"), tag("P@100")))
    after = apply(state, update("A@50", (b"k", b"1", b"a"), (b"k", b"1", b"new"), "A@50"))
    assert after.row == (b"k", b"1", b"a")


def test_a_gone_is_no_write_and_a_compensation_no_incoming_change() -> None:
    with pytest.raises(ProtocolError):
        write_of(Gone(1, (b"k",)), "A", 1)
    with pytest.raises(ProtocolError):
        incoming_of(Compensation(1, (b"k",)), "A", 1)


def test_an_incoming_update_without_its_old_row_counts_as_changed_throughout() -> None:
    pending = update("A@150", (b"k", b"a"), (b"k", b"0"), "A@150 P@100")
    incoming = incoming_of(Update(1, (b"k", b"b"), None, ("B@200",)), "B", 200)
    assert merge_incoming([pending], incoming).row == (b"k", b"b")


def test_direct_sql_is_no_earlier_than_what_it_has_overwritten() -> None:
    """A device whose clock is ahead wrote at 2,000, direct SQL over that at 1,400; a third write of 1,600 is earlier
    than the one, and so than the other."""
    ahead = Tag("ahead", 2_000)
    state = RowState((b"k", b"ahead"), frozenset({ahead}), (ahead, ahead))
    state = apply_direct(state, "update", (b"k", b"sql"), (False, True), ms=1_400)
    assert state.tags == {Tag("postgres_1", 1_400)}, "what others know of it is its own time"
    apart = RowWrite("update", (b"k", b"apart"), (False, True), Tag("third", 1_600), frozenset())
    assert apply_write(state, apart).row == (b"k", b"sql")
    knowing = RowWrite("update", (b"k", b"knowing"), (False, True), Tag("slow", 1_500), state.tags)
    assert apply_write(state, knowing).row == (b"k", b"knowing")


def test_who_has_seen_direct_sql_writes_later_than_it_whoever_has_written_the_row_since() -> None:
    """Direct SQL at 1,400 over a device that was ahead, at 2,000. Two devices have seen it and write a column each."""
    ahead = Tag("ahead", 2_000)
    before = RowState((b"k", b"x0", b"y0"), frozenset({ahead}), (ahead,) * 3)
    slow = RowWrite("update", (b"k", b"x1", b"y2"), (False, False, True), Tag("slow", 1_500), tags("P@1400"))
    only_x = apply_direct(before, "update", (b"k", b"x1", b"y0"), (False, True, False), ms=1_400)
    assert apply_write(only_x, slow).row == (b"k", b"x1", b"y2"), "it had seen y, too"
    state = apply_direct(before, "update", (b"k", b"x1", b"y1"), (False, True, True), ms=1_400)
    one = RowWrite("update", (b"k", b"x2", b"y1"), (False, True, False), Tag("one", 1_500), state.tags)
    other = RowWrite("update", (b"k", b"x1", b"y2"), (False, False, True), Tag("other", 1_600), state.tags)
    assert apply_write(apply_write(state, one), other).row == (b"k", b"x2", b"y2")
    assert apply_write(apply_write(state, other), one).row == (b"k", b"x2", b"y2")


def test_an_insert_where_there_is_no_row_begins_anew_although_the_clock_of_its_author_is_behind() -> None:
    """He has seen what was there, and that it was deleted, by himself or by others, and cannot say so."""
    base = (b"k", b"x0")
    for deleted in (
        delete("B@150", base, "B@150 A@500"),
        delete("A@510", base, "A@510"),
        delete("C@30", base, "A@500"),
    ):
        state = apply(RowState(), insert("A@500", base), deleted)
        assert state.row is None
        again = apply(state, insert("B@40", (b"k", b"x1")))
        assert again.row == (b"k", b"x1")
        late = update("D@200", (b"k", b"xd"), base, "D@200 A@500")
        assert apply(again, late).row == (b"k", b"xd"), "a later write that has not seen it"


def test_who_has_seen_the_newest_write_of_direct_sql_has_seen_all_although_the_clock_of_postgres_went_back() -> None:
    state = apply_direct(alive((b"k", b"x0", b"y0")), "update", (b"k", b"x1", b"y0"), (False, True, False), ms=700)
    state = apply_direct(state, "update", (b"k", b"x1", b"y1"), (False, False, True), ms=600)
    write = RowWrite("update", (b"k", b"x2", b"y1"), (False, True, False), Tag("slow", 650), state.tags)
    assert apply_write(state, write).row == (b"k", b"x2", b"y1")
