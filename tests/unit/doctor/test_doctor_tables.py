"""What the doctor says of tables: why they cannot sync, or how they do."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.doctor.facts_scene import column, foreign_key, reported, table, unique, without_key

from syncline.actors.doctor.facts import Clash, Constraint, Obstacle, Size, Table
from syncline.actors.doctor.report import Report
from syncline.actors.doctor.table_findings import LARGE_BYTES


def codes(report: Report, name: str) -> list[str]:
    (found,) = [each for each in report.tables if each.table.table == name]
    return [finding.code for finding in found.findings]


def verdicts(report: Report) -> dict[str, str]:
    return {each.table.table: each.verdict for each in report.tables}


@pytest.mark.parametrize(
    ("state", "differing", "code"),
    [
        ("invalid_table_definition", {}, "no_key"),
        ("insufficient_privilege", {}, "not_owner"),
        ("feature_not_supported", {}, "virtual_columns"),
        ("wrong_object_type", {"kind": "f"}, "foreign_table"),
        ("wrong_object_type", {"persistence": "u"}, "unlogged"),
        ("wrong_object_type", {"kind": "p"}, "unlogged"),
        ("wrong_object_type", {}, "other"),
    ],
)
def test_an_obstacle_has_a_code_that_stays(state: str, differing: dict[str, Any], code: str) -> None:
    refused = table("t", 1, obstacle=Obstacle("app.t cannot", "mend it", state), description=None, **differing)
    report = reported(refused)
    assert (codes(report, "t"), verdicts(report)["t"]) == ([code], "refused")


def test_what_refers_to_a_table_left_out_for_its_name_is_left_out_but_for_a_circle() -> None:
    items = table("items", 1)
    clash = Clash(1, "app.items: devices could not tell it", "rename it")
    circle = table("circle", 2, constraints=(foreign_key("items", items),))
    items_back = table("items", 1, constraints=(foreign_key("circle", circle),))
    child = table("child", 3, constraints=(foreign_key("circle", circle),))
    alone = table("alone", 4)
    report = reported(items_back, circle, child, alone, clashes=(clash,))
    assert codes(report, "items") == ["name_clash"]
    assert codes(report, "child") == ["parent_refused"]
    assert verdicts(report) == {"items": "refused", "circle": "notes", "child": "refused", "alone": "sync"}


def test_a_foreign_key_to_a_table_that_cannot_sync_is_done_without() -> None:
    parent = without_key("kinds", 1)
    child = table("things", 2, constraints=(foreign_key("kind", parent),))
    told = {"columns": ["kind"], "schema": "app", "table": "kinds", "ref_columns": ["id"]}
    assert child.description is not None
    report = reported(parent, table("things", 2, constraints=child.constraints, description=_with_fk(child, told)))
    assert codes(report, "things") == ["unique_key", "foreign_key_left_out"]
    (finding,) = [finding for finding in report.tables[1].findings if finding.code == "foreign_key_left_out"]
    assert finding.message == "kind_fkey to app.kinds (which cannot sync)"


def _with_fk(of: Table, told: dict[str, Any]) -> dict[str, Any]:
    assert of.description is not None
    return {**of.description, "fks": [told]}


def test_of_a_table_that_is_locked_nothing_is_said_but_that_nor_of_keys_to_it() -> None:
    parent = table("kinds", 1, description=None, triggers=("stamp",))
    plain = table("things", 2)
    told = {"columns": ["kind"], "schema": "app", "table": "kinds", "ref_columns": ["id"]}
    constraints = (*plain.constraints, foreign_key("kind", parent))
    child = table("things", 2, constraints=constraints, description=_with_fk(plain, told))
    report = reported(parent, child)
    assert (codes(report, "kinds"), codes(report, "things")) == (["locked"], [])
    assert verdicts(report) == {"kinds": "notes", "things": "sync"}


def test_unique_indexes_of_the_same_columns_as_the_key_are_nothing_to_be_known() -> None:
    assert codes(reported(table("t", 1, unique_indexes=(unique("again", "id"),))), "t") == []
    assert codes(reported(table("t", 1, unique_indexes=(unique("title", "title"),))), "t") == ["unique"]


def test_large_values_are_a_note_unless_old_rows_are_written_whole_already() -> None:
    size = Size(10, LARGE_BYTES * 2, LARGE_BYTES, True)
    assert codes(reported(table("t", 1, size=size)), "t") == ["large_values"]
    assert codes(reported(table("t", 1, size=size, replica_identity="f")), "t") == []


def test_what_only_tells_how_a_table_syncs_does_not_make_it_one_with_notes() -> None:
    check = Constraint("c", "c", ("title",), "CHECK (title <> '')", 0, None, ())
    plain = table("t", 1)
    described = table("t", 1, constraints=(*plain.constraints, check), ties=(("a", "b"),), size=Size(None, 1, 0, False))
    report = reported(described)
    assert (codes(report, "t"), verdicts(report)["t"]) == (["checks", "tied_columns", "unanalysed"], "sync")


def test_defaults_are_told_by_who_fills_them_in() -> None:
    plain = table("t", 1)
    assert plain.description is not None
    kinds = {"id": "server", "a": "literal", "b": "now", "c": "server", "n": "sequence"}
    told = [
        {"name": name, "type": "text", "pk": 1 if name == "id" else None, "enum": None, "default": {"kind": kind}}
        for name, kind in kinds.items()
    ]
    columns = tuple(
        column(name, default=None if name == "b" else "x()", sequence="app.s" if kind == "sequence" else None)
        for name, kind in kinds.items()
    )
    report = reported(table("t", 1, description={**plain.description, "columns": told}, columns=columns))
    said = {finding.code: (finding.message, finding.hint) for finding in report.tables[0].findings}
    assert said == {
        "sequence": ("n from app.s", "the npm client holds no values: there an insert gives them itself"),
        "defaults": ("a x(), b (of its domain)", ""),
        "server_defaults": ("id x(), c x()", "a key has to be known at once: an insert on a device gives id itself"),
    }
