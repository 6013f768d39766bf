"""The table of this device's subscriptions, written inside an SQLite transaction. Their meaning is ``shapes``'s."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace

from syncline.client.shape_spec import ShapeSpec, spec_from_json, spec_to_json
from syncline.client.shapes import ShapeState, Subscription


def load(connection: sqlite3.Connection) -> dict[int, Subscription]:
    """All of them by position, oldest first."""
    return {
        position: Subscription(position, subscription_id, spec_from_json(shape), ShapeState(state), key)
        for position, subscription_id, shape, state, key in connection.execute(
            "SELECT position, subscription_id, shape, state, key FROM _syncline_subscriptions ORDER BY position"
        )
    }


def add(connection: sqlite3.Connection, subscription_id: str, spec: ShapeSpec, key: str | None) -> Subscription:
    """A new one, REQUESTED."""
    cursor = connection.execute(
        "INSERT INTO _syncline_subscriptions (subscription_id, shape, state, key) VALUES (?, ?, ?, ?)",
        (subscription_id, spec_to_json(spec), ShapeState.REQUESTED.value, key),
    )
    assert cursor.lastrowid is not None
    return Subscription(cursor.lastrowid, subscription_id, spec, ShapeState.REQUESTED, key)


def move(
    connection: sqlite3.Connection, subscription: Subscription, arrows: Mapping[ShapeState, ShapeState]
) -> Subscription | None:
    """Move a subscription along ``arrows`` from the state it is in by now, under the id it has by now; None if it has
    been forgotten."""
    row = connection.execute(
        "SELECT subscription_id, state FROM _syncline_subscriptions WHERE position = ?", (subscription.position,)
    ).fetchone()
    if row is None:
        return None
    subscription_id, state = row[0], ShapeState(row[1])
    moved = replace(subscription, subscription_id=subscription_id, state=arrows.get(state, state))
    store(connection, [moved])
    return moved


def store(connection: sqlite3.Connection, subscriptions: Iterable[Subscription]) -> None:
    connection.executemany(
        "UPDATE _syncline_subscriptions SET subscription_id = ?, state = ? WHERE position = ?",
        [(s.subscription_id, s.state.value, s.position) for s in subscriptions],
    )


def forget(connection: sqlite3.Connection, positions: Iterable[int]) -> None:
    connection.executemany(
        "DELETE FROM _syncline_subscriptions WHERE position = ?", [(position,) for position in positions]
    )
