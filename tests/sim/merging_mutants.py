"""More rules broken on purpose: those by which writes merge, keep their order and stay whole, on either side.

On the side of Postgres it is the model that is broken (``postgres``); the rules are those of ``proto.merge``, which the
SQL is tested against.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from typing import Any
from unittest import mock

from tests.mutation import Mutants, everywhere, fitting, in_place_of
from tests.sim import work as model
from tests.sim.postgres import SimPostgres
from tests.sim.schema import RELATIONS
from tests.sim.work import Work

from syncline.actors.devices.carriedout import CarriedOut
from syncline.actors.devices.echoes import Echoes
from syncline.actors.devices.outbound import Outbound
from syncline.client import stamping
from syncline.client.apply import tags_json
from syncline.client.keeping import Keeping
from syncline.client.merging import losing
from syncline.client.oplog import Times, change_of, observed_clock_ms
from syncline.client.replica import Replica
from syncline.client.schema import described
from syncline.client.staging import GoneSql, StagingSql
from syncline.client.stamping import stamp
from syncline.client.triggers import create_triggers
from syncline.proto.merge import Merged, RowState, RowWrite, Tied, apply_write, merge_incoming
from syncline.proto.tags import UNRECORDED, Seen, Tag
from syncline.proto.values import Delete, Migrate, MigrationTable, Update

MERGING_MUTANTS = Mutants()
mutant = MERGING_MUTANTS.add


def server_rule(stack: ExitStack, change: Any) -> None:
    """``change(original, state, write)`` in place of ``apply_write`` in Postgres."""

    @wraps(apply_write)
    def changed(state: RowState, write: RowWrite, tied: Tied = (), *, anew: bool = False) -> RowState:
        result: RowState = fitting(
            change, lambda state, write: apply_write(state, write, tied, anew=anew), state, write
        )
        return result

    stack.enter_context(mock.patch.object(model, "apply_write", changed))


def after_stamping(stack: ExitStack, *statements: str) -> None:
    """Run at the end of each local transaction, with its time as ``:ms``."""

    def stamped(original: Any, connection: Any, *args: Any) -> Any:
        result = original(connection, *args)
        if result is not None:
            for sql in statements:
                connection.execute(sql, {"ms": result.commit_ms})
        return result

    everywhere(stack, stamp, stamped)


# --- rows by their tags -----------------------------------------------------------------------------------------------


@mutant("a delete removes what it had not observed")
def _(stack: ExitStack) -> None:
    def apply(original: Any, state: RowState, write: RowWrite) -> RowState:
        seen = state.tags | write.observed if write.kind == "delete" else write.observed
        return original(state, replace(write, observed=seen))  # type: ignore[no-any-return]

    server_rule(stack, apply)


@mutant("a write leaves no tag when it changes nothing")
def _(stack: ExitStack) -> None:
    def apply(original: Any, state: RowState, write: RowWrite) -> RowState:
        after: RowState = original(state, write)
        return replace(after, tags=state.tags) if after.row == state.row and state.row is not None else after

    server_rule(stack, apply)


@mutant("who has observed a tag has not observed the earlier ones of its origin")
def _(stack: ExitStack) -> None:
    def covers(original: Any, self: Seen, tag: Tag) -> bool:
        return tag.origin == self._origin or self._upto.get(tag.origin) == tag.ms

    in_place_of(stack, Seen, "covers", covers)


@mutant("a delete on a device does not say what it has observed")
def _(stack: ExitStack) -> None:
    after_stamping(stack, "UPDATE _syncline_oplog SET clear_tags = '[]' WHERE commit_ms = :ms AND op = 'D'")


@mutant("what follows a rejected transaction has not observed what that had")
def _(stack: ExitStack) -> None:
    alone = tuple(sql for sql in stamping.STAMP_SQL if "earlier" not in sql)
    stack.enter_context(mock.patch.object(stamping, "STAMP_SQL", alone))


@mutant("a device stores only the newest of a row's tags")
def _(stack: ExitStack) -> None:
    everywhere(stack, tags_json, lambda original, tags: original(tuple(tags)[:1]))


@mutant("an incoming delete removes a row with a write on its way")
def _(stack: ExitStack) -> None:
    def merge(original: Any, pending: Any, incoming: Any) -> Merged:
        gone = incoming.kind == "delete"
        return Merged(None, frozenset()) if gone else original(pending, incoming)  # type: ignore[no-any-return]

    everywhere(stack, merge_incoming, merge)


@mutant("a device's own delete does not count until it has come back")
def _(stack: ExitStack) -> None:
    def merge(original: Any, pending: Any, incoming: Any) -> Merged:
        return original([write for write in pending if write.kind != "delete"], incoming)  # type: ignore[no-any-return]

    everywhere(stack, merge_incoming, merge)


# --- columns by their tags --------------------------------------------------------------------------------------------


@mutant("an update marks all columns as changed")
def _(stack: ExitStack) -> None:
    def change(original: Any, *args: Any) -> Any:
        made = original(*args)
        return replace(made, old_row=None) if isinstance(made, Update) else made

    everywhere(stack, change_of, change)


@mutant("Postgres does not remember who holds a column")
def _(stack: ExitStack) -> None:
    server_rule(stack, lambda original, state, write: replace(original(state, write), column_tags=()))


@mutant("a tie is won by the smaller device in Postgres")
def _(stack: ExitStack) -> None:
    def apply(original: Any, state: RowState, write: RowWrite) -> RowState:
        tied = [state.column_tag(c).ms == write.tag.ms and state.column_tag(c) != write.tag for c in range(9)]
        turned = tuple(
            (write.tag < state.column_tag(c) if tied[c] else write.tag >= state.column_tag(c)) and modified
            for c, modified in enumerate(write.modified)
        )
        released = tuple(UNRECORDED for _ in write.row)
        after: RowState = original(replace(state, column_tags=released), replace(write, modified=turned))
        tags = tuple(write.tag if turned[c] else state.column_tag(c) for c in range(len(turned)))
        return replace(after, column_tags=tags)

    server_rule(stack, apply)


@mutant("a tie is won by the smaller device on devices")
def _(stack: ExitStack) -> None:
    def merge(original: Any, pending: Any, incoming: Any) -> Merged:
        tied = [write for write in pending if write.tag.ms == incoming.tag.ms]
        if not tied:
            return original(pending, incoming)  # type: ignore[no-any-return]
        moved = Tag(incoming.tag.origin, incoming.tag.ms + (1 if tied[0].tag > incoming.tag else -1))
        tags = frozenset(moved if tag == incoming.tag else tag for tag in incoming.tags)
        after: Merged = original(pending, replace(incoming, tag=moved, tags=tags))
        return replace(after, tags=frozenset(incoming.tag if tag == moved else tag for tag in after.tags))

    everywhere(stack, merge_incoming, merge)


@mutant("what was beaten on a device is shown again when its row comes once more")
def _(stack: ExitStack) -> None:
    everywhere(stack, losing, lambda original, *args: ())


@mutant("a device's clock does not follow the transactions it has seen")
def _(stack: ExitStack) -> None:
    everywhere(stack, observed_clock_ms, lambda original, clock_ms, times, now_ms: clock_ms)


@mutant("a device's clock does not follow the rows of a shape")
def _(stack: ExitStack) -> None:
    def apply(original: Any, self: Replica, *args: Any) -> Any:
        self._staged_times = Times()
        return original(self, *args)

    in_place_of(stack, Replica, "_apply_staged", apply)


@mutant("a device does not know which columns go together")
def _(stack: ExitStack) -> None:
    def describe(original: Any, table_id: int, migrated: MigrationTable, *args: Any) -> Any:
        return original(table_id, replace(migrated, registers=()), *args)

    everywhere(stack, described, describe)


# --- compensation, rows that come back --------------------------------------------------------------------------------


@mutant("a compensation writes values")
def _(stack: ExitStack) -> None:
    def apply(original: Any, state: RowState, write: RowWrite) -> RowState:
        if write.kind == "compensation":
            write = replace(write, modified=(True,) * len(write.row))
        return original(state, write)  # type: ignore[no-any-return]

    server_rule(stack, apply)


@mutant("a child does not keep its parent")
def _(stack: ExitStack) -> None:
    everywhere(
        stack, create_triggers, lambda original, table, tables: original(replace(table, foreign_keys=()), tables)
    )


@mutant("a compensation on its way keeps nothing on the device")
def _(stack: ExitStack) -> None:
    def merge(original: Any, pending: Any, incoming: Any) -> Merged:
        return original([write for write in pending if write.kind != "compensation"], incoming)  # type: ignore[no-any-return]

    everywhere(stack, merge_incoming, merge)
    in_place_of(stack, Keeping, "_keep", lambda original, self, row: False)  # which makes up for it


@mutant("what is deleted on a device stays so, whoever comes and refers to it")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Keeping, "_undelete", lambda original, self, row: False)


@mutant("a row comes back without the values it had")
def _(stack: ExitStack) -> None:
    server_rule(stack, lambda original, state, write: original(replace(state, tombstone=None), write))


@mutant("a row that a device brings back has nothing of the old image of the delete")
def _(stack: ExitStack) -> None:
    def merge(original: Any, pending: Any, incoming: Any) -> Merged:
        if incoming.kind == "delete":
            incoming = replace(incoming, row=(incoming.row[0], *(None,) * (len(incoming.row) - 1)))
        return original(pending, incoming)  # type: ignore[no-any-return]

    everywhere(stack, merge_incoming, merge)


@mutant("what a cascade deletes on a device is not sent")
def _(stack: ExitStack) -> None:
    after_stamping(
        stack,
        "DELETE FROM _syncline_oplog WHERE commit_ms = :ms AND op = 'D' AND table_name IN ('comments', 'visits') "
        "AND EXISTS (SELECT 1 FROM _syncline_oplog WHERE commit_ms = :ms AND op = 'D' "
        "AND table_name IN ('issues', 'projects'))",
    )


@mutant("Postgres does not check foreign keys")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Work, "check", lambda original, self: None)


@mutant("a row that leaves takes writes on their way with it")
def _(stack: ExitStack) -> None:
    def init(original: Any, self: GoneSql, table: Any) -> None:
        original(self, table)
        self.delete = self.delete.replace("NOT IN", "NOT NULL OR NULL IN")

    in_place_of(stack, GoneSql, "__init__", init)


@mutant("rows of a delivery replace what is on its way")
def _(stack: ExitStack) -> None:
    def init(original: Any, self: StagingSql, *args: Any) -> None:
        original(self, *args)
        self.has_pending = "SELECT 0"

    in_place_of(stack, StagingSql, "__init__", init)


# --- whole, once, in order --------------------------------------------------------------------------------------------


@mutant("a device transaction becomes two in Postgres")
def _(stack: ExitStack) -> None:
    def commit(original: Any, self: SimPostgres, work: Work, client_id: str | None, ms: int, client_lsn: int) -> Any:
        if client_id is None or len(work.rows) < 3:
            return original(self, work, client_id, ms, client_lsn)
        first, rest = (Work(self.rows, work.now_ms) for _ in range(2))
        some = set(list(work.rows)[: len(work.rows) // 2])
        for part, inside in ((first, True), (rest, False)):
            part.rows = {key: state for key, state in work.rows.items() if (key in some) is inside}
            part.changes = [c for c in work.changes if ((c.relation_id, _key(c)) in some) is inside]
        rest.journal = work.journal
        original(self, first, client_id, ms, client_lsn)
        return original(self, rest, client_id, ms, client_lsn)

    in_place_of(stack, SimPostgres, "_commit", commit)


def _key(change: Any) -> Any:
    row = change.old_row if isinstance(change, Delete) else change.row
    return RELATIONS[change.relation_id].key_of(row)


@mutant("a device commits a transaction in two parts")
def _(stack: ExitStack) -> None:
    async def apply(original: Any, self: Replica, transactions: Any, relations: Any, *, moving: bool) -> None:
        first = transactions[0]
        migrates = any(isinstance(change, Migrate) for change in first.changes)
        if len(transactions) == 1 and len(first.changes) > 1 and not migrates:
            half = replace(first, changes=first.changes[: len(first.changes) // 2], origin="postgres_1")
            await original(self, (half,), relations, moving=False)
        await original(self, transactions, relations, moving=moving)

    in_place_of(stack, Replica, "_apply_together", apply)


@mutant("a local transaction is sent as two")
def _(stack: ExitStack) -> None:
    middle = "SELECT (min(id) + max(id)) / 2 FROM _syncline_oplog WHERE commit_ms = :ms"
    after_stamping(
        stack,
        f"UPDATE _syncline_oplog SET commit_ms = :ms + 1 WHERE commit_ms = :ms AND id > ({middle})",
        "UPDATE _syncline_state SET clock_ms = :ms + 1",
    )


@mutant("an operation of a transaction is lost in Postgres")
def _(stack: ExitStack) -> None:
    def apply(original: Any, self: SimPostgres, element: dict[str, Any]) -> Any:
        ops = element.get("ops", [])
        return original(self, {**element, "ops": ops[1:]} if len(ops) > 2 else element)

    in_place_of(stack, SimPostgres, "apply", apply)


@mutant("a device sends its newest transaction first")
def _(stack: ExitStack) -> None:
    async def backlog(original: Any, self: Replica, after_id: int, entries_max: int) -> Any:
        entries = await original(self, after_id, entries_max)
        return sorted(entries, key=lambda entry: (-entry.commit_ms, entry.id))

    in_place_of(stack, Replica, "backlog", backlog)


@mutant("a rejection takes the device's next transaction with it")
def _(stack: ExitStack) -> None:
    def reject(original: Any, self: SimPostgres, element: dict[str, Any], reason: Any) -> Any:
        answer = original(self, element, reason)
        lsn, ms = self.clients[element["client"]]
        self.clients[element["client"]] = lsn + 8, ms + 500
        return answer

    in_place_of(stack, SimPostgres, "_reject", reject)


@mutant("a transaction that was refused comes back without its rows")
def _(stack: ExitStack) -> None:
    def note(original: Any, self: Outbound, echo: Any) -> None:
        rejected = echo.heal is not None and echo.heal.rejected
        original(self, replace(echo, healed=(), rest=()) if rejected else echo)

    in_place_of(stack, Outbound, "note_echo", note)


@mutant("a device goes back to an earlier position")
def _(stack: ExitStack) -> None:
    def begin(original: Any, self: Replica, connection: Any, lsn: bytes, *seen_ms: int) -> None:
        original(self, connection, b"%d" % (int(lsn) - 600) if seen_ms and len(lsn) > 3 else lsn, *seen_ms)

    in_place_of(stack, Replica, "_begin_incoming", begin)


@mutant("a device is not told what has been carried out")
def _(stack: ExitStack) -> None:
    in_place_of(stack, CarriedOut, "passed", lambda original, self, commit_ms: None)


@mutant("what was refused passes for carried out")
def _(stack: ExitStack) -> None:
    def heal(original: Any, self: Echoes, heal: Any) -> Any:
        if heal.rejected:
            self.carried_out.passed(heal.commit_ms)
        return original(self, heal)

    in_place_of(stack, Echoes, "heal", heal)
