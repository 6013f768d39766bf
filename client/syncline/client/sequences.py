"""Values of sequences that a device has reserved: when it asks for more, and for how many. Pure.

Of a sequence it asks for a hundred at first, and for more as soon as less than half of what it had is left, or a
statement has needed more: twice as many each time, up to ten thousand. So it has the more, the more it uses, and
whoever inserts little leaves few gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from syncline.client.columns import named
from syncline.client.schema import Table
from syncline.client.shape_spec import ShapeSpec
from syncline.proto.blocks import RESERVED_MAX

FIRST_SIZE: Final = 100

ColumnName: TypeAlias = tuple[str, str]
"""A table, and a column of it that takes the values of a sequence."""


@dataclass(frozen=True, slots=True)
class Held:
    """``left``: values that are not used. ``size``: how many there were after the last were reserved; 0: never any."""

    left: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """``count`` values are to be reserved, beside those that are ``left``. ``size``: what these come to."""

    count: int
    left: int

    @property
    def size(self) -> int:
        return self.count + self.left


def to_reserve(
    columns: Iterable[ColumnName], held: Mapping[ColumnName, Held], least: Mapping[ColumnName, int]
) -> dict[ColumnName, Wanted]:
    """What to ask for, of those of the ``columns`` that have not enough. ``least``: what somebody needs of some."""
    found: dict[ColumnName, Wanted] = {}
    for column in columns:
        here = held.get(column, Held())
        size = min(least.get(column, 0), RESERVED_MAX)
        if here.size == 0 or 2 * here.left < here.size:
            size = max(size, FIRST_SIZE, min(2 * here.size, RESERVED_MAX))
        if size > here.left:
            found[column] = Wanted(size - here.left, here.left)
    return found


def columns_used(specs: Iterable[ShapeSpec], tables: Mapping[str, Table]) -> list[ColumnName]:
    """The columns with sequences of all tables that these shapes name, or refer to by their rows."""
    waiting = [name for spec in specs for name in named(spec)]
    reached: dict[str, Table] = {}
    while waiting:
        name = waiting.pop()
        table = tables.get(name)
        if table is not None and name not in reached:
            reached[name] = table
            waiting += [key.parent_table for key in table.foreign_keys]
    return [
        (table.name, column) for table in reached.values() for column in table.sequences if column not in table.lacking
    ]
