"""What goes wrong: each fault happens once when called, and is over when it returns."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

import asyncpg
from tests.conftest import drop_slots
from tests.consistency.members import Member
from tests.consistency.resender import Resender
from tests.e2e.proxy import Proxy
from tests.npm.service import ServiceProcess

from syncline.actors.postgres.embedded import EmbeddedPostgres

HOUR_MS = 3_600_000
SKEWS_MS = (-5 * HOUR_MS, -HOUR_MS, -2_000, 0, 2_000, HOUR_MS, 5 * HOUR_MS)
# The npm client goes by the wall clock: set back, a later write of it loses against an earlier one of its own.
NPM_CLOCKS_GO_BACK: bool = False
MID_TRANSACTION = "kill-device in mid transaction"
BY_RAW_DEVICE = "duplicate by a raw device"
MID_TRANSACTION_LOOKS = 1_000
MOMENT_S = 0.002


class Scene:
    """What can be broken. ``link``: between the service and Postgres. ``dsn``: of Postgres, not by way of that.
    ``fired``: what has been broken, by name. ``gaps``: when the stream was lost, see ``Evidence``."""

    def __init__(
        self,
        members: Sequence[Member],
        service: ServiceProcess,
        link: Proxy,
        server: EmbeddedPostgres,
        dsn: str,
        rng: random.Random,
    ) -> None:
        self.devices = [member for member in members if member.is_device]
        self.service = service
        self.link = link
        self.server = server
        self.dsn = dsn
        self.rng = rng
        self.resender = Resender(dsn)
        self.fired: Counter[str] = Counter()
        self.gaps: list[tuple[float, float]] = []
        self._round: list[str] = []
        self._turns: Counter[str] = Counter()

    def any_fault(self) -> str:
        """Each once before one comes again."""
        if not self._round:
            self._round = self.rng.sample(sorted(FAULTS), len(FAULTS))
        return self._round.pop()

    def some(self, odds: float = 0.5) -> list[Member]:
        """At least one device."""
        return [d for d in self.devices if self.rng.random() < odds] or [self.rng.choice(self.devices)]

    def at_links(self, fault: str) -> tuple[list[Member], bool]:
        """Which devices' links have that fault this time, and whether the one to Postgres has it: both at first, then
        in turns devices alone, Postgres alone, both."""
        turn = self._turns[fault] % 3
        self._turns[fault] += 1
        return ([] if turn == 2 else self.some()), turn != 1

    async def rest(self, least_s: float, most_s: float) -> None:
        await asyncio.sleep(self.rng.uniform(least_s, most_s))  # as long as the draw says

    async def start_service(self) -> None:
        await self.service.start()
        for device in self.devices:
            device.proxy.target_port = self.service.port


async def kill(scene: Scene) -> None:
    """kill -9 of the service."""
    await scene.service.kill()
    scene.fired["kill"] += 1
    await scene.rest(0, 2)
    await scene.start_service()


async def kill_device(scene: Scene) -> None:
    """kill -9 of devices, every other time in the middle of a transaction."""
    for device in scene.some(0.2):
        if scene.fired["kill-device"] % 2:
            await _until_writing(device)
        is_writing = device.is_writing()
        await device.kill()
        scene.fired["kill-device"] += 1
        scene.fired[MID_TRANSACTION] += is_writing and device.is_writing()
        await scene.rest(0, 1)
        await device.revive()


async def _until_writing(device: Member) -> None:
    """Or for a while: one that has too much waiting to be sent writes nothing."""
    for _ in range(MID_TRANSACTION_LOOKS):
        if device.is_writing():
            return
        await asyncio.sleep(MOMENT_S)  # nothing tells, and it takes milliseconds


async def pause(scene: Scene) -> None:
    """SIGSTOP of the service or of devices, and SIGCONT seconds later."""
    seconds = scene.rng.uniform(1, 8)
    if scene.rng.random() < 0.5:
        os.kill(scene.service.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)  # that long is the fault
        finally:
            os.kill(scene.service.pid, signal.SIGCONT)
        scene.fired["pause"] += 1
    else:
        scene.fired["pause"] += any(await asyncio.gather(*(device.freeze(seconds) for device in scene.some(0.3))))


async def cut(scene: Scene) -> None:
    """Both ends of links are reset."""
    for _ in range(scene.rng.randint(1, 4)):
        devices, at_postgres = scene.at_links("cut")
        for device in devices:
            scene.fired["cut"] += device.proxy.cut()
        if at_postgres:
            scene.fired[to_postgres("cut")] += scene.link.cut()
        await scene.rest(0, 0.6)


async def half_open(scene: Scene) -> None:
    """One end of links is reset, and the other is not told."""
    devices, at_postgres = scene.at_links("half-open")
    for device in devices:
        # The npm client never asks whether anybody is there, so it would wait for ever: it is told.
        device_is_told = device.kind == "npm" or scene.rng.random() < 0.5
        scene.fired["half-open"] += device.proxy.halve(device=device_is_told)
    if at_postgres:
        scene.fired[to_postgres("half-open")] += scene.link.halve(device=scene.rng.random() < 0.5)


async def black_hole(scene: Scene) -> None:
    """Links stay up, and what is sent vanishes; then new connections pass again."""
    devices, at_postgres = scene.at_links("black-hole")
    for device in devices:
        scene.fired["black-hole"] += device.proxy.swallow()
    if at_postgres:
        scene.fired[to_postgres("black-hole")] += scene.link.swallow()
    await scene.rest(1, 8)
    scene.link.heal()
    for device in devices:
        device.proxy.heal()
        if device.kind == "npm":  # see half_open
            device.proxy.cut()


async def postgres_stop(scene: Scene) -> None:
    await asyncio.to_thread(scene.server.stop, "immediate")
    scene.fired["postgres-stop"] += 1
    await scene.rest(0, 3)
    await asyncio.to_thread(scene.server.start)


async def slot_drop(scene: Scene) -> None:
    """The service comes back, and the slot is gone."""
    begin = time.time()
    await scene.service.kill()
    connection = await asyncpg.connect(scene.dsn)
    try:
        await drop_slots(connection)
    finally:
        await connection.close()
    scene.fired["slot-drop"] += 1
    await scene.start_service()
    scene.gaps.append((begin, time.time()))


async def clock_skew(scene: Scene) -> None:
    """The clocks of some devices jump."""
    for device in scene.some(0.3):
        skew_ms = scene.rng.choice(SKEWS_MS)
        if device.kind == "npm" and not NPM_CLOCKS_GO_BACK:
            skew_ms = max(skew_ms, device.skew_ms)
        if skew_ms != device.skew_ms:
            await device.skew(skew_ms)
            scene.fired["clock-skew"] += 1


async def duplicate(scene: Scene) -> None:
    """What devices send arrives, its answer does not: they send it again on the next connection. And a raw device
    sends again what it knows to be carried out."""
    devices = scene.some()
    for device in devices:
        scene.fired["duplicate"] += device.proxy.deafen()
    await scene.rest(0.1, 0.6)
    for device in devices:
        device.proxy.cut()
    before = scene.resender.resent
    await scene.resender.turn(scene.service.url)
    scene.fired[BY_RAW_DEVICE] += scene.resender.resent - before


Fault: TypeAlias = Callable[[Scene], Awaitable[None]]
FAULTS: Mapping[str, Fault] = {
    "kill": kill,
    "kill-device": kill_device,
    "pause": pause,
    "cut": cut,
    "half-open": half_open,
    "black-hole": black_hole,
    "postgres-stop": postgres_stop,
    "slot-drop": slot_drop,
    "clock-skew": clock_skew,
    "duplicate": duplicate,
}
NAMES = ("none", *FAULTS, "all")
OF_LINKS = ("cut", "half-open", "black-hole")


def to_postgres(fault: str) -> str:
    """As what a fault of links is counted where it is the one between the service and Postgres."""
    return f"{fault} to Postgres"


CALM_S = (1.0, 5.0)
# After some it is longer until they are at work again, and have something that can be broken: nothing comes while the
# service or Postgres is away or out of reach, and where the slot has gone npm devices fetch everything anew.
CALM_AFTER_S: Mapping[str, tuple[float, float]] = {
    "kill": (2.0, 7.0),
    "postgres-stop": (2.0, 7.0),
    "pause": (5.0, 15.0),
    "black-hole": (5.0, 15.0),
    "slot-drop": (5.0, 15.0),
}


async def happen(scene: Scene, name: str) -> str:
    """One fault of that name, or any for ``all``; the name of what happened."""
    chosen = scene.any_fault() if name == "all" else name
    await FAULTS[chosen](scene)
    return chosen


def missing(name: str, fired: Counter[str]) -> list[str]:
    """What should have happened in a run of that name, and did not."""
    match name:
        case "none":
            wanted: list[str] = []
        case "all":
            wanted = sorted([*FAULTS, *map(to_postgres, OF_LINKS), MID_TRANSACTION, BY_RAW_DEVICE])
        case "kill-device":
            wanted = [name, MID_TRANSACTION]
        case "duplicate":
            wanted = [name, BY_RAW_DEVICE]
        case _ if name in OF_LINKS:
            wanted = [name, to_postgres(name)]
        case _:
            wanted = [name]
    return [fault for fault in wanted if not fired[fault]]


def owed(name: str, fired: Counter[str]) -> list[str]:
    """The faults that have yet to happen, or to be met with what they are to break."""
    lacking = missing(name, fired)
    return [fault for fault in FAULTS if any(f"{one} ".startswith(f"{fault} ") for one in lacking)]
