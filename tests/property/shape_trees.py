"""Small random databases, trees and transactions for the properties of membership; what a shape is by definition."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.actors.shapes.tree import Node, Places, Reach, RowId, Tree, Value, value_of
from syncline.actors.shapes.treevalues import HeldRow, Query
from syncline.proto.values import Cell, Column, Delete, Insert, Key, Relation, Row, Update

KEYS = 5
FLAG = 1  # the place of the column that clauses look at
FIRST_REFERENCE = 2

Rows = dict[RowId, Row]


@dataclass(frozen=True)
class Schema:
    """``references``: (relation, place of the referring column, parent); the parent's key is its column 0."""

    relations: dict[int, Relation]
    references: tuple[tuple[int, int, int], ...]

    @property
    def reaches(self) -> tuple[Reach, ...]:
        return tuple(Reach(child, (place,), parent, (0,)) for child, place, parent in self.references)

    def with_referring(self, relation_id: int) -> tuple[int, ...]:
        """It and all that refer to it: what TRUNCATE ... CASCADE empties; without them Postgres refuses."""
        emptied = {relation_id}
        while more := {child for child, _, parent in self.references if parent in emptied} - emptied:
            emptied |= more
        return tuple(sorted(emptied))


def random_schema(random: Random) -> Schema:
    ids = list(range(1, random.randint(2, 4) + 1))
    references: list[tuple[int, int, int]] = []
    relations: dict[int, Relation] = {}
    for id in ids:
        parents = [random.choice(ids) for _ in range(random.randint(0, 2))]
        columns = [Column("id", "int4", primary_key=True), Column("flag", "int4")]
        for number, parent in enumerate(parents):
            references.append((id, FIRST_REFERENCE + number, parent))
            columns.append(Column(f"ref{number}", "int4"))
        relations[id] = Relation(id, "public", f"t{id}", tuple(columns))
    return Schema(relations, tuple(references))


def random_tree(schema: Schema, random: Random) -> Tree:
    """With all the tables that can be reached, as a shape has them."""
    nodes = [Node(random.choice(list(schema.relations)))]
    for _ in range(random.randint(0, 4)):
        above = random.randrange(len(nodes))
        relation_id = nodes[above].relation_id
        edges = [(reach, True) for reach in schema.reaches if reach.parent_id == relation_id]
        edges += [(reach, False) for reach in schema.reaches if reach.relation_id == relation_id]
        if not edges:
            continue
        reach, many = random.choice(edges)
        if many:
            nodes.append(Node(reach.relation_id, above, True, reach.own, reach.theirs))
        else:
            nodes.append(Node(reach.parent_id, above, False, reach.theirs, reach.own))
    reached = {node.relation_id for node in nodes}
    while more := {r.parent_id for r in schema.reaches if r.relation_id in reached} - reached:
        reached |= more
    reaches = tuple(reach for reach in schema.reaches if reach.relation_id in reached)
    return Tree({id: schema.relations[id] for id in reached}, tuple(nodes), reaches)


def clause(clauses: Sequence[int | None], node: int, row: Row) -> bool:
    """Whether ``row`` satisfies the clause of ``node``: that its flag is so much, if there is one."""
    wanted = clauses[node]
    return wanted is None or row[FLAG] == b"%d" % wanted


def by_definition(tree: Tree, clauses: Sequence[int | None], rows: Rows) -> dict[RowId, int]:
    """The rows of the shape and at which nodes they are, straight from what the words mean."""
    at: list[set[RowId]] = []
    for n, node in enumerate(tree.nodes):
        there = {id for id, row in rows.items() if id[0] == node.relation_id and clause(clauses, n, row)}
        if n:
            values = {value_of(rows[id], node.theirs) for id in at[node.above]} - {None}
            there = {id for id in there if value_of(rows[id], node.own) in values}
        at.append(there)
    held = {id: sum(1 << n for n, there in enumerate(at) if id in there) for id in set().union(*at)}
    waiting = list(held)
    while waiting:
        id = waiting.pop()
        for reach in tree.from_[id[0]]:
            value = value_of(rows[id], reach.own)
            for parent in (p for p, row in rows.items() if p[0] == reach.parent_id and value is not None):
                if value_of(rows[parent], reach.theirs) == value and parent not in held:
                    held[parent] = 0
                    waiting.append(parent)
    return held


@dataclass
class Memory:
    """What a shape holds, in memory."""

    rows: dict[RowId, HeldRow] = field(default_factory=dict)

    def get(self, id: RowId) -> HeldRow | None:
        return self.rows.get(id)

    def find(self, relation_id: int, places: Places, value: Value) -> Iterable[Key]:
        return [
            key for (id, key), held in self.rows.items() if id == relation_id and value_of(held.row, places) == value
        ]


def answer(rows: Rows, query: Query) -> list[tuple[Row, tuple[str, ...]]]:
    """What Postgres would say, had it ``rows``."""
    return [
        (row, ("postgres_1@0",))
        for id, row in rows.items()
        if id[0] == query.relation_id and value_of(row, query.places) == query.value
    ]


def transact(schema: Schema, rows: Rows, random: Random) -> tuple[list[StreamChange], Rows]:
    """A random transaction, and the rows after it; foreign keys hold before and after."""
    before = dict(rows)
    changes: list[StreamChange] = []

    def put(id: RowId, row: Row) -> None:
        old = before.get(id)
        changes.append(Insert(id[0], row) if old is None else Update(id[0], row, old))
        before[id] = row

    def remove(id: RowId) -> None:
        changes.append(Delete(id[0], before.pop(id)))

    for _ in range(random.randint(1, 6)):
        relation = random.choice(list(schema.relations.values()))
        id = (relation.id, (b"%d" % random.randrange(KEYS),))
        kind = random.random()
        if id in before and kind < 0.25:
            remove(id)
        elif id in before and kind < 0.35:
            moved = (relation.id, (b"%d" % random.randrange(KEYS),))
            if moved not in before:
                old = before.pop(id)
                before[moved] = (moved[1][0], *old[1:])
                changes.append(Update(relation.id, before[moved], old))
        elif kind < 0.38:
            emptied = schema.with_referring(relation.id)
            changes.append(Truncated(emptied))
            for other in [other for other in before if other[0] in emptied]:
                del before[other]
        else:
            put(id, random_row(relation, id[1], random))
    repair(schema, before, remove, put, random)
    return changes, before


def random_row(relation: Relation, key: Key, random: Random) -> Row:
    references = [
        None if random.random() < 0.2 else b"%d" % random.randrange(KEYS)
        for _ in range(len(relation.columns) - FIRST_REFERENCE)
    ]
    cells: list[Cell] = [*key, b"%d" % random.randrange(2), *references]
    return tuple(cells)


def repair(schema: Schema, rows: Rows, remove, put, random: Random) -> None:  # type: ignore[no-untyped-def]
    """Where a reference leads nowhere: SET NULL or CASCADE."""
    while True:
        dangling = next(
            (
                (id, place)
                for id, row in rows.items()
                for child, place, parent in schema.references
                if id[0] == child and row[place] is not None and (parent, (row[place],)) not in rows
            ),
            None,
        )
        if dangling is None:
            return
        id, place = dangling
        if random.random() < 0.5:
            remove(id)
        else:
            put(id, (*rows[id][:place], None, *rows[id][place + 1 :]))
