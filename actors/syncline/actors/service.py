"""The service in one process: Postgres made ready, the tree started, the port opened, and all of it ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable
from urllib.parse import urlsplit

from syncline.actors.config import Config
from syncline.actors.datadir import FolderInUse, FolderLock, open_data_dir
from syncline.actors.faults import folder_fault, in_folder
from syncline.actors.front import Front, ServiceGaveUp
from syncline.actors.postgres.database import Database, connect
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.preparing import prepare
from syncline.actors.tree import root
from syncline.cluster import Exit, StartFailed
from syncline.cluster.host import LocalHost

log = logging.getLogger(__name__)

# Python looks for cycles each time 700 more objects live. A stretch of the stream is tens of thousands of rows that
# hold none and are gone in a moment; walking them took a tenth to a quarter of the CPU time of replication.
GC_THRESHOLDS = (50_000, 20, 50)


class Service:
    """``start``, then ``port`` is listening and ready; ``stop`` drains. Raises Fault, FolderInUse, ServiceGaveUp, and
    what Postgres' preparation raises.

    Made in a running event loop. ``shards``: how many the shapes are spread over.
    """

    def __init__(self, config: Config, shards: int = 1) -> None:
        self._config = config
        self._shards = shards
        self._host = LocalHost("local")
        self._embedded: EmbeddedPostgres | None = None
        self._embedding: asyncio.Task[str] | None = None
        self._lock: FolderLock | None = None
        self._database: Database | None = None
        self._front = Front(config, self._host)
        self.port = 0
        self.dsn = ""

    async def start(self) -> None:
        """Returns when devices may connect."""
        self.port = await self._front.listen()
        with in_folder(self._config.data_dir):
            open_data_dir(self._config.data_dir)
            url = self._config.database_url
            self.dsn = url if url is not None else await self._start_embedded()
        identity, settings = await prepare(self._config, self.dsn, self._shards)
        with in_folder(self._config.data_dir):
            self._lock = FolderLock(settings.shapes_dir)
        self._database = await connect(self.dsn, "syncline")
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
        await self._front.close()
        await self._host.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self._database is not None:
            self._database.terminate()
        if self._embedding is not None:
            # A start that was cut short goes on in its thread: waited for, or it would leave a server behind.
            await asyncio.gather(self._embedding, return_exceptions=True)
        if self._embedded is not None:
            await asyncio.to_thread(self._embedded.stop)

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

    async def _start_embedded(self) -> str:
        self._embedded = await asyncio.to_thread(EmbeddedPostgres, self._config.embedded_dir)
        self._embedding = asyncio.create_task(asyncio.to_thread(self._embedded.start))
        dsn = await asyncio.shield(self._embedding)
        log.info("the embedded Postgres keeps its data and its log in %s", self._embedded.folder)
        return dsn


async def serve(config: Config, ready: Callable[[Service], None] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code: 0 when asked to end, 1 when the service gave up."""
    service = Service(config)
    _raise_open_files()
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
        gc.collect()
        gc.freeze()  # what the start has made stays to the end: no collection walks it again
        gc.set_threshold(*GC_THRESHOLDS)
        print(f"Syncline is ready on port {service.port}, syncing {display(service.dsn)}", flush=True)
        if ready is not None:
            ready(service)
        ending = asyncio.create_task(service.ended())
        await asyncio.wait({stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            log.error("the service gave up: %s", ending.result())
            return 1
        ending.cancel()
        return 0
    except (ServiceGaveUp, FolderInUse) as gave_up:
        log.error("the service gave up: %s", gave_up)
        return 1
    finally:
        stopping.cancel()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()


def _raise_open_files() -> None:
    """Every device is an open file, and the usual soft limit is 1,024: take what the hard limit allows."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def display(dsn: str) -> str:
    """The database of ``dsn`` without its password."""
    parts = urlsplit(dsn)
    return f"{parts.hostname or ''}:{parts.port or 5432}{parts.path}"
