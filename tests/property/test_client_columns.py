"""Rows that come in parts are those that come whole, and each part changes its own columns alone."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_client_shared_commit import INCOMING, LOCAL, TABLES, transactions, written
from tests.unit.client.satellite_peer import ITEMS, item

from syncline.client.store import Store, open_store
from syncline.proto.values import Change, Delete, Gone, Insert, Relation, Row, Transaction, Update


def part(relation_id: int, *columns: str) -> Relation:
    return Relation(relation_id, "public", "items", tuple(c for c in ITEMS.columns if c.name in ("id", *columns)))


TITLE, REST, RANK, KEY = part(1, "title"), part(2, "rank", "done"), part(3, "title", "rank"), part(4)
RELATIONS = {relation.id: relation for relation in (ITEMS, TITLE, REST, RANK, KEY)}


def narrow(row: Row, relation: Relation) -> Row:
    return tuple(row[ITEMS.names.index(name)] for name in relation.names)


def parts_of(change: Change, relations: Sequence[Relation]) -> list[Change]:
    match change:
        case Insert(row=row):
            return [replace(change, relation_id=r.id, row=narrow(row, r)) for r in relations]
        case Update(row=row, old_row=old):
            assert old is not None
            return [Update(r.id, narrow(row, r), narrow(old, r), change.tags) for r in relations]
        case Delete(old_row=row):
            return [Delete(r.id, narrow(row, r)) for r in relations]
        case Gone(row=row):
            return [Gone(relations[0].id, narrow(row, relations[0]))]
    raise AssertionError(change)


async def held(store: Store, tables: Sequence[str] = TABLES) -> list[list[str]]:
    return [
        sorted(map(repr, await store.read(lambda c, t=table: [tuple(r) for r in c.execute(f"SELECT * FROM {t}")])))
        for table in tables
    ]


async def outcome(path: Path, local: Sequence[str], incoming: Sequence[object], parts: Sequence[Relation]) -> object:
    async with open_store(path) as store:
        replica, stamps = await written(store, local)
        for transaction in transactions(incoming, stamps):  # type: ignore[arg-type]
            changes = tuple(one for change in transaction.changes for one in parts_of(change, parts))
            await replica.apply_transactions([replace(transaction, changes=changes)], RELATIONS)
        return await held(store)


@settings(max_examples=40, deadline=None)
@given(LOCAL, INCOMING, st.permutations([TITLE, REST]))
def test_what_comes_in_parts_is_what_comes_whole_whatever_is_pending(
    local: list[str], incoming: list[object], parts: list[Relation]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, in_parts = (
            asyncio.run(outcome(Path(folder) / f"{len(relations)}.db", local, incoming, relations))
            for relations in ([ITEMS], parts)
        )
    assert in_parts == whole


# Of which row, under which relation, what; the number makes the values.
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.sampled_from([ITEMS, TITLE, REST, RANK, KEY]),
        st.sampled_from(["insert", "insert", "update", "forget", "delete", "gone", "deliver"]),
        st.integers(1, 9),
    ),
    max_size=12,
)


async def applied(path: Path, operations: Sequence[tuple[str, Relation, str, int]]) -> None:
    model: dict[str, dict[str, object]] = {}
    tags: dict[str, str] = {}
    async with open_store(path) as store:
        replica, _ = await written(store, [])
        for place, (key, relation, kind, number) in enumerate(operations):
            lsn = str(place).encode()
            values = {"id": key, "title": f"t{number}", "rank": number, "done": number % 2}
            row = narrow(item(key, f"t{number}", number, bool(number % 2)), relation)
            tag = f"o@{place + 1}"
            change: Change = Insert(relation.id, row, (tag,))
            if kind in ("delete", "gone"):
                model.pop(key, None)
                change = Delete(relation.id, row) if kind == "delete" else Gone(relation.id, row)
            elif kind == "forget":
                if relation is ITEMS:
                    continue
                change = Update(relation.id, relation.key_row((key.encode(),)), None)
                if key in model:
                    model[key].update({name: None for name in relation.names if name != "id"})
            else:
                model.setdefault(key, dict.fromkeys(ITEMS.names)).update(
                    {name: values[name] for name in relation.names}
                )
                tags[key] = tag
                if kind == "update":
                    change = Update(relation.id, row, row, (tag,))
            if kind == "deliver":
                assert isinstance(change, Insert)
                replica.begin_delivery()
                await replica.stage([change], RELATIONS)
                await replica.apply_shape(None, lsn)
            else:
                await replica.apply_transactions([Transaction(1, lsn, (change,), "o", place + 1)], RELATIONS)
        rows, shadow = await held(store, ("items", "_syncline_shadow"))
    assert rows == sorted(repr(tuple(row.values())) for row in model.values())
    assert shadow == sorted(repr(("items", f'["{key}"]', f'["{tags[key]}"]')) for key in model)


@settings(max_examples=80, deadline=None)
@given(OPERATIONS)
def test_a_row_has_the_columns_that_have_come(operations: list[tuple[str, Relation, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(applied(Path(folder) / "app.db", operations))
