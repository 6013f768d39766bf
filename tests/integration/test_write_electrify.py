"""Opening tables to devices."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import Any

import asyncpg
import pytest
from tests.integration.write_scene import scene, written

from syncline.actors.postgres.dialect import operations
from syncline.actors.postgres.electrify import (
    NotBootstrapped,
    ParentsNotElectrified,
    TableNotFound,
    TableUnsupported,
    electrify,
)

pytestmark = pytest.mark.every_major

EVERY_TYPE = """
CREATE TYPE mood AS ENUM ('sad', 'ok', 'very glad');
CREATE TABLE everything (
    k2 uuid, b bool, i2 int2, i4 int4 NOT NULL DEFAULT 7, i8 int8 UNIQUE, f4 float4, f8 float8 CHECK (f8 <> 1),
    t text, v varchar, v9 varchar(9), k1 text, d date, ti time, ts timestamp, tz timestamptz(3), j json, jb jsonb,
    by bytea, m mood, gone int, PRIMARY KEY (k1, k2)
);
ALTER TABLE everything DROP COLUMN gone;
CREATE INDEX by_mood ON everything (m, i4 DESC) INCLUDE (t);
CREATE INDEX by_half ON everything (t) WHERE b;
"""


async def test_the_applications_tables_get_no_trigger(database: str) -> None:
    """Of ours: those of its foreign keys are Postgres'."""
    tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t)"
    of_tables = "SELECT tgname FROM pg_trigger WHERE tgrelid IN ('t'::regclass, 'u'::regclass) ORDER BY 1"
    async with scene(database, tables) as s:
        before = await s.connection.fetch(of_tables)
        await s.electrify("t", "u")
        await s.apply(written("a", 100, s.insert("t", "1")))
        assert await s.connection.fetch(of_tables) == before
        assert len(before) == 4


COMPUTED = "int GENERATED ALWAYS AS (id + 1) STORED"


async def test_a_table_of_every_type_is_described_published_and_becomes_a_migration(database: str) -> None:
    async with scene(database, EVERY_TYPE) as s:
        done = await electrify(s.connection, "public.everything")
        assert not done.already
        columns = {column["name"]: column for column in done.description["columns"]}
        assert list(columns)[:3] == ["k2", "b", "i2"]
        assert (columns["k1"]["pk"], columns["k2"]["pk"], columns["b"]["pk"]) == (1, 2, None)
        seven = {"kind": "literal", "value": "7"}
        assert columns["i4"] == {
            "name": "i4",
            "type": "int4",
            "not_null": True,
            "pk": None,
            "enum": None,
            "default": seven,
        }
        assert columns["m"]["enum"] == ["sad", "ok", "very glad"]
        assert (columns["v9"]["type"], columns["tz"]["type"]) == ("varchar", "timestamptz")
        assert "gone" not in columns
        assert done.description["indexes"] == [
            {"name": "by_mood", "unique": False, "columns": ["m", "i4"]},
            {"name": "everything_i8_key", "unique": True, "columns": ["i8"]},
        ]
        migrations = await s.connection.fetch("SELECT version, tables FROM electric.migrations")
        assert [json.loads(migration["tables"]) for migration in migrations] == [[done.description]]
        assert await s.connection.fetchval("SELECT relreplident FROM pg_class WHERE relname = 'everything'") == b"f"
        assert await s.connection.fetchval(
            "SELECT true FROM pg_publication_tables WHERE pubname = 'electric_publication' AND tablename = 'everything'"
        )


async def test_electrifying_twice_changes_nothing_and_says_so(database: str) -> None:
    async with scene(database, "CREATE TABLE items (id int PRIMARY KEY)") as s:
        notices: list[str] = []
        s.connection.add_log_listener(lambda _, message: notices.append(str(message)))
        first = await electrify(s.connection, "public.items")
        second = await electrify(s.connection, "items")
        assert (first.already, second.already) == (False, True)
        assert second.description == first.description
        assert any("already electrified" in notice for notice in notices)
        assert await s.connection.fetchval("SELECT count(*) FROM electric.migrations") == 1


async def test_versions_rise_however_fast_tables_are_electrified(database: str) -> None:
    names = [f"t{i}" for i in range(8)]
    async with scene(database, "".join(f"CREATE TABLE {n} (id int PRIMARY KEY);" for n in names), *names) as s:
        versions = [
            r["version"] for r in await s.connection.fetch("SELECT version FROM electric.migrations ORDER BY id")
        ]
        assert versions == sorted(set(versions))
        assert all(version.replace("_", "").isdigit() for version in versions)


async def test_sessions_that_electrify_at_once_both_succeed(database: str) -> None:
    async with scene(database, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)") as s:
        other = await asyncpg.connect(database)
        await asyncio.gather(electrify(s.connection, "public.a"), electrify(other, "public.b"))
        await other.close()
        assert await s.connection.fetchval("SELECT count(DISTINCT version) FROM electric.migrations") == 2


async def test_a_table_that_was_just_electrified_can_be_written_and_its_first_batch_makes_that_fast(
    database: str,
) -> None:
    async with scene(database, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)", "a") as s:
        assert await s.statuses(written("ann", 100, s.insert("a", "1"))) == ["applied"]
        await s.electrify("b")
        undispatched = "SELECT table_name FROM electric.tables WHERE NOT dispatched"
        assert [row[0] for row in await s.connection.fetch(undispatched)] == ["b"]
        both = written("ann", 200, s.insert("a", "2"), s.insert("b", "2"))
        assert await s.statuses(both) == ["applied"]
        assert await s.connection.fetch(undispatched) == []
        assert await s.statuses(written("ann", 300, s.insert("b", "3"))) == ["applied"]
        assert await s.rows("b") == [(2,), (3,)]


async def test_a_misspelt_name_gets_the_near_ones(database: str) -> None:
    async with scene(database, 'CREATE TABLE projects (id int PRIMARY KEY); CREATE TABLE "Proj" (id int)') as s:
        for name in ("public.project", "Projcts"):
            with pytest.raises(TableNotFound) as missing:
                await electrify(s.connection, name)
            assert "public.projects" in missing.value.suggestions
        with pytest.raises(TableNotFound) as missing:
            await electrify(s.connection, "no such; thing")
        assert missing.value.suggestions == ()


FAMILY = """
CREATE TABLE grandparents (id int PRIMARY KEY);
CREATE TABLE parents (id int PRIMARY KEY, grandparent int REFERENCES grandparents);
CREATE TABLE children (
    id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE, older int REFERENCES children,
    g int REFERENCES grandparents ON UPDATE SET NULL);
"""


async def test_parents_come_first_and_the_hint_is_what_to_run(database: str) -> None:
    async with scene(database, FAMILY) as s:
        with pytest.raises(ParentsNotElectrified, match=r"public\.grandparents, public\.parents") as refused:
            await electrify(s.connection, "public.children")
        await s.connection.execute(refused.value.hint.removeprefix("Parents first, or with it: "))
        description = (await electrify(s.connection, "public.children")).description
        assert [(fk["table"], fk["on_delete"], fk["on_update"]) for fk in description["fks"]] == [
            ("grandparents", "NO ACTION", "SET NULL"),
            ("children", "NO ACTION", "NO ACTION"),
            ("parents", "CASCADE", "NO ACTION"),
        ]
        depths = await s.connection.fetch("SELECT table_name, depth FROM electric.tables")
        assert {row["table_name"]: row["depth"] for row in depths} == {"grandparents": 0, "parents": 1, "children": 2}


async def test_tables_that_refer_to_each_other_can_both_be_electrified(database: str) -> None:
    circle = """
    CREATE TABLE a (id int PRIMARY KEY, b int);
    CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
    ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
    """
    async with scene(database, circle, "a", "b") as s:
        assert len(s.relids) == 2


@pytest.mark.parametrize(
    ("sql", "table", "reason"),
    [
        ("CREATE TABLE t (id int)", "t", "no key by which its rows are told apart"),
        ("CREATE TABLE t (id int UNIQUE)", "t", "ALTER TABLE public.t ALTER COLUMN id SET NOT NULL"),
        ("CREATE TABLE t (id int NOT NULL); CREATE UNIQUE INDEX ON t (id) WHERE id > 0", "t", "no key"),
        ("CREATE VIEW t AS SELECT 1 AS id", "t", "t is a view, not a table"),
        ("CREATE UNLOGGED TABLE t (id int PRIMARY KEY)", "t", "unlogged"),
        (
            "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id);"
            "CREATE TABLE t PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "t",
            "t is a partition of p",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id);"
            "CREATE UNLOGGED TABLE one PARTITION OF t FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
            "t",
            r"partitions of public\.t are unlogged or foreign tables, .*: public\.one",
        ),
        (
            f"CREATE TABLE t (id int, x {COMPUTED}, PRIMARY KEY (id, x))",
            "t",
            "give it a key of ordinary ones",
        ),
        ("", "electric.meta", "schema electric, which is not of the application"),
        ("", "pg_catalog.pg_ts_parser", "schema pg_catalog, which is not"),
        (
            "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY);"
            "CREATE TABLE app__t (id int PRIMARY KEY); CALL electric.electrify('app__t')",
            "app.t",
            "could not tell table app__t",
        ),
    ],
)
async def test_what_cannot_be_synced_is_refused_with_its_reason(
    database: str, sql: str, table: str, reason: str
) -> None:
    async with scene(database, sql) as s:
        with pytest.raises(TableUnsupported, match=reason) as refused:
            await electrify(s.connection, table)
        assert refused.value.hint


@pytest.mark.parametrize(
    ("sql", "table", "reason", "remedy"),
    [
        (
            'CREATE TABLE t (id int PRIMARY KEY, a int, "A" int)',
            "t",
            'column "A" from column a|column a from column "A"',
            "ALTER TABLE public.t RENAME COLUMN",
        ),
        (
            'CREATE TABLE "Items" (id int PRIMARY KEY)',
            '"Items"',
            'table "Items" from table items',
            'ALTER TABLE public."Items" RENAME TO',
        ),
        (
            'CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX by_a ON t (a); CREATE INDEX "By_A" ON t (a)',
            "t",
            'index "By_A" from index by_a',
            'ALTER INDEX public."By_A" RENAME TO',
        ),
        (
            'CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX "Items_By_Name" ON t (a)',
            "t",
            'index "Items_By_Name" from index items_by_name',
            'ALTER INDEX public."Items_By_Name" RENAME TO',
        ),
        (
            'CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX "Items" ON t (a)',
            "t",
            'index "Items" from table items',
            'ALTER INDEX public."Items" RENAME TO',
        ),
        (
            'CREATE TABLE "Items_by_name" (id int PRIMARY KEY)',
            '"Items_by_name"',
            'table "Items_by_name" from index items_by_name',
            'ALTER TABLE public."Items_by_name" RENAME TO',
        ),
        ("CREATE TABLE sqlite_x (id int PRIMARY KEY)", "sqlite_x", "keep for themselves", "ALTER TABLE"),
        ('CREATE TABLE "_Syncline_x" (id int PRIMARY KEY)', '"_Syncline_x"', "keep for themselves", "ALTER TABLE"),
        ("CREATE TABLE _electric_meta (id int PRIMARY KEY)", "_electric_meta", "keep for themselves", "ALTER TABLE"),
        (
            "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX sqlite_by_a ON t (a)",
            "t",
            "index sqlite_by_a is one",
            "ALTER INDEX public.sqlite_by_a RENAME TO",
        ),
    ],
)
async def test_names_that_devices_could_not_tell_apart_are_refused(
    database: str, sql: str, table: str, reason: str, remedy: str
) -> None:
    before = "CREATE TABLE items (id int PRIMARY KEY, name text); CREATE INDEX items_by_name ON items (name);"
    async with scene(database, before + sql, "items") as s:
        with pytest.raises(TableUnsupported, match=reason) as refused:
            await electrify(s.connection, table)
        assert remedy in refused.value.hint
        assert await s.connection.fetchval("SELECT count(*) FROM electric.migrations") == 1


async def test_names_of_tables_that_were_dropped_since_count_too_for_devices_have_them(database: str) -> None:
    async with scene(database, "CREATE TABLE items (id int PRIMARY KEY, a int)", "items") as s:
        await s.connection.execute('DROP TABLE items; CREATE TABLE "Items" (id int PRIMARY KEY)')
        with pytest.raises(TableUnsupported, match='table "Items" from table items'):
            await electrify(s.connection, '"Items"')
        await s.connection.execute('CREATE TABLE items (id int PRIMARY KEY, "A" int)')
        with pytest.raises(TableUnsupported, match='column "A" from column a'):
            await electrify(s.connection, "items")


async def test_letters_beyond_ascii_are_told_apart_by_devices_too(database: str) -> None:
    schema = 'CREATE TABLE "É" (id int PRIMARY KEY); CREATE TABLE "é" (id int PRIMARY KEY, "Ö" int, "ö" int)'
    async with scene(database, schema) as s:
        for table in ('"É"', '"é"'):
            assert not (await electrify(s.connection, table)).already
        device = sqlite3.connect(":memory:")
        tables = [json.loads(row[0]) for row in await s.connection.fetch("SELECT tables FROM electric.migrations")]
        for _, steps in operations([(str(place), one) for place, one in enumerate(tables)], "sqlite"):
            for statement in (sql for step in steps for _, sql in step.statements):
                device.execute(statement)


async def test_an_electrified_table_stays_so_whatever_indexes_came_since(database: str) -> None:
    schema = "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE INDEX by_a ON t (a)"
    async with scene(database, schema, "t") as s:
        await s.connection.execute('CREATE INDEX "BY_A" ON t (a)')
        assert (await electrify(s.connection, "t")).already


async def test_of_set_null_it_is_told_for_which_columns_it_is_if_not_for_all(database: str) -> None:
    schema = """
    CREATE TABLE users (tenant int, id int, PRIMARY KEY (tenant, id));
    CREATE TABLE notes (id int PRIMARY KEY, tenant int, author int, "Reader" int,
        CONSTRAINT a FOREIGN KEY (tenant, author) REFERENCES users ON DELETE SET NULL (author),
        CONSTRAINT b FOREIGN KEY (tenant, "Reader") REFERENCES users ON DELETE SET NULL ("Reader", tenant),
        CONSTRAINT c FOREIGN KEY (tenant, "Reader") REFERENCES users ON DELETE SET DEFAULT ("Reader"),
        CONSTRAINT d FOREIGN KEY (tenant, "Reader") REFERENCES users ON DELETE SET DEFAULT);
    """
    async with scene(database) as s:
        if s.connection.get_server_version().major < 15:
            with pytest.raises(asyncpg.PostgresSyntaxError):  # there is none to be told of
                await s.connection.execute(schema)
            return
        await s.connection.execute(schema)
        await s.electrify("users")
        description: dict[str, Any] = (await electrify(s.connection, "notes")).description
        assert [key["on_delete"] for key in description["fks"]] == [
            "SET NULL (author)",
            "SET NULL",
            'SET DEFAULT ("Reader")',
            "SET DEFAULT",
        ]


async def test_generated_columns_and_their_indexes_are_left_out_of_what_devices_are_told(database: str) -> None:
    schema = (
        "CREATE TABLE t (id int PRIMARY KEY, x numeric GENERATED ALWAYS AS (id / 3.0) STORED, y int, UNIQUE (x, y))"
    )
    async with scene(database, schema) as s:
        description: dict[str, Any] = (await electrify(s.connection, "t")).description
        assert [column["name"] for column in description["columns"]] == ["id", "y"]
        assert description["indexes"] == []


async def test_virtual_generated_columns_are_refused_since_their_rows_could_not_be_changed_any_more(
    database: str,
) -> None:
    async with scene(database) as s:
        virtual = "CREATE TABLE t (id int PRIMARY KEY, x int GENERATED ALWAYS AS (id + 1) VIRTUAL)"
        if s.connection.get_server_version().major < 18:
            with pytest.raises(asyncpg.PostgresSyntaxError):  # there are none to be refused
                await s.connection.execute(virtual)
            return
        await s.connection.execute(virtual)
        with pytest.raises(TableUnsupported, match=r"virtual generated columns: x"):
            await electrify(s.connection, "t")
        await s.connection.execute(
            "ALTER TABLE t REPLICA IDENTITY FULL; ALTER PUBLICATION electric_publication ADD TABLE t"
        )
        with pytest.raises(asyncpg.PostgresError, match="generated columns"):
            await s.connection.execute("UPDATE t SET id = 2")


async def test_a_database_without_our_schema_is_told_apart_from_a_missing_table(database: str) -> None:
    connection = await asyncpg.connect(database)
    with pytest.raises(NotBootstrapped):
        await electrify(connection, "public.items")
    await connection.close()


async def test_a_table_made_anew_under_an_old_name_is_a_new_table(database: str) -> None:
    async with scene(database, "CREATE TABLE items (id int PRIMARY KEY)", "items") as s:
        await s.connection.execute("DROP TABLE items; CREATE TABLE items (id int PRIMARY KEY, name text)")
        description: dict[str, Any] = (await electrify(s.connection, "public.items")).description
        assert [column["name"] for column in description["columns"]] == ["id", "name"]


async def test_a_table_that_has_come_in_the_place_of_another_is_told_what_to_do_with_that(database: str) -> None:
    async with scene(database, "CREATE TABLE items (id int PRIMARY KEY)", "items") as s:
        await s.connection.execute("ALTER TABLE items RENAME TO former; CREATE TABLE items (id int PRIMARY KEY)")
        with pytest.raises(TableUnsupported, match=r"another table, which is called public\.former now") as refused:
            await electrify(s.connection, "public.items")
        _, _, remedy = refused.value.hint.partition("any more: ")
        await s.connection.execute(remedy)
        assert (await electrify(s.connection, "public.items")).already
