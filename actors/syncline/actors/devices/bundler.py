"""The bundles of one edge: shapes' records in, frames out to the devices that hold the same set of shapes.

One actor for all bundles of an edge, so that a shape sends its records to an edge once, however many sets it is in.
A bundle is made when the first device asks for its set and dropped when the last one leaves.

Shapes pack their logs up to what every device has been released. A device that is in the middle of reading rows as of
an earlier position is *pinned* there: from when it is answered that it follows, until it says that it reads no more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from syncline.actors.devices.bundle import Bundle
from syncline.actors.devices.following import (
    Author,
    AwaitLsn,
    AwaitShards,
    Followed,
    FollowSet,
    OwnPassed,
    Pinned,
    Released,
    Unfollow,
)
from syncline.actors.shapes.messages import (
    Arrived,
    FollowWatermark,
    HeldBelow,
    Join,
    Joined,
    Leave,
    OwnTransaction,
    ReadReleased,
    Watermark,
)
from syncline.actors.shapes.shards import Shards
from syncline.actors.shapes.watermarks import Passed
from syncline.cluster import Actor, ActorDown, CallTimeout, Down, Exit, ExitKind, Monitor, Ref, Reply
from syncline.proto.values import Relation

# The shard starts anew at the same time as we do; it reads its files first.
ATTACH_RETRY_S = 0.02
ATTACH_TIMEOUT_S = 5.0
# Who reads nothing for so long holds nobody up: it begins anew.
PINNED_S = 300.0
OVERRUN = Exit(ExitKind.KILLED, detail="no room for what its shapes release")


class _Attach:
    """It is time to ask for the shard's watermark once more."""


@dataclass(slots=True, eq=False)
class _Member:
    device: Ref
    generation: int
    bundle: _Live
    awaited: int | None = None
    pinned: int | None = None
    pinned_s: float = 0.0


class _Live:
    """A bundle and the devices that follow it."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.members: dict[Ref, _Member] = {}
        self.unanswered: list[_Member] = []


@dataclass(frozen=True, slots=True)
class _Joining:
    """A shape we asked to send us what it appends. ``number`` tells this asking from an earlier one."""

    ref: Ref
    number: int


class Bundler(Actor):
    """See the module. It never waits for anybody: shapes and the shard wait for it, and they for each other."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._bundles: dict[frozenset[str], _Live] = {}
        # Those for which the next watermark may release something; the others hear of it when they are looked at.
        self._due: dict[_Live, None] = {}
        self._by_shape: dict[str, dict[frozenset[str], _Live]] = {}
        self._members: dict[Ref, _Member] = {}
        self._authors: dict[str, Ref] = {}
        self._client_ids: dict[Ref, str | None] = {}  # of every device that we monitor
        self._awaiting: dict[Ref, None] = {}
        self._shapes: dict[str, _Joining] = {}
        self._joined: dict[str, int] = {}
        self._below: dict[str, int] = {}  # shapes that rest, and where
        self._numbers = itertools.count(1)
        self._shard_watches: dict[str, Monitor] = {}
        self._passed = Passed(shards.refs)
        self._attached: list[Reply] = []  # who waits for that

    async def init(self) -> None:
        await self._attach()

    async def handle_cast(self, message: object) -> None:
        match message:
            case Arrived(shape, records):
                if records and shape in self._joined:  # else it was sent before our newest Join, and proves nothing
                    self._joined[shape] = max(self._joined[shape], records[-1].lsn)
                for live in self._by_shape.get(shape, {}).values():
                    self._release(live)  # else what comes again might pass for new
                    live.bundle.arrived(records)
                    self._due[live] = None
            case Watermark(shard, lsn, own):
                self._shard_passed(shard, lsn, own)
            case Author(device, client_id):
                self._watch(device)
                self._authors[client_id] = device
                self._client_ids[device] = client_id
            case FollowSet():
                self._follow(message)
            case Unfollow(device):
                self._leave(device)
            case AwaitLsn(device, lsn):
                self._await(device, lsn)
            case Pinned(device, lsn):
                if device in self._members:
                    self._pin(self._members[device], lsn)
            case _:
                raise TypeError(f"a bundler does not understand {message!r}")

    async def handle_call(self, message: object) -> object:
        match message:
            case HeldBelow(shape, lsn):
                self._hold(shape, lsn)
                return None
            case ReadReleased(shape):
                return self._safe_upto(shape)
            case AwaitShards():
                if len(self._shard_watches) == len(self._shards.refs):
                    return None
                self._attached.append(self.defer())
                return self._attached[-1]
            case _:
                raise TypeError(f"a bundler does not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        match message:
            case Joined(shape, _, appended, number):
                self._shape_joined(shape, appended, number)
            case HeldBelow(shape, lsn):
                self._hold(shape, lsn)
            case _Attach():
                await self._attach()
            case Down(exit=exit, monitor=monitor) if monitor in self._shard_watches.values():
                raise ConnectionError(f"the shard ended: {exit}")
            case Down(ref=ref):
                self._forget(ref)
            case _:
                pass

    async def _attach(self) -> None:
        """Follow the shards. They may be starting, for as long as it takes; devices wait, or come back."""
        for name, shard in self._shards.refs.items():
            if name in self._shard_watches:
                continue
            watch = self.monitor(shard)
            try:
                watermark = await shard.call(FollowWatermark(self.ref), ATTACH_TIMEOUT_S)
            except (ActorDown, CallTimeout):
                watch.cancel()
                self.send_after(ATTACH_RETRY_S, _Attach())
                return
            assert isinstance(watermark, int)
            self._shard_watches[name] = watch
            self._shard_passed(name, watermark, ())
        waiting, self._attached = self._attached, []
        for reply in waiting:
            reply.set(None)

    def _safe_upto(self, shape: str) -> int | None:
        """The answer to ``ReadReleased``."""
        known: list[int] = []
        for live in self._by_shape.get(shape, {}).values():
            self._release(live)  # it may not have heard of the newest watermark
            upto = live.bundle.safe_upto(shape)
            known += () if upto is None else (upto,)
            known += self._pins(live)
        return min(known, default=None)

    def _pin(self, member: _Member, lsn: int | None) -> None:
        member.pinned, member.pinned_s = lsn, self.clock.monotonic_s()

    def _pins(self, live: _Live) -> Iterator[int]:
        since_s = self.clock.monotonic_s() - PINNED_S
        for member in live.members.values():
            if member.pinned is not None and member.pinned_s > since_s:
                yield member.pinned

    # --- releases -----------------------------------------------------------------------------------------------------

    def _shard_passed(self, shard: str, lsn: int, own: tuple[OwnTransaction, ...]) -> None:
        passed = self._passed.reached(shard, lsn, own)
        if passed is not None:
            self._pass(passed)

    def _pass(self, own: tuple[OwnTransaction, ...]) -> None:
        told: dict[Ref, None] = {}
        for transaction in own:
            device = self._authors.get(transaction.client_id)
            if device is not None:
                _hand(device, OwnPassed(transaction.lsn, transaction.commit_ms))
                told[device] = None
        due, self._due = self._due, {}
        for live in due:
            if not live.members:
                continue
            for device in self._release(live):
                told.pop(device, None)
            if live.bundle.waits:
                self._due[live] = None
        for device in {**told, **self._awaiting}:
            member = self._members.get(device)
            if member is not None:
                self._release(member.bundle)
                if device in told or _reached(member):
                    self._tell(member)

    def _release(self, live: _Live) -> list[Ref]:
        """What the watermark allows; the devices that were handed it."""
        frames = live.bundle.watermark(self._passed.watermark)
        handed: list[Ref] = []
        if frames:
            released: dict[int, Released] = {}
            for member in live.members.values():
                if member not in live.unanswered:  # what comes before a Followed is left to the logs
                    message = released.get(member.generation)
                    if message is None:
                        message = Released(member.generation, frames, live.bundle.released)
                        released[member.generation] = message
                    _hand(member.device, message)
                    handed.append(member.device)
        self._answer(live)
        return handed

    def _tell(self, member: _Member) -> None:
        if member not in member.bundle.unanswered:
            member.awaited = None
            self._awaiting.pop(member.device, None)
            _hand(member.device, Released(member.generation, (), member.bundle.bundle.released))

    def _answer(self, live: _Live) -> None:
        if live.bundle.open and live.unanswered:
            for member in live.unanswered:
                self._pin(member, live.bundle.released)
                _hand(member.device, Followed(member.generation, live.bundle.released))
            live.unanswered.clear()

    # --- members ------------------------------------------------------------------------------------------------------

    def _follow(self, wish: FollowSet) -> None:
        device, generation = wish.device, wish.generation
        live = self._bundles.get(frozenset(wish.shapes)) or self._make(wish.shapes, wish.relations)
        self._leave(device, keep=live)
        member = _Member(device, generation, live)
        live.members[device] = self._members[device] = member
        live.unanswered.append(member)
        self._watch(device)
        self._release(live)

    def _make(self, shapes: Mapping[str, Ref], relations: Iterable[Relation]) -> _Live:
        live = _Live(Bundle(shapes, self._passed.watermark, relations))
        self._bundles[live.bundle.shapes] = live
        self._due[live] = None
        for shape in shapes.keys() & self._below.keys():  # before it can open
            live.bundle.held(shape, self._below[shape])
        for shape, ref in shapes.items():
            self._by_shape.setdefault(shape, {})[live.bundle.shapes] = live
            if shape not in self._shapes:
                joining = self._shapes[shape] = _Joining(ref, next(self._numbers))
                ref.inform(Join(self.ref, joining.number))
            elif shape in self._joined:
                live.bundle.joined(shape, self._joined[shape])
        return live

    def _shape_joined(self, shape: str, appended: int, number: int) -> None:
        """Only the answer to our newest Join counts: after an earlier one we left, and missed what came then."""
        joining = self._shapes.get(shape)
        if joining is None or joining.number != number:
            return
        self._joined[shape] = appended
        for live in self._by_shape[shape].values():
            live.bundle.joined(shape, appended)
            self._release(live)

    def _hold(self, shape: str, lsn: int | None) -> None:
        if lsn is None:
            self._below.pop(shape, None)
        elif shape in self._shapes:  # else nobody here follows it any more
            self._below[shape] = lsn
        for live in self._by_shape.get(shape, {}).values():
            live.bundle.held(shape, lsn)
            self._release(live)
            for member in list(live.members.values()):
                if _reached(member):
                    self._tell(member)

    def _leave(self, device: Ref, keep: _Live | None = None) -> None:
        member = self._members.pop(device, None)
        if member is None:
            return
        self._awaiting.pop(device, None)
        live = member.bundle
        del live.members[device]
        if member in live.unanswered:
            live.unanswered.remove(member)
        if live.members or live is keep:
            return
        del self._bundles[live.bundle.shapes]
        for shape in live.bundle.shapes:
            del self._by_shape[shape][live.bundle.shapes]
            if not self._by_shape[shape]:
                del self._by_shape[shape]
                self._joined.pop(shape, None)
                self._below.pop(shape, None)
                self._shapes.pop(shape).ref.inform(Leave(self.ref))

    def _await(self, device: Ref, lsn: int) -> None:
        member = self._members.get(device)
        if member is not None:
            member.awaited = lsn
            self._awaiting[device] = None
            self._release(member.bundle)
            if _reached(member):
                self._tell(member)

    def _watch(self, device: Ref) -> None:
        if device not in self._client_ids:
            self._client_ids[device] = None
            self.monitor(device)

    def _forget(self, device: Ref) -> None:
        self._leave(device)
        client_id = self._client_ids.pop(device, None)
        if client_id is not None and self._authors.get(client_id) == device:
            del self._authors[client_id]


def _reached(member: _Member) -> bool:
    live = member.bundle.bundle
    return member.awaited is not None and live.open and member.awaited <= live.released


def _hand(device: Ref, message: object) -> None:
    """A device that has no room has fallen behind too far, and misses nothing only if it starts again."""
    if not device.cast(message) and device.alive:
        device.stop(OVERRUN)
