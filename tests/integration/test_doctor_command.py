"""The doctor as a person, or a pipeline, runs it: its text, its document, its exit codes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.integration.doctor_scene import TABLES, connected
from tests.integration.test_edge_cli import run_beside


async def doctor(*arguments: str, cwd: Path, **environment: str) -> CompletedProcess[str]:
    path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return await run_beside("doctor", *arguments, cwd=cwd, **path, **environment)


async def test_the_command_says_the_sum_first_and_then_what_is_found(database: str, tmp_path: Path) -> None:
    async with connected(database, TABLES):
        done = await doctor(cwd=tmp_path, DATABASE_URL=database)
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("database  test_")
    assert lines[1] == "tables    28: 8 sync, 14 with notes, 6 refused"
    assert "ALTER TABLE public.unlogged SET LOGGED" in done.stdout
    assert lines[-2] == "syncline electrify --all would open 22 of these tables, and leave out 6"
    assert lines[-1] == "not ready: something above is missing or refused"
    assert done.stderr == ""


async def test_exit_codes_are_fit_for_ci(database: str, tmp_path: Path) -> None:
    async with connected(database, TABLES):
        done = await doctor("--schema", "app", "--verbose", cwd=tmp_path, DATABASE_URL=database)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "ready: everything can sync"), done.stderr
        assert "app.defaults: id gen_random_uuid(), n 7, at now()" in done.stdout
        assert (await doctor("--schema", "public", cwd=tmp_path, DATABASE_URL=database)).returncode == 3
        assert (await doctor("--schema", "none", cwd=tmp_path, DATABASE_URL=database)).returncode == 1
    assert (await doctor("--tables", cwd=tmp_path, DATABASE_URL=database)).returncode == 2
    done = await doctor(cwd=tmp_path, DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/db")
    assert (done.returncode, "Traceback" in done.stderr, "hunter2" in done.stderr) == (1, False, False)
    done = await doctor(cwd=tmp_path)
    assert (done.returncode, "DATABASE_URL" in done.stderr) == (1, True)


def without(document: Any, names: Iterable[str]) -> Any:
    """``document`` without what changes from moment to moment."""
    if isinstance(document, dict):
        return {key: without(value, names) for key, value in document.items() if key not in names}
    return [without(each, names) for each in document] if isinstance(document, list) else document


async def test_the_json_document_is_the_same_twice(database: str, tmp_path: Path) -> None:
    moving = ("slots", "wal_senders_in_use", "bytes", "rows", "analysed", "first_sync_s", "rows_unknown")
    async with connected(database, TABLES):
        one = await doctor("--json", cwd=tmp_path, DATABASE_URL=database)
        two = await doctor("--json", cwd=tmp_path, DATABASE_URL=database)
    assert (one.returncode, two.returncode, one.stderr) == (3, 3, "")
    assert without(json.loads(one.stdout), moving) == without(json.loads(two.stdout), moving)
    document = json.loads(one.stdout)
    (table,) = [table for table in document["tables"] if table["name"] == "app.text_types"]
    assert (table["on_devices"], table["key"], table["verdict"]) == ("app__text_types", ["id"], "notes")
    assert [column["on_devices"] for column in table["columns"]] == ["TEXT"] * 4
    assert [finding["code"] for finding in table["findings"]] == ["text_types"]
