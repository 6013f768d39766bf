"""Supervision as a state machine: whatever ends, in whatever order, the tree is what the rules say."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncline.cluster.spec import NORMAL, Exit, ExitKind, Restart, Strategy
from syncline.cluster.strategy import Child, Decision, Intensity, decide, recent

EXITS = {kind: Exit(kind) for kind in (ExitKind.NORMAL, ExitKind.SHUTDOWN, ExitKind.KILLED, ExitKind.CRASHED)}


class SupervisorMachine(RuleBasedStateMachine):
    """Performs each decision on a list of children, and keeps its own count of what must be true."""

    @initialize(
        strategy=st.sampled_from(Strategy),
        restarts=st.lists(st.sampled_from(Restart), min_size=1, max_size=6),
        intensity=st.builds(Intensity, st.integers(0, 4), st.floats(0.5, 10)),
    )
    def begin(self, strategy: Strategy, restarts: list[Restart], intensity: Intensity) -> None:
        self.strategy, self.intensity = strategy, intensity
        self.specs = {f"child-{index}": restart for index, restart in enumerate(restarts)}  # in start order
        self.running = dict.fromkeys(self.specs, 0)  # id -> incarnation
        self.ended_normally: set[str] = set()
        self.history: tuple[float, ...] = ()
        self.restarted_at: list[float] = []
        self.now = 0.0
        self.gone = False
        self.serial = 0

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.gone and self.running)
    @rule(data=st.data(), kind=st.sampled_from(sorted(EXITS, key=lambda kind: kind.value)))
    def a_child_ends(self, data: st.DataObject, kind: ExitKind) -> None:
        ended = data.draw(st.sampled_from(sorted(self.running)))
        exit = EXITS[kind]
        before = dict(self.running)
        del self.running[ended]
        children = [Child(id, restart, id in self.running) for id, restart in self.specs.items()]
        decision, self.history = decide(self.strategy, children, ended, exit, self.history, self.now, self.intensity)
        restart = self.specs[ended]
        wanted = restart is Restart.PERMANENT or (restart is Restart.TRANSIENT and exit.abnormal)
        within = [at for at in self.restarted_at if self.now - at < self.intensity.max_seconds]
        assert decision.escalate == (wanted and len(within) >= self.intensity.max_restarts)
        if decision.escalate:
            assert decision == Decision(escalate=True)
            self.gone = True
            return
        group = self.group(ended) if wanted else []
        order = list(self.specs)
        self.perform(decision)
        if wanted:
            self.restarted_at.append(self.now)
            assert list(decision.stop) == [
                id for id in reversed(order) if id in dict(group) and id in before and id != ended
            ]
            assert list(decision.start) == [id for id in order if id in decision.start]
            assert all((id in self.running) == (restart is not Restart.TEMPORARY) for id, restart in group)
        else:
            assert not decision.stop
            assert not decision.start
            self.ended_normally.add(ended)
        untouched = {id: n for id, n in before.items() if id != ended and id not in dict(group)}
        assert all(self.running.get(id) == incarnation for id, incarnation in untouched.items())

    def group(self, ended: str) -> list[tuple[str, Restart]]:
        items = list(self.specs.items())
        position = [id for id, _ in items].index(ended)
        if self.strategy is Strategy.ONE_FOR_ONE:
            return items[position : position + 1]
        return items[position:] if self.strategy is Strategy.REST_FOR_ONE else items

    def perform(self, decision: Decision) -> None:
        for id in decision.stop:
            del self.running[id]  # KeyError: asked to stop what does not run
        for id in decision.forget:
            del self.specs[id]
        for id in decision.start:
            assert id not in self.running
            self.serial += 1
            self.running[id] = self.serial
            self.ended_normally.discard(id)

    @invariant()
    def every_permanent_child_runs(self) -> None:
        if hasattr(self, "specs") and not self.gone:
            assert all(id in self.running for id, restart in self.specs.items() if restart is Restart.PERMANENT)

    @invariant()
    def only_a_transient_child_that_ended_normally_is_kept_without_running(self) -> None:
        if hasattr(self, "specs") and not self.gone:
            idle = set(self.specs) - set(self.running)
            assert all(self.specs[id] is Restart.TRANSIENT for id in idle)
            assert idle <= self.ended_normally

    @invariant()
    def the_history_never_holds_more_than_the_intensity_allows(self) -> None:
        if hasattr(self, "specs"):
            assert len(recent(self.history, self.now, self.intensity)) <= self.intensity.max_restarts


SupervisorMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestSupervisorMachine = SupervisorMachine.TestCase


def test_the_end_of_an_unknown_child_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        decide(Strategy.ONE_FOR_ONE, [], "nobody", NORMAL, (), 0.0, Intensity())
