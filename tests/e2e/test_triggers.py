"""Triggers of the application's do to what devices write what they do to anybody's writes, and every device learns of
it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conflict_scene import Kind, Rows, alone, conflict_scene, in_pairs, tick
from tests.npm.rig import eventually

pytestmark = pytest.mark.every_major

DAY_MS = 24 * 60 * 60 * 1000
NOTES = """
CREATE TABLE notes (id text PRIMARY KEY, text text, state text);
CREATE TABLE log (id text PRIMARY KEY, said text);
INSERT INTO notes VALUES ('1', 'one', 'new'), ('2', 'two', 'new');
CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $act$ BEGIN {body} END $act$;
CREATE TRIGGER act {when} ON notes FOR EACH ROW {condition} EXECUTE FUNCTION act();
"""
ONE, TWO = ("1", "one", "new"), ("2", "two", "new")


def notes(when: str, body: str, condition: str = "") -> str:
    return NOTES.format(when=when, body=body, condition=condition)


@in_pairs
@pytest.mark.parametrize(
    ("event", "write"),
    [
        ("INSERT", "INSERT INTO notes VALUES ('3', 'three', 'new')"),
        ("UPDATE", "UPDATE notes SET text = 'other' WHERE id = '1'"),
        ("DELETE", "DELETE FROM notes WHERE id = '1'"),
    ],
)
async def test_what_a_trigger_keeps_from_being_done_is_undone_on_the_device(
    kinds: Sequence[Kind], event: str, write: str, database: str, tmp_path: Path
) -> None:
    schema = notes(f"BEFORE {event}", "RETURN NULL;")
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log") as scene:
        ann, _ = scene.devices
        await ann.write(write)
        await scene.ends_with(notes=[ONE, TWO], log=[])
        await ann.write(write, "INSERT INTO log VALUES ('1', 'the rest of it is done')")
        await scene.ends_with(notes=[ONE, TWO], log=[("1", "the rest of it is done")])


@in_pairs
async def test_a_row_whose_delete_was_kept_from_being_done_is_like_any_other(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    schema = notes("BEFORE DELETE", "RETURN NULL;", "WHEN (old.state = 'new')")
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log") as scene:
        ann, bob = scene.devices
        await ann.write("DELETE FROM notes WHERE id = '1'")
        await scene.settled()
        await bob.write("UPDATE notes SET text = 'of bob' WHERE id = '1'")
        await ann.write("UPDATE notes SET state = 'old' WHERE id = '1'")
        await scene.ends_with(notes=[("1", "of bob", "old"), TWO], log=[])
        await bob.write("DELETE FROM notes WHERE id = '1'")
        await scene.ends_with(notes=[TWO], log=[])


@in_pairs
@pytest.mark.parametrize(
    ("body", "ends"),
    [
        ("UPDATE notes SET state = 'deleted' WHERE id = old.id; RETURN NULL;", [("1", "one", "deleted"), TWO]),
        ("DELETE FROM notes WHERE id = old.id; RETURN NULL;", [TWO]),
    ],
    ids=["marked", "deleted by itself"],
)
async def test_a_trigger_may_do_something_else_in_place_of_a_delete(
    kinds: Sequence[Kind], body: str, ends: Rows, database: str, tmp_path: Path
) -> None:
    schema = notes("BEFORE DELETE", body, "WHEN (pg_trigger_depth() = 0)")
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log") as scene:
        ann, _ = scene.devices
        await ann.write("DELETE FROM notes WHERE id = '1'")
        await scene.ends_with(notes=ends, log=[])


@in_pairs
async def test_a_trigger_may_insert_by_itself_or_under_another_key(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    schema = notes(
        "BEFORE INSERT",
        """
        IF new.state = 'upper' THEN new.id := upper(new.id); RETURN new; END IF;
        INSERT INTO notes VALUES (new.id, new.text, 'by trigger');
        RETURN NULL;
        """,
        "WHEN (pg_trigger_depth() = 0)",
    )
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log") as scene:
        ann, bob = scene.devices
        await ann.write("INSERT INTO notes VALUES ('a', 'a', 'upper')", "INSERT INTO notes VALUES ('b', 'b', 'new')")
        await scene.ends_with(notes=[ONE, TWO, ("A", "a", "upper"), ("b", "b", "by trigger")], log=[])
        await ann.write("UPDATE notes SET text = 'of ann' WHERE id = 'b'")
        await scene.settled()
        await bob.write("DELETE FROM notes WHERE id = 'b'")
        await scene.ends_with(notes=[ONE, TWO, ("A", "a", "upper")], log=[])


@in_pairs
async def test_who_is_beaten_learns_of_it_where_updates_that_change_nothing_are_suppressed(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    schema = """
    CREATE TABLE notes (id text PRIMARY KEY, text text, state text);
    INSERT INTO notes VALUES ('1', 'one', 'new'), ('2', 'two', 'new');
    CREATE TRIGGER z BEFORE UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
    """
    async with conflict_scene(database, tmp_path, kinds, schema, "notes") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await ann.write("UPDATE notes SET text = 'of ann' WHERE id = '1'")
        await ann.write("DELETE FROM notes WHERE id = '2'")
        await tick()
        await bob.write("UPDATE notes SET text = 'of bob'")
        await scene.delivers(bob)
        await scene.delivers(ann)
        await scene.ends_with(notes=[("1", "of bob", "new"), ("2", "of bob", "new")])


@in_pairs
@pytest.mark.parametrize("when", ["BEFORE UPDATE", "BEFORE UPDATE OF text"])
async def test_what_a_trigger_changes_besides_is_as_late_as_what_the_device_wrote(
    kinds: Sequence[Kind], when: str, database: str, tmp_path: Path
) -> None:
    schema = notes(when, "new.state := 'changed'; RETURN new;", "WHEN (old.text <> new.text)")
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log") as scene:
        ann, bob = scene.devices
        await scene.offline()
        await bob.write("UPDATE notes SET state = 'of bob' WHERE id = '1'")
        await tick()
        await ann.write("UPDATE notes SET text = 'of ann' WHERE id = '1'")
        await scene.delivers(ann)
        await scene.delivers(bob)
        await scene.ends_with(notes=[("1", "of ann", "changed"), TWO], log=[])


@in_pairs
async def test_what_a_trigger_writes_elsewhere_is_of_the_time_of_the_commit(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """Not of that of the device whose clock is a day ahead: it would win for a day."""
    schema = notes(
        "AFTER UPDATE",
        "INSERT INTO log VALUES (new.id, new.text); RETURN NULL;",
    )
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log", ahead_ms=(DAY_MS, 0)) as scene:
        ann, bob = scene.devices
        await scene.sql("INSERT INTO log VALUES ('1', 'before'), ('2', 'before')")
        await scene.settled()
        await scene.sql("DELETE FROM log")
        await scene.settled()
        await ann.write("UPDATE notes SET text = 'of ann'")
        await scene.settled()
        await bob.write("UPDATE log SET said = 'by bob' WHERE id = '1'", "DELETE FROM log WHERE id = '2'")
        await scene.ends_with(notes=[("1", "of ann", "new"), ("2", "of ann", "new")], log=[("1", "by bob")])


@alone
@pytest.mark.parametrize("sqlstate", ["53400", "40001"])
async def test_what_a_trigger_always_raises_is_rejected_alone_also_where_its_code_says_that_it_would_pass(
    kinds: Sequence[Kind], sqlstate: str, database: str, tmp_path: Path
) -> None:
    body = f"RAISE 'your quota is full' USING ERRCODE = '{sqlstate}';"
    async with conflict_scene(database, tmp_path, kinds, notes("BEFORE INSERT", body), "notes", "log") as scene:
        (ann,) = scene.devices
        await ann.write("INSERT INTO notes VALUES ('3', 'three', 'new')")
        await ann.write("INSERT INTO log VALUES ('1', 'later')")
        await scene.settled()
        assert (await scene.rows("notes"), await scene.rows("log")) == ([ONE, TWO], [("1", "later")])
        (refused,) = await scene.postgres.fetch("SELECT sqlstate, message, table_name, ops FROM electric.rejections")
        assert tuple(refused)[:3] == (sqlstate, "your quota is full", "notes")
        assert "three" in refused["ops"]


@alone
async def test_a_deadlock_or_a_conflict_of_a_trigger_that_passes_is_no_rejection(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """A sequence does not go back with the transaction: the trigger knows which try it is."""
    body = """
        CASE nextval('tries')
            WHEN 1 THEN RAISE serialization_failure;
            WHEN 2 THEN RAISE deadlock_detected;
            ELSE RETURN new;
        END CASE;
    """
    schema = "CREATE SEQUENCE tries;" + notes("BEFORE UPDATE", body)
    async with conflict_scene(database, tmp_path, kinds, schema, "notes", "log") as scene:
        (ann,) = scene.devices
        await ann.write("UPDATE notes SET text = 'other' WHERE id = '1'")
        await ann.write("INSERT INTO log VALUES ('1', 'later')")
        await scene.ends_with(notes=[("1", "other", "new"), TWO], log=[("1", "later")])
        assert await scene.postgres.fetchval("SELECT last_value FROM tries") == 3


@alone
async def test_a_write_that_is_the_victim_of_a_deadlock_is_done_afterwards(
    kinds: Sequence[Kind], database: str, tmp_path: Path
) -> None:
    """It has a row, and its trigger waits for a lock of a session that comes to wait for the row. The trigger sees to
    it that it is the one who looks for a circle: it waits as long as that takes, and the other one does not look."""
    body = """
        PERFORM set_config('lock_timeout', '0', true), set_config('deadlock_timeout', '2s', true);
        PERFORM pg_advisory_xact_lock(1);
        RETURN new;
    """
    async with conflict_scene(database, tmp_path, kinds, notes("AFTER UPDATE", body), "notes", "log") as scene:
        (ann,) = scene.devices
        other = scene.postgres
        await other.execute("SET deadlock_timeout = '1min'")

        async def waits() -> bool:
            return bool(
                await other.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            )

        async with other.transaction():
            await other.execute("SELECT pg_advisory_xact_lock(1)")
            await ann.write("UPDATE notes SET text = 'other' WHERE id = '1'")
            await ann.write("INSERT INTO log VALUES ('1', 'later')")
            await eventually(waits)
            await other.execute("SELECT FROM notes WHERE id = '1' FOR UPDATE")
        await scene.ends_with(notes=[("1", "other", "new"), TWO], log=[("1", "later")])
