"""A shape's tables and keys with columns as places in rows, ready to be walked. Pure.

Node 0 is the shape's own table, node n the n-th included one. Besides being at nodes, rows belong to a shape because
rows that do refer to them: that holds for all rows alike, so it needs no nodes, and ends where a circle closes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from syncline.actors.shapes.shape import Shape
from syncline.proto.values import Cell, Key, Relation, Row

Places: TypeAlias = tuple[int, ...]
"""Positions of columns in a row."""
RowId: TypeAlias = tuple[int, Key]
"""Relation id and key."""
Value: TypeAlias = tuple[Cell, ...]
"""The cells of some columns, none of them NULL."""


@dataclass(frozen=True, slots=True)
class Node:
    """``own`` places of its rows equal ``theirs`` of the rows of the node ``above`` (-1: there is none).

    ``many``: its rows refer to those above; else those above refer to them.
    """

    relation_id: int
    above: int = -1
    many: bool = False
    own: Places = ()
    theirs: Places = ()


@dataclass(frozen=True, slots=True)
class Reach:
    """Rows of ``relation_id`` bring along those of ``parent_id`` whose ``theirs`` equal their ``own``."""

    relation_id: int
    own: Places
    parent_id: int
    theirs: Places


def value_of(row: Row, places: Places) -> Value | None:
    """The cells at ``places``; None if one of them is NULL, for NULL refers to nothing."""
    value = tuple([row[place] for place in places])
    return None if None in value else value


@dataclass(frozen=True)
class Tree:
    """``relations``: of all its tables, by id."""

    relations: Mapping[int, Relation]
    nodes: tuple[Node, ...]
    reaches: tuple[Reach, ...]

    @cached_property
    def nodes_of(self) -> Mapping[int, tuple[int, ...]]:
        """Relation id -> its nodes."""
        return {
            relation_id: tuple(n for n, node in enumerate(self.nodes) if node.relation_id == relation_id)
            for relation_id in self.relations
        }

    @cached_property
    def from_(self) -> Mapping[int, tuple[Reach, ...]]:
        """Relation id -> what its rows refer by."""
        return {id: tuple(reach for reach in self.reaches if reach.relation_id == id) for id in self.relations}

    @cached_property
    def to(self) -> Mapping[int, tuple[Reach, ...]]:
        """Relation id -> what its rows are referred to by."""
        return {id: tuple(reach for reach in self.reaches if reach.parent_id == id) for id in self.relations}

    @cached_property
    def looked_up(self) -> Mapping[int, tuple[Places, ...]]:
        """Relation id -> the places by whose value its rows are looked for."""
        found: dict[int, dict[Places, None]] = {id: {} for id in self.relations}
        for node in self.nodes[1:]:
            found[node.relation_id][node.own] = None
            found[self.nodes[node.above].relation_id][node.theirs] = None
        for reach in self.reaches:
            found[reach.relation_id][reach.own] = None
            found[reach.parent_id][reach.theirs] = None
        return {id: tuple(all) for id, all in found.items()}

    @cached_property
    def bringing(self) -> Mapping[int, tuple[Reach, ...]]:
        """Relation id -> by which of its references its rows may bring others along. The rest leads to rows at a node
        only, by the same columns by which those who refer hang on them."""
        bringing: dict[int, tuple[Reach, ...]] = dict.fromkeys(self.relations, ())
        brought: set[int] = set()  # relations of which rows may come by a reference alone
        while True:
            for id in self.relations:
                bringing[id] = tuple(reach for reach in self.from_[id] if id in brought or not self._hangs_by(reach))
            more = {reach.parent_id for reaches in bringing.values() for reach in reaches}
            if more <= brought:
                return bringing
            brought |= more

    def _hangs_by(self, reach: Reach) -> bool:
        """Whether at whatever node the referring row is, it hangs there on the row that it refers to."""
        pairs = set(zip(reach.own, reach.theirs, strict=True))
        return all(
            node.many
            and self.nodes[node.above].relation_id == reach.parent_id
            and set(zip(node.own, node.theirs, strict=True)) == pairs
            for node in self.nodes
            if node.relation_id == reach.relation_id
        )

    @cached_property
    def met_once(self) -> frozenset[int]:
        """The relations whose rows come by one way only and once, when a shape is filled from the top down."""
        brought = {reach.parent_id for reaches in self.bringing.values() for reach in reaches}
        return frozenset(
            id
            for id, at in self.nodes_of.items()
            if len(at) == 1 and id not in brought and self._hang_on_one(self.nodes[at[0]])
        )

    def _hang_on_one(self, node: Node) -> bool:
        """Whether each row at ``node`` hangs on no more than one row, which no other value leads to."""
        return node.above < 0 or (node.many and self.is_key(self.nodes[node.above].relation_id, node.theirs))

    def is_key(self, relation_id: int, places: Places) -> bool:
        """Whether ``places`` are those of the primary key, in whatever order."""
        return sorted(places) == sorted(self.relations[relation_id].key_indexes)

    def key_at(self, relation_id: int, places: Places, value: Value) -> Key:
        """The key whose cells at ``places``, which are those of the key, are ``value``."""
        cells = dict(zip(places, value, strict=True))
        return tuple(cells[place] for place in self.relations[relation_id].key_indexes)


def tree_of(shape: Shape, relations: Iterable[Relation]) -> Tree:
    """``relations``: of all tables of ``shape``. Raises KeyError if one is missing."""
    by_id = {relation.id: relation for relation in relations}

    def places(relation_id: int, columns: tuple[str, ...]) -> Places:
        names = {name: place for place, name in enumerate(by_id[relation_id].names)}
        return tuple(names[column] for column in columns)

    nodes = [Node(shape.relation_id)]
    for one in shape.included:
        above = nodes[one.above].relation_id
        own, theirs = places(one.relation_id, one.columns), places(above, one.above_columns)
        nodes.append(Node(one.relation_id, one.above, one.many, own, theirs))
    reaches = (
        Reach(
            reference.relation_id,
            places(reference.relation_id, reference.columns),
            reference.parent_id,
            places(reference.parent_id, reference.parent_columns),
        )
        for reference in shape.references
    )
    return Tree(by_id, tuple(nodes), tuple(reaches))
