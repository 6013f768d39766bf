"""The report: what facts come to, and its one JSON document. Pure.

The document is described in docs/reference/doctor.md. Keys are only ever added to it; ``FORMAT`` says otherwise.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from syncline.actors.doctor.estimates import BYTES_A_S, ROWS_A_S, first_sync_s
from syncline.actors.doctor.facts import Column, Facts, Size, Table
from syncline.actors.doctor.findings import Finding
from syncline.actors.doctor.server_findings import server_findings
from syncline.actors.doctor.table_findings import around, default_kind, table_findings
from syncline.actors.postgres.devicenames import device_name
from syncline.actors.postgres.typemap import sqlite_type

FORMAT: Final = 1
Verdict: TypeAlias = Literal["sync", "notes", "refused"]
VERDICTS: Final[tuple[Verdict, ...]] = ("sync", "notes", "refused")


@dataclass(frozen=True, slots=True)
class TableReport:
    table: Table
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        severities = {finding.severity for finding in self.findings}
        return "refused" if "refused" in severities else "notes" if "note" in severities else "sync"


@dataclass(frozen=True, slots=True)
class Report:
    """``findings``: of the server, the role and what is there. ``tables``: by name."""

    facts: Facts
    findings: tuple[Finding, ...]
    tables: tuple[TableReport, ...]

    @property
    def ready(self) -> bool:
        """Everything can sync, and no setting or right is missing."""
        return self.count("refused") == 0 and all(finding.severity != "missing" for finding in self.findings)

    def count(self, verdict: Verdict) -> int:
        return sum(table.verdict == verdict for table in self.tables)

    @property
    def syncing(self) -> list[Table]:
        return [report.table for report in self.tables if report.verdict != "refused"]

    @property
    def size(self) -> Size:
        """Of all tables that can sync, so far as it is known."""
        sizes = [table.size for table in self.syncing]
        return Size(
            sum(size.rows or 0 for size in sizes),
            sum(size.bytes for size in sizes),
            sum(size.toast_bytes for size in sizes),
            all(size.analysed for size in sizes),
        )

    @property
    def unknown(self) -> int:
        """Of how many tables that can sync nobody knows the rows."""
        return sum(table.size.rows is None for table in self.syncing)

    @property
    def electrified(self) -> int:
        return sum(report.table.electrified for report in self.tables)

    @property
    def opens(self) -> int:
        """How many tables are not open to devices yet, and can be."""
        return sum(not table.electrified for table in self.syncing)

    @property
    def command(self) -> str:
        """That opens what can sync, whatever it refers to included."""
        outside = any(finding.code == "foreign_key_outside" for table in self.tables for finding in table.findings)
        which = " ".join(f"--schema {shlex.quote(schema)}" for schema in self.facts.schemas) or "--all"
        return f"syncline electrify {which}{' --with-parents' if outside else ''}"

    @property
    def first_sync_s(self) -> float:
        """Of a device that has all of them, one after the other."""
        return sum(first_sync_s(table.size) for table in self.syncing)


def report(facts: Facts, slot_name: str, publication: str, schema_version: int) -> Report:
    """See ``server_findings`` for the service's own names."""
    others = around(facts)
    return Report(
        facts,
        tuple(server_findings(facts, slot_name, publication, schema_version)),
        tuple(TableReport(table, tuple(table_findings(table, others))) for table in facts.tables),
    )


# --- as JSON ----------------------------------------------------------------------------------------------------------


def to_json(found: Report) -> dict[str, Any]:
    """The document. The same database gives the same one, but for sizes, and what slots and senders do."""
    server, size = found.facts.server, found.size
    return {
        "format": FORMAT,
        "ready": found.ready,
        "database": server.database,
        "schemas": list(found.facts.schemas),
        "summary": {
            "tables": len(found.tables),
            **{verdict: found.count(verdict) for verdict in VERDICTS},
            "electrified": found.electrified,
            "rows": size.rows,
            "bytes": size.bytes,
            "rows_unknown": found.unknown,
            "first_sync_s": _rounded(found.first_sync_s),
        },
        "electrify": {
            "command": found.command,
            "opens": found.opens,
            "leaves_out": found.count("refused"),
        },
        "rates": {"rows_a_s": ROWS_A_S, "bytes_a_s": BYTES_A_S},
        "server": {
            "version": server.version,
            "version_text": server.version_text,
            "encoding": server.encoding,
            "settings": dict(sorted(server.settings.items())),
            "wal_senders_in_use": server.senders,
        },
        "role": {
            "name": server.role.name,
            "login": server.role.login,
            "replication": server.role.replicates,
            "create": server.role.creates,
            "bypassrls": server.role.bypasses_row_security,
        },
        "schema_electric": None
        if server.schema is None
        else {"ours": server.schema.ours, "version": server.schema.version, "owner": server.schema.owner},
        "slots": [
            {
                "name": slot.name,
                "database": slot.database,
                "plugin": slot.plugin,
                "active": slot.active,
                "wal_status": slot.wal_status,
                "kept_bytes": slot.kept_bytes,
            }
            for slot in server.slots
        ],
        "publications": [
            {"name": found.name, "owner": found.owner, "all_tables": found.all_tables, "tables": found.tables}
            for found in server.publications
        ],
        "event_triggers": list(server.event_triggers),
        "findings": _findings(found.findings),
        "tables": [_table(report) for report in found.tables],
    }


def _table(found: TableReport) -> dict[str, Any]:
    table, told = found.table, found.table.told()
    return {
        "name": table.name,
        "schema": table.schema,
        "table": table.table,
        "on_devices": None if found.verdict == "refused" else device_name(table.schema, table.table),
        "verdict": found.verdict,
        "electrified": table.electrified,
        "owner": table.owner,
        "key": list(table.key()),
        "rows": table.size.rows,
        "bytes": table.size.bytes,
        "analysed": table.size.analysed,
        "first_sync_s": _rounded(first_sync_s(table.size)),
        "unique": [
            {"name": index.name, "columns": list(index.columns), "policy": index.policy}
            for index in table.unique_indexes
        ],
        "columns": [_column(column, told.get(column.name)) for column in table.columns],
        "findings": _findings(found.findings),
    }


def _column(column: Column, told: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "on_devices": None if told is None else sqlite_type(told["type"]),
        "not_null": column.not_null,
        "generated": {"s": "stored", "v": "virtual"}.get(column.generated),
        "default": default_kind(told),
        "default_sql": column.default,
        "sequence": column.sequence,
    }


def _findings(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    return [
        {
            "code": finding.code,
            "severity": finding.severity,
            "title": finding.title,
            "message": finding.message,
            "hint": finding.hint,
            "names": list(finding.names),
        }
        for finding in findings
    ]


def _rounded(seconds: float) -> float:
    return round(seconds, 3)
