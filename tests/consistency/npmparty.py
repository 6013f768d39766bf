"""A device of the npm client, and what an application has to do for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.consistency.histories import Snapshot
from tests.consistency.party import JOURNALED, RETRY_S, Anew, Lost, Refused, snapshot_of
from tests.consistency.schema import TABLES, VECTOR, snapshot_sql
from tests.consistency.workload import Statement
from tests.npm.rig import NpmDevice, NpmDiedError, NpmError
from tests.patience import PATIENCE_S

# What an application asks for again if it has not come.
SYNC_WITHIN_S = 5.0
# And tells the client to connect after so long, in case it has given up trying by itself.
CONNECT_WITHIN_S = 1.5
# It asks the service for its migrations, and may wait for ever for one that has gone.
OPEN_WITHIN_S = 15.0
RESTART_EVERY = 3
# What the client logs, before it does so, when it drops all it has.
RESET = b"resetting client state"
# Tables that never lose a row; of the journal, authors. And so many they have from the start.
GROWING = ("counters", "journal", "registers", "mixed", "members")
FROM_THE_START = (1, 0, 1, 1, 0)
COUNTS = (
    "SELECT (SELECT count(*) FROM counters) AS a, (SELECT count(DISTINCT author) FROM journal) AS b, "
    "(SELECT count(*) FROM registers) AS c, (SELECT count(*) FROM mixed) AS d, (SELECT count(*) FROM members) AS e"
)


class NpmParty:
    ahead_max = 60  # operations

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self._name = name
        self._path = folder / f"{name}.db"
        self._url = url
        self._skew_ms = 0
        self._counts = FROM_THE_START
        self._nudges = 0
        self._is_anew = False
        self._syncing = False
        self._resets_over = 0
        self._resets_read = 0
        self._log_read = 0
        self._device: NpmDevice | None = None
        self._background: set[asyncio.Task[None]] = set()

    @property
    def device(self) -> NpmDevice:
        if self._device is None:
            raise Lost
        return self._device

    @property
    def pid(self) -> int | None:
        return None if self._device is None else self._device.pid

    async def open(self, *, first: bool) -> None:
        if not first:
            await self.reopen()
            self._is_anew = self._resets() > 0  # the process before may not have come to say so
            return
        await self._start()
        await self.device.connect(self._name)
        await self._sync()

    async def _sync(self, within_s: float = PATIENCE_S) -> None:
        """Of all tables at once, and then, so long again, of the counters: they say whether all is here."""
        for names in ([table.name for table in TABLES if table.name != "counters"], ["counters"]):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(self.device.sync(name, within_s=within_s) for name in names))

    async def _whole(self, counts: Sequence[int]) -> None:
        """Told to start over, the client drops its rows and forgets what it had asked for: it is asked again. Raises
        Lost, and Anew when that has been done.

        ``counts``: of tables that never lose a row.
        """
        self._counts = tuple(map(max, counts, self._counts))
        if tuple(counts) != self._counts:
            if self._resets() == self._resets_over:
                raise AssertionError(f"has {counts} rows, had {self._counts}, and was not told to start over")
            await self._sync_again()
        if self._is_anew:
            self._is_anew = False
            raise Anew

    def _resets(self) -> int:
        """How often the client has been told to start over, in all its processes; it says so, then drops its rows."""
        with self._path.with_suffix(".log").open("rb") as log:
            log.seek(self._log_read)
            whole, _, _ = log.read().rpartition(b"\n")
        self._log_read += len(whole)
        self._resets_read += whole.count(RESET)
        return self._resets_read

    async def _sync_again(self) -> None:
        """Restarts the application where that does not help. Raises Lost then."""
        self._syncing = True
        try:
            for _ in range(RESTART_EVERY):
                resets = self._resets()
                if await self._is_connected() and await self._is_synced() and await self._has_heard():
                    self._resets_over, self._is_anew = resets, True
                    return
        except NpmDiedError as death:
            raise Lost from death
        finally:
            self._syncing = False
        await self.device.kill()
        raise Lost

    async def _is_connected(self) -> bool:
        """Within a while: it is cut off where it starts over, and connects again by itself, or is told to."""
        began = time.monotonic()
        while not self.connected and time.monotonic() - began < SYNC_WITHIN_S:
            seen = len(self.device.events)
            try:
                await self.device.event("connectivity", after=seen, within_s=CONNECT_WITHIN_S, status="connected")
            except AssertionError:
                self._later(self._connect())
        return self.connected

    async def _is_synced(self) -> bool:
        """Unless its connection ends meanwhile, and with it what was asked for. Raises NpmDiedError."""
        seen = len(self.device.events)
        asking = asyncio.create_task(self._sync(SYNC_WITHIN_S))
        ended = asyncio.create_task(
            self.device.event("connectivity", after=seen, within_s=PATIENCE_S, status="disconnected")
        )
        await asyncio.wait({asking, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (asking, ended):
            task.cancel()
        outcome, _ = await asyncio.gather(asking, ended, return_exceptions=True)
        if isinstance(outcome, NpmDiedError):
            raise outcome
        return outcome is None

    async def _has_heard(self) -> bool:
        """Within a while, of all that it had written before it started over: the client puts the rows of a delivery in
        place of its own, whatever it has written to them, so until then it shows what nobody ever wrote. Raises
        NpmDiedError."""
        began = time.monotonic()
        while await self.device.pending():
            if not self.connected or time.monotonic() - began > SYNC_WITHIN_S:
                return False
            await asyncio.sleep(RETRY_S)  # the client tells nobody that an echo has come
        return True

    async def reopen(self) -> None:
        await self._start()
        self._later(self._connect())

    async def _start(self) -> None:
        while True:
            try:
                async with asyncio.timeout(OPEN_WITHIN_S):
                    self._device = await NpmDevice.open(self._path, self._url)
                break
            except (NpmError, NpmDiedError, TimeoutError):
                await asyncio.sleep(RETRY_S)  # the service may be away; nothing tells when it is back
        if self._skew_ms:
            self.skew(self._skew_ms)

    async def _connect(self, *, again: bool = False) -> None:
        """``again``: also one that believes to be connected, whom only an end of that lets connect."""
        try:
            if again and self.connected:
                await self.device.disconnect()
            await self.device.connect(self._name)
        except (NpmError, NpmDiedError, TimeoutError):
            return  # it goes on trying by itself, or is opened anew

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def transact(self, statements: Iterable[Statement], pause_s: float) -> dict[str, int]:
        """The counters are those just before: the client offers nothing else. There is no place for the pause."""
        resets, saw = -1, dict[str, int]()
        while resets != self._resets():  # else it has dropped its rows meanwhile
            resets = self._resets()
            await self._whole(await self._counted())
            saw = await self.counters()
        try:
            await self.device.execute(*statements)
        except NpmError as refusal:
            if not str(refusal.code).startswith("SQLITE_CONSTRAINT"):
                raise
            raise Refused(str(refusal)) from refusal
        except NpmDiedError as death:
            raise Lost from death
        return saw

    async def _counted(self) -> list[int]:
        [counts] = await self._ask(COUNTS)
        return list(counts.values())

    async def _ask(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        try:
            return await self.device.query(sql, *args)
        except NpmDiedError as death:
            raise Lost from death

    async def snapshot(self) -> Snapshot:
        rows = await self._ask(snapshot_sql(postgres=False))
        snapshot = snapshot_of((row["tab"], row["key"], row["row"]) for row in rows)
        await self._whole([len(snapshot[name]) for name in GROWING])
        return snapshot

    async def has_written(self, number: int) -> bool:
        return bool(await self._ask(JOURNALED, self._name, number))

    async def dump(self) -> Snapshot:
        rows = await self._ask(snapshot_sql(postgres=False, whole=True))
        return snapshot_of((row["tab"], row["key"], row["row"]) for row in rows)

    @property
    def connected(self) -> bool:
        return self._device is not None and self._device.connected

    async def counters(self) -> dict[str, int]:
        return {row["id"]: row["value"] for row in await self._ask(VECTOR)}

    async def pending(self) -> int:
        """One that has dropped its rows asks for them again at once: whoever looks next finds that out."""
        if self._resets() > self._resets_over and self.connected and tuple(await self._counted()) != self._counts:
            await self._sync_again()
        try:
            return await self.device.pending()
        except NpmDiedError as death:
            raise Lost from death

    async def state(self) -> str:
        return f"connected {self.device.connected}, unhandled {self.device.unhandled[-3:]}"

    async def nudge(self) -> None:
        """Cut off while it starts to replicate, or not answered within 3 s, this client believes to be connected for
        ever. Where telling it to connect anew does not help, its application is restarted."""
        if self._syncing:
            return  # it sees to that itself
        self._nudges += 1
        if self._nudges % RESTART_EVERY:
            self._later(self._connect(again=True))
        else:
            await self.device.kill()

    def skew(self, ms: int) -> None:
        self._skew_ms = ms
        self._later(self._tell_skew())

    async def _tell_skew(self) -> None:
        try:
            await self.device.call("skew", ms=self._skew_ms)
        except (Lost, NpmDiedError):
            return  # the next process is told when it starts

    async def close(self) -> None:
        if self._device is not None:
            await self._device.close()
