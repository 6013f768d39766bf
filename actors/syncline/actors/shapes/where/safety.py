"""Whether a clause can raise an error for some row.

Pure. What is compiled cannot. Beyond that there is a list here of what cannot either, although only Postgres can
evaluate it; everything else is taken to be able to. Said of clauses whose types Postgres has found right.
"""

from __future__ import annotations

from typing import Final

from syncline.actors.shapes.where.compiling import OPERATORS, Compiler
from syncline.actors.shapes.where.tree import Node

_LIKES: Final = frozenset({"~~", "!~~", "~~*", "!~~*"})
_JSON_TESTS: Final = frozenset({"@>", "<@", "?", "?|", "?&"})
_COMPARED: Final = frozenset(
    {"bool", "int2", "int4", "int8", "float4", "float8", "uuid", "date", "time", "timestamp", "timestamptz"}
)


class Safety:
    """Answers for the columns of one table."""

    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler
        self._columns = compiler.columns

    def can_raise(self, node: Node) -> bool:
        """Of a boolean expression."""
        if node.kind in ("and", "or", "not"):
            return any(self.can_raise(arg) for arg in node.args)
        return self._compiler.condition(node) is None and not self._harmless(node)

    def _harmless(self, node: Node) -> bool:
        args, value = node.args, node.value
        match node.kind:
            case "null test":
                return self._text(args[0]) or self._json(args[0])
            case "bool test":
                return not self.can_raise(args[0])
            case "distinct" | "in":
                return self._compares(args[0]) and all(arg.kind in ("text", "null") for arg in args[1:])
            case "operator" if isinstance(value, tuple) and not value[0] and len(args) == 2:
                left, right = args
                if value[1] in OPERATORS:
                    return self._compares(left) and right.kind in ("text", "null")
                if value[1] in _LIKES:
                    return self._text(left) and right.kind == "text" and _is_pattern(str(right.value))
                if value[1] in _JSON_TESTS:
                    return self._json(left) and right.kind == "text"
        return False

    def _compares(self, node: Node) -> bool:
        """Values that compare with a literal of their own type, whatever they are."""
        if node.kind == "column":
            column = self._columns[str(node.value)]
            return column.labels is not None or column.type in _COMPARED or self._text(node)
        return self._text(node)

    def _text(self, node: Node) -> bool:
        args, value = node.args, node.value
        match node.kind:
            case "column":
                column = self._columns[str(value)]
                return column.collation.deterministic and column.labels is None and column.type in ("text", "varchar")
            case "call" if value in (("pg_catalog", "lower"), ("pg_catalog", "upper")):
                return len(args) == 1 and self._text(args[0])
            case "collate" if value in (("", "C"), ("pg_catalog", "C"), ("", "default"), ("pg_catalog", "default")):
                return self._text(args[0])
            case "operator" if value in (("", "->>"), ("", "#>>")) and len(args) == 2:
                return self._json(args[0]) and args[1].kind in ("text", "integer")
        return False

    def _json(self, node: Node) -> bool:
        """A jsonb; a json may have escapes that are no characters, and says so only when it is read."""
        args, value = node.args, node.value
        match node.kind:
            case "column":
                column = self._columns[str(value)]
                return column.labels is None and column.type == "jsonb"
            case "operator" if value in (("", "->"), ("", "#>")) and len(args) == 2:
                return self._json(args[0]) and args[1].kind in ("text", "integer")
        return False


def _is_pattern(text: str) -> bool:
    """A pattern that ends in its escape character is an error."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 0
