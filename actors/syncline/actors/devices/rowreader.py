"""Rows as Postgres has them now, for devices that no frame sets right (see ``healing``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from syncline.actors.devices.steps import Current, Heal, Healed, RowKey
from syncline.actors.devices.uplink import heal_of, rows_of
from syncline.actors.postgres.database import Database
from syncline.actors.postgres.snapshot import Visibility
from syncline.actors.shapes.router import ShownUpTo
from syncline.cluster import Ref
from syncline.proto.events import WriteReceived

# Keys looked at in a stretch: some milliseconds.
SLICE_KEYS = 5_000
SHOWN_TIMEOUT_S = 60.0  # it waits its turn in the stream
# Between two readings, when a commit under way may have changed the rows.
PAUSE_FIRST_S = 0.01
PAUSE_MAX_S = 1.0


class RowReader:
    """``again_after``: called with the seconds after which a reading that was too early is worth repeating."""

    def __init__(self, database: Database, router: Ref, again_after: Callable[[float], object]) -> None:
        self._database = database
        self._router = router
        self._again_after = again_after
        self._pause_s = PAUSE_FIRST_S

    async def read(self, keys: Iterable[RowKey]) -> Current:
        """These rows. Raises what the database raises."""
        reading = await self._database.current_rows(keys)
        rows = {
            (row.table.relation.id, row.key): Healed(row.table.relation, row.key, row.row, row.tags)
            for row in reading.rows
        }
        return Current(rows, int(reading.position), reading.visibility, frozenset(reading.left))

    async def written(self, write: WriteReceived | Heal) -> set[RowKey]:
        """The rows that ``write`` writes and does not merely compensate."""
        if isinstance(write, WriteReceived):
            _, written = await rows_of(write, self._database.table)
            return written
        written = set()
        for start in range(0, len(write.keys), SLICE_KEYS):
            written.update(write.written(start, start + SLICE_KEYS))
            await asyncio.sleep(0)
        return written

    async def heal(self, write: WriteReceived, position: int) -> Heal:
        """What brings back ``write``, which is in Postgres below ``position``, with its rows."""
        return await heal_of(write, position, self._database.table)

    async def shows(self, snapshot: object, lsn: int) -> bool:
        """Whether the ``snapshot`` of a reading shows all that the stream has brought up to ``lsn``. Raises what a call
        raises."""
        assert isinstance(snapshot, Visibility)
        shown = await self._router.call(ShownUpTo(snapshot, lsn), SHOWN_TIMEOUT_S)
        assert isinstance(shown, bool)
        if shown:
            self._pause_s = PAUSE_FIRST_S
        else:
            self._again_after(self._pause_s)
            self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)
        return shown
