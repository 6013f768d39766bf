"""Links over sockets: dialling, accepting, heartbeats, and the decision that a peer is gone.

A *peer* is another host as seen from here. It outlives connections: when one is cut, the dialling side opens the next
and ``link`` goes on where it stopped; nobody above notices more than a pause. Only after ``down_after_s`` without any
connection is the peer declared down: whoever waits for it is told, and the link begins a new session, so that a
peer which was merely slow finds out that it has been given up.

A peer whose process is gone has its sockets closed, and refuses new ones. One that takes them and says nothing, or
whose connection fell silent without an end, seems *frozen*: stopped, stuck, very busy, or behind a network that
swallows everything. Nobody starts it again by itself, so the owner is told (``Callbacks.frozen``), who may find out
which it is.

One side of each pair dials and the other listens, at an address (``link_address``); who dials may be given a function
that finds it, which is asked anew each time, as a peer may come back elsewhere.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from syncline.cluster.link import (
    Delivered,
    Established,
    Limits,
    Link,
    LinkError,
    LinkFull,
    PeerLeft,
    PeerRefused,
    Superseded,
    opening_hello,
    refusal,
)
from syncline.cluster.link_address import connected, listening

Resolve = Callable[[], Awaitable[str]]
"""Where a peer is now. Raises OSError when that is not known."""

log = logging.getLogger(__name__)

READ_BYTES: Final = 256 << 10
WRITE_BUFFER_BYTES: Final = 256 << 10  # beyond it the writing task waits for the socket
REDIAL_SHARE: Final = 0.1
HELLO_BYTES_MAX: Final = 4096  # of a stranger, before we know who it is


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A peer that says nothing for ``silence_s`` is taken for half-open, and its connection is closed; after
    ``frozen_after_s`` more without a sign of it, it seems frozen."""

    heartbeat_s: float = 0.5
    silence_s: float = 2.0
    down_after_s: float = 3.0
    frozen_after_s: float = 3.0
    redial_first_s: float = 0.02
    redial_max_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What the owner of the links wants to know. Called in the event loop, must not wait."""

    delivered: Callable[[str, bytes], None]  # peer, payload
    down: Callable[[str, str], None]  # peer, why: all it owed is lost
    superseded: Callable[[int], None]  # epoch of whoever took over our own host id
    frozen: Callable[[str], None]  # peer; again and again while it is


@dataclass(eq=False)
class Peer:
    """Another host. ``up`` until declared down; before the first contact it counts as up, and what is sent waits."""

    id: str
    link: Link
    up: bool = True
    met: int = 0  # how often hellos were exchanged
    dial: asyncio.Task[None] | None = None
    connection: asyncio.Task[None] | None = None
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    roomy: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = None
    flushing: bool = False
    down_timer: asyncio.TimerHandle | None = None
    frozen_timer: asyncio.TimerHandle | None = None


class Links:
    """All links of one host."""

    def __init__(
        self,
        host: str,
        epoch: int,
        callbacks: Callbacks,
        *,
        token: str = "",
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.host = host
        self.epoch = epoch
        self.peers: dict[str, Peer] = {}
        self._callbacks = callbacks
        self._token = token
        self._timing = timing or Timing()
        self._limits = limits or Limits()
        self._process = secrets.token_hex(8)
        self._sessions = itertools.count(1)
        self._servers: list[asyncio.Server] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._closed = False

    # ---------------------------------------------------------------- the owner's side

    async def listen(self, address: str) -> str:
        """Accepts peers at ``address``; returns it with the port that was really taken. Raises ``OSError``."""
        server, taken = await listening(address, self._accept, self._token)
        self._servers.append(server)
        return taken

    def dial(self, peer_id: str, address: str | Resolve) -> None:
        """Keeps a connection to ``peer_id`` from now on. A second call changes the address."""
        peer = self._peer(peer_id)
        if peer.dial is not None:
            peer.dial.cancel()
        peer.dial = asyncio.get_running_loop().create_task(self._keep_dialling(peer, address))

    def offer(self, peer_id: str, payload: bytes, *, beyond: bool = False) -> bool:
        """Sends without waiting. ``False``: the peer is down or unknown, or the resend buffer is full, which does not
        hold back what may go ``beyond`` it."""
        peer = self.peers.get(peer_id)
        if peer is None or not peer.up or self._closed:
            return False
        try:
            peer.link.send(payload, beyond=beyond)
        except LinkFull:
            return False
        if not peer.flushing:  # once for all that is said in this turn of the loop
            peer.flushing = True
            asyncio.get_running_loop().call_soon(self._flush, peer)
        return True

    async def room(self, peer_id: str) -> bool:
        """Waits until ``offer`` may succeed. ``False``: the peer is down or unknown."""
        while True:
            peer = self.peers.get(peer_id)
            if peer is None or not peer.up or self._closed:
                return False
            if peer.link.room:
                return True
            peer.roomy.clear()
            await peer.roomy.wait()

    async def connected(self, peer_id: str) -> None:
        """Waits for a connection to ``peer_id``, known so far or not."""
        await self._peer(peer_id).connected.wait()

    def raise_epoch(self, epoch: int) -> None:
        """This host owns what it owns by a newer claim. Raises ``ValueError`` when it is not newer."""
        self.epoch = epoch
        for peer in self.peers.values():
            peer.link.raise_epoch(epoch)

    async def close(self) -> None:
        """Says goodbye to every connected peer, and lets go of all sockets."""
        self._closed = True
        for server in self._servers:
            server.close()
        ending = [task for peer in self.peers.values() for task in (peer.dial, peer.connection) if task]
        for peer in self.peers.values():
            peer.link.goodbye()
            peer.wake.set()
            peer.roomy.set()
            if peer.down_timer is not None:
                peer.down_timer.cancel()
            self._alive_or_gone(peer)
            if peer.dial is not None:
                peer.dial.cancel()
        if connections := [peer.connection for peer in self.peers.values() if peer.connection]:
            await asyncio.wait(connections, timeout=1.0)  # the goodbyes are written first
        ending.extend(self._accepting)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def cut(self, peer_id: str) -> None:
        """Drops the present connection, as the network might at any time. For tests of whatever stands on links."""
        peer = self.peers.get(peer_id)
        if peer is not None and peer.connection is not None:
            peer.connection.cancel()

    # ---------------------------------------------------------------- connections

    def _new_link(self, fence: int) -> Link:
        session = f"{self._process}.{next(self._sessions)}"
        return Link(self.host, session, self.epoch, fence=fence, token=self._token, limits=self._limits)

    def _peer(self, peer_id: str) -> Peer:
        peer = self.peers.get(peer_id)
        if peer is None:
            peer = self.peers[peer_id] = Peer(peer_id, self._new_link(fence=0))
            self._expect(peer)
        return peer

    async def _keep_dialling(self, peer: Peer, address: str | Resolve) -> None:
        now_s = asyncio.get_running_loop().time
        there_s = now_s()
        while not self._closed:
            try:
                where = address if isinstance(address, str) else await address()
                reader, writer = await connected(where, self._token, self._timing.silence_s)
            except OSError as error:
                log.debug("%s: %s at %s cannot be reached: %s", self.host, peer.id, address, error)
                if not isinstance(error, TimeoutError):
                    self._alive_or_gone(peer)
                await asyncio.sleep(self._redial_s(now_s() - there_s))
                continue
            met = peer.met
            task = self._connect(peer, reader, writer, b"")
            await asyncio.wait({task})
            if peer.met > met:  # it was there: whoever takes its place may be, in a moment
                there_s = now_s()
            await asyncio.sleep(self._redial_s(now_s() - there_s))

    def _redial_s(self, away_s: float) -> float:
        """How long to wait before a peer is dialled again that has been away for ``away_s``: whoever comes back is met
        a tenth later than it could be."""
        return min(max(away_s * REDIAL_SHARE, self._timing.redial_first_s), self._timing.redial_max_s)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._accepting.add(task)
        data = b""
        try:
            async with asyncio.timeout(self._timing.silence_s):
                while (hello := opening_hello(data, self._limits)) is None:
                    more = await reader.read(READ_BYTES)
                    if not more or len(data) > HELLO_BYTES_MAX:
                        raise LinkError("no hello")
                    data += more
            if not hmac.compare_digest(hello.token.encode(), self._token.encode()):
                raise LinkError(f"{hello.host} does not know the token")
            fence = self.peers[hello.host].link.fence if hello.host in self.peers else 0
            if hello.epoch < fence:  # here already, so that a zombie cannot even displace the rightful connection
                writer.write(refusal(fence))
                await writer.drain()
                raise LinkError(f"{hello.host} has the stale epoch {hello.epoch}")
        except (LinkError, OSError, TimeoutError) as error:
            log.warning("%s: a stranger was turned away: %s", self.host, error)
            writer.close()
            return
        finally:
            self._accepting.discard(task)
        if not self._closed:
            self._connect(self._peer(hello.host), reader, writer, data)

    def _connect(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
    ) -> asyncio.Task[None]:
        previous = peer.connection
        task = asyncio.get_running_loop().create_task(self._drive(peer, previous, reader, writer, data))
        peer.connection = task
        return task

    async def _drive(
        self,
        peer: Peer,
        previous: asyncio.Task[None] | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        data: bytes,
    ) -> None:
        """One connection, from hello to its end. The newest connection of a peer wins."""
        link, writing = peer.link, None
        try:
            if previous is not None and not previous.done():
                previous.cancel()
                await asyncio.wait({previous})
            link = peer.link
            link.connected()
            peer.writer = writer
            writing = asyncio.get_running_loop().create_task(self._write(peer, link, writer))
            await self._read(peer, link, reader, writer, data)
        except TimeoutError:
            log.info("%s: connection to %s ended: silence", self.host, peer.id)
            self._suspect(peer)
        except (LinkError, OSError) as error:
            log.info("%s: connection to %s ended: %s", self.host, peer.id, error)
            self._alive_or_gone(peer)
        except Superseded as superseded:
            log.error("%s: %s", self.host, superseded)
            self._callbacks.superseded(superseded.epoch)
        finally:
            writer.close()
            if writing is not None:
                writing.cancel()
                link.disconnected()
            if peer.writer is writer:
                peer.writer = None
            if peer.connection is asyncio.current_task():
                peer.connection = None
                peer.connected.clear()
                if not self._closed and peer.up:
                    self._expect(peer)

    async def _read(
        self, peer: Peer, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
    ) -> None:
        while True:
            if link is not peer.link:
                raise LinkError("the peer was given up meanwhile")
            for event in link.receive(data):
                if isinstance(event, Delivered):
                    self._callbacks.delivered(peer.id, event.payload)
                elif isinstance(event, Established):
                    self._established(peer, event)
                elif isinstance(event, PeerRefused):
                    writer.write(link.take())
                    await writer.drain()
                    raise LinkError(f"{peer.id} has the stale epoch {event.epoch}")
                elif isinstance(event, PeerLeft):
                    self._declare_down(peer, "it said goodbye", logging.INFO)
                    return
                else:
                    raise event.error
            if link.room:
                peer.roomy.set()
            self._flush(peer)
            async with asyncio.timeout(self._timing.silence_s):
                data = await reader.read(READ_BYTES)
            if not data:
                raise LinkError("closed by the peer")

    def _flush(self, peer: Peer) -> None:
        """Writes what there is, unless the socket is behind: then the writing task waits for it and goes on."""
        peer.flushing = False
        writer = peer.writer
        while writer is not None and not writer.is_closing():
            if writer.transport.get_write_buffer_size() > WRITE_BUFFER_BYTES:
                peer.wake.set()
                return
            data = peer.link.take()
            if not data:
                return
            writer.write(data)

    async def _write(self, peer: Peer, link: Link, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the reading side sees it too, and says so
            while True:
                while data := link.take():
                    writer.write(data)
                    await writer.drain()
                if self._closed:
                    writer.close()
                    return
                peer.wake.clear()
                try:
                    async with asyncio.timeout(self._timing.heartbeat_s):
                        await peer.wake.wait()
                except TimeoutError:
                    link.heartbeat()

    # ---------------------------------------------------------------- up and down

    def _established(self, peer: Peer, event: Established) -> None:
        if event.replaced:
            self._callbacks.down(peer.id, "it was restarted")
        if peer.down_timer is not None:
            peer.down_timer.cancel()
            peer.down_timer = None
        self._alive_or_gone(peer)
        peer.met += 1
        peer.up = True
        peer.connected.set()
        log.info("%s: linked with %s%s", self.host, peer.id, ", resumed" if event.resumed else "")

    def _suspect(self, peer: Peer) -> None:
        """It is silent: frozen, unless there is a sign of it soon."""
        if peer.frozen_timer is None and not self._closed:
            due_s = asyncio.get_running_loop().time() + self._timing.frozen_after_s
            peer.frozen_timer = asyncio.get_running_loop().call_at(due_s, self._declare_frozen, peer, due_s)

    def _alive_or_gone(self, peer: Peer) -> None:
        """It has spoken, or its process has let go of its sockets."""
        if peer.frozen_timer is not None:
            peer.frozen_timer.cancel()
            peer.frozen_timer = None

    def _declare_frozen(self, peer: Peer, due_s: float) -> None:
        peer.frozen_timer = None
        if asyncio.get_running_loop().time() - due_s > self._timing.silence_s / 2:
            self._suspect(peer)  # we were not on time ourselves: the whole machine may be slow, or was asleep
            return
        log.warning("%s: host %s is silent: its process takes connections and says nothing", self.host, peer.id)
        self._callbacks.frozen(peer.id)

    def _expect(self, peer: Peer) -> None:
        """Starts to wait for a connection, for so long and no longer."""
        if peer.down_timer is None:
            after_s = self._timing.down_after_s
            peer.down_timer = asyncio.get_running_loop().call_later(
                after_s, self._declare_down, peer, f"no connection for {after_s:g} s"
            )

    def _declare_down(self, peer: Peer, why: str, level: int = logging.WARNING) -> None:
        if peer.down_timer is not None:
            peer.down_timer.cancel()
            peer.down_timer = None
        log.log(level, "%s: host %s is down: %s", self.host, peer.id, why)
        peer.up = False
        peer.connected.clear()
        peer.link = self._new_link(fence=peer.link.fence)
        peer.roomy.set()
        self._callbacks.down(peer.id, why)
