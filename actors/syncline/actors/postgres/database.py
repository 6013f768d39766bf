"""One database as the actors see it: the catalogue, and what is kept in schema ``electric`` about devices."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from syncline.actors.postgres.catalog import Catalog, TableInfo, load_catalog
from syncline.actors.postgres.gathering import Gathering
from syncline.actors.postgres.history import MigrationSteps, SchemaHistory
from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.ownership import Ownership
from syncline.actors.postgres.rowkey import cell_sql, key_sql, quote_identifier
from syncline.actors.postgres.snapshot import ROW_TAGS_SQL, Visibility
from syncline.actors.postgres.transaction import UNTRACKED_TAGS, MigrationNotice
from syncline.actors.postgres.typemap import SESSION_SETTINGS, from_wire, to_wire
from syncline.proto.forks import Opening, Parted, joined
from syncline.proto.values import Key, Row, ShapeRequest

log = logging.getLogger(__name__)

POOL_CONNECTIONS_MAX = 8
SNAPSHOT_CONNECTIONS_MAX = 4  # one is held while a table is read, and the marks need one now and then
QUERY_TIMEOUT_S = 30.0  # ten times what a device waits for an answer; then the connection is taken for dead
CANCELLED_MAX = 1_000  # of a device's subscriptions
KEYS_AT_ONCE = 1_000  # rows asked for in one query
READING_BYTES_MAX = 8 << 20  # of rows read one by one; the last may be beyond it
SEEN_EVERY = timedelta(hours=1)  # how exact last_seen is
OPENINGS_KEPT = 1_000  # of each device
OPENINGS_LOCK = 0x6F70656E  # seed of advisory lock keys: "open" in ASCII
CLAIM_WAITS_MS = 100  # for another claim of the same client id, which takes a commit
VISIBLE_PAUSE_S = 0.01
VISIBLE_WITHIN_S = 60.0  # only a wait for a synchronous standby takes nearly as long


@dataclass(frozen=True, slots=True)
class Subscription:
    """``cancelled``: kept so that a device that still lists it is not told to start over."""

    id: str
    shapes: tuple[ShapeRequest, ...]
    cancelled: bool


WAL_END = """
SELECT pg_current_wal_insert_lsn()::text, pg_current_wal_flush_lsn()::text, current_setting('wal_block_size')::int4
"""
WAL_PAGE_HEADER_BYTES_MAX = 40

_FORGET = "DELETE FROM electric.subscriptions WHERE client_id = $1"
_NOTE = (
    "INSERT INTO electric.positions AS p (client_id, lineage) VALUES ($1, $2) "
    "ON CONFLICT (client_id) DO UPDATE SET lineage = excluded.lineage WHERE p.lineage <> excluded.lineage"
)


def end_of_records(insert: Lsn, page_bytes: int) -> Lsn:
    """Where the records end of a WAL that is inserted up to ``insert``. At the beginning of a page that is behind its
    header, which nobody flushes, or streams, before there is another record."""
    inside = insert % page_bytes
    return Lsn(insert - inside) if inside <= WAL_PAGE_HEADER_BYTES_MAX else insert


@dataclass(frozen=True, slots=True)
class CurrentRow:
    """A row as Postgres has it now; ``row`` None: there is none."""

    table: TableInfo
    key: Key
    row: Row | None
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Rows as a snapshot of this ``visibility`` shows them. ``position``: the WAL ended there afterwards, so what it
    shows was committed below. That does not say that it shows everything below: others commit meanwhile, and a commit
    is flushed some time before it is visible, with synchronous standbys a long time. Who needs that asks the stream,
    which knows what lies below. ``left``: what was asked for and would have been too much."""

    rows: tuple[CurrentRow, ...]
    position: Lsn
    visibility: Visibility
    left: tuple[tuple[int, Key], ...] = ()


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
        self.catalog = await load_catalog(self.pool)
        await self.history.read(self.pool)
        return dict.fromkeys(asked)

    async def read_migrations(self, notices: Sequence[MigrationNotice]) -> Sequence[MigrationSteps]:
        """Read until the noticed migrations are there: the stream may run a little ahead of what is visible.

        One that does not turn up has been deleted since, and is left out: the stream must go on.
        """
        wanted = {notice.id for notice in notices}
        tries = 0
        while True:
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
            found[row["client_id"]][id] = Subscription(id, _requests(row["shapes"]), row["state"] == "cancelled")
        return found

    async def add_subscription(self, client_id: str, subscription_id: str, shapes: Iterable[ShapeRequest]) -> None:
        await self.pool.execute(
            "INSERT INTO electric.subscriptions (client_id, subscription_id, shapes) VALUES ($1, $2, $3::jsonb) "
            "ON CONFLICT (client_id, subscription_id) DO UPDATE SET shapes = excluded.shapes, state = 'active'",
            client_id,
            subscription_id,
            json.dumps([_described(shape) for shape in shapes]),
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
        return [(row["request"], _request(json.loads(row["request"]))) for row in rows]

    async def seen(self, client_ids: Sequence[str]) -> None:
        """These devices are connected."""
        await self.pool.execute(
            "UPDATE electric.clients SET last_seen = now() "
            "WHERE client_id = ANY ($1::text[]) AND last_seen < now() - $2::interval",
            list(client_ids),
            SEEN_EVERY,
        )

    async def forget_unseen(self, kept_s: float) -> int:
        """Devices that were not seen for that long have no subscriptions any more: how many had some. What they send
        is taken as before."""
        forgotten = await self.pool.fetchval(
            "WITH forgotten AS (DELETE FROM electric.subscriptions s USING electric.clients c "
            "WHERE s.client_id = c.client_id AND c.last_seen < now() - $1::interval RETURNING s.client_id) "
            "SELECT count(DISTINCT client_id) FROM forgotten",
            timedelta(seconds=kept_s),
        )
        return int(forgotten)

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
        return Visibility.parse(await self.pool.fetchval("SELECT pg_current_snapshot()::text"))

    async def current_rows(self, keys: Iterable[tuple[int, Key]]) -> Reading:
        """The rows with these (relation id, key) as one snapshot shows them. A table that is not synced is left out;
        what of the others is beyond ``READING_BYTES_MAX`` is told as ``left``, and at least one row is read."""
        wanted: dict[int, list[Key]] = {}
        for relation_id, key in keys:
            wanted.setdefault(relation_id, []).append(key)
        rows: list[CurrentRow] = []
        left: list[tuple[int, Key]] = []
        room = READING_BYTES_MAX
        async with self.pool.acquire() as connection:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                visibility = Visibility.parse(await connection.fetchval("SELECT pg_current_snapshot()::text"))
                for relation_id, of_table in wanted.items():
                    table = self.catalog.tables.get(relation_id)
                    for start in range(0, len(of_table) if table is not None else 0, KEYS_AT_ONCE):
                        assert table is not None
                        of_query = of_table[start : start + KEYS_AT_ONCE]
                        found = await _current_rows(connection, table, of_query, room) if room > 0 else []
                        rows += found
                        left += [(relation_id, key) for key in of_query[len(found) :]]
                        room = 0 if left else room - sum(len(cell or b"") for row in found for cell in row.row or ())
            position = await _flushed_end(connection, beyond_flushed=bool(rows))
        return Reading(tuple(rows), position, visibility, tuple(left))


async def _flushed_end(connection: asyncpg.Connection, *, beyond_flushed: bool) -> Lsn:
    """Behind every commit that is visible by now, and on the disk. A commit that does not wait for the disk is visible
    before it is there, and nobody might bring it there for seconds. Without ``beyond_flushed`` those do not matter."""
    insert, flushed, page_bytes = await connection.fetchrow(WAL_END)
    end = end_of_records(Lsn.parse(insert), page_bytes)
    if end <= Lsn.parse(flushed) or not beyond_flushed:
        return Lsn.parse(flushed)
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = local")
        await connection.execute("SELECT pg_logical_emit_message(true, 'syncline.flush', '')")
    return end


async def _current_rows(
    connection: asyncpg.Connection, table: TableInfo, keys: Sequence[Key], room: int
) -> list[CurrentRow]:
    """One for each key, in order, up to the one that fills ``room`` bytes."""
    found = [CurrentRow(table, key, None, ()) for key in keys]
    names, types = table.key_names, [table.types[name] for name in table.key_names]
    texts: list[list[str]] = [[] for _ in names]
    places: list[int] = []
    for place, key in enumerate(keys):
        try:
            cells = [
                from_wire(type_name, cell or b"", table.enum_labels.get(name))
                for name, type_name, cell in zip(names, types, key, strict=True)
            ]
        except ValueError:
            continue  # no row can have such a key
        places.append(place)
        for column, text in zip(texts, cells, strict=True):
            column.append(text)
    arrays = ", ".join(f"${number}::text[]" for number in range(2, len(names) + 2))
    wanted = ", ".join(f"k{number}" for number in range(len(names)))
    matches = " AND ".join(
        f"t.{quote_identifier(name)} = w.k{number}::{quote_identifier(type_name)}"
        for number, (name, type_name) in enumerate(zip(names, types, strict=True))
    )
    cells_sql = ", ".join(map(cell_sql, table.relation.names))
    rows = await connection.fetch(
        "WITH found AS MATERIALIZED ("  # noqa: S608 - identifiers, quoted
        f"SELECT w.place, ARRAY[{cells_sql}] AS cells, {ROW_TAGS_SQL} AS tags "
        f"FROM unnest($1::int4[], {arrays}) AS w (place, {wanted}) JOIN {table.sql_name} t ON {matches} "
        f"LEFT JOIN electric.shadow s ON s.relid = {table.oid} AND s.key = {key_sql(names, 't')}), "
        "sized AS "
        "(SELECT place, sum(octet_length(array_to_string(cells, ''))) OVER (ORDER BY place) AS upto FROM found), "
        f"filled AS (SELECT min(place) AS last FROM sized WHERE upto >= ${len(names) + 2}::int8) "
        "SELECT place, cells, tags, last FROM found CROSS JOIN filled WHERE last IS NULL OR place <= last",
        places,
        *texts,
        room,
    )
    converters = [to_wire(column.type_name) for column in table.relation.columns]
    for row in rows:
        encoded = [None if text is None else text.encode() for text in row["cells"]]
        wire = tuple(
            convert(cell) if cell is not None and convert is not None else cell
            for cell, convert in zip(encoded, converters, strict=True)
        )
        place = row["place"]
        found[place] = CurrentRow(table, keys[place], wire, tuple(row["tags"] or UNTRACKED_TAGS))
    filled = rows[0]["last"] if rows else None
    return found if filled is None else found[: filled + 1]


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
    return await asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=connections_max,
        command_timeout=timeout_s,
        init=None if owner is None else owner.admit,
        server_settings={**SESSION_SETTINGS, "application_name": name},
    )


def _described(shape: ShapeRequest) -> dict[str, Any]:
    """As ``electric.subscriptions`` keeps it: what is empty is left out."""
    described: dict[str, Any] = {"request_id": shape.request_id, "table": shape.table}
    if shape.where:
        described["where"] = shape.where
    if shape.columns:
        described["columns"] = list(shape.columns)
    if shape.include:
        described["include"] = [{"by": list(columns), "select": _described(below)} for columns, below in shape.include]
    return described


def _request(described: Mapping[str, Any]) -> ShapeRequest:
    include = tuple((tuple(below["by"]), _request(below["select"])) for below in described.get("include", ()))
    columns = tuple(described.get("columns", ()))
    return ShapeRequest(described["request_id"], described["table"], described.get("where", ""), include, columns)


def _requests(shapes: str) -> tuple[ShapeRequest, ...]:
    return tuple(map(_request, json.loads(shapes)))
