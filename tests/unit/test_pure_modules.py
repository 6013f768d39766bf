"""Modules that decide do not wait: they cannot reach a loop, a socket, a clock, a disk or chance, by any way.

Pure is what the README's map marks so, the room ``proto``, and each module whose docstring says ``Pure``. Looked at is
what a module imports when it runs, and what those of ours that it imports do; not what is for types alone, nor the page
of the package that a module lies in.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cluster", "proto", "actors", "client")
WAITING = {
    *("asyncio", "concurrent", "multiprocessing", "os", "random", "secrets", "select", "selectors", "shutil", "signal"),
    *("socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "time"),
    *("aiosqlite", "asyncpg", "uvloop", "websockets"),
}


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts[1:]).removesuffix(".__init__")


MODULES = {_module_name(path): path for folder in FOLDERS for path in (ROOT / folder / "syncline").rglob("*.py")}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _marked_in_the_map() -> set[str]:
    (plan,) = re.findall(r"```\n(cluster/ .+?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    marked: set[str] = set()
    room = ""
    for line in plan.splitlines():
        if match := re.match(r" *(\w+)/( |$)", line):
            room = match[1]
        for file in re.findall(r"\b\w+\.py\b", line) if room == "proto" or re.search(r"\bpure\b", line) else ():
            (found,) = [name for name, path in MODULES.items() if path.parent.name == room and path.name == file]
            marked.add(found)
    return marked


def _marked_in_docstrings() -> set[str]:
    return {name for name, path in MODULES.items() if re.search(r"\bPure\b", ast.get_docstring(_tree(path)) or "")}


def _for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(name: str) -> set[str]:
    """What the module imports when it runs, in its functions too; of ours the modules, of others the packages."""
    found: set[str] = set()
    waiting: list[ast.AST] = [_tree(MODULES[name])]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Import(names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names):
                found |= {module, *(f"{module}.{alias.name}" for alias in names)}
        waiting += [child for child in ast.iter_child_nodes(node) if not _for_types_alone(child)]
    return {name if name in MODULES else name.partition(".")[0] for name in found}


def ways_out(name: str) -> list[str]:
    """How the module reaches what waits: one chain of imports to each such package."""
    came_from: dict[str, str] = {name: ""}
    frontier = [name]
    while frontier:
        module = frontier.pop(0)
        for other in sorted(imported(module) - came_from.keys()):
            came_from[other] = module
            if other in MODULES:
                frontier.append(other)
    chains = []
    for package in sorted(WAITING & came_from.keys()):
        chain = [package]
        while came_from[chain[0]]:
            chain.insert(0, came_from[chain[0]])
        chains.append(" -> ".join(chain))
    return chains


PURE = sorted(_marked_in_the_map() | _marked_in_docstrings())


def test_the_marks_are_found() -> None:
    assert {"syncline.cluster.link", "syncline.proto.codec", "syncline.client.merging"} <= set(PURE)
    assert len(PURE) > 50


def test_a_way_out_is_found_over_other_modules() -> None:
    assert any(chain.endswith("-> asyncio") for chain in ways_out("syncline.cluster.wire"))


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_reaches_nothing_that_waits(name: str) -> None:
    assert ways_out(name) == []
