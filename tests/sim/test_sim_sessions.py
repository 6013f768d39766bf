"""What the simulator's excuses take and what they do not: a device with a row and a write of its own on the way."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from tests.sim.invariants import Invariants
from tests.sim.postgres import Version
from tests.sim.schema import PROJECTS, TIED, VISITS, RowKey, on_device
from tests.sim.sessions import Image, Sessions
from tests.sim.workloads import PAIRS

from syncline.proto.merge import RowState, RowWrite
from syncline.proto.tags import UNRECORDED, Tag
from syncline.proto.values import Update

NAME, NAME_COLUMN, NOTE_COLUMN = "device-a", 1, 2
ROW, OTHER = (PROJECTS, (b"p1",)), (PROJECTS, (b"p2",))
OLD, AT = 900, 1000


class Bench:
    """Sessions of one device, which stands at ``AT``. Postgres' rows have been what they are since ``OLD``, and their
    note was written by somebody else as of 500, later than what the device has written."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.postgres: Any = SimpleNamespace(
            rejections={}, decided={}, versions={ROW: [], OTHER: []}, row_at=self._row_at
        )
        self.sessions = Sessions(self.postgres, self.said.append)

    @staticmethod
    def _row_at(key: RowKey, lsn: int) -> Version:
        theirs = Tag("device-b", 500)
        tags = (UNRECORDED, UNRECORDED, theirs, UNRECORDED)
        state = RowState((*key[1], b"old", b"theirs", b"1"), frozenset((UNRECORDED,)), tags)
        return Version(OLD, state.row, (), state, UNRECORDED)

    def shows(self, pending: Mapping[RowKey, list[RowWrite]], name: str, note: str = "theirs") -> Any:
        """``ROW`` with this name and note."""
        return SimpleNamespace(
            device=SimpleNamespace(name=NAME, strays=set()),
            lsn=AT,
            held=frozenset((PROJECTS,)),
            pending=pending,
            entries=[SimpleNamespace(commit_ms=write.tag.ms) for writes in pending.values() for write in writes],
            rows={ROW: ("p1", name, note, 1), OTHER: ("p2", "mine", "theirs", 1)},
            referred=frozenset(),
            told=frozenset(),
            keeps=lambda key, content: False,
            tied=TIED.__getitem__,
        )

    def writes(self, ms: int, *before: tuple[RowKey, int], key: RowKey = ROW, column: int = NAME_COLUMN) -> None:
        """``before``: what else is on the way."""
        pending: dict[RowKey, list[RowWrite]] = {}
        for other, other_ms in (*before, (key, ms)):
            pending.setdefault(other, []).append(update(other, other_ms, column))
        self.sessions.wrote(self.shows(pending, "mine"), ms)

    def decides(self, ms: int, *, refused: bool) -> None:
        self.postgres.decided[NAME, ms] = SimpleNamespace(head=SimpleNamespace(lsn=950, origin=None), before={})
        if refused:
            self.postgres.rejections[NAME, 2, ms] = {}


def update(key: RowKey, ms: int, column: int = NAME_COLUMN) -> RowWrite:
    modified = tuple(place == column for place in range(4))
    return RowWrite("update", (*key[1], b"mine", b"mine", b"1"), modified, Tag(NAME, ms), frozenset((UNRECORDED,)))


@pytest.mark.parametrize("refused", [False, True], ids=["a transaction", "a refused transaction"])
def test_a_write_shown_undone_is_reported_whatever_came_of_one_to_another_row(refused: bool) -> None:
    bench = Bench()
    bench.writes(10)
    bench.writes(20, (ROW, 10), key=OTHER)
    bench.decides(20, refused=refused)
    bench.sessions.changed(bench.shows({ROW: [update(ROW, 10)]}, "old"))
    assert len(bench.said) == 1, bench.sessions.excused


@pytest.mark.parametrize(("together", "said"), [(True, 0), (False, 1)])
def test_a_row_comes_with_the_last_of_the_transactions_that_were_on_the_way_with_a_refused_one(
    together: bool, said: int
) -> None:
    bench = Bench()
    bench.writes(10)
    if together:
        bench.writes(20, (ROW, 10))
    bench.decides(10, refused=True)
    bench.sessions.changed(bench.shows({ROW: [update(ROW, 20)]} if together else {}, "old"))
    if not together:
        bench.writes(20)
        bench.sessions.changed(bench.shows({ROW: [update(ROW, 20)]}, "old"))
    assert len(bench.said) == said, bench.said


@pytest.mark.parametrize(
    ("rows", "met", "shown", "said"),
    [
        ({ROW}, True, "mine", 0),
        ({OTHER}, True, "mine", 1),
        ({ROW}, False, "mine", 1),
        ({ROW}, True, "something else", 1),
    ],
    ids=["its row", "another row", "before it was written", "a value of nobody"],
)
def test_where_a_row_came_as_it_was_the_own_value_may_stand_although_it_is_beaten(
    rows: set[RowKey], met: bool, shown: str, said: int
) -> None:
    bench, pending = Bench(), {ROW: [update(ROW, 10, NOTE_COLUMN)]}
    bench.sessions.wrote(bench.shows(pending, "old", "mine"), 10)
    bench.said.clear()  # whoever has seen the later write writes as of later still: here nobody has
    bench.sessions.imaged(bench.shows(pending if met else {}, "old"), Image(AT, frozenset(rows)))
    bench.sessions.changed(bench.shows(pending, "old", shown))
    assert len(bench.said) == said, bench.said


def test_a_column_that_nobody_else_has_written_is_not_undone_by_a_delivery() -> None:
    bench, pending = Bench(), {ROW: [update(ROW, 10)]}
    bench.writes(10)
    bench.sessions.imaged(bench.shows(pending, "mine"), Image(AT, frozenset({ROW})))
    bench.sessions.changed(bench.shows(pending, "old"))
    assert len(bench.said) == 1


@pytest.mark.parametrize(("rows", "said"), [({ROW}, 0), (set(), 1)], ids=["as it was", "in a transaction"])
def test_a_delete_stands_where_a_row_of_direct_sql_came_as_it_was(rows: set[RowKey], said: int) -> None:
    bench = Bench()
    delete = RowWrite("delete", (b"p1", b"mine", b"mine", b"1"), (False,) * 4, Tag(NAME, 10), frozenset())
    gone = bench.shows({ROW: [delete]}, "old")
    del gone.rows[ROW]
    bench.sessions.wrote(gone, 10)
    bench.sessions.imaged(gone, Image(AT, frozenset(rows)))
    bench.sessions.changed(gone)
    assert len(bench.said) == said, bench.said


@pytest.mark.parametrize("column", [NAME_COLUMN, NOTE_COLUMN])
@pytest.mark.parametrize(
    ("tables", "note", "said"),
    [({PROJECTS}, None, 0), (set(), None, 1), ({PROJECTS}, "something else", 1)],
    ids=["in an image", "in a transaction", "a value of nobody"],
)
def test_what_stays_of_a_row_that_was_deleted_before_an_image_came_is_as_it_was_or_as_it_was_written_here(
    tables: set[int], note: str | None, column: int, said: int
) -> None:
    """The note was written once more before the row was deleted, as of later than what was written here."""
    bench, pending = Bench(), {ROW: [update(ROW, 10, column)]}
    name = "mine" if column == NAME_COLUMN else "old"
    note = note or ("mine" if column == NOTE_COLUMN else "theirs")
    bench.sessions.wrote(bench.shows(pending, name, note), 10)
    bench.said.clear()
    bench.sessions.imaged(bench.shows(pending, name), Image(AT, frozenset(), frozenset(tables)))
    before = bench.postgres.row_at(ROW, OLD)
    last = (*ROW[1], b"old", b"their last", b"1")
    state = RowState(None, frozenset(), before.state.column_tags, last)
    bench.postgres.versions[ROW] = [before, Version(OLD, None, (), state, UNRECORDED)]
    bench.postgres.row_at = lambda key, lsn: bench.postgres.versions[ROW][-1]
    bench.sessions.changed(bench.shows(pending, name, note))
    assert len(bench.said) == said, bench.said


@pytest.mark.parametrize(("lsn", "kept"), [(AT, True), (AT + 1, False)], ids=["by then", "later"])
def test_a_row_kept_for_another_may_be_as_it_was_within_the_transaction_that_emptied_its_table(
    lsn: int, kept: bool
) -> None:
    bench, pending, last = Bench(), {OTHER: [update(OTHER, 10)]}, (*ROW[1], b"old", b"just before", b"1")
    shown = bench.shows(pending, "old", "just before")
    shown.keeps = lambda key, content: (key, content) == (ROW, last)
    change = Update(PROJECTS, last, None, ())
    bench.postgres.wal = [SimpleNamespace(head=SimpleNamespace(lsn=lsn), changes=[change])]
    bench.sessions.imaged(shown, Image(AT, frozenset({ROW})))
    assert bench.sessions.keeps(shown, ROW, RowState()) == kept


@pytest.mark.parametrize("splits", [True, False])
def test_half_a_transaction_is_excused_only_where_the_other_half_is_not_told(splits: bool) -> None:
    said: list[str] = []
    invariants = Invariants(
        Bench().postgres, said.append, stands=lambda *_: False, splits=lambda shown, key: splits and key == PAIRS[0][1]
    )
    one, other = PAIRS[0]
    rows = {one: on_device(one[0], (*one[1], *(b"1",) * 3)), other: on_device(other[0], (*other[1], *(b"2",) * 2))}
    shown: Any = SimpleNamespace(device=SimpleNamespace(name=NAME), held={one[0], other[0]}, rows=rows)
    invariants._pairs(shown)
    assert len(said) == (not splits), said


def test_columns_that_are_tied_stand_together() -> None:
    bench, visit = Bench(), (VISITS, (b"v1",))
    theirs = Tag("device-b", 500)
    state = RowState((b"v1", None, None, None, None), frozenset((theirs,)), (UNRECORDED, theirs, theirs))
    bench.postgres.row_at = lambda key, lsn: Version(OLD, state.row, (), state, theirs)
    changed = (False, False, True, False, False)
    write = RowWrite("update", (b"v1", b"s0", b"1", None, None), changed, Tag(NAME, 10), frozenset())
    shown = bench.shows({visit: [write]}, "old")
    shown.rows[visit] = ("v1", "s0", 1, None, None)
    shown.held = frozenset((PROJECTS, VISITS))
    assert not bench.sessions.stands(shown, visit, 1)
    bench.sessions.imaged(shown, Image(AT, frozenset({visit})))
    assert bench.sessions.stands(shown, visit, 1)
    assert bench.sessions.stands(shown, visit, 2)
