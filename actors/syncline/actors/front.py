"""The service's front: the port that devices and operators see, and how it stands with Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from syncline.actors.config import Config
from syncline.actors.devices.edge import Edge
from syncline.actors.devices.gateway import welcome
from syncline.actors.devices.http import Api, PostgresState
from syncline.actors.faults import port_fault
from syncline.actors.names import GATEWAY, REPLICATOR
from syncline.actors.postgres.database import Database
from syncline.actors.postgres.dialect import History
from syncline.actors.postgres.replicator import ReadStreamState, StreamState
from syncline.actors.tree import Settings
from syncline.actors.vitals import Vitals
from syncline.cluster import ActorDown, CallTimeout
from syncline.cluster.host import LocalHost
from syncline.proto.codec import error_message
from syncline.proto.errors import ErrorCode

log = logging.getLogger(__name__)

STATE_INTERVAL_S = 1.0
DOWN_INTERVAL_S = 0.1  # devices wait for it
DRAIN_S = 10.0  # and a little for those who do not answer; whoever stops a service mostly gives it 30
STREAM_POLL_S = 0.02


class ServiceGaveUp(Exception):
    """The tree ended before the service was ready; the message says why."""


class Front:
    """Of ``host``, which knows the actors of the service by name. Made in a running event loop. ``counting``: the name
    of who knows all devices."""

    def __init__(self, config: Config, host: LocalHost, counting: str = GATEWAY) -> None:
        self._counting = counting
        self._config = config
        self._host = host
        self._database: Database | None = None
        self._vitals: Vitals | None = None
        self._state = PostgresState.STARTING
        self._watching: asyncio.Task[None] | None = None
        self._edge = Edge(
            on_open=lambda connection: welcome(host.ref(GATEWAY), connection),
            ready=lambda: self._state is PostgresState.UP and host.ref(GATEWAY).alive,
            soon=lambda: self._state is not PostgresState.STARTING,
            api=Api(lambda: self._state, self._history, self._read_vitals),
            refusal=lambda reason: error_message(ErrorCode.INVALID_REQUEST, reason),
        )

    async def listen(self, *, reuse_port: bool = False) -> int:
        """Takes the port, and returns it; whoever comes is told to wait. ``reuse_port``: see ``Edge``. Raises Fault."""
        hosts, port = self._config.http_hosts, self._config.http_port
        try:
            return await self._edge.listen(list(hosts), port, reuse_port=reuse_port)
        except OSError as error:
            raise port_fault(error, hosts, port) from error

    async def open(self, settings: Settings, database: Database) -> None:
        """The tree is there: returns when it streams, and devices may connect. Raises ServiceGaveUp."""
        self._database = database
        self._vitals = Vitals(
            self._host,
            database.pool,
            settings.slot,
            settings.shard_folders,
            self._counting,
            self._config.connection_hosts or None,
            alone=settings.shapes_dedicated,
        )
        await self._streaming()
        self._state = PostgresState.UP
        self._watching = asyncio.create_task(self._watch(), name="watch Postgres")

    async def close(self) -> None:
        """No new connections, the present ones closed in turns, and cut where that takes too long."""
        await self._edge.drain(DRAIN_S)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

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
            await asyncio.sleep(STATE_INTERVAL_S if self._state is PostgresState.UP else DOWN_INTERVAL_S)
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
