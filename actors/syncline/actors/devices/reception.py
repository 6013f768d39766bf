"""What a device meets from outside: its surroundings, its place among the connections, and its socket, whose callbacks
become messages here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from syncline.actors.devices.auth import Authenticator
from syncline.actors.devices.images import Images
from syncline.actors.devices.shared import SharedAnswers
from syncline.actors.devices.turns import Turns
from syncline.actors.postgres.database import Database
from syncline.actors.shapes.log import Page
from syncline.actors.shapes.messages import ShapePlace
from syncline.actors.shapes.shards import Shards
from syncline.cluster import Ref
from syncline.proto.holding import OpenTransactions

# Frames taken from the socket and not yet handled; beyond it the socket is not read.
FRAMES_WAITING_MAX = 16
FRAMES_WAITING_BYTES_MAX = 1 << 20
# Devices admitted side by side.
ADMITTING_AT_ONCE = 100


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


@dataclass(frozen=True, slots=True)
class Evict:
    """Another connection of the same client has authenticated. ``contested``: that is so over and over; what both are
    told."""

    by: str
    contested: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Call to the gateway: ``client_id`` is connected as ``device`` from now on; an older one is evicted.

    Answer: None, or why that cannot be now."""

    client_id: str
    device: Ref
    remote: str


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a device needs of its host. ``admissions``: whoever comes waits there for its turn to be admitted.
    ``places``, ``pages`` and ``images``: where shapes live and what they have, as devices ask at the moment."""

    database: Database
    authenticator: Authenticator
    server_id: str
    shards: Shards
    open_transactions: OpenTransactions = field(default_factory=OpenTransactions)
    admissions: Turns = field(default_factory=lambda: Turns(ADMITTING_AT_ONCE))
    places: SharedAnswers[ShapePlace] = field(default_factory=SharedAnswers)
    pages: SharedAnswers[Page] = field(default_factory=SharedAnswers)
    images: Images = field(default_factory=Images)


class Socket(Protocol):
    """What a device has of its connection: a ``websocket.Connection``, or what stands for one that is elsewhere."""

    protocol: str
    remote: str
    closed_by_peer: bool

    @property
    def open(self) -> bool:
        """See ``websocket.Connection``; and so for all that follows."""
        ...

    def send(self, frame: bytes | Sequence[bytes]) -> bool: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, code: int = ..., reason: str = ...) -> None: ...


class FramesWaiting:
    """Of one socket: those that were taken from it and are not handled yet."""

    def __init__(self) -> None:
        self._frames = 0
        self._bytes = 0

    def taken(self, size: int) -> None:
        """One of ``size`` bytes more."""
        self._frames += 1
        self._bytes += size

    def handled(self, size: int) -> None:
        """One of ``size`` bytes less."""
        self._frames -= 1
        self._bytes -= size

    @property
    def full(self) -> bool:
        """Whether the socket is not to be read."""
        return self._frames >= FRAMES_WAITING_MAX or self._bytes >= FRAMES_WAITING_BYTES_MAX


class DeviceReceiver:
    """What the socket calls."""

    def __init__(self, device: Ref) -> None:
        self._device = device
        self._waiting = FramesWaiting()
        self.on_closed: Callable[[], object] = lambda: None
        """Called besides, at the end of the socket, when the device may be gone."""

    def frame(self, data: bytes) -> bool:
        self._waiting.taken(len(data))
        self._device.inform(FrameArrived(data))
        return not self.full

    def handled(self, data: bytes) -> None:
        """A frame has been handled."""
        self._waiting.handled(len(data))

    @property
    def full(self) -> bool:
        return self._waiting.full

    def drained(self) -> None:
        self._device.inform(DRAINED)

    def closed(self, code: int, reason: str) -> None:
        self._device.inform(ConnectionClosed(code, reason))
        self.on_closed()
