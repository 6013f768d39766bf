"""Rows that come and go: what was put there stays until somebody deletes it who may have seen it. Pure.

An add wins over a delete that has not seen it. So a row is missed, in a snapshot or in the end, if it has a write that

* had an effect: somebody has seen its value in the row,
* is in the snapshot: its transaction is, by the counters,
* and that no delete in the snapshot can have removed. That takes one of the row itself, or of what it may have referred
  to where that cascades, by its author later on, or by somebody who may have had the write when he deleted.

Who overwrites a row has seen what stood there, and who has seen his write has seen that, too (``sessions``): so it is
enough to ask whether the author of a delete had the write itself. What he had are the counters that his transaction
found: exactly, for the Python library and for direct SQL, at ``REPEATABLE READ``, where a delete of what is newer fails
also when it cascades. Where nobody knows what he had, he may have had everything.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tests.consistency.evidence import Anomaly, Evidence
from tests.consistency.histories import (
    FAILED,
    Anew,
    Began,
    Ended,
    History,
    Read,
    Snapshot,
    Vector,
    vector,
)
from tests.consistency.orders import untimed
from tests.consistency.statements import Effect, Put, Removal, effects

RowKey: TypeAlias = tuple[str, str]
"""Table and key."""

# Of each table the places of what is written into a row by every statement that does.
VALUES: Mapping[str, tuple[int, ...]] = {
    "fleeting": (0,),
    "lefts": (0, 1),
    "rights": (0, 1),
    "parents": (0,),
    "cascades": (1,),
    "nullings": (1,),
    "restricts": (1,),
    "nodes": (1,),
    "rooms": (0,),
    "beds": (2,),
}
FROM_THE_START = {"lefts": "", "rights": "", "parents": "first", "rooms": "first"}
CASCADING = {"cascades": "parents", "beds": "rooms", "nodes": "nodes"}
# Whose snapshots are those of a position of Postgres' history, with writes of their own on top. The npm client's are
# not, see ``sessions.HIDING`` and ``snapshots.FORGETTING``.
EXACT = ("sql", "python")
# The npm client says in a delete what it had seen when it looks at its writes, which is a moment later.
LOOKING_LATER, LOOKS_WITHIN_S = "npm", 2.0


@dataclass(frozen=True, slots=True)
class _Transaction:
    """``saw``: what it found at least; ``may_have_seen``: at most, None where nobody knows."""

    party: str
    kind: str
    number: int
    saw: Vector
    may_have_seen: Vector | None
    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class _Done:
    """``place``: of the effect in its transaction."""

    by: _Transaction
    place: int
    effect: Effect

    @property
    def at(self) -> tuple[int, int]:
        return self.by.number, self.place

    def may_have_had(self, other: _Done) -> bool:
        """Whether it may have found the effect of ``other``."""
        if self.by.party == other.by.party:
            return other.at < self.at
        if self.by.may_have_seen is None:
            return True
        # Devices know direct SQL by its time alone, in milliseconds: who has seen what was before, shortly before may
        # have a time that covers it. That writer's transaction before it is longer ago.
        least = other.by.number - (other.by.kind == "sql")
        return self.by.may_have_seen.get(other.by.party, 0) >= least

    def has_had(self, other: _Done) -> bool:
        """Whether it must have."""
        if self.by.party == other.by.party:
            return other.at < self.at
        return self.by.saw.get(other.by.party, 0) >= other.by.number


def nothing_vanishes(evidence: Evidence) -> list[Anomaly]:
    """A row that was written is there, unless it was deleted by somebody who may have seen that."""
    account = _Account(evidence)
    found = []
    for history in evidence.histories:
        if history.kind in EXACT:
            found += account.missed_by(history)
    return [*found, *account.missed_in_the_end(evidence.postgres)]


def nothing_invented(evidence: Evidence) -> list[Anomaly]:
    """What a row holds somebody has written into it: also one that comes back."""
    written = {(put.table, put.key, put.value) for put in _puts(evidence)}
    emptied = _emptied(evidence)
    found: dict[str, Anomaly] = {}
    for name, snapshots in (
        *((history.party, (read.rows for read in history.reads())) for history in evidence.histories),
        ("Postgres", iter((evidence.postgres,))),
    ):
        for table, key, value in _values(snapshots):
            began = value is not None and value == FROM_THE_START.get(table)
            if began or (table, key, value) in written or (value is None and (table, key) in emptied):
                continue
            text = f"{name} has {value} in {table} {key}, which nobody has written there"
            found.setdefault(text, Anomaly("nothing invented", text))
    return list(found.values())


def _emptied(evidence: Evidence) -> set[RowKey]:
    """What may come back empty: direct SQL has deleted a parent where the stream was lost, so nobody knows what it was.
    The compensation that comes with a device's child makes a row of all that it has, the key."""
    lost = untimed(evidence)
    return {
        (effect.table, effect.key)
        for history in evidence.histories
        for began, _ in _carried_out(history)
        if f"{history.party}:{began.number}" in lost
        for effect in effects(began.told)
        if isinstance(effect, Removal) and effect.table in CASCADING.values()
    }


def _puts(evidence: Evidence) -> Iterator[Put]:
    for history in evidence.histories:
        for began, _ in _carried_out(history):
            for effect in effects(began.told):
                if isinstance(effect, Put):
                    yield effect


def _values(snapshots: Iterator[Snapshot]) -> Iterator[tuple[str, str, object]]:
    """Each that is in a row which was not so in the snapshot before."""
    before: Snapshot = {}
    for rows in snapshots:
        for table, places in VALUES.items():
            now, then = rows.get(table, {}), before.get(table, {})
            if now is not then:
                for key, row in now.items():
                    if then.get(key) != row:
                        yield from ((table, key, row[place]) for place in places)
        before = rows


def _carried_out(history: History) -> Iterator[tuple[Began, Ended | None]]:
    """What has been committed, or may have been: None."""
    began: Began | None = None
    for event in history:
        if isinstance(event, Began):
            began = event
        elif isinstance(event, Ended) and began is not None:
            if event.outcome != FAILED:
                yield began, event
            began = None
    if began is not None:
        yield began, None


class _Account:
    """Who wrote and deleted which rows, and what he had seen."""

    def __init__(self, evidence: Evidence) -> None:
        self._rejected = evidence.rejected.keys()
        self._puts: dict[RowKey, list[_Done]] = {}
        # By row, and by what it refers to then.
        self._under: dict[RowKey, dict[str, list[_Done]]] = {}
        self._removals: dict[RowKey, list[_Done]] = {}
        self._counting: dict[str, list[_Done]] = {}
        seen = {one for history in evidence.histories for one in _values(read.rows for read in history.reads())}
        # What direct SQL wrote when the stream was lost devices do not know, whatever they have seen of it.
        left_out = untimed(evidence)
        for history in evidence.histories:
            for transaction in _transactions(history):
                self._note(transaction, seen, counts=f"{history.party}:{transaction.number}" not in left_out)

    def _note(self, transaction: _Transaction, seen: set[tuple[str, str, object]], *, counts: bool) -> None:
        for place, effect in enumerate(transaction.effects):
            done, key = _Done(transaction, place, effect), (effect.table, effect.key)
            if isinstance(effect, Removal):
                self._removals.setdefault(key, []).append(done)
                continue
            self._puts.setdefault(key, []).append(done)
            if effect.parent is not None:
                self._under.setdefault(key, {}).setdefault(effect.parent, []).append(done)
            is_rejected = (transaction.party, transaction.number) in self._rejected
            if counts and not is_rejected and (effect.table, effect.key, effect.value) in seen:
                self._counting.setdefault(transaction.party, []).append(done)

    def missed_by(self, history: History) -> Iterator[Anomaly]:
        upto: dict[str, int] = {}
        here: dict[RowKey, list[_Done]] = {}
        for read in history.reads():
            has = vector(read.rows)
            self._arrive(upto, has, here)
            for done in self._missed(read.rows, has, here, history):
                yield _missed(done, f"{history.party} does not see it at {read.at:.3f}")

    def missed_in_the_end(self, postgres: Snapshot) -> Iterator[Anomaly]:
        here: dict[RowKey, list[_Done]] = {}
        self._arrive({}, None, here)
        here = {key: writes for key, writes in here.items() if key[0] in postgres}
        for done in self._missed(postgres, None, here, None):
            yield _missed(done, "it is not there in the end")

    def _arrive(self, upto: dict[str, int], has: Vector | None, here: dict[RowKey, list[_Done]]) -> None:
        """Adds to what is ``here`` what it ``has`` beyond ``upto``; None: all."""
        for party, writes in self._counting.items():
            begin = upto.get(party, 0)
            end = bisect_right(writes, (_last(has, party), _AFTER), key=lambda done: done.at)
            for done in writes[begin:end]:
                here.setdefault((done.effect.table, done.effect.key), []).append(done)
            upto[party] = max(begin, end)

    def _missed(
        self, rows: Snapshot, has: Vector | None, here: dict[RowKey, list[_Done]], reader: History | None
    ) -> Iterator[_Done]:
        """Of each row that is missed a write. What has been removed does not count again."""
        for table, key in [key for key in here if key[1] not in rows.get(key[0], {})]:
            missed = [done for done in here.pop((table, key)) if not self._is_removed(done, has, reader)]
            yield from missed[:1]

    def _is_removed(self, write: _Done, has: Vector | None, reader: History | None) -> bool:
        return any(
            removal.by.number <= _last(has, removal.by.party)
            and self._counts(removal, reader)
            and (removal.may_have_had(write) or self._hides(removal, write, has, reader))
            and self._reaches(removal, write)
            for removal in self._removals_of(write)
        )

    def _counts(self, removal: _Done, reader: History | None) -> bool:
        """One that was rejected only its author has seen."""
        mine = reader is not None and removal.by.party == reader.party
        return mine or (removal.by.party, removal.by.number) not in self._rejected

    def _hides(self, removal: _Done, write: _Done, has: Vector | None, reader: History | None) -> bool:
        """A device does not know when direct SQL wrote a row that is delivered as it is: a delete of its own, on its
        way, hides it until its echo, with all that direct SQL has put its own in place of."""
        if reader is None or removal.by.party != reader.party:
            return False
        return any(
            done == write or (done.may_have_had(write) and done.by.number <= _last(has, done.by.party))
            for done in self._puts[write.effect.table, write.effect.key]
            if done.by.kind == "sql"
        )

    def _removals_of(self, write: _Done) -> Iterator[_Done]:
        """Of the row, or of what it may ever have referred to."""
        table, key = write.effect.table, write.effect.key
        yield from reversed(self._removals.get((table, key), []))
        if table in CASCADING:
            for (other, _), removals in self._removals.items():
                if other == CASCADING[table]:
                    yield from reversed(removals)

    def _reaches(self, removal: _Done, write: _Done) -> bool:
        """Whether the row of ``write`` goes with what is removed."""
        table, key, parent = write.effect.table, write.effect.key, removal.effect.key
        if (removal.effect.table, parent) == (table, key):
            return True
        if table != CASCADING[table]:
            return self._may_refer(removal, write, parent)
        reached: set[str] = set()
        above = {one for one in self._under.get((table, key), ()) if self._may_refer(removal, write, one)}
        while above:
            reached |= above
            above = {one for here in above for one in self._under.get((table, here), ())} - reached
        return parent in reached

    def _may_refer(self, removal: _Done, write: _Done, parent: str) -> bool:
        """Whether the row of ``write`` may have referred to ``parent`` for the author of ``removal``: by that, or any
        other write that he may have had, but one that ``write`` had seen and has put everything in place of."""
        put = write.effect
        assert isinstance(put, Put)
        return put.parent == parent or any(
            removal.may_have_had(done) and not (put.whole and write.has_had(done))
            for done in self._under.get((put.table, put.key), {}).get(parent, ())
        )


_AFTER = 1 << 30


def _last(has: Vector | None, party: str) -> int:
    return _AFTER if has is None else has.get(party, 0)


def _missed(done: _Done, what: str) -> Anomaly:
    wrote = f"{done.by.party} wrote {done.effect.table} {done.effect.key} by {done.by.number}"
    return Anomaly("nothing vanishes", f"{wrote}, nobody who had seen that has deleted it, and {what}")


def _transactions(history: History) -> Iterator[_Transaction]:
    """All that have been committed, or may have been, with what they had seen."""
    later = _seen_later(history) if history.kind == LOOKING_LATER else None
    for began, ended in _carried_out(history):
        did = tuple(effects(began.told))
        saw = None if ended is None else ended.saw
        at_most = saw if later is None or ended is None else later(ended.at)
        yield _Transaction(history.party, history.kind, began.number, saw or {}, at_most, did)


def _seen_later(history: History) -> Callable[[float], Vector | None]:
    """Of a time, what the party has found when all that it has written by then has been looked at."""
    times: list[float] = []
    found: list[Vector | None] = []
    for event in history:
        saw = vector(event.rows) if isinstance(event, Read) else event.saw if isinstance(event, Ended) else None
        if saw is not None or isinstance(event, Anew):
            times.append(event.at)
            found.append(saw)

    def later(at: float) -> Vector | None:
        first, last = bisect_right(times, at), bisect_left(times, at + LOOKS_WITHIN_S)
        # It has started over, and nobody knows what it had meanwhile; or nothing is known of it any more.
        return None if last == len(found) or None in found[first : last + 1] else found[last]

    return later
