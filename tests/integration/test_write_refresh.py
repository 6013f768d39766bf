"""What an application changes of its tables after they were electrified counts for the next write of a device."""

from __future__ import annotations

import asyncpg
import pytest
from tests.integration.write_scene import Scene, scene, written

pytestmark = pytest.mark.every_major

PARENTS = "CREATE TABLE parents (id int4 PRIMARY KEY, name text); INSERT INTO parents VALUES (1, 'one'), (2, 'two');"
CHILDREN = "CREATE TABLE children (id int4 PRIMARY KEY, parent int4); INSERT INTO children VALUES (1, 1);"
KEY = "ALTER TABLE children ADD CONSTRAINT fk FOREIGN KEY (parent) REFERENCES parents ON DELETE "
RANGES = """
CREATE TABLE ranges (id int4 PRIMARY KEY, low int4, high int4, name text);
INSERT INTO ranges VALUES (1, 3, 5, 'r');
"""


async def delete_parent(s: Scene, ms: int = 100) -> list[str]:
    return await s.statuses(written("ann", ms, s.delete("parents", "1", seen=["postgres_1@0"])))


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"])
@pytest.mark.parametrize("electrified", [True, False])
async def test_a_foreign_key_that_came_later_keeps_the_parent(database: str, action: str, electrified: bool) -> None:
    async with scene(database, PARENTS + CHILDREN, "parents", *(["children"] if electrified else [])) as s:
        await s.connection.execute(KEY + action)
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("parents") == [(1, "one"), (2, "two")]
        assert await s.rows("children") == [(1, 1)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "RESTRICT", "NO ACTION"])
async def test_a_child_in_whose_place_another_table_has_come_keeps_the_parent(database: str, action: str) -> None:
    async with scene(database, PARENTS + CHILDREN + KEY + action, "parents", "children") as s:
        swapped = "ALTER TABLE children RENAME TO former; CREATE TABLE children (LIKE former INCLUDING ALL)"
        await s.connection.execute(swapped)
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("parents") == [(1, "one"), (2, "two")]
        assert await s.rows("former") == [(1, 1)]


async def test_a_table_that_came_later_keeps_its_parent(database: str) -> None:
    async with scene(database, PARENTS, "parents") as s:
        await s.connection.execute(CHILDREN.replace("parent int4", "parent int4 REFERENCES parents ON DELETE CASCADE"))
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("children") == [(1, 1)]
        # Who knows of the child deletes it first.
        await s.electrify("children")
        both = (
            s.delete("children", "1", seen=["postgres_1@0"]),
            s.delete("parents", "1", seen=["postgres_1@0", "ann@100"]),
        )
        assert await s.statuses(written("ann", 200, *both)) == ["applied"]
        assert await s.rows("parents") == [(2, "two")]


async def test_a_foreign_key_that_is_added_while_a_delete_is_under_way_waits_for_it_or_keeps_the_parent(
    database: str,
) -> None:
    """The device's delete comes while the key is being added, and is over only when that has ended."""
    async with scene(database, PARENTS + CHILDREN, "parents") as s:
        application = await asyncpg.connect(database)
        transaction = application.transaction()
        await transaction.start()
        await application.execute(KEY + "CASCADE")
        assert await delete_parent(s) == ["retry"]
        await transaction.commit()
        await application.close()
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("children") == [(1, 1)]


async def test_an_action_that_was_changed_counts(database: str) -> None:
    async with scene(database, PARENTS + CHILDREN + KEY + "NO ACTION", "parents") as s:
        await s.connection.execute("ALTER TABLE children DROP CONSTRAINT fk;" + KEY + "CASCADE")
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("children") == [(1, 1)]


@pytest.mark.parametrize(
    "change", ["ALTER TABLE children DROP CONSTRAINT fk", "DROP TABLE children", "DELETE FROM children"]
)
async def test_a_foreign_key_that_is_gone_keeps_nothing(database: str, change: str) -> None:
    async with scene(database, PARENTS + CHILDREN + KEY + "CASCADE", "parents") as s:
        await s.connection.execute(change)
        await s.refresh()
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("parents") == [(2, "two")]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE children RENAME TO kids",
        "ALTER TABLE children RENAME COLUMN parent TO mother",
        "CREATE SCHEMA other; ALTER TABLE children SET SCHEMA other",
        "DROP TABLE children",
    ],
)
async def test_tables_that_refer_to_a_synced_one_may_be_altered(database: str, change: str) -> None:
    async with scene(database, PARENTS + CHILDREN + KEY + "CASCADE", "parents") as s:
        await s.connection.execute(change)
        assert await delete_parent(s) == ["applied"]
        assert len(await s.rows("parents")) == (1 if "DROP" in change else 2)


@pytest.mark.parametrize(
    ("constraint", "anns", "bobs", "merged"),
    [
        ("CHECK (low <= high)", ("1", "2"), ("6", "8"), (1, 2)),
        ("UNIQUE (low, high)", ("3", "9"), ("4", "5"), (3, 9)),
    ],
)
async def test_columns_that_a_later_constraint_ties_are_one_register(
    database: str, constraint: str, anns: tuple[str, str], bobs: tuple[str, str], merged: tuple[int, int]
) -> None:
    """Each write is valid alone; column by column they make a row that is not."""
    async with scene(database, RANGES + "INSERT INTO ranges VALUES (2, 4, 9, 'taken')", "ranges") as s:
        await s.connection.execute(f"ALTER TABLE ranges ADD {constraint}")
        high = s.update("ranges", "1", *anns, "r", changed=[2], seen=["postgres_1@0"])
        low = s.update("ranges", "1", *bobs, "r", changed=[1], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 200, high), written("bob", 100, low)) == ["applied", "applied"]
        assert (await s.rows("ranges"))[0] == (1, *merged, "r")


async def test_a_default_that_came_later_is_taken(database: str) -> None:
    async with scene(database, RANGES, "ranges") as s:
        await s.connection.execute("ALTER TABLE ranges ALTER name SET DEFAULT 'new', ALTER name SET NOT NULL")
        insert = s.insert("ranges", "2", "1", "2", None)
        insert["modified"] = [True, True, True, False]
        assert await s.statuses(written("ann", 100, insert)) == ["applied"]
        assert (await s.rows("ranges"))[1] == (2, 1, 2, "new")


async def test_a_parent_that_came_later_is_brought_back(database: str) -> None:
    async with scene(database, PARENTS + CHILDREN, "parents", "children") as s:
        await s.connection.execute(KEY + "NO ACTION")
        assert await s.statuses(written("ann", 100, s.delete("parents", "2", seen=["postgres_1@0"]))) == ["applied"]
        assert await s.statuses(written("bob", 150, s.insert("children", "9", "2"))) == ["applied"]
        assert await s.rows("parents") == [(1, "one"), (2, "two")]


async def test_children_are_written_after_parents_that_they_refer_to_since(database: str) -> None:
    async with scene(database, PARENTS + CHILDREN, "children", "parents") as s:
        await s.connection.execute(KEY + "NO ACTION")
        both = (s.insert("children", "9", "7"), s.insert("parents", "7", "new"))
        assert await s.statuses(written("ann", 100, *both)) == ["applied"]


async def test_what_is_violated_is_still_rejected_and_nothing_is_made_anew(database: str) -> None:
    async with scene(database, RANGES + "ALTER TABLE ranges ADD CHECK (low > 0);", "ranges") as s:
        made = "SELECT xmin::text FROM pg_proc WHERE proname = $1"
        before = await s.connection.fetchval(made, f"merge_{s.relids['ranges']}")
        update = s.update("ranges", "1", "-1", "5", "r", changed=[1], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 100, update)) == ["rejected"]
        assert await s.connection.fetchval(made, f"merge_{s.relids['ranges']}") == before


async def altered(s: Scene, change: str, how: str) -> None:
    """The application changes its table. ``how`` that is noticed: with the next write, or before."""
    await s.connection.execute(change)
    if how == "refreshed":
        await s.refresh()
    elif how == "all anew":
        await s.connection.execute("SELECT electric.generate_all()")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE ranges DROP COLUMN low",
        "ALTER TABLE ranges RENAME low TO lowest",
        "ALTER TABLE ranges DROP COLUMN low, ADD COLUMN low int4 GENERATED ALWAYS AS (high - 1) STORED",
    ],
    ids=["dropped", "renamed", "generated"],
)
@pytest.mark.parametrize("how", ["at once", "refreshed", "all anew"])
async def test_a_table_that_lacks_a_column_is_held_for_the_operator(database: str, change: str, how: str) -> None:
    """Whatever has happened to its merge function meanwhile; and it goes on when the column is back."""
    async with scene(database, RANGES, "ranges") as s:
        await altered(s, change, how)
        update = s.update("ranges", "1", "3", "9", "r", changed=[2], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 200, update)) == ["retry"]
        await s.connection.execute(
            "ALTER TABLE ranges RENAME lowest TO low"
            if "lowest" in change
            else "ALTER TABLE ranges DROP COLUMN IF EXISTS low, ADD COLUMN low int4"
        )
        await s.refresh()
        assert await s.statuses(written("ann", 200, update)) == ["applied"]
        assert await s.connection.fetchval("SELECT high FROM ranges") == 9


OTHER_KEY = "ALTER TABLE ranges DROP CONSTRAINT ranges_pkey, ADD PRIMARY KEY (low, high)"


@pytest.mark.parametrize(
    "change",
    [
        OTHER_KEY,
        "ALTER TABLE ranges DROP CONSTRAINT ranges_pkey",
        f"{OTHER_KEY}; CREATE UNIQUE INDEX ON ranges (id) WHERE id > 5; CREATE UNIQUE INDEX ON ranges (id, name)",
    ],
    ids=["replaced", "dropped", "unique in part"],
)
@pytest.mark.parametrize("how", ["at once", "refreshed", "all anew"])
async def test_a_table_with_another_key_is_held_for_the_operator(database: str, change: str, how: str) -> None:
    async with scene(database, RANGES, "ranges") as s:
        await altered(s, change, how)
        insert = s.insert("ranges", "2", "7", "8", "new")
        (answer,) = await s.apply(written("ann", 200, insert))
        assert answer["status"] == "retry"
        assert answer["message"] == "public.ranges has another key than devices know its rows by: id"
        await s.connection.execute(
            "ALTER TABLE ranges DROP CONSTRAINT IF EXISTS ranges_pkey, ADD CONSTRAINT ranges_pkey PRIMARY KEY (id)"
        )
        await s.refresh()
        assert await s.statuses(written("ann", 200, insert)) == ["applied"]
        assert (await s.rows("ranges"))[1] == (2, 7, 8, "new")


async def test_a_key_that_is_no_primary_one_any_more_will_do(database: str) -> None:
    async with scene(database, RANGES, "ranges") as s:
        await s.connection.execute(f"{OTHER_KEY}; CREATE UNIQUE INDEX ON ranges (id) INCLUDE (name)")
        await s.refresh()
        assert await s.statuses(written("ann", 200, s.insert("ranges", "2", "7", "8", "new"))) == ["applied"]


SWAPPED = """
CREATE TABLE other (LIKE ranges INCLUDING ALL);
INSERT INTO other SELECT * FROM ranges;
ALTER TABLE ranges RENAME TO former;
ALTER TABLE other RENAME TO ranges;
"""


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("ALTER TABLE ranges RENAME TO former", "ALTER TABLE former RENAME TO ranges"),
        ("CREATE SCHEMA app; ALTER TABLE ranges SET SCHEMA app", "ALTER TABLE app.ranges SET SCHEMA public"),
        (SWAPPED, "ALTER TABLE ranges RENAME TO other; ALTER TABLE former RENAME TO ranges"),
    ],
    ids=["renamed", "in another schema", "swapped"],
)
@pytest.mark.parametrize("how", ["at once", "refreshed", "all anew"])
async def test_a_table_that_has_another_name_is_held_for_the_operator(
    database: str, change: str, back: str, how: str
) -> None:
    """Also where another table has come in its place: nothing is written to that."""
    async with scene(database, RANGES, "ranges") as s:
        before = s.update("ranges", "1", "3", "9", "before", changed=[3], seen=["postgres_1@0"])
        assert await s.statuses(written("ann", 100, before)) == ["applied"]
        await altered(s, change, how)
        update = s.update("ranges", "1", "3", "9", "r", changed=[2], seen=["ann@100"])
        insert = s.insert("ranges", "2", "1", "9", "new")
        for write in (update, insert):
            (held,) = await s.apply(written("ann", 200, write))
            assert held["status"] == "retry"
            assert "was electrified under another name: public.ranges" in held["message"]
            assert "Rename it back" in held["hint"]
        await s.connection.execute(back)
        assert await s.statuses(written("ann", 200, update, insert)) == ["applied"]
        assert [row[0] for row in await s.rows("ranges")] == [1, 2]
        assert await s.connection.fetchval("SELECT high FROM ranges WHERE id = 1") == 9
        if change == SWAPPED:
            assert await s.connection.fetch("SELECT FROM other WHERE high = 9") == []


async def test_a_table_that_is_dropped_under_another_name_is_held_too(database: str) -> None:
    async with scene(database, RANGES, "ranges") as s:
        await s.connection.execute("ALTER TABLE ranges RENAME TO former")
        write = written("ann", 100, s.insert("ranges", "2", "1", "9", "new"))
        assert await s.statuses(write) == ["retry"]
        await s.connection.execute("DROP TABLE former")
        (held,) = await s.apply(write)
        assert (held["status"], held["message"]) == ("retry", "table public.ranges has been dropped")


PARENT_LATER = "ALTER TABLE {} ADD COLUMN mother int4 REFERENCES parents ON DELETE CASCADE;"


@pytest.mark.parametrize("child", ["children", "parents"])
async def test_a_foreign_key_over_a_column_that_came_later_keeps_the_parent(database: str, child: str) -> None:
    """Devices do not have the column, and the row is referred to all the same."""
    async with scene(database, PARENTS + CHILDREN, "parents", "children") as s:
        await s.connection.execute(PARENT_LATER.format(child))
        await s.connection.execute(f"UPDATE {child} SET mother = 1")
        assert await s.refresh()
        write = s.update("children", "1", "1", changed=[1], seen=["postgres_1@0"])
        assert await s.statuses(written("bob", 90, write)) == ["applied"]
        assert await delete_parent(s) == ["applied"]
        assert len(await s.rows("parents")) == 2
        await s.connection.execute(f"UPDATE {child} SET mother = NULL")
        gone = s.delete("parents", "1", seen=["postgres_1@0", "ann@100"])
        assert await s.statuses(written("ann", 300, gone)) == ["applied"]
        assert len(await s.rows("parents")) == 1


async def test_a_composite_key_of_which_one_column_came_later_is_asked_about_whole(database: str) -> None:
    rooms = (
        "CREATE TABLE rooms (house int4, number int4, PRIMARY KEY (house, number)); INSERT INTO rooms VALUES (1, 1);"
    )
    beds = "CREATE TABLE beds (id int4 PRIMARY KEY, house int4); INSERT INTO beds VALUES (1, 1);"
    async with scene(database, rooms + beds, "rooms", "beds") as s:
        await s.connection.execute(
            "ALTER TABLE beds ADD COLUMN number int4, ADD FOREIGN KEY (house, number) REFERENCES rooms"
        )
        assert await s.statuses(written("ann", 100, s.delete("rooms", "1", "1", seen=["postgres_1@0"]))) == ["applied"]
        assert await s.rows("rooms") == []


async def test_other_tables_can_be_electrified_while_a_key_is_over_a_column_that_came_later(database: str) -> None:
    async with scene(database, PARENTS + CHILDREN, "parents", "children") as s:
        await s.connection.execute(PARENT_LATER.format("children"))
        await s.connection.execute("CREATE TABLE pets (id int4 PRIMARY KEY, owner int4 REFERENCES children)")
        await s.electrify("pets")
        assert await s.statuses(written("ann", 100, s.insert("pets", "1", "1"))) == ["applied"]


async def test_while_somebody_electrifies_a_table_others_wait_for_their_functions(database: str) -> None:
    async with scene(database, PARENTS + CHILDREN, "parents") as s:
        await s.connection.execute(KEY + "CASCADE")
        application = await asyncpg.connect(database)
        transaction = application.transaction()
        await transaction.start()
        await application.execute("CREATE TABLE later (id int4 PRIMARY KEY); CALL electric.electrify('public.later')")
        assert await delete_parent(s) == ["retry"]
        await transaction.commit()
        await application.close()
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("children") == [(1, 1)]


async def test_names_do_not_depend_on_who_electrified(database: str) -> None:
    """With another search path than the writer has."""
    kids = "CREATE TABLE app.kids (id int4 PRIMARY KEY, parent int4 REFERENCES parents ON DELETE CASCADE)"
    async with scene(database, PARENTS + "CREATE SCHEMA app;" + kids) as s:
        await s.connection.execute("SET search_path = app, public")
        await s.electrify("parents")
        await s.connection.execute("RESET search_path; INSERT INTO app.kids VALUES (1, 1)")
        assert await delete_parent(s) == ["applied"]
        assert await s.rows("app.kids") == [(1, 1)]


async def test_a_service_takes_a_default_at_its_next_look(database: str) -> None:
    """Which nothing but a look can tell: no constraint is violated."""
    async with scene(database, RANGES, "ranges") as s:
        await s.connection.execute("ALTER TABLE ranges ALTER name SET DEFAULT 'new'")
        assert await s.refresh()
        assert not await s.refresh()
        insert = s.insert("ranges", "2", "1", "2", None)
        insert["modified"] = [True, True, True, False]
        assert await s.statuses(written("ann", 100, insert)) == ["applied"]
        assert (await s.rows("ranges"))[1] == (2, 1, 2, "new")
