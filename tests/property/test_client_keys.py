"""Whatever is asked for under a key, refused, lost or cut short in between: in the end the last wish is here, alone.

The satellite, the connection and the replica are real, the store is SQLite in memory, which can die at any commit. The
server is a model that keeps which rows it has given to which subscription. Frames wait in both directions until the
plan lets one of them arrive.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.device import MemoryStore, PowerCut
from tests.unit.client.satellite_peer import ITEMS, ITEMS_MIGRATION, item

from syncline.client.connection import Connection
from syncline.client.grouping import grouped
from syncline.client.live import Changes
from syncline.client.replica import load_replica
from syncline.client.satellite import Satellite
from syncline.client.shape_spec import ShapeSpec
from syncline.client.shapes import ShapeState
from syncline.proto import codec
from syncline.proto.events import AuthRequested, StartRequested, SubscribeRequested, UnsubscribeRequested
from syncline.proto.session import ServerSession
from syncline.proto.subprotocols import OLD
from syncline.proto.values import Gone, Insert

# What each condition selects; the server refuses the last one.
ROWS = {"a": {"1", "2"}, "b": {"2", "3"}, "c": {"2", "4"}}
REFUSED = "refused"
STEPS = st.one_of(
    st.sampled_from([("sync", where) for where in (*ROWS, REFUSED)]),
    st.sampled_from([("up", ""), ("up", ""), ("down", ""), ("down", ""), ("down", "")]),
    st.sampled_from(
        [("unsubscribe", ""), ("cut", ""), ("crash", ""), ("die", "before commit"), ("die", "after commit")]
    ),
)
numbers = itertools.count()


class Server:
    """``held``: the rows of each subscription of the device. Frames of the newest connection wait both ways."""

    protocol = OLD[0]

    def __init__(self) -> None:
        self._delivered: dict[str, set[str]] = {}
        self.held: dict[str, set[str]] = {}
        self.lsn = 0
        self.connected()

    def connected(self) -> None:
        self.session = ServerSession()
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()

    async def send(self, frame: bytes) -> None:
        """The device's transport."""
        self.up.append(frame)

    def take(self) -> None:
        if self.up:
            for event in self.session.receive(self.up.popleft()):
                self.down.extend(self._answers(event))

    def _answers(self, event: Any) -> list[bytes]:
        session = self.session
        self.lsn += 1
        lsn = str(self.lsn).encode()
        match event:
            case AuthRequested(request_id, _, _):
                return [session.authenticated(request_id, "server")]
            case StartRequested(request_id, _, subscription_ids):
                self.held = {id: self._delivered[id] for id in subscription_ids}
                return [session.start_accepted(request_id), codec.relation_message(ITEMS)]
            case SubscribeRequested(request_id, id, (shape,)):
                if shape.where == REFUSED:
                    return [session.subscribe_refused(request_id, id, "SHAPE_REQUEST_ERROR", "no", [])]
                known = set().union(*self.held.values())
                self.held[id] = self._delivered[id] = ROWS[shape.where]
                rows = [Insert(ITEMS.id, item(key), ()) for key in sorted(self.held[id] - known)]
                begun = [codec.subs_data_begin(id, lsn), codec.shape_data_begin(shape.request_id)]
                ended = [codec.shape_data_end(), codec.subs_data_end()]
                data = codec.oplog_message(codec.encode_ops(rows))
                return [session.subscribed(request_id, id), *begun, data, *ended]
            case UnsubscribeRequested(request_id, ids):
                left = set().union(*(self.held.pop(id, set()) for id in ids)).difference(*self.held.values())
                gones = [Gone(ITEMS.id, ITEMS.key_row((key.encode(),))) for key in sorted(left)]
                batch = codec.oplog_message(codec.encode_ops(gones))
                return [
                    session.unsubscribed(request_id),
                    codec.unsubs_data_begin(ids, lsn),
                    batch,
                    codec.unsubs_data_end(),
                ]
        return []


class Device:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.store = MemoryStore(f"keys-{next(numbers)}", "me")
        self.waiting: list[asyncio.Task[Any]] = []

    async def start(self) -> None:
        self.replica = await load_replica(self.store, Changes(), lambda: 100)  # type: ignore[arg-type]
        await self.replica.migrate([ITEMS_MIGRATION])
        self.satellite = Satellite(self.replica, "ws://nowhere", lambda url: None)  # type: ignore[arg-type,return-value]
        await self.connect()

    async def connect(self) -> None:
        self.server.connected()
        self.connection = Connection(self.server, self.replica, self.satellite, "token")  # type: ignore[arg-type]
        self.satellite._connection = self.connection
        await self.server.send(self.connection._session.authenticate("me", "token"))

    async def crash(self) -> None:
        for task in self.waiting:
            task.cancel()
        self.store.crash()
        await self.start()

    async def wish(self, where: str) -> None:
        """The application asks, and goes on; what it is told is another test's."""
        task = asyncio.ensure_future(self.satellite.sync(ShapeSpec("items", where), "key"))
        self.waiting.append(task)
        for _ in range(20):  # more turns of the loop than it takes it to ask
            await asyncio.sleep(0)
        if task.done() and isinstance(task.exception(), PowerCut):
            raise PowerCut

    async def unsubscribe(self) -> None:
        newest = [s.position for s in self.replica.subscriptions.values() if s.key == "key"]
        if newest:
            await self.satellite.unsubscribe(max(newest))

    async def take(self) -> None:
        if self.server.down:
            events, _ = self.connection._session.receive(self.server.down.popleft())
            for event in grouped(events, self.connection._relations):
                await self.connection._handle(event)

    @property
    def here(self) -> set[str]:
        return {id for (id,) in self.store.connection.execute("SELECT id FROM items")}

    @property
    def delivered(self) -> bool:
        return any(s.state is ShapeState.DELIVERED for s in self.replica.subscriptions.values())


async def follow(steps: list[tuple[str, str]]) -> None:
    server = Server()
    device = Device(server)
    await device.start()
    wish: str | None = None
    try:
        for kind, detail in steps:
            delivered = device.delivered
            try:
                match kind:
                    case "sync":
                        await device.wish(detail)
                    case "unsubscribe":
                        await device.unsubscribe()
                    case "up":
                        server.take()
                    case "down":
                        await device.take()
                    case "cut":
                        await device.connect()
                    case "crash":
                        await device.crash()
                    case "die":
                        device.store.dies = detail
            except PowerCut:
                await device.crash()
                if kind in ("sync", "unsubscribe"):
                    # Noted down or not: the application cannot know, so it asks again.
                    await (device.wish(detail) if kind == "sync" else device.unsubscribe())
            if kind == "sync" and detail != REFUSED:
                wish = detail
            elif kind == "unsubscribe":
                wish = None
            assert device.delivered or not delivered or kind == "unsubscribe"
            assert not device.delivered or "2" in device.here
        device.store.dies = None
        for _ in range(2):
            await device.connect()
            while server.up or server.down:
                server.take()
                await device.take()
        assert [s.spec.where for s in device.replica.subscriptions.values()] == ([] if wish is None else [wish])
        assert device.here == (set() if wish is None else ROWS[wish])
        assert [*server.held.values()] == ([] if wish is None else [ROWS[wish]])
    finally:
        for task in device.waiting:
            task.cancel()
        await asyncio.gather(*device.waiting, return_exceptions=True)
        device.store.close()


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_in_the_end_the_last_wish_under_a_key_is_here_alone(steps: list[tuple[str, str]]) -> None:
    asyncio.run(follow(steps))


@pytest.mark.parametrize("dies", ["before commit", "after commit"])
@pytest.mark.parametrize("at", range(12))
def test_a_replacement_survives_the_end_of_the_process_at_each_step(dies: str, at: int) -> None:
    talk = [("up", ""), ("down", "")] * 12
    steps = [("sync", "a"), *talk, ("sync", "b"), *talk]
    steps.insert(1 + len(talk) + 2 * at, ("die", dies))
    asyncio.run(follow(steps))
