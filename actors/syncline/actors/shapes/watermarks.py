"""How far all shards have come, in one place.

An edge follows every shard, and each tells each how far it has come, after every commit. That is little where there are
few of both. Where every shape and every device has a process of its own it is the product of the two: then the shards
tell ``Watermarks``, and it tells everybody once that all have come so far.
"""

from __future__ import annotations

from collections.abc import Iterable

from syncline.actors.shapes.messages import FollowWatermark, OwnTransaction, Watermark
from syncline.actors.shapes.shards import Least, Shards, tell
from syncline.cluster import Actor, Down, Ref

FOLLOW_TIMEOUT_S = 60.0  # they are there; one may have a long transaction to append first


class Passed:
    """What has passed in all of ``shards``."""

    def __init__(self, shards: Iterable[str]) -> None:
        self._least = Least(shards)
        self._own: dict[OwnTransaction, None] = {}  # passed in some shard, and not yet in all
        self.watermark = 0

    def reached(self, shard: str, lsn: int, own: Iterable[OwnTransaction]) -> tuple[OwnTransaction, ...] | None:
        """``shard`` tells that it has come to ``lsn``. The device transactions that have passed in the last of them:
        every shard tells of the same. None until every one has spoken."""
        self._own.update(dict.fromkeys(transaction for transaction in own if transaction.lsn > self.watermark))
        least = self._least.reached(shard, lsn)
        if least is None:
            return None
        self.watermark = max(self.watermark, least)
        passed = tuple(transaction for transaction in self._own if transaction.lsn <= least)
        for transaction in passed:
            del self._own[transaction]
        return passed


class Watermarks(Actor):
    """Stands for all ``shards`` before those who follow their watermarks, under its ``name``. It ends when one of them
    does."""

    def __init__(self, name: str, shards: Shards) -> None:
        self._name = name
        self._shards = shards
        self._passed = Passed(shards.refs)
        self._edges: dict[Ref, None] = {}

    async def init(self) -> None:
        self._watches = {self.monitor(shard) for shard in self._shards.refs.values()}
        for name, shard in self._shards.refs.items():
            self._passed.reached(name, await shard.call(FollowWatermark(self.ref), FOLLOW_TIMEOUT_S), ())

    async def handle_cast(self, message: object) -> None:
        match message:
            case Watermark(shard, lsn, own):
                before = self._passed.watermark
                passed = self._passed.reached(shard, lsn, own)
                if passed is not None and self._passed.watermark > before:
                    await tell(self._edges, Watermark(self._name, self._passed.watermark, passed))
            case _:
                raise TypeError(f"watermarks do not understand {message!r}")

    async def handle_call(self, message: object) -> object:
        match message:
            case FollowWatermark(edge):
                self._edges[edge] = None
                self.monitor(edge)
                return self._passed.watermark
            case _:
                raise TypeError(f"watermarks do not understand {message!r}")

    async def handle_info(self, message: object) -> None:
        match message:
            case Down(exit=exit, monitor=monitor) if monitor in self._watches:
                raise ConnectionError(f"a shard ended: {exit}")
            case Down(ref=ref):
                self._edges.pop(ref, None)
            case _:
                pass
