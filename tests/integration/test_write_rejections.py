"""A transaction that Postgres refuses is rejected alone; its neighbours are applied."""

from __future__ import annotations

import json

import asyncpg
import pytest
from tests.integration.write_scene import Scene, scene, written

pytestmark = pytest.mark.every_major

SCHEMA = """
CREATE TABLE parents (id int PRIMARY KEY);
CREATE TABLE items (
    id int PRIMARY KEY, name text NOT NULL, code int UNIQUE, size int2 CHECK (size > 0), short varchar(3),
    parent int REFERENCES parents, friend int REFERENCES items DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE NEW.name
        WHEN 'raise' THEN RAISE EXCEPTION 'no such name' USING HINT = 'choose another', DETAIL = 'it is taken';
        WHEN 'own code' THEN RAISE EXCEPTION 'mine' USING ERRCODE = 'AB123';
        WHEN 'assert' THEN ASSERT false, 'never';
        WHEN 'forbidden' THEN RAISE insufficient_privilege USING MESSAGE = 'not yours';
        WHEN 'missing' THEN PERFORM FROM no_such_table;
        ELSE NULL;
    END CASE;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION refuse();
CREATE FUNCTION refuse_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'late' THEN RAISE EXCEPTION 'too late'; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER refuse_late AFTER INSERT ON items DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse_late();
INSERT INTO parents VALUES (1);
INSERT INTO items VALUES (1, 'first', 11);
"""

POISON = {
    "type": (("x", "n", None, None, None, None, None), "22P02", None),
    "range": (("2", "n", None, "70000", None, None, None), "22003", None),
    "length": (("2", "n", None, None, "long", None, None), "22001", None),
    "not null": (("2", None, None, None, None, None, None), "23502", None),
    "check": (("2", "n", None, "0", None, None, None), "23514", "items_size_check"),
    "foreign key": (("2", "n", None, None, None, "9", None), "23503", "items_parent_fkey"),
    "unique": (("2", "n", "11", None, None, None, None), "23505", "items_code_key"),
    "deferred foreign key": (("2", "n", None, None, None, None, "9"), "23503", "items_friend_fkey"),
    "trigger": (("2", "raise", None, None, None, None, None), "P0001", None),
    "deferred trigger": (("2", "late", None, None, None, None, None), "P0001", None),
    "code of the application": (("2", "own code", None, None, None, None, None), "AB123", None),
    "assertion": (("2", "assert", None, None, None, None, None), "P0004", None),
    "right refused by a trigger": (("2", "forbidden", None, None, None, None, None), "42501", None),
    "table missing to a trigger": (("2", "missing", None, None, None, None, None), "42P01", None),
}


def _item(s: Scene, key: str) -> dict[str, object]:
    return s.insert("items", key, "fine", None, None, None, "1", key)


@pytest.mark.parametrize("kind", POISON)
async def test_poison_is_rejected_and_recorded_and_its_neighbours_are_applied(database: str, kind: str) -> None:
    row, sqlstate, constraint = POISON[kind]
    async with scene(database, SCHEMA, "parents", "items") as s:
        before, poison, after, other = await s.apply(
            written("a", 100, _item(s, "100")),
            written("a", 101, _item(s, "101"), s.insert("items", *row)),
            written("a", 102, _item(s, "102")),
            written("b", 100, _item(s, "200")),
        )
        assert [r["status"] for r in (before, poison, after, other)] == ["applied", "rejected", "applied", "applied"]
        assert poison["sqlstate"] == sqlstate
        assert poison.get("constraint") == constraint
        assert [row[0] for row in await s.rows("items")] == [1, 100, 102, 200]
        record = await s.connection.fetchrow("SELECT * FROM electric.rejections")
        assert (record["client_id"], record["lsn"], record["sqlstate"]) == ("a", 101, sqlstate)
        assert record["message"] == poison["message"]
        assert len(json.loads(record["ops"])) == 2


async def test_a_rejection_carries_what_the_application_said(database: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        (answer,) = await s.apply(written("a", 1, s.insert("items", "2", "raise", None, None, None, None, None)))
        assert answer == {
            "status": "rejected",
            "sqlstate": "P0001",
            "message": "no such name",
            "detail": "it is taken",
            "hint": "choose another",
            "table": "items",
            "key": ["2"],
        }
        (answer,) = await s.apply(written("a", 2, s.insert("items", "2", "n", "11", None, None, None, None)))
        assert (answer["table"], answer["constraint"]) == ("items", "items_code_key")


FAULTS = {
    "type": ("22P02", "items", ["size"], ["2"]),
    "range": ("22003", "items", ["size"], ["2"]),
    "length": ("22001", "items", ["short"], ["2"]),
    "not null": ("23502", "items", ["name"], ["2"]),
    "check": ("23514", "items", ["size"], ["2"]),
    "unique": ("23505", "items", ["code"], ["2"]),
    "unique index": ("23505", "items", ["short", "name"], ["2"]),
    "foreign key": ("23503", "items", ["parent"], ["2"]),
    "deferred": ("23503", "items", ["friend"], None),
    "table of a trigger": ("23514", "audit", ["note"], None),
    "trigger": ("P0001", "items", None, ["2"]),
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_rejection_names_table_columns_and_row_as_far_as_they_are_known(database: str, kind: str) -> None:
    audited = """
    SET CONSTRAINTS ALL IMMEDIATE;
    CREATE UNIQUE INDEX pair ON items (short, name);
    INSERT INTO items VALUES (7, 'taken', NULL, NULL, 'abc', 1);
    CREATE TABLE audit (note text CHECK (note <> 'audited'));
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO audit VALUES (NEW.name); RETURN NULL; END $$;
    CREATE TRIGGER audit AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION audit();
    """
    async with scene(database, SCHEMA + audited, "parents", "items") as s:
        fine = s.insert("items", "3", "fine", None, None, None, "1", None)
        ops = {
            "type": s.insert("items", "2", "n", None, "x", None, None, None),
            "unique index": s.insert("items", "2", "taken", None, None, "abc", None, None),
            "deferred": s.insert("items", "2", "n", None, None, None, None, "9"),
            "table of a trigger": s.insert("items", "2", "audited", None, None, None, None, None),
        }
        op = ops.get(kind) or s.insert("items", *POISON[kind][0])
        (answer,) = await s.apply(written("a", 1, fine, op, fine | {"row": ["4", *fine["row"][1:]]}))
        assert answer["status"] == "rejected"
        assert (answer["sqlstate"], answer["table"], answer.get("columns"), answer.get("key")) == FAULTS[kind]
        (again,) = await s.apply(written("a", 1, op))
        assert again == answer


async def test_of_other_values_that_postgres_does_not_take_the_columns_are_named_too(database: str) -> None:
    """Whatever it says of them: a check of a domain, or that JSON is nested too deeply."""
    values = """
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TABLE things (id int PRIMARY KEY, short varchar(3), n int, deep json);
    """
    async with scene(database, values, "things") as s:
        await s.connection.execute("ALTER TABLE things ALTER n TYPE positive")
        op = s.insert("things", "1", "long", "-1", "[" * 200_000 + "]" * 200_000)
        answer, other = await s.apply(
            written("a", 1, op),
            written("b", 1, s.insert("things", "2", "n", "1", "[]")),
        )
        assert (answer["status"], answer["sqlstate"]) == ("rejected", "22001")
        assert answer["columns"] == ["short", "n", "deep"]
        assert other["status"] == "applied"


async def test_a_rejected_transaction_that_comes_again_is_rejected_again_but_recorded_once(database: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        poison = written("a", 1, s.insert("items", "2", "raise", None, None, None, None, None))
        first, second = await s.apply(poison, poison)
        assert first["status"] == "rejected"
        assert second == first
        assert await s.connection.fetchval("SELECT count(*) FROM electric.rejections") == 1


FOLDERS = """
CREATE TABLE folders (id text, part int, name text CHECK (length(name) < 10), PRIMARY KEY (part, id));
INSERT INTO folders VALUES ('of postgres', 1, '');
"""


async def test_a_delete_knows_what_the_rejected_transactions_before_it_had_seen(database: str) -> None:
    """Published clients name only the tag that their own last transaction has left on the row."""
    async with scene(database, FOLDERS, "folders") as s:
        row, new = ("of b", "1", ""), ("new", "1", "")
        await s.apply(written("b", 100, s.insert("folders", *row)), written("c", 101, s.insert("folders", *new)))
        tagged = {"of postgres": "postgres_1@0", "of b": "b@100"}
        seen = [{**s.keep("folders", key, "1", None), "tags": [tag]} for key, tag in tagged.items()]
        too_long = s.insert("folders", "a", "1", "much too long a name")
        renamed = [s.update("folders", key, "1", "n", changed=[2], seen=["a@200", "a@201"]) for key in tagged]
        deleted = [s.delete("folders", key, "1", "n", seen=["a@201", "a@202"]) for key in (*tagged, "new")]
        transactions = written("a", 200, *seen, too_long), written("a", 201, *renamed), written("a", 202, *deleted)
        assert await s.statuses(*transactions) == ["rejected", "applied", "applied"]
        assert await s.rows("folders") == [("new", 1, "")]


async def test_a_delete_does_not_know_what_those_of_other_devices_or_rows_had_seen(database: str) -> None:
    async with scene(database, FOLDERS, "folders") as s:
        await s.apply(written("b", 100, s.insert("folders", "of b", "1", "")))
        too_long = ("much too long a name",)
        rejected = (
            written("a", 200, s.update("folders", "of b", "2", *too_long, changed=[2], seen=["b@100"])),
            written("c", 200, s.update("folders", "of b", "1", *too_long, changed=[2], seen=["b@100"])),
        )
        deleted = s.delete("folders", "of b", "1", "", seen=["a@200", "a@201"])
        assert await s.statuses(*rejected, written("a", 201, deleted)) == ["rejected", "rejected", "applied"]
        assert await s.rows("folders") == [("of b", 1, ""), ("of postgres", 1, "")]


async def test_how_many_rejections_are_looked_at_goes_by_what_is_in_them_and_not_by_what_they_take_on_the_disk(
    database: str,
) -> None:
    async with scene(database, FOLDERS, "folders") as s:
        small = s.update("folders", "of b", "1", "small", changed=[2], seen=["b@100"])
        large = s.update("folders", "of b", "1", "x" * (64 << 20), changed=[2], seen=["b@101"])
        for lsn, operation in enumerate((small, large), 1):
            await s.connection.execute(
                "INSERT INTO electric.rejections (client_id, lsn, ms, sqlstate, message, ops) "
                "VALUES ('a', $1, $1, '22001', 'too long', $2)",
                lsn,
                json.dumps([operation]),
            )
        on_disk = await s.connection.fetchval("SELECT sum(pg_column_size(ops)) FROM electric.rejections")
        assert on_disk < 1 << 20
        deleted = json.dumps([s.delete("folders", "of b", "1", "", seen=["a@1"])])
        known = await s.connection.fetchval("SELECT electric.after_rejected($1, 'a')", deleted)
        assert json.loads(known) == json.loads(deleted)


async def test_rejections_beyond_those_that_are_looked_at_are_not_read(database: str) -> None:
    """How often a value is fetched from where large ones are kept, Postgres counts, with what it has counted before and
    not passed on yet."""
    fetched = """
    SELECT coalesce(t.idx_scan, 0) FROM pg_stat_xact_all_tables t JOIN pg_class c ON c.reltoastrelid = t.relid
    WHERE c.oid = 'electric.rejections'::regclass
    """
    async with scene(database, FOLDERS, "folders") as s:
        large = s.update("folders", "of b", "1", "x" * (16 << 20), changed=[2], seen=["b@1"])
        await s.connection.execute(
            "INSERT INTO electric.rejections (client_id, lsn, ms, sqlstate, message, ops) "
            "SELECT 'a', n, n, '22001', 'too long', jsonb_set($1, '{0,tags,0}', to_jsonb('b@' || n)) "
            "FROM generate_series(1, 10) n",
            json.dumps([large]),
        )
        deleted = json.dumps([s.delete("folders", "of b", "1", "", seen=["a@1"])])
        async with s.connection.transaction():
            before = await s.connection.fetchval(fetched)
            known = await s.connection.fetchval("SELECT electric.after_rejected($1, 'a')", deleted)
            assert 0 < await s.connection.fetchval(fetched) - before <= 8
        assert set(json.loads(known)[0]["tags"]) == {"a@1", "b@8", "b@9", "b@10"}


async def test_a_transaction_that_ends_with_constraints_deferred_is_checked_all_the_same(database: str) -> None:
    """A trigger may defer constraints, also ones that are usually immediate."""
    deferring = """
    CREATE TABLE t (id int PRIMARY KEY, p int REFERENCES t DEFERRABLE);
    CREATE FUNCTION defer() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN SET CONSTRAINTS ALL DEFERRED; RETURN NEW; END $$;
    CREATE TRIGGER defer BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION defer();
    """
    async with scene(database, deferring, "t") as s:
        answers = await s.apply(written("a", 1, s.insert("t", "1", "9")), written("a", 2, s.insert("t", "2", "2")))
        assert [answer["status"] for answer in answers] == ["rejected", "applied"]
        assert answers[0]["sqlstate"] == "23503"


async def test_a_refused_transaction_is_recorded_untried(database: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        refusal = {"sqlstate": "57014", "message": "too slow"}
        refused = written("a", 1, _item(s, "5")) | {"refuse": refusal}
        assert await s.statuses(refused, written("a", 2, _item(s, "6")), refused) == [
            "rejected",
            "applied",
            "rejected",
        ]
        assert [row[0] for row in await s.rows("items")] == [1, 6]


async def test_what_our_own_role_lacks_is_held_and_not_rejected(database: str) -> None:
    async with scene(database, "CREATE TABLE t (id int PRIMARY KEY, v text)", "t") as s:
        await s.connection.execute("DROP TABLE t")
        held, behind, other = await s.apply(written("a", 1, s.insert("t", "1", "x")), written("a", 2), written("b", 1))
        assert (held["status"], held["sqlstate"]) == ("retry", "42P01")
        assert behind["status"] == "retry"
        assert other["status"] == "applied"
        await s.connection.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        assert await s.statuses(written("a", 1, s.insert("t", "1", "x"))) == ["applied"]


async def test_a_role_called_electric_has_its_writes_held_too(database: str) -> None:
    """Its search path has our schema, so Postgres names our functions without it."""
    async with scene(database, "CREATE TABLE t (id int PRIMARY KEY, v text)", "t") as s:
        await s.connection.execute("ALTER TABLE t DROP COLUMN v; SET search_path = electric, public")
        (held,) = await s.apply(written("a", 1, s.insert("t", "1", "x")))
        assert (held["status"], held["sqlstate"]) == ("retry", "42703")


OURS = "electric.merge_16400(text,jsonb,jsonb,jsonb,text,bigint,jsonb,integer)"
# How servers in other languages tell a line of a function.
LANGUAGES = {
    "English": "PL/pgSQL function {} line 9 at SQL statement",
    "German": "PL/pgSQL-Funktion {} Zeile 9 bei SQL-Anweisung",
    "French": "fonction PL/pgSQL {}, ligne 9 à instruction SQL",
    "Spanish": "función PL/pgSQL {} en la línea 9 en sentencia SQL",
    "Russian": "функция PL/pgSQL {}, строка 9, оператор SQL-оператор",
    "Japanese": "PL/pgSQL関数{}の9行目 - SQLステートメント",
    "Korean": 'PL/pgSQL 함수 "{}" 의 9번째 SQL 구문',
    "Chinese": "在SQL语句的第9行的PL/pgSQL函数{}",
    "Turkish": "{} PL/pgSQL fonksiyonu, 9. satır, SQL ifadesi içinde",
}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_whose_function_failed_is_known_in_every_language(database: str, language: str) -> None:
    def lines(*functions: str) -> str:
        return "\n".join(LANGUAGES[language].format(function) for function in functions)

    async with scene(database) as s:

        async def passes(context: str) -> bool:
            answer: bool = await s.connection.fetchval("SELECT electric.passes('42501', $1)", context)
            return answer

        outer = ("electric.merge(jsonb,text,bigint,jsonb,integer)", "electric.apply(jsonb,jsonb,jsonb)")
        statement = 'SQL statement "INSERT INTO public.t (id)\n VALUES (1)"\n'
        assert await passes(lines(OURS, *outer))
        assert await passes(statement + lines(OURS, *outer))
        assert await passes(statement + lines(outer[1]))
        for theirs in ("refuse()", "audit.refuse()", "my_electric.apply(jsonb,jsonb)", "audit.apply(jsonb,jsonb)"):
            assert not await passes(lines(theirs, OURS, *outer))
            assert not await passes(statement + lines(theirs, OURS, *outer))
        assert not await passes("")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_that_the_application_has_raised_an_error_is_known_in_every_language(
    database: str, language: str
) -> None:
    line = LANGUAGES[language]
    words = ("SQL statement", "SQL-Anweisung", "instruction SQL", "sentencia SQL", "SQL-оператор")
    for word in (*words, "SQLステートメント", "SQL 구문", "SQL语句", "SQL ifadesi"):
        line = line.replace(word, "RAISE")
    async with scene(database) as s:

        async def raised(*lines: str) -> bool:
            answer: bool = await s.connection.fetchval("SELECT electric.raised($1)", "\n".join(lines))
            return answer

        statement = 'SQL statement "INSERT INTO public.t (id)\n VALUES (1)"'
        outer = LANGUAGES[language].format(OURS)
        assert await raised(line.format("quota()"), statement, outer)
        assert not await raised(LANGUAGES[language].format("quota()"), statement, outer)
        assert not await raised(LANGUAGES[language].format('public."RAISE"()'), statement, outer)
        assert not await raised(statement, line.format("quota()"), outer)
        assert not await raised(line.format(OURS))
        assert not await raised("")


RAISES = """
CREATE TABLE t (id int PRIMARY KEY, state text);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE 'your quota is full' USING ERRCODE = NEW.state; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.state <> 'fine') EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize("sqlstate", ["08006", "25006", "40001", "40P01", "53400", "55P03", "57P01", "58030", "XX000"])
async def test_what_the_application_raises_as_passing_is_tried_again_and_rejected_once_it_is_final(
    database: str, sqlstate: str
) -> None:
    async with scene(database, RAISES, "t") as s:
        poison = written("a", 1, s.insert("t", "1", sqlstate))
        retried, behind = await s.apply(poison, written("a", 2, s.insert("t", "2", "fine")))
        assert retried == {
            "status": "retry",
            "sqlstate": sqlstate,
            "message": "your quota is full",
            "raised": True,
        }
        assert behind["status"] == "retry"
        rejected, applied = await s.apply(poison | {"final": True}, written("a", 2, s.insert("t", "2", "fine")))
        assert (rejected["status"], rejected["sqlstate"]) == ("rejected", sqlstate)
        assert (rejected["table"], rejected["key"]) == ("t", ["1"])
        assert applied["status"] == "applied"
        ops = await s.connection.fetchval("SELECT ops FROM electric.rejections")
        assert json.loads(ops) == json.loads(json.dumps(poison["ops"]))


@pytest.mark.parametrize("handler", ["", "EXCEPTION WHEN OTHERS THEN RAISE;"], ids=["met", "raised again"])
async def test_what_passes_by_itself_is_never_final(database: str, handler: str) -> None:
    """Also where it is a function of the application's that meets it."""
    meets = f"""
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE counters (n int);
    INSERT INTO counters VALUES (0);
    CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN UPDATE counters SET n = n + 1; RETURN NEW; {handler} END $$;
    CREATE TRIGGER count BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION count_up();
    """
    async with scene(database, meets, "t") as s:
        locking = await asyncpg.connect(database)
        await locking.execute("BEGIN; UPDATE counters SET n = 7")
        write = written("a", 1, s.insert("t", "1", "x")) | {"final": True}
        (answer,) = await s.apply(write)
        assert (answer["status"], answer["sqlstate"]) == ("retry", "55P03")
        assert "raised" not in answer
        await locking.execute("ROLLBACK")
        assert await s.statuses(write) == ["applied"]
        await locking.close()


async def test_a_replica_identity_taken_away_holds_updates_until_it_is_given_back(database: str) -> None:
    async with scene(database, "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1)", "t") as s:
        update = written("a", 1, s.update("t", "1", "x", changed=[1]))
        await s.connection.execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
        (held,) = await s.apply(update)
        assert (held["status"], held["sqlstate"]) == ("retry", "55000")
        await s.connection.execute("ALTER TABLE t REPLICA IDENTITY FULL")
        assert await s.statuses(update) == ["applied"]


async def test_a_session_that_would_misspell_keys_is_refused(database: str) -> None:
    async with scene(database, SCHEMA, "parents", "items") as s:
        await s.connection.execute("SET TimeZone = 'Europe/Berlin'")
        with pytest.raises(Exception, match="spell row keys") as refused:
            await s.apply(written("a", 1, _item(s, "5")))
        assert "SET TimeZone" in refused.value.hint
