"""The table of this device's subscriptions, written inside an SQLite transaction. Their meaning is ``shapes``'s."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace

from syncline.client.shapes import ShapeState, Subscription


def move(
    connection: sqlite3.Connection, subscription: Subscription, arrows: Mapping[ShapeState, ShapeState]
) -> ShapeState | None:
    """Move a subscription along ``arrows`` from the state it is in by now; None if it has been forgotten."""
    row = connection.execute(
        "SELECT state FROM _syncline_subscriptions WHERE position = ?", (subscription.position,)
    ).fetchone()
    if row is None:
        return None
    state = arrows.get(ShapeState(row[0]), ShapeState(row[0]))
    store(connection, [replace(subscription, state=state)])
    return state


def store(connection: sqlite3.Connection, subscriptions: Iterable[Subscription]) -> None:
    connection.executemany(
        "UPDATE _syncline_subscriptions SET subscription_id = ?, state = ? WHERE position = ?",
        [(s.subscription_id, s.state.value, s.position) for s in subscriptions],
    )


def forget(connection: sqlite3.Connection, positions: Iterable[int]) -> None:
    connection.executemany(
        "DELETE FROM _syncline_subscriptions WHERE position = ?", [(position,) for position in positions]
    )
