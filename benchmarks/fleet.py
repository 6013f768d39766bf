"""A process that holds many devices, and what the measuring process asks of it.

All devices of a fleet share one event loop: of a thousand that are sent the same the last is late also because the
process reads the 999 before it. That is the price of playing thousands on one machine, and why every program compares
with a bare server whose connections are read in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.ledger import Held, Ledger
from benchmarks.shared import SharedFrames
from benchmarks.side import Side, beside, now_ms
from benchmarks.wire import DELIVERIES, WireDevice
from syncline.proto.values import ShapeRequest

CONNECTING_MAX = 50
ACK_INTERVAL_S = 60.0
# Less than a silent process beside us is given: what is wrong is said by those who know it.
ARRIVE_S = 240.0
SLOW, FAST = "slow", "fast"

Arrivals = dict[tuple[str, int], list[float]]
"""When devices of one group had transaction (table, number), ``now_ms``, a value a device."""

EachArrivals = list[list[tuple[tuple[str, int], float]]]
"""Of each device: the transactions it had, and when."""


@dataclass(frozen=True, slots=True)
class Own:
    """Each device follows ``count`` of ``tables``, its own choice by ``seed``; ``slow``: the share of slow readers.
    ``apart``: each follows one that no other does."""

    tables: tuple[str, ...]
    count: int
    slow: float = 0.0
    seed: int = 1
    apart: bool = False

    def choices(self, devices: int) -> Iterator[tuple[str, ...]]:
        if self.apart:
            yield from ((table,) for table in self.tables[:devices])
            return
        choose = random.Random(self.seed)
        for _ in range(devices):
            yield tuple(sorted(choose.sample(self.tables, self.count)))


@dataclass(frozen=True, slots=True)
class Asked:
    """Device ``n`` asks for the ``n``-th of ``shapes``, those beyond them for the last. ``decoding``: so many devices
    look into what they are sent first, the others only count it (None: all look)."""

    shapes: Sequence[tuple[ShapeRequest, ...]]
    decoding: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all devices since the start. ``deliveries``: transactions of anybody. ``bytes_of``: see ``wire``.

    ``ends``: why connections ended that no device ended itself, how often. ``writes``: made by devices, of which
    ``unechoed`` have not come back.
    """

    cpu_s: float
    connections: int
    deliveries: int
    received_bytes: int
    bytes_of: Counter[str]
    ends: Counter[str]
    writes: int
    unechoed: int


class Fleet:
    """``lead``: make the process; it connects nothing yet. ``own``: with ledgers, and what each device follows."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._turn = asyncio.Lock()

    @staticmethod
    @contextlib.asynccontextmanager
    async def lead(url: str, own: Own | Asked | tuple[str, ...], devices: int = 1) -> AsyncIterator[Fleet]:
        """A tuple of tables for ``own``: every device follows all of them. Nothing is checked but with ``Own``."""
        async with beside(hold, url, own, devices) as side:
            await side.receive()
            yield Fleet(side)

    async def ask(self, name: str, *arguments: object) -> Any:
        async with self._turn:
            self._side.send((name, arguments))
            return await self._side.receive()

    async def connect(self, devices: int | None = None, at_once: int = CONNECTING_MAX) -> None:
        """Some more of them, or all, ``at_once`` side by side; returns when they have all their rows."""
        await self.ask("connect", devices, at_once)

    async def loaded(self) -> list[tuple[int, int]]:
        """Of each device: the rows that it was sent first, as far as it looked, and the bytes."""
        loaded: list[tuple[int, int]] = await self.ask("loaded")
        return loaded

    async def expect(self, more: int | Mapping[str, int]) -> None:
        """So many more transactions will come to each device, in all or by table."""
        await self.ask("expect", more)

    async def arrived(self, *groups: str) -> tuple[list[float], int]:
        """When each device of ``groups`` (of all) had what was expected (``now_ms``), and the rows that all received
        meanwhile.
        """
        arrived_ms, rows = await self.ask("arrived", groups or (SLOW, FAST))
        return arrived_ms, rows

    async def arrivals(self) -> tuple[dict[str, Arrivals], list[float]]:
        """By group, since they were last asked for; and after how many milliseconds writes came back."""
        arrivals, echo_ms = await self.ask("arrivals")
        return arrivals, echo_ms

    async def note_each(self) -> None:
        """What each device has when is kept from now on."""
        await self.ask("note_each")

    async def each(self) -> EachArrivals:
        """What has been kept since it was last asked for."""
        each: EachArrivals = await self.ask("each")
        return each

    async def counts(self) -> Counts:
        counts: Counts = await self.ask("counts")
        return counts

    async def go_offline(self) -> None:
        """All connections end at once, and none is made."""
        await self.ask("go_offline")

    async def go_online(self) -> float:
        """All connect at once. When (``now_ms``)."""
        started_ms: float = await self.ask("go_online")
        return started_ms

    async def read(self, reading: bool) -> int:
        """The slow ones read, or do not. How many they are."""
        slow: int = await self.ask("read", reading)
        return slow

    async def write(self) -> None:
        """One device writes a row to a table of its own, each in its turn."""
        await self.ask("write")

    async def write_everywhere(self, transactions: int = 1) -> None:
        """Every device writes so many rows now, each by itself; ``acknowledged`` tells when the first came back."""
        await self.ask("write_everywhere", transactions)

    async def acknowledged(self) -> list[float]:
        """When (``now_ms``) what devices wrote at ``write_everywhere`` came back to them, as far as it has."""
        times_ms: list[float] = await self.ask("acknowledged")
        return times_ms

    async def differences(self, expected: Mapping[str, Held]) -> list[str]:
        """Devices that do not hold what ``expected`` says, or wait for echoes."""
        lines: list[str] = await self.ask("differences", expected)
        return lines

    async def violations(self) -> list[str]:
        """What must not have happened to any device, up to now."""
        lines: list[str] = await self.ask("violations")
        return lines


def hold(pipe: Connection, url: str, own: Own | Asked | tuple[str, ...], devices: int) -> None:
    """For a process of its own: "up", then an answer to everything that ``Fleet`` asks."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Holder(url, own, devices).answer(pipe))


class _Holder:
    def __init__(self, url: str, own: Own | Asked | tuple[str, ...], devices: int) -> None:
        address = urlsplit(url)
        host, port = address.hostname or "", address.port or 0
        asked = own if isinstance(own, Asked) else Asked([()])
        choices = own.choices(devices) if isinstance(own, Own) else iter([() if own is asked else own] * devices)
        slow = round(devices * own.slow) if isinstance(own, Own) else 0
        shared = SharedFrames()
        self._devices = [
            WireDevice(
                host,
                port,
                tables,
                self,
                shared,
                SLOW if i >= devices - slow else FAST,
                Ledger() if isinstance(own, Own) else None,
                asked.shapes[min(i, len(asked.shapes) - 1)],
                decodes=asked.decoding is None or i < asked.decoding,
            )
            for i, tables in enumerate(choices)
        ]
        self._online = asyncio.Event()
        self._online.set()
        self._tasks: list[asyncio.Task[None]] = []
        # How many transactions each will have had, and by group those that have not had them.
        self._due = dict.fromkeys(self._devices, 0)
        self._behind: dict[str, set[WireDevice]] = {SLOW: set(), FAST: set()}
        self._arrived_ms: dict[str, list[float]] = {SLOW: [], FAST: []}
        self._caught_up = asyncio.Event()
        self._rows = 0
        self._arrivals: dict[str, Arrivals] = {SLOW: defaultdict(list), FAST: defaultdict(list)}
        self._each: dict[WireDevice, list[tuple[tuple[str, int], float]]] | None = None
        self._echo_ms: list[float] = []
        self._writer = 0
        # Of ``write_everywhere``: when it was, and which device had its write back when.
        self._asked_ms = 0.0
        self._acknowledged_ms: dict[WireDevice, float] = {}

    async def answer(self, pipe: Connection) -> None:
        acking = asyncio.create_task(self._ack_from_time_to_time())
        pipe.send("up")
        with contextlib.suppress(EOFError, OSError):
            while True:
                name, arguments = await asyncio.to_thread(pipe.recv)
                answer = getattr(self, name)(*arguments)
                pipe.send(await answer if asyncio.iscoroutine(answer) else answer)
        for task in (acking, *self._tasks):
            task.cancel()

    async def _ack_from_time_to_time(self) -> None:
        while True:
            await asyncio.sleep(ACK_INTERVAL_S)
            for device in self._devices:
                device.ack_what_is_due()

    # --- what devices tell (wire.Watcher) -----------------------------------------------------------------------------

    def arrived_at(self, device: WireDevice, table: str, number: int, at_ms: float) -> None:
        self._arrivals[device.group][table, number].append(at_ms)
        if self._each is not None:
            self._each[device].append(((table, number), at_ms))

    def applied(self, device: WireDevice, at_ms: float) -> None:
        behind = self._behind[device.group]
        if device in behind and device.transactions >= self._due[device]:
            behind.remove(device)
            self._arrived_ms[device.group].append(at_ms)
            if not behind:
                self._caught_up.set()

    def echoed(self, device: WireDevice, after_ms: float) -> None:
        self._echo_ms.append(after_ms)
        at_ms = now_ms()
        if at_ms - after_ms >= self._asked_ms:
            self._acknowledged_ms.setdefault(device, at_ms)

    # --- what is asked ------------------------------------------------------------------------------------------------

    async def connect(self, devices: int | None, at_once: int) -> None:
        turn = asyncio.Semaphore(at_once)

        async def join(device: WireDevice) -> None:
            async with turn:
                staying = asyncio.create_task(device.stay_connected(self._online))
                self._tasks.append(staying)
                synced = asyncio.create_task(device.synced.wait())
                await asyncio.wait((staying, synced), return_when=asyncio.FIRST_COMPLETED)
                if not device.synced.is_set():
                    raise RuntimeError(device.failed)

        joined = len(self._tasks)
        await asyncio.gather(*map(join, self._devices[joined : None if devices is None else joined + devices]))

    def loaded(self) -> list[tuple[int, int]]:
        return [(device.loaded, device.bytes_of[DELIVERIES]) for device in self._devices]

    def expect(self, more: int | Mapping[str, int]) -> None:
        for times_ms in self._arrived_ms.values():
            times_ms.clear()
        self._rows = self._all_rows()
        for device in self._devices:
            coming = more if isinstance(more, int) else sum(more.get(table, 0) for table in device.tables)
            if coming:
                self._due[device] += coming
                self._behind[device.group].add(device)
                self.applied(device, device.last_ms)  # they may have come before we were told of them

    async def arrived(self, groups: Sequence[str]) -> tuple[list[float], int]:
        try:
            async with asyncio.timeout(ARRIVE_S):
                while any(self._behind[group] for group in groups):
                    self._caught_up.clear()
                    await self._caught_up.wait()
        except TimeoutError:
            behind = sum(map(len, self._behind.values()))
            told = f"{self.violations()}; {dict(self.counts().ends)}"
            raise RuntimeError(f"{behind} devices wait for transactions; {told}") from None
        return [at_ms for group in groups for at_ms in self._arrived_ms[group]], self._all_rows() - self._rows

    def _all_rows(self) -> int:
        return sum(device.rows for device in self._devices)

    def arrivals(self) -> tuple[dict[str, Arrivals], list[float]]:
        arrivals, echo_ms = {group: dict(found) for group, found in self._arrivals.items()}, self._echo_ms
        self._arrivals, self._echo_ms = {SLOW: defaultdict(list), FAST: defaultdict(list)}, []
        return arrivals, echo_ms

    def note_each(self) -> None:
        self._each = {device: [] for device in self._devices}

    def each(self) -> EachArrivals:
        assert self._each is not None, "asked for before"
        noted = self._each
        self.note_each()
        return list(noted.values())

    def counts(self) -> Counts:
        return Counts(
            time.process_time(),
            sum(device.connections for device in self._devices),
            sum(device.deliveries for device in self._devices),
            sum(device.received_bytes for device in self._devices),
            sum((device.bytes_of for device in self._devices), Counter()),
            sum((device.ends for device in self._devices), Counter()),
            sum(device.writes for device in self._devices),
            sum(device.unechoed for device in self._devices),
        )

    def go_offline(self) -> None:
        self._online.clear()
        for device in self._devices:
            device.cut()

    def go_online(self) -> float:
        started_ms = now_ms()
        self._online.set()
        return started_ms

    def read(self, reading: bool) -> int:
        slow = [device for device in self._devices if device.group == SLOW]
        for device in slow:
            device.resume() if reading else device.pause()
        return len(slow)

    def write(self) -> None:
        self._write_on(self._devices[self._writer % len(self._devices)])
        self._writer += 1

    def write_everywhere(self, transactions: int) -> None:
        self._asked_ms, self._acknowledged_ms = now_ms(), {}
        for _ in range(transactions):
            for device in self._devices:
                self._write_on(device)

    def acknowledged(self) -> list[float]:
        return list(self._acknowledged_ms.values())

    def _write_on(self, device: WireDevice) -> None:
        cells = {"id": str(uuid.uuid4()).encode(), "title": b"written on a device", "done": b"f"}
        device.write(device.tables[0], cells)

    def differences(self, expected: Mapping[str, Held]) -> list[str]:
        return [line for device in self._devices for line in _differences(device, expected)]

    def violations(self) -> list[str]:
        found: list[str] = []
        for device in self._devices:
            lines: Sequence[str] = device.ledger.violations if device.ledger is not None else ()
            found += [f"{device.client_id}: {line}" for line in (*lines, device.failed) if line]
        return found


def _differences(device: WireDevice, expected: Mapping[str, Held]) -> Iterator[str]:
    if device.ledger is not None:
        for line in device.ledger.missing(expected):
            yield f"{device.client_id}: {line}"
    if device.unechoed:
        yield f"{device.client_id}: {device.unechoed} writes without an echo"
