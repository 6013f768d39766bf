"""The report: the sum, the text of very many tables, the document for programs, and where its decisions come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from rich.text import Text
from tests.unit.doctor.facts_scene import reported, table, without_key

from syncline.actors.doctor.borrowed import borrowed
from syncline.actors.doctor.estimates import BYTES_A_S, ROWS_A_S, first_sync_s
from syncline.actors.doctor.facts import Size
from syncline.actors.doctor.findings import KINDS
from syncline.actors.doctor.reading import ROOTS, _unhindered, read
from syncline.actors.doctor.report import Report, to_json
from syncline.actors.doctor.shown import SHOWN_MAX, lines
from syncline.actors.faults import Fault
from syncline.actors.postgres.bootstrap import PROCEDURES, sql_text

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "doctor.md"


def text(report: Report, *, verbose: bool = False) -> list[str]:
    return "\n".join(Text.from_markup(line).plain for line in lines(report, verbose=verbose)).splitlines()


# --- text -------------------------------------------------------------------------------------------------------------


def test_two_thousand_tables_with_one_finding_are_a_page_and_verbose_names_each() -> None:
    report = reported(*(without_key(f"t{n}", n) for n in range(2000)), table("t", 2000))
    shown = text(report)
    assert len(shown) < 30
    assert "tables    2,001: 1 sync, 0 with notes, 2,000 refused" in shown
    assert f"      and {2000 - SHOWN_MAX:,} more: --verbose" in shown
    assert sum("ADD PRIMARY KEY" in line for line in shown) == SHOWN_MAX
    assert sum("ADD PRIMARY KEY" in line for line in text(report, verbose=True)) == 2000


def test_a_hint_that_is_the_same_for_all_is_said_once() -> None:
    report = reported(*(table(f"t{n}", n, replica_identity="n") for n in range(3)))
    assert sum("hint:" in line for line in text(report)) == 1


def test_names_with_brackets_are_no_markup() -> None:
    report = reported(table("t", 1, name='app."[red]"', triggers=("[bold]x",)))
    assert any('app."[red]": [bold]x' in line for line in text(report))


def test_rows_that_nobody_has_counted_are_said_to_be_missing_in_the_sum() -> None:
    report = reported(table("a", 1), table("b", 2, size=Size(None, 5_000_000, 0, False)))
    assert any(line.startswith("size      about 1,000 rows besides those of 1 never counted") for line in text(report))


# --- JSON -------------------------------------------------------------------------------------------------------------


def keys(document: Any, path: str = "") -> set[str]:
    """Paths of the document's keys, those of lists without their places."""
    if isinstance(document, list):
        return set().union(*(keys(each, path) for each in document)) if document else set()
    if not isinstance(document, dict):
        return set()
    return set().union(*({f"{path}{key}"} | keys(value, f"{path}{key}.") for key, value in document.items()))


def test_every_key_of_the_document_is_in_the_reference() -> None:
    document = json.loads(json.dumps(to_json(reported(without_key("a", 1), table("b", 2, triggers=("x",))))))
    documented = PAGE.read_text()
    for path in keys(document):
        if not path.startswith("server.settings."):
            assert f"`{path.rpartition('.')[2]}`" in documented, path


def test_every_code_is_in_the_reference_with_what_it_is_called() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ \| (.+?) \|$", PAGE.read_text(), re.MULTILINE))
    assert rows == {code: kind.title for code, kind in KINDS.items()}


# --- estimates --------------------------------------------------------------------------------------------------------


def test_a_first_sync_takes_as_long_as_its_rows_or_its_bytes_whichever_is_more() -> None:
    assert first_sync_s(Size(ROWS_A_S * 10, 1, 0, True)) == 10
    assert first_sync_s(Size(1, BYTES_A_S * 10, 0, True)) == 10
    assert first_sync_s(Size(None, BYTES_A_S, 0, False)) == 1
    assert reported(table("a", 1), without_key("b", 2)).first_sync_s == first_sync_s(table("a", 1).size)


# --- what it reads ----------------------------------------------------------------------------------------------------


def test_borrowed_functions_are_whole_and_call_nothing_that_is_not_there() -> None:
    statements = borrowed(map(sql_text, PROCEDURES), ROOTS)
    made = re.findall(r"^CREATE (?:OR REPLACE )?FUNCTION pg_temp\.(\w+)", statements, re.MULTILINE)
    assert set(ROOTS) <= set(made)
    assert len(made) == statements.count("\n$$;") == len(re.findall(r"^CREATE", statements, re.MULTILINE))
    assert set(re.findall(r"pg_temp\.(\w+)\(", statements)) == set(made)
    assert not re.search(r"\belectric\.(?!electrify\()\w+", statements), (
        "a table of ours, or a function that is missing"
    )
    with pytest.raises(KeyError):
        borrowed([], ["no_such"])


class Answering:
    """A connection that only says what server it is."""

    def __init__(self, *answer: Any) -> None:
        self._answer = answer

    async def fetchrow(self, _: str) -> tuple[Any, ...]:
        return self._answer


@pytest.mark.parametrize(
    ("answer", "hint"), [((130000, "13.9", False), "14 or later"), ((180000, "18.0", True), "ask the primary")]
)
async def test_a_server_that_cannot_be_asked_is_told_before_anything_is_tried(answer: Any, hint: str) -> None:
    with pytest.raises(Fault) as fault:
        await read(Answering(*answer))
    assert hint in fault.value.hint


class LockedAtFirst:
    """A connection that meets a lock once."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def execute(self, statement: str) -> None:
        self.said.append(statement)

    async def fetch(self, _: str, relids: Any) -> list[Any]:
        self.said.append("asked")
        if self.said.count("asked") == 1:
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
        return list(relids)


async def test_a_table_that_is_locked_while_it_is_asked_about_is_asked_about_again() -> None:
    connection = LockedAtFirst()
    assert await _unhindered(connection, "tables.sql", [7]) == [7]
    assert connection.said == ["SAVEPOINT unhindered", "asked", "ROLLBACK TO unhindered", "asked"]
