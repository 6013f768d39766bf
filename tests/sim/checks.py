"""What must hold, on every device after everything it commits, and everywhere at the end.

The strongest check: a device that stands at LSN L holds exactly the rows Postgres held at L, with their tags, in every
table it is subscribed to, except where it has writes of its own on the way. That is atomic visibility, order and
completeness in one: a part of a transaction, a lost or repeated one, one that came too early or too late all show.
Tags of Postgres count as one: a row that came by snapshot has ``postgres_1@0`` where the stream has a time.

What a device shows of rows with writes of its own on the way, and in which order, is checked in ``sessions``; what must
be true of the rows themselves, whatever the position, in ``invariants``; how Postgres decided, in ``arbitration``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from tests.sim.arbitration import Arbiter
from tests.sim.device import KEY, SimDevice
from tests.sim.invariants import Invariants
from tests.sim.postgres import SimPostgres, Version
from tests.sim.schema import TABLES, RowKey, closure, on_device
from tests.sim.sessions import Image, Sessions
from tests.sim.shown import Shown, named, plain

from syncline.client.schema import UNTRACKED_TAG
from syncline.client.shapes import ShapeState, wanted
from syncline.proto.subprotocols import takes_extensions
from syncline.proto.values import POSTGRES_ORIGIN


class Checks:
    """``anomaly``: the first thing found wrong, None while all is well."""

    def __init__(self, postgres: SimPostgres) -> None:
        self._postgres = postgres
        self.anomaly: str | None = None
        self.resets = 0
        self.repairs = 0
        self.sessions = Sessions(postgres, self.report)
        self._invariants = Invariants(postgres, self.report, self.sessions.stands, self.sessions.splits)
        self._empty_disks = 0
        self._started_over_at: dict[str, int] = {}
        self._deletes: list[tuple[str, int, RowKey, int]] = []

    @property
    def excused(self) -> Counter[str]:
        """How often something was off for a known reason, by reason."""
        return self.sessions.excused + self._invariants.excused

    def report(self, text: str) -> None:
        if self.anomaly is None:
            self.anomaly = text

    def wrote(self, device: SimDevice, ms: int) -> None:
        """The device has written. Rows of tables it does not hold are strays: nobody tells it when they are deleted."""
        shown = Shown(device)
        device.strays |= {key for key in shown.pending if key[0] not in shown.held}
        self._note_deletes(shown, ms)
        self.sessions.wrote(shown, ms)

    def _note_deletes(self, shown: Shown, ms: int) -> None:
        """Which rows the local transaction of ``ms`` deletes in the end, and what was seen of them."""
        for key, writes in shown.pending.items():
            known = key[0] in shown.held and key not in shown.device.strays
            if known and writes[-1].kind == "delete" and writes[-1].tag.ms == ms:
                self._deletes.append((shown.device.name, ms, key, shown.lsn))

    def _deletes_count(self) -> None:
        """A delete that had seen everything deletes, but what somebody refers to; and it deletes nothing else. What its
        author has written himself he knows, whether or not it has been rejected."""
        for name, ms, key, seen_lsn in self._deletes:
            commit = self._postgres.decided.get((name, ms))
            if commit is None or commit.head.origin is None or commit.keeps(key):
                continue
            lsn = int(commit.head.lsn)
            there = self._postgres.row_at(key, lsn).row is not None
            before = self._postgres.row_at(key, lsn - 1)
            seen = self._postgres.row_at(key, seen_lsn)
            since = [version for version in self._postgres.versions.get(key, ()) if seen.lsn < version.lsn < lsn]
            if there and all(version.writer.origin == name for version in since):
                self.report(f"{name} deleted {named(key)} knowing all of it, and it is still there")
            elif not there and before.row is not None and self._is_news(before, key, seen_lsn):
                self.report(f"{name} deleted {named(key)} as of {seen_lsn}, and direct SQL wrote it at {before.lsn}")

    def _is_news(self, version: Version, key: RowKey, lsn: int) -> bool:
        """Whether direct SQL wrote it later than anything that could be seen at ``lsn``. Within a millisecond nobody
        can tell."""
        return version.writer.origin == POSTGRES_ORIGIN and version.lsn > lsn and version.writer.ms > self._ms_at(lsn)

    def _ms_at(self, lsn: int) -> int:
        """The latest time that a device at this position may have been told of Postgres."""
        return max((commit.server_ms for commit in self._postgres.streamable(0) if commit.head.lsn <= lsn), default=0)

    # --- along the way ------------------------------------------------------------------------------------------------

    def disk_emptied(self) -> None:
        """The service has lost all that it had on its disk: each device may have to start over, once."""
        self._empty_disks += 1

    def imaged(self, device: SimDevice, lsn: int, rows: Iterable[RowKey], tables: Iterable[int]) -> None:
        """Rows are about to come as they were at ``lsn``, which does not say by which writes; of ``tables`` all."""
        self.sessions.imaged(Shown(device), Image(lsn, frozenset(rows), frozenset(tables)))

    def repaired(self, device: SimDevice) -> None:
        """The device has been sent what differs, which happens only when the service had lost its disk."""
        self.repairs += 1
        if not self._empty_disks:
            self.report(f"{device.name} had to be repaired, and the service had lost nothing of its disk")

    def reset(self, device: SimDevice, code: str | None) -> None:
        """The device has given up its rows because of ``code``: wrong unless it is one of the old line, and the service
        had lost its disk."""
        self.resets += 1
        if takes_extensions(device.protocol):
            self.report(f"{device.name} had to start over ({code}), and is one that can be repaired")
        device.strays |= Shown(device).pending.keys()
        if self._started_over_at.get(device.name, 0) == self._empty_disks:
            self.report(f"{device.name} had to start over ({code}), and the service had lost nothing of its disk")
        self._started_over_at[device.name] = self._empty_disks

    def changed(self, device: SimDevice) -> None:
        """The device has committed something."""
        if self.anomaly is None:
            shown = Shown(device)
            self.sessions.changed(shown)
            if shown.lsn:
                self.at_position(shown)
            self._invariants.changed(shown)

    def at_position(self, shown: Shown) -> None:
        """Exactly what Postgres held at the device's position."""
        device, held = shown.device, shown.held
        if not held:
            return
        here = {key: row for key, row in shown.rows.items() if key[0] in held}
        for key in self._postgres.versions:
            if key[0] not in held:
                continue
            row = here.pop(key, None)
            if key in shown.pending:
                continue
            there = self._postgres.row_at(key, shown.lsn)
            expected = None if there.row is None else on_device(key[0], there.row)
            if key in device.strays:
                if expected is None:
                    continue
                device.strays.discard(key)
            if row != expected and not (expected is None and self.sessions.keeps(shown, key, there.state)):
                self.report(f"{device.name} at {shown.lsn} has {named(key)} as {row}, Postgres had {expected}")
            elif expected is not None:
                has = shown.tags.get(key, frozenset((UNTRACKED_TAG,)))
                if has != plain(there.tags):
                    self.report(
                        f"{device.name} at {shown.lsn} has tags {sorted(has)} on {named(key)}, "
                        f"Postgres had {sorted(plain(there.tags))}"
                    )
        for key in here.keys() - shown.pending.keys() - device.strays:
            self.report(f"{device.name} at {shown.lsn} has {named(key)}, which Postgres never had")

    def rows_left(self, device: SimDevice, tables: Sequence[str]) -> None:
        """Subscriptions to ``tables`` have ended: nothing of Postgres' is here now that no other shape holds."""
        leaving = closure(TABLES[table] for table in tables)
        leaving -= closure(TABLES[s.spec.table] for s in device.replica.subscriptions.values())
        if not leaving:
            return
        shown = Shown(device)
        left = {key for key in shown.rows if key[0] in leaving}
        # What is on its way stays, and what that refers to.
        staying = left & (shown.pending.keys() | shown.referred)
        device.strays |= staying | {key for key in shown.pending if key[0] in leaving}
        for key in sorted(left - staying):
            if self._postgres.row_at(key, shown.lsn).row is not None:
                self.report(f"{device.name} unsubscribed from its table and still has {named(key)}")

    # --- at the end ---------------------------------------------------------------------------------------------------

    def unfinished(self, device: SimDevice) -> str | None:
        """What the device still lacks, None when it is in step with Postgres."""
        if not device.live:
            return "is not connected"
        count = device.store.connection.execute("SELECT count(*) FROM _syncline_oplog").fetchone()[0]
        if count:
            return f"has {count} oplog entries"
        count = device.store.connection.execute("SELECT count(*) FROM _syncline_leaving").fetchone()[0]
        if count:
            return f"keeps {count} rows that have left its shapes, although nothing is pending on them"
        under_key = [s.spec.table for s in wanted(device.replica.subscriptions.values(), KEY)]
        if under_key != ([] if device.view is None else [device.view]):
            return f"has {under_key} under its key, and wants {device.view}"
        for subscription in device.replica.subscriptions.values():
            if subscription.state not in (ShapeState.DELIVERED, ShapeState.WITHDRAWN):
                return f"has its subscription to {subscription.spec.table} {subscription.state.value}"
        shown = Shown(device)
        here = {key: row for key, row in shown.rows.items() if key[0] in shown.held}
        there = {
            key: on_device(key[0], state.row)
            for key, state in self._postgres.rows.items()
            if key[0] in shown.held and state.row is not None
        }
        for key in device.strays - there.keys():
            here.pop(key, None)
        different = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
        if different:
            first = different[0]
            names = ", ".join(map(named, different))
            return f"differs in {names}: {here.get(first)} here, {there.get(first)} there"
        return None

    def at_the_end(self, devices: list[SimDevice]) -> None:
        """Everything is in step; was every write carried out once?"""
        self._deletes_count()
        rejected = {(client_id, ms) for client_id, _, ms in self._postgres.rejections}
        for device in devices:
            for entry, ms in device.journal.items():
                expected = 0 if (device.name, ms) in rejected else 1
                executed = self._postgres.executions[entry]
                if executed != expected:
                    self.report(f"transaction {entry} of {device.name} was executed {executed} times, not {expected}")
            shown = Shown(device)
            if shown.lsn:
                self.at_position(shown)
        self._invariants.at_the_end(devices)
        self.sessions.at_the_end(devices)
        for text in Arbiter(self._postgres).wrong():
            self.report(text)
