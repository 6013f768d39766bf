"""Time that moves only when told."""

from __future__ import annotations

from syncline.cluster import VirtualClock


def test_timers_fire_in_order_each_at_its_own_moment() -> None:
    clock, fired = VirtualClock(), list[tuple[str, float]]()
    for name, delay_s in (("late", 5), ("early", 1), ("same", 5), ("never", 11)):
        clock.call_after(delay_s, lambda name=name: fired.append((name, clock.monotonic_s())))  # type: ignore[misc]
    clock.advance(10)
    assert fired == [("early", 1), ("late", 5), ("same", 5)]
    assert clock.monotonic_s() == 10
    assert clock.next_after_s() == 1


def test_a_timer_set_by_a_timer_fires_in_the_same_stretch_if_it_falls_due() -> None:
    clock, fired = VirtualClock(), list[float]()
    clock.call_after(1, lambda: clock.call_after(1, lambda: fired.append(clock.monotonic_s())))
    clock.advance(3)
    assert fired == [2]


def test_a_cancelled_timer_never_fires() -> None:
    clock, fired = VirtualClock(), list[int]()
    timer = clock.call_after(1, lambda: fired.append(1))
    timer.cancel()
    clock.advance(2)
    timer.cancel()
    assert fired == []
    assert clock.next_after_s() is None


def test_wall_time_moves_with_monotonic_time() -> None:
    clock = VirtualClock(monotonic_s=100, wall_ms=1_000_000)
    clock.advance(1.5)
    assert (clock.monotonic_s(), clock.wall_ms()) == (101.5, 1_001_500)
