"""Values in the source of a compiled clause: columns, literals, and what is known of both.

Pure. Integers are ``int``, floats what ``double_key`` gives, bool ``bool``, every other type bytes: its cell, or for
dates and times what sorts alike. ``Uncompilable`` is the answer wherever that would be a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor
from typing import TYPE_CHECKING, Final

from syncline.actors.postgres.catalog import Collation
from syncline.actors.shapes.where import literals
from syncline.actors.shapes.where.code import Comparison, Source

if TYPE_CHECKING:
    from syncline.actors.postgres.catalog import TableInfo

TEXTS: Final = frozenset({"text", "varchar"})
KEYS: Final[Mapping[str, Callable[[bytes], object]]] = {
    "float8": literals.double_key,
    "date": literals.day_key,
    "timestamp": literals.day_key,
    "timestamptz": literals.zoned_key,
}
SAME: Final = frozenset({"text", "uuid", "bytea", "time"})
"""Types whose cells are what is compared."""
INTEGERS: Final = tuple(literals.INTEGER_RANGES)
DEFAULT_COLLATION: Final = Collation()
EQUAL_TO_NONE: Final = 1 << 100
"""An integer that no column holds."""


class Undecided(Exception):
    """A row holds what was not compiled: Postgres has to be asked about it."""


class Uncompilable(Exception):
    """Postgres has to evaluate it."""


class Labels(dict[bytes, int]):
    """The places of an enum's labels in its order."""

    def __missing__(self, label: bytes) -> int:
        raise Undecided(f"no label of the enum when the clause was compiled: {label[:40]!r}")


@dataclass(frozen=True, slots=True)
class Operand:
    """A value as source. ``raw`` gives None for NULL; ``convert``, a format, makes of anything else what is compared.

    ``cell``: raw is the value's cell, of which there is only one, so that ``==`` needs no conversion. ``column``: its
    name, where it is one. ``literal``: the cell where it is one. ``low``, ``high``: the range of an integer.
    ``collation``: of a text that has one of its own.
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
    collation: Collation | None = None


@dataclass(frozen=True, slots=True)
class ColumnType:
    """What is to be known of a column: where it is, its type, its labels when that is an enum's."""

    index: int
    type: str
    labels: tuple[str, ...] | None = None
    collation: Collation = DEFAULT_COLLATION

    def same_enum(self, other: ColumnType) -> bool:
        return self.labels is not None and (self.type, self.labels) == (other.type, other.labels)


class Columns(dict[str, ColumnType]):
    """The columns of a table by name; each is looked up once."""

    def __init__(self, table: TableInfo) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, name: str) -> ColumnType:
        table = self._table
        index = table.relation.names.index(name)
        column = ColumnType(
            index,
            table.relation.columns[index].type_name,
            table.enum_labels.get(name),
            table.collations.get(name, DEFAULT_COLLATION),
        )
        self[name] = column
        return column

    def first_of_enum(self, column: ColumnType) -> str:
        """The first column of the same enum, whose name stands for the enum."""
        return next(name for name in self._table.relation.names if self[name].same_enum(column))


class Operands:
    """Makes operands; what they refer to is bound in ``source``."""

    def __init__(self, columns: Columns, source: Source) -> None:
        self.columns = columns
        self.source = source

    def labels(self, type_name: str) -> Labels:
        """By the type's name, or rather by a column that has it."""
        labels = self.columns[type_name.removeprefix("enum ")].labels
        assert labels is not None
        return Labels({label.encode(): place for place, label in enumerate(labels)})

    def column(self, name: str) -> Operand:
        column = self.columns[name]
        raw = f"r[{column.index}]"
        if column.labels is not None:
            kind = f"enum {self.columns.first_of_enum(column)}"
            places = self.source.bind(self.labels(kind))
            return Operand(kind, raw, f"{places}[{{}}]", cell=True, column=name)
        kind = "text" if column.type in TEXTS else column.type
        if kind == "text" and not column.collation.deterministic:
            kind = "text of its own equality"
        if kind in INTEGERS:
            low, high = literals.INTEGER_RANGES[kind]
            return Operand(kind, raw, "int({})", cell=True, column=name, low=low, high=high)
        if kind in KEYS:
            convert = f"{self.source.bind(KEYS[kind])}({{}})"
            return Operand(kind, raw, convert, cell=kind != "float8", column=name)
        if kind == "bool":
            return Operand(kind, raw, f"({{}} == {self.source.bind(b't')})", cell=True, column=name)
        if kind in SAME:
            collation = column.collation if kind == "text" else None
            return Operand(kind, raw, cell=True, column=name, collation=collation)
        return Operand(f"opaque {kind}", raw, column=name)  # it can be NULL, and no more is known of it

    def integer(self, number: int | None) -> Operand:
        for name in ("int4", "int8"):
            low, high = literals.INTEGER_RANGES[name]
            if number is not None and low <= number <= high:
                return self.constant(name, number)
        raise Uncompilable

    def domain(self, operand: Operand) -> str:
        """Source of the value as it is compared, or None."""
        if operand.convert == "{}":
            return operand.raw
        if not operand.nullable:
            return operand.convert
        name = self.source.temporary()
        return f"(None if ({name} := {operand.raw}) is None else {operand.convert.format(name)})"

    def typed(self, text: str, type_name: str) -> Operand | None:
        if type_name == "float8":
            number = literals.double(text.strip(" "))
            return None if number is None else self.constant("float8", number)
        if type_name.startswith("enum "):
            return self.constant(type_name, text.encode()) if text.encode() in self.labels(type_name) else None
        cell = literals.cell(text, type_name)
        return None if cell is None else self.constant(type_name, cell)

    def constant(self, type_name: str, value: object) -> Operand:
        """``value``: a cell; for integers the number will do, for float8 it is the number."""
        if type_name in INTEGERS:
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
        if type_name in KEYS:
            key = KEYS[type_name](value)
        elif type_name.startswith("enum "):
            key = self.labels(type_name)[value]
        return Operand(type_name, name, self.source.bind(key), False, True, None, value)

    def number(self, text: str, operand: Operand, operator: Comparison) -> Operand:
        """A numeric literal on the right of ``operand operator``, as one of the operand's type.

        A float8 makes a float8 of it. Integers are compared with it as numerics, exactly, which is the same as with
        the integer above or below it.
        """
        if operand.type == "float8":
            number = literals.double(text)
            if number is None:
                raise Uncompilable
            return self.constant("float8", number)
        if operand.type not in INTEGERS or len(text) > literals.DIGITS_MAX or "e" in text:
            raise Uncompilable
        exact = Decimal(text)
        whole = floor(exact) if operator in (">", "<=") else ceil(exact)
        if operator in ("==", "!=") and whole != exact:
            whole = EQUAL_TO_NONE
        return self.constant(operand.type, whole)

    def key(self, constant: Operand) -> object:
        """What a literal is compared as."""
        return self.source.bindings[constant.raw if constant.convert == "{}" else constant.convert]


def comparable(left: Operand, right: Operand) -> bool:
    if "null" in (left.type, right.type):
        return not (left.type.startswith("opaque") or right.type.startswith("opaque"))
    if left.type in INTEGERS and right.type in INTEGERS:
        return True
    return left.type == right.type and not left.type.startswith("opaque")


def common_collation(operands: Iterable[Operand]) -> Collation | None:
    """That by which they are compared: one of a column's own goes before the database's.

    Raises Uncompilable where there are two of these: Postgres raises an error then.
    """
    found: Collation | None = None
    for operand in operands:
        collation = operand.collation
        if collation is None or (found is not None and collation.name in ("", found.name)):
            continue
        if found is not None and found.name:
            raise Uncompilable
        found = collation
    return found
