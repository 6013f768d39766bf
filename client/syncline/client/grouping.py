"""Which of the things that have arrived go into SQLite together. Pure.

A commit costs the same for one row as for a thousand, and nearly all of what a small transaction costs is its commit.
So transactions that have arrived together are applied as one. That is still atomic: nobody reads half of one, and a
crash leaves all of them or none, with the position of the last. Likewise the rows of a delivery, however they were cut
into messages.

What is applied together is bounded: local writes wait meanwhile, and so does whoever waits to see the first of them.
A transaction larger than that is applied alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from syncline.proto.events import ClientEvent, GoneRows, RelationReceived, ShapeRows, TransactionReceived
from syncline.proto.values import Gone, Insert, Relation, Transaction

BATCH_TRANSACTIONS_MAX = 500
# About 20 ms of SQLite's time.
BATCH_ROWS_MAX = 2_000
# Staging disturbs nobody who reads, and local writes only for as long.
STAGE_ROWS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class TransactionBatch:
    """Consecutive transactions, at least one, to be applied in one SQLite transaction."""

    transactions: tuple[Transaction, ...]


Arrived: TypeAlias = ClientEvent | TransactionBatch


def grouped(events: Iterable[ClientEvent], relations: Mapping[int, Relation]) -> Iterator[Arrived]:
    """The events in their order, transactions in batches and neighbouring rows of a delivery joined.

    ``relations``: those known, kept up to date by whoever handles what is yielded. One that repeats what is known is
    left out: servers like to send them again, and it would only end a batch.
    """
    batch: list[Transaction] = []
    batch_rows = 0
    rows: list[Insert | Gone] = []
    rows_of: ShapeRows | GoneRows | None = None
    for event in events:
        if isinstance(event, RelationReceived) and relations.get(event.relation.id) == event.relation:
            continue
        if batch and not (
            isinstance(event, TransactionReceived)
            and len(batch) < BATCH_TRANSACTIONS_MAX
            and batch_rows + len(event.transaction.changes) <= BATCH_ROWS_MAX
        ):
            yield TransactionBatch(tuple(batch))
            batch, batch_rows = [], 0
        if rows_of is not None and not (type(event) is type(rows_of) and len(rows) < STAGE_ROWS_MAX):
            yield _joined(rows_of, rows)
            rows, rows_of = [], None
        if isinstance(event, TransactionReceived):
            batch.append(event.transaction)
            batch_rows += len(event.transaction.changes)
        elif isinstance(event, ShapeRows | GoneRows):
            rows_of = event
            rows += event.inserts if isinstance(event, ShapeRows) else event.rows
        else:
            yield event
    if batch:
        yield TransactionBatch(tuple(batch))
    if rows_of is not None:
        yield _joined(rows_of, rows)


def _joined(one: ShapeRows | GoneRows, rows: Iterable[Insert | Gone]) -> ShapeRows | GoneRows:
    """``one`` of several events, with the rows of all of them."""
    if isinstance(one, ShapeRows):
        return replace(one, inserts=tuple(row for row in rows if isinstance(row, Insert)))
    return GoneRows(tuple(row for row in rows if isinstance(row, Gone)))
