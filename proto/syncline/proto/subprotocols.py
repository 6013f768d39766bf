"""Which protocols there are, by the names that WebSocket peers agree on. Pure.

They have the same messages. A peer that agreed on ours takes extensions besides: message types from 64 on, fields from
1000 on. One of the old line is never sent any.
"""

from __future__ import annotations

from typing import Final

OWN: Final = "syncline.1"
# The published clients: each offers its own major.minor and nothing else.
OLD: Final = ("electric.0.12", "electric.0.11", "electric.0.10")

# Ids of relations that have some columns of a table only; and of those whose columns leave a row that stays.
PROJECTION_ID_FIRST: Final = 2 << 30
LEAVING_ID_FIRST: Final = 3 << 30


def takes_extensions(protocol: str) -> bool:
    """``protocol``: the one agreed on."""
    return protocol == OWN
