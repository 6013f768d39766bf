"""The demonstration itself: set up, sync, watch rows arrive, go offline, come back, compare everything.

Nothing here is staged: a real Postgres, the service as ``syncline serve`` runs it, and two device processes with their
own SQLite files. It ends by itself; the exit code is 0 only if all three hold the same rows.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.table import Table

from syncline.actors.config import load
from syncline.actors.demo.devices import DemoDevice, DeviceFailed
from syncline.actors.demo.view import View, percentile
from syncline.actors.faults import Fault
from syncline.actors.front import ServiceGaveUp
from syncline.actors.postgres.electrify import electrify
from syncline.actors.postgres.embedded import EmbeddedPostgresError, copied_binaries
from syncline.actors.service import Service

SCHEMA = """
CREATE TABLE projects (id uuid PRIMARY KEY, name text NOT NULL, owner text NOT NULL);
CREATE TABLE issues (
    id uuid PRIMARY KEY, project_id uuid NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    title text NOT NULL, state text NOT NULL, priority int4 NOT NULL, opened_at timestamptz NOT NULL
);
CREATE TABLE comments (
    id uuid PRIMARY KEY, issue_id uuid NOT NULL REFERENCES issues (id) ON DELETE CASCADE,
    author text NOT NULL, body text NOT NULL
);
INSERT INTO projects
    SELECT md5('project ' || n)::uuid, 'Project ' || n, (ARRAY['ann', 'bob', 'eve'])[1 + n % 3]
    FROM generate_series(1, 20) n;
INSERT INTO issues
    SELECT md5('issue ' || n)::uuid, md5('project ' || 1 + n % 20)::uuid, 'Issue ' || n, 'open', n % 5,
           timestamptz '2026-01-01 00:00:00.123+00' + n * interval '17 minutes'
    FROM generate_series(1, 1000) n;
INSERT INTO comments
    SELECT md5('comment ' || n)::uuid, md5('issue ' || 1 + n % 1000)::uuid, 'ann', 'Comment ' || n
    FROM generate_series(1, 3000) n;
"""
TABLES = ("projects", "issues", "comments")
# The same rows in the same spelling on both sides.
ON_POSTGRES = {
    "projects": "SELECT id::text, name, owner FROM projects ORDER BY 1",
    "issues": "SELECT id::text, project_id::text, title, state, priority, "
    "regexp_replace((opened_at AT TIME ZONE 'UTC')::text, '$', 'Z') FROM issues ORDER BY 1",
    "comments": "SELECT id::text, issue_id::text, author, body FROM comments ORDER BY 1",
}
ON_DEVICE = {table: f"SELECT * FROM {table} ORDER BY id" for table in TABLES}  # noqa: S608 - our own names

FAILED, INTERRUPTED = 1, 130
BEAT_S = 0.05
LIVE_S = 6.0
OFFLINE_S = 5.0
CONTESTED = 20
CONVERGE_TIMEOUT_S = 20.0
COMPARE_PAUSE_S = 0.1


def main() -> int:
    """Runs the demonstration; returns the exit code. Nothing it started or made is left, unless it says so."""
    console = Console()
    logging.getLogger().setLevel(logging.ERROR)
    try:
        directory = Path(tempfile.mkdtemp(prefix="syncline-demo-"))
    except OSError as error:
        console.print(f"failed: no temporary folder can be made ({error}): set TMPDIR", markup=False, soft_wrap=True)
        return FAILED
    directory.chmod(0o755)  # an embedded Postgres runs as another user when we are root
    try:
        with View(console) as view:
            code = asyncio.run(_until_stopped(view, directory))
        if code == INTERRUPTED:
            console.print("interrupted: everything is stopped and removed")
        if (kept := copied_binaries()) is not None:
            kept_text = f"kept for the next start: the programs of Postgres in {kept}"
            console.print(kept_text, markup=False, highlight=False, soft_wrap=True)
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except (DeviceFailed, Fault, ServiceGaveUp, EmbeddedPostgresError, asyncpg.PostgresError, OSError) as failed:
        console.print(f"failed: {failed or type(failed).__name__}", markup=False, highlight=False, soft_wrap=True)
        return FAILED
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _until_stopped(view: View, directory: Path) -> int:
    """The exit code. SIGTERM ends it as Ctrl-C does."""
    running = asyncio.ensure_future(_run(view, directory))
    with contextlib.suppress(NotImplementedError):  # no signals on Windows' loops
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        return INTERRUPTED


async def _run(view: View, directory: Path) -> int:
    view.say("starting an embedded Postgres and the service")
    settings = {"SYNCLINE_DATA_DIR": str(directory), "HTTP_PORT": "0", "LOG_LEVEL": "error"}
    service = Service(load(settings, {}))
    try:
        await service.start()
        connection = await asyncpg.connect(service.dsn, server_settings={"timezone": "UTC"})
        demo = _Demo(view, connection, [DemoDevice(n, directory / f"{n}.db") for n in ("phone", "laptop")])
        try:
            await connection.execute(SCHEMA)
            for table in TABLES:
                await electrify(connection, table)
            view.say("projects, issues and comments opened to devices: 4,020 rows, no change to the schema")
            return await demo.play(f"ws://127.0.0.1:{service.port}")
        finally:
            await demo.stop()
            await connection.close()
    finally:
        await service.stop()


class _Demo:
    def __init__(self, view: View, connection: asyncpg.Connection, devices: list[DemoDevice]) -> None:
        self._view = view
        self._connection = connection
        self._devices = devices
        self._started: list[DemoDevice] = []
        self._committed_ns: dict[int, int] = {}
        self._beating = True

    async def play(self, url: str) -> int:
        for device in self._devices:
            self._started.append(device)
            await device.start(url, _token("ann"), self._committed_ns)
            self._view.say(f"{device.name}: {device.rows:,} rows in its own SQLite after {device.sync_s:.2f} s")
        self._view.watch(self._devices)
        beats = asyncio.create_task(self._beat())
        phone, laptop = self._devices
        self._view.say(f"an ordinary SQL client inserts {1 / BEAT_S:.0f} rows a second; watch them arrive")
        await asyncio.sleep(LIVE_S)
        await self._offline_spell(phone, laptop)
        self._beating = False
        await beats
        back = time.monotonic()
        await phone.go(online=True)
        converged = await self._converged(CONVERGE_TIMEOUT_S)
        took_s = time.monotonic() - back
        if converged:
            self._view.say(f"phone is back: everyone holds the same rows after {took_s:.2f} s")
        else:
            self._view.say("the devices and Postgres still differ")
        kept = await self._contested_result()
        self._view.result(self._table(), self._verdict(converged, took_s, kept))
        return 0 if converged else 1

    async def stop(self) -> None:
        for device in self._started:
            await device.stop()

    async def _beat(self) -> None:
        number = 0
        while self._beating:
            number += 1
            for device in self._devices:
                if not device.online:
                    device.offline_beats.add(number)
            # Timed from before the commit: a device can see the row before the commit's answer is back here.
            self._committed_ns[number] = time.time_ns()
            await self._connection.execute(
                "INSERT INTO comments VALUES ($1, md5('issue 1')::uuid, 'postgres', $2)", uuid.uuid4(), f"beat {number}"
            )
            self._view.beat(number)
            await asyncio.sleep(BEAT_S)

    async def _offline_spell(self, phone: DemoDevice, laptop: DemoDevice) -> None:
        await phone.go(online=False)
        self._view.say(f"phone goes offline and goes on writing: {CONTESTED} issues, {CONTESTED} comments")
        for number in range(1, CONTESTED + 1):
            await phone.write(
                "UPDATE issues SET title = ?, priority = 9 WHERE title = ?",
                (f"Issue {number} (phone)", f"Issue {number}"),
            )
            await phone.write(
                "INSERT INTO comments SELECT ?, id, 'phone', 'written offline' FROM issues LIMIT 1",
                (str(uuid.uuid4()),),
            )
        await asyncio.sleep(OFFLINE_S / 2)
        self._view.say("meanwhile the laptop closes the same issues, and renames half of them later than the phone did")
        for number in range(1, CONTESTED + 1):
            title = f"Issue {number} (laptop)" if number % 2 else f"Issue {number}"
            await laptop.write(
                "UPDATE issues SET state = 'closed', title = ? WHERE title = ?", (title, f"Issue {number}")
            )
        await asyncio.sleep(OFFLINE_S / 2)

    async def _converged(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            wanted = {table: await self._rows(table) for table in TABLES}
            same = True
            for device in self._devices:
                for table in TABLES:
                    same = same and await device.dump(ON_DEVICE[table]) == wanted[table]
            if same:
                return True
            await asyncio.sleep(COMPARE_PAUSE_S)
        return False

    async def _rows(self, table: str) -> list[list[Any]]:
        return [list(row) for row in await self._connection.fetch(ON_POSTGRES[table])]

    async def _contested_result(self) -> tuple[int, int, int]:
        """Of the contested issues: closed by the laptop, named by the laptop, named by the phone."""
        row = await self._connection.fetchrow(
            "SELECT count(*) FILTER (WHERE state = 'closed' AND priority = 9), "
            "count(*) FILTER (WHERE title LIKE '%(laptop)'), count(*) FILTER (WHERE title LIKE '%(phone)') FROM issues"
        )
        return row[0], row[1], row[2]

    def _table(self) -> Table:
        table = Table(title="What was seen", title_justify="left")
        table.add_column("device")
        for heading in ("rows of the first sync", "rows seen live", "commit -> row, p50", "p99"):
            table.add_column(heading, justify="right")
        for device in self._devices:
            table.add_row(
                device.name,
                f"{device.rows:,} in {device.sync_s:.2f} s",
                f"{len(device.latencies_ms)}",
                f"{percentile(device.latencies_ms, 0.5):.1f} ms",
                f"{percentile(device.latencies_ms, 0.99):.1f} ms",
            )
        return table

    def _verdict(self, converged: bool, took_s: float, kept: Sequence[int]) -> list[str]:
        merged, laptop, phone = kept
        return [
            f"conflicts   {CONTESTED} issues were written by both while apart: in {merged} the laptop's state and the "
            f"phone's priority are kept, of the titles the later ones (laptop {laptop}, phone {phone})",
            f"converged   Postgres, phone and laptop hold the same rows, {took_s:.2f} s after the reconnect"
            if converged
            else "DIFFERENT   Postgres, phone and laptop do not hold the same rows",
        ]


def _token(user: str) -> str:
    """An unsigned token, which the embedded set-up believes."""

    def part(value: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part({'sub': user})}."
