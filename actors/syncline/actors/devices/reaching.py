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
from typing import Final

from syncline.cluster import Ref

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
