"""What a benchmark finds, and how it is shown."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value: the median of ``values``, in ``unit``.

    ``limit``: what it is compared with, measured in the same run and the same unit; ``limit_value`` its median.
    ``goal``: ours for this figure, in words; empty where the figure only explains another.
    """

    name: str
    values: tuple[float, ...]
    unit: str
    limit: str = ""
    limit_value: float = 0.0
    goal: str = ""
    program: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        """How many times the limit the figure is; None when it is compared with nothing."""
        return self.median / self.limit_value if self.limit_value else None

    def of(self, program: str) -> Figure:
        return replace(self, program=program)

    def against(self, other: Figure) -> Figure:
        """The same figure, compared with ``other``."""
        return replace(self, limit=other.name, limit_value=other.median)

    def to_json(self) -> dict[str, Any]:
        return {
            "program": self.program,
            "name": self.name,
            "values": list(self.values),
            "unit": self.unit,
            "limit": self.limit,
            "limit_value": self.limit_value,
            "goal": self.goal,
        }

    @staticmethod
    def from_json(fields: dict[str, Any]) -> Figure:
        return Figure(**{**fields, "values": tuple(fields["values"])})


def per_cpu_s(count: float, cpu_s: float) -> float:
    """``count`` a CPU second. The system counts CPU time in hundredths: what took less is taken for one."""
    return count / max(cpu_s, 0.01)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of ``values`` do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def number(value: float) -> str:
    """Three significant digits below 1000, whole numbers above."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(figures: Iterable[Figure]) -> str:
    """The figures as lines of text."""
    rows = [("promise", "figure", "", "compared with", "ratio", "goal", "repeats")]
    for figure in figures:
        ratio = figure.ratio
        rows.append(
            (
                figure.program,
                figure.name,
                f"{number(figure.median)} {figure.unit}",
                f"{figure.limit}: {number(figure.limit_value)}" if figure.limit else "",
                "" if ratio is None else f"{ratio:.2f}",
                figure.goal,
                ", ".join(number(value) for value in figure.values) if len(figure.values) > 1 else "",
            )
        )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines of text, all cells of a column equally wide."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def machine() -> str:
    """The machine in one line, with how busy it is: figures of a busy machine are worth less."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} cores {model}, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f}"
    )
