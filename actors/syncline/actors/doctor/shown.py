"""The report as text for people: the sum first, then the server, then tables by what is found of them. Pure.

Of two thousand tables with the same finding a few are named, and how many more there are; ``--verbose`` names each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape

from syncline.actors.doctor.estimates import BYTES_A_S, ROWS_A_S
from syncline.actors.doctor.facts import Table
from syncline.actors.doctor.findings import KINDS, Finding, Severity
from syncline.actors.doctor.report import Report

SHOWN_MAX = 5
TEXT_CHARS_MAX = 160
_COLOURS: dict[Severity, str] = {"missing": "bold red", "refused": "bold red", "note": "yellow", "info": "dim"}


def lines(found: Report, *, verbose: bool = False) -> Iterator[str]:
    """In rich's markup. ``verbose``: each table is named, and ``info`` is told, too."""
    yield from _summary(found)
    if found.findings:
        yield "\n[bold]server, role, and what is there[/]"
        for finding in sorted(found.findings, key=lambda finding: finding.severity != "missing"):
            yield from _server_finding(finding, verbose)
    yield from _tables(found, "refused", "cannot sync", verbose)
    yield from _tables(found, "note", "syncs, and is to be known", verbose)
    if verbose:
        yield from _tables(found, "info", "how it syncs", verbose)
    leaves_out = found.count("refused")
    yield (
        f"\n[bold]{escape(found.command)}[/] would open {found.opens:,} of these tables"
        + (f", and leave out {leaves_out:,}" if leaves_out else "")
    )
    if found.ready:
        yield "[green]ready:[/] everything can sync"
    else:
        yield "[bold red]not ready:[/] something above is missing or refused"


def _summary(found: Report) -> Iterator[str]:
    server, tables = found.facts.server, len(found.tables)
    where = f" in {', '.join(found.facts.schemas)}" if found.facts.schemas else ""
    yield (
        f"[bold]database[/]  {escape(server.database)} on Postgres {escape(server.version_text)}, as role "
        f"{escape(server.role.name)}"
    )
    colour = "green" if found.count("refused") == 0 else "red"
    yield (
        f"[bold]tables[/]    {tables:,}{escape(where)}: {found.count('sync'):,} sync, {found.count('notes'):,} with "
        f"notes, [{colour}]{found.count('refused'):,} refused[/]"
        + (f"; {found.electrified:,} open to devices already" if found.electrified else "")
    )
    size = found.size
    unknown = f" besides those of {found.unknown:,} never counted (ANALYZE)" if found.unknown else ""
    yield (
        f"[bold]size[/]      about {size.rows or 0:,} rows{unknown}, {_bytes(size.bytes)}: on a new device all of it "
        f"is there in about {_time(found.first_sync_s)}, at {ROWS_A_S:,} rows/s or {_bytes(BYTES_A_S)}/s as measured"
    )
    largest = sorted(found.syncing, key=lambda table: -table.size.bytes)[:SHOWN_MAX]
    texts = [f"{escape(table.name)} {_bytes(table.size.bytes)}" for table in largest if table.size.bytes]
    if len(texts) > 1:
        yield f"          largest: {', '.join(texts)}"


def _server_finding(finding: Finding, verbose: bool) -> Iterator[str]:
    yield f"  {_label(finding.severity)} {escape(finding.message)}"
    if finding.hint:
        yield f"      hint: {escape(finding.hint)}"
    if verbose and finding.code.startswith("role_") and finding.names:
        yield f"      {escape(', '.join(finding.names))}"


def _tables(found: Report, severity: Severity, heading: str, verbose: bool) -> Iterator[str]:
    said = False
    for code, kind in KINDS.items():
        of_code = [
            (report.table, finding) for report in found.tables for finding in report.findings if finding.code == code
        ]
        if not of_code or kind.severity != severity:
            continue
        if not said:
            said = True
            yield f"\n[bold]{heading}[/]"
        count = len({table.relid for table, _ in of_code})
        yield f"  {_label(kind.severity)} {escape(kind.title)}  [dim]({count:,} table{'' if count == 1 else 's'})[/]"
        yield from _group(of_code, verbose)


def _group(of_code: Sequence[tuple[Table, Finding]], verbose: bool) -> Iterator[str]:
    """The tables with one finding. A hint that is the same for all is said once."""
    hints = {finding.hint for _, finding in of_code}
    shown = of_code if verbose else of_code[:SHOWN_MAX]
    for table, finding in shown:
        text = finding.message.removeprefix(f"{table.name} ").removeprefix(f"{table.name}: ")
        yield f"      {escape(table.name)}: {escape(text if verbose else _short(text))}"
        if len(hints) > 1 and finding.hint:
            yield f"          {escape(finding.hint)}"
    if len(shown) < len(of_code):
        yield f"      and {len(of_code) - len(shown):,} more: [dim]--verbose[/]"
    if len(hints) == 1 and (hint := next(iter(hints))):
        yield f"      hint: {escape(hint)}"


def _label(severity: Severity) -> str:
    return f"[{_COLOURS[severity]}]{severity}:[/]"


def _short(text: str) -> str:
    return text if len(text) <= TEXT_CHARS_MAX else f"{text[:TEXT_CHARS_MAX]} ..."


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
