"""The command as a person runs it: a process of its own, its output, its exit code."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import asyncpg
import pytest
from tests.patience import PATIENCE_S

from syncline.actors.postgres.bootstrap import bootstrap

SYNCLINE = Path(sys.executable).with_name("syncline")


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return subprocess.run(
        [str(SYNCLINE), *arguments],
        cwd=cwd,
        env={**clean, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


async def run_beside(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(run, *arguments, cwd=cwd, **environment)


@pytest.fixture
async def tables(database: str) -> str:
    """A prepared database with a parent, its child, and a table that cannot be synced."""
    await bootstrap(database)
    connection = await asyncpg.connect(database)
    await connection.execute(
        """
        CREATE TABLE projects (id uuid PRIMARY KEY, name text);
        CREATE TABLE items (id uuid PRIMARY KEY, project_id uuid REFERENCES projects);
        CREATE TABLE prices (id numeric PRIMARY KEY);
        CREATE TABLE notes (line text);
        """
    )
    await connection.close()
    return database


@pytest.fixture
def service() -> Iterator[tuple[HTTPServer, list[int]]]:
    """Something that answers /api/status with the status in the list."""
    answer = [200]

    class Status(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer[0] if self.path == "/api/status" else 404)
            self.end_headers()
            self.wfile.write(b"Connection to Postgres is up!" if answer[0] == 200 else b"Database connection failure.")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Status)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server, answer
    server.shutdown()
    thread.join()
    server.server_close()


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_version_is_the_distributions(tmp_path: Path) -> None:
    done = run("version", cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, version("syncline"))


def test_help_names_every_command(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("serve", "demo", "electrify", "doctor", "status", "version"):
        assert command in done.stdout


def test_help_of_serve_names_every_flag_and_variable(tmp_path: Path) -> None:
    done = run("serve", "--help", cwd=tmp_path, COLUMNS="200")
    assert done.returncode == 0
    for text in ("--database-url", "[DATABASE_URL]", "--http-port", "[HTTP_PORT]", "--data-dir", "[SYNCLINE_DATA_DIR]"):
        assert text in done.stdout


def test_an_unknown_command_is_wrong_usage(tmp_path: Path) -> None:
    assert run("sync", cwd=tmp_path).returncode == 2


# --- settings ---------------------------------------------------------------------------------------------------------


def test_serve_reports_every_wrong_setting_and_exits_2(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SYNCLINE_RUNTIME=cloud\n")
    done = run("serve", "--http-port", "many", cwd=tmp_path, DATABASE_URL="postgresql://u:hunter2@127.0.0.1/db")
    assert done.returncode == 2
    for variable in ("HTTP_PORT", "AUTH_JWT_ALG", "AUTH_JWT_KEY", "SYNCLINE_RUNTIME"):
        assert variable in done.stderr
    assert "hunter2" not in done.stderr
    assert "Traceback" not in done.stderr


async def test_serve_says_when_it_is_ready_answers_and_drains_on_sigterm(database: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        str(SYNCLINE),
        *("serve", "--http-port", "0", "--http-host", "127.0.0.1", "--auth-mode", "insecure"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        ready = (await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)).decode()
        found = re.search(r"ready on port (\d+)", ready)
        assert found is not None, (ready, await process.stderr.read() if process.stderr and not ready else "")
        done = await run_beside("status", cwd=tmp_path, HTTP_PORT=found[1])
        assert (done.returncode, "is up!" in done.stdout) == (0, True), done.stdout
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"INSECURE" in errors
    assert b"Traceback" not in errors


# --- electrify --------------------------------------------------------------------------------------------------------


async def test_electrify_opens_tables_and_a_second_time_changes_nothing(tables: str, tmp_path: Path) -> None:
    done = await run_beside("electrify", "public.projects", "items", cwd=tmp_path, DATABASE_URL=tables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is now open to devices") == 2
    done = await run_beside("electrify", "projects", cwd=tmp_path, DATABASE_URL=tables)
    assert (done.returncode, done.stdout) == (0, "ok public.projects is open to devices already\n")


async def test_electrify_says_what_is_wrong_and_what_to_do_and_goes_on(tables: str, tmp_path: Path) -> None:
    done = await run_beside("electrify", "items", "notes", "project", "prices", cwd=tmp_path, DATABASE_URL=tables)
    assert done.returncode == 1
    assert "Parents first" in done.stderr
    assert "has no key" in done.stderr
    assert "did you mean public.projects" in done.stderr
    assert "HINT" not in done.stderr
    assert done.stdout == "ok public.prices is now open to devices\n"
    assert "Traceback" not in done.stderr


async def test_electrify_of_all_says_first_what_it_does_and_does_it_parents_first(tables: str, tmp_path: Path) -> None:
    planned = await run_beside("electrify", "--all", "--plan", cwd=tmp_path, DATABASE_URL=tables)
    order = "to be opened, in this order:\n    1  public.prices\n    2  public.projects\n    3  public.items\n"
    assert (planned.returncode, planned.stdout) == (1, order)
    assert "error: public.notes: public.notes has no key" in planned.stderr
    done = await run_beside("electrify", "--schema", "public", cwd=tmp_path, DATABASE_URL=tables)
    assert (done.returncode, done.stdout) == (
        1,
        order + "".join(f"ok public.{name} is now open to devices\n" for name in ("prices", "projects", "items")),
    )


async def test_electrify_takes_what_a_table_refers_to_along_if_told_so(tables: str, tmp_path: Path) -> None:
    done = await run_beside("electrify", "items", "--with-parents", cwd=tmp_path, DATABASE_URL=tables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "ok public.projects is now open to devices",
        "ok public.items is now open to devices",
    ]


async def test_electrify_of_a_schema_that_is_nearly_right_names_it(tables: str, tmp_path: Path) -> None:
    done = await run_beside("electrify", "--schema", "publik", cwd=tmp_path, DATABASE_URL=tables)
    assert done.returncode == 1
    assert "did you mean public?" in done.stderr
    assert run("electrify", cwd=tmp_path, DATABASE_URL=tables).returncode == 2


async def test_electrify_of_a_table_that_is_like_no_other_says_how_to_name_it(tables: str, tmp_path: Path) -> None:
    done = await run_beside("electrify", "xyzzy", cwd=tmp_path, DATABASE_URL=tables)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: xyzzy: table xyzzy does not exist",
        "  hint: Give its name as schema.table, with double quotes where SQL needs them.",
    ]


async def test_electrify_before_the_first_serve_says_so(database: str, tmp_path: Path) -> None:
    done = await run_beside("electrify", "items", cwd=tmp_path, DATABASE_URL=database)
    assert done.returncode == 1
    assert "syncline serve" in done.stderr


def test_electrify_without_any_database_says_so(tmp_path: Path) -> None:
    done = run("electrify", "items", cwd=tmp_path)
    assert done.returncode == 1
    assert "DATABASE_URL" in done.stderr


def test_an_unreachable_database_is_a_message_not_a_traceback(tmp_path: Path) -> None:
    done = run("electrify", "items", cwd=tmp_path, DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/db")
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_of_a_service_that_is_up(tmp_path: Path, service: tuple[HTTPServer, list[int]]) -> None:
    done = run("status", cwd=tmp_path, HTTP_PORT=str(service[0].server_port))
    assert done.returncode == 0
    assert "Connection to Postgres is up!" in done.stdout


def test_status_of_a_service_that_is_not_ready_or_not_there(
    tmp_path: Path, service: tuple[HTTPServer, list[int]]
) -> None:
    service[1][0] = 503
    done = run("status", "--url", f"http://127.0.0.1:{service[0].server_port}", cwd=tmp_path)
    assert done.returncode == 1
    assert "Database connection failure." in done.stdout
    done = run("status", "--url", "127.0.0.1:1", cwd=tmp_path)
    assert done.returncode == 1
    assert "not reachable" in done.stdout


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:port"])
def test_status_of_no_address_is_wrong_usage(tmp_path: Path, url: str) -> None:
    assert run("status", "--url", url, cwd=tmp_path).returncode == 2


async def test_status_with_a_database_shows_what_is_synced(
    tables: str, tmp_path: Path, service: tuple[HTTPServer, list[int]]
) -> None:
    connection = await asyncpg.connect(tables)
    await connection.execute("CALL electric.electrify('public.projects')")
    await connection.execute("INSERT INTO electric.clients (client_id, user_id) VALUES ('device-1', '[bold]ann')")
    await connection.close()
    done = await run_beside(
        "status", "--http-port", str(service[0].server_port), cwd=tmp_path, DATABASE_URL=tables, COLUMNS="200"
    )
    assert done.returncode == 0, done.stderr
    for text in ("public.projects", "device-1", "[bold]ann", "slot"):
        assert text in done.stdout
