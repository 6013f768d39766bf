"""The session guarantees: what each reader may rely on from one snapshot to the next. Pure.

The counters of a snapshot say whose transactions it has (see ``histories``), so each guarantee is about vectors.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import COMMITTED, Anew, Began, Ended, History, Read, Snapshot, Vector, vector
from tests.consistency.schema import COLUMNS, SLOTS

# The npm client puts the rows of a delivery in place of its own, whatever it has written to them and not heard of yet.
HIDING = "npm"


def read_your_writes(evidence: Evidence) -> list[Anomaly]:
    """A party sees what it has committed, from the commit on."""
    found = []
    for history in evidence.histories:
        written = 0
        for event in history:
            if isinstance(event, Ended) and event.outcome == COMMITTED:
                if (history.party, written) not in evidence.rejected:
                    found += _saw_less(history, event, written)
                written = event.number
            elif isinstance(event, Anew):
                written = 0
            elif isinstance(event, Read):
                seen = vector(event.rows).get(history.party, 0)
                if seen < written and (history.party, written) not in evidence.rejected:
                    found.append(
                        Anomaly(
                            "read your writes",
                            f"{history.party} had committed {written} and saw its counter at {seen} at {event.at:.3f}",
                        )
                    )
                    written = seen  # said once
    return found


def _saw_less(history: History, event: Ended, written: int) -> list[Anomaly]:
    if event.saw is None or event.saw.get(history.party, 0) >= written:
        return []
    seen = event.saw.get(history.party, 0)
    text = f"{history.party} had committed {written} and found its counter at {seen} in transaction {event.number}"
    return [Anomaly("read your writes", text)]


def no_older_own_value(evidence: Evidence) -> list[Anomaly]:
    """Of a column that it has written a party sees its last value or somebody else's, never one of its own before."""
    return [
        anomaly
        for history in evidence.histories
        if history.kind != HIDING
        for anomaly in older_own_values(history, evidence)
    ]


def older_own_values(history: History, evidence: Evidence) -> list[Anomaly]:
    found: dict[str, Anomaly] = {}
    last: dict[tuple[str, str, str], int] = {}
    began: Began | None = None
    for event in history:
        match event:
            case Began():
                began = event
            case Ended(number=number, outcome=outcome) if began is not None and outcome == COMMITTED:
                if (history.party, number) not in evidence.rejected:
                    last |= {(write.table, write.key, write.column): number for write in began.writes}
            case Anew():
                last = {}
            case Read(at=at, rows=rows):
                for cell, number in last.items():
                    value = _value(rows, cell)
                    author, _, rest = value.partition(":")
                    if author == history.party and int(rest.partition(".")[0]) < number:
                        text = f"{history.party} had written {' '.join(cell)} by {number} and saw {value}"
                        found.setdefault(text, Anomaly("read your writes", f"{text} at {at:.3f}"))
            case _:
                pass
    return list(found.values())


def _value(rows: Snapshot, cell: tuple[str, str, str]) -> str:
    """What a register holds; nothing for what is none."""
    table, key, column = cell
    row = rows.get(table, {}).get(key)
    return str(row[COLUMNS.index(column)]) if row is not None and column in COLUMNS else ""


def monotonic_reads(evidence: Evidence) -> list[Anomaly]:
    """Nobody goes back in time: no counter falls, no member of the set that only grows is gone."""
    found = []
    for history in evidence.histories:
        high: dict[str, int] = {}
        before: Read | None = None
        for read in history:
            if isinstance(read, Anew):
                high, before = {}, None
            if not isinstance(read, Read):
                continue
            for party, value in vector(read.rows).items():
                if value < high.get(party, 0) and (party, high[party]) not in evidence.rejected:
                    text = f"{history.party} saw the counter of {party} fall from {high[party]} to {value}"
                    found.append(Anomaly("monotonic reads", f"{text} at {read.at:.3f}"))
                high[party] = value
            if before is not None:
                found += _gone(history, before, read)
            before = read
    return found


def _gone(history: History, before: Read, read: Read) -> list[Anomaly]:
    then, now = before.rows.get("members", {}), read.rows.get("members", {})
    if then is now:
        return []
    return [
        Anomaly("monotonic reads", f"{history.party} saw {key} go from the members at {read.at:.3f}")
        for key in sorted(then.keys() - now.keys())
    ]


def monotonic_writes(evidence: Evidence) -> list[Anomaly]:
    """Of each author everybody sees a beginning: all transactions before one that is seen."""
    found = []
    refusals: dict[str, list[int]] = {}
    for party, number in sorted(evidence.rejected):
        refusals.setdefault(party, []).append(number)
    for history in evidence.histories:
        known: set[str] = set()
        for read in history.reads():
            for party, row in read.rows.get("journal", {}).items():
                count, newest, oldest = (value for value in row if isinstance(value, int))
                if party in known:
                    continue
                # What has been refused has left what was in its place, or nothing.
                missing = bisect_right(refusals.get(party, []), newest)
                kept = min(newest, SLOTS)
                if not (kept - missing <= count <= kept and (missing or oldest == newest - kept + 1)):
                    known.add(party)
                    text = f"{history.party} saw {count} journal rows of {party}, from {oldest} to {newest}"
                    found.append(Anomaly("monotonic writes", f"{text}, at {read.at:.3f}"))
    return found


def writes_follow_reads(evidence: Evidence) -> list[Anomaly]:
    """Who sees a transaction sees all that its author had seen."""
    saw = {history.party: _seen_by(history, evidence) for history in evidence.histories}
    found = []
    for history in evidence.histories:
        known: set[tuple[str, int, str]] = set()
        for read in history.reads():
            seen = vector(read.rows)
            for author, number in seen.items():
                if author == history.party:
                    continue  # what is its own is seen from the start
                for other, least in saw.get(author, {}).get(number, {}).items():
                    if other != author and seen.get(other, 0) < least and (author, number, other) not in known:
                        known.add((author, number, other))
                        text = f"{history.party} saw {number} of {author}, who had seen {least} of {other}"
                        found.append(
                            Anomaly("writes follow reads", f"{text}, and {seen.get(other, 0)} at {read.at:.3f}")
                        )
    return found


def _seen_by(history: History, evidence: Evidence) -> Mapping[int, Vector]:
    """By number, what the party had seen when it wrote: also by a snapshot before."""
    found: dict[int, Vector] = {}
    high: dict[str, int] = {}
    for event in history:
        if isinstance(event, Read):
            high = vector(event.rows)
        elif isinstance(event, Ended) and event.outcome == COMMITTED:
            seen = dict(high) if event.saw is None else {**high, **event.saw}
            found[event.number] = {
                party: value for party, value in seen.items() if (party, value) not in evidence.rejected
            }
    return found
