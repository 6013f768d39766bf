"""How Postgres decided between the writes to one column: by one order, that of their tags.

A second account of what came of them, which knows nothing of merging: it follows the operations of devices through the
WAL and remembers of each column the largest tag that has written it. A write with a smaller one changes nothing, any
other changes what it says, and no operation changes anything else. A row is there as long as it has a tag that no
operation had observed. So all replicas see the values of a column in one order, and no write is lost but to a later
one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tests.sim.postgres import KINDS, Commit, SimPostgres
from tests.sim.schema import RELATIONS, RowKey
from tests.sim.shown import named

from syncline.proto.merge import RowState, RowWrite
from syncline.proto.tags import UNRECORDED, Tag, format_tag, parse_tags
from syncline.proto.values import Row


class Arbiter:
    """One pass through the WAL of ``postgres``."""

    def __init__(self, postgres: SimPostgres) -> None:
        self._postgres = postgres
        # Per row and column the largest tag of a device; None: somebody else has written it since.
        self._largest: dict[tuple[RowKey, int], Tag | None] = {}
        self._buried: dict[RowKey, Row] = {}

    def wrong(self) -> Iterator[str]:
        for commit in self._postgres.wal:
            lsn = int(commit.head.lsn)
            writes: dict[RowKey, list[RowWrite]] = {}
            for op in commit.ops:
                write = _write(op, Tag(commit.head.author, commit.head.commit_ms))
                writes.setdefault((op["rel"], RELATIONS[op["rel"]].key_of(write.row)), []).append(write)
            for key in commit.before:
                before, after = commit.before[key].row, self._postgres.row_at(key, lsn).row
                if key in writes:
                    writes[key] = _counting(writes[key], commit.before[key])
                if key not in writes or key in commit.acted:
                    self._others(key, before, after)
                    self._buried.pop(key, None)
                    continue
                if before is not None and after is not None:
                    yield from self._columns(key, lsn, before, after, writes[key])
                elif after is not None:
                    yield from self._begin(key, lsn, after, writes[key])
                elif before is not None and all(write.kind == "delete" for write in writes[key]):
                    self._buried[key] = before
                yield from self._existence(key, lsn, commit, writes[key])

    def _others(self, key: RowKey, before: Row | None, after: Row | None) -> None:
        """Direct SQL, or the action of a foreign key."""
        for column in range(len(RELATIONS[key[0]].columns)):
            if before is None or after is None or before[column] != after[column]:
                self._largest[key, column] = None

    def _begin(self, key: RowKey, lsn: int, after: Row, writes: Sequence[RowWrite]) -> Iterator[str]:
        """The row comes. If devices have deleted it, it has the values from before but for what is written now."""
        again = self._postgres.versions[key][0].lsn < lsn
        buried = self._buried.pop(key, None)
        for column in range(len(after)):
            wrote = [write.tag for write in writes if write.modified[column]]
            self._largest[key, column] = max(wrote) if wrote and not again else None
            if not wrote and buried is not None and after[column] != buried[column]:
                name = RELATIONS[key[0]].names[column]
                yield f"at {lsn} {named(key)} came back with {after[column]!r} as {name}, it had {buried[column]!r}"

    def _columns(self, key: RowKey, lsn: int, before: Row, after: Row, writes: Sequence[RowWrite]) -> Iterator[str]:
        expected = list(before)
        for write in writes:
            if write.kind == "delete":
                return  # and there again: another row
            for column, modified in enumerate(write.modified):
                if not modified:
                    continue
                largest = self._largest.get((key, column), write.tag)
                if largest is None:
                    expected[column] = after[column]
                elif write.tag >= largest:
                    expected[column] = write.row[column]
                    self._largest[key, column] = write.tag
        for column, (wanted, found) in enumerate(zip(expected, after, strict=True)):
            if wanted != found:
                name = RELATIONS[key[0]].names[column]
                yield (
                    f"at {lsn} {format_tag(writes[-1].tag)} left {name} of {named(key)} as {found!r}, by the order of "
                    f"the tags it is {wanted!r}"
                )

    def _existence(self, key: RowKey, lsn: int, commit: Commit, writes: Sequence[RowWrite]) -> Iterator[str]:
        tags = set(commit.before[key].tags)
        for write in writes:
            tags = {tag for tag in tags if not _seen(tag, write)}
            if write.kind != "delete":
                tags.add(write.tag)
        version = self._postgres.row_at(key, lsn)
        if (version.row is not None) != bool(tags) or version.state.tags != tags:
            found = sorted(map(format_tag, version.state.tags))
            yield (
                f"at {lsn} {named(key)} is {version.row} with the tags {found}, "
                f"of which {sorted(map(format_tag, tags))} should be left"
            )


def _seen(tag: Tag, write: RowWrite) -> bool:
    """Whether the author knew of ``tag``, as far as the order of times goes: its own it knows."""
    if tag.origin == write.tag.origin:
        return True
    if tag == UNRECORDED and any(seen.origin != write.tag.origin for seen in write.observed):
        return True
    return any(seen.origin == tag.origin and seen.ms >= tag.ms for seen in write.observed)


def _counting(writes: Sequence[RowWrite], before: RowState) -> list[RowWrite]:
    """Each with the time as of which it counts: no earlier than what its author knew, whatever the clocks said."""
    known = {*before.tags, *before.column_tags}
    counted = []
    for write in writes:
        origin, ms = write.tag.origin, write.tag.ms
        ms = max([ms, *(tag.ms + (tag.origin != origin) for tag in known if _seen(tag, write))])
        counted.append(replace(write, tag=Tag(origin, ms)))
        known.add(counted[-1].tag)
    return counted


def _write(op: dict[str, Any], tag: Tag) -> RowWrite:
    row = tuple(None if cell is None else cell.encode() for cell in op["row"])
    modified = (True,) * len(row) if op["op"] == "I" else tuple(op["modified"])
    return RowWrite(KINDS[op["op"]], row, modified, tag, parse_tags(op["tags"]))  # type: ignore[arg-type]
