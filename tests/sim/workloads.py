"""What applications and SQL clients write.

Each kind is one whose loss shows in its own way. **Registers** are rows that everybody changes; which write wins is
decided by the last one, so a lost write may pass for a beaten one. Therefore every value written is unique and names
its writer, and beside registers there are: a **hot** row, which all write all the time; a **journal**, one row a device
transaction, to be there exactly once, and some of direct SQL; **sets**, whose elements are only ever inserted;
**counters** with a single writer (one a device and table, one that direct SQL alone writes), which only grow; **brief**
keys, which everybody inserts, refers to and deletes again and again; and **pairs**, two rows of two tables that get the
same number, only ever together.

Nothing deletes what sets, counters and pairs consist of. Transactions of counters, sets and pairs hold nothing that
Postgres may refuse.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tests.sim.schema import COMMENTS, FOLDERS, ISSUES, JOURNAL, PLACES, PROJECTS, VISITS, RowKey
from tests.sim.work import Work

from syncline.proto.values import Cell

Statement: TypeAlias = tuple[str, tuple[Any, ...]]

ROWS = 4
ISSUES_COUNT = 7
SITES = 2
SQL_CLIENT = "sql"
RANK = 3
"""The column of all counters and pairs."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an application knows of its transaction: the counter (its table) it has set to a value, an element it has
    put into a set."""

    counter: tuple[str, int] | None = None
    element: RowKey | None = None


NOTHING = Remembered()


# --- keys -------------------------------------------------------------------------------------------------------------

COUNTED = {"projects": PROJECTS, "folders": FOLDERS, "places": PLACES}


def special(kind: str, table: str, name: object) -> RowKey:
    """The row of a counter, a set, a pair or a brief key that is called ``name``."""
    text = f"{kind}-{name}".encode()
    return COUNTED[table], (text, b"0") if table == "places" else (text,)


def pair(number: int) -> tuple[RowKey, RowKey]:
    return special("pair", "projects", number), special("pair", "places", number)


HOT = special("hot", "projects", 0)
"""A row of which everybody writes the same column all the time."""
PAIRS = tuple(pair(number) for number in range(2))


def is_element(key: RowKey) -> bool:
    return (key[1][0] or b"").startswith(b"set-")


def _row(key: RowKey, name: Cell, rank: Cell) -> tuple[Cell, ...]:
    first = key[1][0]
    return (first, key[1][1], name, rank) if key[0] == PLACES else (first, None, name, rank)


# --- devices ----------------------------------------------------------------------------------------------------------


def device_writes(rng: random.Random, writer: str, number: int) -> tuple[list[Statement], Remembered]:
    """A transaction of ``writer``, its ``number``-th."""
    texts = (f"{writer}:{number}.{place}" for place in range(100))
    kind = rng.random()
    if kind < 0.25:
        table = rng.choice(list(COUNTED))
        return [_upsert(table, special("counter", table, writer), number)], Remembered(counter=(table, number))
    if kind < 0.35:
        # Of all writers and times another number.
        value = number * 10 + ord(writer[-1]) % 10
        return _both(rng, PAIRS[rng.randrange(2)], value), Remembered()
    if kind < 0.42:
        table = rng.choice(list(COUNTED))
        element = special("set", table, rng.randrange(3))
        return [_insert(table, element, next(texts))], Remembered(element=element)
    if kind < 0.6:
        return [_brief(rng, next(texts)) for _ in range(rng.randrange(1, 4))], Remembered()
    statements = [_statement(rng, texts) for _ in range(rng.randrange(1, 5))]
    if kind < 0.78:
        sql = "INSERT INTO projects (id, note) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET note = excluded.note"
        statements.append((sql, (*_args(HOT), next(texts))))
    return statements, Remembered()


def _both(rng: random.Random, keys: tuple[RowKey, RowKey], value: int) -> list[Statement]:
    """A pair, of which both rows are here or neither is: who knows only one of them beats others in that one."""
    rows = list(zip(("projects", "places"), keys, strict=True))
    rng.shuffle(rows)
    (first, key), (then, other) = rows
    alike = f"(SELECT count(*) FROM {first} WHERE {_is(first)}) = (SELECT count(*) FROM {then} WHERE {_is(then)})"
    done = f"EXISTS (SELECT 1 FROM {first} WHERE {_is(first)} AND rank = ?)"
    return [
        _upsert(first, key, value, alike, (*_args(key), *_args(other))),
        _upsert(then, other, value, done, (*_args(key), value)),
    ]


def _brief(rng: random.Random, text: str) -> Statement:
    """To a brief key, or to a row that refers to one."""
    table = rng.choice(list(COUNTED))
    key = special("brief", table, 0)
    if rng.random() < 0.25:
        refer = {
            "projects": "INSERT INTO visits (id, project, note) VALUES ('brief', ?, ?)",
            "folders": "INSERT INTO comments (id, folder, body) VALUES ('brief', ?, ?)",
            "places": "INSERT INTO visits (id, site, number, note) VALUES ('brief', ?, ?, ?)",
        }
        return f"{refer[table]} ON CONFLICT DO NOTHING", (*_args(key), text)
    return rng.choice((_delete(table, key), _insert(table, key, text), _update(table, key, text)))


def poison(rng: random.Random, writer: str, number: int) -> tuple[list[Statement], list[Statement]]:
    """A transaction that Postgres refuses; and one that follows it, and deletes a row that it has changed."""
    texts = (f"{writer}:{number}.{place}" for place in range(100))
    project = f"p{rng.randrange(ROWS)}"
    refused = [
        *(_statement(rng, texts) for _ in range(rng.randrange(1, 5))),
        ("INSERT OR IGNORE INTO projects (id) VALUES (?)", (project,)),
        ("UPDATE projects SET rank = 'many' WHERE id = ?", (project,)),
    ]
    table, column = rng.choice((("comments", "body"), ("visits", "note")))  # to which nothing refers
    row = f"{table[0]}{rng.randrange(ROWS)}"
    refused.append((f"UPDATE {table} SET {column} = ? WHERE id = ?", (next(texts), row)))
    return refused, [(f"DELETE FROM {table} WHERE id = ?", (row,))]


def _args(key: RowKey) -> tuple[Any, ...]:
    first, *rest = ((cell or b"").decode() for cell in key[1])
    return (first, *map(int, rest))


def _names(table: str) -> str:
    return "site, number" if table == "places" else "id"


def _marks(table: str) -> str:
    return "?, ?" if table == "places" else "?"


def _is(table: str) -> str:
    return f"({_names(table)}) = ({_marks(table)})"


def _upsert(table: str, key: RowKey, rank: int, where: str = "true", args: tuple[Any, ...] = ()) -> Statement:
    sql = (
        f"INSERT INTO {table} ({_names(table)}, rank) SELECT {_marks(table)}, ? WHERE {where} "
        f"ON CONFLICT ({_names(table)}) DO UPDATE SET rank = excluded.rank"
    )
    return sql, (*_args(key), rank, *args)


def _insert(table: str, key: RowKey, name: str) -> Statement:
    sql = f"INSERT INTO {table} ({_names(table)}, name) VALUES ({_marks(table)}, ?) ON CONFLICT DO NOTHING"
    return sql, (*_args(key), name)


def _update(table: str, key: RowKey, name: str) -> Statement:
    return f"UPDATE {table} SET name = ? WHERE {_is(table)}", (name, *_args(key))


def _delete(table: str, key: RowKey) -> Statement:
    return f"DELETE FROM {table} WHERE {_is(table)}", _args(key)


def _statement(rng: random.Random, texts: Any) -> Statement:
    """What an application does to registers."""
    project, issue = f"p{rng.randrange(ROWS)}", f"i{rng.randrange(ISSUES_COUNT)}"
    folder, parent = f"f{rng.randrange(ROWS)}", rng.choice((None, *(f"f{n}" for n in range(ROWS))))
    place = (f"s{rng.randrange(SITES)}", rng.randrange(2))
    visit, comment = f"v{rng.randrange(ROWS)}", f"c{rng.randrange(ROWS)}"
    text = next(texts)
    return rng.choice(
        (
            ("INSERT INTO projects (id, name, rank) VALUES (?, ?, 1) ON CONFLICT DO NOTHING", (project, text)),
            ("UPDATE projects SET name = ? WHERE id = ?", (text, project)),
            ("UPDATE projects SET note = ? WHERE id = ?", (text, project)),
            ("DELETE FROM projects WHERE id = ?", (project,)),
            ("INSERT INTO issues VALUES (?, ?, ?, 'open') ON CONFLICT DO NOTHING", (issue, project, text)),
            ("UPDATE issues SET title = ? WHERE id = ?", (text, issue)),
            ("UPDATE issues SET state = ? WHERE id = ?", (text, issue)),
            ("UPDATE issues SET project = ? WHERE id = ?", (project, issue)),
            ("DELETE FROM issues WHERE id = ?", (issue,)),
            ("DELETE FROM issues WHERE project = ?", (project,)),
            ("INSERT INTO folders (id, parent, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (folder, parent, text)),
            ("UPDATE folders SET name = ? WHERE id = ?", (text, folder)),
            ("UPDATE folders SET parent = ? WHERE id = ?", (parent, folder)),
            ("DELETE FROM folders WHERE id = ?", (folder,)),
            ("INSERT INTO places (site, number, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (*place, text)),
            ("UPDATE places SET name = ? WHERE site = ? AND number = ?", (text, *place)),
            ("DELETE FROM places WHERE site = ? AND number = ?", place),
            ("INSERT INTO visits VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (visit, *place, project, text)),
            ("UPDATE visits SET site = ?, number = ? WHERE id = ?", (*place, visit)),
            ("UPDATE visits SET note = ? WHERE id = ?", (text, visit)),
            ("DELETE FROM visits WHERE id = ?", (visit,)),
            ("INSERT INTO comments VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (comment, issue, folder, text)),
            ("UPDATE comments SET body = ? WHERE id = ?", (text, comment)),
            ("UPDATE comments SET folder = ? WHERE id = ?", (parent, comment)),
            ("DELETE FROM comments WHERE id = ?", (comment,)),
        )
    )


# --- direct SQL -------------------------------------------------------------------------------------------------------


def direct(work: Work, rng: random.Random) -> None:
    """What somebody does by SQL in Postgres."""
    kind = rng.random()
    texts = (b"sql:%d.%d" % (work.position, place) for place in range(100))
    if kind < 0.15:
        key = special("counter", rng.choice(list(COUNTED)), SQL_CLIENT)
        row = work.get(key).row
        work.put(key[0], _row(key, b"counter", b"%d" % (1 if row is None else int(row[RANK] or 0) + 1)))
    elif kind < 0.25:
        # Above all that devices write into it.
        value = b"%d" % (1_000_000 + work.position)
        for key in PAIRS[rng.randrange(2)]:
            work.put(key[0], _row(key, b"pair", value))
    elif kind < 0.3:
        key = special("set", rng.choice(list(COUNTED)), rng.randrange(3))
        if work.get(key).row is None:
            work.put(key[0], _row(key, next(texts), None))
    elif kind < 0.5:
        key = special("brief", rng.choice(list(COUNTED)), 0)
        row = work.get(key).row
        if row is None:
            work.put(key[0], _row(key, next(texts), None))
        elif rng.random() < 0.4:
            work.update(key, RANK, b"%d" % work.position)  # which devices do not write
        else:
            work.delete(key)
            if rng.random() < 0.4:
                work.put(key[0], _row(key, next(texts), None))
    elif kind < 0.54:
        work.update(HOT, 2, next(texts))
    else:
        for _ in range(rng.randrange(1, 5)):
            _direct_statement(work, rng, next(texts))
            work.check()  # none of the foreign keys is deferred
    if work.changes and rng.random() < 0.5:
        work.put(JOURNAL, (b"sql:%d" % work.position, b"sql", None))


def _direct_statement(work: Work, rng: random.Random, text: Cell) -> None:
    project, issue = b"p%d" % rng.randrange(ROWS), b"i%d" % rng.randrange(ISSUES_COUNT)
    folder, parent = b"f%d" % rng.randrange(ROWS), rng.choice((None, *(b"f%d" % n for n in range(ROWS))))
    place = (b"s%d" % rng.randrange(SITES), b"%d" % rng.randrange(2))
    visit, comment = b"v%d" % rng.randrange(ROWS), b"c%d" % rng.randrange(ROWS)
    statements: tuple[Callable[[], None], ...] = (
        lambda: work.put(PROJECTS, (project, text, None, b"2")),
        lambda: work.update((PROJECTS, (project,)), rng.choice((1, 2)), text),
        lambda: work.delete((PROJECTS, (project,))),
        lambda: work.put(ISSUES, (issue, project, text, b"open")),
        lambda: work.update((ISSUES, (issue,)), rng.choice((2, 3)), text),
        lambda: work.update((ISSUES, (issue,)), 1, project),
        lambda: work.delete((ISSUES, (issue,))),
        lambda: work.put(FOLDERS, (folder, parent, text, None)),
        lambda: work.update((FOLDERS, (folder,)), 1, parent),
        lambda: work.delete((FOLDERS, (folder,))),
        lambda: work.put(PLACES, (*place, text, None)),
        lambda: work.delete((PLACES, place)),
        lambda: work.put(VISITS, (visit, *place, project, text)),
        lambda: work.update((VISITS, (visit,)), 4, text),
        lambda: work.delete((VISITS, (visit,))),
        lambda: work.put(COMMENTS, (comment, issue, folder, text)),
        lambda: work.update((COMMENTS, (comment,)), 3, text),
        lambda: work.delete((COMMENTS, (comment,))),
    )
    rng.choice(statements)()


def large(work: Work, rng: random.Random) -> None:
    """More than is sent live."""
    for number in range(ISSUES_COUNT):
        issue = b"i%d" % number
        if work.get((ISSUES, (issue,))).row is None:
            work.put(ISSUES, (issue, None, b"large", b"open"))
        work.update((ISSUES, (issue,)), 2, b"large:%d.%d " % (work.position, number) + b"x" * rng.randrange(200, 400))
    for number in range(ROWS):
        work.update((PROJECTS, (b"p%d" % number,)), 2, b"large:%d.%d" % (work.position, ISSUES_COUNT + number))


def truncate(work: Work, rng: random.Random) -> None:
    if rng.random() < 0.5:
        work.put(ISSUES, (b"i0", None, b"before:%d" % work.position, b"open"))
    work.truncate(*rng.choice(((ISSUES, COMMENTS), (VISITS,), (COMMENTS,))))
    if rng.random() < 0.5:
        work.put(ISSUES, (b"i1", None, b"after:%d" % work.position, b"open"))


def seed(work: Work) -> None:
    """The rows that are there before anything happens."""
    for number in range(ROWS - 1):
        work.put(PROJECTS, (b"p%d" % number, b"seed", None, b"0"))
        work.put(FOLDERS, (b"f%d" % number, b"f%d" % (number - 1) if number else None, b"seed", None))
        work.put(PLACES, (b"s%d" % (number % SITES), b"%d" % (number // SITES), b"seed", None))
    for number in range(ISSUES_COUNT - 3):
        work.put(ISSUES, (b"i%d" % number, b"p%d" % (number % 3), b"seed", b"open"))
    for number in range(ROWS - 2):
        work.put(VISITS, (b"v%d" % number, b"s0", b"0", b"p%d" % number, b"seed"))
        work.put(COMMENTS, (b"c%d" % number, b"i%d" % number, b"f%d" % number, b"seed"))
