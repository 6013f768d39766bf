"""One database as the actors see it: the catalogue, and what is kept in schema ``electric`` about devices."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import asyncpg

from syncline.actors.postgres.catalog import Catalog, TableGone, TableInfo, load_catalog
from syncline.actors.postgres.currentrows import Reading, read_current_rows
from syncline.actors.postgres.gathering import Gathering
from syncline.actors.postgres.history import MigrationSteps, SchemaHistory
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.ownership import Ownership
from syncline.actors.postgres.session import open_pool
from syncline.actors.postgres.snapshot import Visibility, visibility_of
from syncline.actors.postgres.streamed import MigrationNotice
from syncline.actors.postgres.subscription import Subscription, described, request_of, requests_of
from syncline.actors.postgres.typemap import SESSION_SETTINGS
from syncline.proto.forks import Opening, Parted, joined
from syncline.proto.values import Key, ShapeRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

POOL_CONNECTIONS_MAX = 8
SNAPSHOT_CONNECTIONS_MAX = 4  # one is held while a table is read, and the marks need one now and then
QUERY_TIMEOUT_S = 30.0  # ten times what a device waits for an answer; a dead link is found sooner, see ``session``
CANCELLED_MAX = 1_000  # of a device's subscriptions
SEEN_EVERY = timedelta(hours=1)  # how exact last_seen is
OPENINGS_KEPT = 1_000  # of each device
OPENINGS_LOCK = 0x6F70656E  # seed of advisory lock keys: "open" in ASCII
CLAIM_WAITS_MS = 100  # for another claim of the same client id, which takes a commit
VISIBLE_PAUSE_S = 0.01
VISIBLE_WITHIN_S = 60.0  # only a wait for a synchronous standby takes nearly as long


_NOTE_STALE = """
UPDATE electric.tables SET stale = coalesce(stale, clock_timestamp()) WHERE relid = ANY ($1::int8[]::oid[])
"""
_FORGET = "DELETE FROM electric.subscriptions WHERE client_id = $1"
# Of the openings of a device's file the newest stays, by which copies of it are told apart.
_FORGET_UNSEEN = """
WITH unseen AS MATERIALIZED (
    SELECT client_id, lsn FROM electric.clients c WHERE last_seen < now() - $1::interval AND (
        lsn = 0 OR EXISTS (SELECT FROM electric.positions p WHERE p.client_id = c.client_id)
        OR EXISTS (SELECT FROM electric.subscriptions s WHERE s.client_id = c.client_id))
    FOR UPDATE SKIP LOCKED
), unsubscribed AS (
    DELETE FROM electric.subscriptions s USING unseen u WHERE s.client_id = u.client_id RETURNING s.client_id
), unplaced AS (
    DELETE FROM electric.positions p USING unseen u WHERE p.client_id = u.client_id RETURNING p.client_id
), unopened AS (
    DELETE FROM electric.openings o USING unseen u WHERE o.client_id = u.client_id AND (u.lsn = 0 OR EXISTS (
        SELECT FROM electric.openings newer WHERE newer.client_id = o.client_id AND newer.place > o.place))
), unreserved AS (
    DELETE FROM electric.blocks b USING unseen u WHERE b.client_id = u.client_id
), unknown AS (
    DELETE FROM electric.clients c USING unseen u WHERE c.client_id = u.client_id AND u.lsn = 0 RETURNING c.client_id
)
SELECT count(*) FROM (SELECT * FROM unsubscribed UNION SELECT * FROM unplaced UNION SELECT * FROM unknown) AS forgotten
"""
_NOTE = (
    "INSERT INTO electric.positions AS p (client_id, lineage) VALUES ($1, $2) "
    "ON CONFLICT (client_id) DO UPDATE SET lineage = excluded.lineage WHERE p.lineage <> excluded.lineage"
)


class Database:
    """A pool, and the newest reading of catalogue and history. All methods raise what asyncpg raises.

    ``snapshot_pool``: another one, for those who hold a connection long and need a second one meanwhile. ``owner``: for
    whom all sessions are, where that can end. ``lineage``: the history that is followed here, see ``datadir``.
    """

    def __init__(
        self, pool: asyncpg.Pool, snapshot_pool: asyncpg.Pool, owner: Ownership | None = None, lineage: str = ""
    ) -> None:
        self.pool = pool
        self.snapshot_pool = snapshot_pool
        self.owner = owner
        self._lineage = lineage
        self.catalog = Catalog()
        self.history = SchemaHistory()
        self._catalogued = 0  # the newest migration that was there before the catalogue was read
        self._forbidden: dict[int, str] = {}  # tables that could not be read, and what Postgres said of each
        self._readings = Gathering(self._read)
        self._owners = Gathering(self._read_owners)
        self._sightings = Gathering(self._note_seen)
        self._subscribed = Gathering(self._read_subscriptions)
        self._opened = Gathering(self._read_opened)
        self._lineages = Gathering(self._read_lineages)
        self._positions = Gathering(self._read_positions)

    async def read(self) -> None:
        """Read catalogue and history anew: all who ask meanwhile are content with one reading."""
        await self._readings.answer(None)

    async def _read(self, asked: Sequence[None]) -> dict[None, None]:
        await self.history.read(self.pool)
        newest = self.history.newest
        self.catalog = await load_catalog(self.pool)
        self._catalogued = newest
        return dict.fromkeys(asked)

    async def note_stale(self, relation_ids: Collection[int]) -> None:
        """These tables have rows that the stream does not tell of: shapes of theirs are to be read anew."""
        await self.pool.execute(_NOTE_STALE, list(relation_ids))

    async def read_migrations(self, notices: Sequence[MigrationNotice]) -> Sequence[MigrationSteps]:
        """Read until the noticed migrations are there: the stream may run a little ahead of what is visible. Nothing is
        read where they have been already, as when many come one after the other.

        One that does not turn up has been deleted since, and is left out: the stream must go on.
        """
        wanted = {notice.id for notice in notices}
        tries = 0
        while True:
            if max(wanted, default=0) > self._catalogued or not wanted:
                await self.read()
            found = [migration for migration in self.history.migrations if migration.id in wanted]
            if len(found) == len(wanted):
                return found
            if tries * VISIBLE_PAUSE_S >= VISIBLE_WITHIN_S:
                missing = wanted - {migration.id for migration in found}
                log.error("migrations %s are not in electric.migrations: devices do without", sorted(missing))
                return found
            tries += 1
            await asyncio.sleep(VISIBLE_PAUSE_S)

    def terminate(self) -> None:
        """Drop every connection."""
        self.pool.terminate()
        self.snapshot_pool.terminate()

    def table(self, name: str) -> TableInfo | None:
        """The synced table of that name on devices."""
        return self.catalog.named(name)

    async def tables(self, ids: Iterable[int]) -> dict[int, TableInfo]:
        """The synced tables with these relation ids; one may have been opened a moment ago. Raises TableGone, too."""
        wanted = tuple(ids)
        if not self.catalog.tables.keys() >= set(wanted):
            await self.read()
        known = self.catalog.tables
        gone = [id for id in wanted if id not in known]
        if gone:
            raise TableGone(f"of the tables {wanted} there is none with the oid {gone[0]}")
        return {id: known[id] for id in wanted}

    async def reading(self, ids: Iterable[int], read: Callable[[Mapping[int, TableInfo]], Awaitable[T]]) -> T:
        """What ``read`` reads of the ``tables`` with these relation ids, by what they and their columns are called.
        They may have been altered since the catalogue was read, and Postgres says so: then it is read anew, and
        ``read`` is tried once more. Raises TableGone, and what ``read`` raises."""
        wanted = tuple(ids)
        try:
            return await read(await self.tables(wanted))
        except asyncpg.SyntaxOrAccessError:
            await self.read()
            return await read(await self.tables(wanted))

    async def wal_position(self) -> Lsn:
        """How far the WAL is flushed: no device can have seen more."""
        return await self._positions.answer(None)

    async def _read_positions(self, askers: Sequence[None]) -> dict[None, Lsn]:
        position = Lsn.parse(await self.pool.fetchval("SELECT pg_current_wal_flush_lsn()::text"))
        return dict.fromkeys(askers, position)

    # --- devices ------------------------------------------------------------------------------------------------------

    async def device_seen(self, client_id: str, user_id: str, *, proven: bool) -> bool:
        """The device comes with a token of ``user_id``. False: it is another user's, and this one ``proven``.

        A device's row is locked for as long as its transactions are applied, a large one for a minute, and anybody may
        come with its id meanwhile. So who it is is read, which waits for nobody, and only a claim waits, and not long.
        Raises LockNotAvailableError where nobody can say yet whose it is.
        """
        owner, long_ago = await self._owners.answer(client_id)
        if owner is None:
            return await self._claim(client_id, user_id, proven=proven)
        if owner != user_id and proven:
            return False
        if owner != user_id or long_ago:
            await self._sightings.answer((client_id, user_id, proven))
        return True

    async def _read_owners(self, client_ids: Sequence[str]) -> dict[str, tuple[str | None, bool]]:
        """Whose each is, None for nobody's, and whether that one was last seen long ago."""
        rows = await self.pool.fetch(
            "SELECT client_id, user_id, last_seen < now() - $2::interval AS long_ago FROM electric.clients "
            "WHERE client_id = ANY ($1::text[])",
            client_ids,
            SEEN_EVERY,
        )
        nobodys: dict[str, tuple[str | None, bool]] = dict.fromkeys(client_ids, (None, False))
        return nobodys | {row["client_id"]: (row["user_id"], bool(row["long_ago"])) for row in rows}

    async def _note_seen(self, seen: Sequence[tuple[str, str, bool]]) -> dict[tuple[str, str, bool], None]:
        """Each (client id, user, proven). Rows that are locked are skipped: their devices are being written for, and
        will come again."""
        await self.pool.execute(
            "WITH free AS MATERIALIZED ("
            "SELECT client_id FROM electric.clients WHERE client_id = ANY ($1::text[]) FOR UPDATE SKIP LOCKED) "
            "UPDATE electric.clients c SET user_id = s.user_id, last_seen = now() "
            "FROM unnest($1::text[], $2::text[], $3::bool[]) AS s (client_id, user_id, proven), free "
            "WHERE c.client_id = free.client_id AND s.client_id = free.client_id "
            "AND (c.user_id = s.user_id OR NOT s.proven)",
            *map(list, zip(*seen, strict=True)),
        )
        return dict.fromkeys(seen)

    async def _claim(self, client_id: str, user_id: str, *, proven: bool) -> bool:
        """Of those who come at once with an id that is nobody's, one gets it."""
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {CLAIM_WAITS_MS}")
                return bool(
                    await connection.fetchval(
                        "INSERT INTO electric.clients AS c (client_id, user_id, last_seen) VALUES ($1, $2, now()) "
                        "ON CONFLICT (client_id) DO UPDATE SET user_id = excluded.user_id, last_seen = now() "
                        "WHERE c.user_id IS NULL OR c.user_id = excluded.user_id OR NOT $3 RETURNING true",
                        client_id,
                        user_id,
                        proven,
                    )
                )
        except asyncpg.LockNotAvailableError:
            if proven:
                raise
            return True

    async def owner_of(self, client_id: str) -> str | None:
        """Whose it is; None for nobody's."""
        owner, _ = await self._owners.answer(client_id)
        return owner

    async def open_file(self, client_id: str, openings: Sequence[Opening]) -> Parted | None:
        """A device comes whose file has seen ``openings``, at least one: they are noted down. Or it is not the file
        that is known under this client id. A device that comes again is recognised without writing anything."""
        if await self._opened.answer(client_id) == openings[-1].id:
            return None
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, $2))", client_id, OPENINGS_LOCK)
            rows = await connection.fetch(
                "SELECT opening_id, first FROM electric.openings WHERE client_id = $1 AND place >= coalesce(("
                "SELECT max(place) FROM electric.openings WHERE client_id = $1 AND opening_id = ANY ($2::text[])), 0) "
                "ORDER BY place",
                client_id,
                [opening.id for opening in openings],
            )
            known = [Opening(row["opening_id"], row["first"]) for row in rows]
            decided = await connection.fetchval("SELECT lsn FROM electric.clients WHERE client_id = $1", client_id)
            new = joined(known, decided or 0, openings)
            if new is None:
                return Parted(tuple(known[:2]))
            await connection.executemany(
                "INSERT INTO electric.openings (client_id, opening_id, first) VALUES ($1, $2, $3)",
                [(client_id, opening.id, opening.first) for opening in new],
            )
            await connection.execute(
                "DELETE FROM electric.openings WHERE client_id = $1 AND place <= (SELECT place FROM electric.openings "
                "WHERE client_id = $1 ORDER BY place DESC OFFSET $2 LIMIT 1)",
                client_id,
                OPENINGS_KEPT,
            )
        return None

    async def _read_opened(self, client_ids: Sequence[str]) -> dict[str, str | None]:
        """The newest opening of each."""
        rows = await self.pool.fetch(
            "SELECT c.client_id, o.opening_id FROM unnest($1::text[]) AS c (client_id) CROSS JOIN LATERAL ("
            "SELECT opening_id FROM electric.openings o WHERE o.client_id = c.client_id ORDER BY place DESC LIMIT 1) o",
            client_ids,
        )
        nothing: dict[str, str | None] = dict.fromkeys(client_ids)
        return nothing | {row["client_id"]: row["opening_id"] for row in rows}

    async def subscriptions(self, client_id: str) -> dict[str, Subscription]:
        """By id."""
        return await self._subscribed.answer(client_id)

    async def _read_subscriptions(self, client_ids: Sequence[str]) -> dict[str, dict[str, Subscription]]:
        rows = await self.pool.fetch(
            "SELECT client_id, subscription_id, shapes::text AS shapes, state FROM electric.subscriptions "
            "WHERE client_id = ANY ($1::text[])",
            client_ids,
        )
        found: dict[str, dict[str, Subscription]] = {client_id: {} for client_id in client_ids}
        for row in rows:
            id = row["subscription_id"]
            found[row["client_id"]][id] = Subscription(id, requests_of(row["shapes"]), row["state"] == "cancelled")
        return found

    async def add_subscription(self, client_id: str, subscription_id: str, shapes: Iterable[ShapeRequest]) -> None:
        await self.pool.execute(
            "INSERT INTO electric.subscriptions (client_id, subscription_id, shapes) VALUES ($1, $2, $3::jsonb) "
            "ON CONFLICT (client_id, subscription_id) DO UPDATE SET shapes = excluded.shapes, state = 'active'",
            client_id,
            subscription_id,
            json.dumps([described(shape) for shape in shapes]),
        )

    async def cancel_subscriptions(self, client_id: str, ids: Iterable[str]) -> None:
        """Of all that the device has cancelled, the newest are remembered."""
        async with self.pool.acquire() as connection:
            await connection.execute(
                "UPDATE electric.subscriptions SET state = 'cancelled' "
                "WHERE client_id = $1 AND subscription_id = ANY ($2::text[])",
                client_id,
                list(ids),
            )
            await connection.execute(
                "DELETE FROM electric.subscriptions WHERE client_id = $1 AND state = 'cancelled' AND created_at < ("
                "SELECT created_at FROM electric.subscriptions WHERE client_id = $1 AND state = 'cancelled' "
                "ORDER BY created_at DESC OFFSET $2 LIMIT 1)",
                client_id,
                CANCELLED_MAX - 1,
            )

    async def requests(self) -> list[tuple[str, ShapeRequest]]:
        """What all devices together are subscribed to, or were and may have rows of: each request once, with text."""
        rows = await self.pool.fetch(
            'SELECT DISTINCT (request || \'{"request_id": ""}\')::text AS request '
            "FROM electric.subscriptions, jsonb_array_elements(shapes) request"
        )
        return [(row["request"], request_of(json.loads(row["request"]))) for row in rows]

    async def seen(self, client_ids: Sequence[str]) -> None:
        """These devices are connected."""
        await self.pool.execute(
            "UPDATE electric.clients SET last_seen = now() "
            "WHERE client_id = ANY ($1::text[]) AND last_seen < now() - $2::interval",
            list(client_ids),
            SEEN_EVERY,
        )

    async def forget_unseen(self, kept_s: float) -> int:
        """Of devices that were not seen for that long it is not known any more what they hold: how many of them it was
        known of. What they send is taken as before, for how far their writes are decided stays: else one that comes
        again would be carried out again. A device of which none ever was is not known at all any more. The values of
        sequences that it has reserved are nobody else's: it may have used them."""
        return int(await self.pool.fetchval(_FORGET_UNSEEN, timedelta(seconds=kept_s)))

    async def forget_others(self, client_id: str, held: Iterable[str]) -> None:
        """The device has resumed with the subscriptions ``held``: of others it has no rows, nor will it come to any."""
        await self.pool.execute(
            "DELETE FROM electric.subscriptions WHERE client_id = $1 AND subscription_id <> ALL ($2::text[])",
            client_id,
            list(held),
        )

    async def forget_subscriptions(self, client_id: str) -> None:
        """The device has to start over."""
        await self.pool.execute(_FORGET, client_id)

    async def of_this_history(self, client_id: str) -> bool:
        """Whether what the device holds is: else its position means nothing here."""
        return await self._lineages.answer(client_id) == self._lineage

    async def _read_lineages(self, client_ids: Sequence[str]) -> dict[str, str | None]:
        rows = await self.pool.fetch(
            "SELECT client_id, lineage FROM electric.positions WHERE client_id = ANY ($1::text[])", client_ids
        )
        nobodys: dict[str, str | None] = dict.fromkeys(client_ids)
        return nobodys | {row["client_id"]: row["lineage"] for row in rows}

    async def begin_history(self, client_id: str) -> None:
        """The device has nothing, and no subscriptions: whatever it gets from now on is of this history."""
        await self.pool.execute(f"WITH forgotten AS ({_FORGET}) {_NOTE}", client_id, self._lineage)

    async def join_history(self, client_id: str) -> None:
        """What the device holds is of this history by now."""
        await self.pool.execute(_NOTE, client_id, self._lineage)

    # --- rows ---------------------------------------------------------------------------------------------------------

    async def visibility(self) -> Visibility:
        """What a snapshot taken now sees."""
        return await visibility_of(self.pool)

    async def current_rows(self, keys: Iterable[tuple[int, Key]]) -> Reading:
        """See ``read_current_rows``. A table may have been altered since the catalogue was read. One that our role may
        not read by its newest name is left out: waiting for the right would keep back what a device has written to
        other tables."""
        wanted = tuple(keys)
        try:
            return await read_current_rows(self.pool, self.catalog.tables, wanted)
        except (asyncpg.SyntaxOrAccessError, asyncpg.InvalidSchemaNameError):
            await self.read()
            return await read_current_rows(self.pool, self.catalog.tables, wanted, self._forbid)

    def _forbid(self, table: TableInfo, error: asyncpg.InsufficientPrivilegeError) -> None:
        """Goes to the log, once until Postgres says something else of the table."""
        if self._forbidden.get(table.oid) != str(error):
            self._forbidden[table.oid] = str(error)
            log.error(
                "what is refused of writes to %s is not undone on devices, for our role may not read it "
                "(USAGE on its schema, SELECT on the table): %s",
                table.sql_name,
                error,
            )


async def connect(dsn: str, session: Ownership | str, lineage: str = "") -> Database:
    """The database at ``dsn``, nothing read yet. ``session``: for whom its sessions are, or what they are called.
    ``lineage``: see ``Database``."""
    pool = await connect_pool(dsn, session, timeout_s=QUERY_TIMEOUT_S)
    snapshot_pool = await connect_pool(dsn, session, SNAPSHOT_CONNECTIONS_MAX)
    return Database(pool, snapshot_pool, session if isinstance(session, Ownership) else None, lineage)


async def connect_pool(
    dsn: str, session: Ownership | str, connections_max: int = POOL_CONNECTIONS_MAX, timeout_s: float | None = None
) -> asyncpg.Pool:
    """A pool whose sessions print values as the stream does. ``timeout_s``: for each query, then TimeoutError."""
    owner = session if isinstance(session, Ownership) else None
    name = session if isinstance(session, str) else session.application_name()
    return await open_pool(
        dsn,
        {**SESSION_SETTINGS, "application_name": name},
        connections_max,
        timeout_s,
        None if owner is None else owner.admit,
    )
