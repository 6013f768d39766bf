"""Expressions with a value -> operands: casts, CASE, COALESCE, NULLIF, functions, arithmetic.

Pure. The type of each is worked out as Postgres does it, where that is plain; see ``compiling``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Final

from syncline.actors.shapes.where import literals
from syncline.actors.shapes.where.arithmetic import ARITHMETIC
from syncline.actors.shapes.where.asciicase import CASES
from syncline.actors.shapes.where.code import Comparison, Source, Truth
from syncline.actors.shapes.where.operands import (
    DEFAULT_COLLATION,
    INTEGERS,
    SAME,
    TEXTS,
    Columns,
    Operand,
    Operands,
    Uncompilable,
    common_collation,
    comparable,
)
from syncline.actors.shapes.where.tree import CaseForm, Node, TypeName

DEPTH_MAX: Final = 16
"""Brackets nest several times as deep in Python, whose parser has an end too."""


class Values(ABC):
    """Compiles values; ``compiling.Compiler`` adds the conditions, which may be part of them."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.source = Source()
        self._operands = Operands(columns, self.source)
        self._depth = 0

    @abstractmethod
    def truth(self, node: Node) -> Truth:
        """A boolean expression. Raises Uncompilable."""

    @abstractmethod
    def truth_here(self, node: Node) -> Truth:
        """The same, without going a level deeper."""

    @abstractmethod
    def compare(self, operator: Comparison, left: Node, right: Node) -> Truth:
        """A comparison of two expressions. Raises Uncompilable."""

    @abstractmethod
    def compared(self, operator: Comparison, left: Operand, right: Operand) -> Truth:
        """A comparison of two operands. Raises Uncompilable."""

    def operand(self, node: Node) -> Operand:
        """An expression whose type does not hang on what it is compared with. Raises Uncompilable."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Uncompilable
        try:
            return self._operand(node)
        finally:
            self._depth -= 1

    def _operand(self, node: Node) -> Operand:
        args, value = node.args, node.value
        match node.kind:
            case "column":
                return self._operands.column(str(value))
            case "integer":
                return self._operands.integer(int(str(value)) if len(str(value)) <= literals.DIGITS_MAX else None)
            case "null":
                return Operand("null", "None")
            case "bool":
                return self._operands.constant("bool", b"t" if value else b"f")
            case "cast" if isinstance(value, TypeName):
                return self._cast(value, args[0])
            case "case" if isinstance(value, CaseForm):
                return self._case(value, args)
            case "coalesce":
                return self._coalesce(args)
            case "nullif":
                return self._nullif(args[0], args[1])
            case "operator" if isinstance(value, tuple) and value[0] in ("", "pg_catalog"):
                if value[1] in ARITHMETIC:
                    return self._arithmetic(value[1], args)
            case "call" if isinstance(value, tuple) and value[0] == "pg_catalog":
                return self._call(value[1], args)
        if node.kind in ("and", "or", "not", "null test", "bool test", "distinct", "in", "operator"):
            return Operand("bool", self.truth_here(node).value)
        raise Uncompilable

    def pair(self, left: Node, right: Node) -> tuple[Operand, Operand]:
        """Two expressions that are compared: a string literal takes the other's type. Raises Uncompilable."""
        if left.kind == "text":
            other, one = self.pair(right, left)
            return one, other
        operand = self.operand(left)
        found = self.literal_of(right, operand) if right.kind == "text" else self.operand(right)
        if found is None or not comparable(operand, found):
            raise Uncompilable
        common_collation((operand, found))
        return operand, found

    def literal_of(self, node: Node, like: Operand) -> Operand | None:
        """A literal beside ``like``, whose type it takes if it is a string."""
        if node.kind != "text":
            return self.operand(node) if node.kind in ("integer", "bool", "cast") else None
        return self._operands.typed(str(node.value), like.type)

    def _cast(self, to: TypeName, arg: Node) -> Operand:
        if to.schema != "pg_catalog" or to.modifiers or to.dimensions:
            raise Uncompilable
        name = "text" if to.name in TEXTS else to.name
        if arg.kind == "text":
            typed = self._operands.typed(str(arg.value), name)
            if typed is None:
                raise Uncompilable
            return typed
        operand = self.operand(arg)
        if operand.type == name:
            return operand
        if operand.type in INTEGERS and name in INTEGERS:
            low, high = literals.INTEGER_RANGES[name]
            if low <= operand.low and operand.high <= high:
                return replace(operand, type=name, column=None)
        elif name == "text" and operand.cell and operand.type in (*INTEGERS, "uuid"):
            convert = "{}" if operand.literal is None else operand.raw
            return replace(operand, type="text", convert=convert, column=None, collation=DEFAULT_COLLATION)
        elif name == "text" and operand.type.startswith("enum ") and operand.cell:
            return replace(operand, type="text", convert="{}", column=None, collation=DEFAULT_COLLATION)
        raise Uncompilable

    def _unified(self, nodes: tuple[Node, ...]) -> tuple[str, list[Operand]]:
        """Alternatives of one expression: literals take the type of the others; without others they are texts."""
        known = [None if node.kind in ("text", "null") else self.operand(node) for node in nodes]
        types = {operand.type for operand in known if operand is not None}
        if types and types <= set(INTEGERS):
            type_name = max(types, key=INTEGERS.index)
        elif len(types) == 1:
            (type_name,) = types
        elif not types and any(node.kind == "text" for node in nodes):
            type_name = "text"
        else:
            raise Uncompilable
        if type_name.startswith(("opaque", "null")):
            raise Uncompilable
        operands: list[Operand] = []
        for node, found in zip(nodes, known, strict=True):
            one = Operand(type_name, "None") if node.kind == "null" else found
            if one is None:
                one = self._operands.typed(str(node.value), type_name)
            if one is None:
                raise Uncompilable
            operands.append(one)
        return type_name, operands

    def _merged(self, type_name: str, raw: str, operands: list[Operand]) -> Operand:
        """An operand that is one of these; ``raw`` is made of their domains."""
        low, high = min(o.low for o in operands), max(o.high for o in operands)
        if type_name == "float8" or type_name in INTEGERS or type_name not in SAME:
            return Operand(type_name, raw, low=low, high=high)
        return Operand(type_name, raw, cell=True, collation=common_collation(operands))

    def _coalesce(self, args: tuple[Node, ...]) -> Operand:
        type_name, operands = self._unified(args)
        raw = self._operands.domain(operands[-1])
        for operand in reversed(operands[:-1]):
            name = self.source.temporary()
            raw = f"({name} if ({name} := {self._operands.domain(operand)}) is not None else {raw})"
        return self._merged(type_name, raw, operands)

    def _nullif(self, left: Node, right: Node) -> Operand:
        operand, other = self.pair(left, right)
        if operand.column is None or other.type == "null":
            raise Uncompilable
        equal = self.compared("==", operand, other).true
        return self._merged(operand.type, f"(None if {equal} else {self._operands.domain(operand)})", [operand])

    def _case(self, form: CaseForm, args: tuple[Node, ...]) -> Operand:
        rest = list(args)
        subject = rest.pop(0) if form.has_subject else None
        otherwise = rest.pop() if form.has_else else Node("null")
        if subject is not None and subject.kind != "column":
            raise Uncompilable
        conditions = [
            self.truth(when).true if subject is None else self.compare("==", subject, when).true for when in rest[::2]
        ]
        type_name, operands = self._unified((*rest[1::2], otherwise))
        raw = self._operands.domain(operands[-1])
        for condition, operand in zip(reversed(conditions), reversed(operands[:-1]), strict=True):
            raw = f"({self._operands.domain(operand)} if {condition} else {raw})"
        return self._merged(type_name, raw, operands)

    def _call(self, name: str, args: tuple[Node, ...]) -> Operand:
        if name in ("length", "char_length", "character_length", "octet_length") and len(args) == 1:
            operand = self.operand(args[0])
            if operand.type == "text" and args[0].kind != "text":
                count = len if name == "octet_length" else _characters
                raw = self._applied(operand, f"{self.source.bind(count)}({{}})")
                return Operand("int4", raw, low=0, high=1 << 30)
        if name in CASES and len(args) == 1:
            operand = self.operand(args[0])
            if operand.type == "text" and self.has_ascii_case(operand):
                raw = self._applied(operand, f"{self.source.bind(CASES[name])}({{}})")
                return Operand("text", raw, cell=True, collation=operand.collation)
        raise Uncompilable

    def _applied(self, operand: Operand, code: str) -> str:
        name = self.source.temporary()
        return f"(None if ({name} := {operand.raw}) is None else {code.format(name)})"

    def _arithmetic(self, symbol: str, args: tuple[Node, ...]) -> Operand:
        """On integers, where the result cannot be out of range whatever the row."""
        operands = [self.operand(arg) for arg in args]
        if any(operand.type not in INTEGERS for operand in operands):
            raise Uncompilable
        type_name = max((operand.type for operand in operands), key=INTEGERS.index)
        if len(operands) == 1:
            operands.insert(0, self._operands.constant(type_name, 0))
        left, right = operands
        function, corners = ARITHMETIC[symbol]
        if symbol in "/%" and right.low <= 0 <= right.high:
            raise Uncompilable
        bounds = corners(left, right)
        low, high = literals.INTEGER_RANGES[type_name]
        if min(bounds) < low or max(bounds) > high:
            raise Uncompilable
        names, absent = [], []
        for operand in (left, right):
            name = operand.raw
            if operand.nullable:
                name = self.source.temporary()
                absent.append(f"({name} := {operand.raw}) is None")
            names.append(operand.convert.format(name))
        one, other = names
        code = f"{self.source.bind(function)}({one}, {other})" if symbol in "/%" else f"({one} {symbol} {other})"
        raw = f"(None if {' or '.join(absent)} else {code})" if absent else code
        return Operand(type_name, raw, low=min(bounds), high=max(bounds))

    def has_ascii_case(self, operand: Operand) -> bool:
        return operand.collation is not None and operand.collation.ascii_case


def _characters(text: bytes) -> int:
    return len(text.decode())
