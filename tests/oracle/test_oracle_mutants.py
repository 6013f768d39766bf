"""A test that finds nothing proves nothing: every rule broken on purpose has to be noticed, and soon."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator

import pytest
from tests.conftest import fresh_database
from tests.oracle import run as running
from tests.oracle.mutants import MUTANTS, applied, play
from tests.oracle.plan import draw
from tests.oracle.run import run

from syncline.actors.postgres.embedded import EmbeddedPostgres

PLAYS = 600
RUNS_MAX = 8
# Who waits in vain has been noticed: nobody needs to be as patient as with a sound service.
SETTLED_WITHIN_S = 25.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def fails_when_played() -> bool:
    """Whether the property test of membership notices something."""
    try:
        for seed in range(PLAYS):
            play(seed)
    except Exception:
        return True
    return False


def test_nothing_is_noticed_where_nothing_is_broken() -> None:
    assert not fails_when_played()


@pytest.mark.long
@pytest.mark.parametrize("name", MUTANTS)
async def test_a_broken_rule_is_noticed(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(running, "SETTLED_WITHIN_S", SETTLED_WITHIN_S)
    with applied([name]):
        if fails_when_played():
            return
        for seed in range(1, RUNS_MAX + 1):
            async with fresh_database(postgres) as dsn:
                result = await run(draw(seed), dsn)
            shutil.rmtree(result.folder)
            if result.anomaly is not None:
                print(f"{name}: seed {seed}, {result.anomaly.splitlines()[0]}")
                return
    pytest.fail(f"{RUNS_MAX} runs and nobody noticed that {name}")


def test_there_are_enough_of_them() -> None:
    assert len(MUTANTS) >= 20
