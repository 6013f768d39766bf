"""One order per key: no two readers see the values of a column in different orders, and nobody sees one twice. Pure.

Each reader's sequence of values is a path; all paths of a column together must have no circle. So a value that comes
back after it was overwritten, for one reader alone, is an anomaly too: a local write undone and done again, say.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TypeAlias

from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import Anew, History, Read, Value
from tests.consistency.schema import COLUMNS

Cell: TypeAlias = tuple[str, str, str]
"""Table, key, column."""
Edges: TypeAlias = dict[Value, dict[Value, str]]
"""From a value to what was seen next, and by whom."""

# Rows of these are never deleted.
TABLES = ("registers", "mixed")
# The npm client does not know when a column was written: a pending write that an incoming one has beaten shows again
# when the row comes for another column, until its echo. So of such a device its own values are left out.
FLICKERING = "npm"
# What the service has told devices of direct SQL it has written down by then.
UNABSORBED_S = 2.0


def one_order_per_key(evidence: Evidence) -> list[Anomaly]:
    edges: dict[Cell, Edges] = {}
    left_out = {f"{party}:{number}" for party, number in evidence.rejected} | untimed(evidence)
    for history in evidence.histories:
        for cell, before, after in _steps(history, left_out):
            edges.setdefault(cell, {}).setdefault(before, {}).setdefault(after, history.party)
    found = []
    for cell, steps in sorted(edges.items()):
        circle = find_circle(steps)
        if circle:
            told = ", ".join(f"{before} then {after} ({who})" for before, after, who in circle)
            found.append(Anomaly("one order per key", f"{' '.join(cell)}: {told}"))
    return found


def untimed(evidence: Evidence) -> set[str]:
    """What direct SQL wrote shortly before the slot was lost, and until there was another one. When that was nobody
    knows but the stream: a device's write that was waiting counts as later, also if it was shown as beaten."""
    return {
        f"{history.party}:{number}"
        for history in evidence.histories
        if history.kind == "sql"
        for number, (_, ended) in history.committed().items()
        if any(begin - UNABSORBED_S <= ended.at <= end for begin, end in evidence.gaps)
    }


def _steps(history: History, left_out: set[str]) -> Iterator[tuple[Cell, Value, Value]]:
    last: dict[Cell, Value] = {}
    own = f"{history.party}:" if history.kind == FLICKERING else None
    for read in history:
        if isinstance(read, Anew):
            last = {}
        if not isinstance(read, Read):
            continue
        for table in TABLES:
            for key, row in read.rows.get(table, {}).items():
                for column, value in zip(COLUMNS, row, strict=True):
                    if isinstance(value, str) and _is_left_out(value, left_out, own):
                        continue
                    cell = (table, key, column)
                    if cell in last and last[cell] != value:
                        yield cell, last[cell], value
                    last[cell] = value


def _is_left_out(value: str, left_out: set[str], own: str | None) -> bool:
    return value.partition(".")[0] in left_out or (own is not None and value.startswith(own))


def find_circle(edges: Edges) -> list[tuple[Value, Value, str]]:
    """The steps of a circle, none if there is no circle."""
    done: set[Value] = set()
    for root in edges:
        if root in done:
            continue
        path: list[Value] = [root]
        on_path = {root}
        waiting: list[Iterator[Value]] = [iter(edges[root])]
        while waiting:
            following = next(waiting[-1], _END)
            if following is _END:
                waiting.pop()
                value = path.pop()
                on_path.discard(value)
                done.add(value)
            elif following in on_path:
                circle = [*path[path.index(following) :], following]
                return [(a, b, edges[a][b]) for a, b in pairwise(circle)]
            elif following not in done:
                path.append(following)
                on_path.add(following)
                waiting.append(iter(edges.get(following, {})))
    return []


_END = "no value of a column has blanks at its end "
