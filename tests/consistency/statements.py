"""What a transaction does to rows that come and go, read from its statements as a history tells them. Pure.

Whether they did it is another question: each statement looks for itself whether it applies (``workload``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from tests.consistency.schema import KEY_SEPARATOR

HOUSE = "h"


@dataclass(frozen=True, slots=True)
class Put:
    """Writes ``value`` to the row, which is unlike all others, and makes it refer to ``parent``; None: says nothing of
    that. ``whole``: only where there is no row, so it says all."""

    table: str
    key: str
    value: str
    parent: str | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Removal:
    table: str
    key: str


Effect: TypeAlias = Put | Removal

# Of each kind of statement, where among its arguments the key is, the value, and the parent's key.
_KIDS = "cascades|nullings|restricts"
_PUTS: tuple[tuple[re.Pattern[str], int, int, int | None], ...] = (
    (re.compile(r"INSERT INTO (fleeting|parents|nodes|lefts|rights) .* VALUES "), 0, 1, None),
    (re.compile(r"INSERT INTO (rooms) "), 1, 2, None),
    (re.compile(rf"INSERT INTO ({_KIDS}|nodes|beds) .* SELECT "), 0, 1, 2),
    (re.compile(r"UPDATE (fleeting|lefts|rights) SET "), 1, 0, None),
    (re.compile(rf"UPDATE ({_KIDS}) SET "), 2, 1, 0),
)
_REMOVAL = re.compile(rf"DELETE FROM (fleeting|lefts|rights|parents|{_KIDS}|nodes|rooms|beds) ")


def effects(told: Iterable[str]) -> Iterator[Effect]:
    """See ``process.told``."""
    for statement in told:
        sql, _, rest = statement.rpartition(" [")
        removal = _REMOVAL.match(sql)
        if removal is not None:
            yield Removal(removal[1], _key(removal[1], _arguments(rest)[-1]))
            continue
        for pattern, key, value, parent in _PUTS:
            put = pattern.match(sql)
            if put is not None:
                table, arguments = put[1], _arguments(rest)
                above = None if parent is None else _key("rooms" if table == "beds" else table, arguments[parent])
                is_whole = parent is not None and sql.startswith("INSERT")
                yield Put(table, _key(table, arguments[key]), arguments[value], above, is_whole)
                break


def _arguments(rest: str) -> list[str]:
    """There are no quotes in them."""
    return [str(argument) for argument in json.loads(f"[{rest}".replace("'", '"'))]


def _key(table: str, argument: str) -> str:
    """As in a snapshot."""
    return f"{HOUSE}{KEY_SEPARATOR}{argument}" if table == "rooms" else argument
