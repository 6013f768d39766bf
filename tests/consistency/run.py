"""One run: the parties write, faults happen, everything comes to rest, and the histories are judged."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from tests.conftest import server_under_test
from tests.consistency import resender
from tests.consistency.checks import Anomaly, Evidence, judge
from tests.consistency.conflicts import conflicts
from tests.consistency.faults import CALM_AFTER_S, CALM_S, Scene, happen, missing, owed
from tests.consistency.members import Member, PartyEnded, Place
from tests.consistency.party import snapshot_of
from tests.consistency.schema import SCHEMA, TABLES, first_rows, snapshot_sql
from tests.e2e.proxy import Proxy
from tests.npm.service import ServiceProcess

from syncline.actors.postgres.embedded import EmbeddedPostgres

DATABASE = "consistency"
DEVICES = ("python", "npm")
# Of a writer of direct SQL, where that of a device is 1.
SQL_SHARE = 0.5
SLOW_WIRE_S = 0.03
NUDGE_EVERY_S = 1.5
LOOK_EVERY_S = 0.2
# So many transactions the last of all may be behind before the others wait for it.
BEHIND_MAX = 300
PACE_EVERY_S = 1.0
# One that is so far behind, and has not moved in so many looks, is not coming by itself (``NpmParty.nudge``).
STUCK_BEHIND = 100
STUCK_LOOKS = 3
CONFLICTS_A_TRANSACTION_MIN = 0.02
# Of those that were wished for.
TRANSACTIONS_MIN = 0.07
# Faults after the time of a run, for what has not happened in it.
LATE_FAULTS_MAX = 20
REJECTIONS = (
    "SELECT sqlstate, message, extract(epoch FROM rejected_at)::float8, ops FROM electric.rejections ORDER BY id"
)
# The goals, beside that no promise is broken.
DEVICE_RATE = 50.0
DRAIN_S = 5.0


@dataclass(frozen=True)
class Wanted:
    """``devices``: of our library, and ``npm`` more. ``rate``: transactions a second, of all together.

    ``drained_within_s``: a run that has not drained by then is an anomaly. How long it took is a figure.
    """

    fault: str = "none"
    seconds: float = 60.0
    devices: int = 8
    npm: int = 2
    writers: int = 2
    rate: float = 96.0
    seed: int = 1
    drained_within_s: float = 60.0


@dataclass
class Result:
    """``transactions``: of all parties; ``of_devices``: of those on either client. ``drain_s``: from the end of the
    last fault until all held the same; None if that did not come. ``last``: who was still behind the last time that
    anybody was. ``nudged``: how often npm devices were told to connect again (``NpmParty.nudge``)."""

    wanted: Wanted
    folder: Path
    anomalies: list[Anomaly] = field(default_factory=list)
    void: list[str] = field(default_factory=list)
    transactions: int = 0
    of_devices: int = 0
    seconds: float = 0.0
    reads: int = 0
    conflicts: int = 0
    rejected: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    drain_s: float | None = None
    last: tuple[str, ...] = ()
    nudged: int = 0

    @property
    def rate(self) -> float:
        return self.transactions / self.seconds if self.seconds else 0.0

    @property
    def device_rate(self) -> float:
        return self.of_devices / self.seconds if self.seconds else 0.0

    @property
    def missed(self) -> list[str]:
        """What falls short of the goals, and by how much."""
        missed = []
        if self.device_rate < DEVICE_RATE:
            missed.append(f"{self.device_rate:.1f} a second of devices, not {DEVICE_RATE:.0f}")
        if self.drain_s is None or self.drain_s > DRAIN_S:
            drained = "never" if self.drain_s is None else f"in {self.drain_s:.1f} s"
            missed.append(f"drained {drained}, not in {DRAIN_S:.0f} s")
        if self.anomalies or self.void:
            missed.append("anomalies" if self.anomalies else "void")
        return missed


async def run(wanted: Wanted, folder: Path) -> Result:
    """``folder``: empty, and one that an unprivileged server can reach."""
    result = Result(wanted, folder)
    async with contextlib.AsyncExitStack() as stack:
        server = server_under_test(folder / "postgres", {"fsync": "off"})
        stack.push_async_callback(asyncio.to_thread, server.stop, "immediate")
        await asyncio.to_thread(server.start)
        dsn = await _prepared(server, wanted)
        assert server.port is not None, "it runs"
        link = Proxy(server.port)
        await link.start()
        stack.push_async_callback(link.stop)
        service = ServiceProcess(link.leads_to(dsn), folder)
        stack.push_async_callback(service.kill)
        await service.start()
        await _electrified(dsn, wanted)
        members = await _members(stack, wanted, Place(folder, dsn, wanted.seed), service)
        scene = Scene(members, service, link, server, dsn, random.Random(f"{wanted.seed} faults"))
        await _Course(wanted, scene, members, result).run()
    return result


def names(wanted: Wanted) -> dict[str, str]:
    """The parties, and their kinds."""
    kinds = {f"python{n}": "python" for n in range(wanted.devices)}
    kinds |= {f"npm{n}": "npm" for n in range(wanted.npm)}
    return kinds | {f"sql{n}": "sql" for n in range(wanted.writers)}


async def _prepared(server: EmbeddedPostgres, wanted: Wanted) -> str:
    admin = await asyncpg.connect(server.dsn())
    await admin.execute(f"CREATE DATABASE {DATABASE}")
    await admin.close()
    return server.dsn(DATABASE)


async def _electrified(dsn: str, wanted: Wanted) -> None:
    postgres = await asyncpg.connect(dsn)
    try:
        await postgres.execute(SCHEMA)
        for table in TABLES:
            await postgres.execute(f"CALL electric.electrify('public.{table.name}')")
        for statement in first_rows([*names(wanted), resender.NAME]):
            await postgres.execute(statement)
    finally:
        await postgres.close()


async def _members(
    stack: contextlib.AsyncExitStack, wanted: Wanted, place: Place, service: ServiceProcess
) -> list[Member]:
    """All of them; they do not write yet."""
    kinds = names(wanted)
    shares = {name: SQL_SHARE if kind == "sql" else 1.0 for name, kind in kinds.items()}
    members = []
    for number, (name, kind) in enumerate(kinds.items()):
        proxy = Proxy(service.port, SLOW_WIRE_S if number % 3 == 2 else 0.0)
        await proxy.start()
        stack.push_async_callback(proxy.stop)
        member = Member(name, kind, place, proxy, wanted.rate * shares[name] / sum(shares.values()))
        members.append(member)
        stack.push_async_callback(member.close)
    await asyncio.gather(*(member.start() for member in members))
    return members


class _Course:
    """What happens once everybody writes."""

    def __init__(self, wanted: Wanted, scene: Scene, members: list[Member], result: Result) -> None:
        self._wanted = wanted
        self._scene = scene
        self._members = members
        self._result = result
        self._events = (result.folder / "faults").open("w")

    async def run(self) -> None:
        await asyncio.gather(*(member.begin() for member in self._members))
        try:
            dumps = await self._happens()
        except PartyEnded as ended:
            self._result.anomalies.append(Anomaly("a party ended", str(ended)))
            return
        finally:
            self._events.close()
        await self._judge(dumps)

    async def _happens(self) -> dict[str, Any]:
        """Until all is over; what each of them holds then. Raises PartyEnded."""
        began = time.monotonic()
        pacing = asyncio.create_task(self._pace())
        try:
            await self._faults(began + self._wanted.seconds)
        finally:
            pacing.cancel()
            await asyncio.wait({pacing})
            healed = time.monotonic()
            self._result.fired = self._scene.fired
            self._result.seconds = healed - began
        await asyncio.gather(*(member.stop_writing() for member in self._members))
        await self._scene.resender.finish(self._scene.service.url)
        await self._drain(healed)
        return {member.name: await member.dump() for member in self._members}

    async def _faults(self, until: float) -> None:
        """The last one is over when the run is: from then on everything drains. What has not happened by then still
        does, if it takes no more than some tries."""
        name, late = "none", 0
        while (left := until - time.monotonic()) > 0 or (self._owed() and late < LATE_FAULTS_MAX):
            least_s, most_s = CALM_AFTER_S.get(name, CALM_S)
            calm_s = self._scene.rng.uniform(least_s, most_s)
            is_last = left > 0 and left - calm_s < least_s
            await asyncio.sleep(left if is_last else calm_s)  # as long as the draw says
            if self._wanted.fault != "none":
                late += left <= 0
                at = time.time()
                name = await happen(self._scene, self._wanted.fault if left > 0 else self._owed()[0])
                self._events.write(f"{at:.3f} {time.time():.3f} {name}\n")
                self._events.flush()

    def _owed(self) -> list[str]:
        return owed(self._wanted.fault, self._scene.fired)

    async def _pace(self) -> None:
        """All wait for who is far behind; who does not answer, frozen or gone, is where he was when he did."""
        held = False
        before: dict[str, int] = {}
        still: dict[str, int] = {}
        while True:
            await asyncio.sleep(PACE_EVERY_S)  # how far they are is asked, nothing tells
            answered = await self._ask("has", self._members)
            has = {**before, **answered}
            most = max(has.values(), default=0)
            behind = most - min(has.values(), default=most)
            if behind > BEHIND_MAX or held:
                held = behind > BEHIND_MAX / 2
                await self._ask("hold" if held else "go", self._members)
            stuck = {name for name, at in has.items() if at < most - STUCK_BEHIND and at == before.get(name)}
            still = {name: still.get(name, 0) + 1 for name in stuck}
            nudged = {name for name in stuck & answered.keys() if still[name] % STUCK_LOOKS == 0}
            await self._nudge([member for member in self._members if member.name in nudged])
            before = has

    async def _nudge(self, members: Sequence[Member]) -> None:
        self._result.nudged += sum(member.kind == "npm" for member in members)
        await self._ask("nudge", members)

    async def _ask(self, name: str, members: Iterable[Member]) -> dict[str, Any]:
        """What those say, by their names, that have something to say, and at once."""
        there = {member.name: asyncio.wait_for(member.call(name), PACE_EVERY_S) for member in members}
        answers = await asyncio.gather(*there.values(), return_exceptions=True)
        said = zip(there, answers, strict=True)
        return {who: answer for who, answer in said if answer is not None and not isinstance(answer, BaseException)}

    async def _drain(self, healed: float) -> None:
        nudged = healed
        before: dict[str, Any] = {}
        while True:
            states = await self._states(whole=False)
            if _at_rest(states):
                states = await self._states(whole=True)
                if _at_rest(states):
                    self._result.drain_s = time.monotonic() - healed
                    return
            before = before or states
            behind = [name for name, state in states.items() if state["pending"] or not _same(state, states["sql0"])]
            self._result.last = tuple(behind) or self._result.last
            now = time.monotonic()
            if now - healed > self._wanted.drained_within_s:
                states = await self._states(whole=True)
                self._result.anomalies += [
                    Anomaly("no wedge", f"{name} after {now - healed:.0f} s: {state}")
                    for name, state in states.items()
                    if state["pending"] or not _same(state, states["sql0"])
                ]
                return
            if now - nudged > NUDGE_EVERY_S:
                # Those that have not moved since the last time.
                still = {name for name in behind if states[name] == before.get(name)}
                nudged, before = now, states
                await self._nudge([member for member in self._members if member.name in still])
            await asyncio.sleep(LOOK_EVERY_S)  # files and Postgres are compared: nothing tells

    async def _states(self, *, whole: bool) -> dict[str, dict[str, Any]]:
        """Of all, by name; see ``process.Writing.state``."""
        answers = await asyncio.gather(*(member.call("state", whole=whole) for member in self._members))
        return {member.name: state for member, state in zip(self._members, answers, strict=True)}

    async def _judge(self, dumps: dict[str, Any]) -> None:
        postgres = await asyncpg.connect(self._scene.dsn)
        try:
            there = snapshot_of(tuple(row) for row in await postgres.fetch(snapshot_sql(postgres=True, whole=True)))
            rows = await postgres.fetch("SELECT author, number, count(*) FROM executions GROUP BY 1, 2")
            executions = {(row[0], row[1]): row[2] for row in rows}
            rejections = await postgres.fetch(REJECTIONS)
        finally:
            await postgres.close()
        rejected: dict[tuple[str, int], str] = {}
        rejected_at: dict[tuple[str, int], float] = {}
        together = []
        for sqlstate, message, at, ops in rejections:
            journaled = [op["row"] for op in json.loads(ops) if op["op"] in "IU" and len(op["row"]) == 4]
            together.append(frozenset((row[0], int(row[2])) for row in journaled if row[3] == f"{row[0]}:{row[2]}"))
            rejected |= dict.fromkeys(together[-1], f"{sqlstate} {message}")
            rejected_at |= dict.fromkeys(together[-1], at)
        histories = [*(member.history() for member in self._members), self._scene.resender.history()]
        evidence = Evidence(histories, dumps, there, executions, rejected, rejected_at, together, self._scene.gaps)
        result = self._result
        result.anomalies += judge(evidence)
        result.conflicts = conflicts(evidence.histories)
        committed = [(history.kind, len(history.committed())) for history in evidence.histories]
        result.transactions = sum(number for _, number in committed)
        result.of_devices = sum(number for kind, number in committed if kind in DEVICES)
        result.reads = sum(sum(1 for _ in history.reads()) for history in evidence.histories)
        result.rejected = len(rejections)
        result.void = [f"{fault} never happened" for fault in missing(self._wanted.fault, result.fired)]
        least = TRANSACTIONS_MIN * self._wanted.rate
        if result.rate < least:
            result.void.append(f"only {result.rate:.1f} transactions a second, not {least:.1f}")
        floor = CONFLICTS_A_TRANSACTION_MIN * result.transactions
        if result.conflicts < floor:
            result.void.append(f"only {result.conflicts} conflicts, not {floor:.0f}")


def _at_rest(states: Mapping[str, dict[str, Any]]) -> bool:
    one = next(iter(states.values()))
    return all(state["pending"] == 0 and _same(state, one) for state in states.values())


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["counters"] == b["counters"] and a["digest"] == b["digest"])
