"""Rows that come and go, with histories that lose some, or make some up, and histories that do not."""

from __future__ import annotations

import random

import pytest
from tests.consistency import rows
from tests.consistency.checks import judge
from tests.consistency.evidence import Evidence
from tests.consistency.histories import (
    COMMITTED,
    FAILED,
    Anew,
    Began,
    Ended,
    Event,
    History,
    Read,
    Rows,
    Snapshot,
    Vector,
    history,
)
from tests.consistency.process import told
from tests.consistency.schema import TABLES
from tests.consistency.statements import Put, Removal, effects
from tests.consistency.workload import Statement, Workload

ELSEWHERE = ("journal", "counters", "registers", "mixed", "members")
# What keys begin with, and those that a row refers to.
KEYS = {
    "fleeting": "f",
    "lefts": "p",
    "rights": "p",
    "parents": "q",
    "cascades": "c",
    "nullings": "n",
    "restricts": "r",
    "nodes": "n",
    "rooms": "h/",
    "beds": "b",
}
PARENTS = {"cascades": "q", "nullings": "q", "restricts": "q", "nodes": "n", "beds": "h/"}
NOBODY: dict[str, int] = {}


def snapshot(counters: Vector | None = None, **tables: Rows) -> Snapshot:
    empty: dict[str, Rows] = {table.name: {} for table in TABLES}
    return {**empty, "counters": {party: (number,) for party, number in (counters or {}).items()}, **tables}


def seen(counters: Vector | None = None, *, at: float = 0.0, **tables: Rows) -> Read:
    return Read(at, snapshot(counters, **tables))


def did(number: int, *statements: Statement, saw: Vector | None = NOBODY, outcome: str = COMMITTED) -> list[Event]:
    """``saw`` None: nobody knows, for it was killed."""
    return [Began(float(number), number, (), told(statements)), Ended(float(number), number, outcome, saw)]


def add(value: str, key: str = "f1") -> Statement:
    return "INSERT INTO fleeting (id, value) VALUES (?, ?) ON CONFLICT (id) DO NOTHING", key, value


def drop(table: str = "fleeting", key: str = "f1") -> Statement:
    return f"DELETE FROM {table} WHERE id = ?", key


def child(value: str, parent: str = "q1", table: str = "cascades", key: str = "c1") -> Statement:
    sql = (
        f"INSERT INTO {table} (id, parent, note) SELECT ?, id, ? FROM parents WHERE id = ? ON CONFLICT (id) DO NOTHING"
    )
    return sql, key, value, parent


def move(value: str, parent: str, key: str = "c1") -> Statement:
    sql = (
        "UPDATE cascades SET parent = ?, note = ? WHERE id = ? AND EXISTS (SELECT 1 FROM parents WHERE parents.id = ?)"
    )
    return sql, parent, value, key, parent


def leaf(value: str, key: str, up: str) -> Statement:
    sql = "INSERT INTO nodes (id, up, note) SELECT ?, id, ? FROM nodes WHERE id = ? ON CONFLICT (id) DO NOTHING"
    return sql, key, value, up


def vanished(*histories: History, there: Snapshot | None = None, **rest: object) -> list[str]:
    evidence = Evidence(histories, postgres=snapshot() if there is None else there, **rest)  # type: ignore[arg-type]
    return [anomaly.what for anomaly in rows.nothing_vanishes(evidence)]


def invented(*histories: History, there: Snapshot | None = None) -> list[str]:
    evidence = Evidence(histories, postgres=snapshot() if there is None else there)
    return [anomaly.what for anomaly in rows.nothing_invented(evidence)]


ANN = history("ann", *did(1, add("ann:1.0")), seen({"ann": 1}, fleeting={"f1": ("ann:1.0",)}))


# --- what statements do -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
def test_what_is_drawn_is_understood(direct: bool) -> None:
    workload, found = Workload("ann", random.Random(1), direct=direct), set()
    for number in range(1, 2_000):
        for statement in workload.draw(number).statements:
            (text,) = told([statement])
            if any(f" {table} " in text for table in ELSEWHERE):
                assert list(effects([text])) == []
                continue
            (effect,) = effects([text])
            assert effect.key.startswith(KEYS[effect.table])
            if isinstance(effect, Put):
                assert effect.value.startswith(f"ann:{number}.")
                assert effect.parent is None or effect.parent.startswith(PARENTS[effect.table])
            found.add((type(effect), effect.table))
    assert found == {(effect, table) for effect in (Put, Removal) for table in rows.VALUES}


def test_a_child_says_what_it_refers_to() -> None:
    bed = "INSERT INTO beds (id, house, number, note) SELECT ?, house, number, ? FROM rooms WHERE house = 'h'"
    statements = [child("v"), move("v", "q2"), leaf("v", "n2", "n1"), (bed, "b1", "v", "3")]
    assert [effect.parent for effect in effects(told(statements)) if isinstance(effect, Put)] == [
        "q1",
        "q2",
        "n1",
        "h/3",
    ]


# --- what is there stays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bob",
    [
        did(1, drop(), saw={"ann": 1}),
        did(1, drop(), saw=None),
        [*did(1, add("bob:1.0"), saw={"ann": 1}), *did(2, drop(), saw={"ann": 1, "bob": 1})],
    ],
    ids=["had seen it", "nobody knows what it had seen", "had overwritten it"],
)
def test_who_has_seen_a_row_may_delete_it(bob: list[Event]) -> None:
    assert vanished(ANN, history("bob", *bob)) == []


def test_a_delete_that_has_not_seen_a_row_does_not_remove_it() -> None:
    """A server on which a delete always wins."""
    said = vanished(ANN, history("bob", *did(1, drop(), saw={"ann": 0})))
    assert said == [
        "ann wrote fleeting f1 by 1, nobody who had seen that has deleted it, and it is not there in the end"
    ]


def test_a_row_that_nobody_has_deleted_is_missed_by_whoever_has_that_transaction() -> None:
    for kind, found in (("sql", 1), ("python", 1), ("npm", 0)):
        readers = [history("cid", seen(has), kind=kind) for has in ({"ann": 1}, {"ann": 0})]
        still = snapshot(fleeting={"f1": ("ann:1.0",)})
        assert [len(vanished(ANN, cid, there=still)) for cid in readers] == [found, 0]


def test_a_delete_counts_for_a_reader_who_has_it() -> None:
    bob, still = history("bob", *did(1, drop(), saw={"ann": 1})), snapshot(fleeting={"f1": ("dee:1.0",)})
    for has, found in ((0, 1), (1, 0)):
        cid = history("cid", seen({"ann": 1, "bob": has}), kind="sql")
        assert len(vanished(ANN, bob, cid, there=still)) == found


def test_an_own_delete_counts_if_it_came_later() -> None:
    for number, statements, found in ((1, (add("ann:1.1"), drop()), 0), (1, (drop(), add("ann:1.1")), 1)):
        ann = history("ann", *did(number, *statements), seen({}, fleeting={"f1": ("ann:1.1",)}))
        assert len(vanished(ann)) == found
    ann = history("ann", *did(1, add("ann:1.0")), seen({"ann": 1}, fleeting={"f1": ("ann:1.0",)}), *did(2, drop()))
    assert vanished(ann) == []


def test_what_had_no_effect_or_was_rejected_is_not_missed() -> None:
    assert vanished(history("ann", *did(1, add("ann:1.0")))) == []
    assert vanished(ANN, rejected={("ann", 1): "22P02"}) == []
    failed = [*did(1, add("ann:1.0"), outcome=FAILED), seen({}, fleeting={"f1": ("ann:1.0",)})]
    assert vanished(history("ann", *failed)) == []


def test_a_delete_that_failed_or_was_rejected_has_removed_nothing() -> None:
    bob = did(1, drop(), saw={"ann": 1})
    assert len(vanished(ANN, history("bob", *did(1, drop(), saw={"ann": 1}, outcome=FAILED)))) == 1
    assert len(vanished(ANN, history("bob", *bob), rejected={("bob", 1): "22P02"})) == 1
    reader = history("bob", *bob, seen({"ann": 1, "bob": 1}))
    still = snapshot(fleeting={"f1": ("ann:1.0",)})
    assert vanished(ANN, reader, there=still, rejected={("bob", 1): "22P02"}) == [], "it sees its own until it hears"


def test_an_npm_device_says_in_a_delete_what_it_has_seen_a_moment_later() -> None:
    for later, found in (([seen({"ann": 0}, at=9.0)], 1), ([seen({"ann": 1}, at=3.1)], 0), ([], 0)):
        bob = history("bob", *did(1, drop(), saw={"ann": 0}), *later, kind="npm")
        assert len(vanished(ANN, bob)) == found
    bob = history("bob", *did(1, drop(), saw={"ann": 0}), Anew(2.0), seen({"ann": 0}, at=9.0), kind="npm")
    assert vanished(ANN, bob) == []


def test_what_direct_sql_wrote_is_known_by_its_time() -> None:
    """To whoever has its author's transaction before it may have a time that covers it; and so it has none at all
    where the stream was lost."""
    first, second = did(1), did(2, add("sql0:2.0"))
    sql = history("sql0", *first, *second, seen({}, fleeting={"f1": ("sql0:2.0",)}), kind="sql")
    bobs = [history("bob", *did(1, drop(), saw={"sql0": number})) for number in (0, 1)]
    assert [len(vanished(sql, bob)) for bob in bobs] == [1, 0]
    assert vanished(sql, bobs[0], gaps=((1.5, 4.0),)) == []


def test_a_device_hides_what_direct_sql_wrote_under_a_delete_of_its_own() -> None:
    sql = history("sql0", *did(1), *did(2, add("sql0:2.0")), seen({}, fleeting={"f1": ("sql0:2.0",)}), kind="sql")
    still = snapshot(fleeting={"f1": ("sql0:2.0",)})
    bob = history("bob", *did(1, drop()), seen({"bob": 1, "sql0": 2}))
    assert vanished(sql, bob, there=still) == []
    assert len(vanished(ANN, bob, there=still)) == 0, "it has not come yet"
    over = history("sql0", *did(1, add("sql0:1.0"), saw={"ann": 1}), kind="sql")
    for has, found in ((1, 0), (0, 1)):
        reader = history("bob", *did(1, drop()), seen({"bob": 1, "ann": 1, "sql0": has}))
        assert len(vanished(ANN, over, reader, there=still)) == found
    cid = history("cid", seen({"bob": 1, "sql0": 2}))
    assert len(vanished(sql, history("bob", *did(1, drop())), cid, there=still)) == 1


# --- children ---------------------------------------------------------------------------------------------------------

CHILD = history("ann", *did(1, child("ann:1.0")), seen({"ann": 1}, cascades={"c1": ("q1", "ann:1.0")}))


def test_a_child_goes_with_its_parent_if_that_was_deleted_by_who_had_seen_it() -> None:
    assert vanished(CHILD, history("bob", *did(1, drop("parents", "q1"), saw={"ann": 1}))) == []


def test_a_delete_of_a_parent_does_not_remove_children_that_it_has_not_seen() -> None:
    """A server that cascades over them."""
    assert len(vanished(CHILD, history("bob", *did(1, drop("parents", "q1"), saw={"ann": 0})))) == 1


def test_a_child_does_not_go_with_the_parent_of_others() -> None:
    assert len(vanished(CHILD, history("bob", *did(1, drop("parents", "q2"), saw={"ann": 1})))) == 1


@pytest.mark.parametrize("table", ["nullings", "restricts"])
def test_a_child_that_is_not_deleted_with_its_parent_stays(table: str) -> None:
    ann = history("ann", *did(1, child("ann:1.0", table=table)), seen({}, **{table: {"c1": ("q1", "ann:1.0")}}))
    assert len(vanished(ann, history("bob", *did(1, drop("parents", "q1"), saw={"ann": 1})))) == 1


def test_a_child_that_was_moved_goes_with_its_other_parent() -> None:
    cid = history("cid", *did(1, move("cid:1.0", "q2"), saw={"ann": 1}))
    for saw, found in (({"ann": 1, "cid": 1}, 0), ({"ann": 1, "cid": 0}, 1)):
        bob = history("bob", *did(1, drop("parents", "q2"), saw=saw))
        assert len(vanished(CHILD, cid, bob)) == found


def test_what_a_child_of_an_earlier_life_referred_to_is_no_matter() -> None:
    old = did(1, child("ann:1.0", "q2"))
    ann = history(
        "ann",
        *old,
        *did(2, drop("cascades", "c1")),
        *did(3, child("ann:3.0")),
        seen(cascades={"c1": ("q1", "ann:3.0")}),
    )
    for parent, found in (("q1", 0), ("q2", 1)):
        assert len(vanished(ann, history("bob", *did(1, drop("parents", parent), saw={"ann": 3})))) == found


def test_a_leaf_goes_with_all_that_it_hangs_from() -> None:
    nodes = {"n03": ("n02", "ann:2.0")}
    ann = history(
        "ann", *did(1, leaf("ann:1.0", "n02", "n01")), *did(2, leaf("ann:2.0", "n03", "n02")), seen(nodes=nodes)
    )
    for key, found in (("n01", 0), ("n02", 0), ("n03", 0), ("n04", 1)):
        assert len(vanished(ann, history("bob", *did(1, drop("nodes", key), saw={"ann": 2})))) == found


# --- nothing else is there --------------------------------------------------------------------------------------------


def test_rows_hold_what_somebody_has_written_there_or_what_they_began_with() -> None:
    put = "INSERT INTO parents (id, title) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET title = excluded.title"
    ann = history("ann", *did(1, (put, "q1", "ann:1.0")))
    bob = history("bob", seen(parents={"q1": ("ann:1.0",), "q2": ("first",)}, lefts={"p1": ("", "")}))
    assert invented(ann, bob) == []


@pytest.mark.parametrize(
    "read",
    [
        seen(parents={"q1": (None,)}),
        seen(fleeting={"f2": ("ann:1.0",)}),
        seen(fleeting={"f1": ("ann:2.0",)}),
        seen(rooms={"h/1": (None,)}),
    ],
    ids=["a parent without its content", "of another row", "of a transaction that failed", "a composite key"],
)
def test_what_nobody_has_written_is_found_once(read: Read) -> None:
    ann = [*did(1, add("ann:1.0")), *did(2, add("ann:2.0"), outcome=FAILED)]
    bob = history("bob", read, seen(), read)
    assert len(invented(history("ann", *ann), bob)) == 1
    assert len(invented(history("ann", *ann), there=read.rows)) == 1


def test_a_parent_that_direct_sql_deleted_where_the_stream_was_lost_may_come_back_empty() -> None:
    """To be mended: see ``rows._emptied``."""
    sql = history("sql0", *did(1, drop("parents", "q1")), kind="sql")
    bob = history("bob", seen(parents={"q1": (None,)}))
    for gaps, found in ((((2.0, 3.0),), 0), (((4.0, 5.0),), 1)):
        assert len(rows.nothing_invented(Evidence([sql, bob], gaps=gaps))) == found


def test_both_are_among_the_checks() -> None:
    there = snapshot({"ann": 1}, parents={"q1": (None,)})
    said = {anomaly.check for anomaly in judge(Evidence([ANN], {}, there, {("ann", 1): 1}))}
    assert {"nothing vanishes", "nothing invented"} <= said
