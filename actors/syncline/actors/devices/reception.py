"""Where a socket's callbacks become messages for its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from syncline.cluster import Ref

# Frames taken from the socket and not yet handled; beyond it the socket is not read.
FRAMES_WAITING_MAX = 16


@dataclass(frozen=True, slots=True)
class FrameArrived:
    data: bytes


@dataclass(frozen=True, slots=True)
class ConnectionClosed:
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drained:
    """What was sent has mostly left."""


DRAINED: Final = Drained()


class DeviceReceiver:
    """What the socket calls."""

    def __init__(self, device: Ref) -> None:
        self._device = device
        self._waiting = 0

    def frame(self, data: bytes) -> bool:
        self._waiting += 1
        self._device.inform(FrameArrived(data))
        return self._waiting < FRAMES_WAITING_MAX

    def handled(self) -> None:
        """One frame has been handled."""
        self._waiting -= 1

    @property
    def full(self) -> bool:
        return self._waiting >= FRAMES_WAITING_MAX

    def drained(self) -> None:
        self._device.inform(DRAINED)

    def closed(self, code: int, reason: str) -> None:
        self._device.inform(ConnectionClosed(code, reason))
