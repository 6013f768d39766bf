"""What an edge and a device elsewhere say to each other, where each device has a host of its own.

The socket stays with the edge. There a *relay* stands for the device, and beside the device a *line* for the socket.

    the edge           <-  device's host
    TakeSeat           ->  answered with the line, or refused: somebody has the seat
    FrameArrived       ->  a message of the socket; ``FrameTaken`` comes back when the device has it
    Sent               <-  messages for the socket; ``BytesLeft`` comes back when it has room for more
    Close              <-
    ConnectionClosed   ->

They are infos, which a link neither drops nor holds back: what may be on the way is bounded here, by what each side
waits for. A socket of which too much is on its way is not read, and a line that has too much on its way says so to its
device, as a full socket does.
"""

from __future__ import annotations

from dataclasses import dataclass

from syncline.cluster import Ref


@dataclass(frozen=True, slots=True)
class TakeSeat:
    """Call. Answer: the line, to which ``relay`` passes on what comes from ``remote``. Refused while another has it.
    ``protocol``: the agreed subprotocol."""

    relay: Ref
    remote: str
    protocol: str


@dataclass(frozen=True, slots=True)
class FrameTaken:
    """Info. The device has the next frame, of that ``size`` in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class Sent:
    """Info. Messages for the socket, in order."""

    messages: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BytesLeft:
    """Info. So many more of those ``Sent`` have left, or the socket holds them and takes more."""

    count: int


@dataclass(frozen=True, slots=True)
class Close:
    """Info. The socket is to be closed with this."""

    code: int
    reason: str
