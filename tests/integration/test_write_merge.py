"""Device writes meeting the rows in Postgres: the worked examples of conflict resolution, without direct SQL's tags."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator

import pytest
from tests.integration.write_scene import Scene, scene, written

pytestmark = pytest.mark.every_major

SCHEMA = """
CREATE TABLE points (id text PRIMARY KEY, x text, y text);
CREATE TABLE parents (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE children (id text PRIMARY KEY, parent text NOT NULL REFERENCES parents);
CREATE TABLE marks (a text, n int8, PRIMARY KEY (n, a));
"""
P0 = "postgres_1@0"


@pytest.fixture
async def s(database: str) -> AsyncIterator[Scene]:
    async with scene(database, SCHEMA, "points", "parents", "children", "marks") as opened:
        yield opened


async def all_applied(s: Scene, *transactions: dict[str, object]) -> None:
    assert set(await s.statuses(*transactions)) == {"applied"}


async def test_writes_to_different_columns_both_stay_in_either_order(s: Scene) -> None:
    for row, order in (("1", (0, 1)), ("2", (1, 0))):
        await s.connection.execute("INSERT INTO points VALUES ($1, '0', '0')", row)
        writes = [
            written("a", 200 + int(row), s.update("points", row, "A", "0", changed=[1], seen=[P0])),
            written("b", 210 + int(row), s.update("points", row, "0", "B", changed=[2], seen=[P0])),
        ]
        await all_applied(s, *(writes[i] for i in order))
    assert await s.rows("points") == [("1", "A", "B"), ("2", "A", "B")]
    assert await s.tags("points", "1") == ["a@201", "b@211"]


async def test_the_later_write_to_the_same_column_wins_in_either_order(s: Scene) -> None:
    for row, order in (("1", (0, 1)), ("2", (1, 0))):
        await s.connection.execute("INSERT INTO points VALUES ($1, '0', '0')", row)
        writes = [
            written("a", 200 + int(row), s.update("points", row, "A", "0", changed=[1], seen=[P0])),
            written("b", 210 + int(row), s.update("points", row, "B", "0", changed=[1], seen=[P0])),
        ]
        await all_applied(s, *(writes[i] for i in order))
    assert await s.rows("points") == [("1", "B", "0"), ("2", "B", "0")]


async def test_at_the_same_millisecond_the_larger_origin_wins(s: Scene) -> None:
    await s.connection.execute("INSERT INTO points VALUES ('1', '0', '0')")
    await all_applied(
        s,
        written("b", 200, s.update("points", "1", "B", "0", changed=[1], seen=[P0])),
        written("a", 200, s.update("points", "1", "A", "0", changed=[1], seen=[P0])),
    )
    assert await s.rows("points") == [("1", "B", "0")]


@pytest.mark.parametrize("delete_first", [True, False])
async def test_an_update_the_delete_had_not_seen_keeps_or_revives_the_row(s: Scene, delete_first: bool) -> None:
    await s.connection.execute("INSERT INTO points VALUES ('1', 'x0', 'y0')")
    writes = [
        written("a", 200, s.delete("points", "1", "x0", "y0", seen=["a@200", P0])),
        written("b", 150, s.update("points", "1", "B", "y0", changed=[1], seen=["b@150", P0])),
    ]
    await all_applied(s, *(writes if delete_first else reversed(writes)))
    assert await s.rows("points") == [("1", "B", "y0")]
    assert await s.tags("points", "1") == ["b@150"]


async def test_a_delete_that_saw_everything_deletes_and_a_write_that_did_not_know_revives(s: Scene) -> None:
    await s.connection.execute("INSERT INTO points VALUES ('1', 'x0', 'y0')")
    await all_applied(
        s,
        written("a", 150, s.update("points", "1", "A", "y0", changed=[1], seen=["a@150", P0])),
        written("b", 160, s.delete("points", "1", "A", "y0", seen=["b@160", "a@150"])),
    )
    assert await s.rows("points") == []
    assert await s.tags("points", "1") == []
    await all_applied(s, written("c", 140, s.update("points", "1", "x0", "C", changed=[2], seen=[P0])))
    assert await s.rows("points") == [("1", "A", "C")]


async def test_an_insert_where_there_is_no_row_begins_anew_although_its_authors_clock_is_behind(s: Scene) -> None:
    await all_applied(
        s,
        written("a", 500, s.insert("points", "1", "x0", "y0")),
        written("b", 510, s.delete("points", "1", "x0", "y0", seen=["b@510", "a@500"])),
        written("d", 40, s.insert("points", "1", "x1", "y1")),
    )
    assert await s.rows("points") == [("1", "x1", "y1")]
    await all_applied(s, written("c", 200, s.update("points", "1", "x0", "C", changed=[2], seen=["a@500"])))
    assert await s.rows("points") == [("1", "x1", "C")]


async def test_an_insert_that_leaves_columns_out_takes_their_defaults_and_nothing_of_what_was_deleted(
    database: str,
) -> None:
    table = "CREATE TABLE wide (id text PRIMARY KEY, x text DEFAULT 'new', y text)"
    async with scene(database, table, "wide") as s:
        await all_applied(
            s,
            written("a", 500, s.insert("wide", "1", "x0", "y0")),
            written("b", 510, s.delete("wide", "1", "x0", "y0", seen=["a@500"])),
            written("c", 520, s.insert("wide", "1", None, "y1") | {"modified": [True, False, True]}),
        )
        assert await s.rows("wide") == [("1", "new", "y1")]


async def test_direct_sql_in_a_column_that_was_added_meanwhile_has_its_time(s: Scene) -> None:
    await all_applied(s, written("a", 100, s.insert("points", "1", "x0", "y0")))
    await s.connection.execute("UPDATE electric.shadow SET column_tags = column_tags[1:2]")
    await s.connection.execute("UPDATE points SET y = 'sql'")
    await s.absorb("points", "1", 1_000, changed=[2])
    xmin = await s.connection.fetchval("SELECT xmin::text FROM points")
    late = written("b", 900, s.update("points", "1", "x0", "B", changed=[2], seen=["a@100"]))
    assert [
        result["status"] for result in await s.apply(late | {"absorbed": {"xmins": {xmin: 1_000}, "gone": []}})
    ] == ["applied"]
    assert await s.rows("points") == [("1", "x0", "sql")]


async def test_what_direct_sql_counts_as_of_is_one_thing_and_when_it_wrote_another(s: Scene) -> None:
    """Its newest write was at 6, its clock has gone back: it had written at 7, in one column over a device at 9."""
    tags = "SELECT electric.overlaid($1, 6, $2, '{NULL, 20, 20, 10}', '0/10', false)"
    held = ["postgres_1@7", "a@9", "postgres_1@5@9", "a@3"]
    assert await s.connection.fetchval(tags, ["a@9", "a@6", *held[2:]], [None] * 4) == [
        *("postgres_1@6@9", "a@6", "postgres_1@5@9", "a@3")
    ]
    assert await s.connection.fetchval(tags, held, [None, 6, 7, 6]) == [
        *("postgres_1@6@7", "postgres_1@6@9", "postgres_1@6@9", "a@3")
    ]
    stamped = "SELECT electric.stamp('b', 8, '{a@4, postgres_1@6@9}', $1, true)"
    for seen, ms in (("postgres_1@6", 10), ("postgres_1@5", 8), ("a@9", 8)):
        assert await s.connection.fetchval(stamped, f'["{seen}"]') == ms


async def _now(s: Scene) -> str:
    """The tag of what direct SQL has just committed, in a millisecond of its own."""
    await s.connection.execute("SELECT pg_sleep(0.002)")
    ms: int = await s.connection.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    await s.connection.execute("SELECT pg_sleep(0.002)")
    return f"postgres_1@{ms}"


async def _buried_one_two_then_direct_x_y(s: Scene) -> str:
    """Ann's row ('one', 'two') is deleted, and direct SQL puts ('X', 'Y') there; the tag of that."""
    await all_applied(
        s,
        written("ann", 100, s.insert("points", "1", "one", "two")),
        written("ann", 110, s.delete("points", "1", "one", "two", seen=["ann@110", "ann@100"])),
    )
    await _now(s)
    await s.connection.execute("INSERT INTO points VALUES ('1', 'X', 'Y')")
    return await _now(s)


async def test_a_revival_brings_back_nothing_of_an_earlier_life_than_the_one_its_author_saw(s: Scene) -> None:
    later = await _buried_one_two_then_direct_x_y(s)
    await s.connection.execute("DELETE FROM points")
    await s.absorb("points", "1", 190, gone=["1", "X", "Y"])
    await all_applied(s, written("bob", 200, s.update("points", "1", "B", "Y", changed=[1], seen=["bob@200", later])))
    assert await s.rows("points") == [("1", "B", "Y")]


async def test_a_life_that_its_author_saw_end_with_direct_sql_is_waited_for(s: Scene) -> None:
    later = await _buried_one_two_then_direct_x_y(s)
    await s.connection.execute("DELETE FROM points")
    update = written("bob", 200, s.update("points", "1", "B", "Y", changed=[1], seen=["bob@200", later]))
    (result,) = await s.apply(update, absorbing=True)
    gone = f'{s.relids["points"]} ["1"]'
    assert (result["status"], result["gone"]) == ("unabsorbed", [gone])
    await s.absorb("points", "1", 190, gone=["1", "X", "Y"])
    (result,) = await s.apply(update | {"absorbed": {"gone": [gone]}}, absorbing=True)
    assert result["status"] == "applied"
    assert await s.rows("points") == [("1", "B", "Y")]


async def test_a_compensation_revives_nothing_of_an_earlier_life_either(s: Scene) -> None:
    later = await _buried_one_two_then_direct_x_y(s)
    await s.connection.execute("DELETE FROM points")
    await s.absorb("points", "1", 190, gone=["1", "X", "Y"])
    await all_applied(s, written("bob", 200, s.keep("points", "1", None, None, seen=["bob@200", later])))
    assert await s.rows("points") == [("1", "X", "Y")]


@pytest.mark.parametrize("deleted_twice", [False, True])
async def test_a_life_that_a_device_wrote_in_leaves_nothing_of_an_earlier_one(s: Scene, deleted_twice: bool) -> None:
    later = await _buried_one_two_then_direct_x_y(s)
    await all_applied(s, written("carol", 150, s.update("points", "1", "X", "C", changed=[2], seen=[later])))
    await s.connection.execute("DELETE FROM points")
    if deleted_twice:
        await all_applied(s, written("dave", 160, s.delete("points", "1", "X", "C", seen=["carol@150"])))
    await all_applied(s, written("bob", 200, s.update("points", "1", "B", "C", changed=[1], seen=["carol@150"])))
    assert await s.rows("points") == [("1", "B", "C")]


@pytest.mark.parametrize("later_life", [False, True])
async def test_who_saw_the_life_that_a_device_ended_gets_its_last_values_back(s: Scene, later_life: bool) -> None:
    await s.connection.execute("INSERT INTO points VALUES ('1', 'x0', 'y0')")
    seen = await _now(s)
    await s.connection.execute("UPDATE points SET y = 'y1'")
    await all_applied(s, written("ann", 100, s.delete("points", "1", "x0", "y1", seen=["ann@100", await _now(s)])))
    if later_life:  # which bob has not seen
        await s.connection.execute("INSERT INTO points VALUES ('1', 'X', 'Y')")
        await s.connection.execute("DELETE FROM points")
    await all_applied(s, written("bob", 200, s.update("points", "1", "B", "y0", changed=[1], seen=["bob@200", seen])))
    assert await s.rows("points") == [("1", "B", "y1")]


async def test_two_inserts_of_one_key_become_one_row_of_the_later(s: Scene) -> None:
    await all_applied(
        s,
        written("b", 110, s.insert("points", "1", "3", "4")),
        written("a", 100, s.insert("points", "1", "1", "2")),
    )
    assert await s.rows("points") == [("1", "3", "4")]
    assert await s.tags("points", "1") == ["a@100", "b@110"]
    await all_applied(s, written("a", 120, s.delete("points", "1", "1", "2", seen=["a@120", "a@100"])))
    assert await s.tags("points", "1") == ["b@110"]


async def test_a_compensation_keeps_a_parent_that_a_delete_did_not_know_was_used(s: Scene) -> None:
    await s.connection.execute("INSERT INTO parents VALUES ('p', 'n')")
    await all_applied(
        s,
        written("a", 200, s.insert("children", "c", "p"), s.keep("parents", "p", None, seen=["a@200", P0])),
        written("b", 250, s.delete("parents", "p", "n", seen=["b@250", P0])),
    )
    assert await s.rows("parents") == [("p", "n")]
    assert await s.tags("parents", "p") == ["a@200"]


async def test_a_compensation_revives_a_deleted_parent_before_the_child_that_needs_it(s: Scene) -> None:
    await s.connection.execute("INSERT INTO parents VALUES ('p', 'n')")
    await all_applied(
        s,
        written("b", 150, s.delete("parents", "p", "n", seen=["b@150", P0])),
        written("a", 200, s.insert("children", "c", "p"), s.keep("parents", "p", None, seen=["a@200", P0])),
    )
    assert await s.rows("parents") == [("p", "n")]
    assert await s.rows("children") == [("c", "p")]


async def test_a_parent_that_refers_to_itself_comes_back_for_its_child(database: str) -> None:
    async with scene(database, "CREATE TABLE folders (id text PRIMARY KEY, parent text REFERENCES folders)") as s:
        await s.electrify("folders")
        await s.connection.execute("INSERT INTO folders VALUES ('root', 'root')")
        await all_applied(s, written("a", 100, s.delete("folders", "root", None, seen=[P0])))
        await all_applied(s, written("b", 110, s.insert("folders", "child", "root")))
        assert await s.rows("folders") == [("child", "root"), ("root", "root")]


async def test_a_compensation_changes_no_value(s: Scene) -> None:
    await s.connection.execute("INSERT INTO parents VALUES ('p', 'n')")
    await all_applied(
        s,
        written("b", 180, s.update("parents", "p", "x", changed=[1], seen=["b@180"])),
        written("a", 200, s.keep("parents", "p", None, seen=["a@200", P0])),
    )
    assert await s.rows("parents") == [("p", "x")]
    assert await s.tags("parents", "p") == ["a@200", "b@180"]


async def test_delete_insert_and_use_in_one_transaction_leave_the_row_alive(s: Scene) -> None:
    await s.connection.execute("INSERT INTO parents VALUES ('p', 'n')")
    seen = ["a@200", P0]
    await all_applied(
        s,
        written(
            "a",
            200,
            s.delete("parents", "p", "n", seen=seen),
            s.insert("parents", "p", "again", seen=seen),
            s.insert("children", "c", "p"),
            s.keep("parents", "p", None, seen=seen),
        ),
    )
    assert await s.rows("parents") == [("p", "again")]
    assert await s.tags("parents", "p") == ["a@200"]


async def test_a_child_written_before_its_parent_in_one_transaction_is_put_in_order(s: Scene) -> None:
    await all_applied(s, written("a", 200, s.insert("children", "c", "p"), s.insert("parents", "p", "n")))
    await all_applied(
        s,
        written(
            "a",
            300,
            s.delete("parents", "p", "n", seen=["a@200", "a@300"]),
            s.delete("children", "c", "p", seen=["a@200", "a@300"]),
        ),
    )
    assert await s.rows("parents") == await s.rows("children") == []


async def test_an_observed_tag_stands_for_all_earlier_ones_of_its_origin(s: Scene) -> None:
    await s.connection.execute("INSERT INTO points VALUES ('1', 'x', 'y')")
    await all_applied(s, written("a", 200, s.delete("points", "1", "x", "y", seen=["postgres_1@1700000000000"])))
    assert await s.rows("points") == []


async def test_a_row_last_written_by_direct_sql_is_deleted_by_who_saw_that(s: Scene) -> None:
    await all_applied(s, written("a", 100, s.insert("points", "1", "x", "y")))
    await s.connection.execute("UPDATE points SET x = 'direct'")
    await s.absorb("points", "1", 140, changed=[1])
    await all_applied(s, written("b", 200, s.delete("points", "1", "x", "y", seen=["b@200", "a@100"])))
    assert await s.rows("points") == [("1", "direct", "y")]
    await s.connection.execute("UPDATE points SET x = 'again'")
    await s.absorb("points", "1", 150, changed=[1])
    await all_applied(s, written("a", 210, s.delete("points", "1", "x", "y", seen=["a@210", "postgres_1@150"])))
    assert await s.rows("points") == []


async def test_a_write_that_changes_nothing_still_sends_row_and_tags_to_the_stream(s: Scene) -> None:
    await all_applied(s, written("b", 300, s.insert("points", "1", "new", "y")))
    row_before, shadow_before = await _versions(s)
    await all_applied(s, written("a", 50, s.update("points", "1", "old", "y", changed=[1])))
    row_after, shadow_after = await _versions(s)
    assert await s.rows("points") == [("1", "new", "y")]
    assert row_after != row_before
    assert shadow_after != shadow_before
    assert row_after == shadow_after


async def _versions(s: Scene) -> tuple[str, str]:
    row = await s.connection.fetchval("SELECT xmin::text FROM points")
    return row, await s.connection.fetchval("SELECT xmin::text FROM electric.shadow")


async def test_keys_are_spelt_as_the_stream_spells_them_whatever_the_device_wrote(s: Scene) -> None:
    await all_applied(s, written("a", 100, s.insert("marks", 'q"\\\n\u0001é😀', "+007")))
    assert await s.connection.fetchval("SELECT key FROM electric.shadow") == '["q\\"\\\\\\n\\u0001é😀","7"]'
    await all_applied(s, written("a", 110, s.delete("marks", 'q"\\\n\u0001é😀', "7", seen=["a@110", "a@100"])))
    assert await s.rows("marks") == []


async def test_deleting_what_is_not_there_is_no_error(s: Scene) -> None:
    await all_applied(s, written("a", 100, s.delete("points", "1", "x", "y", seen=["a@100"])))
    assert await s.rows("points") == []


async def test_values_of_every_type_arrive_as_they_were_written(database: str) -> None:
    values = {
        "bool": "t", "int2": "-32768", "int4": "2147483647", "int8": "-9223372036854775808", "float4": "1.5e-45",
        "float8": "-Infinity", "text": "1 MB: " + "é" * 500_000, "varchar": "'; --", "uuid": "0" * 32,
        "date": "0001-01-01", "time": "23:59:59.999999", "timestamp": "2024-02-29T12:00:00.123456",
        "timestamptz": "2024-02-29 12:00:00Z", "json": '{"b":1, "a":[null]}', "jsonb": '{"b":1,"a":[null]}',
        "bytea": "\\x",
    }  # fmt: skip
    columns = ", ".join(f"c_{name} {name}" for name in values)
    async with scene(database, f"CREATE TABLE t (id int PRIMARY KEY, {columns})", "t") as s:
        await all_applied(s, written("a", 100, s.insert("t", "1", *values.values())))
        await all_applied(s, written("a", 101, s.insert("t", "2", *(None for _ in values))))
        row, nulls = await s.connection.fetch(
            f"SELECT {', '.join(f'c_{name}::text' for name in values)} FROM t ORDER BY id"
        )
        assert list(nulls) == [None] * len(values)
        expected = values | {
            "bool": "true", "float4": "1e-45", "uuid": "00000000-0000-0000-0000-000000000000",
            "timestamp": "2024-02-29 12:00:00.123456", "timestamptz": "2024-02-29 12:00:00+00",
            "jsonb": '{"a": [null], "b": 1}',
        }  # fmt: skip
        assert dict(zip(values, row, strict=True)) == expected
        await all_applied(s, written("a", 200, s.delete("t", "1", *values.values(), seen=["a@100", "a@200"])))
        await all_applied(s, written("b", 150, s.keep("t", "1", *(None for _ in values), seen=["a@100"])))
        (revived,) = await s.connection.fetch(
            f"SELECT {', '.join(f'c_{name}::text' for name in values)} FROM t WHERE id = 1"
        )
        assert tuple(revived) == tuple(row)


async def test_an_identity_column_takes_the_devices_values(database: str) -> None:
    always, default = "GENERATED ALWAYS AS IDENTITY", "GENERATED BY DEFAULT AS IDENTITY"
    table = f"CREATE TABLE t (id int {always} PRIMARY KEY, n int {default}, v text)"
    async with scene(database, table, "t") as s:
        await all_applied(
            s,
            written("a", 100, s.insert("t", "7", "8", "x")),
            written("a", 101, s.update("t", "7", "9", "y", changed=[1, 2], seen=["a@100"])),
            written("b", 90, s.update("t", "7", "0", "late", changed=[2])),
        )
        assert await s.rows("t") == [(7, 9, "y")]


async def test_the_transaction_says_first_whose_it_is(database: str) -> None:
    async with scene(database, SCHEMA, "points") as s:
        await s.connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        await all_applied(s, written("a", 100, s.insert("points", "1", "x", "y"), lsn=7))
        messages = await s.connection.fetch(
            "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1',"
            " 'publication_names', 'electric_publication', 'messages', 'true')"
        )
        kinds = [row["data"][:1] for row in messages]
        assert kinds[:2] == [b"B", b"M"]
        content = messages[1]["data"]
        assert b"syncline.tx\0" in content
        assert json.loads(content[content.index(b"{", content.index(b"syncline.tx")) :]) == {
            "client": "a",
            "ms": 100,
            "lsn": 7,
            "rejected": False,
        }
        assert [kind for kind in kinds[2:] if kind in b"IUD"] == [b"I", b"I", b"I"]  # clients, shadow, points


async def test_a_trigger_for_certain_columns_fires_for_those_alone(database: str) -> None:
    schema = """
    CREATE TABLE t (id text PRIMARY KEY, "a%s's" text, b int, "C" bool);
    CREATE TABLE fired (what text);
    CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO fired VALUES (TG_ARGV[0]); RETURN NULL; END $$;
    CREATE TRIGGER a AFTER UPDATE OF "a%s's" ON t FOR EACH ROW EXECUTE FUNCTION fire('a');
    CREATE TRIGGER b AFTER UPDATE OF b ON t FOR EACH ROW EXECUTE FUNCTION fire('b');
    CREATE TRIGGER c AFTER UPDATE OF "C" ON t FOR EACH ROW EXECUTE FUNCTION fire('c');
    """
    async with scene(database, schema, "t") as s:
        await all_applied(
            s,
            written("a", 100, s.insert("t", "1", "x", "1", "t")),
            written("a", 101, s.update("t", "1", "y", "2", "f", changed=[1, 3], seen=["a@100"])),
            written("b", 90, s.update("t", "1", "late", "3", "f", changed=[1, 2])),
        )
        assert await s.rows("t") == [("1", "y", 1, False)]
        assert sorted(row[0] for row in await s.rows("fired")) == ["a", "c"]
        await all_applied(s, written("b", 200, s.insert("t", "1", "z", "4", None)))
        assert await s.rows("t") == [("1", "z", 4, None)]


async def test_a_trigger_before_insert_does_not_run_for_a_row_that_is_there(database: str) -> None:
    schema = """
    CREATE TABLE t (id text PRIMARY KEY, v text);
    CREATE TABLE fired (what text);
    CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO fired VALUES (NEW.v); RETURN NEW; END $$;
    CREATE TRIGGER fire BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fire();
    INSERT INTO t VALUES ('direct', 'd');
    """
    async with scene(database, schema, "t") as s:
        await all_applied(
            s,
            written("a", 100, s.insert("t", "1", "first")),
            written("b", 101, s.insert("t", "1", "second")),
            written("b", 102, s.insert("t", "direct", "third")),
        )
        assert await s.rows("t") == [("1", "second"), ("direct", "third")]
        assert await s.rows("fired") == [("d",), ("first",)]


async def test_a_row_that_a_trigger_keeps_out_is_no_error(database: str) -> None:
    schema = """
    CREATE TABLE t (id text PRIMARY KEY, v text);
    CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER skip BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION skip();
    """
    async with scene(database, schema, "t") as s:
        kept_out = await s.statuses(
            written("a", 100, s.insert("t", "1", "first")),
            written("a", 101, s.update("t", "1", "second", changed=[1], seen=["a@100"])),
            written("a", 102, s.delete("t", "1", "second", seen=["a@102"])),
        )
        assert kept_out == ["unheeded", "unheeded", "applied"]
        assert await s.rows("t") == []
        assert await s.connection.fetch("SELECT FROM electric.shadow") == []


async def test_an_update_or_delete_that_a_trigger_keeps_from_being_done_leaves_the_tags_as_they_were(
    database: str,
) -> None:
    schema = """
    CREATE TABLE t (id text PRIMARY KEY, v text, w text);
    CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF old.w = 'fixed' THEN RETURN NULL; END IF; RETURN coalesce(new, old); END $$;
    CREATE TRIGGER skip BEFORE UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION skip();
    """
    async with scene(database, schema, "t") as s:
        await all_applied(s, written("a", 100, s.insert("t", "1", "first", "fixed")))
        before = await s.connection.fetch("SELECT tags, column_tags FROM electric.shadow")
        update = s.update("t", "1", "second", "fixed", changed=[1], seen=["a@100"])
        delete = s.delete("t", "1", "first", "fixed", seen=["a@100"])
        assert await s.statuses(written("b", 101, update), written("b", 102, delete)) == ["unheeded"] * 2
        assert await s.connection.fetch("SELECT tags, column_tags FROM electric.shadow") == before
        assert await s.connection.fetch("SELECT FROM electric.tombstones") == []
        assert await s.statuses(written("b", 101, update), written("b", 102, delete)) == ["duplicate"] * 2
        assert await s.rows("t") == [("1", "first", "fixed")]


async def test_a_rule_that_was_added_later_keeps_from_being_done_too(database: str) -> None:
    async with scene(database, "CREATE TABLE t (id text PRIMARY KEY, v text)", "t") as s:
        await s.connection.execute("CREATE RULE nothing AS ON DELETE TO t DO INSTEAD NOTHING")
        await all_applied(s, written("a", 100, s.insert("t", "1", "first")))
        assert await s.statuses(written("b", 101, s.delete("t", "1", "first", seen=["a@100"]))) == ["unheeded"]
        assert await s.rows("t") == [("1", "first")]
        assert await s.tags("t", "1") == ["a@100"]


async def test_what_triggers_change_besides_is_tagged_as_the_operation_is(database: str) -> None:
    schema = """
    CREATE TABLE t (id text PRIMARY KEY, v text, w text);
    CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.w := 'changed'; RETURN NEW; END $$;
    CREATE TRIGGER change BEFORE UPDATE ON t FOR EACH ROW WHEN (old.v <> new.v) EXECUTE FUNCTION change();
    """
    async with scene(database, schema, "t") as s:
        await all_applied(
            s,
            written("a", 100, s.insert("t", "1", "first", "first")),
            written("b", 102, s.update("t", "1", "second", "first", changed=[1], seen=["a@100"])),
            written("c", 101, s.update("t", "1", "first", "earlier", changed=[2], seen=["a@100"])),
        )
        assert await s.rows("t") == [("1", "second", "changed")]


TREE = """
CREATE TABLE trees (
    id text, land text, parent text, PRIMARY KEY (land, id), FOREIGN KEY (land, parent) REFERENCES trees
);
"""


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
async def test_rows_of_a_table_that_refer_to_one_another_are_inserted_in_any_order(
    order: tuple[int, ...], database: str
) -> None:
    """A device checks foreign keys at the end of a statement or of the transaction."""
    async with scene(database, TREE, "trees") as s:
        rows = [("1", None), ("2", "1"), ("3", "2"), ("4", "2")]
        ops = [s.insert("trees", rows[place][0], "se", rows[place][1]) for place in order]
        again = [s.update("trees", "3", "se", "1", changed=[2], seen=["a@100"])]
        await all_applied(s, written("a", 100, *ops, *again))
        assert await s.rows("trees") == [("1", "se", None), ("2", "se", "1"), ("3", "se", "1"), ("4", "se", "2")]


async def test_a_row_may_come_to_refer_to_one_that_is_inserted_after_it(database: str) -> None:
    async with scene(database, TREE, "trees") as s:
        await all_applied(
            s,
            written("a", 100, s.insert("trees", "1", "se", None)),
            written(
                "a",
                101,
                s.update("trees", "1", "se", "2", changed=[2], seen=["a@100"]),
                s.insert("trees", "2", "se", "3"),
                s.insert("trees", "3", "se", None),
            ),
        )
        assert await s.rows("trees") == [("1", "se", "2"), ("2", "se", "3"), ("3", "se", None)]


async def test_rows_that_refer_to_one_another_in_a_circle_keep_the_order_in_which_they_can_be_written(
    database: str,
) -> None:
    async with scene(database, TREE, "trees") as s:
        await all_applied(
            s,
            written(
                "a",
                100,
                s.insert("trees", "2", "se", "1"),
                s.insert("trees", "1", "se", None),
                s.insert("trees", "4", "se", None),
                s.insert("trees", "5", "se", "4"),
                s.update("trees", "4", "se", "5", changed=[2], seen=["a@100"]),
            ),
        )
        assert await s.rows("trees") == [("1", "se", None), ("2", "se", "1"), ("4", "se", "5"), ("5", "se", "4")]


@pytest.mark.parametrize("parent", ["the one before", "the first"])
async def test_many_rows_that_refer_to_one_another_are_put_in_order_within_the_time_a_batch_has(
    database: str, parent: str
) -> None:
    async with scene(database, TREE, "trees") as s:
        ids = [str(n) for n in range(30_000)]
        parents = ids[:-1] if parent == "the one before" else ["0"] * (len(ids) - 1)
        rows = [("0", "se", None), *((id, "se", of) for id, of in zip(ids[1:], parents, strict=True))]
        await s.connection.execute("SET statement_timeout = '60s'")
        ordered = json.loads(
            await s.connection.fetchval(
                "SELECT electric.parents_first($1)", json.dumps([s.insert("trees", *row) for row in reversed(rows)])
            )
        )
        if parent == "the one before":
            assert [op["row"][0] for op in ordered] == ids
        else:
            assert ordered[0]["row"][0] == "0"
            assert len(ordered) == len(ids)


async def test_a_long_transaction_is_put_in_order_within_the_time_a_batch_has(s: Scene) -> None:
    kept = [
        op
        for n in range(10_000)
        for op in (s.update("children", str(n), str(n), changed=[1]), s.keep("parents", str(n), None))
    ]
    deleted = [
        op
        for n in range(5_000)
        for op in (s.delete("parents", f"d{n}", "n", seen=[f"a@{n}"]), s.insert("parents", f"d{n}", "n"))
    ]
    await s.connection.execute("SET statement_timeout = '60s'")
    ordered = json.loads(
        await s.connection.fetchval("SELECT electric.parents_first($1)", json.dumps([*kept, *deleted, kept[1]]))
    )
    parents, children = ordered[: len(ordered) - 10_000], ordered[len(ordered) - 10_000 :]
    assert {op["op"] for op in children} == {"U"}
    assert [op["op"] for op in parents] == ["C"] * 10_001 + ["I"] * 5_000
    assert parents[10_001]["tags"] == ["a@0"]
