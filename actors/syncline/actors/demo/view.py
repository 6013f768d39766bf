"""What a person sees of the demonstration: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from syncline.actors.demo.devices import DemoDevice

REFRESHES_PER_S = 8


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie; NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class View:
    """``say`` what happens; ``show`` the devices as they are."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._said: list[str] = []
        self._devices: Sequence[DemoDevice] = ()
        self._beats = 0
        self._live = Live(console=console, refresh_per_second=REFRESHES_PER_S, get_renderable=self._panel)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def watch(self, devices: Sequence[DemoDevice]) -> None:
        self._devices = devices

    def beat(self, number: int) -> None:
        self._beats = number

    def say(self, text: str) -> None:
        line = f"{time.monotonic() - self._began:5.1f} s  {text}"
        self._said.append(line)
        if not self._console.is_terminal:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def result(self, table: Table, lines: Sequence[str]) -> None:
        """The end: the live panel stays as it is, the figures follow."""
        if self._console.is_terminal:
            self._live.stop()
        self._console.print(table)
        for line in lines:
            self._console.print(line, markup=False, highlight=False)

    def _panel(self) -> Panel:
        table = Table.grid(padding=(0, 3))
        for column in ("", "link", "rows seen live", "waiting to go up", "last", "p50"):
            table.add_column(column, justify="right" if column not in ("", "link") else "left")
        table.add_row("", "[dim]link", "[dim]rows seen live", "[dim]waiting to go up", "[dim]last", "[dim]p50")
        table.add_row("Postgres", "[green]up", f"{self._beats} written", "", "", "")
        for device in self._devices:
            last = f"{device.latencies_ms[-1]:.1f} ms" if device.latencies_ms else ""
            table.add_row(
                device.name,
                "[green]online" if device.online else "[yellow]offline",
                str(len(device.seen)),
                str(device.pending) if device.pending else "",
                last,
                f"{percentile(device.latencies_ms, 0.5):.1f} ms" if device.latencies_ms else "",
            )
        return Panel(Group(table, Text(), *(Text(line) for line in self._said[-8:])), title="Syncline", expand=False)
