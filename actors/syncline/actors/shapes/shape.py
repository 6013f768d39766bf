"""What a shape is, and the hash that names it.

Two devices that ask the same thing share one shape: one snapshot query, one log, one actor. So everything that decides
the content is in the hash, and nothing else is. Permissions will add fields here; the empty defaults keep today's
hashes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields
from functools import cached_property, lru_cache
from typing import Any, Literal

HASHES_MAX = 10_000  # remembered


@dataclass(frozen=True, slots=True)
class Included:
    """A table included below another one of the shape, along a foreign key.

    ``many``: its rows refer to the rows above; else the rows above refer to them. ``above``: 0 is the shape's own
    table, n the n-th included one, counted from 1; it comes before this one. ``columns`` here equal ``above_columns``
    there. ``where``: of the rows along the key, those for which it holds (canonical text; only if ``many``).
    """

    relation_id: int
    above: int
    many: bool
    columns: tuple[str, ...]
    above_columns: tuple[str, ...]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key that has to hold on devices: rows of ``relation_id`` bring those of ``parent_id`` along."""

    relation_id: int
    columns: tuple[str, ...]
    parent_id: int
    parent_columns: tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """A part of the database that devices can hold.

    ``kind`` "table": the rows of ``schema.table`` for which ``where`` holds (canonical text), its ``columns`` in order;
    with them what is ``included``, and what all of these rows refer to along ``references``, directly or not.
    ``kind`` "schema": the stream of migrations in one ``dialect``; every device holds exactly one of these.
    ``relation_id`` is the table's oid. ``others``: relation id and columns of all other tables that have a part.
    ``projected``: relation id and columns, of the tables of which devices get some columns only.

    ``one_of``: a column and the cells of which it has one in every row of the shape, as ``where`` implies: by that the
    shape is found, and it is no part of what it is.
    """

    kind: Literal["table", "schema"]
    schema: str
    table: str
    relation_id: int = 0
    columns: tuple[str, ...] = ()
    dialect: str = ""
    where: str = ""
    included: tuple[Included, ...] = ()
    references: tuple[Reference, ...] = ()
    others: tuple[tuple[int, tuple[str, ...]], ...] = ()
    projected: tuple[tuple[int, tuple[str, ...]], ...] = ()
    rules_version: int = 0
    claims: tuple[tuple[str, str], ...] = ()
    one_of: tuple[str, tuple[str, ...]] | None = field(default=None, compare=False)

    @cached_property
    def hash(self) -> str:
        """32 hex digits; equal shapes and only they have equal hashes. Safe as a file name."""
        return _hash(self)

    @property
    def tables(self) -> dict[int, tuple[str, ...]]:
        """Relation id -> columns, of every table whose rows the shape may hold, its own first."""
        return {self.relation_id: self.columns, **dict(self.others)} if self.kind == "table" else {}

    @property
    def is_tree(self) -> bool:
        """Whether a row may belong to it because of another row."""
        return bool(self.others or self.included or self.references)

    @property
    def selects(self) -> bool:
        """Whether there may be rows of its tables that it does not hold."""
        return self.is_tree or bool(self.where)

    @property
    def has_clauses(self) -> bool:
        return bool(self.where) or any(one.where for one in self.included)

    def to_json(self) -> str:
        return _STORED.encode(self)

    @staticmethod
    def from_json(text: str) -> Shape:
        """The inverse of ``to_json``. Raises ValueError for anything else."""
        try:
            fields = json.loads(text)
            return Shape(
                **{
                    **fields,
                    "columns": tuple(fields["columns"]),
                    "claims": tuple((name, value) for name, value in fields["claims"]),
                    "one_of": fields["one_of"] and (fields["one_of"][0], tuple(fields["one_of"][1])),
                    "included": tuple(Included(**_with_tuples(one)) for one in fields["included"]),
                    "references": tuple(Reference(**_with_tuples(one)) for one in fields["references"]),
                    "others": tuple((relation_id, tuple(columns)) for relation_id, columns in fields["others"]),
                    "projected": tuple((oid, tuple(columns)) for oid, columns in fields.get("projected", ())),
                }
            )
        except (KeyError, TypeError) as wrong:
            raise ValueError(f"not a stored shape: {wrong}") from wrong


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


@lru_cache(maxsize=HASHES_MAX)
def _hash(shape: Shape) -> str:
    """Worked out once for all who ask for the same shape: a device that comes back makes its shapes anew."""
    decides = _fields(shape)
    del decides["one_of"]
    if not shape.projected:
        del decides["projected"]
    return hashlib.sha256(_COMPACT.encode(decides).encode()).hexdigest()[:32]


def _fields(value: Any) -> dict[str, Any]:
    """Those of a shape or of what it is made of; ``asdict`` takes ten times as long, for it copies."""
    return {one.name: getattr(value, one.name) for one in fields(value)}


_STORED = json.JSONEncoder(sort_keys=True, default=_fields)
_COMPACT = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_fields)


def schema_shape(dialect: str) -> Shape:
    """The shape of the migrations themselves: every device follows it, so DDL arrives in order with data."""
    return Shape(kind="schema", schema="electric", table="migrations", dialect=dialect)
