"""What hosts are called in a Ray cluster, which several services may share. Pure.

``<service>/<host>``, and ``<service>/<host>@<generation>`` for one that takes the place of another while that still
runs. Nobody else builds such a name or takes one apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PART = re.compile(r"[^/@]+")
_FORM = re.compile(r"(?P<service>[^/@]+)/(?P<host>[^/@]+)(?:@(?P<generation>[1-9][0-9]*))?")


@dataclass(frozen=True, slots=True, order=True)
class RayName:
    """``service``: told apart by it; ``host``: its name within its service, such as ``edge-0``. Neither may have ``/``
    or ``@`` in it: raises ValueError. ``generation``: counts from 1."""

    service: str
    host: str
    generation: int = 1

    def __post_init__(self) -> None:
        if not all(_PART.fullmatch(part) for part in (self.service, self.host)) or self.generation < 1:
            raise ValueError(f"{self.service!r} and {self.host!r} make no name in a Ray cluster")

    def __str__(self) -> str:
        return f"{self.service}/{self.host}" + (f"@{self.generation}" if self.generation > 1 else "")

    @classmethod
    def parse(cls, text: str) -> RayName | None:
        """What ``str`` made; None for the name of somebody else's actor."""
        found = _FORM.fullmatch(text)
        return None if found is None else cls(found["service"], found["host"], int(found["generation"] or 1))
