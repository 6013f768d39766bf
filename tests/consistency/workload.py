"""What a party writes next, drawn from its chance. Pure.

Statements are the same for SQLite and Postgres, with ``?`` for parameters. Each looks for itself whether it applies: a
child is inserted where its parent is, a parent deleted where no child forbids it. Values are unlike all others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tests.consistency.histories import Write
from tests.consistency.schema import COLUMNS, FLEETING, MEMBERS, PAIRS, PARENTS, REGISTERS, SLOTS

if TYPE_CHECKING:
    import random

Statement: TypeAlias = tuple[str | int, ...]
"""SQL and its arguments."""

JOURNAL = (
    "INSERT INTO journal (author, slot, number, note) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (author, slot) DO UPDATE SET number = excluded.number, note = excluded.note"
)
KIDS = 30
SLOW_ODDS = 0.1
SLOW_MS = 60


@dataclass(frozen=True)
class Drawn:
    """A transaction. ``pause_ms``: how long it rests before its last statement."""

    statements: tuple[Statement, ...]
    writes: tuple[Write, ...]
    pause_ms: float


class Workload:
    """``direct``: the party is direct SQL."""

    def __init__(self, party: str, rng: random.Random, *, direct: bool) -> None:
        self._party = party
        self._rng = rng
        self._direct = direct

    def draw(self, number: int) -> Drawn:
        """The transaction ``number`` of the party."""
        rng = self._rng
        statements: list[Statement] = [(JOURNAL, self._party, number % SLOTS, number, f"{self._party}:{number}")]
        writes: list[Write] = []
        for place in range(rng.choice((1, 1, 2, 3))):
            draw = rng.choices((self._register, self._pair, self._member, self._fleeting, self._tree), (4, 3, 1, 2, 3))
            more, written = draw[0](f"{self._party}:{number}.{place}")
            statements += more
            writes += written
        sql = "INSERT INTO counters (id, value) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET value = excluded.value"
        statements.append((sql, self._party, number))
        slow = rng.random() < SLOW_ODDS
        return Drawn(tuple(statements), tuple(writes), rng.random() * SLOW_MS if slow else 0.0)

    def _register(self, value: str) -> tuple[list[Statement], list[Write]]:
        table = "mixed" if self._direct else self._rng.choice(("registers", "registers", "mixed"))
        key = f"{table[0]}{self._rng.randint(1, REGISTERS)}"
        columns = self._rng.sample(COLUMNS, self._rng.choice((1, 1, 2)))
        setters = ", ".join(f"{column} = ?" for column in columns)
        return (
            [(f"UPDATE {table} SET {setters} WHERE id = ?", *(value for _ in columns), key)],
            [Write(table, key, column, value) for column in columns],
        )

    def _pair(self, value: str) -> tuple[list[Statement], list[Write]]:
        """Both rows in the same way, or neither."""
        key = f"p{self._rng.randint(1, PAIRS)}"
        halves = ("lefts", "rights")
        column = self._rng.choice("xy")
        match self._rng.choice(("update", "update", "update", "put", "delete")):
            case "update":
                return [(f"UPDATE {half} SET {column} = ? WHERE id = ?", value, key) for half in halves], []
            case "put":
                return [
                    (
                        f"INSERT INTO {half} (id, x, y) VALUES (?, ?, ?) "
                        "ON CONFLICT (id) DO UPDATE SET x = excluded.x, y = excluded.y",
                        key,
                        value,
                        value,
                    )
                    for half in halves
                ], []
            case _:
                return [(f"DELETE FROM {half} WHERE id = ?", key) for half in halves], []

    def _member(self, value: str) -> tuple[list[Statement], list[Write]]:
        key = f"e{self._rng.randint(1, MEMBERS)}"
        return (
            [("INSERT INTO members (id) VALUES (?) ON CONFLICT (id) DO NOTHING", key)],
            [Write("members", key, "id", value)],
        )

    def _fleeting(self, value: str) -> tuple[list[Statement], list[Write]]:
        key = f"f{self._rng.randint(1, FLEETING)}"
        match self._rng.choice(("insert", "update", "delete")):
            case "insert":
                sql = "INSERT INTO fleeting (id, value) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
                return [(sql, key, value)], []
            case "update":
                return [("UPDATE fleeting SET value = ? WHERE id = ?", value, key)], []
            case _:
                return [("DELETE FROM fleeting WHERE id = ?", key)], []

    def _tree(self, value: str) -> tuple[list[Statement], list[Write]]:
        draws: list[Callable[[str], list[Statement]]] = [self._kid, self._kid, self._parent, self._node, self._bed]
        return self._rng.choice(draws)(value), []

    def _kid(self, value: str) -> list[Statement]:
        table = self._rng.choice(("cascades", "nullings", "restricts"))
        key, parent = f"{table[0]}{self._rng.randint(1, KIDS)}", f"q{self._rng.randint(1, PARENTS)}"
        match self._rng.choice(("insert", "insert", "move", "delete", "delete")):
            case "insert":
                return [
                    (
                        f"INSERT INTO {table} (id, parent, note) SELECT ?, id, ? FROM parents WHERE id = ? "
                        "ON CONFLICT (id) DO NOTHING",
                        *(key, value, parent),
                    )
                ]
            case "move":
                return [
                    (
                        f"UPDATE {table} SET parent = ?, note = ? "
                        "WHERE id = ? AND EXISTS (SELECT 1 FROM parents WHERE parents.id = ?)",
                        *(parent, value, key, parent),
                    )
                ]
            case _:
                return [(f"DELETE FROM {table} WHERE id = ?", key)]

    def _parent(self, value: str) -> list[Statement]:
        key = f"q{self._rng.randint(1, PARENTS)}"
        match self._rng.choice(("put", "put", "delete")):
            case "put":
                return [_put("parents", ("id",), ("title",), (key, value))]
            case _:
                return [
                    (
                        "DELETE FROM parents WHERE id = ? "
                        "AND NOT EXISTS (SELECT 1 FROM restricts WHERE restricts.parent = parents.id)",
                        key,
                    )
                ]

    def _node(self, value: str) -> list[Statement]:
        """A node lies under one with a smaller number, so there is no circle."""
        number = self._rng.randint(1, KIDS)
        key = f"n{number:02}"
        match self._rng.choice(("root", "leaf", "leaf", "delete")):
            case "root":
                return [_put("nodes", ("id",), ("note",), (key, value))]
            case "leaf":
                return [
                    (
                        "INSERT INTO nodes (id, up, note) SELECT ?, id, ? FROM nodes WHERE id = ? "
                        "ON CONFLICT (id) DO NOTHING",
                        *(key, value, f"n{self._rng.randint(0, number - 1):02}"),
                    )
                ]
            case _:
                return [("DELETE FROM nodes WHERE id = ?", key)]

    def _bed(self, value: str) -> list[Statement]:
        key, room = f"b{self._rng.randint(1, KIDS)}", str(self._rng.randint(1, PARENTS))
        match self._rng.choice(("insert", "insert", "delete", "room", "leave")):
            case "insert":
                return [
                    (
                        "INSERT INTO beds (id, house, number, note) SELECT ?, house, number, ? FROM rooms "
                        "WHERE house = 'h' AND number = ? ON CONFLICT (id) DO NOTHING",
                        *(key, value, room),
                    )
                ]
            case "delete":
                return [("DELETE FROM beds WHERE id = ?", key)]
            case "leave":
                return [("DELETE FROM rooms WHERE house = 'h' AND number = ?", room)]
            case _:
                return [_put("rooms", ("house", "number"), ("title",), ("h", room, value))]


def _put(table: str, key: tuple[str, ...], columns: tuple[str, ...], values: tuple[str, ...]) -> Statement:
    setters = ", ".join(f"{column} = excluded.{column}" for column in columns)
    return (
        f"INSERT INTO {table} ({', '.join((*key, *columns))}) VALUES ({', '.join('?' for _ in values)}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {setters}",
        *values,
    )
