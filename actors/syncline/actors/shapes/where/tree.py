"""A where clause as a tree of our own: only what a clause may contain, in a form without two spellings of one thing.

Pure. The parser makes these nodes from Postgres' parse tree, the renderer writes them as SQL, the compiler as Python.
A node does not know its type: whoever needs types works them out from the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal[
    "column",  # value: its name
    "null",
    "bool",  # value: True or False
    "integer",  # value: its decimal text, with a minus where it is negative
    "number",  # value: the text of a numeric literal
    "text",  # value: a string literal; its type is whatever its place asks for
    "cast",  # value: TypeName
    "operator",  # value: (schema or "", name); one argument (prefix) or two
    "and",
    "or",
    "not",
    "in",  # the left side, then the list; value: whether it is NOT IN
    "between",  # value: the keywords, for example "NOT BETWEEN SYMMETRIC"
    "any",  # value: (schema or "", operator, "ANY" or "ALL")
    "distinct",  # value: whether it is IS NOT DISTINCT FROM
    "null test",  # value: whether it is IS NOT NULL
    "bool test",  # value: "TRUE", "NOT TRUE", "FALSE", "NOT FALSE", "UNKNOWN", "NOT UNKNOWN"
    "call",  # value: (schema or "", name)
    "named",  # an argument by name; value: the name
    "case",  # value: CaseForm
    "coalesce",
    "nullif",
    "greatest",
    "least",
    "array",  # ARRAY[...]
    "subscript",  # value: whether it is a slice; the array, then its bounds
    "nothing",  # a bound that a slice leaves open
    "collate",  # value: (schema or "", name)
]


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type as written. ``schema`` is empty where the search path decides; ``dimensions`` counts its ``[]``."""

    schema: str
    name: str
    modifiers: tuple[int, ...] = ()
    dimensions: int = 0


@dataclass(frozen=True, slots=True)
class CaseForm:
    """How the arguments of a CASE are laid out: [subject], then condition and result of each WHEN, then [ELSE]."""

    has_subject: bool
    has_else: bool


Value: TypeAlias = str | bool | tuple[str, ...] | TypeName | CaseForm | None


@dataclass(frozen=True, slots=True)
class Node:
    """``at``: the character of the clause it begins at or is named at, from 0; two nodes are equal without it."""

    kind: Kind
    value: Value = None
    args: tuple[Node, ...] = ()
    at: int = field(default=0, compare=False)

    def walk(self) -> Iterator[Node]:
        """The node and all below it, parents first, left to right."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.args)


LITERALS: frozenset[Kind] = frozenset({"null", "bool", "integer", "number", "text"})
