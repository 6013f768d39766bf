"""One live shape of several tables: the rows of each depend on those of others.

It works through whole transactions, one after the other, beside its mailbox: what a transaction does may depend on rows
that are not held, and then the shape rests where it is while they are fetched, and takes in what the stream brings
meanwhile. Those who follow it are told where it rests, and then the shard that it stands: so devices that do not hold
this shape go on. ``membership`` decides, ``rewind`` makes of rows fetched later rows as of here; this waits.

What a TRUNCATE has removed by the time it is fetched nobody has any more. The shape then works through to there without
it, and is exact again there; nobody is shown what it was in between. For those who follow it rests until it is through,
and all the transactions up to there, of all the shapes of a device, are given to it as one (``ShapeStore.tear``).

A shape that is new is filled from a snapshot, the rows of its own table a part at a time, each with what hangs on them.
What the snapshot does not show of the stream up to then comes on top, as if it were one transaction (``backlog``).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeAlias

from syncline.actors.postgres.catalog import TableGone
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.snapshot import TaggedRow, Visibility
from syncline.actors.postgres.streamed import StreamChange, TransactionHead
from syncline.actors.postgres.subtree import Subtree
from syncline.actors.shapes.asleep import Interesting, Kept, everything
from syncline.actors.shapes.backlog import Backlog
from syncline.actors.shapes.bulk import Bulk
from syncline.actors.shapes.concern import Concern, MaybeHeld
from syncline.actors.shapes.consumer import Consumer, ReadClauses, TakeSnapshot
from syncline.actors.shapes.filling import Filling, Source, Write
from syncline.actors.shapes.frames import for_edges
from syncline.actors.shapes.holdings import Holdings
from syncline.actors.shapes.image import ImageChunk
from syncline.actors.shapes.log import Record
from syncline.actors.shapes.membership import advancing
from syncline.actors.shapes.messages import HeldBelow, Piece, Standing
from syncline.actors.shapes.netting import Netting
from syncline.actors.shapes.paced import paced
from syncline.actors.shapes.rewind import Answers, Later
from syncline.actors.shapes.rows import RowsGone
from syncline.actors.shapes.sources import Shown, Stored
from syncline.actors.shapes.store import ShapeStore
from syncline.actors.shapes.tree import RowId, tree_of, value_of
from syncline.actors.shapes.treevalues import Known, Needs, Net, Query, Step
from syncline.cluster import ActorDown, CallTimeout, Exit, Ref
from syncline.proto import codec
from syncline.proto.values import Delete, Gone, Relation, Row, RowChange

log = logging.getLogger(__name__)

RECORD_CHANGES = 5_000
HELD_TIMEOUT_S = 60.0  # an edge answers at once; it may have a long way
# How far rows that will be needed are fetched ahead, in one snapshot, before anybody knows that they are needed.
AHEAD_LEVELS = 8
AHEAD_ROWS = 200  # looked at between two pauses: some milliseconds' worth


@dataclass(frozen=True, slots=True)
class Around:
    """What a shape of several tables needs of the world.

    ``first``: registers the shape with the router, so that its changes flow, and opens a snapshot that shows all that
    was streamed before; answers with it and its mark, which is committed. What it shows is said before that, for the
    snapshot may have to wait for its turn. ``later``: the same for a shape that stands at an LSN, of those of its
    tables that are left. All raise what the database and calls raise, and TableGone: ``first`` where one of the tables
    is gone, ``later`` where all are.
    """

    first: Callable[[Callable[[Visibility], object]], Awaitable[tuple[Subtree, str]]]
    later: Callable[[int], Awaitable[tuple[Subtree, str]]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What a whole transaction has for the shape. ``since``, ``until``: between which places of it; ``cut``: others may
    have it in several pieces."""

    head: TransactionHead
    changes: Sequence[StreamChange]
    since: int = 0
    until: int = 0
    cut: bool = False


_Upto: TypeAlias = int


class LogBroken(Exception):
    """The log could not be written to, and nobody knows what it has by now."""


class TreeConsumer(Consumer):
    """See the module."""

    def __init__(
        self,
        store: ShapeStore,
        relations: Sequence[Relation],
        take_snapshot: TakeSnapshot,
        shard: Ref,
        read_clauses: ReadClauses,
        around: Around,
    ) -> None:
        super().__init__(store, relations, take_snapshot, shard, read_clauses)
        self._tree = tree_of(store.shape, relations)
        self._around = around
        self._queue: deque[_Waiting | _Upto] = deque()
        self._unfinished: list[StreamChange] | None = None  # of the transaction that is coming in
        self._began = 0  # at which place of it
        self._came = 0  # the newest transaction that has come in whole
        self._at = 0  # where the shape is
        self._working: asyncio.Task[None] | None = None
        self._loading = False
        self._backlog: Backlog | None = None  # while it is filled
        self._resting: int | None = None  # where
        self._standing = False  # those who follow know of it, and the shard need not wait
        self._later = Later(self._tree)
        self._answers = Answers(self._tree, self._later)
        self._resumed: Kept | None = None

    async def init(self) -> None:
        await self._know_clauses()
        assert self._clauses is not None
        self._store.make_folder()
        self._holdings = Holdings(self._store.directory / "holdings", self._tree)
        self._concern = Concern(self._tree, self._holdings, partial(self._clauses.judge, 0))
        self._at = self._came = self._store.appended_lsn
        if self._store.ready_lsn is None:
            self._loading = True
            self._backlog = Backlog(self._tree)
        elif self._holdings.lsn != max(self._store.appended_lsn, self._store.ready_lsn):
            await self._hold_again(max(self._store.appended_lsn, self._store.ready_lsn))
        torn_from, torn_upto = self._store.torn
        if torn_upto > self._at:
            self._resting = torn_from - 1
        if self._resumed is not None and self._resumed.interest is not None:
            self._concern.known(self._resumed.interest)
        elif not self._loading:
            await self._concern.learn_soon(self._store.image_rows)
        self._resumed = None
        await super().init()

    async def terminate(self, reason: Exit) -> None:
        self._holdings.close()
        await super().terminate(reason)

    @property
    def may_sleep(self) -> bool:
        return super().may_sleep and self._resting is None and self._unfinished is None and not self._queue

    def kept(self) -> Kept:
        self._holdings.close()
        interest = self._concern.interest
        return Kept(everything if interest is None else Interesting(interest), self._clauses, interest)

    async def resume(self, kept: Kept) -> None:
        await super().resume(kept)
        self._resumed = kept

    async def _held_at(self, lsn: int, rows: Sequence[tuple[int, Row]]) -> Sequence[bool]:
        if lsn < self._store.final_lsn:
            raise RowsGone(f"what {self._shape.table} held at {lsn} is known no more")
        relations = self._tree.relations
        ids = ((id, relations[id].key_of(row) if id in relations else ()) for id, row in rows)
        return [self._concern.may_have_held(id) and self._holdings.held_at(id, lsn) for id in ids]

    def _packed(self, lsn: int) -> None:
        self._holdings.forget_moves(lsn)

    def concerning(self, pieces: Sequence[Piece | Record], *, at_rest: bool) -> Sequence[Piece | Record]:
        if not at_rest or self._loading:
            return pieces
        return self._concern.concerning(pieces, self._store.image_rows, self.background)

    # --- changes in ---------------------------------------------------------------------------------------------------

    async def _append(self, pieces: Sequence[Piece | Record], upto: int) -> None:
        for piece in pieces:
            assert isinstance(piece, Piece), "the stream brings rows"
            if piece.head.lsn <= self._came:
                continue
            if piece.first:
                self._unfinished, self._began = [], piece.since
            if self._unfinished is None:
                continue
            self._unfinished.extend(piece.changes)
            if piece.last:
                cut = not piece.first or piece.since > 0
                waiting = _Waiting(piece.head, self._unfinished, self._began, piece.until, cut)
                self._unfinished = None
                self._came = int(piece.head.lsn)
                if self._backlog is not None:
                    self._backlog.add(self._came, piece.head.xid, waiting.changes)
                    continue
                self._queue.append(waiting)
                self._later.came(self._came, waiting.changes)
        if self._loading:
            # Nobody follows yet, and who starts again begins anew: the others need not wait for this shape.
            self._appended(upto)
            return
        self._queue.append(upto)
        if self._standing:
            self._shard.inform(Standing(self._hash, upto))
        if self._working is None or self._working.done():
            self._working = self.background(self._work())

    async def _work(self) -> None:
        while self._queue:
            waiting = self._queue.popleft()
            if isinstance(waiting, _Waiting):
                arrived = await self._pass(waiting, self._netted(waiting))
                await self._tell(arrived)
                if self._resting is not None:
                    await self._rest(self._next_stop())
            if not any(isinstance(one, _Waiting) for one in self._queue):
                self._answers.forget()  # of what comes from now on nobody may tell it
            if isinstance(waiting, int):
                self._appended(waiting)

    def _next_stop(self) -> int | None:
        """How far the shape has come while there is something it has not come by; else None."""
        torn_from, torn_upto = self._store.torn
        if torn_upto > self._at:
            return torn_from - 1
        following = next((waiting for waiting in self._queue if isinstance(waiting, _Waiting)), None)
        return None if following is None else int(following.head.lsn) - 1

    async def _rest(self, lsn: int | None) -> None:
        """Tell those who follow that there is nothing beyond ``lsn`` yet; None: it has caught up."""
        self._resting = lsn
        if lsn is None:
            self._standing = False
        await asyncio.gather(*(self._tell_held(edge) for edge in list(self._edges)))

    async def _tell_held(self, edge: Ref) -> None:
        try:
            await edge.call(HeldBelow(self._hash, self._resting), HELD_TIMEOUT_S)
        except (ActorDown, CallTimeout):
            self._edges.pop(edge, None)

    def _tell_rest(self, edge: Ref) -> None:
        if self._resting is not None:
            edge.inform(HeldBelow(self._hash, self._resting))

    def _netted(self, transaction: _Waiting) -> Netting:
        netting = Netting(self._tree.relations, self._holdings.rows_of)
        netting.add(transaction.changes)
        return netting

    async def _pass(self, transaction: _Waiting, netting: Netting) -> list[Record]:
        """Come by ``transaction``, which did what was netted; what edges are told of it."""
        net, head = netting.net, transaction.head
        lsn = self._at = int(head.lsn)
        self._later.passed(lsn, netting.named)
        self._answers.passed(net, netting.emptied)
        self._answers.lacking_upto = 0
        step = await self._decide(net, self._answers.known, self._ask, truncates=bool(netting.emptied))
        if self._answers.lacking_upto > lsn:
            await self._stand(lsn - 1)
            await asyncio.to_thread(self._store.tear(lsn, self._answers.lacking_upto))
        records = await self._write(transaction, step) if step.changes or step.held else []
        if lsn > self._store.torn[1]:
            return records
        # Who follows is to read the log.
        return [Record(lsn, head.authored_ms, head.author, index=1, last=True, rows=0, ops=b"")]

    async def _write(self, transaction: _Waiting, step: Step) -> list[Record]:
        self._next_index = 0
        records = []
        gone = iter(step.gone)  # in the order of the GONE ones among the changes
        for part, until in _parts(step.changes, transaction):
            record = await self._record(Piece(transaction.head, (), True, True, transaction.since, until), part)
            leaving = sum(isinstance(change, Gone) for change in part)
            record.gone = await self._ops_of(tuple(islice(gone, leaving)))
            records.append(record)
        records[-1].last = True
        if self._store.segment_full:
            await asyncio.to_thread(self._store.flushing())
        await paced(self._concern.noting(step))
        self._store.append(records)
        await paced(self._holdings.applying(step, int(transaction.head.lsn)))
        return list(for_edges(records))

    # --- deciding -----------------------------------------------------------------------------------------------------

    async def _decide(
        self,
        net: Mapping[RowId, Net],
        known: Known,
        ask: Callable[[Collection[Query]], Awaitable[None]],
        *,
        truncates: bool,
    ) -> Step:
        clauses = self._clauses
        assert clauses is not None
        held = MaybeHeld(self._tree, self._holdings, self._concern)
        while True:
            step = await paced(advancing(self._tree, held, net, known, clauses.judge, truncates=truncates))
            if isinstance(step, Step):
                clauses.forget()
                return step
            assert isinstance(step, Needs)
            if step.judgements:
                await self._until_there(partial(clauses.look, step.judgements))
            if step.queries:
                await ask(step.queries)

    async def _ask(self, queries: Collection[Query]) -> None:
        """Rows as of where the shape is, from a snapshot that is later."""
        await self._stand(self._at - 1)
        await self._until_there(partial(self._ask_once, queries))

    async def _stand(self, lsn: int) -> None:
        """Those who follow know that it rests at ``lsn``, and the shard that it need not wait."""
        if self._resting is None and not self._loading:
            await self._rest(lsn)
            self._standing = True
            for upto in [waiting for waiting in self._queue if isinstance(waiting, int)]:
                self._shard.inform(Standing(self._hash, upto))

    async def _ask_once(self, queries: Collection[Query]) -> None:
        try:
            subtree, mark = await self._around.later(self._at)
        except TableGone:
            self._answers.learn(dict.fromkeys(queries, ()))  # what it had is gone, or soon will be
            return
        try:
            answers = await subtree.answers(queries)
            asking: Collection[Query] = queries
            for _ in range(AHEAD_LEVELS):
                asking = await paced(self._ahead({query: answers[query] for query in asking}, answers))
                if not asking:
                    break
                answers.update(await subtree.answers(asking))
        finally:
            await subtree.aclose()
        await self._passed(mark)
        await paced(self._answers.learning(answers))

    def _ahead(
        self, found: Mapping[Query, Sequence[TaggedRow]], answered: Collection[Query]
    ) -> Generator[None, None, Collection[Query]]:
        """What will probably be asked next, now that these rows are ``found``: what they refer to, and what hangs on
        them where they may come to a node. Yields between some rows and the next."""
        ahead: dict[Query, None] = {}
        held = MaybeHeld(self._tree, self._holdings, self._concern)
        walked = 0
        for query, rows in found.items():
            below = [
                under
                for n, node in enumerate(self._tree.nodes)
                if n and node.relation_id == query.relation_id and node.own == query.places
                for under in self._tree.nodes
                if under.above == n and under.many
            ]
            for row, _ in rows:
                walked += 1
                if walked % AHEAD_ROWS == 0:
                    yield
                for reach in self._tree.bringing[query.relation_id]:
                    value = value_of(row, reach.own)
                    if value is not None and not held.find(reach.parent_id, reach.theirs, value):
                        ahead[Query(reach.parent_id, reach.theirs, value)] = None
                for under in below:
                    value = value_of(row, under.theirs)
                    if value is not None:
                        ahead[Query(under.relation_id, under.own, value)] = None
        return [query for query in ahead if query not in answered]

    # --- the first snapshot -------------------------------------------------------------------------------------------

    async def _load_once(self) -> int:
        self._store.restart_image()
        self._store.discard_unfinished()
        self._queue.clear()
        self._later = Later(self._tree)
        self._answers = Answers(self._tree, self._later)
        backlog = self._backlog = Backlog(self._tree)
        subtree, mark = await self._around.first(backlog.shown)
        try:
            assert self._clauses is not None
            await self._fill(Shown(self._tree, subtree, self._clauses), self._image)
        finally:
            await subtree.aclose()
        lsn = await self._passed(mark)
        await self._concern.learn_soon(self._store.image_rows)
        lsn = max(lsn, backlog.upto)
        self._backlog = None
        try:
            await self._catch_up(lsn, backlog)
        except OSError as error:  # that does not pass, as those do for which a snapshot is taken again
            raise LogBroken(f"the log of {self._shape.table}: {error}") from error
        self._loading = False
        self._resting = self._next_stop()
        return lsn

    async def _fill(self, source: Source, write: Write | None = None) -> None:
        """What is held is all that belongs to the shape of what ``source`` has."""
        bulk = Bulk(self._store.directory / "holdings-new", self._tree)
        try:
            await Filling(self._tree, bulk, source, self._satisfying, write).fill()
        except BaseException:
            bulk.remove()
            raise
        await asyncio.to_thread(bulk.finish)
        self._holdings.filled(bulk)

    async def _satisfying(self, node: int, rows: Sequence[Row]) -> Sequence[bool]:
        assert self._clauses is not None
        return await self._until_there(partial(self._clauses.judged, node, rows))

    def _image(self, relation: Relation, rows: Sequence[TaggedRow], keys: Sequence[bytes]) -> None:
        self._store.write_image_chunk(ImageChunk(tuple(keys), tuple(codec.encode_inserts(relation.id, rows))))

    async def _catch_up(self, lsn: int, backlog: Backlog) -> None:
        """From the snapshot to ``lsn`` in one, and from there to where the stream is by now."""
        await self._pass(_Waiting(TransactionHead(Lsn(lsn), 0, 0), ()), backlog.netted(self._holdings.rows_of))
        self._holdings.apply(Step(), lsn)
        while self._queue:
            waiting = self._queue.popleft()
            assert isinstance(waiting, _Waiting)
            await self._pass(waiting, self._netted(waiting))
        self._answers.forget()

    # --- after a crash ------------------------------------------------------------------------------------------------

    async def _hold_again(self, lsn: int) -> None:
        """The log and the holdings have not come equally far: they are made again from the rows at ``lsn``."""
        log.info("shape %s: what it holds is made again from its log", self._shape.table)
        every = Stored(self._store.directory, self._tree)
        assert self._readers is not None
        try:
            async for chunk in self._readers.rows.all(lsn):
                every.add(codec.decode_ops(b"".join(chunk.ops)))
                await asyncio.sleep(0)
            await every.finish()
            await self._fill(every)
            self._holdings.apply(Step(), lsn)
        finally:
            every.remove()


def _parts(changes: Sequence[RowChange], transaction: _Waiting) -> Iterator[tuple[Sequence[RowChange], int]]:
    """Each with the place of the transaction that it is told for; at least one.

    What leaves a tree in a transaction of pieces is told for where that began. The tree is through with it at its end,
    and may not hear that a row which was deleted came again in a later piece, to another shape of a device.
    """
    runs = [(changes, transaction.until)]
    if transaction.cut:
        leaving = [change for change in changes if isinstance(change, Delete | Gone)]
        staying = [change for change in changes if not isinstance(change, Delete | Gone)]
        runs = [(leaving, transaction.since), (staying, transaction.until)]
    for run, until in runs:
        for at in range(0, len(run), RECORD_CHANGES):
            yield run[at : at + RECORD_CHANGES], until
    if not changes:
        yield (), transaction.until
