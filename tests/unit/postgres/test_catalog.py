from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.catalogs import catalog_of

from syncline.actors.postgres.catalog import table_info


def description(table: str, oid: int = 7, schema: str = "public") -> dict[str, Any]:
    columns = [
        {"name": "b", "type": "int4", "not_null": True, "pk": 2, "enum": None},
        {"name": "mood", "type": "mood", "not_null": False, "pk": None, "enum": ["sad", "ok"]},
        {"name": "a", "type": "text", "not_null": True, "pk": 1, "enum": None},
    ]
    return {"schema": schema, "table": table, "oid": oid, "columns": columns, "fks": [], "indexes": []}


def test_a_description_becomes_a_relation() -> None:
    table = table_info(description("t"))
    assert table.relation.names == ("b", "mood", "a")
    assert table.relation.key_indexes == (0, 2)
    assert [column.nullable for column in table.relation.columns] == [False, True, False]
    assert table.types == {"b": "int4", "mood": "mood", "a": "text"}
    assert table.enum_labels == {"mood": ("sad", "ok")}
    assert table.oid == 7


def test_keys_are_named_in_column_order() -> None:
    assert table_info(description("t")).key_names == ("b", "a")


def test_names_are_quoted_for_sql() -> None:
    assert table_info(description('T"x', schema="My App")).sql_name == '"My App"."T""x"'


def test_tables_are_found_by_oid_and_name() -> None:
    catalog = catalog_of([description("t", 7), description("u", 8)])
    assert catalog.key_places(8, ("b", "mood", "a")) == (0, 2)
    assert catalog.key_places(9, ("b", "mood", "a")) is None
    assert catalog.named("u") is catalog.tables[8]
    assert catalog.named("x") is None


def test_the_key_is_found_among_other_columns() -> None:
    table = table_info(description("t"))
    assert table.key_places(("slug", "b", "x", "a", "mood")) == (1, 3)
    assert table.key_places(("b", "mood")) is None
    renamed = replace(table, renamed={"a": "key"})
    assert renamed.key_places(("key", "b")) == (1, 0)
    assert renamed.places(("key", "b", "a")) == (1, None, 2)


def test_a_name_without_schema_is_one_of_devices() -> None:
    catalog = catalog_of([description("t", 7), description("t", 8, "other"), description("u", 9, "other")])
    assert catalog.named("t") is catalog.tables[7]
    assert catalog.named("t", "public") is catalog.tables[7]
    assert catalog.named("t", "other") is catalog.named("other__t") is catalog.tables[8]
    assert catalog.named("u") is None
