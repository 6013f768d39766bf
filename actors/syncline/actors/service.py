"""The service in one process: Postgres made ready, the tree started, the port opened, and all of it ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import asyncpg

from syncline.actors.config import Config
from syncline.actors.datadir import FolderInUse, FolderLock, new_lineage, open_data_dir, shapes_folder
from syncline.actors.devices.edge import Edge
from syncline.actors.devices.gateway import welcome
from syncline.actors.devices.http import Api, PostgresState
from syncline.actors.faults import database_fault, folder_fault, in_folder, port_fault
from syncline.actors.names import GATEWAY, REPLICATOR
from syncline.actors.postgres.bootstrap import ServerIdentity, bootstrap
from syncline.actors.postgres.database import Database, connect
from syncline.actors.postgres.dialect import History
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.replicator import ReadStreamState, StreamState
from syncline.actors.postgres.slot import check_server, ensure_publication, ensure_slot, slot_name, slot_state
from syncline.actors.tree import PUBLICATION, Settings, root
from syncline.actors.vitals import Vitals
from syncline.cluster import ActorDown, CallTimeout, Exit, StartFailed
from syncline.cluster.host import LocalHost
from syncline.proto.codec import error_message
from syncline.proto.errors import ErrorCode

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
CONNECT_RETRY_S = 1.0
STATE_INTERVAL_S = 1.0
DRAIN_S = 5.0
STREAM_POLL_S = 0.02
# Python looks for cycles each time 700 more objects live. A stretch of the stream is tens of thousands of rows that
# hold none and are gone in a moment; walking them took a tenth to a quarter of the CPU time of replication.
GC_THRESHOLDS = (50_000, 20, 50)


class ServiceGaveUp(Exception):
    """The tree ended before the service was ready; the message says why."""


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
        self._vitals: Vitals | None = None
        self._state = PostgresState.STARTING
        self._watching: asyncio.Task[None] | None = None
        self._edge = Edge(
            on_open=lambda connection: welcome(self._host.ref(GATEWAY), connection),
            ready=lambda: self._state is PostgresState.UP,
            api=Api(lambda: self._state, self._history, self._read_vitals),
            refusal=lambda reason: error_message(ErrorCode.INVALID_REQUEST, reason),
        )
        self.port = 0
        self.dsn = ""

    async def start(self) -> None:
        """Returns when devices may connect."""
        hosts, port = self._config.http_hosts, self._config.http_port
        try:
            self.port = await self._edge.listen(list(hosts), port)
        except OSError as error:
            raise port_fault(error, hosts, port) from error
        with in_folder(self._config.data_dir):
            open_data_dir(self._config.data_dir)
            url = self._config.database_url
            self.dsn = url if url is not None else await self._start_embedded()
        identity, settings = await self._prepare()
        with in_folder(self._config.data_dir):
            self._lock = FolderLock(settings.shapes_dir)
        self._database = await connect(self.dsn, "syncline")
        await self._database.read()
        await self._host.open()
        try:
            await self._host.start(root(settings, self._database, self._config.authenticator, self._host))
        except StartFailed as failed:
            raise self._why(failed) from failed
        self._vitals = Vitals(self._host, self._database.pool, settings.slot, settings.shard_folders)
        await self._streaming()
        self._state = PostgresState.UP
        self._watching = asyncio.create_task(self._watch(), name="watch Postgres")
        log.info("server %s, schema version %d", settings.server_id, identity.schema_version)

    async def stop(self) -> None:
        """No new connections, the present ones closed, everything flushed, an embedded Postgres stopped."""
        self._edge.stop_listening()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._edge.close()
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

    async def _prepare(self) -> tuple[ServerIdentity, Settings]:
        connection = await self._connection()
        try:
            await check_server(connection)
            identity = await bootstrap(connection)
            await ensure_publication(connection, PUBLICATION)
            database = await connection.fetchval("SELECT current_database()")
            name = slot_name(database)
            if await slot_state(connection, name) is None:
                await new_lineage(connection)
            slot = await ensure_slot(connection, name)
            with in_folder(self._config.data_dir):
                shapes_dir = await shapes_folder(connection, self._config.data_dir, identity.server_id)
        finally:
            await connection.close()
        settings = Settings(
            dsn=self.dsn,
            slot=slot.name,
            start_lsn=int(slot.done),
            shapes_dir=shapes_dir,
            server_id=self._config.instance_id or identity.server_id,
            shards=self._shards,
        )
        return identity, settings

    async def _connection(self) -> asyncpg.Connection:
        """The first connection. Waits as long as Postgres may yet come up. Raises Fault."""
        said = ""
        while True:
            try:
                return await asyncpg.connect(
                    self.dsn, timeout=CONNECT_TIMEOUT_S, server_settings={"application_name": "syncline"}
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                fault = database_fault(error, self.dsn)
                if not fault.passing:
                    raise fault from error
                if str(fault) != said:
                    said = str(fault)
                    log.warning("%s; tried again every %.0f s", said, CONNECT_RETRY_S)
                await asyncio.sleep(CONNECT_RETRY_S)

    async def _streaming(self) -> None:
        """Waits for the replication stream: until then another service may hold the slot, and nothing would be live."""
        said = ""
        while True:
            with contextlib.suppress(ActorDown, CallTimeout):
                stream = await self._host.ref(REPLICATOR).call(ReadStreamState())
                assert isinstance(stream, StreamState)
                if stream.connected:
                    return
                if stream.error and stream.error != said:
                    said = stream.error
                    log.warning("not ready yet: %s", said)
            if self._host.ended.done():
                raise ServiceGaveUp(str(self._host.ended.result()))
            await asyncio.sleep(STREAM_POLL_S)

    async def _watch(self) -> None:
        """What ``/api/status`` answers follows the replication stream."""
        while True:
            await asyncio.sleep(STATE_INTERVAL_S)
            with contextlib.suppress(ActorDown, CallTimeout):
                stream = await self._host.ref(REPLICATOR).call(ReadStreamState())
                assert isinstance(stream, StreamState)
                self._state = PostgresState.UP if stream.connected else PostgresState.DOWN

    async def _read_vitals(self) -> Mapping[str, object]:
        return {} if self._vitals is None else await self._vitals.read()

    async def _history(self) -> History:
        assert self._database is not None, "the port answers 503 until there is a database"
        await self._database.read()  # a table opened a moment ago may not have passed the stream yet
        return self._database.history.as_history()


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
