"""What starts and stops actors with those of other hosts that they rely on.

Within a host a supervisor does it: ``rest_for_one`` restarts what was started later. Between hosts ``Tethered`` does:
its child lives while all that it needs elsewhere does, and starts anew when that is back. Waiting for another host is
no crash and uses up no restarts: a host may be away for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from syncline.cluster.actor import Actor
from syncline.cluster.cell import Cell
from syncline.cluster.host import Host
from syncline.cluster.ref import ActorDown, Ref
from syncline.cluster.spec import ChildSpec, Exit
from syncline.cluster.supervisor import StartFailed

log = logging.getLogger(__name__)

RETRY_S: Final = 0.02
SAY_AFTER_S: Final = 5.0
NEWS_S: Final = 5.0  # who talks to a host that is gone fails at once; that it is gone is known some seconds later


class ChildGaveUp(Exception):
    """The child ended by itself: whoever supervises the tether decides."""


class Tethered(Actor):
    """``needs``: name -> the host on which it has to be held. ``child``: usually a supervisor."""

    def __init__(self, needs: Mapping[str, Host], child: ChildSpec) -> None:
        self._needs = needs
        self._child = child
        self._inner: Cell | None = None

    async def init(self) -> None:
        self.background(self._live())

    async def terminate(self, reason: Exit) -> None:
        await self._stop_child()

    async def _live(self) -> None:
        while True:
            ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            cancels = []
            for name, host in self._needs.items():
                ref = await self._found(name, host)
                cancels.append(ref.on_end(_first(ended, f"{name} on {host.id}")))
            gone: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
            self._inner = Cell(self._child, self.context)
            self._inner.watch(gone.set_result)
            either: set[asyncio.Future[Any]] = {ended, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and isinstance(gone.result().cause, ActorDown):
                await asyncio.wait({ended}, timeout=NEWS_S)
            for cancel in cancels:
                cancel()
            if not ended.done():
                raise ChildGaveUp(f"{self._child.id} ended: {gone.result()}") from gone.result().cause
            log.warning("%s starts again, as %s", self._child.id, ended.result())
            await self._stop_child()

    async def _stop_child(self) -> None:
        cell, self._inner = self._inner, None
        if cell is not None:
            await cell.shutdown(self._child.shutdown_s)

    async def _found(self, name: str, host: Host) -> Ref:
        """Whoever holds ``name`` now, waited for as long as it takes."""
        since_s, said = self.clock.monotonic_s(), False
        while True:
            try:
                ref = await host.lookup(name)
            except (ActorDown, TimeoutError, StartFailed):
                ref = None
            if ref is not None:
                return ref
            if not said and self.clock.monotonic_s() - since_s > SAY_AFTER_S:
                said = True
                log.warning("%s waits for %s on %s", self._child.id, name, host.id)
            await asyncio.sleep(RETRY_S)


def tethered(needs: Mapping[str, Host], child: ChildSpec) -> ChildSpec:
    """The child spec of a ``Tethered``."""
    return ChildSpec(id=f"tethered {child.id}", start=lambda: Tethered(needs, child), shutdown_s=None)


def _first(ended: asyncio.Future[str], who: str) -> Callable[[Exit], None]:
    def tell(exit: Exit) -> None:
        if not ended.done():
            ended.set_result(f"{who} ended: {exit}")

    return tell
