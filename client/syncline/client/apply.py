"""Incoming changes -> SQL statements. Pure: a transaction, what is pending locally, and the schema in; a plan out.

The server has already resolved every conflict it knows of, so an incoming row simply replaces ours, unless local
changes to the same row are still on their way up. Those rows are merged by the rules both ends share (``proto.merge``):
what is shown meanwhile is what the server will decide when it gets our changes, and nothing the user did flickers away.

So a row that has left our shapes (GONE) stays too while changes to it are pending, or to rows that refer to it, and is
noted down as leaving. An incoming row takes it off that note. Else it goes with the echo of the last of these changes
(``leaving``), whatever that echo brings: by then it would have come back if it belonged here.

Pending is what the server had not carried out when it made what comes. Where it has said that a change is in there, a
row comes as if there were no such change, though its echo is still to come: what others did, who had seen it, is not to
be undone here.

A row may come with some of its columns, under a relation that has no others: the shape it belongs to names its columns.
It does not change the others, which other shapes may have, and which may have local changes pending. When a shape lets
go of a row that others keep with fewer columns, the rest becomes NULL. That is an update of these columns without tags,
the row's being as they were.

Statements are grouped: consecutive rows for the same statement run as one ``executemany``. Shadow entries are written
only for rows that not only Postgres has written (see ``schema``), and the deletion of stale entries is left out for
tables that have none: a first sync of a million rows writes a million rows, not two.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

from syncline.client.cells import Values, decode_row
from syncline.client.ddl import with_asked_defaults, with_sequences, without_not_null
from syncline.client.merging import Arrived, Pending, Present, losing, merged, regained, unwritten
from syncline.client.row_sql import forget_sql, put_sql, table_sql
from syncline.client.schema import OF_POSTGRES, UNTRACKED_TAG, Table, described
from syncline.client.triggers import DEFAULT_FUNCTION, NEXT_FUNCTION, create_triggers, drop_triggers
from syncline.proto.values import (
    POSTGRES_ORIGIN,
    Change,
    Compensation,
    Delete,
    Gone,
    Insert,
    Migrate,
    Relation,
    Row,
    RowChange,
    Transaction,
    Update,
)

Step: TypeAlias = tuple[str, list[Values]]
RowId: TypeAlias = tuple[str, Values]
"""A row of the device: its table and the SQLite values of its key."""


class UnknownRelation(Exception):
    """The stream names a relation it has not described, or a table that no migration has created here."""


def tags_json(tags: Sequence[str]) -> str | None:
    """A row's tags as its shadow entry stores them; None when it needs no entry."""
    return None if len(tags) == 1 and tags[0].startswith(OF_POSTGRES) else json.dumps(list(tags))


def tags_from_json(text: str | None) -> tuple[str, ...]:
    return (UNTRACKED_TAG,) if text is None else tuple(json.loads(text))


class Binding:
    """How a relation of the server's maps onto our table. Columns are matched by name; one we lack is ignored.

    ``present``: of our columns, whether it has them.
    """

    def __init__(self, table: Table, relation: Relation) -> None:
        self.table = table
        self.sql = table_sql(table)
        self._key_decoders = [table.decoders[index] for index in table.key_indexes]
        positions = {name: index for index, name in enumerate(relation.names)}
        sources = [positions.get(column) for column in table.columns]
        self._sources = None if sources == list(range(len(relation.columns))) else sources
        self.present = tuple(source is not None for source in sources)
        self.whole = all(self.present)
        self.columns = tuple(name for name in table.columns if name in positions)
        self.put = put_sql(table, self.present)

    def row(self, row: Row) -> Row:
        """A wire row in the order of our columns, NULL where it has none."""
        sources = self._sources
        return row if sources is None else tuple(None if i is None else row[i] for i in sources)

    def values(self, row: Row) -> Values:
        """The SQLite values of a wire row."""
        return decode_row(self.row(row), self.table.decoders)

    def key(self, row: Row) -> Values:
        """The SQLite values of the key of a row in our order."""
        return decode_row(tuple([row[index] for index in self.table.key_indexes]), self._key_decoders)

    def arrived(self, change: Insert | Update | Delete) -> Arrived:
        """A change with its rows in the order of our columns."""
        if self._sources is None:
            return change, self.present
        if isinstance(change, Insert):
            return Insert(change.relation_id, self.row(change.row), change.tags), self.present
        if isinstance(change, Update):
            old = None if change.old_row is None else self.row(change.old_row)
            return Update(change.relation_id, self.row(change.row), old, change.tags), self.present
        return Delete(change.relation_id, self.row(change.old_row), change.tags), self.present

    def forgets(self, change: RowChange) -> bool:
        """Whether the change only takes columns of a row that stays."""
        return isinstance(change, Update) and not (self.whole or change.tags or change.old_row)


@lru_cache(maxsize=1_000)
def _binding(table: Table, relation: Relation) -> Binding:
    return Binding(table, relation)


class Bindings:
    """The bindings of one plan, by relation id."""

    def __init__(self, relations: Mapping[int, Relation], tables: Mapping[str, Table]) -> None:
        self._relations = relations
        self._tables = tables
        self._made: dict[int, Binding] = {}

    def find(self, relation_id: int) -> Binding | None:
        binding = self._made.get(relation_id)
        if binding is None:
            relation = self._relations.get(relation_id)
            table = None if relation is None else self._tables.get(relation.table)
            if relation is None or table is None:
                return None
            binding = self._made[relation_id] = _binding(table, relation)
        return binding

    def of(self, relation_id: int) -> Binding:
        """Raises UnknownRelation."""
        binding = self.find(relation_id)
        if binding is not None:
            return binding
        relation = self._relations.get(relation_id)
        if relation is None:
            raise UnknownRelation(f"the server sent rows of relation {relation_id} before describing it")
        raise UnknownRelation(f"the server sent rows of table {relation.table}, which has no migration on this device")

    def forget(self) -> None:
        """After a migration."""
        self._made.clear()


@dataclass(slots=True)
class Plan:
    """What to run: (statement, rows of parameters), first ``steps`` in order, then ``tag_steps`` in order.

    ``tables`` is the schema afterwards, ``redescribed`` the tables migrations have made or changed.
    """

    tables: dict[str, Table]
    steps: list[Step] = field(default_factory=list)
    tag_steps: list[Step] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    versions: list[str] = field(default_factory=list)
    redescribed: dict[str, Table] = field(default_factory=dict)

    def run(self, sql: str, values: Values = ()) -> None:
        _append(self.steps, sql, values)

    def run_tags(self, sql: str, values: Values) -> None:
        _append(self.tag_steps, sql, values)

    def followed_by(self, other: Plan) -> None:
        """Add what ``other`` brings about, apart from its statements: they have been run."""
        self.tables = other.tables
        self.changed |= other.changed
        self.versions += other.versions
        self.redescribed |= other.redescribed


def _append(steps: list[Step], sql: str, values: Values) -> None:
    if steps and steps[-1][0] is sql:
        steps[-1][1].append(values)
    else:
        steps.append((sql, [values]))


def touched_rows(
    changes: Iterable[Change], relations: Mapping[int, Relation], tables: Mapping[str, Table]
) -> set[RowId]:
    """The rows whose pending local changes the plan needs to know. Tables still to be created have none."""
    bindings = Bindings(relations, tables)
    touched: set[RowId] = set()
    for change in changes:
        if isinstance(change, Insert | Update | Delete | Gone):
            binding = bindings.find(change.relation_id)
            if binding is not None:
                touched.add((binding.table.name, binding.key(binding.row(_image(change)))))
    return touched


def _image(change: RowChange) -> Row:
    return change.old_row if isinstance(change, Delete) else change.row


def plan_transaction(
    transaction: Transaction,
    relations: Mapping[int, Relation],
    tables: Mapping[str, Table],
    *,
    pending: Mapping[RowId, Pending],
    tracked: frozenset[str],
    known_versions: frozenset[str],
    leaving: Iterable[RowId] = (),
    narrower: Iterable[RowId] = (),
) -> Plan:
    """The plan of one server transaction. Raises UnknownRelation.

    ``pending``: local changes not echoed yet, for every row of ``touched_rows`` that has some; none of a row of which
    all are in what comes. ``tracked``: tables with
    shadow entries. ``known_versions``: migrations applied before; a repeated one is skipped. ``leaving``: rows that
    left before, of which nothing is pending from this transaction on. ``narrower``: those that stay without the columns
    their tables lack, likewise.
    """
    plan = Plan(dict(tables))
    rows = _RowPlanner(plan, tracked, pending)
    bindings = Bindings(relations, plan.tables)
    for table_name, key in leaving:
        rows.drop(plan.tables[table_name], key)
    for table_name, key in narrower:
        rows.forget(plan.tables[table_name], key, plan.tables[table_name].lacking)
    histories: dict[RowId, tuple[Binding, list[Arrived]]] = {}
    for change in transaction.changes:
        if isinstance(change, Migrate):
            if change.version not in known_versions:
                plan_migration_step(plan, change)
                bindings.forget()
        elif not isinstance(change, Compensation):
            binding = bindings.of(change.relation_id)
            ordered = binding.row(_image(change))
            if binding.forgets(change):
                rows.forget(binding.table, binding.key(ordered), binding.columns)
                continue
            if not pending and isinstance(change, Insert | Update):
                rows.put(binding, ordered, change.tags)
                continue
            row_id = (binding.table.name, binding.key(ordered))
            if isinstance(change, Gone):
                histories.pop(row_id, None)
                rows.leave(binding, row_id)
            elif row_id in pending:
                histories.setdefault(row_id, (binding, []))[1].append(binding.arrived(change))
            elif isinstance(change, Delete):
                rows.drop(binding.table, row_id[1])
            else:
                rows.put(binding, ordered, change.tags)
    for row_id, (binding, history) in histories.items():
        rows.merge(binding, row_id, history, transaction.origin or "", transaction.commit_ms)
    _rebuild_triggers(plan, tables)
    return plan


def plan_rows(
    inserts: Iterable[Insert],
    relations: Mapping[int, Relation],
    tables: Mapping[str, Table],
    *,
    pending: Mapping[RowId, Pending],
    tracked: frozenset[str],
) -> Plan:
    """The plan of rows as they stood at one position of the stream, outside any transaction: shape data."""
    plan = Plan(dict(tables))
    rows = _RowPlanner(plan, tracked, pending)
    bindings = Bindings(relations, tables)
    for insert in inserts:
        binding = bindings.of(insert.relation_id)
        ordered = binding.row(insert.row)
        if pending:
            row_id = (binding.table.name, binding.key(ordered))
            if row_id in pending:
                rows.merge_standing(binding, row_id, binding.arrived(insert))
                continue
        rows.put(binding, ordered, insert.tags)
    return plan


class _RowPlanner:
    """Adds row statements to a plan, leaving out what cannot have an effect. Rows come in the order of our columns."""

    def __init__(self, plan: Plan, tracked: frozenset[str], pending: Mapping[RowId, Pending]) -> None:
        self._plan = plan
        self._tracked = set(tracked)
        self._pending = pending

    def put(self, binding: Binding, row: Row, tags: Sequence[str]) -> None:
        self._put(binding, binding.put, row, decode_row(row, binding.table.decoders), tags)

    def _put(self, binding: Binding, sql: str, row: Row, values: Values, tags: Sequence[str]) -> None:
        table = binding.table
        if not table.can_hold(values):
            return
        self._plan.changed.add(table.name)
        self._plan.run(sql, values)
        stored = tags_json(tags)
        if stored is None:
            if table.name in self._tracked:
                self._plan.run_tags(binding.sql.drop_tags, binding.key(row))
        else:
            self._tracked.add(table.name)
            self._plan.run_tags(binding.sql.put_tags, (stored, *binding.key(row)))

    def drop(self, table: Table, key: Values) -> None:
        sql = table_sql(table)
        self._plan.changed.add(table.name)
        self._plan.run(sql.delete, key)
        if table.name in self._tracked:
            self._plan.run_tags(sql.drop_tags, key)

    def forget(self, table: Table, key: Values, columns: Sequence[str]) -> None:
        """These ``columns`` of a row that stays are none of ours any more, apart from what was written to them here."""
        pending = self._pending.get((table.name, key), ())
        leaving = tuple(
            column
            for place, column in enumerate(table.columns)
            if column in columns and column not in table.primary_key and unwritten(pending, place)
        )
        if leaving:
            self._plan.changed.add(table.name)
            self._plan.run(forget_sql(table, leaving), key)

    def leave(self, binding: Binding, row_id: RowId) -> None:
        """The row is in none of our shapes any more."""
        if self._pending.get(row_id):
            self._plan.run_tags(binding.sql.leave, row_id[1])
        else:
            self.drop(binding.table, row_id[1])

    def merge(self, binding: Binding, row_id: RowId, history: Sequence[Arrived], origin: str, commit_ms: int) -> None:
        """One row with local changes pending: what both sides' changes add up to."""
        pending = self._pending[row_id]
        self._settle(binding, row_id, *merged(pending, history, origin, commit_ms, binding.table.tied))
        if regained(pending, history):
            self._plan.run_tags(binding.sql.regain, row_id[1])
        lost = losing(pending, history, origin, commit_ms, binding.table.tied)
        if lost:
            names = json.dumps({binding.table.columns[column]: 1 for column in lost})
            self._plan.run_tags(binding.sql.lose, (names, *row_id[1]))

    def merge_standing(self, binding: Binding, row_id: RowId, arrived: Arrived) -> None:
        """The same, of a row as it stands."""
        pending, tied = self._pending[row_id], binding.table.tied
        result = merged(pending, [arrived], POSTGRES_ORIGIN, 0, tied, in_transaction=False)
        self._settle(binding, row_id, *result)

    def _settle(
        self, binding: Binding, row_id: RowId, row: Row | None, present: Present, tags: tuple[str, ...]
    ) -> None:
        self._plan.run_tags(binding.sql.stay, row_id[1])
        if row is None:
            self.drop(binding.table, row_id[1])
        else:
            values = decode_row(row, binding.table.decoders)
            self._put(binding, put_sql(binding.table, present), row, values, tags)


def plan_migration_step(plan: Plan, step: Migrate) -> None:
    """Run the step's SQL, note its version, and take over the table it describes."""
    required: list[str] = []
    for _, sql in step.statements:
        if step.table is not None:
            sql, names = without_not_null(sql, step.table.primary_key)
            sql = with_asked_defaults(sql, step.table.name, DEFAULT_FUNCTION)
            sequences = [column.name for column in step.table.columns if column.sequence]
            sql = with_sequences(sql, step.table.name, sequences, NEXT_FUNCTION)
            required += names
        plan.run(sql)
    if step.version not in plan.versions:
        plan.versions.append(step.version)
    if step.table is not None:
        known = plan.tables.get(step.table.name)
        table_id = known.id if known is not None else len(plan.tables)
        plan.tables[step.table.name] = described(table_id, step.table, required, known)
        plan.redescribed[step.table.name] = plan.tables[step.table.name]


def plan_migrations(steps: Iterable[Migrate], tables: Mapping[str, Table], known_versions: frozenset[str]) -> Plan:
    """The plan of migrations that ship with the application. Versions applied before are skipped."""
    plan = Plan(dict(tables))
    for step in steps:
        if step.version not in known_versions:
            plan_migration_step(plan, step)
    _rebuild_triggers(plan, tables)
    return plan


def _rebuild_triggers(plan: Plan, before: Mapping[str, Table]) -> None:
    """After a change of schema all triggers are made anew: a new table may be the parent another one refers to."""
    if not plan.redescribed:
        return
    for table in before.values():
        for sql in drop_triggers(table):
            plan.run(sql)
    for table in plan.tables.values():
        for sql in create_triggers(table, plan.tables):
            plan.run(sql)
