"""How long a silent server is believed to be there. Pure.

A connection can be dead without anybody being told: a phone changes networks, a NAT forgets, a host loses power. Who
waits asks then for a sign of life. It is asked soon where something has just come or gone, for that is when silence
means something: an answer or an echo is on its way, or others write all the time. Each answer makes the next silence
worth less, so a device at rest asks once in ``SILENCE_MAX_S``.

What is too late for an answer is told by those before it: behind a slow network, or a server with its hands full,
there is more time. Until the first the opening of the connection tells it, which may have waited for the network itself
to come back.
"""

from __future__ import annotations

SILENCE_S = 1.0
SILENCE_MAX_S = 5.0
ANSWER_S = 1.5
ANSWER_MAX_S = 4.0
# How many times as long as an answer before it one may take, and how soon a slow one is forgotten.
TIMES_SLOWER = 4
FORGET = 0.8


class Silence:
    """Of one connection. ``opening_s``: what it took to open. ``first_s``, ``answer_s``: the least times, below."""

    def __init__(self, opening_s: float = 0.0, first_s: float = SILENCE_S, answer_s: float = ANSWER_S) -> None:
        self._first_s = first_s
        self._answer_s = answer_s
        self._slowest_s = opening_s
        self.bearable_s = first_s
        """Of silence, until the server is asked."""

    @property
    def patience_s(self) -> float:
        """Until it has to have answered."""
        return max(self._answer_s, min(ANSWER_MAX_S, TIMES_SLOWER * self._slowest_s))

    def broken(self) -> None:
        """Something has come, or gone."""
        self.bearable_s = self._first_s

    def first_answered(self, took_s: float) -> None:
        """The server has answered what it was told first."""
        self._slowest_s = took_s

    def answered(self, took_s: float) -> None:
        """The server has given the sign of life it was asked for."""
        self._slowest_s = max(took_s, FORGET * self._slowest_s)
        self.bearable_s = max(self._first_s, min(SILENCE_MAX_S, 2 * self.bearable_s))
