"""However a file is copied, restored, opened and connected: every write is executed once, and none twice.

Real files' tables in memory, and a service that knows of them what the real one keeps: the openings, and the last
number and time that it has decided of each client id.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.unit.client.client_scene import captured_database

from syncline.client.forking import fork, note_accepted, note_opening, openings_of
from syncline.proto.forks import Opening, joined

FILES_MAX = 6
_ids = (f"opening {number}" for number in itertools.count())


class Server:
    def __init__(self) -> None:
        self.openings: dict[str, list[Opening]] = {}
        self.decided: dict[str, tuple[int, int]] = {}
        self.executed: Counter[str] = Counter()

    def parted(self, client_id: str, mine: tuple[Opening, ...]) -> tuple[Opening, ...] | None:
        known = self.openings.setdefault(client_id, [])
        new = joined(known, self.decided.get(client_id, (0, 0))[0], mine)
        if new is not None:
            known += new
            return None
        ids = {opening.id for opening in mine}
        common = max((place for place, opening in enumerate(known) if opening.id in ids), default=None)
        return () if common is None else tuple(known[common : common + 2])

    def apply(self, client_id: str, number: int, ms: int, write: str) -> None:
        decided = self.decided.get(client_id, (0, 0))
        if number > decided[0] or ms > decided[1]:
            self.executed[write] += 1
            self.decided[client_id] = number, max(ms, decided[1])


class Copies(RuleBasedStateMachine):
    """``clock``: all devices have the same, so that times do not tell their writes apart."""

    files: list[sqlite3.Connection]

    @initialize()
    def begin(self) -> None:
        self.server = Server()
        self.clock = 1_000
        self.written: list[str] = []
        self.files = [captured_database([], "original")]
        self._open(self.files[0])

    def teardown(self) -> None:
        for file in getattr(self, "files", []):
            self._connect(file)
        for file in getattr(self, "files", []):
            file.close()
        if hasattr(self, "server"):
            assert self.server.executed == Counter(self.written)

    def _file(self, index: int) -> sqlite3.Connection:
        return self.files[index % len(self.files)]

    def _open(self, file: sqlite3.Connection) -> None:
        note_opening(file, next(_ids))

    @rule(index=st.integers(0, 9), times=st.integers(1, 3))
    def opened(self, index: int, times: int) -> None:
        for _ in range(times):
            self._open(self._file(index))

    @rule(index=st.integers(0, 9), writes=st.integers(1, 3))
    def written_to(self, index: int, writes: int) -> None:
        for _ in range(writes):
            write = f"write {len(self.written)}"
            self.written.append(write)
            file = self._file(index)
            (newest,) = file.execute("SELECT clock_ms FROM _syncline_state").fetchone()
            ms = max(self.clock, newest + 1)
            file.execute("UPDATE _syncline_state SET clock_ms = ?", (ms,))
            file.execute(
                "INSERT INTO _syncline_oplog (table_name, op, key, commit_ms) VALUES ('t', 'I', ?, ?)", (write, ms)
            )

    @rule(passed=st.integers(1, 5))
    def time_passes(self, passed: int) -> None:
        self.clock += passed

    @rule(index=st.integers(0, 9))
    def copied(self, index: int) -> None:
        """Whoever has the copy opens it before he writes to it; the original may go on as it is."""
        if len(self.files) < FILES_MAX:
            copy = sqlite3.connect(":memory:", isolation_level=None)
            self._file(index).backup(copy)
            self._open(copy)
            self.files.append(copy)

    @rule(index=st.integers(0, 9), echoed=st.booleans())
    def connected(self, index: int, echoed: bool) -> None:
        self._connect(self._file(index), echoed)

    @rule(index=st.integers(0, 9))
    def heard_but_not_answered(self, index: int) -> None:
        """The connection breaks before the answer."""
        file = self._file(index)
        (client_id,) = file.execute("SELECT client_id FROM _syncline_state").fetchone()
        self.server.parted(client_id, openings_of(file))

    def _connect(self, file: sqlite3.Connection, echoed: bool = True) -> None:
        while True:
            (client_id,) = file.execute("SELECT client_id FROM _syncline_state").fetchone()
            theirs = self.server.parted(client_id, openings_of(file))
            if theirs is None:
                break
            fork(file, theirs)
        note_accepted(file)
        for number, ms, write, origin in file.execute(
            "SELECT id, commit_ms, key, origin FROM _syncline_oplog ORDER BY id"
        ).fetchall():
            self.server.apply(origin or client_id, number, ms, write)
        if echoed:
            file.execute("DELETE FROM _syncline_oplog")


Copies.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestCopies = Copies.TestCase
