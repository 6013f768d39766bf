"""Where clauses as values: which rows of a table belong to a shape.

Pure. ``parse`` reads what a device sends. There are two evaluators behind a ``Where``: Python, for what is certain to
mean the same there as in Postgres (``compiled``), and Postgres itself for everything else
(``syncline.actors.postgres.where_sql``). Both answer alike: a row is inside where the clause is true. NULL is outside,
and so is a row for which the clause raises an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from syncline.actors.shapes.where.code import Source, Truth
from syncline.actors.shapes.where.compiling import Compiler
from syncline.actors.shapes.where.equalities import equalities
from syncline.actors.shapes.where.normalising import normalised
from syncline.actors.shapes.where.operands import Columns
from syncline.actors.shapes.where.parsing import read
from syncline.actors.shapes.where.rendering import Rendered, render
from syncline.actors.shapes.where.safety import Safety
from syncline.actors.shapes.where.tree import Node
from syncline.proto.values import Row

if TYPE_CHECKING:
    from syncline.actors.postgres.catalog import TableInfo

REMEMBERED_MAX: Final = 2_000
REMEMBERED_CHARACTERS_MAX: Final = 1_000


@dataclass(frozen=True)
class Where:
    """A where clause of one table. Two are equal where that table, ``relation_id``, and ``canonical`` are.

    ``canonical``: the clause in the one form that all its spellings have; parsed again it gives this value.
    ``columns``: the names of the columns it reads. ``compiled``: whether ``predicate`` and ``holds`` exist.
    ``can_raise``: whether the clause may raise an error for some row; never where it is compiled. ``equalities``: (a
    column, the wire cells of which it holds one wherever the clause is true), by column; empty where none is certain.
    ``truth``, ``source``: the clause in Python, None where it is not compiled, and what that refers to.
    """

    relation_id: int
    canonical: str
    columns: frozenset[str]
    compiled: bool
    can_raise: bool
    equalities: tuple[tuple[str, frozenset[bytes]], ...]
    tree: Node = field(repr=False, compare=False)
    source: Source = field(repr=False, compare=False)
    truth: Truth | None = field(repr=False, compare=False)

    def sql(self, alias: str) -> str:
        """The clause as a boolean SQL expression in parentheses, its columns as ``alias."column"``.

        If it ``can_raise``, it does so for the query it is in: ask ``where_sql.evaluate`` row by row then.
        """
        return render(self.tree, alias)

    def rendered(self, alias: str) -> Rendered:
        """``sql`` that knows which of its characters came from where."""
        return Rendered(self.tree, alias)

    def predicate(self) -> Callable[[Row], bool | None]:
        """The clause's value for a row of wire cells: True, False, or None for NULL. Only where it is compiled.

        It raises Undecided for a row that Postgres has to be asked about: ILIKE of a text that is not ASCII, an enum's
        label that the table's description does not have.
        """
        return self._predicate

    def holds(self) -> Callable[[Row], bool]:
        """Whether a row is inside: ``predicate(row) is True``, and faster. Only where it is compiled.

        Raises Undecided, too.
        """
        return self._holds

    @cached_property
    def _predicate(self) -> Callable[[Row], bool | None]:
        return self.source.function(self._compiled.value)

    @cached_property
    def _holds(self) -> Callable[[Row], bool]:
        return self.source.function(self._compiled.true)

    @property
    def _compiled(self) -> Truth:
        if self.truth is None:
            raise ValueError(f"only Postgres can evaluate {self.canonical}")
        return self.truth


def parse(text: str, table: TableInfo) -> Where:
    """Reads a clause for rows of ``table``. Raises WhereRefused with the reason and, where it can, place and hint.

    A clause that comes out not ``compiled`` has not been looked at by Postgres: ``where_sql.check`` does that.
    """
    if len(text) > REMEMBERED_CHARACTERS_MAX:
        return _parsed(text, table)
    asked = _Asked(text, table)
    where = _remembered.pop(asked, None)
    if where is None:
        where = _parsed(text, table)
        # The shape that is made of it asks for its canonical text.
        _remembered.setdefault(_Asked(where.canonical, table), where)
    _remembered[asked] = where
    while len(_remembered) > REMEMBERED_MAX:
        del _remembered[next(iter(_remembered))]
    return where


class _Asked:
    """A text and the very table it is for: one read anew from the catalogue may have other columns."""

    def __init__(self, text: str, table: TableInfo) -> None:
        self.text = text
        self.table = table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.table is other.table and self.text == other.text

    def __hash__(self) -> int:
        return hash((id(self.table), self.text))


# A shape's clause is asked for several times while the shape is made, and by each device that has it. The one that was
# not asked for longest is first.
_remembered: dict[_Asked, Where] = {}


def _parsed(text: str, table: TableInfo) -> Where:
    compiler = Compiler(Columns(table))
    safety = Safety(compiler)
    tree = normalised(read(text, table.relation.names), safety)
    truth = compiler.condition(tree)
    return Where(
        relation_id=table.oid,
        canonical=render(tree),
        columns=frozenset([str(node.value) for node in tree.walk() if node.kind == "column"]),
        compiled=truth is not None,
        can_raise=truth is None and safety.can_raise(tree),
        equalities=equalities(tree, compiler),
        tree=tree,
        source=compiler.source,
        truth=truth,
    )
