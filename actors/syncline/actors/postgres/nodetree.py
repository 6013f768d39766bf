"""Postgres' own trees of analysed expressions, as text (``pg_node_tree``): what an expression makes use of.

Pure. The text is that of ``ev_action`` in ``pg_rewrite``, which the rule of a view has. Names of nodes differ between
majors: both are known here. What is not known is reported, not passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

Tree: TypeAlias = Any
"""A node (a dict: its name under ``""``, fields by name), a list, or a token."""

_TOKEN = re.compile(r"\{[A-Z0-9_]*|[}()\[\]]|(?:\\.|[^\s{}()\[\]\\])+", re.DOTALL)

_TYPE_FIELD: Final[Mapping[str, str]] = {
    "VAR": "vartype",
    "CONST": "consttype",
    "FUNCEXPR": "funcresulttype",
    "OPEXPR": "opresulttype",
    "DISTINCTEXPR": "opresulttype",
    "NULLIFEXPR": "opresulttype",
    "CASEEXPR": "casetype",
    "CASE": "casetype",
    "CASETESTEXPR": "typeId",
    "COALESCEEXPR": "coalescetype",
    "COALESCE": "coalescetype",
    "MINMAXEXPR": "minmaxtype",
    "MINMAX": "minmaxtype",
    "ARRAYEXPR": "array_typeid",
    "ARRAY": "array_typeid",
    "RELABELTYPE": "resulttype",
    "COERCEVIAIO": "resulttype",
    "ARRAYCOERCEEXPR": "resulttype",
    "SUBSCRIPTINGREF": "refrestype",
}
_OPERATORS: Final = frozenset({"OPEXPR", "DISTINCTEXPR", "NULLIFEXPR", "SCALARARRAYOPEXPR"})
_OTHERS: Final = frozenset(
    {"SCALARARRAYOPEXPR", "BOOLEXPR", "NULLTEST", "BOOLEANTEST", "COLLATEEXPR", "COLLATE", "CASEWHEN", "WHEN"}
    | {"NAMEDARGEXPR"}
)
_THROUGH: Final = frozenset({"COLLATEEXPR", "COLLATE", "NAMEDARGEXPR"})
_BOOL: Final = 16


@dataclass(slots=True)
class Uses:
    """OIDs of functions, of operators, of the types of constants; conversions by text as (from type, to type).

    ``unknown``: names of nodes that are nothing of the above.
    """

    functions: set[int] = field(default_factory=set)
    operators: set[int] = field(default_factory=set)
    constant_types: set[int] = field(default_factory=set)
    conversions: set[tuple[int, int]] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


def parse(text: str) -> Tree:
    """The tree. Raises ValueError when the text is none."""
    tokens = _TOKEN.findall(text)
    if not tokens:
        raise ValueError("not a node tree")
    value, end = _value(tokens, 0)
    if end != len(tokens):
        raise ValueError("not a node tree")
    return value


def _value(tokens: list[str], place: int) -> tuple[Tree, int]:
    token = tokens[place]
    try:
        if token.startswith("{"):
            return _node(tokens, place)
        if token in ("(", "["):
            items, place = [], place + 1
            while tokens[place] not in (")", "]"):
                item, place = _value(tokens, place)
                items.append(item)
            return items, place + 1
    except IndexError:
        raise ValueError("not a node tree") from None
    return token, place + 1


def _node(tokens: list[str], place: int) -> tuple[Tree, int]:
    node: dict[str, Any] = {"": tokens[place][1:]}
    place += 1
    name = ""
    while tokens[place] != "}":
        token = tokens[place]
        if token.startswith(":"):
            name, place = token[1:], place + 1
            node[name] = None
            continue
        value, place = _value(tokens, place)
        node[name] = value if node.get(name) is None else node[name]  # of "4 [ 1 0 0 0 ]" the length is enough
    return node, place + 1


def condition(rule: str) -> Tree:
    """The WHERE of the only query in a view's rule. Raises ValueError."""
    try:
        (query,) = parse(rule)
        return query["jointree"]["quals"]
    except (TypeError, KeyError) as wrong:
        raise ValueError("not the rule of a view") from wrong


def uses(tree: Tree) -> Uses:
    """What an expression makes use of."""
    found = Uses()
    for node in _nodes(tree):
        name = node[""]
        if name not in _TYPE_FIELD and name not in _OTHERS:
            found.unknown.add(name)
        if name == "FUNCEXPR":
            found.functions.add(int(node["funcid"]))
        elif name in _OPERATORS:
            found.operators.add(int(node["opno"]))
        elif name == "CONST":
            found.constant_types.add(int(node["consttype"]))
        elif name == "COERCEVIAIO":
            found.conversions.add((_type(node["arg"]), int(node["resulttype"])))
    return found


def _nodes(tree: Tree) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _type(node: Tree) -> int:
    name = node[""]
    if name in _THROUGH:
        return _type(node["arg"])
    if name in _TYPE_FIELD:
        return int(node[_TYPE_FIELD[name]])
    return _BOOL
