"""How much the transactions take that devices of one process have begun and not committed, and whose has to go.

Nothing makes a device send its commit. Its transaction is bounded (assembly.py), and all of them together here. Beyond
the bound the largest is let go, whoever had something to add. So a device with a transaction of an ordinary size never
pays for others, and whoever holds nearly all there is cannot keep others out by holding on.

Pure.
"""

from __future__ import annotations

from typing import Final, Protocol

# Memory of the whole process; more than one transaction may take by itself, which could never come in otherwise.
OPEN_BYTES_MAX: Final = 512 << 20


class Holder(Protocol):
    """Whose transaction it is."""

    def let_go(self) -> None:
        """Forget it: too much is held."""


class OpenTransactions:
    """Of all who share this."""

    def __init__(self) -> None:
        self._held: dict[Holder, int] = {}
        self._octets = 0

    @property
    def octets(self) -> int:
        """Held by all together, in bytes."""
        return self._octets

    def holds(self, holder: Holder, octets: int) -> None:
        """``holder``'s transaction takes so many bytes now; with zero it has none. Whoever holds most may be let go."""
        self._octets += octets - self._held.pop(holder, 0)
        if octets:
            self._held[holder] = octets
        while self._octets > OPEN_BYTES_MAX:
            # Among equals the one that has not grown for longest.
            largest = max(self._held, key=self._held.__getitem__)
            self._octets -= self._held.pop(largest)
            largest.let_go()
