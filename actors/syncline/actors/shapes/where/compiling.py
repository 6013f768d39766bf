"""A where clause's tree -> Python, where it is certain to mean what Postgres means.

Pure. Of each expression the type is worked out as Postgres does it, but only for the few cases where that is plain:
columns, literals that take the type of what they are compared with, integers of several widths. ``Uncompilable`` is the
answer to everything else, never a guess. Nothing that is compiled can raise an error in Postgres for any row: so it
does not matter in which order Postgres looks at the operands of AND and OR.

Values in the source: integers are ``int``, floats what ``double_key`` gives, bool ``bool``, every other type bytes: its
cell, or for dates and times what sorts alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from math import ceil, floor
from typing import Final

from syncline.actors.shapes.where import literals
from syncline.actors.shapes.where.code import (
    FALSE,
    NULL,
    OPPOSITE,
    TRUE,
    Comparison,
    Source,
    Truth,
    certain,
    conjunction,
    disjunction,
    negation,
)
from syncline.actors.shapes.where.like import matcher
from syncline.actors.shapes.where.tree import CaseForm, Node, TypeName

DEPTH_MAX: Final = 24
"""Brackets nest three times as deep in Python, whose parser has an end too."""

OPERATORS: Final[Mapping[str, Comparison]] = {"=": "==", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_LIKE: Final = {"~~": False, "!~~": True}
_TEXTS: Final = frozenset({"text", "varchar"})
_UNORDERED: Final = frozenset({"text"})  # the order of texts is a collation's
_KEYS: Final[Mapping[str, Callable[[bytes], object]]] = {
    "float8": literals.double_key,
    "date": literals.day_key,
    "timestamp": literals.day_key,
    "timestamptz": literals.zoned_key,
}
_SAME: Final = frozenset({"text", "uuid", "bytea", "time"})  # cells are what is compared
_INTEGERS: Final = tuple(literals.INTEGER_RANGES)
EQUAL_TO_NONE: Final = 1 << 100
"""An integer that no column holds."""


class EvaluationError(Exception):
    """A row holds what the clause was not compiled for: a label that an enum has been given since."""


class Uncompilable(Exception):
    """Postgres has to evaluate it."""


class Labels(dict[bytes, int]):
    """The places of an enum's labels in its order."""

    def __missing__(self, label: bytes) -> int:
        raise EvaluationError(f"no label of the enum when the clause was compiled: {label[:40]!r}")


@dataclass(frozen=True, slots=True)
class Operand:
    """A value as source. ``raw`` gives None for NULL; ``convert``, a format, makes of anything else what is compared.

    ``cell``: raw is the value's cell, of which there is only one, so that ``==`` needs no conversion. ``column``: its
    name, where it is one. ``literal``: the cell where it is one. ``low``, ``high``: the range of an integer.
    """

    type: str
    raw: str
    convert: str = "{}"
    nullable: bool = True
    cell: bool = False
    column: str | None = None
    literal: object = None
    low: int = 0
    high: int = 0


@dataclass(frozen=True, slots=True)
class ColumnType:
    """What is to be known of a column: where it is, its type, its labels when that is an enum's.

    ``bytewise``: texts are equal only where their bytes are, which is so unless the collation is nondeterministic.
    """

    index: int
    type: str
    labels: tuple[str, ...] | None = None
    bytewise: bool = True

    def same_enum(self, other: ColumnType) -> bool:
        return self.labels is not None and (self.type, self.labels) == (other.type, other.labels)


class Compiler:
    """Compiles expressions of one table into one ``Source``."""

    def __init__(self, columns: Mapping[str, ColumnType]) -> None:
        self._columns = columns
        self._depth = 0
        self.source = Source()

    # --- conditions ---------------------------------------------------------------------------------------------------

    def truth(self, node: Node) -> Truth:
        """A boolean expression. Raises Uncompilable."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Uncompilable
        try:
            return self._truth(node)
        finally:
            self._depth -= 1

    def _truth(self, node: Node) -> Truth:
        args, value = node.args, node.value
        match node.kind:
            case "and":
                return conjunction([self.truth(arg) for arg in args], self.source)
            case "or":
                return disjunction([self.truth(arg) for arg in args], self.source)
            case "not":
                return negation(self.truth(args[0]), self.source)
            case "bool":
                return TRUE if value else FALSE
            case "null":
                return NULL
            case "null test":
                return self._null_test(args[0], negated=bool(value))
            case "bool test":
                return self._bool_test(args[0], str(value))
            case "distinct":
                return self._distinct(args[0], args[1], negated=bool(value))
            case "in":
                return self._in(node)
            case "operator" if len(args) == 2 and isinstance(value, tuple):
                return self._operator(value, args[0], args[1])
            case "call" if value == ("pg_catalog", "starts_with") and len(args) == 2:
                return self._starts_with(args[0], args[1])
        return self._as_truth(self.operand(node))

    def _as_truth(self, operand: Operand) -> Truth:
        if operand.type != "bool":
            raise Uncompilable
        if operand.cell:
            name = self.source.temporary()
            true, false = self.source.bind(b"t"), self.source.bind(b"f")
            value = f"(None if ({name} := {operand.raw}) is None else {name} == {true})"
            return Truth(value, f"({operand.raw} == {true})", f"({operand.raw} == {false})")
        return Truth(operand.raw, f"({operand.raw} is True)", f"({operand.raw} is False)")

    def _null_test(self, arg: Node, *, negated: bool) -> Truth:
        return certain(f"({self.operand(arg).raw} is {'not ' if negated else ''}None)")

    def _bool_test(self, arg: Node, test: str) -> Truth:
        inner = self.truth(arg)
        word = test.removeprefix("NOT ")
        condition = {"TRUE": inner.true, "FALSE": inner.false, "UNKNOWN": f"({inner.value} is None)"}[word]
        return certain(f"(not {condition})" if test.startswith("NOT ") else condition)

    def _operator(self, name: tuple[str, ...], left: Node, right: Node) -> Truth:
        schema, operator = name
        if schema not in ("", "pg_catalog"):
            raise Uncompilable
        if operator in _LIKE:
            return self._like(left, right, negated=_LIKE[operator])
        if operator == "^@":
            return self._starts_with(left, right)
        if operator not in OPERATORS:
            raise Uncompilable
        return self._compare(OPERATORS[operator], left, right)

    def _compare(self, operator: Comparison, left: Node, right: Node) -> Truth:
        for literal, node in ((left, right), (right, left)):
            if literal.kind in ("integer", "number") and node.kind != "text":
                operand = self.operand(node)
                if literal.kind == "number" or operand.type == "float8":
                    number = self._number(
                        str(literal.value), operand, _flipped(operator) if literal is left else operator
                    )
                    return self._compared(operator, *((number, operand) if literal is left else (operand, number)))
        return self._compared(operator, *self.pair(left, right))

    def _compared(self, operator: Comparison, left: Operand, right: Operand) -> Truth:
        if left.type == "null" or right.type == "null":
            return NULL
        if operator not in ("==", "!="):
            if left.type in _UNORDERED:
                raise Uncompilable
            plain = False
        else:
            plain = left.cell and right.cell
        guards, sides = [], []
        for operand in (left, right):
            name = operand.raw
            if operand.nullable:
                name = self.source.temporary()
                guards.append(f"({name} := {operand.raw})")
            sides.append(name if plain else operand.convert.format(name))
        present = "".join(f"{guard} is not None and " for guard in guards)
        absent = " or ".join(f"{guard} is None" for guard in guards)

        def comparison(symbol: Comparison) -> str:
            return f"{sides[0]} {symbol} {sides[1]}"

        def true(symbol: Comparison) -> str:
            if symbol == "==" and plain and not (left.nullable and right.nullable):
                return f"({left.raw} == {right.raw})"  # a NULL equals no cell
            return f"({present}{comparison(symbol)})"

        value = f"(None if {absent} else {comparison(operator)})" if guards else f"({comparison(operator)})"
        return Truth(value, true(operator), true(OPPOSITE[operator]))

    def _number(self, text: str, operand: Operand, operator: Comparison) -> Operand:
        """A numeric literal on the right of ``operand operator``, as one of the operand's type.

        A float8 makes a float8 of it. Integers are compared with it as numerics, exactly, which is the same as with
        the integer above or below it.
        """
        if operand.type == "float8":
            number = literals.double(text)
            if number is None:
                raise Uncompilable
            return self._constant("float8", number)
        if operand.type not in _INTEGERS or len(text) > literals.DIGITS_MAX or "e" in text:
            raise Uncompilable
        exact = Decimal(text)
        whole = floor(exact) if operator in (">", "<=") else ceil(exact)
        if operator in ("==", "!=") and whole != exact:
            whole = EQUAL_TO_NONE
        return self._constant(operand.type, whole)

    def _distinct(self, left: Node, right: Node, *, negated: bool) -> Truth:
        one, other = self.pair(left, right)
        symbol = "==" if negated else "!="
        if one.type == "null" or other.type == "null":
            rest = other if one.type == "null" else one
            return certain(f"({rest.raw} is {'' if negated else 'not '}None)")
        if one.cell and other.cell:
            return certain(f"({one.raw} {symbol} {other.raw})")
        return certain(f"({self._domain(one)} {symbol} {self._domain(other)})")

    def _in(self, node: Node) -> Truth:
        left, items = node.args[0], node.args[1:]
        operand = self.operand(left)
        if not operand.cell and operand.type not in (*_INTEGERS, "float8"):
            raise Uncompilable
        has_null = any(item.kind == "null" for item in items)
        members = [self._member(item, operand) for item in items if item.kind != "null"]
        raw = operand.raw if operand.cell else self._domain(operand)
        keys = frozenset(member.literal if operand.cell else self._key(member) for member in members)
        name, known = self.source.temporary(), self.source.bind(keys)
        absent = "None" if has_null else "False"
        value = f"(None if ({name} := {raw}) is None else True if {name} in {known} else {absent})"
        false = "False" if has_null else f"(({name} := {raw}) is not None and {name} not in {known})"
        found = Truth(value, f"({raw} in {known})", false)
        return negation(found, self.source) if node.value else found

    def _member(self, item: Node, operand: Operand) -> Operand:
        """A literal in a list for this operand."""
        if item.kind == "number" or (item.kind == "integer" and operand.type == "float8"):
            return self._number(str(item.value), operand, "==")
        member = self._literal_of(item, operand)
        if member is None or member.literal is None or not _comparable(operand, member):
            raise Uncompilable
        return member

    def _key(self, constant: Operand) -> object:
        """What a literal is compared as."""
        return self.source.bindings[constant.raw if constant.convert == "{}" else constant.convert]

    def _like(self, left: Node, right: Node, *, negated: bool) -> Truth:
        operand = self.operand(left)
        if operand.type != "text" or right.kind not in ("text", "null"):
            raise Uncompilable
        if right.kind == "null":
            return NULL
        match = matcher(str(right.value))
        if match is None:
            raise Uncompilable
        return self._called(operand, self.source.bind(match), negated=negated)

    def _starts_with(self, left: Node, right: Node) -> Truth:
        operand = self.operand(left)
        if operand.type != "text" or right.kind != "text":
            raise Uncompilable
        prefix = str(right.value).encode()
        return self._called(operand, self.source.bind(lambda text: text.startswith(prefix)), negated=False)

    def _called(self, operand: Operand, function: str, *, negated: bool) -> Truth:
        name = self.source.temporary()
        does, does_not = f"{function}({name})", f"not {function}({name})"
        if negated:
            does, does_not = does_not, does
        present = f"({name} := {operand.raw}) is not None"
        return Truth(
            f"(None if ({name} := {operand.raw}) is None else {does})",
            f"({present} and {does})",
            f"({present} and {does_not})",
        )

    # --- values -------------------------------------------------------------------------------------------------------

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
                return self._column(str(value))
            case "integer":
                return self._integer(int(str(value)) if len(str(value)) <= literals.DIGITS_MAX else None)
            case "null":
                return Operand("null", "None")
            case "bool":
                return self._constant("bool", b"t" if value else b"f")
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
            return Operand("bool", self._truth(node).value)
        raise Uncompilable

    def pair(self, left: Node, right: Node) -> tuple[Operand, Operand]:
        """Two expressions that are compared: a string literal takes the other's type. Raises Uncompilable."""
        if left.kind == "text":
            other, one = self.pair(right, left)
            return one, other
        operand = self.operand(left)
        found = self._literal_of(right, operand) if right.kind == "text" else self.operand(right)
        if found is None or not _comparable(operand, found):
            raise Uncompilable
        return operand, found

    def _literal_of(self, node: Node, like: Operand) -> Operand | None:
        """A literal beside ``like``, whose type it takes if it is a string."""
        if node.kind != "text":
            return self.operand(node) if node.kind in ("integer", "bool", "cast") else None
        return self._typed(str(node.value), like.type)

    def _typed(self, text: str, type_name: str) -> Operand | None:
        if type_name == "float8":
            number = literals.double(text.strip(" "))
            return None if number is None else self._constant("float8", number)
        if type_name.startswith("enum "):
            return self._constant(type_name, text.encode()) if text.encode() in self._labels(type_name) else None
        cell = literals.cell(text, type_name)
        return None if cell is None else self._constant(type_name, cell)

    def _constant(self, type_name: str, value: object) -> Operand:
        """``value``: a cell; for integers the number will do, for float8 it is the number."""
        if type_name in _INTEGERS:
            number = int(value) if isinstance(value, bytes) else value
            assert isinstance(number, int)
            cell = str(number).encode()
            return Operand(
                type_name, self.source.bind(cell), self.source.bind(number), False, True, None, cell, number, number
            )
        name = self.source.bind(value)
        if type_name == "float8":
            return Operand(type_name, name, nullable=False, literal=value)
        if type_name == "bool":
            return Operand(type_name, name, "True" if value == b"t" else "False", False, True, None, value)
        assert isinstance(value, bytes)
        key: object = value
        if type_name in _KEYS:
            key = _KEYS[type_name](value)
        elif type_name.startswith("enum "):
            key = self._labels(type_name)[value]
        return Operand(type_name, name, self.source.bind(key), False, True, None, value)

    def _labels(self, type_name: str) -> Labels:
        """By the type's name, or rather by a column that has it."""
        labels = self._columns[type_name.removeprefix("enum ")].labels
        assert labels is not None
        return Labels({label.encode(): place for place, label in enumerate(labels)})

    def _column(self, name: str) -> Operand:
        column = self._columns[name]
        raw = f"r[{column.index}]"
        if column.labels is not None:
            kind = f"enum {min(other for other, of in self._columns.items() if of.same_enum(column))}"
            places = self.source.bind(self._labels(kind))
            return Operand(kind, raw, f"{places}[{{}}]", cell=True, column=name)
        kind = "text" if column.type in _TEXTS else column.type
        if kind == "text" and not column.bytewise:
            kind = "text of its own equality"
        if kind in _INTEGERS:
            low, high = literals.INTEGER_RANGES[kind]
            return Operand(kind, raw, "int({})", cell=True, column=name, low=low, high=high)
        if kind in _KEYS:
            convert = f"{self.source.bind(_KEYS[kind])}({{}})"
            return Operand(kind, raw, convert, cell=kind != "float8", column=name)
        if kind == "bool":
            return Operand(kind, raw, f"({{}} == {self.source.bind(b't')})", cell=True, column=name)
        if kind in _SAME:
            return Operand(kind, raw, cell=True, column=name)
        return Operand(f"opaque {kind}", raw, column=name)  # it can be NULL, and no more is known of it

    def _integer(self, number: int | None) -> Operand:
        for name in ("int4", "int8"):
            low, high = literals.INTEGER_RANGES[name]
            if number is not None and low <= number <= high:
                return self._constant(name, number)
        raise Uncompilable

    def _domain(self, operand: Operand) -> str:
        """Source of the value as it is compared, or None."""
        if operand.convert == "{}":
            return operand.raw
        if not operand.nullable:
            return operand.convert
        name = self.source.temporary()
        return f"(None if ({name} := {operand.raw}) is None else {operand.convert.format(name)})"

    def _cast(self, to: TypeName, arg: Node) -> Operand:
        if to.schema != "pg_catalog" or to.modifiers or to.dimensions:
            raise Uncompilable
        name = "text" if to.name in _TEXTS else to.name
        if arg.kind == "text":
            typed = self._typed(str(arg.value), name)
            if typed is None:
                raise Uncompilable
            return typed
        operand = self.operand(arg)
        if operand.type == name:
            return operand
        if operand.type in _INTEGERS and name in _INTEGERS:
            low, high = literals.INTEGER_RANGES[name]
            if low <= operand.low and operand.high <= high:
                return replace(operand, type=name, column=None)
        elif name == "text" and operand.cell and operand.type in (*_INTEGERS, "uuid"):
            return replace(operand, type="text", convert="{}" if operand.literal is None else operand.raw, column=None)
        elif name == "text" and operand.type.startswith("enum ") and operand.cell:
            return replace(operand, type="text", convert="{}", column=None)
        raise Uncompilable

    def _unified(self, nodes: tuple[Node, ...]) -> tuple[str, list[Operand]]:
        """Alternatives of one expression: literals take the type of the others; without others they are texts."""
        known = [None if node.kind in ("text", "null") else self.operand(node) for node in nodes]
        types = {operand.type for operand in known if operand is not None}
        if types and types <= set(_INTEGERS):
            type_name = max(types, key=_INTEGERS.index)
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
                one = self._typed(str(node.value), type_name)
            if one is None:
                raise Uncompilable
            operands.append(one)
        return type_name, operands

    def _merged(self, type_name: str, raw: str, operands: list[Operand]) -> Operand:
        """An operand that is one of these; ``raw`` is made of their domains."""
        low, high = min(o.low for o in operands), max(o.high for o in operands)
        if type_name == "float8" or type_name in _INTEGERS or type_name not in _SAME:
            return Operand(type_name, raw, low=low, high=high)
        return Operand(type_name, raw, cell=True)

    def _coalesce(self, args: tuple[Node, ...]) -> Operand:
        type_name, operands = self._unified(args)
        raw = self._domain(operands[-1])
        for operand in reversed(operands[:-1]):
            name = self.source.temporary()
            raw = f"({name} if ({name} := {self._domain(operand)}) is not None else {raw})"
        return self._merged(type_name, raw, operands)

    def _nullif(self, left: Node, right: Node) -> Operand:
        operand, other = self.pair(left, right)
        if operand.column is None or other.type == "null":
            raise Uncompilable
        equal = self._compared("==", operand, other).true
        return self._merged(operand.type, f"(None if {equal} else {self._domain(operand)})", [operand])

    def _case(self, form: CaseForm, args: tuple[Node, ...]) -> Operand:
        rest = list(args)
        subject = rest.pop(0) if form.has_subject else None
        otherwise = rest.pop() if form.has_else else Node("null")
        if subject is not None and subject.kind != "column":
            raise Uncompilable
        conditions = [
            self.truth(when).true if subject is None else self._compare("==", subject, when).true for when in rest[::2]
        ]
        type_name, operands = self._unified((*rest[1::2], otherwise))
        raw = self._domain(operands[-1])
        for condition, operand in zip(reversed(conditions), reversed(operands[:-1]), strict=True):
            raw = f"({self._domain(operand)} if {condition} else {raw})"
        return self._merged(type_name, raw, operands)

    def _call(self, name: str, args: tuple[Node, ...]) -> Operand:
        if name in ("length", "char_length", "character_length", "octet_length") and len(args) == 1:
            operand = self.operand(args[0])
            if operand.type == "text" and args[0].kind != "text":
                count = len if name == "octet_length" else _characters
                raw = self._applied(operand, f"{self.source.bind(count)}({{}})")
                return Operand("int4", raw, low=0, high=1 << 30)
        raise Uncompilable

    def _applied(self, operand: Operand, code: str) -> str:
        name = self.source.temporary()
        return f"(None if ({name} := {operand.raw}) is None else {code.format(name)})"

    def _arithmetic(self, symbol: str, args: tuple[Node, ...]) -> Operand:
        """On integers, where the result cannot be out of range whatever the row."""
        operands = [self.operand(arg) for arg in args]
        if any(operand.type not in _INTEGERS for operand in operands):
            raise Uncompilable
        type_name = max((operand.type for operand in operands), key=_INTEGERS.index)
        if len(operands) == 1:
            operands.insert(0, self._constant(type_name, 0))
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


def _characters(text: bytes) -> int:
    return len(text.decode())


def _quotient(left: int, right: int) -> int:
    """Towards zero, as Postgres divides."""
    size = abs(left) // abs(right)
    return size if (left < 0) == (right < 0) else -size


def _remainder(left: int, right: int) -> int:
    """With the sign of the left side."""
    size = abs(left) % abs(right)
    return -size if left < 0 else size


def _corners(function: Callable[[int, int], int]) -> Callable[[Operand, Operand], list[int]]:
    """The results between which all others are, where the function is monotonous in both."""

    def corners(left: Operand, right: Operand) -> list[int]:
        return [function(one, other) for one in (left.low, left.high) for other in (right.low, right.high)]

    return corners


def _divided(left: Operand, right: Operand) -> list[int]:
    size = max(abs(left.low), abs(left.high))
    return [-size, size] if right.low < 0 else [min(left.low, 0), max(left.high, 0)]


def _left_over(left: Operand, right: Operand) -> list[int]:
    size = min(max(abs(right.low), abs(right.high)) - 1, max(abs(left.low), abs(left.high)))
    return [-size if left.low < 0 else 0, size if left.high > 0 else 0]


ARITHMETIC: Final[Mapping[str, tuple[Callable[[int, int], int], Callable[[Operand, Operand], list[int]]]]] = {
    "+": (int.__add__, _corners(int.__add__)),
    "-": (int.__sub__, _corners(int.__sub__)),
    "*": (int.__mul__, _corners(int.__mul__)),
    "/": (_quotient, _divided),
    "%": (_remainder, _left_over),
}


def _comparable(left: Operand, right: Operand) -> bool:
    if "null" in (left.type, right.type):
        return not (left.type.startswith("opaque") or right.type.startswith("opaque"))
    if left.type in _INTEGERS and right.type in _INTEGERS:
        return True
    return left.type == right.type and not left.type.startswith("opaque")


def _flipped(operator: Comparison) -> Comparison:
    flips: dict[Comparison, Comparison] = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    return flips.get(operator, operator)
