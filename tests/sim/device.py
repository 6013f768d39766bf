"""A device: the real replica on a real SQLite database, the real connection, and an application that writes at random.

The database lives in memory and stands for the device's disk. A crash loses everything but it: the connection to
SQLite is dropped, so an open transaction is rolled back and temporary tables are gone, and a new replica is loaded.
``MemoryStore`` can also die in the middle of a transaction or right after its commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from tests.sim.network import Link
from tests.sim.schema import RELATIONS, TABLES, RowKey, closure, history
from tests.sim.waiting import Scheduler, Task, at_once
from tests.sim.workloads import NOTHING, Remembered, Statement

from syncline.client.connection import Connection, ConnectionEnded
from syncline.client.connectivity import BACKOFF_MAX_S, Backoff, Next, after
from syncline.client.grouping import TransactionBatch, grouped
from syncline.client.live import Changes
from syncline.client.replica import Replica, load_replica
from syncline.client.shape_spec import ShapeSpec
from syncline.client.shapes import Subscription, earlier, find, later, wanted
from syncline.client.stamping import Stamped
from syncline.client.store import _in_transaction, _prepare_writer, _without_foreign_keys
from syncline.proto.events import GonesEnded, RepairBegun, RepairEnded, ShapeDataBegun, ShapeDataEnded, ShapeRows
from syncline.proto.values import FINAL_MS, Delete, Insert, Transaction, Update

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
RECONNECT_US = 30_000
KEY = "view"


class PowerCut(Exception):
    """The device died within a transaction of its store."""


class MemoryStore:
    """The store's interface; what it runs, it runs at once. ``dies``: "before commit" or "after commit" of the next.
    ``committed``: called after each commit of what came from the service."""

    def __init__(self, name: str, client_id: str, committed: Callable[[], None] = lambda: None) -> None:
        self._committed = committed
        self._uri = f"file:{name}?mode=memory&cache=shared"
        self._keeper = sqlite3.connect(self._uri, uri=True)
        self.dies: str | None = None
        self.connection = self._open()
        self.connection.execute("UPDATE _syncline_state SET client_id = ?", (client_id,))

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._uri, uri=True, isolation_level=None, cached_statements=300)
        _prepare_writer(connection)
        return connection

    def crash(self) -> None:
        self.connection.close()
        self.connection = self._open()
        self.dies = None

    def close(self) -> None:
        self.connection.close()
        self._keeper.close()

    async def read(self, work: Work[T]) -> T:
        return work(self.connection)

    async def write(self, work: Work[T]) -> T:
        return self._run(_in_transaction, work)

    async def write_unchecked(self, work: Work[T]) -> T:
        result = self._run(_without_foreign_keys, work)
        self._committed()
        return result

    def _run(self, transaction: Callable[..., T], work: Work[T]) -> T:
        dies, self.dies = self.dies, None

        def cut_short(connection: sqlite3.Connection) -> T:
            work(connection)
            raise PowerCut

        result = transaction(self.connection, cut_short if dies == "before commit" else work)
        if dies is not None:
            raise PowerCut
        return result


class SimDevice:
    """``dial`` makes a link to the service or raises ConnectionError. ``watch``: who checks what the device holds.
    ``tick_ms``: how often its clock moves."""

    def __init__(
        self,
        name: str,
        run: str,
        scheduler: Scheduler,
        dial: Callable[[SimDevice], Link],
        wall_ms: Callable[[], int],
        watch: Any,
        *,
        bundled: bool,
        protocol: str,
        tick_ms: int,
    ) -> None:
        self.name = name
        self.protocol = protocol
        self.scheduler = scheduler
        self.clock_offset_ms = 0
        self.wanted = True
        self._wall_ms = wall_ms
        self._dial = dial
        self._watch = watch
        self.tick_ms = tick_ms
        # The application's memory, which is the test's: what it has written, whatever crashed since.
        self.writes = 0
        self.journal: dict[str, int] = {}
        self.counters: dict[str, int] = {}
        self.elements: dict[RowKey, int] = {}
        self.strays: set[RowKey] = set()
        # The rows of the delivery under way; the tables that it repairs.
        self._delivery: set[RowKey] = set()
        self._repaired: set[int] = set()
        self.store = MemoryStore(f"{run}-{name}", name, lambda: self._watch.changed(self))
        self.replica = self._load()
        if bundled:
            at_once(self.replica.migrate(history().migrations[0].steps["sqlite"]))
        self.link: Link | None = None
        self.connection: Connection | None = None
        self.live = False
        self._sending: Task | None = None
        self._backoff = Backoff()
        self._attempt = 0
        self._progressed = False
        self._connected_at_us = 0
        # The table under the key.
        self.view: str | None = None
        self._redial(RECONNECT_US)

    def now_ms(self) -> int:
        return (self._wall_ms() + self.clock_offset_ms) // self.tick_ms * self.tick_ms

    def _load(self) -> Replica:
        replica = at_once(load_replica(self.store, Changes(), self.now_ms))  # type: ignore[arg-type]
        assert isinstance(replica, Replica)
        return replica

    # --- the application ----------------------------------------------------------------------------------------------

    def write(self, statements: Sequence[Statement], remembered: Remembered = NOTHING) -> bool:
        """One local transaction, with a row of the journal. False: SQLite refused it, or the device died of it."""
        if "journal" not in self.replica.tables:
            return False
        number = self.writes + 1
        entry = f"{self.name}:{number}"

        def work(connection: sqlite3.Connection) -> Stamped | None:
            for sql, args in statements:
                connection.execute(sql, args)
            connection.execute("INSERT INTO journal (id, author, number) VALUES (?, ?, ?)", (entry, self.name, number))
            return self.replica.stamp(connection)

        dies = self.store.dies
        try:
            stamped = at_once(self.store.write(work))
        except sqlite3.IntegrityError:
            return False
        except PowerCut:
            if dies == "after commit":
                self._wrote(number, entry, remembered)
            self.crash()
            return False
        self._wrote(number, entry, remembered)
        self.replica.committed(stamped, frozenset())
        if self.connection is not None:
            self.connection.wrote()
        self._watch.changed(self)
        return True

    def _wrote(self, number: int, entry: str, remembered: Remembered) -> None:
        (ms,) = self.store.connection.execute("SELECT max(commit_ms) FROM _syncline_oplog").fetchone()
        self.writes = number
        self.journal[entry] = ms
        if remembered.counter is not None:
            table, value = remembered.counter
            self.counters[table] = value
        if remembered.element is not None:
            self.elements.setdefault(remembered.element, ms)
        self._watch.wrote(self, ms)

    def subscribe(self, table: str, key: str | None = None) -> None:
        """As in Satellite, without waiting for the answer."""
        spec, subscriptions = ShapeSpec(table), self.replica.subscriptions.values()
        known = find(subscriptions, spec, key)
        if known is not None:
            self._cancel(later(subscriptions, known))
            return
        try:
            subscription = at_once(self.replica.subscribe(spec, key))
        except PowerCut:
            self.crash()
            return
        if self.connection is not None and self.live:
            at_once(self.connection.subscribe(subscription))

    def unsubscribe(self, table: str) -> None:
        subscription = find(self.replica.subscriptions.values(), ShapeSpec(table))
        if subscription is not None:
            self._cancel([subscription])

    def replace(self, table: str | None) -> None:
        """Another table under the key, or none."""
        self.view = table
        if table is not None:
            self.subscribe(table, KEY)
            return
        under_key = wanted(self.replica.subscriptions.values(), KEY)
        if under_key:
            self._cancel([*earlier(under_key, under_key[-1]), under_key[-1]])

    def _cancel(self, subscriptions: Sequence[Subscription]) -> None:
        if not subscriptions:
            return
        try:
            at_once(self.replica.cancel(subscriptions))
        except PowerCut:
            self.crash()
            return
        if self.connection is not None and self.live:
            at_once(self.connection.unsubscribe(subscriptions))

    # --- life ---------------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """The process dies; it starts again a moment later."""
        link, self.link = self.link, None
        if link is not None:
            link.lose_device(arrives=self.scheduler.rng.random() < 0.5)
        self._drop()
        self.store.crash()
        self.replica = self._load()
        # What it was about to note down may be there or not; what is there counts.
        under_key = wanted(self.replica.subscriptions.values(), KEY)
        self.view = under_key[-1].spec.table if under_key else None
        self._backoff.reset()
        self._redial(RECONNECT_US)

    def go_offline(self) -> None:
        self.wanted = False
        link, self.link = self.link, None
        if link is not None:
            link.lose_device(arrives=self.scheduler.rng.random() < 0.5)
        self._drop()

    def go_online(self) -> None:
        if not self.wanted:
            self.wanted = True
            self._redial(RECONNECT_US)

    def forsake(self, late_us: int = 0) -> None:
        """Take the connection for dead and make another, while the service still believes in the first, and reads from
        it what is under way ``late_us`` from now."""
        if self.link is not None:
            self.link.lose_device(arrives=True, late_us=late_us)
            self.link = None
            self._drop()
            self._redial(RECONNECT_US)

    # --- connections --------------------------------------------------------------------------------------------------

    def _redial(self, most_us: int) -> None:
        self._attempt += 1
        attempt = self._attempt
        self.scheduler.soon(most_us, lambda: self._connect() if attempt == self._attempt else None)

    def _connect(self) -> None:
        if not self.wanted or self.link is not None:
            return
        self._progressed = False
        self._connected_at_us = self.scheduler.now_us
        try:
            self.link = self._dial(self)
        except ConnectionError:
            self._ended(None)
            return
        connection = self.connection = Connection(self, self.replica, self, "token")  # type: ignore[arg-type]
        # As in Connection.serve, which cannot be used: it runs in tasks of asyncio.
        self.link.send(connection._session.authenticate(self.replica.client_id, "token"))
        self._sending = Task(connection._up())
        self._sending.run()

    async def send(self, frame: bytes) -> None:
        """The connection's transport."""
        if self.link is not None:
            self.link.send(frame)

    def on_frame(self, link: Link, frame: bytes) -> None:
        if link is not self.link or self.connection is None:
            return
        connection = self.connection
        try:
            events, answers = connection._session.receive(frame)
            for answer in answers:
                link.send(answer)
            for event in grouped(events, connection._relations):
                self._tell_images(event)
                leaving = self._tables_of(event.subscription_ids) if isinstance(event, GonesEnded) else ()
                at_once(connection._handle(event))
                self._watch.rows_left(self, leaving)
        except ConnectionEnded as ended:
            self._lost(ended.code)
        except PowerCut:
            self.crash()
        except Exception as error:
            self._watch.report(f"{self.name} could not take what it was sent: {type(error).__name__}: {error}")

    def _tell_images(self, event: object) -> None:
        """If with ``event`` rows come as they are."""
        if isinstance(event, ShapeDataBegun | RepairBegun):
            self._delivery = set()
            repaired = event.tables if isinstance(event, RepairBegun) else ()
            self._repaired = {table.relation_id for table in repaired}
        elif isinstance(event, ShapeRows):
            self._delivery |= _keys(event.inserts)
        elif isinstance(event, ShapeDataEnded):
            tables = closure(TABLES[table] for table in self._tables_of((event.subscription_id,)))
            self._watch.imaged(self, int(event.lsn), self._delivery, tables)
        elif isinstance(event, RepairEnded):
            self._watch.imaged(self, int(event.lsn), self._delivery, self._repaired)
        elif isinstance(event, TransactionBatch):
            for transaction in event.transactions:
                rows = _as_they_are(transaction, self.name)
                if rows:
                    self._watch.imaged(self, int(transaction.lsn), _keys(rows), ())

    def _tables_of(self, subscription_ids: Sequence[str]) -> tuple[str, ...]:
        subscriptions = self.replica.subscriptions.values()
        return tuple(s.spec.table for s in subscriptions if s.subscription_id in subscription_ids)

    def closed(self, link: Link, reason: str) -> None:
        if link is self.link:
            self._lost(None)

    def _lost(self, code: str | None) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.lose_device(arrives=False)
        self._drop()
        self._ended(code)

    def _drop(self) -> None:
        self.connection, self.live = None, False
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def _ended(self, code: str | None) -> None:
        """As in Satellite, without its tasks."""
        step = after(code, token_renewable=False, token_fresh=False)
        if step not in (Next.RETRY, Next.RESET):
            self._watch.report(f"{self.name} gave up: {code}")
            return
        if step is Next.RESET:
            dies = self.store.dies
            try:
                at_once(self.replica.reset())
            except PowerCut:
                if dies == "after commit":
                    self._watch.reset(self, code)
                self.crash()
                return
            self._watch.reset(self, code)
        lasted = self.scheduler.now_us - self._connected_at_us > BACKOFF_MAX_S * 1e6
        settled = self._progressed or lasted
        delay_us = int(self._backoff.after_s(self.scheduler.rng.random(), absent=False, settled=settled) * 1e6)
        self._attempt += 1
        attempt = self._attempt
        self.scheduler.after(delay_us, lambda: self._connect() if attempt == self._attempt else None)

    # --- reported by the connection -----------------------------------------------------------------------------------

    def started(self) -> None:
        self.live = True

    def applied(self) -> None:
        self._progressed = True

    def reach_awaited(self) -> bool:
        return False

    def accepted(self, subscription: Any) -> None:
        pass

    def repairing(self, rows: int, rows_estimate: int | None) -> None:
        pass

    def repaired(self) -> None:
        self._watch.repaired(self)

    def receiving(self, subscription: Any, rows: int, rows_estimate: int | None) -> None:
        pass

    def delivered(self, subscription: Any) -> None:
        pass

    def replaced(self, subscriptions: Any) -> None:
        pass

    def left(self, subscriptions: Any) -> None:
        pass

    def refused(self, subscription: Any, code: str, message: str) -> None:
        self._watch.report(f"{self.name} was refused {subscription.spec}: {code} {message}")


def _keys(changes: Iterable[Any]) -> set[RowKey]:
    rows = ((change.relation_id, change.old_row if isinstance(change, Delete) else change.row) for change in changes)
    return {(relation_id, RELATIONS[relation_id].key_of(row)) for relation_id, row in rows}


def _as_they_are(transaction: Transaction, name: str) -> list[Any]:
    """What of it comes as it is, which does not say by which writes: all of what stands for several transactions and,
    with the echo of what the device of this ``name`` wrote, rows that others have written by then, so that nothing of
    it is among their tags."""
    changes = [change for change in transaction.changes if isinstance(change, Insert | Update | Delete)]
    if transaction.commit_ms == FINAL_MS:
        return list(changes)
    if transaction.origin != name:
        return []
    own = f"{name}@"
    rows = (change for change in changes if not isinstance(change, Delete) and change.tags)
    return [row for row in rows if not any(tag.startswith(own) for tag in row.tags)]
