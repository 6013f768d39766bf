"""What must hold in every snapshot that anybody can take. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import Rows, Snapshot
from tests.consistency.schema import KEY_SEPARATOR, REFERENCES, Reference


def atomic_visibility(evidence: Evidence) -> list[Anomaly]:
    """Of a transaction all is seen, or nothing: both rows of a pair, the author's counter and journal."""
    return _in_each_snapshot(evidence, "atomic visibility", _halves)


def no_dangling_reference(evidence: Evidence) -> list[Anomaly]:
    """What a row refers to is there."""
    return _in_each_snapshot(evidence, "no dangling reference", _dangling)


def _in_each_snapshot(evidence: Evidence, check: str, wrong: Callable[[Snapshot], Iterator[str]]) -> list[Anomaly]:
    found = []
    for history in evidence.histories:
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


def _dangling_by(reference: Reference, children: Rows, parents: Rows) -> Iterator[str]:
    for key, row in children.items():
        parts = [row[place] for place in reference.places]
        if None not in parts and KEY_SEPARATOR.join(map(str, parts)) not in parents:
            yield f"{reference.child} {key}, which refers to {reference.parent} {parts}, which is not there"
