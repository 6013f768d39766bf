"""The documentation as the tests read it: pages, their code blocks, their links.

A block whose info string is a language and ``run`` is run: ``sql``, ``python``, ``js`` or ``sh``. A block ``text
output`` is what the block before it prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<title>.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: ``line`` it starts at, its language, its other words, its text."""

    line: int
    language: str
    words: tuple[str, ...]
    text: str


def pages() -> list[Path]:
    return sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


def name(page: Path) -> str:
    """As tests and errors call it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        language, *words = match["info"].split() or [""]
        found.append(Block(text.count("\n", 0, match.start()) + 1, language, tuple(words), match["body"]))
    return found


def runnable(page: Path) -> list[tuple[Block, str | None]]:
    """The blocks to run, in order, each with what it must print (None: anything)."""
    every = blocks(page)
    return [
        (block, after.text if after is not None and "output" in after.words else None)
        for block, after in zip_longest(every, every[1:])
        if "run" in block.words
    ]


def links(page: Path) -> Iterator[str]:
    """Targets of links outside of code."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        yield match["target"]


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by."""
    titles = (match["title"].replace("`", "") for match in _HEADING.finditer(_FENCE.sub("", page.read_text())))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
