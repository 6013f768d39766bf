"""A log with nothing but final operations up to some position, packed anew or as pages for those who read it.

Packing writes the log again, up to the newest image: beside the loop, a few rows at a time, while the log grows. A
device whose shapes are packed up to different positions is given the furthest of these as one transaction; of the
others what lies between is made final for it, from what ``finals`` found once for all who ask.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from syncline.actors.shapes.finals import Finals, finding, trimming
from syncline.actors.shapes.image import STEP_ROWS, Relations
from syncline.actors.shapes.log import END_OF_TRANSACTION, Page
from syncline.actors.shapes.messages import ReadPage
from syncline.actors.shapes.paced import paced
from syncline.actors.shapes.packing import Packing
from syncline.actors.shapes.store import ShapeStore

# Nobody waits for packing: see ``rows``.
PACK_PAUSE_S = 0.002
FINALS_MAX = 2


class FinalPages:
    """Of the log in ``store``."""

    def __init__(self, store: ShapeStore, relations: Relations) -> None:
        self._store = store
        self._relations = relations
        self._found: dict[tuple[int, int], Finals] = {}  # by generation and LSN; the one not asked for longest is first

    def needed(self, ask: ReadPage) -> bool:
        """Whether something has to be made final to answer. Raises GenerationGone."""
        # A transaction may be read in several pages, the last one there too.
        if ask.generation is None or (ask.final_upto, END_OF_TRANSACTION) <= ask.after:
            return False
        return self._store.final_upto(ask.generation) < ask.final_upto

    async def page(self, ask: ReadPage) -> Page:
        """The answer: up to ``final_upto`` it has final operations only. For one at a time. Raises GenerationGone."""
        assert ask.generation is not None
        finals = await self._finals(ask.generation, ask.final_upto)
        page = self._store.read(ask.after, ask.upto, ask.bytes_max, ask.generation)
        records = []
        walked = 0
        for record in page.records:
            walked += record.rows
            if walked >= STEP_ROWS:
                await asyncio.sleep(0)
                walked = 0
            if record.lsn > ask.final_upto:
                records.append(record)
                continue
            kept = await paced(trimming(record, finals, self._relations))
            # Its place stays: reading goes on behind it.
            records.append(kept or replace(record, rows=0, ops=b"", gone=b"", truncates=False))
        return replace(page, records=tuple(records), final_ms=max(page.final_ms, finals.latest_ms))

    async def pack(self, packing: Packing) -> None:
        """Write the log anew. Raises OSError; then everything stays as it was."""
        store = self._store
        now_s = time.time()
        buried_upto = min(packing.packed.lsn, store.buried_upto(now_s - store.buried_kept_s))
        try:
            finals = await paced(finding(packing.records(), self._relations), PACK_PAUSE_S)
            walked = 0
            for record in packing.records():
                walked += record.rows + 1
                if walked >= STEP_ROWS:
                    await asyncio.sleep(PACK_PAUSE_S)
                    walked = 0
                kept = await paced(trimming(record, finals, self._relations, buried_upto), PACK_PAUSE_S)
                if kept is not None:
                    packing.add(kept)
            packing.finish(finals.latest_ms)
            await asyncio.to_thread(store.packed(packing, buried_upto, now_s))
        except OSError:
            packing.abandon()
            raise
        store.take(packing)

    async def _finals(self, generation: int, upto: int) -> Finals:
        finals = self._found.pop((generation, upto), None)
        if finals is None:
            after = self._store.final_upto(generation)
            finals = await paced(finding(self._store.records(after, upto, generation), self._relations))
            while len(self._found) >= FINALS_MAX:
                del self._found[next(iter(self._found))]
        self._found[generation, upto] = finals
        return finals
