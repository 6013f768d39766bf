"""The SQL that applies device writes to rows that refer to one another agrees with the model of it that the simulator
has, in which the rules of ``syncline.proto.merge`` decide on each row."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.write_scene import Scene, Standing, standing, written
from tests.sim.schema import DESCRIPTIONS, JOURNAL, REFERRING, RELATIONS, TABLES, TIED, RowKey
from tests.sim.work import Mend, Violation, Work

from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.proto.merge import RowState
from syncline.proto.tags import Tag, format_tags, parse_tags
from syncline.proto.values import Cell

NAMES: Final = tuple(name for name, oid in TABLES.items() if oid != JOURNAL)
PARENTS_FIRST: Final = ("projects", "issues", "folders", "places", "visits", "comments")
DEVICES: Final = ("a", "b", "c")
EXAMPLES_MAX: Final = 150
KEYS_MAX: Final = 3  # of each table, so that rows meet
LATE_MS: Final = 1 << 40
POSITIONS: Final = "123"

_examples = itertools.count(1)


def _ddl(description: dict[str, Any]) -> str:
    columns = [f"{column['name']} {column['type']}" for column in description["columns"]]
    key = sorted((column["pk"], column["name"]) for column in description["columns"] if column["pk"])
    constraints = [f"PRIMARY KEY ({', '.join(name for _, name in key)})"] + [
        f"FOREIGN KEY ({', '.join(fk['columns'])}) REFERENCES {fk['table']} ({', '.join(fk['ref_columns'])}) "
        f"ON DELETE {fk['on_delete']}"
        for fk in description["fks"]
    ]
    # What is tied is so by a constraint, which every row meets.
    constraints += [f"CHECK (num_nulls({', '.join(names)}) >= 0)" for names in description["ties"]]
    return f"CREATE TABLE {description['table']} ({', '.join(columns + constraints)});"


SCHEMA: Final = "".join(_ddl(one) for name in PARENTS_FIRST for one in DESCRIPTIONS if one["table"] == name)


@dataclass(frozen=True)
class Operation:
    """On the row ``number`` of ``table``. ``cells``: a digit for each column; in one that is of a foreign key it is the
    number of the row referred to, and none with 0."""

    kind: str
    table: str
    number: int
    cells: tuple[int, ...]
    modified: tuple[bool, ...]
    observed: frozenset[Tag]


@dataclass(frozen=True)
class DeviceTransaction:
    device: str
    ms: int
    operations: tuple[Operation, ...]


History: TypeAlias = list[DeviceTransaction]

tags = st.builds(Tag, st.sampled_from(DEVICES), st.integers(1, 9))
everything = st.integers(1, 9).map(lambda ms: frozenset(Tag(origin, ms) for origin in DEVICES))
operations = st.builds(
    Operation,
    st.sampled_from("IIUUDDC"),
    st.sampled_from(NAMES),
    st.integers(1, KEYS_MAX),
    st.tuples(*[st.integers(0, KEYS_MAX)] * 5),
    st.tuples(*[st.booleans()] * 5),
    st.frozensets(tags, max_size=3) | everything,
)
histories = st.lists(
    st.builds(
        DeviceTransaction,
        st.sampled_from(DEVICES),
        st.integers(1, 9),
        # A row once: the model looks at references at the end only, Postgres after each operation.
        st.lists(operations, min_size=1, max_size=6, unique_by=lambda op: (op.table, op.number)).map(tuple),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def merging(postgres: EmbeddedPostgres) -> Iterator[Standing]:
    with standing(postgres, "write_references", SCHEMA, *PARENTS_FIRST) as opened:
        yield opened


def _row(example: int, op: Operation) -> list[str | None]:
    """Keys begin with the number of the example, so that examples do not meet. Rows of one table refer to those of
    smaller numbers: in a circle Postgres takes none, as it does not from SQL, and the model looks at the end only."""
    relation = RELATIONS[TABLES[op.table]]
    refers = {column for fk in REFERRING[relation.id] for column in fk.columns}
    upwards = {column for fk in REFERRING[relation.id] if fk.parent == relation.id for column in fk.columns}
    row: list[str | None] = []
    for place, column in enumerate(relation.columns):
        number = op.number if place in relation.key_indexes else op.cells[place]
        if place in upwards:
            number %= op.number
        if place in refers and number == 0:
            row.append(None)
        elif column.type_name == "int4":
            row.append(str(number))
        elif place in relation.key_indexes or place in refers:
            row.append(f"{example}-{1 if column.name == 'site' else number}")
        else:
            row.append(f"text {number}")
    return row


def _element(example: int, op: Operation) -> dict[str, Any]:
    relation = RELATIONS[TABLES[op.table]]
    row = _row(example, op)
    width = range(len(relation.columns))
    if op.kind == "C":
        row = [cell if place in relation.key_indexes else None for place, cell in enumerate(row)]
    modified = [op.kind == "I" or (op.modified[i] and i not in relation.key_indexes) for i in width]
    return {
        "rel": relation.id,
        "op": op.kind,
        "row": row,
        "modified": modified if op.kind in "IU" else [],
        "tags": format_tags(op.observed),
    }


def _expected(transactions: Iterable[dict[str, Any]]) -> tuple[list[str], dict[RowKey, RowState]]:
    rows: dict[RowKey, RowState] = {}
    statuses = []
    for transaction in transactions:
        work = Work(rows, LATE_MS)
        status = "applied"
        try:
            work.carry_out(transaction["ops"], transaction["client"], transaction["ms"])
        except (Mend, Violation):
            work = Work(rows, LATE_MS)
            try:
                work.mend(transaction["ops"], transaction["client"], transaction["ms"])
            except Violation:
                status, work = "rejected", Work(rows, LATE_MS)
        rows.update(work.rows)
        statuses.append(status)
    return statuses, rows


async def _played(s: Scene, transactions: Iterable[dict[str, Any]]) -> list[str]:
    """Rejections are forgotten at once: the model does not know what those of the published client have observed."""
    await s.connection.execute("DELETE FROM electric.clients")
    relids = {oid: s.relids[name] for name, oid in TABLES.items() if oid != JOURNAL}
    statuses = []
    for one in transactions:
        statuses += await s.statuses({**one, "ops": [{**op, "rel": relids[op["rel"]]} for op in one["ops"]]})
        await s.connection.execute("DELETE FROM electric.rejections")
    return statuses


async def _stored(s: Scene, key: RowKey) -> RowState:
    relation = RELATIONS[key[0]]
    names = [relation.columns[index].name for index in relation.key_indexes]
    texts = [(cell or b"").decode() for cell in key[1]]
    where = " AND ".join(f"{name}::text = ${place}" for place, name in enumerate(names, 1))
    columns = ", ".join(f"{column.name}::text" for column in relation.columns)
    row = await s.connection.fetchrow(f"SELECT {columns} FROM {relation.table} WHERE {where}", *texts)
    place = s.relids[relation.table], "[" + ",".join(f'"{text}"' for text in texts) + "]"
    shadow = await s.connection.fetchrow(
        "SELECT tags, column_tags FROM electric.shadow WHERE relid = $1 AND key = $2", *place
    )
    grave = await s.connection.fetchval('SELECT "row" FROM electric.tombstones WHERE relid = $1 AND key = $2', *place)
    return RowState(
        None if row is None else _cells(row),
        parse_tags(shadow["tags"] if shadow else ()),
        tuple(next(iter(parse_tags([tag]))) for tag in (shadow["column_tags"] if shadow else ())),
        None if grave is None else _cells(grave),
    )


def _cells(texts: Iterable[str | None]) -> tuple[Cell, ...]:
    return tuple(None if text is None else text.encode() for text in texts)


def _same(expected: RowState, stored: RowState, key: RowKey) -> None:
    """Of columns that are tied only the newest tag counts."""
    assert (stored.row, stored.tags, stored.tombstone) == (expected.row, expected.tags, expected.tombstone), key
    width, tied = len(RELATIONS[key[0]].columns), TIED[key[0]]
    for register in (*tied, *((column,) for column in range(width) if column not in itertools.chain(*tied))):
        assert max(map(stored.column_tag, register)) == max(map(expected.column_tag, register)), key


def test_any_history_of_rows_that_refer_to_one_another_ends_as_the_model_says(merging: Standing) -> None:
    @settings(max_examples=EXAMPLES_MAX)
    @given(history=histories)
    def agree(history: History) -> None:
        example = next(_examples)
        transactions = [
            written(one.device, one.ms, *(_element(example, op) for op in one.operations), lsn=number)
            for number, one in enumerate(history, 1)
        ]
        statuses, rows = _expected(transactions)

        async def play() -> None:
            assert await _played(merging.scene, transactions) == statuses
            for key, state in rows.items():
                _same(state, await _stored(merging.scene, key), key)

        merging.runner.run(play())

    agree()
