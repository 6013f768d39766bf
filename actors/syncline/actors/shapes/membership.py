"""Which rows belong to a shape after a transaction, and what devices are told of it. Pure.

A row is *at a node* of the shape's tree because of its own content and of a row at the node above. It is *held* if it
is at some node, or if a held row refers to it, directly or through others. What is held before the transaction is known
(``Held``); so is what the transaction changed (``Net``). The work goes from the root down, and looks only at rows that
changed and at those that hang on them:

1. node by node, in the order of the tree: the rows that changed, and those that hang on a row which came to the node
   above or left it, are looked at anew;
2. what has come or changed may refer to rows that are not held: they come, and what they refer to;
3. what has lost its place at all nodes, or somebody who referred to it, stays if somebody at a node still leads to it.
   Rows that refer to each other in a circle do not keep each other: the search goes back along references until it
   meets a row at a node, and if it meets none, all it has seen leaves.

Rows that nobody knows of here may have to come: those that hung on a row before it came, and those it refers to. Where
``known`` has no answer the question is noted and the walk goes on, so that the next round asks everything at once; what
it finds counts only when no question is left. A row that the transaction itself inserted had nothing hanging on it
before, for a foreign key lets nothing refer to what is not there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping

from syncline.actors.shapes.tree import Places, Reach, RowId, Tree, Value, value_of
from syncline.actors.shapes.treevalues import Held, HeldRow, Judge, Known, Needs, Net, Query, Step, Tags
from syncline.proto.values import Delete, Gone, Insert, Key, Row, RowChange, Update

STEP_ROWS = 100  # decided on between two pauses: some milliseconds' worth
_GLANCED_ROWS = 2_000  # the same, where little is done with each


def advancing(
    tree: Tree,
    held: Held,
    net: Mapping[RowId, Net],
    known: Known,
    judge: Judge,
    *,
    truncates: bool = False,
) -> Generator[None, None, Step | Needs]:
    """What ``net`` does to a shape that holds ``held``. ``truncates``: tables were emptied first. A shape that was late
    to what was in them may hold rows that refer to some which it could not have: so if such a row is inserted anew,
    what it refers to comes, although it refers to nothing else than before.

    It yields after every ``STEP_ROWS`` rows or so: a subtree may have very many. What ``held`` and ``known`` say must
    stay the same until the end."""
    walk = _Walk(tree, held, net, known, judge, truncates=truncates)
    yield from walk.nodes()
    yield from walk.references()
    yield from walk.doubts()
    if walk.queries or walk.judgements:
        return Needs(frozenset(walk.queries), frozenset(walk.judgements))
    yield from walk.outcome()
    return walk.step()


class _Walk:
    def __init__(
        self, tree: Tree, held: Held, net: Mapping[RowId, Net], known: Known, judge: Judge, *, truncates: bool
    ) -> None:
        self._tree = tree
        self._truncates = truncates
        self._held = held
        self._net = {id: change for id, change in net.items() if id[0] in tree.relations}
        self._known = known
        self._judge = judge
        self.queries: set[Query] = set()
        self.judgements: set[tuple[int, Row]] = set()
        self._seen: dict[RowId, HeldRow | None] = {}  # the answers of ``held``, which are asked for often
        self._met: dict[RowId, tuple[Row, Tags]] = {}  # rows that were not held and did not change
        self._at: list[dict[Key, bool]] = [{} for _ in tree.nodes]  # of the rows that were looked at: are they there
        self._at_index: dict[tuple[int, Places], set[Value]] = {}
        self._net_index: dict[tuple[int, Places], dict[Value, list[Key]]] = {}
        self._stays: dict[RowId, bool] = {}  # of the rows that were looked at: are they held
        self._stays_index: dict[tuple[int, Places], dict[Value, list[RowId]]] = {}
        self._new_index: dict[tuple[int, Places], dict[Value, list[Key]]] = {}
        self._supported: set[RowId] = set()
        self._walked = 0
        self._changes: list[RowChange] = []
        self._gone: list[Insert] = []
        self._now_held: dict[RowId, HeldRow] = {}
        self._left: list[RowId] = []

    def _tired(self) -> bool:
        """Whether it is time for a pause: after each row that was worked on."""
        self._walked += 1
        return self._walked % STEP_ROWS == 0

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _before(self, id: RowId) -> HeldRow | None:
        if id not in self._seen:
            self._seen[id] = self._held.get(id)
        return self._seen[id]

    def _row(self, id: RowId) -> Row | None:
        """After the transaction; of a row that was met, changed or held."""
        change = self._net.get(id)
        if change is not None:
            return change.new
        met = self._met.get(id)
        if met is not None:
            return met[0]
        before = self._before(id)
        return None if before is None else before.row

    def _changed(self, relation_id: int, places: Places, value: Value) -> list[Key]:
        """The rows that the transaction left with ``value``."""
        if (relation_id, places) not in self._net_index:
            for _ in self._index_net(relation_id, places):
                pass
        return self._net_index[relation_id, places].get(value, [])

    def _index_net(self, relation_id: int, places: Places) -> Iterator[None]:
        index: dict[Value, list[Key]] = {}
        for step, ((id, key), change) in enumerate(self._net.items()):
            if id == relation_id and change.new is not None:
                found = value_of(change.new, places)
                if found is not None:
                    index.setdefault(found, []).append(key)
            if step % _GLANCED_ROWS == _GLANCED_ROWS - 1:
                yield
        self._net_index[relation_id, places] = index

    def _all_with(self, relation_id: int, places: Places, value: Value) -> Iterator[Key]:
        """Every row with ``value``, as far as that is known."""
        yield from self._changed(relation_id, places, value)
        query = Query(relation_id, places, value)
        answer = self._known(query)
        if answer is None:
            self.queries.add(query)
            return
        for row, tags in answer:
            key = self._tree.relations[relation_id].key_of(row)
            if (relation_id, key) not in self._net:
                self._met.setdefault((relation_id, key), (row, tags))
                yield key

    def _one_with(self, relation_id: int, places: Places, value: Value) -> Key | None:
        """The row with ``value``, which is unique, as far as that is known."""
        for key in self._changed(relation_id, places, value):
            return key
        for key in self._held.find(relation_id, places, value):
            if (relation_id, key) not in self._net:
                return key
        if self._tree.is_key(relation_id, places):
            key = self._tree.key_at(relation_id, places, value)
            if (relation_id, key) in self._net:
                return None  # it was deleted
            if (relation_id, key) in self._met:
                return key
        return next(self._all_with(relation_id, places, value), None)

    # --- 1. nodes -----------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[None]:
        """Which of the rows that have to be looked at are where."""
        by_relation: dict[int, dict[Key, None]] = {}
        for relation_id, key in self._net:
            by_relation.setdefault(relation_id, {})[key] = None
        for relation_id, all in self._tree.looked_up.items():
            if len(by_relation.get(relation_id, ())) > STEP_ROWS:
                for places in all:
                    yield from self._index_net(relation_id, places)
        for n, node in enumerate(self._tree.nodes):
            candidates = dict(by_relation.get(node.relation_id, {}))
            if n:
                if len(self._at[node.above]) > STEP_ROWS:
                    yield from self._index_at(node.above, node.theirs)
                for key in self._hanging(n):
                    candidates[key] = None
                    if self._tired():
                        yield
            at = self._at[n]
            for key in candidates:
                at[key] = self._belongs(n, key)
                if self._tired():
                    yield

    def _hanging(self, n: int) -> Iterator[Key]:
        """Of the rows at or for node ``n``, those that hang on rows which came to the node above, left or changed."""
        node = self._tree.nodes[n]
        above = self._tree.nodes[node.above].relation_id
        for key, is_there in self._at[node.above].items():
            id = (above, key)
            before = self._before(id)
            was_there = before is not None and bool(before.nodes >> node.above & 1)
            old = value_of(before.row, node.theirs) if before is not None and was_there else None
            row = self._row(id) if is_there else None
            new = value_of(row, node.theirs) if row is not None else None
            if old == new:
                continue
            if old is not None:
                for hanging in self._held.find(node.relation_id, node.own, old):
                    if self._was_at(n, hanging):
                        yield hanging
            if new is not None and node.many:
                born = id in self._net and self._net[id].old is None
                find = self._changed if born else self._all_with
                yield from find(node.relation_id, node.own, new)
            elif new is not None:
                one = self._one_with(node.relation_id, node.own, new)
                if one is not None:
                    yield one

    def _was_at(self, n: int, key: Key) -> bool:
        before = self._before((self._tree.nodes[n].relation_id, key))
        return before is not None and bool(before.nodes >> n & 1)

    def _belongs(self, n: int, key: Key) -> bool:
        node = self._tree.nodes[n]
        row = self._row((node.relation_id, key))
        if row is None:
            return False
        if n:
            value = value_of(row, node.own)
            if value is None or not self._somebody_at(node.above, node.theirs, value):
                return False
        judgement = self._judge(n, row)
        if judgement is None:
            self.judgements.add((n, row))
        return bool(judgement)

    def _somebody_at(self, n: int, places: Places, value: Value) -> bool:
        relation_id, at = self._tree.nodes[n].relation_id, self._at[n]
        if (n, places) not in self._at_index:
            for _ in self._index_at(n, places):
                pass
        if value in self._at_index[n, places]:
            return True
        others = (key for key in self._held.find(relation_id, places, value) if key not in at)
        return any(self._was_at(n, key) for key in others)

    def _index_at(self, n: int, places: Places) -> Iterator[None]:
        relation_id = self._tree.nodes[n].relation_id
        index: set[Value] = set()
        for step, (key, is_there) in enumerate(self._at[n].items()):
            row = self._row((relation_id, key)) if is_there else None
            value = value_of(row, places) if row is not None else None
            if value is not None:
                index.add(value)
            if step % _GLANCED_ROWS == _GLANCED_ROWS - 1:
                yield
        self._at_index[n, places] = index

    def _bits(self, id: RowId) -> int:
        """The nodes where the row is after the transaction."""
        relation_id, key = id
        before = self._before(id)
        bits = 0 if before is None else before.nodes
        for n in self._tree.nodes_of[relation_id]:
            is_there = self._at[n].get(key)
            if is_there is not None:
                bits = bits | 1 << n if is_there else bits & ~(1 << n)
        return bits

    # --- 2. references ------------------------------------------------------------------------------------------------

    def references(self) -> Iterator[None]:
        """What comes because something refers to it."""
        touched: dict[RowId, None] = dict.fromkeys(self._net)
        for n, node in enumerate(self._tree.nodes):
            touched.update(dict.fromkeys((node.relation_id, key) for key in self._at[n]))
        coming: deque[RowId] = deque()
        for id in touched:
            exists = self._row(id) is not None
            # What was held without a node, and lives, stays until somebody says otherwise.
            self._stays[id] = exists and (bool(self._bits(id)) or self._before(id) is not None)
            if self._stays[id]:
                coming.append(id)
            if self._tired():
                yield
        while coming:
            id = coming.popleft()
            if self._tired():
                yield
            for reach, value in self._new_references(id):
                key = self._one_with(reach.parent_id, reach.theirs, value)
                if key is None:
                    continue
                parent = (reach.parent_id, key)
                if not self._stays.get(parent, self._before(parent) is not None):
                    self._stays[parent] = True
                    coming.append(parent)

    def _new_references(self, id: RowId) -> Iterator[tuple[Reach, Value]]:
        row, before = self._row(id), self._before(id)
        assert row is not None
        for reach in self._tree.from_[id[0]]:
            value = value_of(row, reach.own)
            if value is None:
                continue
            if self._truncates or before is None or value_of(before.row, reach.own) != value:
                yield reach, value

    # --- 3. doubts ----------------------------------------------------------------------------------------------------

    def doubts(self) -> Generator[None, None, None]:
        """What leaves because nothing leads to it any more."""
        for id, stays in self._stays.items():
            row = self._row(id) if stays else None
            if row is not None:
                self._index(id, row)
            if self._tired():
                yield
        doubtful: deque[RowId] = deque()
        for id, stays in self._stays.items():
            before = self._before(id)
            if before is None:
                continue
            if stays and before.nodes:
                doubtful.append(id)
            doubtful.extend(self._let_go(id, before.row, self._row(id) if stays else None))
            if self._tired():
                yield
        while doubtful:
            id = doubtful.popleft()
            if self._tired():
                yield
            if not self._is_held(id) or self._bits(id) or id in self._supported:
                continue
            seen = yield from self._unsupported(id)
            for leaving in seen:
                if self._tired():
                    yield
                row = self._row(leaving)
                assert row is not None
                self._stays[leaving] = False
                doubtful.extend(self._let_go(leaving, row, None))

    def _index(self, id: RowId, row: Row) -> None:
        for reach in self._tree.from_[id[0]]:
            value = value_of(row, reach.own)
            if value is not None:
                self._stays_index.setdefault((id[0], reach.own), {}).setdefault(value, []).append(id)
        if self._before(id) is None:
            for places in {reach.theirs for reach in self._tree.to[id[0]]}:
                value = value_of(row, places)
                if value is not None:
                    self._new_index.setdefault((id[0], places), {}).setdefault(value, []).append(id[1])

    def _is_held(self, id: RowId) -> bool:
        stays = self._stays.get(id)
        return self._before(id) is not None if stays is None else stays

    def _let_go(self, id: RowId, old: Row, new: Row | None) -> Iterator[RowId]:
        """What the row referred to and does not refer to now."""
        for reach in self._tree.from_[id[0]]:
            value = value_of(old, reach.own)
            if value is not None and (new is None or value_of(new, reach.own) != value):
                for key in self._held.find(reach.parent_id, reach.theirs, value):
                    yield (reach.parent_id, key)
                for key in self._new_index.get((reach.parent_id, reach.theirs), {}).get(value, ()):
                    yield (reach.parent_id, key)

    def _unsupported(self, id: RowId) -> Generator[None, None, Iterable[RowId]]:
        """Nothing, if somebody at a node leads to the row; else all that lead to it, and itself."""
        seen = {id: None}
        stack = [id]
        while stack:
            row = self._row(stack[-1])
            assert row is not None
            if self._tired():
                yield
            for referring in self._referring(stack.pop(), row):
                if self._bits(referring) or referring in self._supported:
                    self._supported.add(id)
                    return ()
                if referring not in seen:
                    seen[referring] = None
                    stack.append(referring)
        return seen

    def _referring(self, id: RowId, row: Row) -> Iterator[RowId]:
        for reach in self._tree.to[id[0]]:
            value = value_of(row, reach.theirs)
            if value is None:
                continue
            for other in self._stays_index.get((reach.relation_id, reach.own), {}).get(value, ()):
                if self._stays[other]:
                    yield other
            for key in self._held.find(reach.relation_id, reach.own, value):
                if (reach.relation_id, key) not in self._stays:
                    yield (reach.relation_id, key)

    # --- what comes of it ---------------------------------------------------------------------------------------------

    def outcome(self) -> Iterator[None]:
        """What ``step`` then says."""
        for id, stays in self._stays.items():
            self._note(id, stays=stays)
            if self._tired():
                yield

    def _note(self, id: RowId, *, stays: bool) -> None:
        before, change, row = self._before(id), self._net.get(id), self._row(id)
        if stays:
            assert row is not None
            bits = self._bits(id)
            if before is None:
                tags = self._met[id][1] if change is None else change.tags
                self._changes.append(Insert(id[0], row, tags))
            elif change is not None:
                self._changes.append(Update(id[0], row, before.row, change.tags))
            if before is None or change is not None or before.nodes != bits:
                self._now_held[id] = HeldRow(row, bits)
        elif before is not None:
            self._left.append(id)
            if row is None:
                self._changes.append(Delete(id[0], before.row))
            else:
                self._changes.append(Gone(id[0], self._tree.relations[id[0]].key_row(id[1])))
                self._gone.append(Insert(id[0], row))

    def step(self) -> Step:
        return Step(tuple(self._changes), tuple(self._gone), self._now_held, tuple(self._left))
