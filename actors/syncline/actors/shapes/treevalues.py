"""What is said of the rows of an include tree: what a transaction did to them, what is held, what has to be known of
others, and what comes of it. Values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from syncline.actors.shapes.tree import Places, RowId, Value
from syncline.proto.values import Insert, Key, Row, RowChange

Tags: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Net:
    """What a transaction did to a row in the end: ``old`` and ``new`` are None where there was, or is, none."""

    old: Row | None
    new: Row | None
    tags: Tags = ()


@dataclass(frozen=True, slots=True)
class HeldRow:
    """``nodes``: bit n is set if it is at node n."""

    row: Row
    nodes: int


class Held(Protocol):
    """What a shape holds before the transaction."""

    def get(self, id: RowId) -> HeldRow | None: ...

    def find(self, relation_id: int, places: Places, value: Value) -> Iterable[Key]:
        """The keys of held rows with ``value`` at ``places``."""
        ...


@dataclass(frozen=True, slots=True)
class Query:
    """The rows of a table with ``value`` at ``places``, as they are after the transaction."""

    relation_id: int
    places: Places
    value: Value


Known: TypeAlias = Callable[[Query], Sequence[tuple[Row, Tags]] | None]
"""The answer to a query; None: it is not known yet."""
Judge: TypeAlias = Callable[[int, Row], bool | None]
"""Whether a row satisfies the clause of a node; None: it is not known yet."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be known before anything can be said. ``judgements``: (node, row)."""

    queries: frozenset[Query] = frozenset()
    judgements: frozenset[tuple[int, Row]] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """What the transaction does to the shape. ``changes``: for devices; ``gone``: of the GONE ones among them, in the
    same order, the rows themselves, as inserts. ``held``: the rows that are held now and are new, changed or at other
    nodes than before; ``left``: those that are not held any more."""

    changes: tuple[RowChange, ...] = ()
    gone: tuple[Insert, ...] = ()
    held: Mapping[RowId, HeldRow] = field(default_factory=dict)
    left: tuple[RowId, ...] = ()
