"""How large a where clause may be. It comes from anybody on the network, so each step has a bound before it is taken.

Pure.
"""

from __future__ import annotations

from typing import Final

TEXT_BYTES_MAX: Final = 65_536
TOKENS_MAX: Final = 3_000
"""Tokens other than literals and commas: Postgres' parser and ours recurse, and never deeper than there are tokens."""
DEPTH_MAX: Final = 64
SIZE_MAX: Final = 10_000
"""Nodes after expansion: Postgres writes ``a BETWEEN x AND y`` as two comparisons, and repeats ``a`` for it."""
