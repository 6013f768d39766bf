"""Session guarantees of each device, at every commit of its database.

A device stands at a position of Postgres' history and has transactions of its own on the way. With ``checks``, which
says that all other rows are exactly those of the position, the guarantees are these:

* **Monotonic reads.** The position never goes back.
* **Read your writes.** A transaction is on the way until the device's position has reached the commit by which Postgres
  applied it. One that was refused, or changed no rows of the device's shapes, is until that is decided. A row with
  writes on the way is shown as Postgres will have it when they arrive at what it held at the device's position: the
  device's own value in each column it wrote, unless a write by somebody else beats it that the device has received, so
  by a larger tag.
* **Monotonic writes.** A device's transactions are decided one after another in its order, none left out, each once.
* **Writes follow reads.** A write outranks, in every column it changes, what its author was shown there; and it is
  decided at a later position than that which its author had seen.

What a device cannot know is excused, and counted, until the echo of its write tells. Rows that come as they are (those
of a shape, or those that heal) say of no column by whom it was written: the device's own write stands there, though
Postgres may hold a later one. Nor when direct SQL has written them: the device's own delete stands. Nor do they say
what a row was when it was deleted, which stays for another. What comes back later than its place in the stream counts
as on its way until then, unless the device is told that it is carried out, as one of the old line never is. A row that
a refused transaction and later ones name comes with the last of them; one that is gone, and stays for another that
refers to it, stays with what was refused. And that somebody has written the value that was there already is not to be
seen in the stream, nor as of when a row counts that was written and deleted in one transaction. What a compensation
brings back comes as an insert, as if all of it had been written then. A delete that is shown undone, for a row that
refers to what it has deleted, stays so when that row goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

from tests.sim.device import SimDevice
from tests.sim.postgres import NOTHING, Commit, SimPostgres, Version
from tests.sim.schema import RELATIONS, RowKey, on_device
from tests.sim.shown import Shown, named

from syncline.actors.postgres.streamed import TransactionHead, Truncated
from syncline.client.cells import Values
from syncline.proto.merge import RowState, RowWrite, apply_write
from syncline.proto.subprotocols import takes_extensions
from syncline.proto.tags import Tag, format_tag
from syncline.proto.values import POSTGRES_ORIGIN, Insert, Row, Update

BACK_BEFORE = "refused, and what was written after it came back before"


@dataclass(frozen=True, slots=True)
class Image:
    """``rows`` that come to a device as they were at ``lsn``, by which writes is not known, and of ``tables`` all there
    are. ``met``: its transactions that were on their way then."""

    lsn: int
    rows: frozenset[RowKey]
    tables: frozenset[int] = frozenset()
    met: frozenset[int] = frozenset()


class Sessions:
    """``report``: told of what is wrong. ``excused``: how often a device was off for a known reason, by reason."""

    def __init__(self, postgres: SimPostgres, report: Callable[[str], None]) -> None:
        self._postgres = postgres
        self._report = report
        self.excused: Counter[str] = Counter()
        self._positions: dict[str, int] = {}
        # By device and the milliseconds of its transaction: the position at which it was written.
        self._written_at: dict[tuple[str, int], int] = {}
        # By device, transaction and row that it has written the columns that it has changed, of some rows none.
        self._changed: dict[tuple[str, int, RowKey], set[int]] = {}
        # By device those that brought rows it had written to, until it has heard of that.
        self._images: dict[str, list[Image]] = {}
        self._on_the_way: dict[str, list[int]] = {}
        # By device and transaction that has come back those that were still on their way then.
        self._left_by: dict[tuple[str, int], set[int]] = {}
        # By device and row its delete that is shown undone, for another row that refers to it.
        self._undone: dict[tuple[str, RowKey], Tag] = {}

    def wrote(self, shown: Shown, ms: int) -> None:
        """The device has committed a transaction of ``ms``."""
        name = shown.device.name
        self._written_at[name, ms] = shown.lsn
        self._on_the_way.setdefault(name, []).append(ms)
        for key, writes in shown.pending.items():
            for write in writes:
                if write.tag.ms == ms:
                    changed = self._changed.setdefault((name, ms, key), set())
                    changed |= {column for column, modified in enumerate(write.modified) if modified}
            if key[0] in shown.held and key not in shown.device.strays and writes[-1].tag.ms == ms:
                self._outranks(shown, key, writes)

    def _outranks(self, shown: Shown, key: RowKey, writes: Sequence[RowWrite]) -> None:
        """The newest of ``writes`` to a row beats what the device was shown of it."""
        name, tag = shown.device.name, writes[-1].tag
        there = self._postgres.row_at(key, shown.lsn).state
        direct = max((other for other in there.tags if other.origin == POSTGRES_ORIGIN), default=None)
        for column in range(len(writes[-1].row)):
            modified = any(write.modified[column] for write in writes if write.tag == tag)
            holder = there.column_tag(column)
            if direct is not None and holder.origin == POSTGRES_ORIGIN:
                # It may count as of a later time than it was written at; who has seen it counts as later still.
                holder = min(holder, direct)
            if modified and there.row is not None and holder >= tag:
                self._report(f"{name} writes {named(key)} as of {tag.ms}, and has seen {format_tag(holder)} there")

    def imaged(self, shown: Shown, image: Image) -> None:
        """``image`` is about to come."""
        met = frozenset(entry.commit_ms for entry in shown.entries)
        self._images.setdefault(shown.device.name, []).append(replace(image, met=met))

    def _images_of(self, shown: Shown) -> list[Image]:
        """Those that met what is on the way still."""
        left = {entry.commit_ms for entry in shown.entries}
        images = [image for image in self._images.get(shown.device.name, ()) if image.met & left]
        self._images[shown.device.name] = images
        return images

    def changed(self, shown: Shown) -> None:
        name = shown.device.name
        if not shown.lsn:
            return  # it has given up what it was shown
        if shown.lsn < self._positions.get(name, 0):
            self._report(f"{name} went back from {self._positions[name]} to {shown.lsn}")
        self._positions[name] = shown.lsn
        self._released(shown)
        self._told(shown)
        for key, writes in shown.pending.items():
            if key[0] in shown.held and key not in shown.device.strays:
                self._on_top(shown, key, writes)
                continue
            gone = writes[-1].kind in ("insert", "update") and key not in shown.rows
            if gone and not self._carried_out(name, writes[-1], key, shown.lsn):
                if self._came_back_before(name, key, writes):
                    self.excused[BACK_BEFORE] += 1
                    continue
                self._report(f"{name} no longer shows {named(key)}, and its write to it is on the way")

    def _released(self, shown: Shown) -> None:
        """What is on the way no longer has been decided, and the device is past that."""
        name = shown.device.name
        expected = self._on_the_way.get(name, [])
        still = {entry.commit_ms for entry in shown.entries}
        for ms in [ms for ms in expected if ms not in still]:
            decided = self._postgres.decided.get((name, ms))
            if decided is None:
                self._report(f"{name} takes its transaction of {ms} for done, and Postgres has not decided it")
            elif decided.head.lsn > shown.lsn and any(key[0] in shown.held for key in decided.before):
                self._report(
                    f"{name} at {shown.lsn} takes its transaction of {ms} for done, decided at {int(decided.head.lsn)}"
                )
            expected.remove(ms)
            self._left_by[name, ms] = still

    def _told(self, shown: Shown) -> None:
        """What the device takes for carried out has been, and by where it stands."""
        for ms in shown.told:
            commit = self._postgres.decided.get((shown.device.name, ms))
            if commit is None or commit.head.origin is None or commit.head.lsn > shown.lsn:
                self._report(f"{shown.device.name} at {shown.lsn} takes its transaction of {ms} for carried out")

    def _rejected(self, name: str) -> set[int]:
        return {ms for client_id, _, ms in self._postgres.rejections if client_id == name}

    def _on_top(self, shown: Shown, key: RowKey, writes: Sequence[RowWrite]) -> None:
        version = self._postgres.row_at(key, shown.lsn)
        name = shown.device.name
        # What Postgres had applied by then is in what it had. What it has refused is shown until its echo comes, and so
        # is a delete of what it has kept for others.
        later = [write for write in writes if not self._carried_out(name, write, key, shown.lsn)]
        state = _after(shown, key, version.state, later)
        expected = None if state.row is None else on_device(key[0], state.row)
        row = shown.rows.get(key)
        if row == expected:
            return
        kept = _after(shown, key, version.state, [write for write in later if write.tag.ms not in shown.told]).row
        if kept is not None and row == on_device(key[0], kept):
            return  # it knows that its delete has been decided, and has been sent what was kept
        if expected is None and self.keeps(shown, key, state):
            self._undone[name, key] = writes[-1].tag
            return
        reason = self._excuse(shown, key, writes, expected)
        if reason is None:
            self._report(
                f"{shown.device.name} at {shown.lsn} shows {named(key)} as {row}: with its own writes on top of what "
                f"Postgres had it is {expected}"
            )
        else:
            self.excused[reason] += 1

    def keeps(self, shown: Shown, key: RowKey, state: RowState) -> bool:
        """Whether the row, which is gone by ``state``, may be here for one that refers to it."""
        if shown.keeps(key, state.tombstone):
            return True
        if self._keeps_refused(shown, key, state.tombstone):
            self.excused["refused, and the row stays as it was shown, for one that refers to it"] += 1
            return True
        if not any(key in image.rows or key[0] in image.tables for image in self._images_of(shown)):
            return False
        before = [version.row for version in self._postgres.versions[key] if version.lsn <= shown.lsn]
        within = (row for commit in self._postgres.wal if commit.head.lsn <= shown.lsn for row in _written(commit, key))
        kept = any(shown.keeps(key, row) for row in chain(before, within) if row is not None)
        self.excused["an image does not say what a row was when it was deleted"] += kept
        return kept

    def _keeps_refused(self, shown: Shown, key: RowKey, content: Row | None) -> bool:
        """Whether the row, which was ``content``, is otherwise only where refused transactions have changed it. What it
        referred to may have gone when it did so no longer."""
        row, name = shown.rows.get(key), shown.device.name
        if row is None or content is None or key not in shown.referred:
            return False
        before = on_device(key[0], content)
        refused: set[int] = set().union(*(self._changed.get((name, ms, key), ()) for ms in self._rejected(name)))
        return all(column in refused for column in range(len(row)) if row[column] != before[column])

    def _carried_out(self, name: str, write: RowWrite, key: RowKey, lsn: int) -> bool:
        commit = self._postgres.decided.get((name, write.tag.ms))
        if commit is None or commit.head.origin is None or commit.head.lsn > lsn:
            return False
        return not commit.keeps(key) or self._written_since(write.tag, key, lsn)

    def _written_since(self, tag: Tag, key: RowKey, lsn: int) -> bool:
        """Whether whoever wrote as of ``tag`` has written to the row later, and that is carried out. A delete that the
        row was kept from has not seen that write, and does not hide it."""
        versions = [
            version for version in self._postgres.versions[key] if version.lsn <= lsn and version.row is not None
        ]
        return any(version.writer.origin == tag.origin and version.writer > tag for version in versions)

    def stands(self, shown: Shown, key: RowKey, column: int) -> bool:
        """Whether the device's own value stands in the column although somebody else holds it: the row has come, as it
        was, since he wrote that, and the device's write was on its way then."""
        register = next((tied for tied in shown.tied(key[0]) if column in tied), (column,))
        writes = [write for write in shown.pending.get(key, ()) if any(write.modified[other] for other in register)]
        row, holder = shown.rows.get(key), self._postgres.row_at(key, shown.lsn).state.column_tag(column)
        if not writes or row is None or holder.origin == shown.device.name:
            return False
        return row[column] == on_device(key[0], writes[-1].row)[column] and any(
            key in image.rows
            and writes[-1].tag.ms in image.met
            and self._postgres.row_at(key, image.lsn).state.column_tag(column).ms == holder.ms
            for image in self._images_of(shown)
        )

    def _only_stands(self, shown: Shown, key: RowKey, expected: Values | None) -> bool:
        row = shown.rows.get(key)
        if row is None or expected is None:
            return False
        different = [column for column, cell in enumerate(expected) if row[column] != cell]
        return all(self.stands(shown, key, column) for column in different)

    def _imaged_gone(self, shown: Shown, key: RowKey, expected: Values | None) -> bool:
        """Whether what is otherwise than ``expected`` are columns of a row that had been deleted when an image came of
        all there is, and that stays for the device's own write: as they once were, or as it has written them."""
        versions, row = self._versions(key, shown.lsn), shown.rows.get(key)
        if row is None or expected is None or not versions or versions[-1].row is not None:
            return False
        if not any(key[0] in image.tables and versions[-1].lsn <= image.lsn for image in self._images_of(shown)):
            return False
        before = [on_device(key[0], version.row) for version in versions if version.row is not None]
        written = [(write.modified, on_device(key[0], write.row)) for write in shown.pending[key]]
        return all(
            any(row[column] == old[column] for old in before)
            or any(modified[column] and row[column] == own[column] for modified, own in written)
            for column, cell in enumerate(expected)
            if row[column] != cell
        )

    def _delete_stands(self, shown: Shown, key: RowKey, write: RowWrite) -> bool:
        """Whether the device's delete hides a row that has come, as it was, and has no tags but Postgres'. Where it is
        here for another row that refers to it, it is as it was deleted."""
        there, row = self._postgres.row_at(key, shown.lsn), shown.rows.get(key)
        hidden = row is None or (key in shown.referred and row == on_device(key[0], write.row))
        untracked = all(tag.origin == POSTGRES_ORIGIN for tag in there.state.tags)
        return (write.kind == "delete" and hidden and untracked) and any(
            key in image.rows and write.tag.ms in image.met and there.lsn <= image.lsn
            for image in self._images_of(shown)
        )

    def _is_without_refused(self, shown: Shown, key: RowKey, writes: Sequence[RowWrite]) -> bool:
        """Whether the row is as Postgres had it, with those of ``writes`` on top that were not refused before a later
        transaction of the device which has come back, or of which it has been told that it is carried out."""
        name = shown.device.name
        back = max((*(ms for author, ms in self._left_by if author == name), *shown.told), default=0)
        refused = {ms for ms in self._rejected(name) if ms < back}
        if refused.isdisjoint(write.tag.ms for write in writes):
            return False
        there = self._postgres.row_at(key, shown.lsn).state
        left = (write for write in writes if not self._carried_out(name, write, key, shown.lsn))
        state = _after(shown, key, there, (write for write in left if write.tag.ms not in refused))
        return shown.rows.get(key) == (None if state.row is None else on_device(key[0], state.row))

    def _beaten_by_return(self, shown: Shown, key: RowKey, expected: Values | None) -> bool:
        """Whether what is otherwise than ``expected`` are columns of a row that a compensation of somebody else made or
        brought back, later than the device's own write: the stream has an insert, by his time, of what he wrote not."""
        versions, row = self._versions(key, shown.lsn), shown.rows.get(key)
        if row is None or expected is None or not versions or versions[-1].row is None:
            return False
        there = on_device(key[0], versions[-1].row)
        return all(
            row[column] == there[column]
            and any(
                old.row is None
                and new.row is not None
                and new.state.column_tag(column) != new.writer
                and all(write.tag < new.writer for write in shown.pending[key] if write.modified[column])
                for old, new in pairwise((NOTHING, *versions))
            )
            for column, cell in enumerate(expected)
            if row[column] != cell
        )

    def _unsaid(self, shown: Shown, write: RowWrite) -> bool:
        """Whether nobody tells the device that this is carried out: it is of the old line, or was not connected when
        one came by that has no rows for it."""
        if not takes_extensions(shown.device.protocol):
            return True
        changes = self._postgres.decided[shown.device.name, write.tag.ms].changes
        some = any(not isinstance(change, Truncated) and change.relation_id in shown.held for change in changes)
        return write.tag.ms not in shown.told and not some

    def splits(self, shown: Shown, key: RowKey) -> bool:
        """Whether a write of the device's to the row has been carried out, and nobody tells it before the echo: until
        then it is shown in place of what followed."""
        return any(
            self._carried_out(shown.device.name, write, key, shown.lsn) and self._unsaid(shown, write)
            for write in shown.pending.get(key, ())
        )

    def _comes_with_later(self, shown: Shown, key: RowKey, writes: Sequence[RowWrite], expected: Values | None) -> bool:
        """Whether what is otherwise than ``expected`` are columns that the device wrote in transactions which have come
        back, and the row comes with a later one of ``writes``, which was on its way then."""
        name, left, row = shown.device.name, {write.tag.ms for write in writes}, shown.rows.get(key)
        if row is None or expected is None:
            return False
        back = [ms for (author, ms), still in self._left_by.items() if author == name and still & left]
        written: set[int] = set().union(*(self._changed.get((name, ms, key), ()) for ms in back))
        return all(column in written for column, cell in enumerate(expected) if row[column] != cell)

    def _imaged_untold(self, shown: Shown, key: RowKey, write: RowWrite) -> bool:
        """Whether the write, which is carried out, was when an image came that has it in it, and nobody has told: the
        device was away when the stream came by it."""
        lsn = self._postgres.decided[shown.device.name, write.tag.ms].head.lsn
        return write.tag.ms not in shown.told and any(
            (key in image.rows or key[0] in image.tables) and write.tag.ms in image.met and lsn <= image.lsn
            for image in self._images_of(shown)
        )

    def _excuse(self, shown: Shown, key: RowKey, writes: Sequence[RowWrite], expected: Values | None) -> str | None:
        name = shown.device.name
        refused, left = self._rejected(name), {write.tag.ms for write in writes}
        together = {ms for ms in refused - left if self._left_by.get((name, ms), set()) & left}
        if any((name, ms, key) in self._changed for ms in together):
            # A row that several transactions name comes with the last of them.
            return "refused, and the row comes with a later transaction"
        if self._comes_with_later(shown, key, writes, expected):
            return "carried out, and the row comes with a later transaction"
        if self._came_back_before(name, key, writes):
            return BACK_BEFORE
        if self._is_without_refused(shown, key, writes):
            # Transactions are decided in their order: what was written before one that has come back is decided.
            return "refused, and what comes once a later one of its author has come back is without it"
        if self.splits(shown, key):
            return "carried out, and nothing tells before its echo"
        if any(
            self._carried_out(name, write, key, shown.lsn) and self._imaged_untold(shown, key, write)
            for write in writes
        ):
            return "carried out before an image of it came, which does not say so"
        there = self._postgres.row_at(key, shown.lsn).state
        if there.row is None and there.tombstone is None and key in self._postgres.versions:
            # The device was told what was there, and Postgres does not know it when the write comes.
            return "TRUNCATE leaves nothing that a row could come back with"
        if expected is None and self._undone.get((name, key)) == writes[-1].tag:
            return "its delete has been undone for a row that went later"
        if self._only_stands(shown, key, expected):
            return "an image does not say who wrote a column"
        if self._imaged_gone(shown, key, expected):
            return "an image does not say what a row was when it was deleted"
        if self._delete_stands(shown, key, writes[-1]):
            # Its tag is that of the time when it was read, so it could as well have been written before the delete.
            return "an image does not say when direct SQL wrote a row, so a delete stands"
        if self._beaten_by_return(shown, key, expected):
            return "a row that comes back for its child comes as if all of it had been written"
        since = min(self._written_at.get((name, ms), 0) for ms in left)
        if any(_undated_end(version) for version in self._versions(key, shown.lsn) if version.lsn > since):
            return "a row that is gone does not say as of when it was written"
        if self._written_again(shown, key, expected):
            return "the value that was there has been written again, which nobody sees"
        return None

    def _came_back_before(self, name: str, key: RowKey, writes: Sequence[RowWrite]) -> bool:
        """Whether a write to the row is on the way no longer that was made after a refused one of ``writes``."""
        left = {write.tag.ms for write in writes}
        back = {ms for author, ms, written in self._changed if (author, written) == (name, key)} - left
        return any(ms > min(left & self._rejected(name), default=ms) for ms in back)

    def _versions(self, key: RowKey, lsn: int) -> list[Version]:
        return [version for version in self._postgres.versions.get(key, ()) if version.lsn <= lsn]

    def _written_again(self, shown: Shown, key: RowKey, expected: Values | None) -> bool:
        """Whether what is otherwise than ``expected`` are columns that have been written without being changed."""
        versions = self._versions(key, shown.lsn)
        row = shown.rows.get(key)
        if row is None or expected is None:
            return False
        return all(
            any(
                old.row is not None
                and new.row is not None
                and old.row[column] == new.row[column]
                and old.state.column_tag(column) != new.state.column_tag(column)
                for old, new in pairwise(versions)
            )
            for column in range(len(row))
            if row[column] != expected[column]
        )

    def at_the_end(self, devices: Iterable[SimDevice]) -> None:
        decided: dict[str, list[tuple[int, int]]] = {}
        for (name, ms), commit in self._postgres.decided.items():
            decided.setdefault(name, []).append((int(commit.head.lsn), ms))
        for device in devices:
            order = [ms for _, ms in sorted(decided.get(device.name, []))]
            wrote = list(device.journal.values())
            if order != wrote:
                self._report(f"Postgres decided the transactions of {device.name} as {order}, written as {wrote}")
            for lsn, ms in decided.get(device.name, []):
                if lsn <= self._written_at.get((device.name, ms), 0):
                    self._report(f"the transaction of {device.name} of {ms} came before what it had seen")
        for commit in self._postgres.wal:
            for op in commit.ops:
                self._sent(commit.head, op)

    def _sent(self, head: TransactionHead, op: dict[str, Any]) -> None:
        """An update says nothing of columns that it has not changed: they are for others to write."""
        row = tuple(None if cell is None else cell.encode() for cell in op["row"])
        key = (op["rel"], RELATIONS[op["rel"]].key_of(row))
        changed = self._changed.get((head.author, head.authored_ms, key), set())
        if op["op"] == "U" and not {column for column, said in enumerate(op["modified"]) if said} <= changed:
            said = op["modified"]
            self._report(f"{head.author} says it has changed {said} of {named(key)}, it has {sorted(changed)}")


def _written(commit: Commit, key: RowKey) -> Iterable[Row]:
    """What a row was within a transaction, which may have emptied its table in the end."""
    for change in commit.changes:
        if (
            isinstance(change, Insert | Update)
            and change.relation_id == key[0]
            and RELATIONS[key[0]].key_of(change.row) == key[1]
        ):
            yield change.row


def _undated_end(version: Version) -> bool:
    """Whether the row has been written and deleted by somebody whose clock was further ahead than the bound: the time
    of his transaction is told, and of rows that have his tag what they count as of. It is there without that where he
    had not seen all of it."""
    author, state = version.writer, version.state
    deleted = version.row is None or all(tag.origin != author.origin for tag in state.tags)
    return deleted and any(tag.origin == author.origin and tag.ms < author.ms for tag in state.column_tags)


def _after(shown: Shown, key: RowKey, state: RowState, writes: Iterable[RowWrite]) -> RowState:
    """The row after the device's writes to it, as the server applies them, as far as the device knows how."""
    for write in writes:
        if write.kind != "delete" or state.row is not None:
            state = apply_write(state, write, shown.tied(key[0]))
    return state
