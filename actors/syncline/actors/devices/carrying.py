"""Carries out what ``Outbound`` decides on: its steps, one after the other, each with all the waiting that it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from syncline.actors.devices.bundler import PINNED_S
from syncline.actors.devices.following import AwaitLsn, FollowSet, Pinned
from syncline.actors.devices.holders import any_holds
from syncline.actors.devices.images import IMAGE_TIMEOUT_S, Images
from syncline.actors.devices.logreader import LogReader
from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.reception import Socket
from syncline.actors.devices.rowreader import RowReader
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.devices.starting import Places
from syncline.actors.devices.steps import (
    AnyHolds,
    CountRows,
    Delivered,
    Follow,
    Forget,
    HealOf,
    OpenLog,
    Pin,
    ReadCurrent,
    ReadImage,
    ReadMore,
    Send,
    Shows,
    StartOver,
    Step,
    Wait,
    WrittenKeys,
)
from syncline.actors.shapes.log import Page
from syncline.actors.shapes.messages import CountImage
from syncline.cluster import Clock, Ref

log = logging.getLogger(__name__)

# That a device still reads is said again, now and then.
PIN_AGAIN_S = PINNED_S / 10
READING = (ReadMore, ReadImage, AnyHolds)


class Carrier:
    """For ``device``, whose socket is ``connection``. ``forget`` and ``send_away``: for ``Forget`` and ``StartOver``.

    ``changed`` is set when something has happened to the outbound stream, ``drained`` when the socket has room again.
    ``generation``: the last one that was followed.
    """

    def __init__(
        self,
        device: Ref,
        connection: Socket,
        bundler: Ref,
        places: Places,
        pages: SharedAnswers[Page],
        images: Images,
        rows: RowReader,
        clock: Clock,
        forget: Callable[[], Awaitable[None]],
        send_away: Callable[[], object],
    ) -> None:
        self._device = device
        self._connection = connection
        self._bundler = bundler
        self._places = places
        self._pages = pages
        self._images = images
        self._rows = rows
        self._clock = clock
        self._forget = forget
        self._send_away = send_away
        self._follow_answer: asyncio.Future[int] | None = None
        self._log: LogReader | None = None
        self._pinned: int | None = None
        self._pinned_s = 0.0  # when that was said
        self._crowded = False  # what was sent beside the steps has filled the socket
        self.changed = asyncio.Event()
        self.drained = asyncio.Event()
        self.generation = 0

    def followed(self, generation: int, released: int) -> None:
        """The bundler has answered; what it says to an older question does not count."""
        answer = self._follow_answer
        if answer is not None and not answer.done() and generation == self.generation:
            answer.set_result(released)

    def released(self, outbound: Outbound) -> None:
        """Something was released to ``outbound``: it is sent now, or by the steps if they have to see to it."""
        if self._crowded and self.drained.is_set():
            self._crowded = False
        messages = () if self._crowded else outbound.at_once()
        if messages:
            self.drained.clear()
            self._crowded = not self._connection.send(messages)
        if not messages or outbound.due:
            self.changed.set()

    async def carry_out(self, step: Step, outbound: Outbound) -> object:
        """The answer to ``step``. Raises what the database and calls raise."""
        if isinstance(step, READING) and self._clock.monotonic_s() - self._pinned_s > PIN_AGAIN_S:
            await self._pin(self._pinned)
        match step:
            case Send(messages):
                if self._crowded:
                    await self.drained.wait()
                    self._crowded = False
                self.drained.clear()
                if messages and not self._connection.send(messages):
                    await self.drained.wait()
            case Wait():
                if outbound.awaited_lsn is not None:
                    await self._bundler.send(AwaitLsn(self._device, outbound.awaited_lsn))
                await self.changed.wait()
                self.changed.clear()
            case Follow(shapes, generation, relations):
                self.generation = generation
                self._follow_answer = asyncio.get_running_loop().create_future()
                await self._bundler.send(FollowSet(self._device, generation, self._places.refs(shapes), relations))
                released = await self._follow_answer
                self._noted(released)
                return released
            case Pin(lsn):
                await self._pin(lsn)
            case OpenLog(shapes, after, upto):
                self._log = LogReader(self._places, shapes, after, upto, self._pages)
            case ReadMore():
                assert self._log is not None
                return await self._log.read()
            case ReadImage(shape, lsn, cursor, whole):
                (ref,) = self._places.refs((shape,)).values()
                return await self._images.read(ref, lsn, cursor, whole=whole)
            case CountRows(counted):
                refs = self._places.refs(counted).values()
                return sum([await ref.call(CountImage(), IMAGE_TIMEOUT_S) for ref in refs])
            case AnyHolds(of, lsn, rows, but):
                return await any_holds(self._places, of, lsn, rows, but)
            case ReadCurrent(keys):
                return await self._rows.read(keys)
            case Shows(snapshot, lsn):
                return await self._rows.shows(snapshot, lsn)
            case WrittenKeys(write):
                return await self._rows.written(write)
            case HealOf(write, position):
                return await self._rows.heal(write, position)
            case Forget():
                await self._forget()
            case StartOver():
                self._send_away()
                await asyncio.Event().wait()
            case Delivered(delivery, lsn):
                log.debug("device %s: delivered %s at %d", outbound.client_id, delivery.subscription_ids, lsn)
        return None

    async def _pin(self, lsn: int | None) -> None:
        if lsn is not None or self._pinned is not None:
            self._noted(lsn)
            await self._bundler.send(Pinned(self._device, lsn))

    def _noted(self, lsn: int | None) -> None:
        """It is known in the bundler that the device reads at ``lsn``."""
        self._pinned, self._pinned_s = lsn, self._clock.monotonic_s()
