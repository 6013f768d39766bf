"""How captured changes become device transactions, and which tags they have observed."""

from __future__ import annotations

import json
import sqlite3

import pytest
from tests.unit.client.client_scene import ITEMS, PROJECTS, TABLES, captured_database, entries_of, stamp_at

from syncline.client import UsageError
from syncline.client import oplog as oplog_module
from syncline.client.oplog import (
    BEFORE_MAX,
    CLOCK_SKEW_MAX_MS,
    Outlines,
    Times,
    change_of,
    entry_id_of,
    lsn_bytes,
    next_commit_ms,
    observed_clock_ms,
    transactions,
    wire_row,
)
from syncline.client.stamping import stamp_local
from syncline.proto.assembly import Assembler, TransactionLimits, memory_of
from syncline.proto.merge import RowState, apply_write, write_of
from syncline.proto.ops import Begin
from syncline.proto.values import Delete, Insert, Migrate, Transaction, Update


def test_a_transaction_carries_whole_wire_rows_in_the_order_of_the_oplog() -> None:
    connection = captured_database()
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    stamp_at(connection, 100)
    connection.execute("INSERT INTO items VALUES ('i', 'p', NULL, 1, 9223372036854775807, 1.5, x'00ff')")
    connection.execute("UPDATE projects SET name = 'y'")
    connection.execute("DELETE FROM items")
    stamp_at(connection, 101)
    item = (b"i", b"p", None, b"t", b"9223372036854775807", b"1.5", b"\x00\xff")
    tags = ("me@100", "me@101")
    assert list(transactions(entries_of(connection), TABLES, Outlines())) == [
        Transaction(100, b"\0\0\0\1", (Insert(PROJECTS.id, (b"p", b"x"), ()),)),
        Transaction(
            101,
            b"\0\0\0\5",
            (
                Insert(ITEMS.id, item, ()),
                Update(PROJECTS.id, (b"p", b"y"), (b"p", b"x"), tags),
                Delete(ITEMS.id, item, ("me@101",)),
            ),
        ),
    ]


def test_the_first_insert_of_a_row_has_observed_nothing() -> None:
    connection = captured_database()
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    stamp_at(connection, 100)
    assert entries_of(connection)[0].clear_tags == ()


def test_a_row_inserted_and_deleted_in_one_transaction_is_gone_everywhere() -> None:
    connection = captured_database()
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    connection.execute("DELETE FROM projects")
    stamp_at(connection, 100)
    state = RowState()
    for entry in entries_of(connection):
        state = apply_write(state, write_of(change_of(entry, PROJECTS), "me", entry.commit_ms))
    assert state.row is None


def test_a_later_change_has_observed_the_tag_of_the_earlier() -> None:
    connection = captured_database()
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    stamp_at(connection, 100)
    connection.execute("DELETE FROM projects")
    stamp_at(connection, 150)
    assert set(entries_of(connection)[1].clear_tags) == {"me@100", "me@150"}


def test_a_row_of_the_server_without_shadow_entry_carries_the_untracked_tag() -> None:
    connection = captured_database()
    connection.execute("UPDATE _syncline_state SET capture = 0")
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    connection.execute("UPDATE _syncline_state SET capture = 1")
    connection.execute("UPDATE projects SET name = 'y'")
    stamp_at(connection, 100)
    assert set(entries_of(connection)[0].clear_tags) == {"postgres_1@0", "me@100"}


def test_replacing_a_row_of_the_server_has_observed_it() -> None:
    connection = captured_database()
    connection.execute("UPDATE _syncline_state SET capture = 0")
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    connection.execute("UPDATE _syncline_state SET capture = 1")
    connection.execute("INSERT OR REPLACE INTO projects VALUES ('p', 'y')")
    stamp_at(connection, 100)
    assert all("postgres_1@0" in entry.clear_tags for entry in entries_of(connection))


def test_what_is_written_next_has_observed_what_the_pending_write_before_it_had() -> None:
    """That may be rejected, and then the row bears these tags again."""
    connection = of_the_server("other@7", "postgres_1@5")
    connection.execute("INSERT INTO items (id, project_id) VALUES ('i', 'p')")
    stamp_at(connection, 100)
    connection.execute("UPDATE projects SET name = 'mine'")
    connection.execute("DELETE FROM projects")
    stamp_at(connection, 101)
    connection.execute("INSERT INTO projects VALUES ('p', 'again')")
    stamp_at(connection, 102)
    seen = {"other@7", "postgres_1@5"}
    of_project = [entry for entry in entries_of(connection) if entry.table_name == "projects"]
    assert [(entry.op, set(entry.clear_tags)) for entry in of_project] == [
        ("C", seen | {"me@100"}),
        ("U", seen | {"me@100", "me@101"}),
        ("D", seen | {"me@100", "me@101"}),
        ("I", seen),
    ]


def test_of_what_the_pending_writes_had_observed_the_newest_of_each_author_is_named() -> None:
    connection = of_the_server("a@b@9", "a@10", "postgres_1@5")
    for ms, tags in enumerate((("a@9", "a@b@10"), ("other@100", "postgres_1@5@6"), ("postgres_1@4",)), 100):
        connection.execute("UPDATE projects SET name = name || 'x'")
        stamp_at(connection, ms)
        connection.execute("UPDATE _syncline_shadow SET tags = ?", (json.dumps([*tags, f"me@{ms}"]),))
    connection.execute("DELETE FROM projects")
    stamp_at(connection, 200)
    observed = entries_of(connection)[-1].clear_tags
    expected = ("a@10", "a@b@10", "me@102", "me@200", "other@100", "postgres_1@5", "postgres_1@5@6")
    assert tuple(sorted(observed)) == expected


def test_what_thousands_of_pending_writes_of_a_row_have_observed_stays_as_small_as_that_of_one() -> None:
    connection = of_the_server("other@7", "postgres_1@5")
    for ms in range(100, 2_100):
        connection.execute("UPDATE projects SET name = ?", (str(ms),))
        stamp_at(connection, ms)
    assert set(entries_of(connection)[-1].clear_tags) == {"other@7", "postgres_1@5", "me@2098", "me@2099"}


def test_of_very_many_authors_the_newest_are_named() -> None:
    connection = of_the_server(*(f"author {ms}@{ms}" for ms in range(1, BEFORE_MAX + 10)))
    for ms in (9_998, 9_999):
        connection.execute("UPDATE projects SET name = ?", (str(ms),))
        stamp_at(connection, ms)
    observed = set(entries_of(connection)[-1].clear_tags)
    assert observed == {f"author {ms}@{ms}" for ms in range(10, BEFORE_MAX + 10)} | {"me@9998", "me@9999"}


def test_stamping_looks_at_no_more_entries_of_a_row_than_it_needs() -> None:
    """However many of them are pending, and however many others there are."""

    def steps(connection: sqlite3.Connection) -> int:
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        connection.execute("INSERT INTO items (id, project_id) VALUES ('last', 'p')")
        connection.set_progress_handler(step, 1)
        stamp_at(connection, 9_999)
        connection.set_progress_handler(None, 0)
        return count

    few, many = of_the_server("other@7"), of_the_server("other@7")
    for connection, pending in ((few, 2), (many, 1_000)):
        for number in range(pending):
            connection.execute("INSERT INTO items (id, project_id) VALUES (?, 'p')", (f"i{number}",))
            stamp_at(connection, 100 + number)
    assert steps(many) < 1.5 * steps(few)


def of_the_server(*tags: str) -> sqlite3.Connection:
    """A device that has been sent a project with these tags."""
    connection = captured_database()
    connection.execute("UPDATE _syncline_state SET capture = 0")
    connection.execute("INSERT INTO projects VALUES ('p', 'x')")
    connection.execute("INSERT INTO _syncline_shadow VALUES ('projects', '[\"p\"]', ?)", (json.dumps(tags),))
    connection.execute("UPDATE _syncline_state SET capture = 1")
    return connection


def test_stamping_moves_the_tags_of_rows_on_and_forgets_deleted_ones() -> None:
    connection = captured_database()
    connection.execute("INSERT INTO projects VALUES ('p', 'x'), ('q', 'x')")
    stamp_at(connection, 100)
    connection.execute("DELETE FROM projects WHERE id = 'q'")
    connection.execute("UPDATE projects SET name = 'y'")
    stamp_at(connection, 101)
    assert connection.execute("SELECT key, tags FROM _syncline_shadow").fetchall() == [('["p"]', '["me@101"]')]


def test_columns_added_after_a_row_was_captured_are_null() -> None:
    assert wire_row({"id": "p"}, PROJECTS) == (b"p", None)


def test_timestamps_strictly_increase_even_when_the_clock_goes_back() -> None:
    assert next_commit_ms(now_ms=1_000, clock_ms=500) == 1_000
    assert next_commit_ms(now_ms=1_000, clock_ms=1_000) == 1_001
    assert next_commit_ms(now_ms=1, clock_ms=1_000) == 1_001


def test_the_clock_follows_what_has_been_seen_but_not_an_absurd_one() -> None:
    assert observed_clock_ms(10, Times(claimed=(1_500,)), now_ms=1_000) == 1_500
    assert observed_clock_ms(2_000, Times(claimed=(1_500,)), now_ms=1_000) == 2_000
    absurd = 1_001 + CLOCK_SKEW_MAX_MS
    assert observed_clock_ms(10, Times(claimed=(absurd,)), now_ms=1_000) == 10
    assert observed_clock_ms(10, Times(of_postgres=1_001, claimed=(absurd,)), now_ms=1_000) == absurd
    assert observed_clock_ms(10, Times(bounded=absurd), now_ms=1_000) == absurd


def test_positions_travel_as_four_bytes_and_empty_means_the_beginning() -> None:
    assert lsn_bytes(258) == b"\0\0\1\2"
    assert entry_id_of(b"\0\0\1\2") == 258
    assert entry_id_of(b"") == 0
    with pytest.raises(OverflowError):
        lsn_bytes(2**31)


WRITES = (
    "INSERT INTO projects VALUES ('p', 'x'), ('q', NULL)",
    "INSERT INTO items VALUES ('i', 'p', NULL, 1, 9223372036854775807, 1.5, x'00ff'), "
    "('j', 'q', char(10, 34, 233), NULL, NULL, NULL, zeroblob(300))",
    "UPDATE projects SET name = 'y'",
    "DELETE FROM items WHERE id = 'i'",
)


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_app_hears_of_what_takes_the_server_too_much_memory_by_the_server_s_own_count(
    monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    connection = captured_database()
    for sql in WRITES:
        connection.execute(sql)
    stamp_at(connection, 100)
    (before,) = transactions(entries_of(connection), TABLES, Outlines())
    memory = sum(memory_of(change) for change in before.changes if not isinstance(change, Migrate))
    limits = TransactionLimits(ops_max=100, bytes_max=1 << 20, memory_max=memory - beyond)

    server = Assembler(limits, lets_go=True)
    server.begin(Begin(100, b"\1", None, None, 0, False))
    for change in before.changes:
        server.add(change)
    assert bool(server.excess) == bool(beyond)

    monkeypatch.setattr(oplog_module, "LIMITS", limits)
    connection = captured_database()
    for sql in WRITES:
        connection.execute(sql)
    if beyond:
        with pytest.raises(UsageError, match="MiB of the server's memory"):
            stamp_local(connection, "me", 100, TABLES)
    else:
        assert stamp_local(connection, "me", 100, TABLES) is not None
