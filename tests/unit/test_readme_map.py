"""The map in the README has every module of ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("cluster", "proto", "actors", "client")
MAP = (ROOT / "README.md").read_text().partition("## The rooms")[2].partition("\n## ")[0]
MODULES = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py" and "_pb2" not in path.name and path.parent.name != "demo"
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_module_is_on_the_map(module: Path) -> None:
    start = MAP.index(f"\n{module.parts[0]}/")
    room = MAP[start : MAP.find("\n\n", start) if "\n\n" in MAP[start:] else len(MAP)]
    assert re.search(rf"(?<![\w.]){re.escape(module.name)}(?!\w)", room)
