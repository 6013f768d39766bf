"""What must hold when everything has come to rest. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import COMMITTED, Began, Ended, History, Read, Vector, vector
from tests.consistency.orders import UNABSORBED_S
from tests.consistency.schema import KEY_SEPARATOR, REFERENCES, SLOTS

SHOWN = 3
FOREIGN_KEY = "23503"
# So long after the stream is there again a device may not have heard of it: one that takes longer is wedged.
AWAY_S_MAX = 60.0
# When the batch began in which a transaction was rejected is what Postgres has noted down.
BATCH_S_MAX = 2.0

Committed: TypeAlias = Mapping[str, Mapping[int, tuple[Began, Ended]]]
"""By party and number."""


def convergence(evidence: Evidence) -> list[Anomaly]:
    """Everybody holds the rows that Postgres holds."""
    found = []
    for party, held in evidence.dumps.items():
        for table, there in evidence.postgres.items():
            here = held.get(table, {})
            if here == there:
                continue
            different = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
            shown = "; ".join(f"{key}: {here.get(key)} here, {there.get(key)} there" for key in different[:SHOWN])
            found.append(
                Anomaly("convergence", f"{party} differs from Postgres in {table}, {len(different)} rows: {shown}")
            )
    return found


def nothing_lost(evidence: Evidence) -> list[Anomaly]:
    """What a party was told is committed is there in the end, whatever others wrote beside it."""
    found = []
    journal, members = evidence.postgres.get("journal", {}), evidence.postgres.get("members", {})
    counters = evidence.postgres.get("counters", {})
    for history in evidence.histories:
        newest = 0
        for number, (began, _) in history.committed().items():
            if (history.party, number) in evidence.rejected:
                continue
            newest = max(newest, number)
            if (history.party, number) not in evidence.executions:
                found.append(Anomaly("nothing lost", f"{history.party} has committed {number}, and it never came"))
            found += [
                Anomaly(
                    "nothing lost",
                    f"{history.party} put {write.key} into {write.table} by {number}, and it is not there",
                )
                for write in began.writes
                if write.table == "members" and write.key not in members
            ]
        for number in range(max(1, newest - SLOTS + 1), newest + 1):
            slot = journal.get(f"{history.party}{KEY_SEPARATOR}{number % SLOTS}", (0,))
            if slot[0] != number and (history.party, number) not in evidence.rejected:
                found.append(
                    Anomaly("nothing lost", f"{history.party} wrote {number} in the journal, and it is not there")
                )
        last = counters.get(history.party)
        if newest and last != (newest,):
            found.append(
                Anomaly(
                    "nothing lost",
                    f"{history.party} alone writes its counter, {newest} last, and it is at {last}",
                )
            )
    return found


def nothing_twice(evidence: Evidence) -> list[Anomaly]:
    """Each transaction is carried out once, and none that nobody has committed."""
    found = []
    known = {(history.party, number) for history in evidence.histories for number in history.committed()}
    for (party, number), count in sorted(evidence.executions.items()):
        if count != 1:
            found.append(Anomaly("nothing twice", f"{number} of {party} was carried out {count} times"))
        elif (party, number) not in known:
            found.append(
                Anomaly("nothing twice", f"{number} of {party} was carried out, and {party} has not committed it")
            )
    return found


def nothing_rejected(evidence: Evidence) -> list[Anomaly]:
    """No party writes what Postgres must refuse: each transaction was valid where it was written. But for one that
    refers to what direct SQL has deleted where the stream was lost: only the stream says what that was."""
    histories = {history.party: history for history in evidence.histories}
    committed = {party: history.committed() for party, history in histories.items()}
    lost = {
        (party, number)
        for (party, number), reason in evidence.rejected.items()
        if reason.startswith(FOREIGN_KEY)
        and number in committed.get(party, {})
        and _refers_to_lost(evidence, committed, histories[party], number)
    }
    known = {(party, number) for party, those in committed.items() for number in those}
    lost |= {one for those in evidence.together if those & lost for one in those & known}
    return [
        Anomaly("nothing rejected", f"{number} of {party} was rejected: {reason}")
        for (party, number), reason in evidence.rejected.items()
        if (party, number) not in lost
    ]


def _refers_to_lost(evidence: Evidence, committed: Committed, author: History, number: int) -> bool:
    """Whether the transaction refers to what was deleted in a gap that lies before its rejection, by an author who did
    not know what came after that gap: else he had been told of the row, also if it came back."""
    began, ended = committed[author.party][number]
    rejected_at = evidence.rejected_at.get((author.party, number), ended.at)
    reason = evidence.rejected[author.party, number]
    parents = {reference.parent for reference in REFERENCES if f'on table "{reference.child}"' in reason}
    named = [_arguments(statement) for statement in began.told]
    return any(
        ended_gap + AWAY_S_MAX >= began.at and not _had_passed(committed, author, number, ended_gap)
        for deleted_at, statement in _deletes_by_sql(evidence, committed, parents)
        if deleted_at <= rejected_at + BATCH_S_MAX and any(_arguments(statement) in arguments for arguments in named)
        for begin, ended_gap in evidence.gaps
        if begin - UNABSORBED_S <= deleted_at <= ended_gap
    )


def _deletes_by_sql(evidence: Evidence, committed: Committed, tables: set[str]) -> Iterator[tuple[float, str]]:
    for history in evidence.histories:
        if history.kind == "sql":
            for event, ended in committed[history.party].values():
                for statement in event.told:
                    if any(statement.startswith(f"DELETE FROM {table} ") for table in tables):
                        yield ended.at, statement


def _had_passed(committed: Committed, author: History, number: int, gap_end: float) -> bool:
    """Whether the author had seen, when he wrote, what somebody else had begun after the gap."""
    seen: Vector = {}
    for event in author:
        if isinstance(event, Read):
            seen = vector(event.rows)
        elif isinstance(event, Ended) and event.outcome == COMMITTED and event.number == number:
            seen = seen if event.saw is None else event.saw
            break
    return any(
        newest in committed.get(party, {}) and committed[party][newest][0].at > gap_end
        for party, newest in seen.items()
        if party != author.party
    )


def _arguments(statement: str) -> str:
    """As they are told, see ``process.told``."""
    return statement.rpartition(" [")[2].rstrip("]")
