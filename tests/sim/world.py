"""One run: Postgres, the service, some devices, a plan of what happens; then everything is healed and has to agree."""

from __future__ import annotations

import random
import shutil
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from tests.mutation import Mutation
from tests.sim.checks import Checks
from tests.sim.device import SimDevice
from tests.sim.limits import small
from tests.sim.network import Link
from tests.sim.plan import Item, Plan
from tests.sim.postgres import PostgresGone, SimPostgres
from tests.sim.schema import TABLES
from tests.sim.service import Disk, Service, start_child_here, stop_child_here
from tests.sim.waiting import Scheduler, Waiting, in_place_of_asyncio
from tests.sim.workloads import device_writes, direct, large, poison, seed, truncate

from syncline.actors.postgres.apply import RETRY_MAX_S
from syncline.client.connectivity import BACKOFF_MAX_S
from syncline.proto.subprotocols import OLD, OWN

EPOCH_MS = 1_700_000_000_000
# When nothing goes wrong any more: a device waits at most BACKOFF_MAX_S before it comes back, and once more if it meets
# what is left of an earlier connection; the writer at most RETRY_MAX_S. All the rest takes less than a second.
DRAIN_US_MAX = int((2 * BACKOFF_MAX_S + RETRY_MAX_S + 3) * 1e6)
# Most of a run.
AWAY_US_MAX = 1_500_000
# Until a device is back with a new connection, and has sent everything again.
LATE_US_MAX = 80_000
EVENTS_MAX = 100_000
STARTUP_US = 60_000
TABLE_NAMES = tuple(TABLES)
# Crashes of a device's actor that mean its connection is lost, nothing else.
EXPECTED_OF_DEVICES = (ConnectionError,)


# Files of a run are many and small.
_MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(slots=True)
class Result:
    plan: Plan
    anomaly: str | None
    fired: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0
    resets: int = 0
    repairs: int = 0
    rejections: int = 0
    events: int = 0
    virtual_s: float = 0.0
    drained_s: float = 0.0
    excused: Counter[str] = field(default_factory=Counter)


class World:
    """``scheduler``, ``waiting`` and ``disk`` are the run's, and stand in for what the product uses already."""

    def __init__(self, plan: Plan, scheduler: Scheduler, waiting: Waiting, disk: Disk) -> None:
        self.plan = plan
        self.rng = rng = scheduler.rng
        self.scheduler = scheduler
        self.waiting = waiting
        self.disk = disk
        self.postgres = SimPostgres(self.scheduler, self.wall_ms)
        self.checks = Checks(self.postgres)
        self.fired: Counter[str] = Counter()
        self.service: Service | None = None
        self.links: list[Link] = []
        self.healed = False
        self.healed_at_us = 0
        self.crash: Exception | None = None
        self.postgres.direct(seed)
        self.postgres.invisible.clear()
        self.start_service()
        run = f"{plan.seed}-{id(self)}"
        # By a slow clock several devices write in the same millisecond.
        tick_ms = rng.choice((1, 100))
        self.devices = [
            SimDevice(
                f"device-{letter}",
                run,
                self.scheduler,
                self.dial,
                self.wall_ms,
                self.checks,
                bundled=rng.random() < 0.5,
                protocol=OLD[0] if letter == "b" else OWN,
                tick_ms=tick_ms,
            )
            for letter in "abc"[: rng.choice((2, 2, 3))]
        ]
        for device in self.devices:
            device.clock_offset_ms = rng.choice((0, 0, 0, -700, 300, 5_000))

    def wall_ms(self) -> int:
        return EPOCH_MS + self.scheduler.now_us // 1000

    # --- the service --------------------------------------------------------------------------------------------------

    def start_service(self) -> None:
        self.service = Service(
            self.scheduler, self.waiting, self.postgres, self.disk.directory, self.wall_ms, self._actor_crashed
        )

    def stop_service(self) -> None:
        service, self.service = self.service, None
        if service is not None:
            service.kill()
        for link in self.links:
            link.lose_server()
        self.links.clear()

    def _actor_crashed(self, name: str, error: Exception) -> None:
        if name.startswith("device:") and isinstance(error, EXPECTED_OF_DEVICES):
            return
        if isinstance(error, PostgresGone):
            return
        self.checks.report(f"the actor {name} crashed: {type(error).__name__}: {error}")
        self.crash = error

    def dial(self, device: SimDevice) -> Link:
        if self.service is None or not self.service.ready:
            raise ConnectionError("nobody listens")
        link = Link(
            self.scheduler,
            self.service.accept,
            lambda frame: device.on_frame(link, frame),
            lambda reason: device.closed(link, reason),
            lambda why: self.checks.report(f"{device.name} was sent what it must not be sent: {why}"),
            device.protocol,
        )
        self.links = [other for other in self.links if other.server_open]
        self.links.append(link)
        return link

    # --- a run --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        for device in self.devices:
            for table in self.rng.sample(TABLE_NAMES, self.rng.randrange(1, 6)):
                self.scheduler.soon(STARTUP_US, lambda device=device, table=table: device.subscribe(table))
        for item in self.plan.actions:
            self.scheduler.after(STARTUP_US + item.at_us, lambda item=item: self.act(item))
        for item in self.plan.faults:
            self.scheduler.after(STARTUP_US + item.at_us, lambda item=item: self.harm(item))
        last = max((item.at_us for item in (*self.plan.actions, *self.plan.faults)), default=0)
        self.scheduler.after(STARTUP_US + last + 1_000, self.heal)
        while self.checks.anomaly is None and not self._finished():
            self.scheduler.step()
        if self.checks.anomaly is None:
            self.checks.at_the_end(self.devices)

    def _finished(self) -> bool:
        if self.scheduler.events > EVENTS_MAX:
            self.checks.report(f"wedged: still busy after {EVENTS_MAX} events")
        if not self.healed or self.scheduler.events % 50:
            return False
        lacking = [(device, self.checks.unfinished(device)) for device in self.devices]
        first = next(((device, lack) for device, lack in lacking if lack), None)
        if first is None:
            return True
        if self.scheduler.now_us > self.healed_at_us + DRAIN_US_MAX:
            self.checks.report(f"wedged: {first[0].name} {first[1]}")
        return False

    def heal(self) -> None:
        """Nothing goes wrong from here on."""
        self.healed, self.healed_at_us = True, self.scheduler.now_us
        self.postgres.up = True
        if self.service is None:
            self.start_service()
        for link in self.links:
            link.up.stalled_until_us = link.down.stalled_until_us = 0
        for device in self.devices:
            device.store.dies = None
            device.go_online()
            for table in TABLE_NAMES:
                device.subscribe(table)
        self.postgres.when_flushed()

    def close(self) -> None:
        if self.service is not None:
            self.service.kill()
        for device in self.devices:
            device.store.close()

    # --- what happens -------------------------------------------------------------------------------------------------

    def act(self, item: Item) -> None:
        rng = random.Random(item.number)
        device = rng.choice(self.devices)
        if item.kind == "device writes":
            device.write(*device_writes(rng, device.name, device.writes + 1))
        elif item.kind == "poison":
            refused, following = poison(rng, device.name, device.writes + 1)
            device.write(refused)
            if rng.random() < 0.5:
                device.write(following)
        elif item.kind == "subscribe":
            device.subscribe(rng.choice(TABLE_NAMES))
        elif item.kind == "unsubscribe":
            device.unsubscribe(rng.choice(TABLE_NAMES))
        elif item.kind == "replace":
            device.replace(rng.choice((*TABLE_NAMES, None)))
        elif self.postgres.up:
            write = {"direct SQL": direct, "large direct SQL": large, "truncate": truncate}[item.kind]
            if self.postgres.direct(lambda work: write(work, rng)):
                self.fired[item.kind] += 1
            return
        self.fired[item.kind] += 1

    def harm(self, item: Item) -> None:
        rng = random.Random(item.number)
        device = rng.choice(self.devices)
        link = device.link
        kind = item.kind
        if kind in ("cut", "deaf", "stall", "half open", "late bytes") and link is None:
            return
        if kind == "cut" and link is not None:
            link.cut()
        elif kind == "half open":
            device.forsake()
        elif kind == "late bytes":
            # Something has to be under way.
            device.write(*device_writes(rng, device.name, device.writes + 1))
            device.forsake(late_us=rng.randrange(1_000, LATE_US_MAX))
        elif kind == "deaf" and link is not None:
            link.close_server()
            link.lose_server()
        elif kind == "stall" and link is not None:
            way = rng.choice((link.up, link.down))
            way.stalled_until_us = self.scheduler.now_us + rng.randrange(50_000, 800_000)
        elif kind == "device crash":
            device.crash()
        elif kind == "device crash in commit":
            device.store.dies = rng.choice(("before commit", "after commit"))
        elif kind == "offline":
            device.go_offline()
            self.scheduler.after(rng.randrange(50_000, AWAY_US_MAX), device.go_online)
        elif kind == "clock jump":
            device.clock_offset_ms += rng.choice((-1, 1)) * rng.choice((50, 2_000, 50_000, 3_600_000))
        elif kind in ("service kill", "machine loss", "empty disk"):
            if self.service is None:
                return
            self.stop_service()
            if kind == "machine loss":
                self.disk.lose(rng)
            elif kind == "empty disk":
                self.disk.wipe()
                self.checks.disk_emptied()
            self._later(rng.randrange(5_000, 300_000), lambda: self.start_service() if not self.service else None)
        elif kind == "postgres crash":
            if not self.postgres.up:
                return
            self.postgres.crash()
            self._later(rng.randrange(5_000, 300_000), self._postgres_back)
        self.fired[kind] += 1

    def _postgres_back(self) -> None:
        self.postgres.up = True
        self.postgres.when_flushed()

    def _later(self, delay_us: int, work: Callable[[], None]) -> None:
        self.scheduler.after(delay_us, work)


def simulate(plan: Plan, mutant: Mutation | None = None, *, verbose: bool = False) -> Result:
    """Carries out ``plan``, with a rule broken if ``mutant`` is given."""
    scheduler = Scheduler(random.Random(f"run {plan.seed}"))
    waiting = Waiting(scheduler)
    ids = random.Random(f"ids {plan.seed}")
    directory = Path(tempfile.mkdtemp(prefix="syncline-sim-", dir=_MEMORY_DISK))
    disk = Disk(directory)

    def fresh_id() -> str:
        return str(uuid.UUID(int=ids.getrandbits(128), version=4))

    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        stack.enter_context(small())
        stack.enter_context(in_place_of_asyncio(waiting))
        stack.enter_context(mock.patch("syncline.actors.shapes.shard.start_child", start_child_here))
        stack.enter_context(mock.patch("syncline.actors.shapes.shard.stop_child", stop_child_here))
        stack.enter_context(mock.patch("syncline.client.replica._fresh_id", fresh_id))
        stack.enter_context(mock.patch("os.fsync", disk.fsync))
        if mutant is not None:
            mutant(stack)
        world = World(plan, scheduler, waiting, disk)
        stack.callback(world.close)
        world.run()
        if verbose and world.crash is not None:
            traceback.print_exception(world.crash)
        return Result(
            plan,
            world.checks.anomaly,
            world.fired,
            world.postgres.conflicts,
            world.checks.resets,
            world.checks.repairs,
            len(world.postgres.rejections),
            scheduler.events,
            scheduler.now_us / 1e6,
            (scheduler.now_us - world.healed_at_us) / 1e6,
            world.checks.excused,
        )
