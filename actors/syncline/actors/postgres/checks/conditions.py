"""The tree of a CHECK -> a condition in SQLite. Pure.

The condition is never false where Postgres' is not (see ``operands``): a device refuses nothing that Postgres takes.
Of a conjunction those parts are translated for which that is certain, and the others left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from syncline.actors.postgres.checks.like import glob
from syncline.actors.postgres.checks.operands import MOMENTS, Columns, Operand, Untranslatable, quoted_text, sure
from syncline.actors.postgres.checks.values import BUILT_IN, CHARACTERS_MAX, Values, text_of
from syncline.actors.shapes.where.tree import Node, TypeName
from syncline.proto.conditions import COMPARE, MATCHES
from syncline.proto.patterns import PatternRefused, pattern

_COMPARISONS: Final = frozenset({"=", "<>", "<", "<=", ">", ">="})
_ORDERED: Final = frozenset({"integer", "float8", "bool", "uuid", *MOMENTS})
_LIKE: Final = {"~~": False, "!~~": True}
"""Whether it is NOT LIKE."""
_REGEX: Final = {"~": (False, False), "!~": (True, False), "~*": (False, True), "!~*": (True, True)}
"""Whether it is negated, and whether case counts for nothing."""
_ARRAY: Final = re.compile(r"\{([A-Za-z0-9_.:-]+(?:,[A-Za-z0-9_.:-]+)*)\}")
"""An array's text of one dimension, without quotes, escapes or spaces."""


@dataclass(frozen=True, slots=True)
class Condition:
    """``sql``: over the row ``new``; a row for which it is false does not pass. ``columns``: those that it is about.
    ``exact``: it is false for all others, too, that Postgres does not let pass."""

    sql: str
    columns: tuple[str, ...]
    exact: bool


def translated(node: Node, columns: Columns) -> Condition | None:
    """What can be said of a CHECK on a device; None: nothing. ``columns`` are nobody else's."""
    conjuncts = _conjuncts(node)
    parts: list[str] = []
    used: dict[str, None] = {}
    guards: dict[str, None] = {}
    exact = True
    for conjunct in conjuncts:
        mine = Columns(columns.described, columns.written)
        try:
            truth = Conditions(mine).truth(conjunct)
        except Untranslatable:
            exact = False
            continue
        parts.append(truth.sql)
        used |= mine.used
        guards |= mine.guards
        exact = exact and truth.sure
    if not parts or not used:
        return None
    sql = " AND ".join(parts) if len(parts) == 1 else f"({' AND '.join(parts)})"
    if guards:
        # A value of another storage class than the type's is one that Postgres has to look at.
        sql = f"CASE WHEN {' AND '.join(guards)} THEN {sql} ELSE 1 END"
    return Condition(sql, tuple(used), exact) if len(sql) <= CHARACTERS_MAX else None


def _conjuncts(node: Node) -> list[Node]:
    return [part for arg in node.args for part in _conjuncts(arg)] if node.kind == "and" else [node]


class Conditions(Values):
    def truth(self, node: Node) -> Operand:
        found = self._truth(node)
        if len(found.sql) > CHARACTERS_MAX:
            raise Untranslatable
        return found

    def _truth(self, node: Node) -> Operand:
        args, value = node.args, node.value
        match node.kind:
            case "and" | "or":
                return self._logic(f" {node.kind.upper()} ", [self.truth(arg) for arg in args])
            case "not":
                inner = self.truth(args[0])
                return _bool(f"(NOT {inner.sql})", inner)
            case "bool":
                return sure("bool", "1" if value else "0")
            case "null":
                return sure("bool", "NULL")
            case "null test":
                return sure("bool", f"({self.raw(args[0])} IS {'NOT ' if value else ''}NULL)")
            case "bool test":
                return self._bool_test(args[0], str(value))
            case "distinct":
                return self._distinct(args[0], args[1], negated=bool(value))
            case "any" if isinstance(value, tuple):
                return self._any(value, args[0], args[1])
            case "operator" if isinstance(value, tuple) and len(args) == 2 and value[0] in BUILT_IN:
                return self._operator(value[1], args[0], args[1])
        if node.kind == "operator":
            raise Untranslatable
        operand = self.value(node)
        if operand.type not in ("bool", "null"):
            raise Untranslatable
        return operand

    def _logic(self, word: str, parts: list[Operand]) -> Operand:
        return _bool(f"({word.join(part.sql for part in parts)})", *parts)

    def _bool_test(self, arg: Node, test: str) -> Operand:
        inner = self.truth(arg).known_null
        return sure("bool", f"({inner} IS {test.replace('UNKNOWN', 'NULL')})")

    def _distinct(self, left: Node, right: Node, *, negated: bool) -> Operand:
        one, other = self.alike((left, right))
        if not (one.sure and other.sure) or "float4" in (one.type, other.type):
            raise Untranslatable
        return sure("bool", f"({one.sql} IS {'' if negated else 'NOT '}{other.sql})")

    def _operator(self, operator: str, left: Node, right: Node) -> Operand:
        if operator in _COMPARISONS:
            return self._compare(operator, left, right)
        if operator in _LIKE:
            text, like = self.text(left), glob(text_of(self.value(right)))
            return _bool(f"({text.sql} {'NOT ' if _LIKE[operator] else ''}GLOB {quoted_text(like)})", text)
        if operator in _REGEX:
            return self._regex(operator, left, right)
        if operator == "^@":
            return self.truth(Node("call", ("pg_catalog", "starts_with"), (left, right)))
        raise Untranslatable

    def _compare(self, operator: str, left: Node, right: Node) -> Operand:
        one, other = self.value(left), self.value(right)
        if "float4" in (one.type, other.type):
            return _of_single(operator, one, other)
        one, other = self.alike((left, right))
        if "null" in (one.type, other.type):
            return sure("bool", "NULL")
        if one.type == "numeric":
            return Operand("bool", f"({COMPARE}({one.sql}, {other.sql}) {operator} 0)", None)
        if operator not in ("=", "<>"):
            by_bytes = one.type == "text" and one.collation.with_other(other.collation).by_bytes
            if one.type not in _ORDERED and not by_bytes:
                raise Untranslatable
        return _bool(f"({one.sql} {operator} {other.sql})", one, other)

    def _regex(self, operator: str, left: Node, right: Node) -> Operand:
        negated, any_case = _REGEX[operator]
        text = self._matched(left)
        expression = text_of(self.value(right))
        if any_case and not text.collation.ascii_case:
            raise Untranslatable
        try:
            pattern(expression, any_case=any_case)
        except PatternRefused:
            raise Untranslatable from None
        found = f"{MATCHES}({text.sql}, {quoted_text(expression)}, {int(any_case)})"
        return Operand("bool", f"(NOT {found})" if negated else f"({found})", None)

    def _matched(self, node: Node) -> Operand:
        """What a regular expression sees: of a char(n) the blanks, too."""
        if node.kind == "column":
            name = str(node.value)
            if self.columns.value(name).type == "bpchar":
                operand = self.columns.padded(name)
                if not operand.collation.deterministic:
                    raise Untranslatable
                return operand
        return self.text(node)

    def _any(self, name: tuple[str, ...], left: Node, right: Node) -> Operand:
        schema, operator, quantifier = name
        if schema not in BUILT_IN:
            raise Untranslatable
        items = _items(right)
        if (operator, quantifier) in (("=", "ANY"), ("<>", "ALL")):
            operands = self.alike((left, *items))
            if operands[0].type not in ("numeric", "float4", "null"):
                listed = ", ".join(operand.sql for operand in operands[1:])
                words = "IN" if operator == "=" else "NOT IN"
                return _bool(f"({operands[0].sql} {words} ({listed}))", *operands)
        parts = [self._operator(operator, left, item) for item in items]
        return self._logic(" OR " if quantifier == "ANY" else " AND ", parts)


def _items(array: Node) -> tuple[Node, ...]:
    """The elements of an array that is written out. Raises Untranslatable."""
    items: tuple[Node, ...] = ()
    if array.kind == "array":
        items = array.args
    elif array.kind == "cast" and isinstance(array.value, TypeName) and array.value.dimensions == 1:
        element, (inner,) = replace(array.value, dimensions=0), array.args
        if inner.kind == "array":
            items = tuple([Node("cast", element, (item,)) for item in inner.args])
        elif inner.kind == "text" and (written := _ARRAY.fullmatch(str(inner.value))):
            texts = written[1].split(",")
            if not any(text.upper() == "NULL" for text in texts):
                items = tuple([Node("cast", element, (Node("text", text),)) for text in texts])
    if not items:
        raise Untranslatable
    return items


def _of_single(operator: str, one: Operand, other: Operand) -> Operand:
    """A float4 is rounded, which keeps its sign, and equal to zero is only zero."""
    for operand, zero in ((one, other), (other, one)):
        if operand.type == "float4" and zero.type in ("float4", "float8") and zero.constant == 0.0:
            return _bool(f"({one.sql} {operator} {other.sql})", one, other)
    raise Untranslatable


def _bool(sql: str, *operands: Operand) -> Operand:
    return Operand("bool", sql, sql if all(operand.sure for operand in operands) else None)
