"""What a run writes to: its tables, and the statement by which everybody reads all of them in one snapshot. Pure."""

from __future__ import annotations

from dataclasses import dataclass

REGISTERS = 4
FLEETING = 6
PAIRS = 6
MEMBERS = 1000
PARENTS = 8
# Of each author the journal keeps so many transactions: a newer one takes the place of an older. So what devices hold
# does not grow with the length of a run, and neither does what it takes to read it, or to fetch all of it anew.
SLOTS = 200
COLUMNS = ("a", "b", "c")

SCHEMA = """
CREATE TABLE journal (author text, slot int4, number int4, note text, PRIMARY KEY (author, slot));
CREATE TABLE counters (id text PRIMARY KEY, value int4 NOT NULL);
CREATE TABLE registers (id text PRIMARY KEY, a text, b text, c text);
CREATE TABLE mixed (id text PRIMARY KEY, a text, b text, c text);
CREATE TABLE members (id text PRIMARY KEY);
CREATE TABLE lefts (id text PRIMARY KEY, x text, y text);
CREATE TABLE rights (id text PRIMARY KEY, x text, y text);
CREATE TABLE fleeting (id text PRIMARY KEY, value text);
CREATE TABLE parents (id text PRIMARY KEY, title text);
CREATE TABLE cascades (id text PRIMARY KEY, parent text NOT NULL REFERENCES parents ON DELETE CASCADE, note text);
CREATE TABLE nullings (id text PRIMARY KEY, parent text REFERENCES parents ON DELETE SET NULL, note text);
CREATE TABLE restricts (id text PRIMARY KEY, parent text NOT NULL REFERENCES parents ON DELETE RESTRICT, note text);
CREATE TABLE nodes (id text PRIMARY KEY, up text REFERENCES nodes ON DELETE CASCADE, note text);
CREATE TABLE rooms (house text, number text, title text, PRIMARY KEY (house, number));
CREATE TABLE beds (id text PRIMARY KEY, house text NOT NULL, number text NOT NULL, note text,
    FOREIGN KEY (house, number) REFERENCES rooms ON DELETE CASCADE);

-- Each execution of a journal row's write, however the row looks afterwards.
CREATE TABLE executions (author text NOT NULL, number int4 NOT NULL);
CREATE FUNCTION count_execution() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO executions VALUES (new.author, new.number); RETURN NULL; END $$;
CREATE TRIGGER count_execution AFTER INSERT OR UPDATE ON journal FOR EACH ROW EXECUTE FUNCTION count_execution();
"""


@dataclass(frozen=True)
class Table:
    """``key`` and ``columns``: names, in the order of rows in a snapshot."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """``places``: of the referring columns in a row of the snapshot; all of them NULL refer to nothing."""

    child: str
    parent: str
    places: tuple[int, ...]


# Parents first.
TABLES = (
    Table("journal", ("author", "slot"), ("number", "note")),
    Table("counters", ("id",), ("value",)),
    Table("registers", ("id",), COLUMNS),
    Table("mixed", ("id",), COLUMNS),
    Table("members", ("id",), ("id",)),
    Table("lefts", ("id",), ("x", "y")),
    Table("rights", ("id",), ("x", "y")),
    Table("fleeting", ("id",), ("value",)),
    Table("parents", ("id",), ("title",)),
    Table("cascades", ("id",), ("parent", "note")),
    Table("nullings", ("id",), ("parent", "note")),
    Table("restricts", ("id",), ("parent", "note")),
    Table("nodes", ("id",), ("up", "note")),
    Table("rooms", ("house", "number"), ("title",)),
    Table("beds", ("id",), ("house", "number", "note")),
)
REFERENCES = (
    Reference("cascades", "parents", (0,)),
    Reference("nullings", "parents", (0,)),
    Reference("restricts", "parents", (0,)),
    Reference("nodes", "nodes", (0,)),
    Reference("beds", "rooms", (0, 1)),
)
KEY_SEPARATOR = "/"  # in no value of a key

VECTOR = "SELECT id, value FROM counters"


def snapshot_sql(*, postgres: bool, whole: bool = False) -> str:
    """One statement for (table, key, JSON array of the other columns) of every row.

    Of the journal it is (author, [count, greatest number, least number]), unless ``whole``.
    """
    array = "json_build_array" if postgres else "json_array"
    text = "::text" if postgres else ""
    parts = []
    for table in TABLES:
        if table.name == "journal" and not whole:
            parts.append(
                f"SELECT 'journal' AS tab, author AS key, {array}(count(*), max(number), min(number)){text} AS row "
                "FROM journal GROUP BY author"
            )
            continue
        key = f" || '{KEY_SEPARATOR}' || ".join(f"CAST({name} AS text)" for name in table.key)
        parts.append(
            f"SELECT '{table.name}' AS tab, {key} AS key, {array}({', '.join(table.columns)}){text} AS row "
            f"FROM {table.name}"
        )
    return " UNION ALL ".join(parts)


def first_rows(parties: list[str]) -> list[str]:
    """Statements for what is there before anybody writes."""
    return [
        *(f"INSERT INTO counters VALUES ('{party}', 0)" for party in parties),
        f"INSERT INTO registers SELECT 'r' || n, '', '', '' FROM generate_series(1, {REGISTERS}) n",
        f"INSERT INTO mixed SELECT 'm' || n, '', '', '' FROM generate_series(1, {REGISTERS}) n",
        f"INSERT INTO lefts SELECT 'p' || n, '', '' FROM generate_series(1, {PAIRS}) n",
        f"INSERT INTO rights SELECT 'p' || n, '', '' FROM generate_series(1, {PAIRS}) n",
        f"INSERT INTO parents SELECT 'q' || n, 'first' FROM generate_series(1, {PARENTS}) n",
        f"INSERT INTO rooms SELECT 'h', n::text, 'first' FROM generate_series(1, {PARENTS}) n",
    ]
