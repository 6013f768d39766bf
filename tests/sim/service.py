"""One life of the service: its real actors over the modelled Postgres, from boot to kill.

The writer and the replicator are small here, because what they do in production is to wait for Postgres; what they
decide is the product's (``WriteQueue``) or nothing. The disk is a real directory: after a kill of the process it is as
it was, after a loss of the machine each log is cut somewhere behind what was last synced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.sim.hosting import Named, SimHost, SimRef
from tests.sim.postgres import PostgresGone, SimPostgres, chunked
from tests.sim.schema import CATALOG, RELATIONS, history
from tests.sim.waiting import Event, Scheduler, Task, Waiting, at_once

from syncline.actors.devices.bundler import Bundler
from syncline.actors.devices.device import Device
from syncline.actors.devices.gateway import Gateway
from syncline.actors.devices.reception import Surroundings
from syncline.actors.names import ABSORBER, BUNDLER, CONSUMERS, DEVICES, GATEWAY, REPLICATOR, ROUTER, WRITER
from syncline.actors.postgres.apply import WriteQueue
from syncline.actors.postgres.currentrows import CurrentRow, Reading
from syncline.actors.postgres.flush import Unseen
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.replicator import Confirm
from syncline.actors.postgres.streamed import TransactionChunk
from syncline.actors.postgres.subscription import Subscription
from syncline.actors.postgres.waitingline import Decision
from syncline.actors.postgres.write import Write
from syncline.actors.postgres.writer import Written
from syncline.actors.shapes.consumer import Consumer
from syncline.actors.shapes.router import AddRoutes, Router, Streamed
from syncline.actors.shapes.shape import Shape
from syncline.actors.shapes.shard import Shard
from syncline.actors.shapes.shards import Least, Shards
from syncline.actors.shapes.store import ShapeStore
from syncline.cluster import Actor, Ref
from syncline.proto.values import Key, Relation, ShapeRequest

CHUNK_CHANGES = 3
IDLE_EVERY_S = 0.2
SHARDS = ("shard-0", "shard-1")


class Nothing(Actor):
    """Has a name and does nothing: the supervisors, which are not simulated, and the absorber."""

    async def handle_cast(self, message: object) -> None:
        pass


class SimDatabase:
    """What ``syncline.actors.postgres.database.Database`` offers to devices."""

    def __init__(self, postgres: SimPostgres, waiting: Waiting) -> None:
        self._postgres = postgres
        self._waiting = waiting
        self.catalog = CATALOG
        self.history = history()

    def table(self, name: str) -> Any:
        return self.catalog.named(name)

    async def read(self) -> None:
        await self._query()

    async def device_seen(self, client_id: str, user_id: str, *, proven: bool) -> bool:
        await self._query()
        return True

    async def subscriptions(self, client_id: str) -> dict[str, Subscription]:
        await self._query()
        return dict(self._postgres.subscriptions.get(client_id, {}))

    async def add_subscription(self, client_id: str, subscription_id: str, shapes: Iterable[ShapeRequest]) -> None:
        await self._query()
        known = self._postgres.subscriptions.setdefault(client_id, {})
        known[subscription_id] = Subscription(subscription_id, tuple(shapes), cancelled=False)

    async def cancel_subscriptions(self, client_id: str, ids: Iterable[str]) -> None:
        await self._query()
        known = self._postgres.subscriptions.get(client_id, {})
        for id in ids:
            if id in known:
                known[id] = Subscription(id, known[id].shapes, cancelled=True)

    async def forget_others(self, client_id: str, held: Iterable[str]) -> None:
        await self._query()
        known = self._postgres.subscriptions.get(client_id, {})
        for id in known.keys() - set(held):
            del known[id]

    async def forget_subscriptions(self, client_id: str) -> None:
        await self._query()
        self._postgres.subscriptions.pop(client_id, None)

    async def of_this_history(self, client_id: str) -> bool:
        return True

    async def begin_history(self, client_id: str) -> None:
        await self.forget_subscriptions(client_id)

    async def current_rows(self, keys: Iterable[tuple[int, Key]]) -> Reading:
        await self._query()
        # What is in the WAL and not visible yet is missing; their position is behind whatever comes by the end.
        visibility = self._postgres.visibility()
        found = []
        for key in keys:
            state = self._postgres.visible(key)
            tags = () if state.row is None else self._postgres.fetched_tags(state)
            found.append(CurrentRow(CATALOG.tables[key[0]], key[1], state.row, tags))
        await self._waiting.pause_up_to(3_000)
        return Reading(tuple(found), Lsn(self._postgres.insert_lsn), visibility)

    async def wal_position(self) -> Lsn:
        await self._query()
        return Lsn(self._postgres.flushed_lsn)

    async def read_migrations(self, notices: Any) -> list[Any]:
        return []

    async def _query(self) -> None:
        await self._waiting.pause_up_to(2_000)
        if not self._postgres.up:
            raise PostgresGone("Postgres is down")


class SimSnapshot:
    """Some table as of one moment; ``mark`` is committed after it."""

    selected = True

    def __init__(self, rows: list[Any], mark: str, waiting: Waiting) -> None:
        self.mark = mark
        self._rows = rows
        self._waiting = waiting

    async def __aiter__(self) -> AsyncGenerator[list[Any], None]:
        for chunk in chunked(self._rows, 3):
            await self._waiting.pause_up_to(3_000)
            yield chunk


class SimReplicator(Actor):
    """Reads the WAL after the slot's confirmed position, and again after a loss of the connection."""

    def __init__(self, postgres: SimPostgres, waiting: Waiting) -> None:
        self._postgres = postgres
        self._waiting = waiting
        self._more = Event()
        self._passed = postgres.confirmed_lsn
        self._durable = Least(SHARDS)
        self._unseen = Unseen()

    async def init(self) -> None:
        self._postgres.when_flushed = self._more.set
        self._router = self.context.registry.ref(ROUTER)
        self.background(self._run())
        self.background(self._keep_alive())

    async def handle_cast(self, message: Any) -> None:
        assert isinstance(message, Confirm)
        least = self._durable.reached(message.shard, message.lsn)
        if self._postgres.up and least is not None:
            seen = self._unseen.before(least, self._postgres.visibility().visible)
            self._postgres.confirmed_lsn = max(self._postgres.confirmed_lsn, seen)

    async def _keep_alive(self) -> None:
        while True:
            await self._waiting.sleep(IDLE_EVERY_S)
            self._more.set()

    async def _run(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            await self._waiting.pause_up_to(3_000)
            postgres = self._postgres
            if not postgres.up:
                continue
            before = self._passed
            commits = postgres.streamable(before)
            taken = commits[: self.context.scheduler.rng.randrange(1, 6)]  # type: ignore[attr-defined]
            chunks: list[TransactionChunk] = []
            for commit in taken:
                pieces = list(chunked(commit.changes, CHUNK_CHANGES))
                for number, piece in enumerate(pieces):
                    first, last = number == 0, number == len(pieces) - 1
                    chunks.append(TransactionChunk(commit.head, piece, first, last, marks=commit.marks if last else ()))
            if taken:
                self._passed = int(taken[-1].head.lsn)
            if len(taken) < len(commits):
                self._more.set()
                idle = self._passed
            else:
                idle = max(self._passed, postgres.flushed_lsn - 1)
            # A piece of a transaction may arrive by itself, and the whole of it again after a loss of the connection.
            cut = self.context.scheduler.rng.randrange(0, len(chunks) + 1)  # type: ignore[attr-defined]
            if 0 < cut < len(chunks):
                incarnation = postgres.incarnation
                self._note(chunks[:cut])
                await self._router.send(Streamed(tuple(chunks[:cut]), 0))
                await self._waiting.pause_up_to(3_000)
                if not postgres.up or postgres.incarnation != incarnation:
                    whole = [int(chunk.head.lsn) for chunk in chunks[:cut] if chunk.last]
                    self._passed = whole[-1] if whole else before
                    continue
                chunks = chunks[cut:]
            self._note(chunks)
            await self._router.send(Streamed(tuple(chunks), idle))

    def _note(self, chunks: list[TransactionChunk]) -> None:
        for chunk in chunks:
            if chunk.last:
                self._unseen.streamed(int(chunk.head.lsn), chunk.head.xid)


class SimWriter(Actor):
    """Batches of device transactions into Postgres."""

    def __init__(self, postgres: SimPostgres, waiting: Waiting) -> None:
        self._postgres = postgres
        self._waiting = waiting
        self._queue = WriteQueue()
        self._work = Event()

    async def init(self) -> None:
        self.background(self._run())

    async def handle_cast(self, message: Any) -> None:
        assert isinstance(message, Write)
        decision = self._queue.add(message)
        if decision is None:
            self._work.set()
        else:
            self._tell(decision, 0)

    async def _run(self) -> None:
        while True:
            batch = self._queue.take(self.clock.monotonic_s())
            if batch is None:
                self._work.clear()
                delay_s = self._queue.wait_s(self.clock.monotonic_s())
                if delay_s is not None:
                    self.clock.call_after(delay_s, self._work.set)
                await self._work.wait()
                continue
            try:
                results, position = await self._call(json.loads(batch.text))
            except PostgresGone:
                self._queue.lost(self.clock.monotonic_s())
                await self._waiting.pause_up_to(300_000)
                continue
            for decision in self._queue.settle(results, self.clock.monotonic_s()):
                self._tell(decision, position)

    async def _call(self, elements: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        """``CALL electric.apply(batch)``: the connection may be lost before, within and after."""
        postgres, incarnation = self._postgres, self._postgres.incarnation
        results: list[dict[str, Any]] = []
        held: set[str] = set()
        for element in elements:
            await self._pause(incarnation)
            if element["client"] in held:
                results.append({"status": "retry"})
                continue
            result = postgres.apply(element)
            if result["status"] == "retry":
                held.add(element["client"])
            results.append(result)
        await self._pause(incarnation)
        postgres.flush()
        await self._pause(incarnation)
        return results, postgres.flushed_lsn

    async def _pause(self, incarnation: int) -> None:
        await self._waiting.pause_up_to(1_500)
        if not self._postgres.up or self._postgres.incarnation != incarnation:
            raise PostgresGone("the connection was lost")

    @staticmethod
    def _tell(decision: Decision, position: int) -> None:
        write = decision.write
        write.reply_to.cast(Written(write.lsn, write.ms, decision.status, position, decision.rejection))


class Anyone:
    """Every token is good."""

    def authenticate(self, token: str, now_s: float) -> Any:
        from syncline.actors.devices.auth import Identity

        return Identity("user", {}, None, proven=True)


async def start_child_here(parent: SimRef, spec: Any) -> SimRef:
    """In place of ``syncline.cluster.start_child``."""
    return await parent.host.start(spec.start(), spec.id)


async def stop_child_here(parent: SimRef, child_id: str) -> None:
    """In place of ``syncline.cluster.stop_child``: the whole service goes at once here."""


class Service:
    """``crashed``: called when an actor of the service, other than a device, ended with an exception."""

    def __init__(
        self,
        scheduler: Scheduler,
        waiting: Waiting,
        postgres: SimPostgres,
        directory: Path,
        wall_ms: Callable[[], int],
        crashed: Callable[[str, Exception], None],
    ) -> None:
        self._waiting = waiting
        self._scheduler = scheduler
        self._postgres = postgres
        self._directory = directory
        self._crashed = crashed
        self.host = SimHost(scheduler, waiting, wall_ms, self._actor_crashed)
        self.database = SimDatabase(postgres, waiting)
        self._shards = Shards({name: Named(self.host, name) for name in SHARDS})  # type: ignore[misc]
        self.around = Surroundings(self.database, Anyone(), "sim", self._shards)  # type: ignore[arg-type]
        self.ready = False
        self._numbers = iter(range(1, 1 << 30))
        self._boot = Task(self._start())
        self._boot.when_done(self._booted)
        self._boot.run()

    async def _start(self) -> None:
        host, postgres = self.host, self._postgres
        await host.start(SimWriter(postgres, self._waiting), WRITER, register=True)
        await host.start(Nothing(), CONSUMERS, register=True)

        def relation_of(relation_id: int) -> Relation | None:
            return RELATIONS.get(relation_id)

        def confirming(name: str) -> Callable[[int], None]:
            return lambda lsn: host.ref(REPLICATOR).cast(Confirm(name, lsn))

        def consumer(store: ShapeStore, relations: Sequence[Relation], shard: Ref) -> Consumer:
            return Consumer(store, relations, self._take_snapshot, shard)  # type: ignore[arg-type]

        for name in SHARDS:
            shard = Shard(
                name,
                self._shards,
                self._directory / name,
                consumer,
                relation_of,
                postgres.confirmed_lsn,
                confirming(name),
            )
            await host.start(shard, name, register=True)
        await host.start(Nothing(), ABSORBER, register=True)
        await host.start(
            Router(self.database.read_migrations, CATALOG.tables.get, self._shards, Named(host, ABSORBER)),
            ROUTER,
            register=True,
        )
        await host.start(SimReplicator(postgres, self._waiting), REPLICATOR, register=True)
        await host.start(Bundler(self._shards), BUNDLER, register=True)
        await host.start(Nothing(), DEVICES, register=True)
        await host.start(Gateway(self.around), GATEWAY, register=True)
        self.ready = True

    def _booted(self) -> None:
        if self.host.alive:
            self._boot.result()

    async def _take_snapshot(self, shape: Shape, relation: Relation, _: object) -> SimSnapshot:
        # As in ``new_mark``, no two are ever the same, across restarts either: a slot that sends again from an old
        # position brings the marks of earlier lives, and those must not be taken for this snapshot's.
        mark = f"{shape.hash}:{next(self._postgres.mark_numbers)}"
        routes = ((shape, await self._shards.found(shape.hash)),)
        streamed = set(await self.host.ref(ROUTER).call(AddRoutes(routes)))
        while True:
            await self._waiting.pause_up_to(3_000)
            if not self._postgres.up:
                raise PostgresGone("Postgres is down")
            if not streamed & self._postgres.invisible.keys():
                break
        rows = self._postgres.snapshot(relation.id)
        await self._waiting.pause_up_to(5_000)
        if not self._postgres.up:
            raise PostgresGone("Postgres is down")
        self._postgres.mark(mark)
        return SimSnapshot(rows, mark, self._waiting)

    def accept(self, connection: Any) -> Device:
        """A new socket."""
        device = Device(connection, self.around)
        at_once(self.host.start(device, f"device:{next(self._numbers)}"))
        return device

    def kill(self) -> None:
        """kill -9: what was written to files stays."""
        self.host.kill()
        if not self._boot.done():
            self._boot.cancel()
        for ref in self.host._refs:
            store = getattr(ref.actor, "_store", None)
            if store is not None:
                store.close()

    def _actor_crashed(self, ref: SimRef, error: Exception) -> None:
        if self.host.alive:
            self._crashed(ref.address.target, error)  # type: ignore[arg-type]


class Disk:
    """What of the log files has been synced; ``lose`` takes back some of the rest."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._synced: dict[str, int] = {}

    def fsync(self, descriptor: int) -> None:
        """In place of ``os.fsync``."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self._synced[path] = os.fstat(descriptor).st_size

    def wipe(self) -> None:
        """Another machine with nothing on it takes over."""
        for path in self.directory.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._synced.clear()

    def lose(self, rng: Any) -> None:
        """The machine goes down: behind what was synced, anything may be left of a log, its index or an image."""
        kinds = ("log-*", "index-*", "image*", "slab-*")
        for path in sorted(path for kind in kinds for path in self.directory.rglob(kind)):
            size = path.stat().st_size
            synced = min(size, self._synced.get(str(path), 0))
            os.truncate(path, rng.randrange(synced, size + 1))
