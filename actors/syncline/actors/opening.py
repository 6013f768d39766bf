"""What ``syncline electrify`` says and does: the plan first, then its steps, some together in each transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import asyncpg
from rich.console import Console
from rich.markup import escape

from syncline.actors.postgres.electrify import (
    ElectrifyError,
    NotBootstrapped,
    Planned,
    open_together,
    plan,
    steps,
    tables_named,
    tables_of_schema,
    transactions,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The tables to be opened: these, as ``schema.table``, all of these schemas, or ``everything``; and with
    ``with_parents`` whatever they refer to."""

    tables: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    everything: bool = False
    with_parents: bool = False


async def open_tables(
    connection: asyncpg.Connection, wanted: Wanted, out: Console, err: Console, *, plan_only: bool = False
) -> bool:
    """Says what is going to be done, and does it unless ``plan_only``. False: some table could not be opened, or cannot
    be. Raises what asyncpg raises of the connection."""
    try:
        relids, found = await _relids(connection, wanted, err)
        if relids == []:
            return found
        planned = await plan(connection, relids, with_parents=wanted.with_parents)
    except NotBootstrapped as error:
        _show_error(err, error)
        return False
    _show(planned, out, err)
    refused = any(table.action == "refused" for table in planned)
    if plan_only:
        return found and not refused
    failed = False
    for together in transactions(planned):
        failed |= not await _open(connection, together, out, err)
    return found and not refused and not failed


async def _open(connection: asyncpg.Connection, tables: Sequence[Planned], out: Console, err: Console) -> bool:
    """Opens these tables. If one of them is in the way of that, each step of them by itself."""
    try:
        await open_together(connection, tables)
    except ElectrifyError as error:
        alone = steps(tables)
        if len(alone) == 1:
            _show_error(err, error)
            return False
        return all([await _open(connection, step, out, err) for step in alone])
    for table in tables:
        out.print(f"[green]ok[/] {escape(table.name)} is now open to devices", soft_wrap=True)
    return True


async def _relids(connection: asyncpg.Connection, wanted: Wanted, err: Console) -> tuple[list[int] | None, bool]:
    """The tables, None: all; and whether all that were named are there."""
    if wanted.everything:
        return None, True
    relids: list[int] = []
    found = True
    for name, find in chain(
        ((table, tables_named) for table in wanted.tables), ((schema, tables_of_schema) for schema in wanted.schemas)
    ):
        try:
            relids += await find(connection, name)
        except NotBootstrapped:
            raise
        except ElectrifyError as error:
            found = False
            _show_error(err, error)
    return relids, found


def _show(planned: Sequence[Planned], out: Console, err: Console) -> None:
    for table in planned:
        if table.action == "already":
            out.print(f"[green]ok[/] {escape(table.name)} is open to devices already", soft_wrap=True)
    opened = steps(planned)
    if sum(map(len, opened)) > 1:
        out.print("[bold]to be opened, in this order:[/]")
        for number, together in enumerate(opened, 1):
            circle = " (refer to one another, so together)" if len(together) > 1 else ""
            out.print(f"  {number:>3}  {_names(together)}{circle}", soft_wrap=True)
    for table in planned:
        if table.action == "refused":
            _show_error(err, ElectrifyError(table.name, table.message, table.hint))


def _names(tables: Iterable[Planned]) -> str:
    return escape(", ".join(table.name for table in tables))


def _show_error(err: Console, error: ElectrifyError) -> None:
    subject = f"{escape(error.table)}: " if error.table else ""
    err.print(f"[bold red]error:[/] {subject}{escape(error.message)}", soft_wrap=True)
    if error.hint and error.hint not in error.message:
        err.print(f"  hint: {escape(error.hint)}", soft_wrap=True)
