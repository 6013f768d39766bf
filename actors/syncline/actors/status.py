"""What ``syncline status`` shows: what the service says of itself, and what its database says of it.

Either may be out of reach without the other; each part says so for itself.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from syncline.actors.faults import Fault, service_fault
from syncline.actors.postgres.slot import slot_name, slot_state

SERVICE_TIMEOUT_S = 5
CLIENTS_SHOWN_MAX = 10
REJECTIONS_SHOWN_MAX = 5
TEXT_CHARS_MAX = 200
TEXT_BYTES_MAX = 1 << 20

_TABLES = "SELECT format('%I.%I', schema_name, table_name) AS name, electrified_at FROM electric.tables ORDER BY 1"
_CLIENTS = """
SELECT client_id, user_id, last_seen, (SELECT count(*) FROM electric.subscriptions s
    WHERE s.client_id = c.client_id AND s.state = 'active') AS subscriptions, count(*) OVER () AS total
FROM electric.clients c ORDER BY last_seen DESC LIMIT $1
"""
_REJECTIONS = """
SELECT r.rejected_at, r.client_id, r.sqlstate, r.table_name, left(r.message, $2) AS message, count(*) OVER () AS total
FROM electric.rejections r ORDER BY r.id DESC LIMIT $1
"""
_SECONDS = "%Y-%m-%d %H:%M:%S"


class NoAddress(ValueError):
    """Not the address of a service."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``up``: devices can connect. ``text``: what the service said, or why it could not be asked.

    ``details``: what it knows of itself; empty when it was not reached, or is of a version that does not tell.
    """

    up: bool
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


def ask(url: str) -> Answer:
    """Asks the service at ``url``. Raises NoAddress."""
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or parts.scheme not in ("http", "https"):
        raise NoAddress(f"{url} is not the address of a service, such as http://127.0.0.1:5133")
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=SERVICE_TIMEOUT_S)
    try:
        connection.request("GET", "/api/status", headers={"Accept": "application/json, text/plain"})
        response = connection.getresponse()
        body = response.read(TEXT_BYTES_MAX).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        fault = service_fault(error, host, connection.port)
        return Answer(False, str(fault))
    finally:
        connection.close()
    if response.status not in (200, 503):
        return Answer(False, f"answers {response.status} {response.reason}: this is no Syncline, correct --url")
    try:
        details = json.loads(body)
        return Answer(response.status == 200, str(details["message"]), details)
    except (ValueError, KeyError, TypeError):
        text = body.partition("\n")[0][:TEXT_CHARS_MAX] or response.reason
        return Answer(response.status == 200, text)


def show_service(out: Console, url: str, answer: Answer) -> None:
    colour = "green" if answer.up else "red"
    out.print(f"[bold]service[/]   {escape(url)}  [{colour}]{escape(answer.text)}[/]", soft_wrap=True)
    details = answer.details
    facts = [
        f"{_count(number, thing)} {state}"
        for name, thing, state in (
            ("devices", "device", "connected"),
            ("shapes", "table", "live"),
            ("lag_bytes", "byte", "of WAL not confirmed yet"),
        )
        if (number := _number(details, name)) is not None
    ]
    if facts:
        out.print(f"          {', '.join(facts)}", soft_wrap=True)
    most, sharing = _number(details, "devices_max"), _number(details, "shapes_sharing")
    if most is not None:
        full = (
            " [yellow]all are taken: who comes is turned away[/]" if (_number(details, "devices") or 0) >= most else ""
        )
        out.print(f"          {_count(most, 'connection host')}{full}", soft_wrap=True)
    if sharing:
        out.print(f"          [yellow]{_count(sharing, 'shape')} share a process: there are more than shapes hosts[/]")
    contested = details.get("devices_contested")
    if isinstance(contested, list):
        for client_id in contested:
            out.print(
                f"          [red]the client id {escape(str(client_id))} is in use twice:[/] a database was copied, or "
                "two programs have it open; the log says where",
                soft_wrap=True,
            )
    _show_shapes(out, details)
    rejections = details.get("rejections")
    if isinstance(rejections, dict) and (number := _number(rejections, "transactions")):
        out.print(
            f"          [yellow]{_count(number, 'transaction')} of devices on record as rejected[/]", soft_wrap=True
        )
    forgotten = details.get("forgotten")
    if isinstance(forgotten, dict) and any(_number(forgotten, what) for what in forgotten):
        devices, deleted = _number(forgotten, "devices") or 0, _number(forgotten, "deleted_rows") or 0
        written = _number(forgotten, "written_rows") or 0
        out.print(
            f"          forgotten so far: {_count(devices, 'device')} that stayed away, {_count(deleted, 'row')} that "
            f"went long ago, who wrote {_count(written, 'row')}",
            soft_wrap=True,
        )
    held = details.get("held_writes")
    if isinstance(held, dict) and (writes := _number(held, "writes")):
        whose = _count(_number(held, "devices") or 0, "device")
        out.print(
            f"[bold]held[/]      [red]{_count(writes, 'write')} of {whose} wait until this is mended in Postgres:[/] "
            f"{escape(str(held.get('message')))}",
            soft_wrap=True,
        )


def _show_shapes(out: Console, details: Mapping[str, Any]) -> None:
    disk, loading = details.get("disk_bytes"), details.get("shapes_loading")
    if isinstance(disk, dict):
        sizes = {name: _number(disk, name) for name in ("logs", "images", "other")}
        parts = [f"{name} {size / 2**20:.1f} MiB" for name, size in sizes.items() if size is not None]
        out.print(f"          on disk: {', '.join(parts)}", soft_wrap=True)
    if isinstance(loading, dict) and (shapes := _number(loading, "shapes")):
        estimate = _number(loading, "rows_estimate")
        of = f" of at most {estimate:,} or so" if estimate else ""
        rows = _number(loading, "rows") or 0
        out.print(f"          {_count(shapes, 'shape')} being read: {_count(rows, 'row')}{of}", soft_wrap=True)
    if asleep := _number(details, "shapes_asleep"):
        out.print(f"          {_count(asleep, 'shape')} on the disk alone: nobody follows them", soft_wrap=True)
    if slow := _number(details, "shapes_slow"):
        out.print(f"          {_count(slow, 'shape')} with a clause that Postgres evaluates", soft_wrap=True)
    if outside := _number(details, "rows_outside"):
        out.print(
            f"          [yellow]{_count(outside, 'row')} left out: a where clause raised an error for them[/]",
            soft_wrap=True,
        )


def show_fault(out: Console, database: str, fault: Fault) -> None:
    """The database is out of reach from here; the service's state is another matter."""
    out.print(f"[bold]database[/]  {escape(database)}  [red]{escape(fault.message)}[/]", soft_wrap=True)
    out.print(f"          hint: {escape(fault.hint)}", soft_wrap=True)


async def show_database(out: Console, database: str, connection: asyncpg.Connection) -> None:
    """``database``: how it is shown. Raises what asyncpg raises."""
    out.print(f"[bold]database[/]  {escape(database)}", soft_wrap=True)
    if await connection.fetchval("SELECT to_regclass('electric.tables')") is None:
        out.print("          not prepared yet: `syncline serve` does it")
        return
    slot = await slot_state(connection, slot_name(await connection.fetchval("SELECT current_database()")))
    if slot is None:
        out.print("[bold]slot[/]      none yet: `syncline serve` makes it")
    else:
        state = "in use" if slot.active else "[yellow]not in use[/]"
        out.print(
            f"[bold]slot[/]      {slot.name}  {state}, {slot.lag_bytes:,} bytes not confirmed yet, "
            f"{slot.retained_bytes / 2**20:.1f} MiB of WAL kept for it",
            soft_wrap=True,
        )
    _print_table(out, "tables open to devices", ("table", "since"), await connection.fetch(_TABLES))
    clients = await connection.fetch(_CLIENTS, CLIENTS_SHOWN_MAX)
    total = clients[0]["total"] if clients else 0
    title = f"devices, the {CLIENTS_SHOWN_MAX} seen last of {total}" if total > CLIENTS_SHOWN_MAX else "devices"
    _print_table(out, title, ("device", "user", "last seen", "subscriptions"), [tuple(row)[:4] for row in clients])
    rejections = await connection.fetch(_REJECTIONS, REJECTIONS_SHOWN_MAX, TEXT_CHARS_MAX)
    if rejections:
        total = rejections[0]["total"]
        title = (
            f"rejected transactions, the newest {len(rejections)} of {total}" if total > 1 else "rejected transactions"
        )
        rows = [tuple(row)[:5] for row in rejections]
        _print_table(out, title, ("at", "device", "sqlstate", "table", "why"), rows)


def _print_table(out: Console, title: str, columns: tuple[str, ...], rows: Any) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row))
    out.print(table if table.row_count else f"[bold]{title}[/]: none")


def _number(facts: Mapping[str, Any], name: str) -> int | None:
    """What another version may leave out, or say otherwise."""
    value = facts.get(name)
    return value if isinstance(value, int) else None


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _text(value: object) -> str:
    return "" if value is None else value.strftime(_SECONDS) if hasattr(value, "strftime") else str(value)
