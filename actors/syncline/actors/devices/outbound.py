"""What a device gets next.

A device stands at a position: every transaction at or below it, of the shapes it holds, has been handed to its socket.
From there it can move in three ways, and this module decides which:

* **live**: frames that the bundle of its shapes releases are queued here and sent on;
* **from the logs**: when it lags behind what is queued (it just resumed, it was slow, a transaction is too large for
  the live path), the logs are read from its position up to what the bundle has released;
* **a delivery**: a new subscription's rows are an image of its shapes at one LSN. The device first follows the bundle
  of the larger set, which tells W, the position that bundle has released. Its old shapes are brought up to W from
  their logs, the images are sent as of W, and from W on it lives with the larger set. When a subscription ends, its
  rows leave as of what the bundle has released that still has its shapes, and only then the device follows the smaller
  one: a shape that leaves may lag behind the others. Nothing else is sent between the begin and the end of a delivery.

A device from whose position nothing is known here begins with a **repair** (see ``repairing``): a delivery of what
differs from the rows it has.

Own transactions come back as echoes, by their frames or in their places (see ``echoes``).

The window: at most ``window.size`` transactions may be unacknowledged; then the stream rests until an ack comes.

Pure, as a generator: ``steps()`` yields what to do, and the caller sends the answer in. ``Wait`` means "resume me when
anything has changed". ``Send`` is resumed once the socket has room, so a slow device holds back only itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice, takewhile

from syncline.actors.devices.delivering import arriving, leaving, narrowing
from syncline.actors.devices.echoes import Echoes
from syncline.actors.devices.held import HeldShapes
from syncline.actors.devices.inbound import HeldColumns
from syncline.actors.devices.layers import Named
from syncline.actors.devices.overlaps import shared
from syncline.actors.devices.repairing import repairing
from syncline.actors.devices.sending import FrameQueue, Sending
from syncline.actors.devices.steps import (
    Delivered,
    Delivery,
    Echo,
    Follow,
    Heal,
    OpenLog,
    Pin,
    ReadMore,
    Repair,
    Send,
    Shapes,
    Steps,
    Subscriptions,
    Wait,
)
from syncline.actors.shapes.frames import Frame, lsn_bytes
from syncline.proto import codec
from syncline.proto.events import WriteReceived
from syncline.proto.flow import Window
from syncline.proto.values import POSTGRES_ORIGIN, Migrate, Relation

# Beyond this a device is slow: what is queued is dropped and read again from the logs, at its own pace.
LIVE_BYTES_MAX = 1 << 20
# New subscriptions for which one bundle is followed. Each brings the device up to what that has released by then.
DELIVERED_TOGETHER_MAX = 50


class Outbound:
    """One device's way out.

    ``position``: every transaction at or below it has been sent. ``schema``: the hash of the schema shape, which every
    device holds. ``subscriptions``: those whose rows it has there. ``migrations`` and their ``relations`` are sent
    first: what a first start lacks. ``generation``: the last one used on this connection; what is released to an older
    one may still be on its way and is ignored. ``extensions``: whether the device takes them. ``selects``: see
    ``Echoing``. ``named``: by what the rows of a shape are known. ``repair``: what sets it right first; until then it
    counts as one that has no ``subscriptions``. ``reach``: where somebody wants to know when the device has come to.
    """

    def __init__(
        self,
        client_id: str,
        position: int,
        schema: str,
        subscriptions: Subscriptions,
        window: Window,
        migrations: Sequence[tuple[int, tuple[Migrate, ...]]] = (),
        relations: Sequence[Relation] = (),
        generation: int = 0,
        *,
        extensions: bool = False,
        selects: Callable[[str], bool] = lambda shape: False,
        named: Callable[[str], Named | None] = lambda shape: None,
        repair: Repair | None = None,
    ) -> None:
        self.client_id = client_id
        self._began_at = position
        self.window = window
        self.generation = generation
        self.reach: int | None = None
        self._ack_requested = 0
        self._extensions = extensions
        self._named = named
        self._repair = repair
        self._repaired_at: int | None = None
        self._held = HeldShapes(schema, subscriptions, named)
        self._echoes = Echoes(selects, self._held, telling=extensions)
        self._sending = Sending(client_id, position, window, self._echoes, self._held, extensions=extensions)
        if repair is not None:
            self._echoes.repairing(self._held.shapes_of(repair.subscriptions))
        self._migrations = migrations
        self._relations = relations
        self._released = 0
        self._live = FrameQueue()
        self._gap = False
        self._resting = False  # the steps have nothing to do until something changes
        self._between = False  # all that the steps have decided to send is sent
        self._deliveries: deque[Delivery] = deque()
        self._delivering: Delivery | None = None
        self._begun = 0  # how many of the deliveries, from the first on, can be called off no more

    # --- what happens -------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        """Queue a subscription's rows, or the leaving of some; they are made one at a time, in order."""
        self._deliveries.append(delivery)

    @property
    def position(self) -> int:
        return self._sending.position

    @position.setter
    def position(self, lsn: int) -> None:
        self._sending.position = lsn

    @property
    def shapes(self) -> Shapes:
        """What the device holds."""
        return self._held.shapes

    @property
    def target_shapes(self) -> Shapes:
        """What the device will hold when every delivery asked so far is made."""
        return [self._held.shapes_of(self._subscribed), *self._following()][-1]

    @property
    def _subscribed(self) -> Subscriptions:
        """What it has, or will have after its repair."""
        return self._held.subscriptions if self._repair is None else self._repair.subscriptions

    def _following(self) -> Iterator[Shapes]:
        """What it holds after each of them."""
        subscriptions = self._subscribed
        for delivery in self._deliveries:
            subscriptions = delivery.after(subscriptions)
            yield self._held.shapes_of(subscriptions)

    def _hold(self, subscriptions: Subscriptions) -> None:
        self._held.hold(subscriptions)
        self._echoes.holds(self._held.shapes)

    def _receive(self, delivery: Delivery) -> None:
        self._held.receive(delivery)
        self._echoes.holds(self._held.shapes)

    def cancel(self, subscription_id: str) -> bool:
        """Forget a subscription whose delivery has not begun; False when it has begun or is done."""
        for number, delivery in enumerate(self._deliveries):
            if delivery.requests and delivery.subscription_ids == (subscription_id,):
                if number < self._begun:
                    return False
                self._deliveries.remove(delivery)
                return True
        return False

    def released(self, generation: int, frames: tuple[Frame, ...], upto: int) -> None:
        """The bundle followed since ``generation`` released ``frames``, and with them everything up to ``upto``."""
        if generation != self.generation:
            return
        for frame in frames:
            if frame.lsn <= self.position:
                continue
            if frame.body is None or self._live.size_bytes + len(frame.body) > LIVE_BYTES_MAX:
                self._live.drop()
                self._gap = True
            if not self._gap:
                self._live.add(frame)
        self._released = max(self._released, upto)

    def own_passed(self, lsn: int, commit_ms: int) -> bool:
        """The stream has come by a transaction of this device; a service that starts again comes by some once more.
        What lies before where this connection began is in the rows that the device has, and comes back with its rows
        when it is sent again. False: see ``note_echo``."""
        return lsn <= self._began_at or self.note_echo(Echo(lsn, commit_ms))

    def note_echo(self, echo: Echo) -> bool:
        """A transaction of this device has, or passes for, ``echo.lsn``; see that it comes back.

        False: too many wait for the device's acks. It has to come back: what was echoed by then it sends no more.
        """
        return self._echoes.note(echo)

    def wrote(self, write: WriteReceived, tables: frozenset[int]) -> None:
        """The device has sent a transaction, of rows of ``tables`` (relation ids). What becomes of it ``applied`` or
        ``heal`` will tell."""
        self._echoes.wrote(write, tables)

    def spelled_otherwise(self, commit_ms: int) -> None:
        """See ``Echoing``."""
        self._echoes.spelled_otherwise(commit_ms)

    def applied(self, commit_ms: int, lsn: int) -> bool:
        """A transaction of the device itself is in Postgres, which had not known it, below ``lsn``: whether the stream
        brings it back. Else it comes back by ``heal``."""
        return self._echoes.applied(commit_ms, lsn, self._following())

    def has_repaired(self, lsn: bytes) -> bool:
        """Whether a device whose position is ``lsn`` has had its repair."""
        return self._repaired_at is not None and lsn == lsn_bytes(self._repaired_at)

    def expect(self, relation_ids: Collection[int]) -> None:
        """The device has subscribed to rows of these tables, whose delivery cannot be made yet."""
        self._echoes.healing.expect(relation_ids)

    def heal(self, heal: Heal) -> bool:
        """A transaction of this device comes back by itself, with its rows, if nothing has brought it back on this
        stream. False: as ``note_echo`` says."""
        return self._echoes.heal(heal)

    def heal_again(self) -> None:
        """The rows that were read too early may be read again."""
        self._echoes.healing.rested()

    def columns_held(self, table_id: int) -> HeldColumns | None:
        """The columns that the device has, or will have soon, of a table, if some row lacks some; see ``HeldShapes``.

        Asked for every row that a device writes: not all its subscriptions are looked at, if need not be."""
        some = None if self._held.has_whole(table_id) else self._held.columns(table_id, self.target_shapes)
        every = self._held.every(table_id, self._coming)
        return None if some is None and every is None else HeldColumns(some, every)

    @property
    def _coming(self) -> Shapes:
        """Those of which the device may have rows before they count as held."""
        if self._repair is not None:
            return self._held.shapes_of(self._repair.subscriptions)
        return {} if self._delivering is None else self._delivering.shapes

    def has_sent(self, lsn: int) -> bool:
        """Whether the device has been sent all that it is to get of ``lsn`` and before."""
        nothing_left = self._between and not (self._live or self._gap or self._deliveries)
        return self.position >= lsn or (nothing_left and self._released >= lsn)

    @property
    def _ack_due(self) -> bool:
        """Whether the device is to be asked for an ack: else it may take a minute, or so many more transactions."""
        lsn = self.reach
        if lsn is None or not self._extensions or lsn <= self._ack_requested or self.window.acked_upto(lsn):
            return False
        return self.has_sent(lsn)

    def has_reached(self, lsn: int) -> bool:
        """Whether it has acknowledged that, too."""
        return self.has_sent(lsn) and self.window.acked_upto(lsn)

    @property
    def awaited_lsn(self) -> int | None:
        """An LSN whose release the device must be told of although it may hold nothing of it."""
        own = self._awaited_for_itself
        if self.reach is None or self._released >= self.reach:
            return own
        return self.reach if own is None else min(own, self.reach)

    @property
    def _awaited_for_itself(self) -> int | None:
        if self._repair is not None and self._released < self.position:
            return self.position
        if self._delivering is not None and self._released < self._due_before(self._delivering):
            return self._due_before(self._delivering)
        lsn = self._echoes.next_lsn
        return lsn if lsn is not None and lsn > self._released else None

    # --- what to do ---------------------------------------------------------------------------------------------------

    def steps(self) -> Steps:
        """Endless; see the module's head. Whoever cannot carry out a step closes the connection: the device resumes."""
        known = (*self._relations, *self._held.relations.values())
        yield Send(tuple(map(codec.relation_message, known)))
        for commit_ms, changes in self._migrations:
            yield from self._sending.send_synthetic(commit_ms, POSTGRES_ORIGIN, changes)
        if self._repair is None:
            yield from self._live_with(self.shapes)
        else:
            yield from self._make_repair(self._repair)
        while True:
            self._between = True
            if self._ack_due:
                self._ack_requested = self.reach or 0
                yield Send((codec.ack_request(),))
                continue
            self._between = not (self.due or self._deliveries or self._echoes.healing.due)
            if self._deliveries:
                yield from self._make_deliveries()
            elif self._echoes.healing.due:
                for echo in (yield from self._echoes.healing.read(self.position, self._held.tables)):
                    self.note_echo(echo)
            elif self._gap:
                yield from self._read_log(self._released_from_log())
                yield Pin(None)
            elif self._live:
                yield from self._sending.send_run(self._live)
            elif self._echoes.due(self._released):
                upto = self._released  # more may be released, and queued, while these are sent
                yield from self._sending.send_echoes(upto)
                self.position = max(self.position, upto)
            else:
                self._resting = True
                yield Wait()
                self._resting = False

    def at_once(self) -> tuple[bytes, ...]:
        """Messages for the socket, in place of what the steps would do with what was just released. Most devices rest
        when a change comes, and there are thousands of them: each is spared the way through its steps. Empty: the steps
        have to see to it.
        """
        if not self._resting or self._gap or self._deliveries or self._echoes.healing.due or not self._live:
            return ()
        frame = self._live[0]
        if not frame.starts or not self.window.open or self._echoes.due(frame.lsn - 1):
            return ()
        return self._sending.message(self._live.take(), self._live)

    @property
    def due(self) -> bool:
        """Whether there is something for the steps to do that a release has brought."""
        return bool(self._live) or self._gap or self._echoes.due(self._released) or self._ack_due

    def _follow(self, shapes: Shapes) -> Steps:
        self.generation += 1
        self._live.drop()
        self._gap = False
        self._released = 0
        released = yield Follow(frozenset(shapes), self.generation, shared(shapes))
        assert isinstance(released, int)
        self._released = max(self._released, released)

    def _live_with(self, shapes: Shapes) -> Steps:
        """What ``shapes`` have told since the device's position comes from their logs, and what they tell from now on
        as it is released."""
        yield from self._follow(shapes)
        yield Pin(None)
        self._gap = self.position < self._released

    def _released_from_log(self) -> int:
        """Where a reading of the logs has to end for what is released from now on to queue up behind it, no frame
        missing and none twice: what is queued already will be read."""
        self._live.drop()
        self._gap = False
        return self._released

    def _read_log(self, upto: int) -> Steps:
        yield from self._read_frames(upto)
        yield from self._sending.send_echoes(upto)
        self.position = max(self.position, upto)

    def _read_frames(self, upto: int) -> Steps:
        if upto > self.position:
            yield Pin(self.position)
            yield OpenLog(self.shapes, self.position, upto)
            done = False
            while not done:
                answer = yield ReadMore()
                assert isinstance(answer, tuple)
                frames, done = answer
                run = FrameQueue(frames)
                while run:
                    yield from self._sending.send_run(run)

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def _make_repair(self, repair: Repair) -> Steps:
        """Nothing but migrations, and what has been carried out, comes before it: an echo would have the device forget
        what it has written, and might change rows that the device has digested as they are."""
        shapes = self._held.shapes_of(repair.subscriptions)
        yield from self._follow(shapes)
        while self._released < self.position:
            yield Wait()
        at = self._released_from_log()
        yield from self._read_frames(upto=at)
        self._echoes.pass_by(at)
        yield from self._sending.tell_carried_out()
        yield Pin(at)
        self._repaired_at = at
        yield from repairing(repair.holdings, shapes, at)
        yield Pin(None)
        self._hold(repair.subscriptions)
        self._echoes.repaired()
        self.position, self._repair = at, None

    def _make_deliveries(self) -> Steps:
        """The next one; and when that is a new subscription, those that are next, too: a device with very many shapes
        does not follow a bundle of all of them for each one more."""
        together = list(islice(takewhile(lambda one: one.requests, self._deliveries), DELIVERED_TOGETHER_MAX))
        if together:
            self._begun, self._delivering = len(together), together[0]  # from when the bundle is asked for
            yield from self._follow({**self.shapes, **{s: r for one in together for s, r in one.shapes.items()}})
        for begun in range(max(1, len(together)), 0, -1):
            self._begun, self._delivering = begun, self._deliveries[0]
            yield from self._make_delivery(self._delivering)
            self._deliveries.popleft()
        self._begun, self._delivering = 0, None
        self._held.rest()
        yield Pin(None)

    def _make_delivery(self, delivery: Delivery) -> Steps:
        while self._released < self._due_before(delivery):
            yield Wait()
        at = self._released_from_log()
        yield from self._read_log(upto=at)
        yield from self._sending.tell_carried_out()
        yield Pin(at)
        if delivery.requests:
            yield from arriving(delivery, self._held.layers, at, self._named, estimating=self._extensions)
            self._receive(delivery)
        else:
            subscriptions = delivery.after(self._held.subscriptions)
            shapes = self._held.shapes_of(subscriptions)
            gone = {shape: self.shapes[shape] for shape in sorted(self.shapes.keys() - shapes.keys())}
            # First: a connection that breaks between them must leave a device that asks again for what has not left.
            yield from narrowing(gone, shapes, at, partial(self._sending.send_synthetic, 0, POSTGRES_ORIGIN))
            yield from leaving(delivery, gone, shapes, at)
            self._hold(subscriptions)
        self._echoes.healing.delivered()
        yield Delivered(delivery, at)
        if not delivery.requests:
            yield Pin(None)
            yield from self._live_with(shapes)

    def _due_before(self, delivery: Delivery) -> int:
        """How far the stream has to come before ``delivery`` is made. A device may stand beyond what a service that was
        just restarted has read again: there is no image of that."""
        return self.position if delivery.requests else max(self.position, self._echoes.upto - 1)
