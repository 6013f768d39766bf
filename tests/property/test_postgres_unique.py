"""Unique constraints under any history of device transactions: what is valid in the end is carried out, in whatever
order its rows give up and take values, and what is not is rejected by the row that was first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.write_scene import Scene, Standing, standing, written

from syncline.actors.postgres.embedded import EmbeddedPostgres

SCHEMA: Final = """
CREATE TABLE seats (id int PRIMARY KEY, a int UNIQUE, b text NOT NULL UNIQUE, c int NOT NULL, d int, UNIQUE (c, d));
CREATE UNIQUE INDEX seats_folded ON seats (lower(b)) WHERE a > 0;
"""
IDS: Final = (1, 2, 3, 4)
ATTEMPTS: Final = itertools.count(1)

Row: TypeAlias = tuple[int | None, str, int, int | None]
"""a, b, c, d."""
Rows: TypeAlias = dict[int, Row]


@dataclass(frozen=True)
class Step:
    """To the row ``id``: it goes, or it gets what of ``row`` is ``changed``; all of it where it is not there."""

    id: int
    goes: bool
    row: Row
    changed: tuple[bool, ...]


numbers = st.integers(0, 2)
rows = st.tuples(st.none() | numbers, st.sampled_from(["x", "X", "y", "z"]), numbers, st.none() | numbers)
steps = st.builds(Step, st.sampled_from(IDS), st.booleans(), rows, st.tuples(*[st.booleans()] * 4))
histories = st.lists(st.lists(steps, min_size=1, max_size=4, unique_by=lambda step: step.id), min_size=1, max_size=8)


def after(state: Rows, transaction: list[Step]) -> Rows:
    """The rows as they are to be, whether that is valid or not."""
    changed = dict(state)
    for step in transaction:
        before = state.get(step.id)
        if before is None:
            changed[step.id] = step.row
        elif step.goes:
            del changed[step.id]
        else:
            pairs = zip(before, step.row, step.changed, strict=True)
            changed[step.id] = tuple(new if changes else old for old, new, changes in pairs)  # type: ignore[assignment]
    return changed


def entries(id: int, row: Row) -> set[tuple[object, ...]]:
    """What the row has in each unique index."""
    a, b, c, d = row
    found: set[tuple[object, ...]] = {("b", b)}
    if a is not None:
        found.add(("a", a))
    if d is not None:
        found.add(("cd", c, d))
    if a is not None and a > 0:
        found.add(("folded", b.lower()))
    return found


def is_valid(state: Rows) -> bool:
    all_entries = [entry for id, row in state.items() for entry in entries(id, row)]
    return len(all_entries) == len(set(all_entries))


@dataclass
class Play:
    """A history as it goes. ``tags``: the latest writer of each row that there is."""

    scene: Scene
    base: int
    state: Rows
    tags: dict[int, str]

    def operation(self, step: Step) -> dict[str, Any]:
        id, before = self.base + step.id, self.state.get(step.id)
        seen = [self.tags[step.id]] if step.id in self.tags else []
        if before is not None and step.goes:
            return self.scene.delete("seats", str(id), None, None, None, None, seen=seen)
        wanted = after(self.state, [step])[step.id]
        cells = [str(id), *(None if cell is None else str(cell) for cell in wanted)]
        if before is None:
            return self.scene.insert("seats", *cells)
        return self.scene.update("seats", *cells, changed=[i for i, c in enumerate(step.changed, 1) if c], seen=seen)

    async def carry_out(self, transaction: list[Step], number: int) -> None:
        wanted = after(self.state, transaction)
        operations = [self.operation(step) for step in transaction]
        (answer,) = await self.scene.apply(written("ann", number, *operations))
        if not is_valid(wanted):
            assert (answer["status"], answer["sqlstate"]) == ("rejected", "23505"), answer
            if "winner" in answer:
                (key,) = answer["winner"]
                assert int(key) - self.base in self.state.keys() | wanted.keys()
            return
        assert answer == {"status": "applied"}
        for step in transaction:
            self.tags.pop(step.id, None)
            if step.id in wanted:
                self.tags[step.id] = f"ann@{number}"
        self.state = wanted

    async def stored(self) -> Rows:
        found = await self.scene.connection.fetch("SELECT * FROM seats ORDER BY id")
        return {row["id"] - self.base: (row["a"], row["b"], row["c"], row["d"]) for row in found}


@pytest.fixture(scope="module")
def merging(postgres: EmbeddedPostgres) -> Iterator[Standing]:
    with standing(postgres, "write_unique", SCHEMA, "seats") as opened:
        yield opened


def test_what_is_valid_in_the_end_is_carried_out_and_all_else_rejected(merging: Standing) -> None:
    @settings(max_examples=150)
    @given(history=histories)
    def agree(history: list[list[Step]]) -> None:
        async def play() -> None:
            await merging.scene.connection.execute("DELETE FROM seats; DELETE FROM electric.rejections")
            playing = Play(merging.scene, next(ATTEMPTS) * 10, {}, {})
            for transaction in history:
                await playing.carry_out(transaction, next(ATTEMPTS))
                assert await playing.stored() == playing.state

        merging.runner.run(play())

    agree()
