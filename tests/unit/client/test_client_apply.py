"""Incoming changes meeting a real SQLite database, with and without local changes pending."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from tests.unit.client.client_scene import TABLES, captured_database, entries_of, stamp_at

from syncline.client.apply import Bindings, Plan, RowId, UnknownRelation, plan_rows, plan_transaction
from syncline.client.execution import leaving, pending_of, release
from syncline.client.keeping import Keeping
from syncline.client.merging import Pending
from syncline.client.oplog import Times, tags_of
from syncline.client.references import References
from syncline.client.schema import Table
from syncline.client.staged import Staged
from syncline.proto.values import (
    ALTER_ADD_COLUMN,
    Change,
    Column,
    Delete,
    Gone,
    Insert,
    Migrate,
    MigrationColumn,
    MigrationForeignKey,
    MigrationTable,
    Relation,
    Transaction,
    Update,
)

# The server names the columns in another order than the device stores them.
SERVER = Relation(7, "public", "projects", (Column("name", "text"), Column("id", "uuid", primary_key=True)))
RELATIONS = {7: SERVER}


class Device:
    """A device named "me" with the tables of the scene."""

    def __init__(self) -> None:
        self.connection = captured_database()

    def write(self, at_ms: int, *statements: str) -> None:
        for sql in statements:
            self.connection.execute(sql)
        stamp_at(self.connection, at_ms)

    def echo(self, at_ms: int, *changes: Change) -> None:
        """The local transaction of ``at_ms`` comes back, and brings ``changes``."""
        left = leaving(self.connection, at_ms, TABLES)
        release(self.connection, at_ms)
        self.receive(*changes, origin="me", at_ms=at_ms, left=left)

    def run_gone(self, *gones: Gone) -> None:
        staged = Staged()
        staged.put_gone(self.connection, gones, Bindings(RELATIONS, TABLES))
        self.move(staged)

    def move(self, staged: Staged, inserts: Sequence[Insert] = ()) -> None:
        self.begin(inserts)
        keeping = Keeping(self.connection, "me", References(TABLES))
        staged.move(self.connection, "me", TABLES, keeping)
        keeping.end()
        self.connection.execute("UPDATE _syncline_state SET capture = 1")

    def begin(self, changes: Sequence[Change]) -> None:
        self.connection.execute(
            "UPDATE _syncline_state SET capture = 0, seen_ms = max(seen_ms, ?)",
            (Times().with_tags(tags_of(changes)).of_postgres,),
        )

    def receive(
        self, *changes: Change, origin: str = "postgres_1", at_ms: int = 1_000, left: Sequence[RowId] = ()
    ) -> Plan:
        transaction = Transaction(at_ms, b"1", changes, origin, 1)
        plan = plan_transaction(
            transaction,
            RELATIONS,
            TABLES,
            pending=self.pending(changes),
            tracked=self.tracked(),
            known_versions=frozenset({"1"}),
            leaving=left,
        )
        return self.run(plan, changes)

    def deliver(self, *inserts: Insert) -> None:
        staged = Staged()
        staged.put(self.connection, inserts, Bindings(RELATIONS, TABLES))
        self.move(staged, inserts)

    def run(self, plan: Plan, changes: Sequence[Change]) -> Plan:
        self.begin(changes)
        for sql, rows in (*plan.steps, *plan.tag_steps):
            for row in rows:
                self.connection.execute(sql, row)
        self.connection.execute("UPDATE _syncline_state SET capture = 1")
        return plan

    def pending(self, changes: Sequence[Change]) -> dict[RowId, Pending]:
        return pending_of(self.connection, "me", changes, RELATIONS, TABLES, {})

    def tracked(self) -> frozenset[str]:
        return frozenset(name for (name,) in self.connection.execute("SELECT table_name FROM _syncline_shadow"))

    @property
    def projects(self) -> list[tuple[object, ...]]:
        return self.connection.execute("SELECT id, name FROM projects ORDER BY id").fetchall()

    @property
    def leaving(self) -> list[str]:
        rows = self.connection.execute("SELECT key FROM _syncline_leaving ORDER BY key")
        return [json.loads(key)[0] for (key,) in rows]

    def observed(self, key: str) -> set[str]:
        """By the latest local write to the row."""
        (tags,) = self.connection.execute(
            "SELECT clear_tags FROM _syncline_oplog WHERE key = ? ORDER BY id DESC", (json.dumps([key]),)
        ).fetchone()
        return set(json.loads(tags))

    def tags(self, key: str) -> set[str]:
        rows = self.connection.execute(
            "SELECT tags FROM _syncline_shadow WHERE key = ?", (json.dumps([key]),)
        ).fetchall()
        return set(json.loads(rows[0][0])) if rows else set()


def row(key: str, name: str | None) -> tuple[bytes | None, ...]:
    return (None if name is None else name.encode(), key.encode())


def insert(key: str, name: str, *tags: str) -> Insert:
    return Insert(7, row(key, name), tags or ("postgres_1@0",))


def update(key: str, name: str, old: str, *tags: str) -> Update:
    return Update(7, row(key, name), row(key, old), tags)


def test_rows_come_and_go_as_the_server_says() -> None:
    device = Device()
    device.receive(insert("a", "one"), insert("b", "two", "postgres_1@5"))
    device.receive(update("a", "1", "one", "postgres_1@6"), Delete(7, row("b", "two")))
    assert device.projects == [("a", "1")]
    device.write(1_000, "UPDATE projects SET name = 'mine' WHERE id = 'a'")
    assert (device.observed("a"), device.tags("b")) == ({"postgres_1@6", "me@1000"}, set())


def test_an_update_of_a_row_not_seen_before_brings_it_whole() -> None:
    device = Device()
    device.receive(update("a", "new", "old", "postgres_1@6"))
    assert device.projects == [("a", "new")]


def test_incoming_changes_are_not_captured() -> None:
    device = Device()
    device.receive(insert("a", "one"))
    assert device.connection.execute("SELECT * FROM _syncline_oplog").fetchall() == []


def test_untracked_rows_cost_no_shadow_entry() -> None:
    device = Device()
    plan = device.receive(*(insert(str(number), "x", "postgres_1@7") for number in range(100)))
    assert [(len(rows)) for _, rows in plan.steps] == [100]
    assert plan.tag_steps == []
    device.deliver(*(insert(str(number), "x", "postgres_1@9") for number in range(200)))
    assert not device.tracked()


def test_a_write_has_observed_what_postgres_had_written_when_the_row_came() -> None:
    device = Device()
    device.deliver(insert("a", "x", "postgres_1@9"), insert("b", "x", "postgres_1@9", "other@5"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    assert device.observed("a") == {"postgres_1@9", "me@100"}
    assert device.observed("b") == {"postgres_1@9", "other@5", "me@100"}
    device.receive(insert("c", "y", "postgres_1@200"), at_ms=200)
    device.write(300, "DELETE FROM projects")
    assert device.observed("a") == {"postgres_1@9", "me@100", "me@300"}
    assert device.observed("c") == {"postgres_1@200", "me@300"}


def test_what_follows_a_rejected_write_stands_on_what_that_had_seen() -> None:
    device = Device()
    device.receive(insert("a", "theirs", "other@5"), insert("b", "theirs"))
    device.write(100, "INSERT INTO items (id, project_id) VALUES ('i', 'a')", "UPDATE projects SET name = 'mine'")
    device.write(101, "DELETE FROM projects WHERE id = 'a'")
    device.write(102, "DELETE FROM projects WHERE id = 'b'")
    device.echo(100, insert("a", "theirs", "other@5"), insert("b", "theirs"))
    assert device.projects == []


def test_what_has_come_since_the_rejected_write_was_made_stays() -> None:
    device = Device()
    device.receive(insert("a", "theirs", "other@5"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    device.write(101, "DELETE FROM projects WHERE id = 'a'")
    device.echo(100, insert("a", "news", "other@5", "third@6"))
    assert (device.projects, device.tags("a")) == ([("a", "news")], {"third@6"})


def test_a_row_that_becomes_untracked_again_loses_its_entry() -> None:
    device = Device()
    device.receive(insert("a", "x", "other@5"))
    device.deliver(insert("a", "y"))
    assert device.tags("a") == set()


def test_a_local_write_that_was_beaten_is_not_seen_again_when_the_row_comes_once_more() -> None:
    device = Device()
    device.receive(insert("a", "first"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    device.receive(update("a", "later", "first", "other@200"), origin="other", at_ms=200)
    assert device.projects == [("a", "later")]
    # Our own write has arrived and changed nothing; it is not the echo, which may follow much later.
    device.receive(update("a", "later", "later", "other@200", "me@100"), at_ms=100)
    assert device.projects == [("a", "later")]


def test_a_row_that_leaves_stays_while_local_changes_to_it_are_pending() -> None:
    device = Device()
    device.receive(insert("a", "theirs", "other@5"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    device.receive(Gone(7, row("a", None)))
    assert (device.projects, device.tags("a")) == ([("a", "mine")], {"me@100"})
    device.echo(100)
    assert (device.projects, device.tags("a"), device.leaving) == ([], set(), [])


def test_a_row_that_leaves_stays_until_the_last_change_to_it_has_come_back() -> None:
    device = Device()
    device.receive(insert("a", "theirs"), insert("b", "theirs"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    device.write(101, "UPDATE projects SET name = 'mine again' WHERE id = 'a'")
    device.run_gone(Gone(7, row("a", None)), Gone(7, row("b", None)))
    device.echo(100)
    assert (device.projects, device.leaving) == ([("a", "mine again")], ["a"])
    device.echo(101)
    assert (device.projects, device.leaving) == ([], [])


def test_a_row_that_comes_back_before_its_change_does_is_here_to_stay() -> None:
    device = Device()
    device.receive(insert("a", "theirs"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    device.receive(Gone(7, row("a", None)))
    device.receive(insert("a", "again", "postgres_1@90"), at_ms=90)
    assert (device.projects, device.leaving) == ([("a", "mine")], [])
    device.echo(100)
    assert device.projects == [("a", "mine")]


def test_a_row_that_its_own_change_brings_back_is_here_to_stay() -> None:
    device = Device()
    device.receive(insert("a", "theirs"))
    device.write(100, "UPDATE projects SET name = 'mine'")
    device.receive(Gone(7, row("a", None)))
    device.echo(100, insert("a", "mine", "me@100"))
    assert (device.projects, device.leaving, device.tags("a")) == ([("a", "mine")], [], {"me@100"})


def test_the_parent_of_a_row_just_written_stays_until_that_has_come_back() -> None:
    device = Device()
    device.receive(insert("a", "theirs"))
    device.write(100, "INSERT INTO items (id, project_id) VALUES ('i', 'a')")
    device.receive(Gone(7, row("a", None)))
    assert device.projects == [("a", "theirs")]
    device.echo(100)
    assert device.projects == []


@pytest.mark.parametrize("pending", [False, True])
def test_the_last_change_to_a_row_within_a_transaction_counts(pending: bool) -> None:
    device = Device()
    device.receive(*(insert(key, "old") for key in "abc"))
    if pending:
        device.write(90, "UPDATE projects SET name = 'mine'")
    device.receive(insert("a", "new", "postgres_1@100"), Gone(7, row("a", None)), at_ms=100)
    device.receive(Gone(7, row("b", None)), insert("b", "new", "postgres_1@100"), at_ms=100)
    device.receive(update("c", "newer", "old", "o@100"), insert("c", "newest", "o@100"), at_ms=100)
    device.receive(Gone(7, row("never here", None)))
    shown = dict(device.projects)
    assert (shown["b"], shown["c"]) == ("new", "newest")
    assert shown.get("a") == ("mine" if pending else None)
    assert device.leaving == (["a"] if pending else [])


def test_a_batch_of_gone_rows_removes_them_and_their_tags() -> None:
    device = Device()
    device.receive(insert("a", "x", "other@5"), insert("b", "x"))
    device.run_gone(Gone(7, row("a", None)))
    assert (device.projects, device.tags("a")) == ([("b", "x")], set())


def test_a_pending_change_newer_than_the_incoming_one_stays_visible() -> None:
    device = Device()
    device.receive(insert("a", "old"))
    device.write(200, "UPDATE projects SET name = 'mine'")
    device.receive(update("a", "theirs", "old", "other@150"), origin="other", at_ms=150)
    assert device.projects == [("a", "mine")]
    assert device.tags("a") == {"other@150", "me@200"}


def test_a_pending_change_older_than_the_incoming_one_gives_way() -> None:
    device = Device()
    device.receive(insert("a", "old"))
    device.write(200, "UPDATE projects SET name = 'mine'")
    device.receive(update("a", "theirs", "old", "postgres_1@250"), at_ms=250)
    assert device.projects == [("a", "theirs")]


def test_a_tie_goes_to_postgres_and_else_to_the_larger_origin() -> None:
    for origin, winner in (("postgres_1", "theirs"), ("zoe", "theirs"), ("ann", "mine")):
        device = Device()
        device.receive(insert("a", "old"))
        device.write(200, "UPDATE projects SET name = 'mine'")
        device.receive(update("a", "theirs", "old", f"{origin}@200"), origin=origin, at_ms=200)
        assert device.projects == [("a", winner)], origin


def test_a_remote_delete_does_not_take_a_row_with_a_pending_update() -> None:
    device = Device()
    device.receive(insert("a", "old"))
    device.write(300, "UPDATE projects SET name = 'mine'")
    device.receive(Delete(7, row("a", "old")), at_ms=250)
    assert device.projects == [("a", "mine")]
    assert device.tags("a") == {"me@300"}


def test_a_pending_delete_hides_what_it_had_seen_and_nothing_else() -> None:
    device = Device()
    device.receive(insert("a", "old", "postgres_1@100"))
    device.write(200, "DELETE FROM projects")
    device.deliver(insert("a", "old", "postgres_1@100"))
    assert device.projects == []
    device.receive(update("a", "theirs", "old", "postgres_1@100", "other@150"), origin="other", at_ms=150)
    assert device.projects == [("a", "theirs")]


def test_several_incoming_changes_to_a_pending_row_count_together() -> None:
    device = Device()
    device.receive(insert("a", "old"))
    device.write(200, "UPDATE projects SET name = 'mine'")
    changes: Sequence[Change] = [update("a", "1", "old", "o@250"), update("a", "1", "1", "o@250")]
    device.receive(*changes, origin="o", at_ms=250)
    assert device.projects == [("a", "1")]


def test_two_rows_may_swap_a_unique_value() -> None:
    device = Device()
    device.connection.execute("CREATE UNIQUE INDEX by_name ON projects (name)")
    device.receive(insert("a", "1"), insert("b", "2"))
    device.receive(update("a", "2", "1", "p@1"), update("b", "1", "2", "p@1"))
    assert device.projects == [("a", "2"), ("b", "1")]


def test_rows_of_a_relation_that_was_not_described_are_an_error() -> None:
    with pytest.raises(UnknownRelation, match="before describing"):
        Device().receive(Insert(99, (b"x",)))


def test_rows_of_a_table_without_migration_here_are_an_error() -> None:
    elsewhere = Relation(8, "public", "elsewhere", (Column("id", "text", primary_key=True),))
    with pytest.raises(UnknownRelation, match="no migration on this device"):
        plan_rows([Insert(8, (b"x",))], {8: elsewhere}, TABLES, pending={}, tracked=frozenset())


def migration(version: str) -> Migrate:
    columns = (
        MigrationColumn("id", "TEXT", "uuid"),
        MigrationColumn("name", "TEXT", "text"),
        MigrationColumn("note", "TEXT", "text"),
    )
    return Migrate(
        version,
        ((ALTER_ADD_COLUMN, "ALTER TABLE projects ADD COLUMN note TEXT"),),
        MigrationTable("projects", columns, (MigrationForeignKey(("note",), "members", ("team",)),), ("id",)),
    )


def test_a_migration_adds_its_column_and_captures_it_from_then_on() -> None:
    device = Device()
    plan = device.receive(migration("2"))
    assert plan.versions == ["2"]
    assert plan.tables["projects"].columns == ("id", "name", "note")
    device.write(100, "INSERT INTO projects VALUES ('a', 'b', 'c')")
    assert entries_of(device.connection)[0].new == {"id": "a", "name": "b", "note": "c"}


def test_a_migration_applied_before_is_skipped() -> None:
    plan = Device().receive(migration("1"))
    assert (plan.steps, plan.versions) == ([], [])


def test_a_bool_that_is_none_is_shown_as_it_is() -> None:
    """In Postgres the column is one of texts by now."""
    items = Relation(9, "public", "items", (Column("id", "uuid", primary_key=True), Column("done", "bool")))
    plan = plan_rows([Insert(9, (b"i", b"yes"))], {9: items}, TABLES, pending={}, tracked=frozenset())
    ((_, (values,)),) = plan.steps
    assert "yes" in values


def test_a_row_is_left_out_whose_number_is_none() -> None:
    counters = Table(7, "counters", ("id", "n"), ("int4", "int4"), ("id",))
    inserts = [Insert(9, (key, b"1")) for key in (b"1", b"one", b"2.5")]
    plan = plan_rows(inserts, {9: counters.relation}, {"counters": counters}, pending={}, tracked=frozenset())
    assert [values for _, rows in plan.steps for values in rows] == [(1, 1)]
