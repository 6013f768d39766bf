"""The schema every run uses: projects, issues that refer to them, and a journal with one row a device transaction."""

from __future__ import annotations

from typing import Any, Final

from tests.catalogs import catalog_of

from syncline.actors.postgres.catalog import Catalog
from syncline.actors.postgres.history import SchemaHistory

PROJECTS: Final = 16401
ISSUES: Final = 16402
JOURNAL: Final = 16403
TABLES: Final = {"projects": PROJECTS, "issues": ISSUES, "journal": JOURNAL}
NAMES: Final = {oid: name for name, oid in TABLES.items()}

VERSION: Final = "20240101000000"


def _column(name: str, type_name: str = "text", *, pk: int | None = None, not_null: bool = False) -> dict[str, Any]:
    return {"name": name, "type": type_name, "not_null": not_null or pk is not None, "pk": pk, "enum": None}


def _table(name: str, columns: list[dict[str, Any]], fks: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "schema": "public",
        "table": name,
        "oid": TABLES[name],
        "columns": columns,
        "fks": fks or [],
        "indexes": [],
    }


_REFERENCE: Final = {
    "columns": ["project"],
    "schema": "public",
    "table": "projects",
    "ref_columns": ["id"],
    "on_delete": "NO ACTION",
    "on_update": "NO ACTION",
}
DESCRIPTIONS: Final = [
    _table("projects", [_column("id", pk=1), _column("name"), _column("note"), _column("rank", "int4")]),
    _table("issues", [_column("id", pk=1), _column("project"), _column("title"), _column("state")], [_REFERENCE]),
    _table("journal", [_column("id", pk=1), _column("author", not_null=True), _column("number", "int4")]),
]
CATALOG: Final[Catalog] = catalog_of(DESCRIPTIONS)
RELATIONS: Final = {oid: table.relation for oid, table in CATALOG.tables.items()}


def history() -> SchemaHistory:
    """One migration that made all tables."""
    made = SchemaHistory()
    made.add(1, VERSION, 1, DESCRIPTIONS)
    return made
