"""Rules broken on purpose. If the simulator does not notice, it is the simulator that is broken.

Each mutant replaces one rule of the product for the length of a run.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

from tests.mutation import Mutants, everywhere, in_place_of
from tests.sim.postgres import SimPostgres

from syncline.actors.devices.bundle import Bundle
from syncline.actors.devices.outbound import Outbound
from syncline.actors.devices.rowreader import RowReader
from syncline.actors.devices.starting import StartRefused
from syncline.actors.devices.starting import start as start_stream
from syncline.actors.shapes.frames import whole_frame
from syncline.actors.shapes.image import Overlay
from syncline.actors.shapes.imagefile import Image
from syncline.actors.shapes.logmerge import LogMerge
from syncline.actors.shapes.store import ShapeStore
from syncline.client.execution import leaving, pending_of, release, run
from syncline.client.oplog import change_of, next_commit_ms
from syncline.client.replica import Replica
from syncline.client.shapes import earlier
from syncline.client.triggers import parse_image
from syncline.proto.flow import Window
from syncline.proto.tags import Tag

MUTANTS = Mutants()
mutant = MUTANTS.add


# --- writes up --------------------------------------------------------------------------------------------------------


@mutant("a repeated device transaction is applied again")
def _(stack: ExitStack) -> None:
    def apply(original: Any, self: SimPostgres, element: dict[str, Any]) -> Any:
        known = self.clients.pop(element["client"], None)
        try:
            return original(self, element)
        finally:
            if known is not None and element["client"] not in self.clients:
                self.clients[element["client"]] = known

    in_place_of(stack, SimPostgres, "apply", apply)


@mutant("an echo does not wait for its place in the stream")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Outbound, "note_echo", lambda original, self, echo: original(self, replace(echo, lsn=0)))


@mutant("a repeated transaction is echoed without its rows")
def _(stack: ExitStack) -> None:
    def note(original: Any, self: Outbound, echo: Any) -> None:
        rejected = echo.heal is not None and echo.heal.rejected
        original(self, echo if rejected else replace(echo, healed=(), rest=()))

    in_place_of(stack, Outbound, "note_echo", note)


@mutant("rows that heal a device may be older than their place")
def _(stack: ExitStack) -> None:
    async def shows(original: Any, self: RowReader, snapshot: object, lsn: int) -> bool:
        await original(self, snapshot, lsn)
        return True

    in_place_of(stack, RowReader, "shows", shows)


@mutant("an echo releases everything that is pending")
def _(stack: ExitStack) -> None:
    def release_all(original: Any, connection: Any, *args: Any) -> bool:
        return bool(connection.execute("DELETE FROM _syncline_oplog").rowcount > 0)

    everywhere(stack, release, release_all)


@mutant("an echo releases nothing")
def _(stack: ExitStack) -> None:
    everywhere(stack, release, lambda original, *args: False)


@mutant("an echo of a transaction without rows is not sent")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Outbound, "note_echo", lambda original, self, echo: None)


@mutant("a device skips what it had sent on an earlier connection")
def _(stack: ExitStack) -> None:
    def backlog(original: Any, self: Replica, after_id: int, entries_max: int) -> Any:
        if after_id == 0:
            rows = self._store.connection.execute("SELECT min(id) FROM _syncline_oplog").fetchone()  # type: ignore[attr-defined]
            after_id = rows[0] or 0
        return original(self, after_id, entries_max)

    in_place_of(stack, Replica, "backlog", backlog)


# --- merging ----------------------------------------------------------------------------------------------------------


@mutant("a device does not say which tags it has observed")
def _(stack: ExitStack) -> None:
    everywhere(stack, change_of, lambda original, *args: replace(original(*args), tags=()))


@mutant("the later write loses")
def _(stack: ExitStack) -> None:
    stack.enter_context(mock.patch.object(Tag, "__ge__", lambda self, other: self._rank <= other._rank))


@mutant("a device ignores its own pending writes when rows come in")
def _(stack: ExitStack) -> None:
    everywhere(stack, pending_of, lambda original, *args: {})


@mutant("tags of incoming rows are not stored")
def _(stack: ExitStack) -> None:
    from syncline.client.apply import Plan

    in_place_of(stack, Plan, "run_tags", lambda original, self, *args: None)


@mutant("a device's clock may run backwards")
def _(stack: ExitStack) -> None:
    everywhere(stack, next_commit_ms, lambda original, now_ms, clock_ms: now_ms)


# --- down -------------------------------------------------------------------------------------------------------------


@mutant("the position is stored without the rows")
def _(stack: ExitStack) -> None:
    def run_mostly(original: Any, connection: Any, plan: Any) -> None:
        if connection.total_changes % 5:
            original(connection, plan)

    everywhere(stack, run, run_mostly)


@mutant("a frame is left out when the logs are read")
def _(stack: ExitStack) -> None:
    def frames(original: Any, self: LogMerge) -> Any:
        for number, frame in enumerate(list(original(self))):
            if number != 1 or not (frame.starts and frame.ends):
                yield frame

    in_place_of(stack, LogMerge, "frames", frames)


@mutant("the logs are read from the wrong position")
def _(stack: ExitStack) -> None:
    def init(original: Any, self: LogMerge, shapes: Any, after: int, upto: int, **options: Any) -> None:
        original(self, shapes, max(0, after - 150), upto, **options)

    in_place_of(stack, LogMerge, "__init__", init)


@mutant("what is left of transactions in a packed log is given as if it were the transactions")
def _(stack: ExitStack) -> None:
    in_place_of(stack, LogMerge, "make_final", lambda original, self, upto: original(self, 0))


@mutant("what is dropped from the live queue is not read from the logs")
def _(stack: ExitStack) -> None:
    def drop(original: Any, self: Outbound) -> None:
        original(self)
        self._gap = False

    def released(original: Any, self: Outbound, generation: int, frames: Any, upto: int) -> None:
        original(self, generation, frames, upto)
        self._gap = False

    in_place_of(stack, Outbound, "released", released)


@mutant("a bundle releases before all its shapes have passed")
def _(stack: ExitStack) -> None:
    def arrived(original: Any, self: Bundle, records: Any) -> None:
        original(self, records)
        if records:
            self._watermark = max(self._watermark, records[-1].lsn)

    in_place_of(stack, Bundle, "arrived", arrived)


@mutant("a transaction loses the part of one of its shapes")
def _(stack: ExitStack) -> None:
    def whole(original: Any, records: Any, *options: Any) -> Any:
        return original(list(records)[:1], *options)

    everywhere(stack, whole_frame, whole)


@mutant("the log since the snapshot is left out of an image")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Overlay, "chunks", lambda original, self: iter(()))


@mutant("an image keeps rows that the log has replaced")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Overlay, "apply", lambda original, self, chunk: chunk)


@mutant("a folded image is taken for one that has the whole log")
def _(stack: ExitStack) -> None:
    stack.enter_context(mock.patch.object(Image, "covers", property(lambda self: 1 << 62 if self.number else 0)))


@mutant("a bundle opens before its shapes' snapshots have passed in the stream")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Bundle, "joined", lambda original, self, shape, appended: original(self, shape, 0))


@mutant("a snapshot may miss what was streamed before its shape was")
def _(stack: ExitStack) -> None:
    from syncline.actors.shapes.router import Router

    async def nothing(self: Any, message: Any) -> Any:
        answer = await original(self, message)
        return () if isinstance(answer, tuple) else answer

    original = Router.handle_call
    stack.enter_context(mock.patch.object(Router, "handle_call", nothing))


@mutant("a device that has missed something starts over instead of getting it")
def _(stack: ExitStack) -> None:
    async def start(
        original: Any, client_id: str, event: Any, database: Any, places: Any, *rest: Any, **named: Any
    ) -> Any:
        started = await original(client_id, event, database, places, *rest, **named)
        if event.lsn and event.subscription_ids and await places.watermark() > int(event.lsn):
            raise StartRefused("BEHIND_WINDOW", "what changed since is too much to look up")
        return started

    everywhere(stack, start_stream, start)


@mutant("a delivery of other tables undoes writes that are on their way")
def _(stack: ExitStack) -> None:
    def apply(original: Any, self: Replica, connection: Any, lsn: bytes) -> Any:
        plan = original(self, connection, lsn)
        if "projects" in self.tables and "projects" not in plan.changed:
            rows = connection.execute(
                "SELECT old_row FROM _syncline_oplog WHERE table_name = 'projects' AND op = 'U' ORDER BY id DESC"
            ).fetchall()
            for (old,) in rows:
                image = parse_image(old)
                connection.execute("UPDATE projects SET name = :name, note = :note WHERE id = :id", image)
        return plan

    in_place_of(stack, Replica, "_apply_staged", apply)


@mutant("logs are taken for durable without having been synced")
def _(stack: ExitStack) -> None:
    in_place_of(stack, ShapeStore, "flushing", lambda original, self: lambda: None)


@mutant("acks do not open the window")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Window, "acked", lambda original, self, transaction_id: False)


@mutant("what a shape replaces under its key is never given up")
def _(stack: ExitStack) -> None:
    everywhere(stack, earlier, lambda original, subscriptions, subscription: [])


@mutant("a row that stayed for what was pending on it stays for good")
def _(stack: ExitStack) -> None:
    everywhere(stack, leaving, lambda original, connection, commit_ms, tables: [])
