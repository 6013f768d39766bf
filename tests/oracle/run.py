"""One run: a plan carried out on a fresh database, and everything compared that there is to compare."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from tests.conftest import drop_slots
from tests.e2e.proxy import Proxy
from tests.oracle.comparing import Anomaly, at_rest, check_samples
from tests.oracle.counting import counting, in_pieces, tiring
from tests.oracle.device import Device
from tests.oracle.expected import State
from tests.oracle.history import begin_history, read_history, read_state
from tests.oracle.hosting import DATA, Hosting, hosting
from tests.oracle.plan import DEVICES, Event, Phase, Plan
from tests.oracle.schema import PULSE
from tests.oracle.writing import SETTINGS, Writers

PUBLICATION = "electric_publication"
# A moment, for a run has few.
TIRED_S = 0.2
SETTLED_WITHIN_S = 90.0


@dataclass
class Result:
    """``anomaly``: what was wrong, None for a sound run. ``folder``: where the files are, kept if something was."""

    plan: Plan
    folder: Path
    anomaly: str | None = None
    counters: Counter[str] = field(default_factory=Counter)
    journal: tuple[str, ...] = ()
    happened: tuple[str, ...] = ()
    seconds: float = 0.0


async def run(
    plan: Plan, dsn: str, *, runtime: str | None = None, killable: bool = False, folder: Path | None = None
) -> Result:
    """``dsn``: of an empty database. ``killable``: the service is a process of its own."""
    folder = folder or Path(tempfile.mkdtemp(prefix=f"oracle-{plan.seed}-"))
    result = Result(plan, folder)
    began = time.monotonic()
    scene = _Scene(plan, dsn, folder, hosting(dsn, folder, runtime, killable=killable), result.counters)
    try:
        with counting(result.counters), in_pieces(plan.piece_rows), tiring(TIRED_S):
            await scene.run()
    except Anomaly as anomaly:
        result.anomaly = str(anomaly)
    except Exception:
        result.anomaly = traceback.format_exc()
    finally:
        try:
            await scene.close()
        except Exception:
            result.anomaly = result.anomaly or f"on closing: {traceback.format_exc()}"
    result.journal, result.happened = tuple(scene.writers.journal), tuple(scene.happened)
    if result.anomaly is not None:
        (folder / "transactions.sql").write_text("\n".join(result.journal))
    result.seconds = time.monotonic() - began
    return result


class _Scene:
    def __init__(self, plan: Plan, dsn: str, folder: Path, hosting: Hosting, counters: Counter[str]) -> None:
        self.plan = plan
        self.hosting = hosting
        self.writers = Writers(dsn, counters)
        self.happened: list[str] = []
        self._dsn = dsn
        self._folder = folder
        self._counters = counters
        self._proxy = Proxy(0)
        self._devices: list[Device] = []
        self._postgres: asyncpg.Connection | None = None
        self._pulse = 0

    async def close(self) -> None:
        for device in self._devices:
            device.sampler.stop()
            await device.close()
        await self._proxy.stop()
        await self.hosting.close()
        await self.writers.close()
        if self._postgres is not None:
            await self._postgres.close()

    async def run(self) -> None:
        await self._proxy.start()
        postgres = self._postgres = await asyncpg.connect(self._dsn, server_settings=SETTINGS)
        database = await postgres.fetchval("SELECT current_database()")
        schema = self.plan.schema
        await postgres.execute(schema.sql())
        await self.hosting.start()
        self._proxy.target_port = self.hosting.port
        for table in schema.parents_first:
            await postgres.execute(f"CALL electric.electrify('public.{table.name}')")
        await postgres.execute(f"INSERT INTO {PULSE} VALUES (1, 0)")
        await self._fill(postgres)
        await begin_history(postgres, PUBLICATION, database)
        before = await read_state(postgres, schema)
        await self.writers.start()
        for number in range(DEVICES):
            await self._begin_device(number)
        try:
            for number, phase in enumerate(self.plan.phases):
                await asyncio.gather(self._write(phase), self._happen(phase, number))
                await self._quiet(number)
        except Anomaly as anomaly:
            try:  # it may have begun before, and then that says more
                await self._look_back(postgres, before)
            except Anomaly as earlier:
                raise Anomaly(f"{earlier}\nand then {anomaly}") from anomaly
            raise
        await self._look_back(postgres, before)

    async def _look_back(self, postgres: asyncpg.Connection, before: State) -> None:
        """Everything the devices have shown, beside the history. Raises Anomaly."""
        for device in self._devices:
            device.sampler.stop()
            if device.sampler.failure is not None:
                raise device.sampler.failure
        schema, database = self.plan.schema, await postgres.fetchval("SELECT current_database()")
        history = await read_history(postgres, schema, PUBLICATION, database)
        await check_samples(self.plan, postgres, before, history, self._devices, self._counters)

    async def _fill(self, postgres: asyncpg.Connection) -> None:
        for statement in self.plan.rows:
            try:
                await postgres.execute(statement)
            except asyncpg.IntegrityConstraintViolationError:
                self._counters["statements refused"] += 1

    async def _begin_device(self, number: int) -> None:
        device = Device(
            f"device{number}",
            self._folder,
            f"ws://127.0.0.1:{self._proxy.port}",
            self.plan.schema,
            self._counters,
            lambda: self.writers.commits,
        )
        self._devices.append(device)
        await device.start([self.plan.shapes[shape] for shape in self.plan.first[number]])

    # --- a phase ------------------------------------------------------------------------------------------------------

    async def _write(self, phase: Phase) -> None:
        for write in phase.writes:
            await self.writers.run(write)

    async def _happen(self, phase: Phase, number: int) -> None:
        for event in phase.events:
            await asyncio.sleep(event.after_ms / 1000)  # the plan says when
            self._counters[event.kind] += 1
            device = self._devices[event.device % len(self._devices)]
            told = await self._event(event, device, random.Random(f"{self.plan.seed} {event.number}"))
            self.happened.append(f"phase {number}: {event.kind} {device.name} {told}".rstrip())

    async def _event(self, event: Event, device: Device, rng: random.Random) -> str:
        match event.kind:
            case "device writes":
                return "; ".join(await device.write(rng))
            case "subscribe":
                return await self._subscribe(device, rng)
            case "unsubscribe":
                return await self._unsubscribe(device, rng)
            case "resubscribe":
                shape = rng.choice(self.plan.shapes)
                await device.show(shape)
                return shape.describe()
            case "disconnect":
                await device.db.disconnect()
            case "connect":
                await device.connect()
            case "reopen":
                await device.reopen()
            case "cut":
                self._proxy.cut()
            case "restart":
                await self.hosting.restart()
                self._proxy.target_port = self.hosting.port
            case "crash":
                await self.hosting.crash()
                self._proxy.target_port = self.hosting.port
            case "disk lost" | "slot lost":
                await self.hosting.lose(self._lose_disk if event.kind == "disk lost" else self._lose_slot)
                self._proxy.target_port = self.hosting.port
            case _:
                raise ValueError(event.kind)
        return ""

    async def _lose_disk(self) -> None:
        await asyncio.to_thread(shutil.rmtree, self._folder / DATA)

    async def _lose_slot(self) -> None:
        assert self._postgres is not None
        await drop_slots(self._postgres)

    async def _subscribe(self, device: Device, rng: random.Random) -> str:
        free = [shape for shape in self.plan.shapes if shape not in device.wanted]
        if not free or ("overlaps" not in self.plan.features and not device.is_free):
            return "has enough"
        shape = rng.choice(free)
        await device.subscribe(shape)
        return shape.describe()

    async def _unsubscribe(self, device: Device, rng: random.Random) -> str:
        shape = rng.choice(device.wanted)
        await device.unsubscribe(shape)
        return shape.describe()

    # --- a quiet point ------------------------------------------------------------------------------------------------

    async def _quiet(self, number: int) -> None:
        for device in self._devices:
            if not device.db.status.connected:
                await device.connect()
        for device in self._devices:
            if why := await device.settled(SETTLED_WITHIN_S):
                raise Anomaly(f"{device.name} does not come to rest in phase {number}: {why}")
            for failure in device.failures():
                raise Anomaly(f"{device.name} was refused a shape: {failure}") from failure
        assert self._postgres is not None
        self._pulse += 1
        await self._postgres.execute(f"UPDATE {PULSE} SET n = $1", self._pulse)
        for device in self._devices:
            if why := await device.reached(self._pulse, SETTLED_WITHIN_S):
                raise Anomaly(f"{device.name} does not come to what was committed last in phase {number}: {why}")
        self._counters["quiet points"] += 1
        await self._compare(self._devices, number)

    async def _compare(self, devices: Sequence[Device], number: int) -> None:
        assert self._postgres is not None
        for device in devices:
            if why := await device.settled(SETTLED_WITHIN_S):  # what was withdrawn may have come after all
                raise Anomaly(f"{device.name} has come to rest and does not stay there in phase {number}: {why}")
            found = await at_rest(self.plan, self._postgres, device)
            if found:
                raise Anomaly(f"{device.name} at the quiet point of phase {number}:\n" + "\n".join(found))
