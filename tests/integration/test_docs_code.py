"""Code in the documentation does what the page says, run against a real service; so does the example."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncpg
import pytest
from tests.integration.docs_pages import ROOT, Block, name, pages, runnable
from tests.npm.install import ensure_npm
from tests.npm.service import ServiceProcess, serving
from tests.patience import PATIENCE_S

TODO = "CREATE TABLE items (id text PRIMARY KEY, title text NOT NULL, done bool NOT NULL)"
# What a page takes for granted, because the pages before it made it.
GIVEN: dict[str, tuple[str, tuple[str, ...]]] = {"README.md": (TODO, ("items",))}


class Reader:
    """Does what a page says: SQL in psql, scripts and commands in a folder of its own."""

    def __init__(self, dsn: str, folder: Path, service: ServiceProcess, postgres: asyncpg.Connection) -> None:
        self._folder = folder
        self._address = f"127.0.0.1:{service.port}"
        self._postgres = postgres
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DATABASE_URL": dsn,
            "HTTP_PORT": str(service.port),
            "SYNCLINE_URL": f"ws://{self._address}",
        }

    async def do(self, block: Block) -> str:
        """Runs a block; returns what it printed. Fails when the block does."""
        text = block.text.replace("localhost:5133", self._address)
        if block.language == "sql":
            await self._postgres.execute(text)
            return ""
        if block.language == "python":
            script = self._folder / f"line_{block.line}.py"
            script.write_text(text)
            return await self.run(sys.executable, str(script))
        if block.language == "js":
            home = await asyncio.to_thread(ensure_npm)
            (self._folder / "node_modules").symlink_to(home / "node_modules")
            script = self._folder / f"line_{block.line}.mjs"
            script.write_text(text)
            return await self.run("node", str(script))
        return await self.run("sh", "-euc", text)

    async def run(self, *command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self._folder,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                printed, complaints = await process.communicate()
        except TimeoutError:
            process.kill()
            printed, complaints = await process.communicate()
            pytest.fail(f"not done within {PATIENCE_S} s: {complaints.decode()}")
        assert process.returncode == 0, complaints.decode()
        return printed.decode()


@pytest.mark.parametrize("page", [page for page in pages() if runnable(page)], ids=name)
async def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page: Path, database: str, tmp_path: Path) -> None:
    sql, electrified = GIVEN.get(name(page), ("", ()))
    async with serving(database, tmp_path, sql=sql, electrified=electrified) as (service, postgres):
        reader = Reader(database, tmp_path, service, postgres)
        for block, expected in runnable(page):
            printed = await reader.do(block)
            assert expected is None or printed == expected, f"{name(page)}, line {block.line}"


async def test_the_todo_example_shares_a_list_between_two_devices(database: str, tmp_path: Path) -> None:
    async with serving(database, tmp_path, sql=TODO, electrified=("items",)) as (service, postgres):
        reader = Reader(database, tmp_path, service, postgres)

        async def todo(*arguments: str) -> str:
            return await reader.run(sys.executable, str(ROOT / "examples" / "todo.py"), *arguments)

        async def listed(device: str, wanted: list[str]) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while (await todo(device, "list")).splitlines() != wanted:
                    pass

        assert await todo("phone.db", "add", "Buy milk") == "in Postgres\n"
        assert await postgres.fetchval("SELECT title FROM items") == "Buy milk"
        await listed("laptop.db", ["[ ] Buy milk"])

        await service.kill()
        assert await todo("laptop.db", "done", "Buy milk") == "1 done, kept here until there is a connection\n"
        await service.start()
        await listed("laptop.db", ["[x] Buy milk"])
        async with asyncio.timeout(PATIENCE_S):
            while not await postgres.fetchval("SELECT done FROM items"):
                await todo("laptop.db", "list")
        await listed("phone.db", ["[x] Buy milk"])
