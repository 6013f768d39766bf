"""When have all devices what one of them has written? What is said about it, and who answers.

A device that asks stands at a position of the stream, where it has its own write back. Whoever knows all devices, the
gateway or, of several edges, the claims, passes the question on to each of them; a device answers once all that its
stream has up to that position is sent and acknowledged, which it asks its peer to do where that takes extensions. One
whose connection ends is not waited for, nor is one whose stream has not begun.

Questions that come together are one: with ten thousand devices one that is passed on costs a tenth of a second, so the
more devices there are, the longer others are waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from syncline.actors.shapes.frames import LSN_CHARS_MAX
from syncline.cluster import Ref
from syncline.proto.errors import invalid

if TYPE_CHECKING:
    from syncline.actors.devices.outbound import Outbound

PAUSE_S: Final = 0.005
PAUSE_PER_DEVICE_S: Final = 0.0001


@dataclass(frozen=True, slots=True)
class AskReach:
    """``asker`` wants to be told, by ``Reached``, when all devices that are here now have come to ``lsn``.

    ``question``: how it names this to itself.
    """

    question: int
    lsn: int
    asker: Ref


@dataclass(frozen=True, slots=True)
class Reached:
    question: int


@dataclass(frozen=True, slots=True)
class ReachAsked:
    """A device is to answer ``reply_to`` with ``ReachTold`` when it has come to ``lsn``."""

    number: int
    lsn: int
    reply_to: Ref


@dataclass(frozen=True, slots=True)
class ReachTold:
    number: int
    device: Ref


class ReachAnswers:
    """What one ``device`` asks, and what it answers when it is asked. ``outbound``: its stream, if that has begun."""

    def __init__(self, device: Ref) -> None:
        self._device = device
        self._asked: list[ReachAsked] = []  # who wants to know how far it has come

    def question(self, request_id: int, lsn: bytes, outbound: Outbound | None) -> AskReach:
        """Its own. It knows no position beyond what it was sent: raises ProtocolError."""
        sent = None if outbound is None else outbound.position
        if not (lsn.isdigit() and len(lsn) <= LSN_CHARS_MAX) or sent is None or int(lsn) > sent:
            raise invalid("a position that was not sent")
        return AskReach(request_id, int(lsn), self._device)

    def asked(self, question: ReachAsked, outbound: Outbound | None) -> None:
        self._asked.append(question)
        self.tell(outbound)

    def tell(self, outbound: Outbound | None) -> None:
        """Those who ask how far it has come are told once it is there. A stream that has not begun has nothing."""
        if not self._asked:
            return
        waiting = []
        for asked in self._asked:
            if outbound is None or outbound.has_reached(asked.lsn):
                asked.reply_to.inform(ReachTold(asked.number, self._device))
            else:
                waiting.append(asked)
        self._asked = waiting
        if outbound is not None:
            outbound.reach = min((asked.lsn for asked in waiting), default=None)


class PassOn:
    """The questions that have come are due to be passed on."""


class Reach:
    """The questions of all devices. ``devices``: those that are here now. ``me``: who asks them. ``later``: has
    ``pass_on`` called after so many seconds."""

    def __init__(
        self, devices: Callable[[], Collection[Ref]], me: Callable[[], Ref], later: Callable[[float], object]
    ) -> None:
        self._devices = devices
        self._me = me
        self._later = later
        self._asked: list[AskReach] = []
        self._number = 0
        # By number: the devices that have not answered, and the questions.
        self._rounds: dict[int, tuple[set[Ref], list[AskReach]]] = {}

    def ask(self, question: AskReach) -> None:
        if not self._asked:
            self._later(PAUSE_S + PAUSE_PER_DEVICE_S * len(self._devices()))
        self._asked.append(question)

    def pass_on(self) -> None:
        asked, self._asked = self._asked, []
        self._number += 1
        devices = set(self._devices())
        self._rounds[self._number] = devices, asked
        lsn = max(question.lsn for question in asked)
        for device in tuple(devices):
            device.inform(ReachAsked(self._number, lsn, self._me()))
        self._answer_if_complete(self._number)

    def told(self, answer: ReachTold) -> None:
        if answer.number in self._rounds:
            self._rounds[answer.number][0].discard(answer.device)
            self._answer_if_complete(answer.number)

    def ended(self, device: Ref) -> None:
        """Its connection is over."""
        for number, (devices, _) in tuple(self._rounds.items()):
            devices.discard(device)
            self._answer_if_complete(number)

    def _answer_if_complete(self, number: int) -> None:
        if not self._rounds[number][0]:
            for question in self._rounds.pop(number)[1]:
                question.asker.inform(Reached(question.question))
