"""What happened while a tree was filled comes to what it comes to for whoever had the rows from the beginning."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_shapes_membership import Play

from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.shapes.backlog import Backlog
from syncline.actors.shapes.netting import Netting


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(0, 4), st.integers(0, 6), st.integers(0, 10))
def test_a_backlog_is_one_transaction_from_what_the_snapshot_shows(
    seed: int, before: int, after: int, known_from: int
) -> None:
    """``known_from``: the transaction before which the snapshot has been taken, as far as we know."""
    play = Play(seed)
    for _ in range(before + after):
        play.commit()
    shown = play.history[before][1]
    relations = play.tree.relations

    def rows_of(relation_id: int) -> list[tuple[tuple[int, tuple[bytes | None, ...]], tuple[bytes | None, ...]]]:
        return [(id, row) for id, row in shown.items() if id[0] == relation_id]

    expected = Netting(relations, rows_of)
    for changes, _ in play.history[before + 1 :]:
        expected.add(changes)
    backlog = Backlog(play.tree)
    visibility = Visibility(before + 1, before + 1, frozenset())
    for xid, (changes, _) in enumerate(play.history):
        if xid == min(known_from, before + after):
            backlog.shown(visibility)
        if xid:
            backlog.add(100 + xid, xid, changes)
    netted = backlog.netted(rows_of)
    assert netted.net == expected.net
    assert netted.emptied == expected.emptied
    assert backlog.upto == (100 + before + after if before + after else 0)
    held = {id: change.new for id, change in netted.net.items()}
    after_all = {id: row for id, row in play.history[-1][1].items() if id[0] in relations}
    now = {id: row for id, row in {**shown, **held}.items() if row is not None and id[0] in relations}
    assert now == after_all


def test_a_row_that_changes_often_is_kept_once() -> None:
    play = Play(1)
    while not (rows := play.history[-1][1]) or not any(id[0] in play.tree.relations for id in rows):
        play.commit()
    backlog = Backlog(play.tree)
    backlog.shown(Visibility(1, 1, frozenset()))
    changes, _ = play.history[-1]
    for lsn in range(1, 1_000):
        backlog.add(lsn, lsn, changes)
    assert len(backlog.netted(lambda _: ()).named) <= len(changes)
