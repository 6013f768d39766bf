"""The service in one process: Postgres made ready, the tree started, the port opened, and all of it ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from typing import Final, Protocol
from urllib.parse import urlsplit

from syncline.actors.config import Config
from syncline.actors.datadir import FolderInUse, FolderLock, open_data_dir
from syncline.actors.faults import folder_fault, in_folder
from syncline.actors.front import Front, ServiceGaveUp
from syncline.actors.postgres.database import Database, connect
from syncline.actors.postgres.ownership import Superseded, owner_of
from syncline.actors.preparing import PostgresSource, claimed, end_with, owning, prepare, settle_shapes
from syncline.actors.process import raise_open_files, settle_garbage
from syncline.actors.tree import Settings, root
from syncline.cluster import Exit, StartFailed
from syncline.cluster.host import LocalHost

log = logging.getLogger(__name__)

LOCAL: Final = "local"  # the one host of the service


class Service:
    """``start``, then ``port`` is listening and ready; ``stop`` drains. Raises Fault, FolderInUse, ServiceGaveUp,
    Superseded, and what Postgres' preparation raises.

    Made in a running event loop. ``shards``: how many the shapes are spread over.
    """

    def __init__(self, config: Config, shards: int = 1) -> None:
        self._config = config
        self._shards = shards
        self._host = LocalHost(LOCAL)
        self._postgres = PostgresSource(config)
        self._lock: FolderLock | None = None
        self._database: Database | None = None
        self._settings: Settings | None = None
        self._losing: asyncio.Task[None] | None = None
        self._front = Front(config, self._host)
        self.port = 0
        self.dsn = ""

    async def start(self) -> None:
        """Returns when devices may connect."""
        self.port = await self._front.listen()
        with in_folder(self._config.data_dir):
            open_data_dir(self._config.data_dir)
            self.dsn = await self._postgres.start()
        identity, settings = await prepare(self._config, self.dsn, self._shards)
        with in_folder(self._config.data_dir):
            self._lock = FolderLock(settings.shapes_dir)
        self._settings = settings = await owning(self._config, settings)
        owner = await claimed(settings, LOCAL)
        await settle_shapes(self._config, settings, owner)
        self._database = await connect(self.dsn, owner, settings.lineage)
        self._losing = asyncio.create_task(end_with(owner, self._database.pool, self._host))
        await self._database.read()
        await self._host.open()
        try:
            await self._host.start(root(settings, self._database, self._config.authenticator, self._host))
        except StartFailed as failed:
            raise self._why(failed) from failed
        await self._front.open(settings, self._database)
        log.info("server %s, schema version %d", settings.server_id, identity.schema_version)

    async def stop(self) -> None:
        """No new connections, the present ones closed, everything flushed, an embedded Postgres stopped."""
        if self._losing is not None:
            self._losing.cancel()
        await self._front.close()
        await self._host.close()
        alone = self._lock is not None
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._database is not None:
            self._database.terminate()
        if await self._taken_over():
            log.info("another service has taken over: an embedded Postgres goes on, which that one may use")
        else:
            await self._postgres.stop(spare_found=not alone)

    async def _taken_over(self) -> bool:
        """By another service, which works with our embedded Postgres."""
        settings = self._settings
        if settings is None or self._config.database_url is not None:
            return False
        return await owner_of(settings.dsn, settings.slot) not in (settings.epoch, None)

    async def ended(self) -> Exit:
        """Waits for the tree to give up: too many crashes, or Postgres in a state only an operator can mend."""
        return await asyncio.shield(self._host.ended)

    def _why(self, failed: StartFailed) -> Exception:
        """What a part of the tree met at its start, in the operator's words where it was the data folder."""
        cause: BaseException = failed
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.filename is not None:
            return folder_fault(cause, self._config.data_dir)
        return ServiceGaveUp(str(failed))


class Running(Protocol):
    """A service under some runtime, as whoever runs it sees it."""

    port: int
    dsn: str

    async def start(self) -> None:
        """Returns when devices may connect."""

    async def stop(self) -> None:
        """Ends what was started, in order."""

    async def ended(self) -> Exit:
        """Waits for it to give up."""


def service_of(config: Config) -> Running:
    """The service under the runtime that ``config`` names."""
    if config.runtime == "ray":
        from syncline.actors.ray_service import RayService  # it takes a second to import

        return RayService(config)
    return Service(config)


async def serve(config: Config, ready: Callable[[Running], None] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code: 0 when asked to end, 1 when the service gave up."""
    service = service_of(config)
    raise_open_files()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # no signals on Windows' loops
            loop.add_signal_handler(number, asked.set)
    stopping = asyncio.create_task(asked.wait())
    starting = asyncio.create_task(service.start())
    try:
        await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 0
        await starting
        settle_garbage()
        print(f"Syncline is ready on port {service.port}, syncing {display(service.dsn)}", flush=True)
        if ready is not None:
            ready(service)
        ending = asyncio.create_task(service.ended())
        await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
            return 0
        if ending.result().abnormal:
            log.error("the service gave up: %s", ending.result())
            return 1
        log.info("the service has ended: %s", ending.result())
        return 0
    except (ServiceGaveUp, FolderInUse, Superseded) as gave_up:
        log.error("the service gave up: %s", gave_up)
        return 1
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()


def display(dsn: str) -> str:
    """The database of ``dsn`` without its password."""
    parts = urlsplit(dsn)
    return f"{parts.hostname or ''}:{parts.port or 5432}{parts.path}"
