"""Catalogs for tests that have no database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from syncline.actors.postgres.catalog import Catalog, table_info


def catalog_of(descriptions: Iterable[Mapping[str, Any]]) -> Catalog:
    """The catalog of these descriptions."""
    tables = [
        replace(table_info(description), tied=tuple(map(frozenset, description.get("ties", ()))))
        for description in descriptions
    ]
    return Catalog({table.oid: table for table in tables})
