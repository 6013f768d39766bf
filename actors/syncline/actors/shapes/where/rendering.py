"""A where clause's tree -> SQL.

Pure. Nothing of the original text is copied: names and literals are quoted anew, and every operation stands in
parentheses, so neither precedence nor what a clause is put into can change its meaning. The SQL means the same
whatever ``standard_conforming_strings`` says.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from syncline.actors.postgres.rowkey import quote_identifier
from syncline.actors.shapes.where.tree import CaseForm, Node, TypeName


def render(node: Node, alias: str = "this") -> str:
    """The clause as SQL, its columns written ``alias."column"``."""
    return Rendered(node, alias).text


class Rendered:
    """SQL that still knows which part of it came from where in the clause."""

    def __init__(self, node: Node, alias: str = "this") -> None:
        self._alias = alias
        self._pieces: list[str] = []
        self._put = self._pieces.append
        self._marks: list[tuple[int, int]] = []  # (piece, from 0; the character of the clause it is from)
        self._node(node)
        self.text = "".join(self._pieces)

    def origin(self, offset: int) -> int:
        """The character of the clause, from 1, that made the character ``offset`` (from 0) of ``text``."""
        ends = list(accumulate(map(len, self._pieces)))
        found = bisect_right(self._marks, (bisect_right(ends, offset), 1 << 60)) - 1
        return self._marks[max(found, 0)][1] + 1

    def _mark(self, node: Node) -> None:
        self._marks.append((len(self._pieces), node.at))

    def _list(self, nodes: Sequence[Node], separator: str = ", ") -> None:
        for i, node in enumerate(nodes):
            if i:
                self._put(separator)
            self._node(node)

    def _node(self, node: Node) -> None:
        value, args = node.value, node.args
        match node.kind:
            case "column":
                self._mark(node)
                self._put(f"{self._alias}.{quote_identifier(str(value))}")
            case "null" | "bool" | "integer" | "number" | "text":
                self._mark(node)
                self._put(_literal(node))
            case "and" | "or":
                self._put("(")
                self._list(args, " AND " if node.kind == "and" else " OR ")
                self._put(")")
            case "not":
                self._prefix(node, "NOT ")
            case "operator":
                self._operator(node)
            case "in":
                self._infix(node, "NOT IN (" if value else "IN (", "))")
            case "between":
                self._infix(node, f"{value} ", separator=" AND ")
            case "any":
                schema, operator, quantifier = _strings(value)
                words = f"{_operator_name(schema, operator)} {quantifier} ("
                self._infix(node, words, "))")
            case "distinct":
                self._infix(node, "IS NOT DISTINCT FROM " if value else "IS DISTINCT FROM ")
            case "null test":
                self._infix(node, "IS NOT NULL" if value else "IS NULL")
            case "bool test":
                self._infix(node, f"IS {value}")
            case "collate":
                self._infix(node, f"COLLATE {_qualified(*_strings(value))}")
            case "cast":
                self._cast(node)
            case "call":
                self._function(node, _qualified(*_strings(value)))
            case "coalesce" | "nullif" | "greatest" | "least":
                self._function(node, node.kind.upper())
            case "named":
                self._put(f"{quote_identifier(str(value))} => ")
                self._node(args[0])
            case "array":
                self._mark(node)
                self._put("ARRAY[")
                self._list(args)
                self._put("]")
            case "subscript":
                self._subscript(node)
            case "case":
                self._case(node)
            case "nothing":
                pass

    def _prefix(self, node: Node, words: str) -> None:
        self._mark(node)
        self._put(f"({words}")
        self._node(node.args[0])
        self._put(")")

    def _infix(self, node: Node, words: str, end: str = ")", separator: str = ", ") -> None:
        """First argument, the words, the rest: positions are those of the words, as Postgres reports them."""
        left, *right = node.args
        self._put("(")
        self._node(left)
        self._put(" ")
        self._mark(node)
        self._put(words)
        self._list(right, separator)
        self._put(end)

    def _operator(self, node: Node) -> None:
        schema, operator = _strings(node.value)
        words = _operator_name(schema, operator)
        if len(node.args) == 1:
            self._prefix(node, words + " ")
        else:
            self._infix(node, words + " ")

    def _cast(self, node: Node) -> None:
        assert isinstance(node.value, TypeName)
        self._mark(node)
        self._put("CAST(")
        self._node(node.args[0])
        self._mark(node)
        self._put(f" AS {type_sql(node.value)})")

    def _function(self, node: Node, name: str) -> None:
        self._mark(node)
        self._put(f"{name}(")
        self._list(node.args)
        self._put(")")

    def _subscript(self, node: Node) -> None:
        self._put("(")
        self._node(node.args[0])
        self._put(")[")
        self._list(node.args[1:], ":")
        self._put("]")

    def _case(self, node: Node) -> None:
        form, args = node.value, list(node.args)
        assert isinstance(form, CaseForm)
        self._mark(node)
        self._put("(CASE")
        if form.has_subject:
            self._put(" ")
            self._node(args.pop(0))
        otherwise = args.pop() if form.has_else else None
        for condition, result in zip(args[::2], args[1::2], strict=True):
            self._put(" WHEN ")
            self._node(condition)
            self._put(" THEN ")
            self._node(result)
        if otherwise is not None:
            self._put(" ELSE ")
            self._node(otherwise)
        self._put(" END)")


def type_sql(name: TypeName) -> str:
    """A type as a cast names it."""
    modifiers = f"({', '.join(map(str, name.modifiers))})" if name.modifiers else ""
    return _qualified(name.schema, name.name) + modifiers + "[]" * name.dimensions


def _strings(value: object) -> tuple[str, ...]:
    assert isinstance(value, tuple)
    return value


def _qualified(schema: str, name: str) -> str:
    return f"{quote_identifier(schema)}.{quote_identifier(name)}" if schema else quote_identifier(name)


def _operator_name(schema: str, operator: str) -> str:
    """The lexer let no character into ``operator`` that is not one of an operator's."""
    return f"OPERATOR({quote_identifier(schema)}.{operator})" if schema else operator


def _literal(node: Node) -> str:
    match node.value:
        case None:
            return "NULL"
        case bool(truth):
            return "TRUE" if truth else "FALSE"
        case str(text) if node.kind == "text":
            quoted = "'" + text.replace("'", "''") + "'"
            return "E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted
        case str(number):
            return f"({number})" if number.startswith("-") else number
    raise AssertionError(node)
