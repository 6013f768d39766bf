"""What a party wrote, and what it saw, in its order: a line of JSON an event. Pure.

    begin  a transaction is about to be written, with what it is to write
    end    its outcome; without one (the party was killed) the next start finds out, and writes it down then
    read   everything that one snapshot showed, as its difference to the read before
    start  the process has begun, on the file there was
    anew   the npm client had given up all its rows and has fetched them again, so a new session begins

Committed transactions of a party are numbered without gaps from 1. Each writes a row with its author and number
to the journal, and its number into the party's own counter. So the counters in a snapshot are a vector clock: whose
transactions it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Value: TypeAlias = str | int | None
Cells: TypeAlias = tuple[Value, ...]
Rows: TypeAlias = Mapping[str, Cells]
"""The rows of a table by their keys."""
Snapshot: TypeAlias = Mapping[str, Rows]
Vector: TypeAlias = Mapping[str, int]
"""Party -> its newest transaction."""

COMMITTED, FAILED = "committed", "failed"


@dataclass(frozen=True, slots=True)
class Write:
    """A value put into one column of a row."""

    table: str
    key: str
    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Began:
    """``at``: seconds since the epoch, by the true clock, here and below. ``told``: its statements, to be read."""

    at: float
    number: int
    writes: tuple[Write, ...] = ()
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """``saw``: the counters as the transaction found them; None where nobody knows. It found its own counter at the
    number before."""

    at: float
    number: int
    outcome: str
    saw: Vector | None = None


@dataclass(frozen=True, slots=True)
class Read:
    at: float
    rows: Snapshot


@dataclass(frozen=True, slots=True)
class Started:
    at: float


@dataclass(frozen=True, slots=True)
class Anew:
    """All that it held had been given up, and has been fetched again."""

    at: float


Event: TypeAlias = Began | Ended | Read | Started | Anew


class Encoder:
    """Events of one process -> lines."""

    def __init__(self) -> None:
        self._last: Snapshot | None = None

    def line(self, event: Event) -> str:
        return json.dumps(self._plain(event), separators=(",", ":"))

    def _plain(self, event: Event) -> dict[str, Any]:
        match event:
            case Began(at, number, writes, told):
                plain = [[write.table, write.key, write.column, write.value] for write in writes]
                return {"e": "begin", "at": at, "n": number, "w": plain, "told": told}
            case Ended(at, number, outcome, saw):
                return {"e": "end", "at": at, "n": number, "o": outcome, "saw": None if saw is None else dict(saw)}
            case Read(at, rows):
                before, self._last = self._last, rows
                return {"e": "read", "at": at, "full": before is None, "d": _difference(before or {}, rows)}
            case Started(at):
                return {"e": "start", "at": at}
            case Anew(at):
                return {"e": "anew", "at": at}


def _difference(before: Snapshot, after: Snapshot) -> dict[str, dict[str, Sequence[Value] | None]]:
    changed: dict[str, dict[str, Sequence[Value] | None]] = {}
    for table in before.keys() | after.keys():
        old, new = before.get(table, {}), after.get(table, {})
        if old == new:
            continue
        rows: dict[str, Sequence[Value] | None] = {key: row for key, row in new.items() if old.get(key) != row}
        changed[table] = rows | dict.fromkeys(old.keys() - new.keys())
    return changed


class History:
    """The events of a party, as often as wanted. ``kind``: python, npm, sql or raw."""

    def __init__(self, party: str, kind: str, lines: Iterable[str]) -> None:
        self.party = party
        self.kind = kind
        # The last line of a killed process may be cut short.
        self._plain = [json.loads(line) for line in lines if line.endswith(("}", "}\n"))]

    def __iter__(self) -> Iterator[Event]:
        rows: Snapshot = {}
        for plain in self._plain:
            match plain["e"]:
                case "begin":
                    yield Began(
                        plain["at"], plain["n"], tuple(Write(*write) for write in plain["w"]), tuple(plain["told"])
                    )
                case "end":
                    yield Ended(plain["at"], plain["n"], plain["o"], plain["saw"])
                case "start":
                    yield Started(plain["at"])
                case "anew":
                    yield Anew(plain["at"])
                case _:
                    rows = _patched({} if plain["full"] else rows, plain["d"])
                    yield Read(plain["at"], rows)

    @property
    def is_empty(self) -> bool:
        return not self._plain

    def reads(self) -> Iterator[Read]:
        return (event for event in self if isinstance(event, Read))

    def open_number(self) -> int | None:
        """The transaction of which nobody knows whether it was committed."""
        number = None
        for plain in self._plain:
            number = {"begin": plain.get("n"), "end": None}.get(plain["e"], number)
        return number

    def committed(self) -> dict[int, tuple[Began, Ended]]:
        """What is known to have been committed, by number."""
        found: dict[int, tuple[Began, Ended]] = {}
        began: Began | None = None
        for event in self:
            if isinstance(event, Began):
                began = event
            elif isinstance(event, Ended) and event.outcome == COMMITTED and began is not None:
                found[event.number] = (began, event)
        return found


def _patched(rows: Snapshot, difference: Mapping[str, Mapping[str, Sequence[Value] | None]]) -> Snapshot:
    """Tables that do not change are shared with the snapshot before."""
    after = dict(rows)
    for table, changes in difference.items():
        changed = dict(rows.get(table, {}))
        for key, row in changes.items():
            if row is None:
                changed.pop(key, None)
            else:
                changed[key] = tuple(row)
        after[table] = changed
    return after


def history(party: str, *events: Event, kind: str = "python") -> History:
    """One made of events."""
    encoder = Encoder()
    return History(party, kind, [encoder.line(event) for event in events])


def vector(rows: Snapshot) -> dict[str, int]:
    """Whose transactions the snapshot has."""
    return {party: value for party, (value,) in rows.get("counters", {}).items() if isinstance(value, int)}
