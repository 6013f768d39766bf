"""Values of sequences on one connection: asked for, put by, and given back. See ``reserved`` and ``sequences``."""

from __future__ import annotations

import asyncio
import logging

from syncline.client.replica import Replica
from syncline.client.sequences import ColumnName, Wanted, to_reserve
from syncline.client.transport import Transport
from syncline.proto.blocks import RELEASED_BLOCKS_MAX
from syncline.proto.events import Reserved, ReserveRefused
from syncline.proto.session import ClientSession
from syncline.proto.subprotocols import takes_extensions

log = logging.getLogger("syncline.client")


class Reserving:
    """Of a sequence nothing is asked for twice at a time, nor again where there was less than was asked for."""

    def __init__(self, transport: Transport, session: ClientSession, replica: Replica) -> None:
        self._transport = transport
        self._session = session
        self._replica = replica
        self._asked: dict[ColumnName, Wanted] = {}
        self._ended: set[ColumnName] = set()
        self._asking = asyncio.Lock()
        self._nothing_asked = asyncio.Event()
        self._nothing_asked.set()
        replica.reserves.due = True

    async def ask(self) -> None:
        """For what is wanted and has not been asked for. Raises TransportClosed."""
        async with self._asking:
            await self._ask()

    async def _ask(self) -> None:
        reserves = self._replica.reserves
        if not reserves.due or not takes_extensions(self._transport.protocol):
            return
        reserves.due = False
        columns = [c for c in self._replica.columns_with_sequences() if c not in self._ended and c not in self._asked]
        if not columns:
            return
        for column, wanted in to_reserve(columns, await reserves.held(), reserves.least).items():
            self._asked[column] = wanted
            self._nothing_asked.clear()
            await self._transport.send(self._session.reserve(*column, wanted.count, wanted.left))

    async def settled(self) -> None:
        """Wait until all that is wanted has been answered, or the connection has ended. Raises TransportClosed."""
        await self.ask()
        await self._nothing_asked.wait()

    async def reserved(self, event: Reserved) -> None:
        """These are ours."""
        column = event.table, event.column
        wanted = self._asked.get(column)
        if wanted is None:
            return  # nobody has asked
        await self._replica.reserves.put(column, event.blocks, wanted.size)
        if sum(block.count for block in event.blocks) < wanted.count:
            self._ended.add(column)
        self._answered(column)

    def refused(self, event: ReserveRefused) -> None:
        """There are none. Why goes to the log: an insert that lacks one is told only that it does."""
        log.warning("no values of %s.%s are reserved: %s %s", event.table, event.column, event.code, event.message)
        self._ended.add((event.table, event.column))
        self._answered((event.table, event.column))

    def _answered(self, column: ColumnName) -> None:
        self._asked.pop(column, None)
        if not self._asked:
            self._nothing_asked.set()

    async def give_up(self) -> None:
        """What is of no use here any more. Values that the server does not hear of are lost. Raises TransportClosed."""
        given_up = await self._replica.reserves.give_up(self._replica.columns_with_sequences())
        if takes_extensions(self._transport.protocol):
            for column, blocks in given_up.items():
                await self._transport.send(self._session.release(*column, blocks[:RELEASED_BLOCKS_MAX]))

    def end(self) -> None:
        """The connection has ended: nobody waits for it any more."""
        self._nothing_asked.set()
