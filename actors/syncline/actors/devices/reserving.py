"""What a device is answered that asks for values of a sequence, or gives some back."""

from __future__ import annotations

from syncline.actors.postgres.database import Database
from syncline.actors.postgres.reserving import NothingReserved, release, reserve
from syncline.proto.events import ReleaseRequested, ReserveRequested
from syncline.proto.session import ServerSession


async def reserve_or_release(
    event: ReserveRequested | ReleaseRequested, client_id: str, database: Database, session: ServerSession
) -> bytes:
    """The frame that answers it. Raises what asyncpg raises."""
    table = database.table(event.table)
    if isinstance(event, ReleaseRequested):
        await release(database.pool, client_id, table, event.column, event.blocks)
        return session.released(event.request_id)
    answer = await reserve(database.pool, client_id, table, event.column, event.count, event.left)
    if isinstance(answer, NothingReserved):
        return session.reserve_refused(event.request_id, answer.code, answer.message)
    return session.reserved(event.request_id, answer)
