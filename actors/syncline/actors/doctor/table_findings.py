"""What is to be said of a table: why it cannot sync, or how it does. Pure.

A section is a function of a table and of what it needs of others, and yields findings. ``SECTIONS`` has all of them, in
the order in which people read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from syncline.actors.doctor.facts import Clash, Constraint, Facts, Table
from syncline.actors.doctor.findings import Finding
from syncline.actors.doctor.references import behind_clashes
from syncline.actors.postgres.checks import checks
from syncline.actors.postgres.typemap import has_adapter

# A table whose values kept apart come to as much has them in more than a few rows.
LARGE_BYTES: Final = 8 << 20

_BY_STATE: Final = {"invalid_table_definition": "no_key", "insufficient_privilege": "not_owner"}


@dataclass(frozen=True, slots=True)
class Around:
    """What a table's findings need of the others: those that can sync, by OID, and names that devices could not tell
    apart; ``behind``: what a table refers to that is left out for its name. ``role``: as SQL has it."""

    syncing: Mapping[int, Table]
    clashes: Mapping[int, Clash]
    behind: Mapping[int, str]
    schemas: tuple[str, ...]
    role: str


Section: TypeAlias = Callable[[Table, Around], Iterator[Finding]]


def around(facts: Facts) -> Around:
    clashes = {clash.relid: clash for clash in facts.clashes}
    syncing = {table.relid: table for table in facts.tables if table.obstacle is None and table.schema_usage}
    return Around(
        {relid: table for relid, table in syncing.items() if relid not in clashes},
        clashes,
        behind_clashes(syncing, clashes.keys()),
        facts.schemas,
        facts.server.role.quoted,
    )


def table_findings(table: Table, others: Around) -> list[Finding]:
    """Why it cannot sync, and nothing else; or how it does, so far as it could be asked."""
    refused = _refusal(table, others)
    if refused is not None:
        return [refused]
    if table.description is None:
        return [Finding("locked", "somebody has it locked (ACCESS EXCLUSIVE)", "ask again later")]
    return [finding for section in SECTIONS for finding in section(table, others)]


def _refusal(table: Table, others: Around) -> Finding | None:
    if table.obstacle is not None:
        return Finding(_code(table, table.obstacle.state), table.obstacle.message, table.obstacle.hint)
    if not table.schema_usage:
        hint = f"GRANT USAGE ON SCHEMA {table.quoted_schema} TO {others.role}"
        return Finding("no_usage", f"the role may not use the schema of {table.name}", hint)
    if clash := others.clashes.get(table.relid):
        return Finding("name_clash", clash.message, clash.hint)
    if parent := others.behind.get(table.relid):
        return Finding("parent_refused", f"{table.name} refers to {parent}", "give that one another name", (parent,))
    return None


def _code(table: Table, state: str) -> str:
    if state in _BY_STATE:
        return _BY_STATE[state]
    if state == "feature_not_supported":
        return "virtual_columns"
    if table.kind == "f":
        return "foreign_table"
    return "unlogged" if table.kind == "p" or table.persistence == "u" else "other"


# --- keys -------------------------------------------------------------------------------------------------------------


def _key(table: Table, _: Around) -> Iterator[Finding]:
    key = table.key()
    if not any(constraint.kind == "p" and constraint.columns == key for constraint in table.constraints):
        index = next((index.name for index in table.unique_indexes if index.columns == key), "")
        yield Finding("unique_key", f"its key is that of index {index}: {', '.join(key)}", names=key)
    if table.ambiguous_key:
        yield Finding(
            "ambiguous_key",
            f"texts that differ are one value to Postgres, and another row each to a device: "
            f"{', '.join(table.ambiguous_key)}",
            "write a value in one way on devices, or make the column of a type with one form (numeric(n, s), text)",
            table.ambiguous_key,
        )


# --- columns ----------------------------------------------------------------------------------------------------------


def default_kind(told: Mapping[str, Any] | None) -> str | None:
    """Of a column as devices are told of it: ``literal``, ``now``, ``uuid`` or ``sequence``, which devices fill in, or
    ``server``, which Postgres does. None: it has no default."""
    default = told.get("default") if told is not None else None
    return None if default is None else str(default["kind"])


def _sequences(table: Table, _: Around) -> Iterator[Finding]:
    filled = [column for column in table.columns if column.sequence is not None]
    if filled:
        told = table.told()
        only = [column.name for column in filled if default_kind(told.get(column.name)) != "sequence"]
        hint = "the npm client holds no values: there an insert gives them itself"
        yield Finding(
            "sequence",
            ", ".join(f"{column.name} from {column.sequence}" for column in filled),
            f"{hint}; of {', '.join(only)} no device does" if only else hint,
            tuple(column.name for column in filled),
        )


def _defaults(table: Table, _: Around) -> Iterator[Finding]:
    told = table.told()
    for code, kinds in (("defaults", ("literal", "now", "uuid")), ("server_defaults", ("server",))):
        filled = [
            column
            for column in table.columns
            if column.sequence is None and default_kind(told.get(column.name)) in kinds
        ]
        key = [column.name for column in filled if column.name in table.key() and code == "server_defaults"]
        if filled:
            yield Finding(
                code,
                ", ".join(f"{column.name} {column.default or '(of its domain)'}" for column in filled),
                f"a key has to be known at once: an insert on a device gives {', '.join(key)} itself" if key else "",
                tuple(column.name for column in filled),
            )


def _types(table: Table, _: Around) -> Iterator[Finding]:
    types = {column.name: column.type for column in table.columns}
    as_text = [
        column for column in _list(table, "columns") if column["enum"] is None and not has_adapter(column["type"])
    ]
    if as_text:
        yield Finding(
            "text_types",
            ", ".join(f"{column['name']} {types.get(column['name'], column['type'])}" for column in as_text),
            names=tuple(column["name"] for column in as_text),
        )


def _generated(table: Table, _: Around) -> Iterator[Finding]:
    names = tuple(column.name for column in table.columns if column.generated)
    if names:
        yield Finding("generated_columns", ", ".join(names), names=names)


# --- constraints ------------------------------------------------------------------------------------------------------


def _unique(table: Table, _: Around) -> Iterator[Finding]:
    key = sorted(table.key())
    unique = [
        index for index in table.unique_indexes if index.partial or index.expressions or sorted(index.columns) != key
    ]
    if unique:
        yield Finding(
            "unique",
            ", ".join(f"{index.name} ({', '.join(index.columns) or 'expressions'}) {index.policy}" for index in unique),
            "for another policy, once it is open: SELECT electric.unique_policy('schema.index', 'rename' or 'nullify')",
            tuple(index.name for index in unique),
        )
    exclusions = [constraint for constraint in table.constraints if constraint.kind == "x"]
    if exclusions:
        yield Finding("exclusion", _defined(exclusions), names=tuple(constraint.name for constraint in exclusions))


def _checks(table: Table, _: Around) -> Iterator[Finding]:
    told = {check.name for check in checks(table.description, table.name)} if table.description else set()
    held = [constraint for constraint in table.constraints if constraint.kind == "c" and constraint.name in told]
    others = [constraint for constraint in table.constraints if constraint.kind == "c" and constraint.name not in told]
    for code, constraints in (("device_checks", held), ("checks", others)):
        if constraints:
            yield Finding(code, _defined(constraints), names=tuple(constraint.name for constraint in constraints))


def _defined(constraints: Iterable[Constraint]) -> str:
    return ", ".join(f"{each.name} {each.definition}" for each in constraints)


def _ties(table: Table, _: Around) -> Iterator[Finding]:
    for tied in table.ties:
        yield Finding("tied_columns", ", ".join(tied), names=tied)


def _foreign_keys(table: Table, others: Around) -> Iterator[Finding]:
    told = {tuple(fk["columns"]): fk for fk in _list(table, "fks")}
    left_out, outside = {}, {}
    for constraint in table.constraints:
        if constraint.kind != "f":
            continue
        parent = others.syncing.get(constraint.refers_to)
        schema = told.get(constraint.columns, {}).get("schema")
        if parent is None and others.schemas and schema is not None and schema not in others.schemas:
            outside[constraint.name] = constraint.refers_to_name
        elif why := _left_out(told.get(constraint.columns), parent):
            left_out[constraint.name] = f"{constraint.name} to {constraint.refers_to_name} ({why})"
    if left_out:
        yield Finding("foreign_key_left_out", ", ".join(left_out.values()), names=tuple(left_out))
    if outside:
        yield Finding(
            "foreign_key_outside",
            ", ".join(f"{name} to {parent}" for name, parent in outside.items()),
            "open those tables first, or with these: syncline electrify --with-parents",
            tuple(outside),
        )


def _left_out(fk: Mapping[str, Any] | None, parent: Table | None) -> str | None:
    """Why a device's table is made without it, as ``dialect`` does; None: it has it. ``fk``: as devices are told."""
    if fk is None:
        return "of generated columns"
    if parent is None:
        return "which cannot sync"
    if parent.description is None:
        return None  # it is locked: its key is not known
    if fk.get("loose"):
        return "values may be spelled otherwise"
    if sorted(parent.key()) != sorted(fk["ref_columns"]):
        return "not to its key"
    return None


# --- what acts on rows in Postgres ------------------------------------------------------------------------------------


def _acting(table: Table, _: Around) -> Iterator[Finding]:
    for code, names in (("triggers", table.triggers), ("rules", table.rules)):
        if names:
            yield Finding(code, ", ".join(names), names=names)


def _family(table: Table, _: Around) -> Iterator[Finding]:
    if table.kind == "p":
        yield Finding(
            "partitions",
            f"{table.partitions:,} partition{'' if table.partitions == 1 else 's'}",
            "when one with rows is attached or detached, the table is read anew",
        )
    if table.inherits_from or table.inherited_by:
        texts = [
            *(f"from {', '.join(names)}" for names in (table.inherits_from,) if names),
            *(f"by {', '.join(names)}" for names in (table.inherited_by,) if names),
        ]
        yield Finding("inheritance", "; ".join(texts), names=(*table.inherits_from, *table.inherited_by))


def _row_security(table: Table, others: Around) -> Iterator[Finding]:
    if table.row_security_holds and table.policies:
        yield Finding(
            "row_security",
            f"what none of its {table.policies} policies lets the role see or write does not sync",
            f"ALTER ROLE {others.role} BYPASSRLS, or a policy for it",
        )


# --- what it costs ----------------------------------------------------------------------------------------------------


def _replica_identity(table: Table, _: Around) -> Iterator[Finding]:
    if table.replica_identity in ("n", "i"):
        was = "NOTHING" if table.replica_identity == "n" else f"USING INDEX {table.replica_identity_index}"
        yield Finding(
            "replica_identity", f"it is {was}", "whoever else follows the table then gets whole old rows, which is more"
        )


def _size(table: Table, _: Around) -> Iterator[Finding]:
    if table.size.toast_bytes >= LARGE_BYTES and table.replica_identity != "f":
        yield Finding(
            "large_values",
            f"{table.size.toast_bytes / 2**20:,.0f} MiB of values kept apart from their rows",
            "where such rows are often updated, keep large values in a table of their own",
        )
    if not table.size.analysed:
        yield Finding("unanalysed", "never counted", f"ANALYZE {table.name}")


def _list(table: Table, part: str) -> list[Mapping[str, Any]]:
    return list(table.description[part]) if table.description is not None else []


SECTIONS: Final[tuple[Section, ...]] = (
    _key,
    _sequences,
    _defaults,
    _types,
    _generated,
    _unique,
    _checks,
    _ties,
    _foreign_keys,
    _acting,
    _family,
    _row_security,
    _replica_identity,
    _size,
)
