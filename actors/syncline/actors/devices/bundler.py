"""The bundles of one edge: shapes' records in, frames out to the devices that hold the same set of shapes.

One actor for all bundles of an edge, so that a shape sends its records to an edge once, however many sets it is in.
A bundle is made when the first device asks for its set and dropped when the last one leaves.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from syncline.actors.devices.bundle import Bundle
from syncline.actors.names import SHARD
from syncline.actors.shapes.consumer import Arrived, Join, Joined, Leave
from syncline.actors.shapes.frames import Frame
from syncline.actors.shapes.shard import FindShapes, FollowWatermark, OwnTransaction, Watermark
from syncline.cluster import Actor, Down, Ref

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FollowSet:
    """``device`` wants the releases of ``shapes`` instead of those it followed before. Answered with ``Followed`` when
    the bundle is open, then with a ``Released`` for each release that has frames, or that passes ``AwaitLsn``."""

    device: Ref
    client_id: str
    generation: int
    shapes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unfollow:
    device: Ref


@dataclass(frozen=True, slots=True)
class AwaitLsn:
    """Tell ``device`` when its bundle has released ``lsn``, whether or not there is anything for it."""

    device: Ref
    lsn: int


@dataclass(frozen=True, slots=True)
class Followed:
    generation: int
    released: int


@dataclass(frozen=True, slots=True)
class Released:
    generation: int
    frames: tuple[Frame, ...]
    upto: int


@dataclass(frozen=True, slots=True)
class OwnPassed:
    """A transaction of this device itself is at ``lsn`` of the stream."""

    lsn: int
    commit_ms: int


class ShapeMissing(Exception):
    """A set names a shape that does not live on the shard: the device must subscribe anew."""


@dataclass(slots=True)
class _Member:
    device: Ref
    client_id: str
    generation: int
    bundle: _Live
    answered: bool = False
    awaited: int | None = None


class _Live:
    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.members: dict[Ref, _Member] = {}


class Bundler(Actor):
    """See the module."""

    def __init__(self) -> None:
        self._bundles: dict[frozenset[str], _Live] = {}
        self._by_shape: dict[str, dict[frozenset[str], _Live]] = {}
        self._members: dict[Ref, _Member] = {}
        self._by_client: dict[str, Ref] = {}
        self._joined: dict[str, int] = {}
        self._shapes: dict[str, Ref] = {}
        self._watermark = 0

    async def init(self) -> None:
        self._shard = self.context.registry.ref(SHARD)
        self.monitor(self._shard)
        watermark = await self._shard.call(FollowWatermark(self.ref))
        assert isinstance(watermark, int)
        self._watermark = watermark

    async def handle_cast(self, message: object) -> None:
        match message:
            case Arrived(shape, records):
                if records and shape in self._joined:  # else it was sent before our newest Join, and proves nothing
                    self._joined[shape] = max(self._joined[shape], records[-1].lsn)
                for live in self._by_shape.get(shape, {}).values():
                    live.bundle.arrived(records)
            case Watermark(lsn, own):
                self._pass(lsn, own)
            case Joined(shape, _, appended):
                self._joined[shape] = appended
                for live in self._by_shape.get(shape, {}).values():
                    live.bundle.joined(shape, appended)
                    self._answer(live)
            case FollowSet():
                await self._follow(message)
            case Unfollow(device):
                self._leave(device)
            case AwaitLsn(device, lsn):
                self._await(device, lsn)
            case _:
                raise TypeError(f"a bundler does not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        match message:
            case Down(ref=ref, exit=exit) if ref is self._shard:
                raise ConnectionError(f"the shard ended: {exit}")
            case Down(ref=ref):
                self._leave(ref)
            case _:
                pass

    # --- releases -----------------------------------------------------------------------------------------------------

    def _pass(self, lsn: int, own: tuple[OwnTransaction, ...]) -> None:
        self._watermark = max(self._watermark, lsn)
        authors: set[Ref] = set()
        for transaction in own:
            device = self._by_client.get(transaction.client_id)
            if device is not None:
                device.cast(OwnPassed(transaction.lsn, transaction.commit_ms))
                authors.add(device)
        for live in self._bundles.values():
            frames = live.bundle.watermark(self._watermark)
            self._answer(live)
            if frames:
                released: dict[int, Released] = {}
                for member in live.members.values():
                    message = released.get(member.generation)
                    if message is None:
                        message = Released(member.generation, frames, live.bundle.released)
                        released[member.generation] = message
                    member.device.cast(message)
                    member.awaited = None
                    authors.discard(member.device)
        for device in authors:
            self._tell(self._members[device])
        for member in [m for m in self._members.values() if m.awaited is not None]:
            if member.awaited is not None and member.awaited <= member.bundle.bundle.released:
                self._tell(member)

    def _tell(self, member: _Member) -> None:
        member.awaited = None
        if member.answered:
            member.device.cast(Released(member.generation, (), member.bundle.bundle.released))

    def _answer(self, live: _Live) -> None:
        if not live.bundle.open:
            return
        for member in live.members.values():
            if not member.answered:
                member.answered = True
                member.device.cast(Followed(member.generation, live.bundle.released))

    # --- members ------------------------------------------------------------------------------------------------------

    async def _follow(self, message: FollowSet) -> None:
        live = self._bundles.get(message.shapes)
        if live is None:
            try:
                live = await self._make(message.shapes)
            except ShapeMissing as missing:
                log.warning("device %s: %s", message.client_id, missing)
                message.device.cast(missing)
                return
        self._leave(message.device, keep=live)
        member = _Member(message.device, message.client_id, message.generation, live)
        live.members[message.device] = self._members[message.device] = member
        self._by_client[message.client_id] = message.device
        self.monitor(message.device)
        self._answer(live)

    async def _make(self, shapes: frozenset[str]) -> _Live:
        unknown = shapes - self._shapes.keys()
        if unknown:
            found = await self._shard.call(FindShapes(frozenset(unknown)))
            assert isinstance(found, dict)
            if missing := unknown - found.keys():
                raise ShapeMissing(f"no such shape here: {', '.join(sorted(missing))}")
            for shape, ref in found.items():
                self._shapes[shape] = ref
                await ref.send(Join(self.ref))
        live = _Live(Bundle(shapes, self._watermark))
        self._bundles[shapes] = live
        for shape in shapes:
            self._by_shape.setdefault(shape, {})[shapes] = live
            if shape in self._joined:
                live.bundle.joined(shape, self._joined[shape])
        return live

    def _leave(self, device: Ref, keep: _Live | None = None) -> None:
        member = self._members.pop(device, None)
        if member is None:
            return
        if self._by_client.get(member.client_id) == device:
            del self._by_client[member.client_id]
        live = member.bundle
        del live.members[device]
        if not live.members and live is not keep:
            del self._bundles[live.bundle.shapes]
            for shape in live.bundle.shapes:
                del self._by_shape[shape][live.bundle.shapes]
                if not self._by_shape[shape]:
                    del self._by_shape[shape]
                    self._joined.pop(shape, None)
                    self._shapes.pop(shape).cast(Leave(self.ref))

    def _await(self, device: Ref, lsn: int) -> None:
        member = self._members.get(device)
        if member is not None:
            member.awaited = lsn
            if member.bundle.bundle.open and member.bundle.bundle.released >= lsn:
                self._tell(member)
