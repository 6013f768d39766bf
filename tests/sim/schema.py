"""The schema every run uses: a journal with one row a device transaction, and tables that refer to one another.

    projects <- issues <- comments -> folders -> folders        visits -> places, projects

Folders are a tree; places have a key of two columns, by which visits refer to them. A constraint is about note and rank
of a project together. Of the references some forbid the
delete of what they refer to (issues -> projects), some delete with it (folders -> folders, comments -> issues, visits
-> projects), some become NULL (comments -> folders, visits -> places).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from tests.catalogs import catalog_of

from syncline.actors.postgres.catalog import Catalog
from syncline.actors.postgres.history import SchemaHistory
from syncline.client.cells import Values, decode_row, decoder
from syncline.proto.values import Key, Row

PROJECTS: Final = 16401
ISSUES: Final = 16402
JOURNAL: Final = 16403
FOLDERS: Final = 16404
PLACES: Final = 16405
VISITS: Final = 16406
COMMENTS: Final = 16407
TABLES: Final = {
    "projects": PROJECTS,
    "issues": ISSUES,
    "journal": JOURNAL,
    "folders": FOLDERS,
    "places": PLACES,
    "visits": VISITS,
    "comments": COMMENTS,
}
NAMES: Final = {oid: name for name, oid in TABLES.items()}

VERSION: Final = "20240101000000"

RowKey = tuple[int, Key]


def _column(name: str, type_name: str = "text", *, pk: int | None = None, not_null: bool = False) -> dict[str, Any]:
    return {"name": name, "type": type_name, "not_null": not_null or pk is not None, "pk": pk, "enum": None}


def _table(
    name: str,
    columns: list[dict[str, Any]],
    fks: list[dict[str, Any]] | None = None,
    ties: list[list[str]] | None = None,
) -> dict[str, Any]:
    return {
        "schema": "public",
        "table": name,
        "oid": TABLES[name],
        "columns": columns,
        "fks": fks or [],
        "indexes": [],
        "ties": ties or [],
    }


def _reference(columns: list[str], table: str, ref_columns: list[str], on_delete: str = "NO ACTION") -> dict[str, Any]:
    return {
        "columns": columns,
        "schema": "public",
        "table": table,
        "ref_columns": ref_columns,
        "on_delete": on_delete,
        "on_update": "NO ACTION",
    }


DESCRIPTIONS: Final = [
    _table(
        "projects",
        [_column("id", pk=1), _column("name"), _column("note"), _column("rank", "int4")],
        ties=[["note", "rank"]],
    ),
    _table(
        "issues",
        [_column("id", pk=1), _column("project"), _column("title"), _column("state")],
        [_reference(["project"], "projects", ["id"])],
    ),
    _table("journal", [_column("id", pk=1), _column("author", not_null=True), _column("number", "int4")]),
    _table(
        "folders",
        [_column("id", pk=1), _column("parent"), _column("name"), _column("rank", "int4")],
        [_reference(["parent"], "folders", ["id"], "CASCADE")],
    ),
    _table(
        "places",
        [_column("site", pk=1), _column("number", "int4", pk=2), _column("name"), _column("rank", "int4")],
    ),
    _table(
        "visits",
        [_column("id", pk=1), _column("site"), _column("number", "int4"), _column("project"), _column("note")],
        [
            _reference(["site", "number"], "places", ["site", "number"], "SET NULL"),
            _reference(["project"], "projects", ["id"], "CASCADE"),
        ],
    ),
    _table(
        "comments",
        [_column("id", pk=1), _column("issue"), _column("folder"), _column("body")],
        [_reference(["issue"], "issues", ["id"], "CASCADE"), _reference(["folder"], "folders", ["id"], "SET NULL")],
    ),
]
CATALOG: Final[Catalog] = catalog_of(DESCRIPTIONS)
RELATIONS: Final = {oid: table.relation for oid, table in CATALOG.tables.items()}


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """``columns``: positions in the child's rows, in the order of the parent's key."""

    child: int
    columns: tuple[int, ...]
    parent: int
    on_delete: str

    def parent_of(self, row: Row) -> RowKey | None:
        """What ``row`` of the child refers to; None when it refers to nothing."""
        key = tuple(row[column] for column in self.columns)
        return None if None in key else (self.parent, key)


def _foreign_keys(description: dict[str, Any]) -> Iterable[ForeignKey]:
    names = RELATIONS[description["oid"]].names
    for fk in description["fks"]:
        parent = RELATIONS[TABLES[fk["table"]]]
        by_parent = dict(zip(fk["ref_columns"], fk["columns"], strict=True))
        columns = tuple(names.index(by_parent[parent.names[index]]) for index in parent.key_indexes)
        yield ForeignKey(description["oid"], columns, parent.id, fk["on_delete"])


FOREIGN_KEYS: Final = tuple(fk for description in DESCRIPTIONS for fk in _foreign_keys(description))
REFERRING: Final = {oid: tuple(fk for fk in FOREIGN_KEYS if fk.child == oid) for oid in NAMES}
REFERRED: Final = {oid: tuple(fk for fk in FOREIGN_KEYS if fk.parent == oid) for oid in NAMES}
"""By table, the foreign keys that it has, and those that point to it."""


def _depth(oid: int) -> int:
    return max((_depth(fk.parent) + 1 for fk in REFERRING[oid] if fk.parent != oid), default=0)


DEPTHS: Final = {oid: _depth(oid) for oid in NAMES}
"""As in ``electric.tables``: 0 without foreign keys, else one more than the deepest table referred to."""


def _tied(oid: int) -> tuple[tuple[int, ...], ...]:
    keys = RELATIONS[oid].key_indexes
    names = RELATIONS[oid].names
    ties = (map(names.index, tied) for tied in CATALOG.tables[oid].tied)
    columns = (tuple(sorted(set(tied) - set(keys))) for tied in (*ties, *(fk.columns for fk in REFERRING[oid])))
    return tuple(register for register in columns if len(register) > 1)


TIED: Final = {oid: _tied(oid) for oid in NAMES}
"""The columns that constraints tie together, which are one register; no column is in two of them here."""


def closure(tables: Iterable[int]) -> set[int]:
    """``tables`` and what they refer to, directly or not: that comes along."""
    held: set[int] = set()
    reached = set(tables)
    while reached:
        held |= reached
        reached = {fk.parent for oid in reached for fk in REFERRING[oid]} - held
    return held


_DECODERS: Final = {
    oid: tuple(decoder(column.type_name) for column in relation.columns) for oid, relation in RELATIONS.items()
}


def on_device(relation_id: int, row: Row) -> Values:
    """A row of Postgres as SQLite holds it, or one with cells that a device wrote, whatever it wrote."""
    return decode_row(row, _DECODERS[relation_id])


def history() -> SchemaHistory:
    """One migration that made all tables."""
    made = SchemaHistory()
    made.add(1, VERSION, 1, DESCRIPTIONS)
    return made
