"""Each check, with histories that it must take and histories that it must not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from tests.consistency import endings, orders, sessions, snapshots
from tests.consistency.conflicts import conflicts
from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import (
    COMMITTED,
    FAILED,
    Anew,
    Began,
    Encoder,
    Ended,
    Event,
    History,
    Read,
    Rows,
    Snapshot,
    Started,
    Vector,
    Write,
    history,
)
from tests.consistency.orders import Edges, find_circle
from tests.consistency.schema import SLOTS

Check = Callable[[Evidence], list[Anomaly]]


def seen(counters: Vector | None = None, **tables: Rows) -> Read:
    """A snapshot with these transactions, whole, and these tables."""
    vector = counters or {}
    return Read(
        0.0,
        {
            "counters": {party: (number,) for party, number in vector.items()},
            "journal": {party: (number, number, 1) for party, number in vector.items() if number},
            **tables,
        },
    )


def wrote(number: int, *writes: Write, saw: Vector | None = None, outcome: str = COMMITTED) -> list[Event]:
    return [Began(float(number), number, writes), Ended(float(number), number, outcome, saw)]


def complaints(check: Check, *histories: History, **rest: object) -> list[str]:
    return [anomaly.what for anomaly in check(Evidence(histories, **rest))]  # type: ignore[arg-type]


def journal(*rows: tuple[str, int], counters: Vector, members: tuple[str, ...] = ()) -> Snapshot:
    """What Postgres holds in the end."""
    return {
        "journal": {f"{author}/{number % SLOTS}": (number, f"{author}:{number}") for author, number in rows},
        "counters": {party: (number,) for party, number in counters.items()},
        "members": {key: (key,) for key in members},
    }


# --- along the way ----------------------------------------------------------------------------------------------------


def test_a_party_that_sees_what_it_wrote_reads_its_writes() -> None:
    ann = history("ann", *wrote(1, saw={"ann": 0}), seen({"ann": 1}), *wrote(2, saw={"ann": 1}), seen({"ann": 2}))
    assert complaints(sessions.read_your_writes, ann) == []


@pytest.mark.parametrize(
    "events",
    [
        [*wrote(1), seen({"ann": 0})],
        [*wrote(1), *wrote(2, saw={"ann": 0})],
        [*wrote(1), Started(1.0), seen({"ann": 0})],
    ],
    ids=["in a snapshot", "in its next transaction", "after a restart"],
)
def test_a_party_that_does_not_see_what_it_wrote_is_found(events: list[Event]) -> None:
    assert len(complaints(sessions.read_your_writes, history("ann", *events))) == 1


def test_what_was_rolled_back_or_rejected_need_not_be_seen() -> None:
    assert complaints(sessions.read_your_writes, history("ann", *wrote(1, outcome=FAILED), seen({"ann": 0}))) == []
    ann = history("ann", *wrote(1), seen({"ann": 0}))
    assert complaints(sessions.read_your_writes, ann, rejected={("ann", 1): "22P02"}) == []


def test_an_own_value_before_the_last_one_is_found_and_one_of_somebody_else_is_none() -> None:
    writes = [*wrote(1, Write("registers", "r1", "a", "ann:1.0")), *wrote(2, Write("registers", "r1", "a", "ann:2.0"))]
    back = history("ann", *writes, register("ann:2.0"), register("ann:1.0"), register("ann:1.0"))
    assert len(sessions.older_own_values(back, Evidence())) == 1
    beaten = history("ann", *writes, register("ann:2.0"), register("bob:1.0"), register("ann:2.0"))
    assert sessions.older_own_values(beaten, Evidence()) == []
    assert sessions.older_own_values(back, Evidence(rejected={("ann", 2): "22P02"})) == []


def test_a_reader_for_whom_everything_grows_reads_monotonically() -> None:
    ann = history(
        "ann", seen({"bob": 1}, members={"e1": ("e1",)}), seen({"bob": 3}, members={"e1": ("e1",), "e2": ("e2",)})
    )
    assert complaints(sessions.monotonic_reads, ann) == []


def test_a_counter_that_falls_and_a_member_that_goes_are_found() -> None:
    assert complaints(sessions.monotonic_reads, history("ann", seen({"bob": 2}), seen({"bob": 1}))) == [
        "ann saw the counter of bob fall from 2 to 1 at 0.000"
    ]
    ann = history("ann", seen(members={"e1": ("e1",)}), Started(0.0), seen(members={}))
    assert complaints(sessions.monotonic_reads, ann) == ["ann saw e1 go from the members at 0.000"]


def test_after_it_has_fetched_everything_anew_a_new_session_begins() -> None:
    ann = history("ann", *wrote(3), seen({"ann": 3, "bob": 2}), Anew(1.0), seen({"ann": 1, "bob": 1}))
    for check in (sessions.read_your_writes, sessions.monotonic_reads):
        assert complaints(check, ann) == []


@pytest.mark.parametrize(
    ("deleted", "at", "reason", "found"),
    [
        ("rooms", 6.0, '23503 insert or update on table "beds" violates', 0),
        ("rooms", 6.0, "22P02 invalid input", 1),
        ("rooms", 4.9, '23503 insert or update on table "beds" violates', 1),
        ("parents", 6.0, '23503 insert or update on table "beds" violates', 1),
    ],
    ids=["a parent", "something else", "before", "another table's"],
)
def test_what_refers_to_a_row_that_was_deleted_where_the_stream_was_lost_may_be_rejected(
    deleted: str, at: float, reason: str, found: int
) -> None:
    told = f"DELETE FROM {deleted} WHERE house = 'h' AND number = ? ['1']"
    sql = history("sql0", Began(at, 1, told=(told,)), Ended(at, 1, COMMITTED, None), kind="sql")
    wrote = "INSERT INTO beds (id, house, number, note) SELECT ?, house, number, ? FR ['b2', 'cid:7.0', '{}']"
    for room, expected in (("1", found), ("11", 1)):
        cid = history("cid", Began(7.0, 7, told=(wrote.format(room),)), Ended(7.1, 7, COMMITTED, None))
        said = complaints(endings.nothing_rejected, cid, sql, rejected={("cid", 7): reason}, gaps=((7.0, 9.0),))
        assert len(said) == expected


BED = ("INSERT INTO beds (id, house, number, note) SELECT ?, house, number, ? FR ['b2', 'cid:7.0', '1']",)
NO_ROOM = '23503 insert or update on table "beds" violates'


@pytest.mark.parametrize(
    ("at", "rejected_at", "saw", "found"),
    [
        (99.0, 106.0, {}, 0),
        (99.0, None, {}, 1),
        (106.0, None, {}, 0),
        (106.0, None, {"bob": 1}, 0),
        (106.0, None, {"bob": 2}, 1),
        (500.0, None, {}, 1),
    ],
    ids=[
        "written before, rejected after",
        "rejected before",
        "written by one who has not heard",
        "who has seen what was written before",
        "who has seen what was written after",
        "long after",
    ],
)
def test_what_is_rejected_without_a_gap_that_its_author_has_not_passed_is_found(
    at: float, rejected_at: float | None, saw: Vector, found: int
) -> None:
    told = ("DELETE FROM rooms WHERE house = 'h' AND number = ? ['1']",)
    sql = history("sql0", Began(103.0, 1, told=told), Ended(103.0, 1, COMMITTED, None), kind="sql")
    bob = history(
        "bob",
        *(event for number in (1, 2) for event in (Began(104.0 + number, number), Ended(104.5, number, COMMITTED))),
    )
    cid = history("cid", Began(at, 7, told=BED), Ended(at + 0.1, 7, COMMITTED, saw))
    said = complaints(
        endings.nothing_rejected,
        cid,
        sql,
        bob,
        rejected={("cid", 7): NO_ROOM},
        rejected_at={} if rejected_at is None else {("cid", 7): rejected_at},
        gaps=((100.0, 105.5),),
    )
    assert len(said) == found


def test_what_was_refused_together_with_it_may_be_rejected_too() -> None:
    reason = '23503 insert or update on table "beds" violates'
    told = ("DELETE FROM rooms WHERE house = 'h' AND number = ? ['1']",)
    sql = history("sql0", Began(6.0, 1, told=told), Ended(6.0, 1, COMMITTED, None), kind="sql")
    bed = ("INSERT INTO beds (id, house, number, note) SELECT ?, house, number, ? FR ['b2', 'cid:7.0', '1']",)
    cid = history("cid", Began(7.0, 7, told=bed), Ended(7.1, 7, COMMITTED, None), *wrote(8), *wrote(9), kind="npm")
    said = complaints(
        endings.nothing_rejected,
        cid,
        sql,
        rejected={("cid", number): reason for number in (7, 8, 9)},
        together=[frozenset({("cid", 7), ("cid", 8)}), frozenset({("cid", 9)})],
        gaps=((7.0, 9.0),),
    )
    assert said == [f"9 of cid was rejected: {reason}"]


@pytest.mark.parametrize("row", [(4, 4, 1), (SLOTS, SLOTS, 1), (SLOTS, SLOTS + 3, 4)])
def test_a_journal_without_gaps_shows_writes_in_their_order(row: tuple[int, int, int]) -> None:
    ann = history("ann", seen(journal={"bob": row}))
    assert complaints(sessions.monotonic_writes, ann) == []


@pytest.mark.parametrize("row", [(3, 4, 1), (SLOTS, SLOTS + 3, 2), (SLOTS - 1, SLOTS + 3, 4)])
def test_a_gap_in_a_journal_is_found_unless_that_transaction_was_rejected(row: tuple[int, int, int]) -> None:
    ann = history("ann", seen(journal={"bob": row}))
    count, newest, oldest = row
    assert complaints(sessions.monotonic_writes, ann) == [
        f"ann saw {count} journal rows of bob, from {oldest} to {newest}, at 0.000"
    ]
    assert complaints(sessions.monotonic_writes, ann, rejected={("bob", 2): "22P02"}) == []
    assert len(complaints(sessions.monotonic_writes, ann, rejected={("bob", newest + 1): "22P02"})) == 1


def test_a_write_comes_after_what_its_author_had_read() -> None:
    bob = history("bob", seen({"cid": 5}), *wrote(1, saw={"cid": 6, "bob": 0}))
    assert complaints(sessions.writes_follow_reads, bob, history("ann", seen({"bob": 1, "cid": 6}))) == []
    assert complaints(sessions.writes_follow_reads, bob, history("ann", seen({"bob": 0, "cid": 0}))) == []


@pytest.mark.parametrize("saw", [{"cid": 6}, None], ids=["in the transaction", "in a snapshot before"])
def test_a_write_that_comes_before_what_its_author_had_read_is_found(saw: Vector | None) -> None:
    bob = history("bob", seen({"cid": 6}), *wrote(1, saw=saw))
    ann = history("ann", seen({"bob": 1, "cid": 5}), seen({"bob": 1, "cid": 5}))
    assert complaints(sessions.writes_follow_reads, bob, ann) == [
        "ann saw 1 of bob, who had seen 6 of cid, and 5 at 0.000"
    ]


# --- each snapshot ----------------------------------------------------------------------------------------------------


def test_whole_transactions_are_seen_whole() -> None:
    pair = {"p1": ("ann:1.0", "x")}
    assert complaints(snapshots.atomic_visibility, history("ann", seen({"ann": 1}, lefts=pair, rights=pair))) == []


@pytest.mark.parametrize(
    "read",
    [
        seen(lefts={"p1": ("ann:1.0", "x")}, rights={"p1": ("ann:2.0", "x")}),
        seen(lefts={"p1": ("ann:1.0", "x")}, rights={}),
        seen({"ann": 2}, journal={"ann": (1, 1, 1)}),
        seen({"ann": 1}, journal={}),
    ],
    ids=["different halves", "one half", "the counter first", "no journal"],
)
def test_half_a_transaction_is_found_once_for_as_long_as_it_is_seen(read: Read) -> None:
    assert len(complaints(snapshots.atomic_visibility, history("bob", read, read))) == 1


def test_references_that_lead_to_rows_or_to_nothing_are_sound() -> None:
    read = seen(
        parents={"q1": ("t",)},
        cascades={"c1": ("q1", "n")},
        nullings={"n1": (None, "n")},
        nodes={"n01": (None, "n"), "n02": ("n01", "n")},
        rooms={"h/1": ("t",)},
        beds={"b1": ("h", "1", "n")},
    )
    assert complaints(snapshots.no_dangling_reference, history("ann", read)) == []


@pytest.mark.parametrize(
    "read",
    [
        seen(parents={}, cascades={"c1": ("q1", "n")}),
        seen(nodes={"n02": ("n01", "n")}),
        seen(rooms={"h/2": ("t",)}, beds={"b1": ("h", "1", "n")}),
    ],
    ids=["a parent", "of the same table", "a composite key"],
)
def test_a_dangling_reference_is_found(read: Read) -> None:
    assert len(complaints(snapshots.no_dangling_reference, history("ann", read))) == 1


def test_the_npm_client_alone_shows_a_child_by_sql_without_the_parent_that_it_has_deleted() -> None:
    by_sql, by_device = (seen(parents={}, cascades={"c1": ("q1", f"{author}:1.0")}) for author in ("sql0", "bob"))
    assert complaints(snapshots.no_dangling_reference, history("ann", by_sql, kind="npm")) == []
    assert len(complaints(snapshots.no_dangling_reference, history("ann", by_device, kind="npm"))) == 1
    assert len(complaints(snapshots.no_dangling_reference, history("ann", by_sql))) == 1


# --- between readers --------------------------------------------------------------------------------------------------


def register(value: str) -> Read:
    return seen(registers={"r1": (value, "", "")})


def test_readers_who_miss_values_see_one_order() -> None:
    ann = history("ann", register("1"), register("2"), register("4"))
    bob = history("bob", register("1"), register("3"), register("4"))
    assert complaints(orders.one_order_per_key, ann, bob) == []


def test_two_readers_with_different_orders_are_found() -> None:
    ann, bob = history("ann", register("1"), register("2")), history("bob", register("2"), register("1"))
    assert complaints(orders.one_order_per_key, ann, bob) == ["registers r1 a: 1 then 2 (ann), 2 then 1 (bob)"]


def test_a_value_that_flickers_is_found_unless_it_was_rejected() -> None:
    ann = history("ann", register("bob:1.0"), register("cid:7.0"), register("bob:1.0"))
    assert len(complaints(orders.one_order_per_key, ann)) == 1
    assert complaints(orders.one_order_per_key, ann, rejected={("cid", 7): "22P02"}) == []


@pytest.mark.parametrize(("gaps", "found"), [((), 1), (((8.5, 9.0),), 0), (((1.0, 6.9),), 1), (((9.1, 9.5),), 1)])
def test_what_direct_sql_wrote_when_the_stream_was_lost_has_no_time(
    gaps: tuple[tuple[float, float], ...], found: int
) -> None:
    ann = history("ann", register("ann:1.0"), register("sql0:7.0"), register("ann:1.0"))
    sql = history("sql0", *wrote(7, Write("registers", "r1", "a", "sql0:7.0")), kind="sql")
    assert len(complaints(orders.one_order_per_key, ann, sql, gaps=gaps)) == found


def test_a_circle_is_found_wherever_it_is() -> None:
    chain: Edges = {str(n): {str(n + 1): "ann"} for n in range(5_000)}
    assert find_circle(chain) == []
    assert len(find_circle(chain | {"5000": {"2000": "bob"}})) == 3_001


# --- in the end -------------------------------------------------------------------------------------------------------


def test_parties_that_hold_what_postgres_holds_have_converged() -> None:
    there = {"parents": {"q1": ("t",)}}
    assert complaints(endings.convergence, dumps={"ann": {"parents": {"q1": ("t",)}}}, postgres=there) == []


@pytest.mark.parametrize("here", [{}, {"q1": ("u",)}, {"q1": ("t",), "q2": ("t",)}])
def test_a_party_that_holds_anything_else_is_found(here: Rows) -> None:
    there = {"parents": {"q1": ("t",)}}
    assert len(complaints(endings.convergence, dumps={"ann": {"parents": here}}, postgres=there)) == 1


MEMBER = Write("members", "e1", "id", "ann:1.0")


def test_all_that_was_committed_is_there() -> None:
    there = journal(("ann", 1), counters={"ann": 1}, members=("e1",))
    ann = history("ann", *wrote(1, MEMBER))
    assert complaints(endings.nothing_lost, ann, postgres=there, executions={("ann", 1): 1}) == []


@pytest.mark.parametrize(
    ("there", "executions"),
    [
        (journal(counters={"ann": 1}, members=("e1",)), {("ann", 1): 1}),
        (journal(("ann", 1), counters={"ann": 0}, members=("e1",)), {("ann", 1): 1}),
        (journal(("ann", 1), counters={"ann": 1}), {("ann", 1): 1}),
        (journal(("ann", 1), counters={"ann": 1}, members=("e1",)), {("ann", 2): 1}),
    ],
    ids=["the journal", "its counter", "the set", "all of it"],
)
def test_what_is_lost_is_found(there: Snapshot, executions: Mapping[tuple[str, int], int]) -> None:
    ann = history("ann", *wrote(1, MEMBER))
    assert len(complaints(endings.nothing_lost, ann, postgres=there, executions=executions)) == 1


@pytest.mark.parametrize(("lacking", "found"), [(1, 0), (2, 0), (3, 1), (SLOTS + 2, 1)])
def test_a_journal_holds_the_newest_transactions_of_each_author(lacking: int, found: int) -> None:
    """All have been carried out, but the journal has not the one that is ``lacking``: of two that share a slot the
    later has taken the place of the earlier."""
    numbers = range(1, SLOTS + 3)
    there = journal(*(("ann", number) for number in numbers if number != lacking), counters={"ann": SLOTS + 2})
    ann = history("ann", *(event for number in numbers for event in wrote(number)))
    executions = {("ann", number): 1 for number in numbers}
    assert len(complaints(endings.nothing_lost, ann, postgres=there, executions=executions)) == found


def test_what_was_rejected_is_not_lost_but_said() -> None:
    ann, rejected = history("ann", *wrote(1, MEMBER)), {("ann", 1): "22P02"}
    assert complaints(endings.nothing_lost, ann, postgres=journal(counters={"ann": 0}), rejected=rejected) == []
    assert complaints(endings.nothing_rejected, ann, rejected=rejected) == ["1 of ann was rejected: 22P02"]


def test_a_transaction_carried_out_twice_or_by_nobody_is_found() -> None:
    ann = history("ann", *wrote(1), *wrote(2, outcome=FAILED))
    assert complaints(endings.nothing_twice, ann, executions={("ann", 1): 1}) == []
    assert len(complaints(endings.nothing_twice, ann, executions={("ann", 1): 2})) == 1
    assert len(complaints(endings.nothing_twice, ann, executions={("ann", 1): 1, ("ann", 2): 1})) == 1


# --- histories themselves ---------------------------------------------------------------------------------------------


def test_a_history_reads_as_it_was_written_also_over_a_restart() -> None:
    events: list[Event] = [
        Started(1.0),
        seen({"ann": 1}, members={"e1": ("e1",)}),
        *wrote(1, MEMBER, saw={"ann": 0}),
        seen({"ann": 2}, members={}, parents={"q1": (None,)}),
    ]
    first, second = Encoder(), Encoder()
    lines = [first.line(event) for event in events] + [second.line(event) for event in events]
    assert list(History("ann", "python", lines)) == events * 2


def test_a_line_that_was_cut_short_is_left_out() -> None:
    lines = [Encoder().line(event) for event in wrote(1)]
    assert list(History("ann", "python", [*lines, '{"e":"begin","at":1.0'])) == wrote(1)


def test_what_was_begun_and_not_ended_is_open() -> None:
    (began, ended), (again, _) = wrote(1), wrote(2)
    assert history("ann", began).open_number() == 1
    assert history("ann", began, ended).open_number() is None
    assert history("ann", began, ended, again, seen()).open_number() == 2


def test_writes_conflict_if_neither_author_had_seen_the_other() -> None:
    ann = history("ann", *wrote(1, Write("registers", "r1", "a", "ann:1.0"), saw={"bob": 0}))
    blind = history("bob", *wrote(1, Write("registers", "r1", "a", "bob:1.0"), saw={"ann": 0}))
    seeing = history("bob", *wrote(1, Write("registers", "r1", "a", "bob:1.0"), saw={"ann": 1}))
    elsewhere = history("bob", *wrote(1, Write("registers", "r1", "b", "bob:1.0"), saw={"ann": 0}))
    assert [conflicts([ann, other]) for other in (blind, seeing, elsewhere)] == [2, 0, 0]
