"""Rows that a snapshot showed, as they were at an earlier place in the stream. Pure.

A shape that stands at L needs rows it does not hold. A snapshot that shows them is later than L: others have committed
meanwhile, and the shape still has to come by that. But the stream brings those transactions too, with the image that
each change found, and the shape keeps them. Once the stream has come by the snapshot's mark, everything is there:

    the row as of L  =  what the first change after L found, if any change after L is of that row;
                        else what the last change up to L left, if one has passed since the snapshot was asked for;
                        else what the snapshot showed

It does not matter here which of the transactions the snapshot saw, as long as it saw all that had been streamed when
it was asked for. So one reading answers for every later place as well, as long as it is told what passes.

What Postgres had written to a row by the time of the snapshot is not what it had written by L: so the time in the tags
of such rows does not count.

Two things the stream cannot give back. The tags of a row that a later change found: they are those of a row nobody
wrote here, until that change comes by. And what was in a table before TRUNCATE, which no snapshot shows from then on,
and of which the stream says nothing: answers lack it (``lacking_upto``) until the shape has come by that, too. There
what they lack is gone, and with it all that it would have brought, so from there on the shape is exact again. What it
was in between nobody can tell any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence

from syncline.actors.postgres.streamed import UNTRACKED_TAGS, StreamChange, Truncated
from syncline.actors.shapes.tree import Places, RowId, Tree, Value, value_of
from syncline.actors.shapes.treevalues import Net, Query, Tags
from syncline.proto.values import POSTGRES_ORIGIN, Delete, Insert, Relation, Row, Update

STEP_ROWS = 1_000  # learnt between two pauses: a millisecond's worth


class _ByValue:
    """Which rows have, or had, a value at the places that anybody asks for; the same row may be put in twice."""

    def __init__(self, tree: Tree) -> None:
        self._places = tree.looked_up
        self._ids: dict[tuple[int, Places, Value], dict[RowId, int]] = {}

    def add(self, id: RowId, row: Row) -> None:
        for places in self._places[id[0]]:
            value = value_of(row, places)
            if value is not None:
                ids = self._ids.setdefault((id[0], places, value), {})
                ids[id] = ids.get(id, 0) + 1

    def remove(self, id: RowId, row: Row) -> None:
        for places in self._places[id[0]]:
            value = value_of(row, places)
            if value is not None:
                ids = self._ids[id[0], places, value]
                ids[id] -= 1
                if not ids[id]:
                    del ids[id]
                    if not ids:
                        del self._ids[id[0], places, value]

    def of(self, query: Query) -> Iterable[RowId]:
        return self._ids.get((query.relation_id, query.places, query.value), ())


def _undated(tag: str) -> str:
    return UNTRACKED_TAGS[0] if tag.startswith(f"{POSTGRES_ORIGIN}@") else tag


class _Untold:
    """What a change found after a TRUNCATE says nothing of what was there before that."""


_UNTOLD = _Untold()


class Later:
    """What the stream has brought and the shape has not come by: the image that each change found, by row."""

    def __init__(self, tree: Tree) -> None:
        self._relations = tree.relations
        self._at = 0
        self._found: dict[RowId, deque[tuple[int, Row | _Untold | None]]] = {}
        self._untold: dict[int, list[RowId]] = {}  # until there
        self._by_value = _ByValue(tree)
        self._truncated: dict[int, int] = {}  # relation id -> where its table is emptied last

    def came(self, lsn: int, changes: Iterable[StreamChange]) -> None:
        """The transaction at ``lsn`` waits behind those before."""
        for change in changes:
            if isinstance(change, Truncated):
                self._truncated.update(dict.fromkeys(change.relation_ids, lsn))
                continue
            if change.relation_id not in self._relations:
                continue
            relation = self._relations[change.relation_id]
            match change:
                case Insert(row=row):
                    self._note(lsn, relation, row, None)
                case Update(row=row, old_row=old):
                    before = row if old is None else old
                    if relation.key_of(before) != relation.key_of(row):
                        self._note(lsn, relation, row, None)
                    self._note(lsn, relation, before, before)
                case Delete(old_row=old):
                    self._note(lsn, relation, old, old)
                case _:
                    raise TypeError(f"the stream of Postgres has no {type(change).__name__}")

    def _note(self, lsn: int, relation: Relation, row: Row, found: Row | None) -> None:
        id = (relation.id, relation.key_of(row))
        waiting = self._found.setdefault(id, deque())
        truncated = self._truncated.get(relation.id, 0)
        if truncated > max(self._at, waiting[-1][0] if waiting else 0):
            waiting.append((truncated, _UNTOLD))
            self._untold.setdefault(truncated, []).append(id)
        waiting.append((lsn, found))
        if found is not None:
            self._by_value.add(id, found)

    def passed(self, lsn: int, ids: Iterable[RowId]) -> None:
        """The shape has come by the transaction at ``lsn``, which changed ``ids``."""
        self._at = lsn
        for truncated in [at for at in self._untold if at <= lsn]:
            self._forget(lsn, self._untold.pop(truncated))
        self._forget(lsn, ids)

    def _forget(self, lsn: int, ids: Iterable[RowId]) -> None:
        for id in ids:
            waiting = self._found.get(id)
            while waiting and waiting[0][0] <= lsn:
                _, found = waiting.popleft()
                if found is not None and not isinstance(found, _Untold):
                    self._by_value.remove(id, found)
            if waiting is not None and not waiting:
                del self._found[id]

    def truncated_upto(self, relation_id: int) -> int:
        """Where the table is emptied last, of what has come; 0 if it never was."""
        return self._truncated.get(relation_id, 0)

    def __contains__(self, id: RowId) -> bool:
        """Whether the row will change, and what it is before that is known."""
        return id in self._found and not isinstance(self._found[id][0][1], _Untold)

    def with_value(self, query: Query) -> Iterable[tuple[RowId, Row]]:
        """Of the rows that will change, those that ``query`` asks for, as they are before that."""
        for id in self._by_value.of(query):
            found = self._found[id][0][1]
            if isinstance(found, tuple) and value_of(found, query.places) == query.value:
                yield id, found


class Answers:
    """Answers of snapshots, kept true while the shape goes on. ``later``: what the shape has not come by.

    ``lacking_upto``: some of what was ``known`` lacks rows until the shape has come there. To be set to 0 by whoever
    asks."""

    def __init__(self, tree: Tree, later: Later) -> None:
        self._tree = tree
        self._later = later
        self.lacking_upto = 0
        self._shown: dict[Query, dict[RowId, tuple[Row, Tags]]] = {}
        self._lacking: dict[Query, int] = {}
        self._left: dict[RowId, tuple[Row | None, Tags]] = {}  # by what has passed since
        self._left_by_value = _ByValue(tree)

    def __len__(self) -> int:
        """How many queries have an answer."""
        return len(self._shown)

    def forget(self) -> None:
        """Nobody asks any more."""
        self._shown.clear()
        self._lacking.clear()
        self._left.clear()
        self._left_by_value = _ByValue(self._tree)

    def learn(self, answers: Mapping[Query, Sequence[tuple[Row, Tags]]]) -> None:
        """What a snapshot showed. The stream has come by its mark, and it showed all that had passed here when it was
        asked for: since then, whatever passed was told."""
        for _ in self.learning(answers):
            pass

    def learning(self, answers: Mapping[Query, Sequence[tuple[Row, Tags]]]) -> Generator[None, None, None]:
        """``learn``, which yields between some rows and the next. The shape may not come by anything meanwhile."""
        lacking = {id: self._later.truncated_upto(id) for id in self._tree.relations}
        walked = 0
        for query, rows in answers.items():
            relation = self._tree.relations[query.relation_id]
            shown: dict[RowId, tuple[Row, Tags]] = {}
            for row, tags in rows:
                shown[relation.id, relation.key_of(row)] = (row, tuple(map(_undated, tags)))
                walked += 1
                if walked % STEP_ROWS == 0:
                    yield
            self._shown[query] = shown
            self._lacking[query] = lacking[relation.id]

    def passed(self, net: Mapping[RowId, Net], emptied: Collection[int] = ()) -> None:
        """The shape has come by a transaction that did ``net`` and truncated the tables ``emptied``, whose rows in
        ``net`` are those that somebody holds: what nobody holds has gone with them."""
        if not self._shown:
            return  # a snapshot that is asked for from now on shows it
        for relation_id in emptied:
            self._empty(relation_id)
        for id, change in net.items():
            before = self._left.get(id)
            if before is not None and before[0] is not None:
                self._left_by_value.remove(id, before[0])
            self._left[id] = (change.new, change.tags)
            if change.new is not None:
                self._left_by_value.add(id, change.new)

    def _empty(self, relation_id: int) -> None:
        for query in [query for query in self._shown if query.relation_id == relation_id]:
            self._shown[query] = {}
        for id in [id for id in self._left if id[0] == relation_id]:
            row, _ = self._left.pop(id)
            if row is not None:
                self._left_by_value.remove(id, row)

    def known(self, query: Query) -> Sequence[tuple[Row, Tags]] | None:
        """The rows that ``query`` asks for, as of where the shape is; None if nobody asked."""
        shown = self._shown.get(query)
        if shown is None:
            return None
        self.lacking_upto = max(self.lacking_upto, self._lacking[query])
        rows = [(row, tags) for id, (row, tags) in shown.items() if id not in self._later and id not in self._left]
        for id in self._left_by_value.of(query):
            left, tags = self._left[id]
            if id not in self._later and left is not None:
                rows.append((left, tags))
        for id, found in self._later.with_value(query):
            same = shown.get(id)
            rows.append((found, same[1] if same is not None and same[0] == found else UNTRACKED_TAGS))
        return rows
