"""What is true of the rows a device shows, whatever its position: in every snapshot that a reader of it can take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from tests.sim.device import SimDevice
from tests.sim.postgres import SimPostgres
from tests.sim.schema import FOREIGN_KEYS, RowKey
from tests.sim.shown import Shown, named, parent_of
from tests.sim.work import Violation
from tests.sim.workloads import COUNTED, PAIRS, RANK, SQL_CLIENT, is_element, special

from syncline.proto.values import Row


class Invariants:
    """``report``: told of what is wrong. ``stands``, ``splits``: see ``Sessions``."""

    def __init__(
        self,
        postgres: SimPostgres,
        report: Callable[[str], None],
        stands: Callable[[Shown, RowKey, int], bool],
        splits: Callable[[Shown, RowKey], bool],
    ) -> None:
        self._stands = stands
        self._splits = splits
        self._postgres = postgres
        self._report = report
        self.excused: Counter[str] = Counter()
        self._counted: dict[tuple[str, RowKey], int] = {}
        self._elements: dict[str, set[RowKey]] = {}

    def changed(self, shown: Shown) -> None:
        self._counters(shown)
        self._pairs(shown)
        self._sets(shown)
        self._references(shown)

    def _counters(self, shown: Shown) -> None:
        """A counter has one writer and only grows: nobody may see it fall, its writer least of all."""
        name = shown.device.name
        for table in COUNTED:
            for writer in (SQL_CLIENT, "device-a", "device-b", "device-c"):
                key = special("counter", table, writer)
                row = shown.rows.get(key)
                if row is None:
                    continue
                value, seen = row[RANK], self._counted.get((name, key), 0)
                if not isinstance(value, int) or value < seen:
                    self._report(f"{name} saw {named(key)} fall from {seen} to {value}")
                    continue
                self._counted[name, key] = value
                if writer == name and value < shown.device.counters.get(table, 0):
                    own = shown.device.counters[table]
                    self._report(f"{name} does not read its own write of {named(key)}: {value} instead of {own}")

    def _pairs(self, shown: Shown) -> None:
        """Only whole transactions write a pair: it is seen whole."""
        for one, other in PAIRS:
            if {one[0], other[0]} <= shown.held:
                numbers = [None if row is None else row[RANK] for row in (shown.rows.get(one), shown.rows.get(other))]
                if numbers[0] == numbers[1]:
                    continue
                if self._stands(shown, one, RANK) or self._stands(shown, other, RANK):
                    self.excused["an image does not say who wrote a column, so it splits a pair"] += 1
                elif self._splits(shown, one) or self._splits(shown, other):
                    self.excused["carried out, and nothing tells before its echo, so it splits a pair"] += 1
                else:
                    name = shown.device.name
                    self._report(f"{name} sees half a transaction: {named(one)} and the other as {numbers}")

    def _sets(self, shown: Shown) -> None:
        """What has been in a set is in it."""
        seen = self._elements.setdefault(shown.device.name, set())
        here = {key for key in shown.rows if key[0] in shown.held and is_element(key)}
        for key in seen - here:
            if key[0] in shown.held:
                self._report(f"{shown.device.name} no longer sees the element {named(key)}")
        self._elements[shown.device.name] = here

    def _references(self, shown: Shown) -> None:
        """No row refers to one that is not here. Children of which the device is told nothing any more do not count."""
        for fk in FOREIGN_KEYS:
            if fk.child not in shown.held:
                continue
            for key, row in shown.rows.items():
                if key[0] == fk.child and key not in shown.device.strays:
                    parent = parent_of(fk, row)
                    if parent is not None and parent not in shown.rows:
                        self._dangling(shown, key, parent)

    def _dangling(self, shown: Shown, key: RowKey, parent: RowKey) -> None:
        self._report(f"{shown.device.name} at {shown.lsn} shows {named(key)} without its parent {named(parent)}")

    def at_the_end(self, devices: Iterable[SimDevice]) -> None:
        for key, versions in self._postgres.versions.items():
            if is_element(key) and any(version.row is None for version in versions):
                self._report(f"Postgres lost the element {named(key)}")
        for device in devices:
            for key in device.elements:
                if key not in self._postgres.rows:
                    self._report(f"the element {named(key)} that {device.name} inserted never came to Postgres")
            for table, value in device.counters.items():
                key = special("counter", table, device.name)
                there = self._number(key, None)
                if there != value:
                    self._report(f"{named(key)} is {there} in Postgres, and was last set to {value}")
        self._pairs_in_postgres()
        for violation in self._postgres.violations:
            self._refused(violation)

    def _refused(self, violation: Violation) -> None:
        """A child keeps its parent, whoever deletes it: no transaction of a device is refused for a missing parent.
        Unless nobody knows what that was, or the two refer to one another, so that neither can come back first."""
        if not violation.circular and not violation.parent_unknown:
            self._report(f"a transaction was refused, for {violation}")

    def _pairs_in_postgres(self) -> None:
        for one, other in PAIRS:
            positions = {version.lsn for key in (one, other) for version in self._postgres.versions.get(key, ())}
            for lsn in sorted(positions):
                numbers = [self._number(key, lsn) for key in (one, other)]
                if numbers[0] != numbers[1]:
                    self._report(f"Postgres at {lsn} has {named(one)} and the other as {numbers}")

    def _number(self, key: RowKey, lsn: int | None) -> int | None:
        row: Row | None
        if lsn is None:
            state = self._postgres.rows.get(key)
            row = None if state is None else state.row
        else:
            row = self._postgres.row_at(key, lsn).row
        cell = None if row is None else row[RANK]
        return None if cell is None else int(cell)
