"""What the doctor says of a server, of a role, and of what is there already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.doctor.facts_scene import PUBLICATION, SERVER, SLOT, reported, table

from syncline.actors.doctor.facts import ElectricSchema, Publication, Role, Server, Slot

OURS = Slot(SLOT, "shop", "pgoutput", True, "reserved", 0)
THEIRS = Slot("reports", "shop", "pgoutput", True, "reserved", 0)
SCHEMA = ElectricSchema("syncline", owned=True, ours=True, readable=True, version=15)
PUBLISHED = Publication(PUBLICATION, "syncline", owned=True, all_tables=False, tables=3)


def setting(name: str, value: str) -> dict[str, Any]:
    return {"settings": {**SERVER.settings, name: value}}


def role(**differing: Any) -> dict[str, Any]:
    return {"role": replace(SERVER.role, **differing)}


def server(**differing: Any) -> Server:
    return replace(SERVER, **differing)


def found(**differing: Any) -> list[str]:
    return [finding.code for finding in reported(server=server(**differing)).findings]


def test_of_a_server_that_is_ready_there_is_nothing_to_say() -> None:
    assert found() == []
    assert found(slots=(OURS,), schema=SCHEMA, publications=(PUBLISHED,)) == []
    assert reported(table("items", 1)).ready


@pytest.mark.parametrize(
    ("differing", "code"),
    [
        (setting("wal_level", "replica"), "wal_level"),
        ({"slots": (THEIRS,) * 10}, "no_free_slot"),
        ({"senders": 10}, "no_free_sender"),
        ({"slots": (replace(OURS, plugin="wal2json"),)}, "slot_foreign"),
        ({"slots": (replace(OURS, database="other"),)}, "slot_foreign"),
        ({"slots": (replace(OURS, wal_status="lost"),)}, "slot_lost"),
        ({"schema": replace(SCHEMA, ours=False)}, "schema_foreign"),
        ({"schema": replace(SCHEMA, version=16)}, "schema_newer"),
        ({"schema": replace(SCHEMA, owned=False)}, "role_electric"),
        ({"publications": (PUBLISHED,)}, "publication_foreign"),
        (role(replicates=False), "role_replication"),
        (role(creates=False), "role_create"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_keep_the_service_from_starting_is_missing(differing: dict[str, Any], code: str) -> None:
    report = reported(table("items", 1), server=server(**differing))
    (finding,) = [finding for finding in report.findings if finding.severity == "missing"]
    assert finding.code == code
    assert finding.hint
    assert not report.ready


@pytest.mark.parametrize(
    ("differing", "code"),
    [
        (setting("max_slot_wal_keep_size", "-1"), "wal_kept"),
        (setting("idle_replication_slot_timeout", "3600"), "slot_timeout"),
        ({"slots": (replace(THEIRS, active=False),)}, "slots_idle"),
        ({"publications": (Publication("reports", "app", False, True, 0),)}, "publications"),
        ({"event_triggers": ("audit",)}, "event_triggers"),
        ({"encoding": "LATIN1"}, "encoding"),
        ({"encoding": "SQL_ASCII"}, "encoding"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_to_be_known_keeps_nothing_from_being_ready(differing: dict[str, Any], code: str) -> None:
    report = reported(table("items", 1), server=server(**differing))
    assert [(finding.code, finding.severity) for finding in report.findings] == [(code, "note")]
    assert report.ready


def test_a_role_needs_no_right_to_create_what_is_there_and_its_own() -> None:
    without = Role("syncline", "syncline", "syncline", True, creates=False, bypasses_row_security=False)
    assert found(role=without, schema=SCHEMA, publications=(PUBLISHED,)) == []


def test_slots_and_senders_that_are_all_in_use_do_no_harm_to_a_service_that_has_its_own() -> None:
    assert found(slots=(OURS, *(THEIRS,) * 9), senders=10, schema=SCHEMA, publications=(PUBLISHED,)) == []


def test_tables_of_others_are_told_by_owner_and_schemas_by_name() -> None:
    tables = [table(f"t{n}", n, owned=False, owner="ann" if n % 2 else "bob") for n in range(5)]
    hidden = [table("h1", 10, schema_usage=False), table("h2", 11, schema_usage=False)]
    findings = reported(*tables, *hidden).findings
    assert [(finding.code, len(finding.names)) for finding in findings] == [
        ("role_owner", 2),
        ("role_owner", 3),
        ("role_usage", 2),
    ]
    assert findings[0].hint == "as ann or an administrator: GRANT ann TO syncline"
    assert findings[2].hint == "GRANT USAGE ON SCHEMA app TO syncline"
