"""Log lines: for eyes on a terminal, for collectors anywhere else."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from syncline.actors.logs import set_up


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_elsewhere_a_line_is_keys_and_values() -> None:
    stream = io.StringIO()
    set_up("info", stream)
    logging.getLogger("syncline.x").info("all %s", "good", extra={"lsn": 7, "table": "my items", "empty": ""})
    time, rest = stream.getvalue().split(" ", 1)
    assert time.startswith("time=20")
    assert time.endswith("Z")
    assert rest == 'level=info logger=syncline.x message="all good" lsn=7 table="my items" empty=""\n'


def test_elsewhere_a_line_stays_a_line_whatever_it_says() -> None:
    stream = io.StringIO()
    set_up("info", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("syncline.x").exception('a "b"\nlevel=forged')
    assert stream.getvalue().count("\n") == 1
    assert r'message="a \"b\"\nlevel=forged"' in stream.getvalue()
    assert "ValueError" in stream.getvalue()


def test_on_a_terminal_a_line_is_for_eyes() -> None:
    stream = Terminal()
    set_up("info", stream)
    logging.getLogger("syncline.x").warning("slow", extra={"lag": 3})
    assert "warning" in stream.getvalue()
    assert stream.getvalue().endswith(" slow lag=3\n")


def test_the_level_decides_and_libraries_are_quieter() -> None:
    stream = io.StringIO()
    set_up("info", stream)
    logging.getLogger("syncline.x").debug("hidden")
    logging.getLogger("asyncio").info("hidden")
    assert stream.getvalue() == ""
    set_up("debug", stream)
    logging.getLogger("asyncio").debug("shown")
    assert "shown" in stream.getvalue()
