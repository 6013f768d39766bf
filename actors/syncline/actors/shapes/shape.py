"""What a shape is, and the hash that names it.

Two devices that ask the same thing share one shape: one snapshot query, one log, one actor. So everything that decides
the content is in the hash, and nothing else is. Later kinds of shapes (where clauses, include trees, permissions) add
fields here; the empty defaults keep today's hashes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Literal

SCHEMA_SHAPE_TABLE = "electric.migrations"
HASHES_MAX = 10_000  # remembered


@dataclass(frozen=True, slots=True)
class Shape:
    """A part of the database that devices can hold.

    ``kind`` "table": the rows of ``schema.table``, its ``columns`` in order. ``kind`` "schema": the stream of
    migrations in one ``dialect``; every device holds exactly one of these. ``relation_id`` is the table's oid.
    """

    kind: Literal["table", "schema"]
    schema: str
    table: str
    relation_id: int = 0
    columns: tuple[str, ...] = ()
    dialect: str = ""
    where: str = ""
    rules_version: int = 0
    claims: tuple[tuple[str, str], ...] = ()

    @property
    def hash(self) -> str:
        """32 hex digits; equal shapes and only they have equal hashes. Safe as a file name."""
        return _hash(self)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

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
                }
            )
        except (KeyError, TypeError) as wrong:
            raise ValueError(f"not a stored shape: {wrong}") from wrong


@lru_cache(maxsize=HASHES_MAX)
def _hash(shape: Shape) -> str:
    """Worked out once a shape, and asked for at every turn: a device that comes back asks a dozen times."""
    text = json.dumps(asdict(shape), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def schema_shape(dialect: str) -> Shape:
    """The shape of the migrations themselves: every device follows it, so DDL arrives in order with data."""
    return Shape(kind="schema", schema="electric", table="migrations", dialect=dialect)
