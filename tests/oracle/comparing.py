"""A device's rows beside those its shapes give: at rest by asking Postgres, and for every sample by the history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set

import asyncpg
from tests.oracle.device import WANTED_STATES, Device, stored
from tests.oracle.expected import Key, Row, State, differences, keys_held, rows_held
from tests.oracle.history import Commit, Judge, matching, read_state, row_of
from tests.oracle.plan import Plan
from tests.oracle.sampler import Sample
from tests.oracle.shapes import WHOLE_PULSE, Shape

CHANGES_SHOWN = 60
HELD_STATES = frozenset({"delivered", "cancelling"})


class Anomaly(Exception):
    """Something that must not be."""


async def at_rest(plan: Plan, postgres: asyncpg.Connection, device: Device) -> list[str]:
    """What is wrong with a device that has come to rest; nobody writes meanwhile."""
    wanted, sample = device.wanted, device.read()
    asked = sorted(text for state, text in sample.subscriptions.values() if state in WANTED_STATES)
    if asked != sorted(stored(shape) for shape in wanted):
        return [f"it is subscribed to {asked}, and was told {[shape.describe() for shape in wanted]}"]
    state = await read_state(postgres, plan.schema)
    inside: dict[tuple[str, str], set[Row]] = {}
    for name, where in set().union(*(shape.clauses() for shape in wanted)):
        table = plan.schema[name]
        columns = ", ".join(f"this.{column}::text" for column in table.names)
        try:
            found = await postgres.fetch(f"SELECT {columns} FROM {name} AS this WHERE {where}")
        except asyncpg.DataError:  # for some of the rows
            inside[name, where] = await matching(postgres, table, where, list(state.of(name).values()))
        else:
            inside[name, where] = {row_of(table, list(record)) for record in found}
    expected = rows_held(wanted, state, lambda name, where, row: row in inside[name, where])
    return [difference.describe() for difference in differences(sample.rows, expected, strays=_strays(plan, device))]


async def check_samples(
    plan: Plan,
    postgres: asyncpg.Connection,
    state: State,
    history: Sequence[Commit],
    devices: Sequence[Device],
    counters: Counter[str],
) -> None:
    """Compares every sample with what its shapes gave at its LSN, beginning with ``state``. Raises Anomaly."""
    judge = Judge(plan.schema)
    await judge.ask(postgres, set().union(*(shape.clauses() for shape in plan.shapes)), _versions(state, history))
    known = {stored(shape): shape for shape in (*plan.shapes, WHOLE_PULSE)}
    walks = [_Walk(plan, device, judge, known, counters) for device in devices]
    for walk in walks:
        walk.check_order()
    for commit in history:
        for walk in walks:
            walk.check_until(commit.lsn, state)
        commit.apply(state)
        counters["commits"] += 1
        for walk in walks:
            walk.note(commit)
    if (await read_state(postgres, plan.schema)).rows != {name: rows for name, rows in state.rows.items() if rows}:
        raise Anomaly("the history does not lead to the rows there are: the test is wrong")
    for walk in walks:
        walk.check_until(None, state)


def _strays(plan: Plan, device: Device) -> set[tuple[str, Key]]:
    """Rows that the device may have though none of its shapes does."""
    return set() if "strays" in plan.features else device.written


def _versions(state: State, history: Sequence[Commit]) -> dict[str, set[Row]]:
    """Every row there ever was."""
    versions = {table: set(rows.values()) for table, rows in state.rows.items()}
    for commit in history:
        for change in commit.changes:
            if change.new is not None:
                versions.setdefault(change.table, set()).add(change.new)
    return versions


def _described(commits: Sequence[Commit]) -> str:
    lines = [f"  at {commit.lsn}: {change}" for commit in commits for change in commit.changes]
    return "\n".join(
        [f"  ... {len(lines) - CHANGES_SHOWN} more", *lines[-CHANGES_SHOWN:]][len(lines) <= CHANGES_SHOWN :]
    )


class _Walk:
    """The samples of one device, along the history."""

    def __init__(
        self,
        plan: Plan,
        device: Device,
        judge: Judge,
        known: dict[str, Shape],
        counters: Counter[str],
    ) -> None:
        self._plan = plan
        self._name = device.name
        self._samples = device.sampler.samples
        self._strays = _strays(plan, device)
        self._judge = judge
        self._known = known
        self._counters = counters
        self._at = 0
        self._held: dict[str, set[tuple[object, ...]]] = {}
        self._shapes: frozenset[Shape] = frozenset()
        self._touched: set[tuple[str, tuple[object, ...]]] = set()
        self._since: list[Commit] = []  # the sample before

    def check_order(self) -> None:
        """Its position never goes back, and it never gives up rows to have them again."""
        for before, after in zip(self._samples, self._samples[1:], strict=False):
            again = [
                position
                for position, (now, _) in after.subscriptions.items()
                if now == "requested" and before.subscriptions.get(position, ("", ""))[0] == "delivered"
            ]
            if again:
                raise Anomaly(f"{self._name} had to start over at LSN {before.lsn}")
            if after.lsn < before.lsn:
                raise Anomaly(f"{self._name} went from LSN {before.lsn} back to {after.lsn}")

    def note(self, commit: Commit) -> None:
        """A commit the samples to come have; which rows it has made."""
        self._since.append(commit)
        for change in commit.changes:
            if change.new is not None:
                table = self._plan.schema[change.table]
                key = tuple([change.new[place] for place in table.key_places])
                if key != change.old:
                    self._touched.add((change.table, key))

    def check_until(self, lsn: int | None, state: State) -> None:
        """Those that have all commits so far and none from ``lsn`` on."""
        while self._at < len(self._samples) and (lsn is None or self._samples[self._at].lsn < lsn):
            self._check(self._samples[self._at], state)
            self._at += 1

    def _check(self, sample: Sample, state: State) -> None:
        self._counters["samples"] += 1
        strays: Set[tuple[str, Key]] = self._strays
        states = HELD_STATES
        if "leaving" not in self._plan.features and any(
            state == "cancelling" for state, _ in sample.subscriptions.values()
        ):
            strays = {(table, key) for table, rows in sample.rows.items() for key in rows}
            states = frozenset({"delivered"})
        shapes = {self._known[text] for state, text in sample.subscriptions.values() if state in states}
        expected = rows_held(shapes, state, self._judge)
        rows = sample.rows
        if any(state == "cancelling" for state, _ in sample.subscriptions.values()):
            rows = self._with_leaving_columns(sample, state, expected)
        found = differences(rows, expected, sample.pending | sample.kept, strays)
        if found:
            described = "\n".join(difference.describe() for difference in found)
            held = ", ".join(
                f"{self._known[text].describe()} ({state})" for state, text in sample.subscriptions.values()
            )
            raise Anomaly(
                f"{self._name} at LSN {sample.lsn}, sample {self._at} of {len(self._samples)}, with {held} "
                f"and pending {sorted(sample.pending, key=repr)}:\n{described}"
                f"\nsince the sample before:\n{_described(self._since)}"
            )
        self._since.clear()
        self._count(frozenset(shapes), {table: set(rows) for table, rows in expected.items()}, state)

    def _with_leaving_columns(
        self, sample: Sample, state: State, expected: Mapping[str, Mapping[Key, Row]]
    ) -> dict[str, dict[Key, Row]]:
        """The rows of a device that is giving up a shape: columns that it has by that alone may have left already."""
        staying = {self._known[text] for stage, text in sample.subscriptions.values() if stage == "delivered"}
        least = rows_held(staying, state, self._judge)

        def completed(table: str, key: Key, row: Row) -> Row:
            wanted, kept = expected[table].get(key), least.get(table, {}).get(key)
            if wanted is None:
                return row
            needed = (None,) * len(row) if kept is None else kept
            return tuple(
                want if has is None and need is None else has
                for has, want, need in zip(row, wanted, needed, strict=True)
            )

        return {
            table: {key: completed(table, key, row) if table in expected else row for key, row in rows.items()}
            for table, rows in sample.rows.items()
        }

    def _count(self, shapes: frozenset[Shape], held: dict[str, set[tuple[object, ...]]], state: State) -> None:
        """Rows that came without having been inserted, that went without having been deleted, that several hold."""
        if shapes == self._shapes:
            came = {(t, key) for t, keys in held.items() for key in keys - self._held.get(t, set())}
            went = {(t, key) for t, keys in self._held.items() for key in keys - held.get(t, set())}
            self._counters["move-ins"] += len(came - self._touched)
            self._counters["GONEs"] += sum(key in state.of(table) for table, key in went)
        each = [keys_held(s, state, self._judge) for s in shapes]
        rows = Counter((table, key) for one in each for table, keys in one.items() for key in keys)
        self._counters["overlaps"] += sum(count > 1 for count in rows.values())
        self._shapes, self._held, self._touched = shapes, held, set()
