"""What has to be true before the tree can start: Postgres there and set up for us, the slot, the folder for shapes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

import asyncpg

from syncline.actors.config import Config
from syncline.actors.datadir import lock_left, new_lineage, shapes_folder
from syncline.actors.faults import database_fault, in_folder
from syncline.actors.postgres.away import AWAY
from syncline.actors.postgres.bootstrap import ServerIdentity, bootstrap
from syncline.actors.postgres.embedded import EmbeddedPostgres
from syncline.actors.postgres.homes import write_homes
from syncline.actors.postgres.ownership import Ownership, claim, take_over
from syncline.actors.postgres.session import connect
from syncline.actors.postgres.slot import check_server, ensure_publication, ensure_slot, slot_name, slot_state
from syncline.actors.postgres.turns import alone
from syncline.actors.shapes.settling import settle
from syncline.actors.tree import PUBLICATION, Settings
from syncline.cluster import Exit, ExitKind
from syncline.cluster.host import LocalHost

log = logging.getLogger(__name__)

CONNECT_RETRY_S: Final = 1.0
SLOT_POLL_S: Final = 0.2
BRING_UP: Final = "bring-up"  # what a command is called among the hosts that it starts


class PostgresSource:
    """The Postgres to sync: the operator's, or an embedded one that lives as long as we do."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._embedded: EmbeddedPostgres | None = None
        self._embedding: asyncio.Task[str] | None = None

    async def start(self) -> str:
        """Where it is. Raises EmbeddedPostgresError."""
        if self._config.database_url is not None:
            return self._config.database_url
        self._embedded = await asyncio.to_thread(EmbeddedPostgres, self._config.embedded_dir)
        self._embedding = asyncio.create_task(asyncio.to_thread(self._embedded.start))
        dsn = await asyncio.shield(self._embedding)
        log.info("the embedded Postgres keeps its data and its log in %s", self._embedded.folder)
        return dsn

    async def stop(self, *, spare_found: bool = False) -> None:
        """Ends an embedded one, unless it has been followed by another; ``spare_found``: or was running before, as
        others may use it."""
        if self._embedding is not None:
            # A start that was cut short goes on in its thread: waited for, or it would leave a server behind.
            await asyncio.gather(self._embedding, return_exceptions=True)
        if self._embedded is not None and not (spare_found and self._embedded.found):
            await asyncio.to_thread(_stop_this, self._embedded)


def _stop_this(server: EmbeddedPostgres) -> None:
    """Not one that somebody has started since, at a port of its own."""
    if server.port == server.running_port():
        server.stop()


async def prepare(config: Config, dsn: str, shards: int = 1) -> tuple[ServerIdentity, Settings]:
    """Makes ready the database at ``dsn``, the slot and the folder for shapes, to be spread over ``shards`` of them.

    Another service may be at work there: what is its own stays as it is. Waits as long as Postgres may yet come up.
    Raises Fault, PreconditionError, and what bootstrap raises.
    """
    connection = await first_connection(dsn)
    try:
        await check_server(connection)
        identity = await bootstrap(connection)
        await ensure_publication(connection, PUBLICATION)
        database = await connection.fetchval("SELECT current_database()")
        name = slot_name(database)
        async with alone(connection):
            if await slot_state(connection, name) is None:
                await new_lineage(connection)
            slot = await ensure_slot(connection, name)
        with in_folder(config.data_dir):
            shapes_dir = await shapes_folder(connection, config.data_dir, identity.server_id)
    finally:
        await connection.close()
    settings = Settings(
        dsn=dsn,
        slot=slot.name,
        start_lsn=int(slot.done),
        shapes_dir=shapes_dir,
        server_id=config.instance_id or identity.server_id,
        shards=shards,
        shapes_dedicated=config.shapes_placement == "dedicated",
        policy=config.policy,
        clock_skew_max_ms=config.clock_skew_max_ms,
    )
    return identity, settings


async def owning(config: Config, settings: Settings) -> Settings:
    """Makes this service the owner of the slot: ``settings`` with its epoch, and with where the slot stands now.

    Waits as long as another one reads the slot, unless it is to be taken over at once. Raises Fault, PreconditionError,
    and what asyncpg raises.
    """
    connection = await first_connection(settings.dsn)
    try:
        if not config.take_over:
            await _unread(connection, settings.slot)
        epoch = await take_over(connection, settings.slot)
        # Whoever had it until now may have moved it on, past what is in our folder.
        slot = await ensure_slot(connection, settings.slot)
        return replace(settings, epoch=epoch, start_lsn=int(slot.done))
    finally:
        await connection.close()


async def settle_shapes(config: Config, settings: Settings, owner: Ownership) -> None:
    """The files of shapes go to the shards there are now, and Postgres is told which has which.

    This process is ``owner``, and has the folder to itself. Raises Superseded, Fault, and what asyncpg raises.
    """
    with in_folder(config.data_dir):
        homes = settle(settings.shapes_dir, settings.shard_folders, alone=settings.shapes_dedicated)
    if settings.shapes_dedicated:
        await write_homes(settings.dsn, homes, owner)


async def settle_for_hosts(config: Config, settings: Settings) -> None:
    """The same for a tree whose hosts are yet to come: each has the folder of its own shard then.

    Waits for processes that are about to leave the folder. Raises FolderInUse when they do not, Superseded, Fault, and
    what asyncpg raises.
    """
    owner = await claimed(settings, BRING_UP)
    with in_folder(config.data_dir):
        lock = await lock_left(settings.shapes_dir)
    try:
        await settle_shapes(config, settings, owner)
    finally:
        lock.release()


async def claimed(settings: Settings, host: str, connection: asyncpg.Connection | None = None) -> Ownership:
    """This process is ``host`` of the service. ``connection``: one that is there already, which ends with this.

    Raises Superseded, Fault, and what asyncpg raises.
    """
    if connection is None or connection.is_closed():
        connection = await first_connection(settings.dsn)
    try:
        return await claim(connection, settings.slot, settings.epoch, host)
    finally:
        connection.terminate()


async def end_with(owner: Ownership, pool: asyncpg.Pool, host: LocalHost) -> None:
    """``host`` gives up when the claim of ``owner`` is over."""
    host.give_up(Exit(ExitKind.KILLED, await owner.lost(pool)))


async def _unread(connection: asyncpg.Connection, slot: str) -> None:
    """Returns when nobody reads ``slot``. One who is frozen or cut off is given up by Postgres within seconds."""
    said = False
    while (state := await slot_state(connection, slot)) is not None and state.active:
        if not said:
            said = True
            log.warning(
                "not ready yet: another Syncline serves this database (process %s of Postgres reads slot %s); this one "
                "takes over when that one ends, or at once with SYNCLINE_TAKE_OVER=true",
                state.active_pid,
                slot,
            )
        await asyncio.sleep(SLOT_POLL_S)


async def first_connection(dsn: str) -> asyncpg.Connection:
    """The first connection. Waits as long as Postgres may yet come up. Raises Fault."""
    said = ""
    while True:
        try:
            return await connect(dsn, {"application_name": "syncline"})
        except AWAY as error:
            fault = database_fault(error, dsn)
            if not fault.passing:
                raise fault from error
            if str(fault) != said:
                said = str(fault)
                log.warning("%s; tried again every %.0f s", said, CONNECT_RETRY_S)
            await asyncio.sleep(CONNECT_RETRY_S)
