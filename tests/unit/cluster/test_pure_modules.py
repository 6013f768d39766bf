"""Modules that decide do not wait: they cannot reach a loop, a socket, a clock or chance."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

FORBIDDEN = {"asyncio", "random", "secrets", "selectors", "socket", "threading", "time"}


@pytest.mark.parametrize("name", ["spec", "strategy", "link", "placement"])
def test_a_pure_module_imports_nothing_that_waits(name: str) -> None:
    found = importlib.util.find_spec(f"syncline.cluster.{name}")
    assert found is not None
    assert found.origin is not None
    tree = ast.parse(Path(found.origin).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {module.split(".")[0] for module in imported} & FORBIDDEN
