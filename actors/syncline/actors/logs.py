"""How the service speaks to its operator: one line an event, on standard error.

On a terminal a line is for eyes: time, level, message, fields. Anywhere else it is ``key=value`` throughout, with
whatever needs it quoted as JSON, so that a line stays a line (tracebacks included) and any collector can read it.
Fields are what a call passes as ``extra``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any, TextIO

# Libraries whose information is our debug output.
_QUIETER = ("asyncio", "asyncpg")
_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")
_COLOURS = {"ERROR": "31", "CRITICAL": "31", "WARNING": "33", "DEBUG": "2"}


def set_up(level: str, target: TextIO | logging.StreamHandler[Any] | None = None) -> None:
    """Log everything of ``level`` (error, warning, info, debug) and above to ``target``, standard error by default."""
    handler = target if isinstance(target, logging.StreamHandler) else logging.StreamHandler(target or sys.stderr)
    handler.setFormatter(TerminalFormatter() if handler.stream.isatty() else LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIETER:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class LineFormatter(logging.Formatter):
    """``time=2026-01-31T10:00:00.123Z level=info logger=... message="..." key=value``, always one line."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{clock}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{name}={_value(value)}" for name, value in fields.items())


class TerminalFormatter(logging.Formatter):
    """``10:00:00 level message key=value``, in local time, the level in colour, tracebacks below."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = f"{record.levelname.lower():7}"
        if record.levelname in _COLOURS:
            level = f"\x1b[{_COLOURS[record.levelname]}m{level}\x1b[0m"
        fields = "".join(f" {name}={_value(value)}" for name, value in _extra(record).items())
        line = f"{clock} {level} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    # Ray marks every record with a field of its own.
    return {
        name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES and not name.startswith("_")
    }


def _value(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
