"""What must hold in every snapshot that anybody can take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import Cells, History, Rows, Snapshot
from tests.consistency.schema import KEY_SEPARATOR, REFERENCES, Reference

# What the npm client does not keep while a write of its own is on its way: the parent it has deleted, of a child by
# direct SQL (which says nothing about its parent, as one by a device does); what the parent of its new child refers to;
# a parent with a key of several columns. It shows the child without, until it hears of that write.
FORGETTING = "npm"
FORGOTTEN = ("nodes", "beds")


def atomic_visibility(evidence: Evidence) -> list[Anomaly]:
    """Of a transaction all is seen, or nothing: both rows of a pair, the author's counter and journal."""
    return _in_each_snapshot(evidence.histories, "atomic visibility", _halves)


def no_dangling_reference(evidence: Evidence) -> list[Anomaly]:
    """What a row refers to is there."""
    found = []
    for history in evidence.histories:
        wrong = _dangling_of_npm if history.kind == FORGETTING else _dangling
        found += _in_each_snapshot([history], "no dangling reference", wrong)
    return found


def _in_each_snapshot(
    histories: Iterable[History], check: str, wrong: Callable[[Snapshot], Iterator[str]]
) -> list[Anomaly]:
    found = []
    for history in histories:
        known: frozenset[str] = frozenset()
        for read in history.reads():
            now = frozenset(wrong(read.rows))
            # Once for as long as it lasts.
            found += [Anomaly(check, f"{history.party} at {read.at:.3f} saw {what}") for what in sorted(now - known)]
            known = now
    return found


def _halves(rows: Snapshot) -> Iterator[str]:
    lefts, rights = rows.get("lefts", {}), rows.get("rights", {})
    if lefts != rights:
        for key in sorted(lefts.keys() | rights.keys()):
            if lefts.get(key) != rights.get(key):
                yield f"of the pair {key} {lefts.get(key)} and {rights.get(key)}"
    journal = rows.get("journal", {})
    for party, (value,) in rows.get("counters", {}).items():
        newest = journal.get(party, (0, 0))[1]
        if newest != value:
            yield f"the counter of {party} at {value} and its journal at {newest}"


def _dangling(rows: Snapshot) -> Iterator[str]:
    for reference in REFERENCES:
        yield from _dangling_by(reference, rows.get(reference.child, {}), rows.get(reference.parent, {}))


def _dangling_of_npm(rows: Snapshot) -> Iterator[str]:
    for reference in REFERENCES:
        if reference.child in FORGOTTEN:
            continue
        children = {key: row for key, row in rows.get(reference.child, {}).items() if not _is_of_sql(row)}
        yield from _dangling_by(reference, children, rows.get(reference.parent, {}))


def _is_of_sql(row: Cells) -> bool:
    """By the value that every write of a child puts into its last column."""
    return str(row[-1]).startswith("sql")


def _dangling_by(reference: Reference, children: Rows, parents: Rows) -> Iterator[str]:
    for key, row in children.items():
        parts = [row[place] for place in reference.places]
        if None not in parts and KEY_SEPARATOR.join(map(str, parts)) not in parents:
            yield f"{reference.child} {key}, which refers to {reference.parent} {parts}, which is not there"
