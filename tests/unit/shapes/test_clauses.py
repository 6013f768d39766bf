"""Who is asked whether a row satisfies a clause: Python where that is certain, else Postgres, once for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from syncline.actors.postgres.catalog import Collation, TableInfo, table_info
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.filtering import filtered
from syncline.actors.shapes.where import Where, parse
from syncline.proto.values import Gone, Insert, Row, Update

_DESCRIBED = table_info(
    {
        "oid": 7,
        "schema": "public",
        "table": "items",
        "columns": [
            {"name": "id", "type": "int4", "not_null": True, "pk": 1},
            {"name": "title", "type": "text", "not_null": False, "pk": None},
        ],
        "fks": [],
    }
)
TABLE = replace(_DESCRIBED, collations={"title": Collation(deterministic=True, ascii_case=True)})


class Postgres:
    """Finds every row inside whose title ends with "!", whatever the clause says. ``asked``: the rows of each query."""

    def __init__(self) -> None:
        self.asked: list[list[Row]] = []

    async def evaluate(self, where: Where, table: TableInfo, rows: Sequence[Row]) -> list[bool]:
        self.asked.append(list(rows))
        return [(row[1] or b"").endswith(b"!") for row in rows]


def row(id: int, title: str) -> Row:
    return (b"%d" % id, title.encode())


def clauses(text: str) -> tuple[Clauses, Postgres]:
    postgres = Postgres()
    return Clauses({0: (TABLE, parse(text, TABLE))}, postgres.evaluate), postgres


async def test_what_python_is_certain_of_is_not_asked() -> None:
    ours, postgres = clauses("this.id < 3")
    assert await ours.judged(0, [row(1, "a!"), row(5, "b!")]) == [True, False]
    assert postgres.asked == []


async def test_only_the_rows_that_are_undecided_are_asked_about_and_each_once() -> None:
    ours, postgres = clauses("this.title ILIKE 'a%'")
    rows = [row(1, "A"), row(2, "É!"), row(3, "b"), row(2, "É!"), row(4, "é")]
    assert await ours.judged(0, rows) == [True, True, False, True, False]
    assert postgres.asked == [[row(2, "É!"), row(4, "é")]]


async def test_a_walk_is_told_what_is_unknown_and_looks_it_up() -> None:
    ours, _ = clauses("this.title ILIKE 'a%'")
    assert ours.judge(0, row(1, "A")) is True
    assert ours.judge(0, row(2, "É!")) is None
    await ours.look([(0, row(2, "É!"))])
    assert ours.judge(0, row(2, "É!")) is True
    ours.forget()
    assert ours.judge(0, row(2, "É!")) is None
    assert ours.judge(1, row(2, "É!")) is True, "a node without a clause"


async def test_changes_are_filtered_by_what_rows_were_and_are() -> None:
    ours, postgres = clauses("this.title ~ 'x'")
    changes = [
        Insert(7, row(1, "in!"), ("t",)),
        Insert(7, row(2, "out")),
        Update(7, row(3, "in!"), row(3, "out"), ("t",)),
        Update(7, row(4, "out"), row(4, "in!")),
        Update(7, row(5, "in!"), row(5, "was in!"), ("t",)),
        Insert(7, row(6, "in!")),
        Update(7, row(6, "out"), row(6, "in!")),
    ]
    kept, gone = await filtered(changes, TABLE.relation, ours)
    assert kept == [
        Insert(7, row(1, "in!"), ("t",)),
        Insert(7, row(3, "in!"), ("t",)),
        Gone(7, (b"4", None)),
        Update(7, row(5, "in!"), row(5, "was in!"), ("t",)),
    ]
    assert gone == [Insert(7, row(4, "out"))]
    assert len(postgres.asked) == 1
