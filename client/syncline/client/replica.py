"""The replica's durable state, and a mirror of the small part of it that is asked for often.

Every function that changes something is one SQLite transaction, and the mirror follows only after its commit. That is
what makes a crash harmless at any point: a local write is there together with its oplog entries, a server transaction
together with its tags and its LSN, a delivery together with the state of its subscription.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal

from syncline.client import rejections, reserved
from syncline.client.apply import (
    Bindings,
    Plan,
    UnknownRelation,
    plan_migrations,
)
from syncline.client.column_rows import announce, drop_announced, load_announced
from syncline.client.columns import columns_of, narrowed
from syncline.client.digesting import held_in, holdings_of
from syncline.client.durability import outcome
from syncline.client.execution import (
    Written,
    apply_transaction,
    awaits_echoes,
    backlog,
    clear,
    note_carried_out,
    run,
)
from syncline.client.forking import fork, note_accepted, note_opening, openings_of
from syncline.client.live import Changes
from syncline.client.mirror import Mirror
from syncline.client.oplog import (
    Entry,
    Times,
    tags_of,
    times_of,
)
from syncline.client.rejections import Rejection
from syncline.client.schema import REJECTIONS
from syncline.client.shape_spec import ShapeSpec
from syncline.client.shapes import (
    ON_CANCEL,
    ON_DELIVERY,
    ShapeState,
    Subscription,
    after_reset,
    earlier,
    to_request,
)
from syncline.client.stamping import Stamped, stamp, stamp_local
from syncline.client.store import Store
from syncline.client.subscription_rows import add, forget, move, store
from syncline.client.triggers import DEFAULT_FUNCTION
from syncline.proto.digest import Holdings, TableDifference
from syncline.proto.errors import ProtocolError
from syncline.proto.forks import Opening, Parted
from syncline.proto.subprotocols import LEAVING_ID_FIRST
from syncline.proto.values import Gone, Insert, Migrate, Relation, Transaction


class Replica(Mirror):
    """Made by ``load_replica``."""

    # --- local transactions -------------------------------------------------------------------------------------------

    def stamp(self, connection: sqlite3.Connection) -> Stamped | None:
        """Called in the writer's thread at the end of a local transaction, before its COMMIT.

        Raises UsageError for a transaction that could never be sent; the caller rolls back.
        """
        return stamp_local(connection, self.client_id, self._now_ms(), self.tables)

    def committed(self, stamped: Stamped | None, written: frozenset[str]) -> None:
        """A local transaction is committed: count it and wake the live queries."""
        if stamped is not None:
            self.pending_writes += 1
            written |= stamped.tables
        self._changes.publish(written)

    async def backlog(self, after_id: int, entries_max: int) -> list[Entry]:
        """Whole transactions after the entry ``after_id``, in order: about ``entries_max`` entries, none when done."""

        return await self._store.read(lambda connection: backlog(connection, after_id, entries_max))

    async def rejected(self, after: int = 0, limit: int = -1) -> list[tuple[int, Rejection]]:
        """The rejections that are not dismissed; see ``rejections.undismissed``."""
        return await self._store.read(lambda connection: rejections.undismissed(connection, self.tables, after, limit))

    async def outcome(self, transaction_id: int) -> Rejection | Literal["pending", "accepted"]:
        """What has become of a local transaction; see ``durability.outcome``."""
        return await self._store.read(lambda connection: outcome(connection, transaction_id, self.tables))

    async def dismiss(self, transaction_id: int) -> None:
        """The application has dealt with this rejection."""

        def work(connection: sqlite3.Connection) -> int:
            rejections.dismiss(connection, transaction_id)
            return rejections.count(connection)

        self.rejections = await self._store.write(work)
        self._changes.publish(frozenset({REJECTIONS}))

    async def openings(self) -> tuple[Opening, ...]:
        """Of this file, the present one the last."""
        return await self._store.read(openings_of)

    async def accepted_as_it_is(self) -> None:
        """The server knows this file."""
        if self._accepted:
            return
        await self._store.write(note_accepted)
        self._accepted = True

    async def fork(self, parted: Parted) -> None:
        """Go on under another client id: the server knows another file under the one we have."""
        self.client_id = await self._store.write(lambda connection: fork(connection, parted.openings))
        self._accepted = False

    async def awaits_echoes(self, up_to_id: int, entries: int) -> bool:
        """Whether more than ``entries`` entries up to ``up_to_id`` have not come back."""
        return await self._store.read(lambda connection: awaits_echoes(connection, up_to_id, entries))

    # --- incoming -----------------------------------------------------------------------------------------------------

    async def apply_transactions(
        self, transactions: Sequence[Transaction], relations: Mapping[int, Relation], *, moving: bool = True
    ) -> None:
        """Apply consecutive server transactions, their tags and the LSN of the last, at least one, in one commit.

        The result is that of applying them one after another. Our own, coming back, first releases its oplog entries.
        ``moving`` False: the position stays, for there is more to come before it is that of the last.
        Raises UnknownRelation and ValueError for a stream that makes no sense, ProtocolError for a malformed tag,
        sqlite3.Error for what SQLite refuses; then everything before that transaction has been applied, and no more.
        """
        try:
            await self._apply_together(transactions, relations, moving=moving)
        except (UnknownRelation, ValueError, ProtocolError, sqlite3.Error):
            if len(transactions) == 1:
                raise
            for transaction in transactions:
                await self._apply_together((transaction,), relations, moving=moving)

    async def _apply_together(
        self, transactions: Sequence[Transaction], relations: Mapping[int, Relation], *, moving: bool
    ) -> None:
        lsn = transactions[-1].lsn if moving else self.lsn

        def work(connection: sqlite3.Connection) -> tuple[Plan, list[int], int]:
            self._begin_incoming(connection, lsn, times_of(transactions))
            keeping = self._keeping(connection)
            total = Plan(dict(self.tables))
            written: Written = {}
            echoed: list[int] = []
            for transaction in transactions:
                plan, came_back = apply_transaction(
                    connection,
                    self.client_id,
                    transaction,
                    relations,
                    total.tables,
                    (*self.versions, *total.versions),
                    keeping,
                    written,
                )
                if came_back:
                    echoed.append(transaction.commit_ms)
                total.followed_by(plan)
            total.changed |= keeping.end()
            self._end_incoming(connection, total)
            rejected = rejections.count(connection) if REJECTIONS in total.changed else self.rejections
            return total, echoed, rejected

        plan, echoed, self.rejections = await self._store.write_unchecked(work)
        self.lsn = lsn
        self.pending_writes -= len(echoed)
        self._adopt(plan)
        self.decisions.decided(echoed)

    async def stage(self, inserts: Sequence[Insert], relations: Mapping[int, Relation]) -> None:
        """Put rows of the delivery under way where they wait for its end. Raises UnknownRelation and ValueError,
        ProtocolError for a malformed tag."""
        bindings = Bindings(relations, self.tables)
        self._staged_times = self._staged_times.with_tags(tags_of(inserts))
        await self._store.write(lambda connection: self._staged.put(connection, inserts, bindings))

    async def stage_gone(self, gones: Sequence[Gone], relations: Mapping[int, Relation]) -> None:
        """The same, of rows that leave."""
        bindings = Bindings(relations, self.tables)
        await self._store.write(lambda connection: self._staged.put_gone(connection, gones, bindings))

    async def stage_held(self, differences: Iterable[TableDifference], relations: Mapping[int, Relation]) -> None:
        """Of a repair: what is here in buckets that differ leaves, unless it comes. Raises UnknownRelation."""
        bindings = Bindings(relations, self.tables)
        for difference in differences:
            table = bindings.of(difference.relation_id).table
            async for keys in held_in(self._store, table, difference):
                await self._store.write(partial(self._staged.put_keys, table=table, keys=keys))

    async def holdings(self) -> Holdings:
        """Digests of all rows that are here."""
        return await holdings_of(self._store, self.tables.values())

    def begin_delivery(self, *, repair: bool = False) -> None:
        """A delivery begins; what an earlier one may have left unfinished no longer counts."""
        self._staged.begin(replacing=repair)
        self._staged_times = Times()

    async def apply_shape(self, subscription: Subscription | None, lsn: bytes) -> list[Subscription]:
        """Apply the delivery that has been staged, and move its subscription on. Returns those that it replaces.

        Of a subscription given up meanwhile the rows are applied all the same: the server counts them as ours and
        leaves them out of other deliveries. It is CANCELLING then, until the server has said which of them have to go.
        """
        before = [] if subscription is None else earlier(self.subscriptions.values(), subscription)

        def work(connection: sqlite3.Connection) -> tuple[list[Subscription], Plan]:
            plan = self._apply_staged(connection, lsn)
            moved = [] if subscription is None else _moved(connection, [subscription], ON_DELIVERY)
            if moved and moved[0].state is ShapeState.DELIVERED:
                moved += _moved(connection, before, ON_CANCEL)
            self._end_incoming(connection, plan, self._with(moved))
            return moved, plan

        moved, plan = await self._store.write_unchecked(work)
        self._keep(moved)
        self._delivered(lsn, plan)
        return moved[1:]

    async def apply_gone(self, subscriptions: Iterable[Subscription], lsn: bytes) -> None:
        """Remove the rows that have been staged as gone, for no remaining shape holds them, and forget the
        subscriptions that held them."""
        positions = [subscription.position for subscription in subscriptions]

        def work(connection: sqlite3.Connection) -> Plan:
            plan = self._apply_staged(connection, lsn)
            forget(connection, positions)
            remaining = self._without(positions)
            drop_announced(connection, [s.spec for s in remaining], self.tables)
            self._end_incoming(connection, plan, remaining)
            return plan

        plan = await self._store.write_unchecked(work)
        for position in positions:
            self.subscriptions.pop(position, None)
        self._delivered(lsn, plan)

    async def apply_repair(self, lsn: bytes, carried_out: Iterable[int] = ()) -> None:
        """What has been staged makes of the rows here those of our shapes at ``lsn``. ``carried_out``: the times of
        transactions of our own that are in them."""

        def work(connection: sqlite3.Connection) -> Plan:
            note_carried_out(connection, carried_out)
            plan = self._apply_staged(connection, lsn)
            self._end_incoming(connection, plan)
            return plan

        self._delivered(lsn, await self._store.write_unchecked(work))

    def _apply_staged(self, connection: sqlite3.Connection, lsn: bytes) -> Plan:
        self._begin_incoming(connection, lsn, self._staged_times)
        keeping = self._keeping(connection)
        self._staged.move(connection, self.client_id, self.tables, keeping)
        return Plan(dict(self.tables), changed=self._staged.tables | keeping.end())

    def _delivered(self, lsn: bytes, plan: Plan) -> None:
        self.lsn = lsn
        self._staged.begin()
        self._adopt(plan)

    async def migrate(self, steps: Sequence[Migrate]) -> None:
        """Apply the migrations that ship with the application, as far as they are new here."""

        def work(connection: sqlite3.Connection) -> Plan:
            plan = plan_migrations(steps, self.tables, frozenset(self.versions))
            run(connection, plan)
            self._end_incoming(connection, plan)
            return plan

        if any(step.version not in self.versions for step in steps):
            self._adopt(await self._store.write_unchecked(work))

    async def reset(self) -> None:
        """Give up what came from the server, to be fetched anew; keep what is still on its way to it.

        Rows with pending local changes stay visible: their writes are final. The pending entries stay as they are.
        """

        def work(connection: sqlite3.Connection) -> tuple[list[Subscription], Plan]:
            self._begin_incoming(connection, b"")
            connection.execute("UPDATE _syncline_state SET seen_ms = 0")  # maybe by the clock of another server
            connection.execute("UPDATE _syncline_oplog SET carried_out = 0")
            reserved.drop(connection)
            keeping = self._keeping(connection)
            for table in self.tables.values():
                clear(connection, table, keeping)
            keeping.end()
            remaining = after_reset(self.subscriptions.values(), _fresh_id)
            forget(connection, [p for p in self.subscriptions if p not in {s.position for s in remaining}])
            store(connection, remaining)
            plan = Plan(dict(self.tables))
            self._end_incoming(connection, plan, remaining)
            return remaining, plan

        remaining, plan = await self._store.write_unchecked(work)
        self.lsn = b""
        self.subscriptions = {subscription.position: subscription for subscription in remaining}
        self._adopt(plan)
        self._changes.publish_all()

    async def announced(self, relation: Relation) -> None:
        """Rows will come that have the columns of ``relation``."""
        table = self.tables.get(relation.table)
        if table is None or table.name not in narrowed(s.spec for s in self.subscriptions.values()):
            return
        columns = columns_of(relation, table)
        if columns is not None and relation.id >= LEAVING_ID_FIRST:
            return  # no shape has these
        if columns in (await self._store.read(load_announced)).get(table.name, ()):
            return

        def work(connection: sqlite3.Connection) -> Plan:
            announce(connection, table.name, columns)
            return self._resubscribed(connection, self._with(()))

        self._adopt(await self._store.write_unchecked(work))

    # --- subscriptions ------------------------------------------------------------------------------------------------

    async def subscribe(self, spec: ShapeSpec, key: str | None = None) -> Subscription:
        """Note down a new subscription, REQUESTED."""

        def work(connection: sqlite3.Connection) -> tuple[Subscription, Plan]:
            subscription = add(connection, _fresh_id(), spec, key)
            return subscription, self._resubscribed(connection, self._with([subscription]))

        subscription, plan = await self._store.write(work)
        self._keep([subscription])
        self._adopt(plan)
        self.reserves.due = True
        return subscription

    async def cancel(self, subscriptions: Sequence[Subscription]) -> list[Subscription]:
        """Note down that these are unwanted: CANCELLING where the rows are here, else WITHDRAWN. As they are now."""

        def work(connection: sqlite3.Connection) -> tuple[list[Subscription], Plan]:
            moved = _moved(connection, subscriptions, ON_CANCEL)
            return moved, self._resubscribed(connection, self._with(moved))

        moved, plan = await self._store.write(work)
        self._keep(moved)
        self._adopt(plan)
        return moved

    async def accepted(self, subscription: Subscription) -> list[Subscription]:
        """Withdraw what it replaces and has not been delivered; returns that."""
        if subscription.state is not ShapeState.REQUESTED:
            return []
        undelivered = [s for s in earlier(self.subscriptions.values(), subscription) if s.state is ShapeState.REQUESTED]
        return await self.cancel(undelivered) if undelivered else []

    async def renew_requests(self) -> None:
        """For a new connection: a fresh id for every undelivered subscription still wanted, the others forgotten."""

        def work(connection: sqlite3.Connection) -> tuple[list[Subscription], list[int]]:
            renewed = to_request(self.subscriptions.values(), _fresh_id)
            withdrawn = [s.position for s in self.subscriptions.values() if s.state is ShapeState.WITHDRAWN]
            store(connection, renewed)
            forget(connection, withdrawn)
            return renewed, withdrawn

        renewed, withdrawn = await self._store.write(work)
        for position in withdrawn:
            self.subscriptions.pop(position, None)
        self._keep(renewed)

    async def forget(self, subscription: Subscription) -> None:
        def work(connection: sqlite3.Connection) -> Plan:
            forget(connection, [subscription.position])
            return self._resubscribed(connection, self._without([subscription.position]))

        plan = await self._store.write(work)
        self.subscriptions.pop(subscription.position, None)
        self._adopt(plan)


def _moved(
    connection: sqlite3.Connection, subscriptions: Iterable[Subscription], arrows: Mapping[ShapeState, ShapeState]
) -> list[Subscription]:
    """As they are now; those that have been forgotten are left out."""
    return [moved for s in subscriptions if (moved := move(connection, s, arrows)) is not None]


async def load_replica(store: Store, changes: Changes, now_ms: Callable[[], int]) -> Replica:
    """The replica in an opened store. Entries that a foreign tool left without a timestamp get theirs now."""
    replica = Replica(store, changes, now_ms)

    def work(connection: sqlite3.Connection) -> None:
        connection.create_function(DEFAULT_FUNCTION, 3, replica.filled_in)
        replica.reserves.open(connection)
        (client_id,) = connection.execute("SELECT client_id FROM _syncline_state").fetchone()
        stamp(connection, client_id, now_ms())
        note_opening(connection, _fresh_id())
        replica._mirror(connection)

    await store.write(work)
    return replica


def _fresh_id() -> str:
    return str(uuid.uuid4())
