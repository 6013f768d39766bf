"""Where a tree is filled from: a snapshot of the database, or all the rows that its log and image have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

from syncline.actors.postgres.subtree import Subtree
from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.clauses import Clauses
from syncline.actors.shapes.filling import PART_ROWS, Found
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.image import TaggedRow, keys_of
from syncline.actors.shapes.tree import Places, Tree, Value
from syncline.proto.values import Insert


class Shown:
    """What ``subtree`` shows of ``tree``, whose nodes have ``clauses``."""

    def __init__(self, tree: Tree, subtree: Subtree, clauses: Clauses) -> None:
        self._tree = tree
        self._subtree = subtree
        self._clauses = clauses

    def at(self, n: int) -> Found | None:
        """Postgres finds the rows of a node itself, in one query, unless it cannot be let alone with a clause above."""
        above = self._tree.nodes[n].above
        while above >= 0:
            if not self.sure(above):
                return None
            above = self._tree.nodes[above].above
        return self._subtree.at(self._tree.nodes, n, self._clauses.sql)

    def sure(self, n: int) -> bool:
        """See ``Source``."""
        return n not in self._clauses or bool(self._clauses.sql(n))

    def having(self, relation_id: int, places: Places, values: Sequence[Value]) -> Found:
        """See ``Source``."""
        return self._subtree.having(relation_id, places, values)


class Stored:
    """Rows that are added first, in a file in ``directory``; then it is finished, and rows can be had. To be removed
    in the end."""

    def __init__(self, directory: Path, tree: Tree) -> None:
        self._path = directory / "holdings-all"
        self._tree = tree
        self._bulk = Bulk(directory / "holdings-all-new", tree)
        self._holdings: Holdings | None = None

    def add(self, rows: Iterable[object]) -> None:
        """Of ``rows`` the inserts; each row comes once."""
        of_tables: dict[int, list[TaggedRow]] = {}
        for change in rows:
            if isinstance(change, Insert):
                of_tables.setdefault(change.relation_id, []).append((change.row, ()))
        for id, fresh in of_tables.items():
            self._bulk.add(id, keys_of(fresh, self._tree.relations[id]), 0, [row for row, _ in fresh], once=True)

    async def finish(self) -> None:
        """That was all. Raises what ``Bulk.finish`` raises."""
        await asyncio.to_thread(self._bulk.finish)
        self._holdings = Holdings(self._path, self._tree)
        self._holdings.filled(self._bulk)

    def at(self, n: int) -> Found | None:
        """See ``Source``."""
        return None if n else self._all(self._tree.nodes[0].relation_id)

    def sure(self, n: int) -> bool:
        """See ``Source``."""
        return False

    async def _all(self, relation_id: int) -> Found:
        for part in self._there.parts_of(relation_id):
            yield [(row, ()) for _, row in part]

    async def having(self, relation_id: int, places: Places, values: Sequence[Value]) -> Found:
        """See ``Source``."""
        keys = [key for value in values for key in self._there.find(relation_id, places, value)]
        for at in range(0, len(keys), PART_ROWS):
            held = (self._there.get((relation_id, key)) for key in keys[at : at + PART_ROWS])
            yield [(one.row, ()) for one in held if one is not None]

    @property
    def _there(self) -> Holdings:
        assert self._holdings is not None, "finished"
        return self._holdings

    def remove(self) -> None:
        """It is not needed any more."""
        self._bulk.remove()
        if self._holdings is not None:
            self._holdings.close()
            self._holdings.remove()
