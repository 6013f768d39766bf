"""Applying transactions in one commit leaves what applying them one after another does, whatever is pending here."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.satellite_peer import ITEMS, ITEMS_MIGRATION, item

from syncline.client.live import Changes
from syncline.client.replica import Replica, load_replica
from syncline.client.store import Store, open_store
from syncline.proto.values import Change, Delete, Gone, Insert, Transaction, Update

KEYS = st.sampled_from(["a", "b"])
LOCAL = st.lists(
    st.sampled_from(
        [
            "INSERT OR REPLACE INTO items (id, title) VALUES ('a', 'mine')",
            "UPDATE items SET title = title || '+', rank = 1",
            "DELETE FROM items WHERE id = 'a'",
            "INSERT OR IGNORE INTO items (id, rank) VALUES ('b', 2)",
        ]
    ),
    max_size=4,
)
# An incoming transaction: whose (number of a local one, or None for another device's), its time and its changes.
CHANGES = st.lists(st.tuples(st.sampled_from(["insert", "update", "delete", "gone"]), KEYS), max_size=3)
INCOMING = st.lists(st.tuples(st.none() | st.integers(0, 3), st.integers(90, 110), CHANGES), min_size=1, max_size=6)
TABLES = ("items", "_syncline_oplog", "_syncline_shadow", "_syncline_leaving", "_syncline_state")


def change(kind: str, key: str, tag: str) -> Change:
    row = item(key, f"theirs {tag}")
    match kind:
        case "insert":
            return Insert(ITEMS.id, row, (tag,))
        case "update":
            return Update(ITEMS.id, row, item(key, "before"), (tag, "old@1"))
        case "delete":
            return Delete(ITEMS.id, row, ())
    return Gone(ITEMS.id, ITEMS.key_row((key.encode(),)))


def transactions(
    incoming: Sequence[tuple[int | None, int, list[tuple[str, str]]]], stamps: list[int]
) -> list[Transaction]:
    made: list[Transaction] = []
    for number, (own, at_ms, changes) in enumerate(incoming, 1):
        mine = own is not None and own < len(stamps)
        origin, ms = ("me", stamps[own]) if mine and own is not None else ("other", at_ms)
        tagged = tuple(change(kind, key, f"{origin}@{ms}") for kind, key in changes)
        made.append(Transaction(ms, str(number).encode(), tagged, origin, number))
    return made


async def written(store: Store, local: Sequence[str]) -> tuple[Replica, list[int]]:
    """A replica with these local transactions, and their timestamps."""
    await store.write(lambda connection: connection.execute("UPDATE _syncline_state SET client_id = 'me'"))
    replica = await load_replica(store, Changes(), lambda: 100)
    await replica.migrate([ITEMS_MIGRATION])
    stamps: list[int] = []
    for sql in local:
        stamped = await store.write(lambda connection, sql=sql: (connection.execute(sql), replica.stamp(connection))[1])
        replica.committed(stamped, frozenset())
        stamps += [stamped.commit_ms] if stamped is not None else []
    return replica, stamps


async def outcome(path: Path, local: Sequence[str], incoming: Sequence[object], *, together: bool) -> list[object]:
    async with open_store(path) as store:
        replica, stamps = await written(store, local)
        every = transactions(incoming, stamps)  # type: ignore[arg-type]
        for batch in [every] if together else [[transaction] for transaction in every]:
            await replica.apply_transactions(batch, {ITEMS.id: ITEMS})
        held = [
            sorted(map(repr, await store.read(lambda c, t=table: [tuple(r) for r in c.execute(f"SELECT * FROM {t}")])))
            for table in TABLES
        ]
        return [*held, replica.lsn, replica.pending_writes]


@settings(max_examples=60, deadline=None)
@given(LOCAL, INCOMING)
def test_one_commit_is_worth_as_many(local: list[str], incoming: list[object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one, many = (
            asyncio.run(outcome(Path(folder) / f"{together}.db", local, incoming, together=together))
            for together in (True, False)
        )
    assert one == many
