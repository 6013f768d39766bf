"""Rules broken on purpose once more: what direct SQL leaves for devices to merge with, the times of it, and references.

On the side of Postgres it is the model that is broken, as in ``merging_mutants``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from typing import Any
from unittest import mock

from tests.mutation import Mutants, fitting, in_place_of
from tests.sim import work as model
from tests.sim.merging_mutants import MERGING_MUTANTS
from tests.sim.mutants import MUTANTS
from tests.sim.postgres import SimPostgres
from tests.sim.schema import RELATIONS
from tests.sim.work import Work

from syncline.actors.postgres.writer import SKEW_MS
from syncline.client.oplog import Times
from syncline.proto.merge import RowState, RowWrite, apply_direct
from syncline.proto.tags import Seen, Tag
from syncline.proto.values import POSTGRES_ORIGIN

DIRECT_MUTANTS = Mutants()
mutant = DIRECT_MUTANTS.add


def direct_rule(stack: ExitStack, change: Any) -> None:
    """``change(before, after, kind)`` is what direct SQL leaves in Postgres in place of ``after``."""

    @wraps(apply_direct)
    def changed(state: RowState, kind: Any, *args: Any) -> RowState:
        result: RowState = fitting(change, state, apply_direct(state, kind, *args), kind)
        return result

    stack.enter_context(mock.patch.object(model, "apply_direct", changed))


# --- direct SQL and time ----------------------------------------------------------------------------------------------


@mutant("what direct SQL writes has no time")
def _(stack: ExitStack) -> None:
    direct_rule(stack, lambda before, after, kind: replace(after, column_tags=before.column_tags))


@mutant("direct SQL writes all columns of a row when it changes one")
def _(stack: ExitStack) -> None:
    def change(before: RowState, after: RowState, kind: str) -> RowState:
        return replace(after, column_tags=tuple(after.tags) * len(after.row)) if after.row is not None else after

    direct_rule(stack, change)


@mutant("direct SQL has not seen what devices wrote")
def _(stack: ExitStack) -> None:
    def change(before: RowState, after: RowState, kind: str) -> RowState:
        return replace(after, tags=after.tags | before.tags) if kind == "update" else after

    direct_rule(stack, change)


@mutant("what direct SQL deletes is not remembered")
def _(stack: ExitStack) -> None:
    direct_rule(stack, lambda before, after, kind: replace(after, tombstone=None))


@mutant("a device's clock may be as far ahead as it likes")
def _(stack: ExitStack) -> None:
    stack.enter_context(mock.patch("tests.sim.postgres.SKEW_MS", 1 << 50))


@mutant("a transaction comes back with the time as of which it counts")
def _(stack: ExitStack) -> None:
    def head(original: Any, self: SimPostgres, client_id: str | None, ms: int, client_lsn: int) -> Any:
        return original(self, client_id, min(ms, self.wall_ms() + SKEW_MS), client_lsn)

    in_place_of(stack, SimPostgres, "_head", head)


@mutant("who has fetched a row has seen whatever Postgres writes to it later")
def _(stack: ExitStack) -> None:
    def covers(original: Any, self: Seen, tag: Tag) -> bool:
        return original(self, tag) or (tag.origin == POSTGRES_ORIGIN and POSTGRES_ORIGIN in self._upto)

    in_place_of(stack, Seen, "covers", covers)


@mutant("a row that is fetched says that nobody knows when it was written")
def _(stack: ExitStack) -> None:
    fetched_as_of(stack, lambda now_ms: 0)


@mutant("a row that is fetched says that it was written later than it was read")
def _(stack: ExitStack) -> None:
    fetched_as_of(stack, lambda now_ms: now_ms + 500)


@mutant("a device has observed more of Postgres than it was told")
def _(stack: ExitStack) -> None:
    told_of_postgres(stack, lambda ms: ms + 500)


@mutant("a device does not remember what it was told of Postgres")
def _(stack: ExitStack) -> None:
    told_of_postgres(stack, lambda ms: 0)


def told_of_postgres(stack: ExitStack, change: Callable[[int], int]) -> None:
    """``change(ms)`` in place of the latest time of Postgres that a device is told."""

    def with_tags(original: Any, self: Times, tags: set[str]) -> Times:
        told: Times = original(self, tags)
        return replace(told, of_postgres=change(told.of_postgres))

    in_place_of(stack, Times, "with_tags", with_tags)


def fetched_as_of(stack: ExitStack, change: Callable[[int], int]) -> None:
    """``change(now_ms)`` in place of the time at which a row is read."""

    def fetched(original: Any, self: SimPostgres, state: RowState) -> Any:
        tags = original(self, state)
        of_postgres = f"{POSTGRES_ORIGIN}@{self.wall_ms()}"
        return (f"{POSTGRES_ORIGIN}@{change(self.wall_ms())}",) if tags == (of_postgres,) else tags

    in_place_of(stack, SimPostgres, "fetched_tags", fetched)


# --- references -------------------------------------------------------------------------------------------------------


@mutant("a parent is deleted although somebody refers to it")
def _(stack: ExitStack) -> None:
    in_place_of(stack, Work, "_is_referred_to", lambda original, self, key, *, acting: False)


@mutant("a parent that was deleted does not come back for its child")
def _(stack: ExitStack) -> None:
    def write(original: Any, self: Work, key: Any, write: RowWrite, *, mending: bool) -> None:
        original(self, key, write, mending=False)

    in_place_of(stack, Work, "_write", write)


@mutant("columns that a constraint ties together go apart")
def _(stack: ExitStack) -> None:
    stack.enter_context(mock.patch.object(model, "TIED", dict.fromkeys(RELATIONS, ())))


EVERY_MUTANT = Mutants({**MUTANTS, **MERGING_MUTANTS, **DIRECT_MUTANTS})
