"""Which changes concern a tree at all, told without looking into its files. Pure.

A change does nothing to a tree unless it is of a row that is held, or the row it leaves belongs to the shape's own
table and may satisfy its clause, or refers to a row that is held (or is what held rows refer to) along an edge of the
tree. A transaction without any such change brings nothing, takes nothing away and needs nothing to be asked: whatever
hangs on its rows is not held either.

The keys of what is held, and the values by which rows below would find it, are kept in a Bloom filter: in doubt a
change concerns the tree. What leaves stays in the filter, so it is made again when it has grown by half.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.actors.postgres.streamed import StreamChange, Truncated
from syncline.actors.shapes.tree import Places, RowId, Tree, value_of
from syncline.proto.values import Delete, Key, Row, Update

BITS_OF_ENTRY: Final = 16
PROBES: Final = 4  # then one in 400 is taken for one that is there
BITS_MIN: Final = 1 << 10


class Interest:
    """``rows``: how many of ``tree`` are held, which then have to be added. ``satisfies``: whether a row of the shape's
    own table satisfies its clause; None: nobody knows yet."""

    def __init__(self, tree: Tree, rows: int, satisfies: Callable[[Row], bool | None]) -> None:
        self.rows = rows
        self._tree = tree
        self._satisfies = satisfies
        self._root = tree.nodes[0].relation_id
        # Relation id -> the places of its rows by which others find them, besides the key.
        self._found_by: dict[int, tuple[Places, ...]] = {}
        # Relation id -> of its rows: the places that refer, to which table, and by which places there (key: empty).
        self._refers: dict[int, list[tuple[Places, int, Places]]] = {id: [] for id in tree.relations}
        for node in tree.nodes[1:]:
            above = tree.nodes[node.above].relation_id
            if tree.is_key(above, node.theirs):
                by_key = dict(zip(node.theirs, node.own, strict=True))
                own = tuple(by_key[place] for place in tree.relations[above].key_indexes)
                self._refers[node.relation_id].append((own, above, ()))
            else:
                self._found_by[above] = tuple({*self._found_by.get(above, ()), node.theirs})
                self._refers[node.relation_id].append((node.own, above, node.theirs))
        entries = rows * (1 + max(map(len, self._found_by.values()), default=0))
        size = BITS_MIN
        while size < 1.5 * BITS_OF_ENTRY * entries:
            size *= 2
        self._bits = bytearray(size >> 3)
        self._mask = size - 1
        self._room = size // BITS_OF_ENTRY

    @property
    def full(self) -> bool:
        """So much was added that more and more is taken for being there: time for another one."""
        return self._room < 0

    def add(self, id: RowId, row: Row) -> None:
        """A row is held."""
        self.add_key(id)
        for places in self._found_by.get(id[0], ()):
            value = value_of(row, places)
            if value is not None:
                self._put((id[0], places, value))

    def add_key(self, id: RowId) -> None:
        """A row was held."""
        self._put((id[0], (), id[1]))

    def __contains__(self, id: RowId) -> bool:
        """Whether the row may have been held at any time; never False for one that was added."""
        return self._holds(*id)

    def concerns(self, change: StreamChange) -> bool:
        """Whether the change may do something to a tree that holds what was added."""
        if isinstance(change, Truncated):
            return True
        relation = self._tree.relations.get(change.relation_id)
        if relation is None:
            return False
        match change:
            case Update(row=row, old_row=old):
                if old is None:
                    return True
                if self._holds(relation.id, relation.key_of(old)) or self._holds(relation.id, relation.key_of(row)):
                    return True
            case Delete(old_row=old):
                return self._holds(relation.id, relation.key_of(old))
            case _:
                row = change.row
                if self._holds(relation.id, relation.key_of(row)):
                    return True
        if relation.id == self._root and self._satisfies(row) is not False:
            return True
        for own, above, theirs in self._refers[relation.id]:
            value = value_of(row, own)
            if value is not None and self._has((above, theirs, value)):
                return True
        return False

    def _holds(self, relation_id: int, key: Key) -> bool:
        return self._has((relation_id, (), key))

    def _put(self, entry: tuple[int, Places, Key]) -> None:
        bits, mask = self._bits, self._mask
        at = hash(entry)
        step = (at >> 32) | 1
        for _ in range(PROBES):
            place = at & mask
            bits[place >> 3] |= 1 << (place & 7)
            at += step
        self._room -= 1

    def _has(self, entry: tuple[int, Places, Key]) -> bool:
        bits, mask = self._bits, self._mask
        at = hash(entry)
        step = (at >> 32) | 1
        for _ in range(PROBES):
            place = at & mask
            if not bits[place >> 3] >> (place & 7) & 1:
                return False
            at += step
        return True
