"""The device library: a local SQLite database kept in step with Postgres.

    async with open_db("todo.db", "ws://localhost:5133") as db:
        await db.connect(token)
        items = await db.sync("items", "this.owner = 'ann'", include=[Include("comments", on="item_id")])
        await items.synced()
        await db.execute("UPDATE items SET done = 1 WHERE id = ?", (item_id,))
        async with db.sql("SELECT * FROM items WHERE NOT done").live() as results:
            async for rows in results:
                ...

Everything an application needs is named here; modules below are the library's own.
"""

from __future__ import annotations

from syncline.client.adapters import ADAPTERS, Adapters
from syncline.client.connectivity import Status
from syncline.client.database import Database, Shape, open_db
from syncline.client.durability import Durability
from syncline.client.errors import (
    AuthRefused,
    DatabaseInUse,
    DatabaseUnusable,
    SequenceExhausted,
    ServerRefused,
    ShapeRefused,
    SynclineError,
    TransactionRolledBack,
    UsageError,
    WriteRejected,
)
from syncline.client.live import Query, Results
from syncline.client.rejections import RejectedChange, Rejection
from syncline.client.satellite import Token
from syncline.client.shape_spec import Include
from syncline.client.shape_status import ShapeStatus
from syncline.client.transaction import Transaction
from syncline.client.typed_values import Interval, Json, Multirange, Range

__all__ = [
    "ADAPTERS",
    "Adapters",
    "AuthRefused",
    "Database",
    "DatabaseInUse",
    "DatabaseUnusable",
    "Durability",
    "Include",
    "Interval",
    "Json",
    "Multirange",
    "Query",
    "Range",
    "RejectedChange",
    "Rejection",
    "Results",
    "SequenceExhausted",
    "ServerRefused",
    "Shape",
    "ShapeRefused",
    "ShapeStatus",
    "Status",
    "SynclineError",
    "Token",
    "Transaction",
    "TransactionRolledBack",
    "UsageError",
    "WriteRejected",
    "open_db",
]
