"""Which values a column must have wherever a clause is true: by these a change finds its shapes without asking each.

Pure. Only columns are looked at whose equality is that of their cells. What is said is implied by the clause, not the
same as it: the clause is still asked for the rows that are found so.
"""

from __future__ import annotations

from typing import Final

from syncline.actors.shapes.where.compiling import Compiler
from syncline.actors.shapes.where.literals import INTEGER_RANGES
from syncline.actors.shapes.where.operands import Operand, Uncompilable
from syncline.actors.shapes.where.tree import Node

_TYPES: Final = frozenset({*INTEGER_RANGES, "bool", "text", "uuid"})


def equalities(node: Node, compiler: Compiler) -> tuple[tuple[str, frozenset[bytes]], ...]:
    """(column, the cells of which it must hold one), sorted by column. Empty where nothing is certain."""
    return tuple(sorted(_Reader(compiler).read(node).items()))


class _Reader:
    def __init__(self, compiler: Compiler) -> None:
        self._compiler = compiler

    def read(self, node: Node) -> dict[str, frozenset[bytes]]:
        match node.kind:
            case "and":
                found: dict[str, frozenset[bytes]] = {}
                for part in map(self.read, node.args):
                    for column, cells in part.items():
                        found[column] = found[column] & cells if column in found else cells
                return found
            case "or":
                parts = [self.read(arg) for arg in node.args]
                shared = set(parts[0]).intersection(*parts[1:])
                return {column: frozenset().union(*(part[column] for part in parts)) for column in shared}
            case "operator" if node.value == ("", "=") and len(node.args) == 2:
                return self._equal(node.args[0], (node.args[1],))
            case "in" if not node.value:
                return self._equal(node.args[0], tuple(item for item in node.args[1:] if item.kind != "null"))
            case "any":
                return self._any(node)
            case "bool test" if node.value == "TRUE":
                return self.read(node.args[0])
            case "bool test" if node.value == "FALSE":
                return self._bool(node.args[0], b"f")
            case "not":
                return self._bool(node.args[0], b"f")
        return self._bool(node, b"t")

    def _any(self, node: Node) -> dict[str, frozenset[bytes]]:
        try:
            listed = self._compiler.as_list(node)
        except Uncompilable:
            return {}
        return {} if listed is None or listed.value else self._equal(listed.args[0], listed.args[1:])

    def _bool(self, node: Node, cell: bytes) -> dict[str, frozenset[bytes]]:
        if node.kind != "column" or self._compiler.operand(node).type != "bool":
            return {}
        return {str(node.value): frozenset({cell})}

    def _equal(self, subject: Node, items: tuple[Node, ...]) -> dict[str, frozenset[bytes]]:
        """Unless each of the items is a literal that a cell of this column can equal, nothing."""
        if subject.kind != "column":
            return {}
        try:
            operand = self._compiler.operand(subject)
            cells = self._compiler.members(operand, items) if _routable(operand) else frozenset()
        except Uncompilable:
            return {}
        found = frozenset(cell for cell in cells if isinstance(cell, bytes))
        return {str(subject.value): found} if found else {}


def _routable(operand: Operand) -> bool:
    return operand.type in _TYPES or operand.type.startswith("enum ")
