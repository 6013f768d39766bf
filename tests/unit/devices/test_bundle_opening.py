"""Where a bundle stands when it opens."""

from __future__ import annotations

from syncline.actors.devices.bundle import Bundle
from syncline.actors.shapes.log import Record


def record(lsn: int) -> Record:
    return Record(lsn, 1, "postgres_1", 0, True, 1, b"")


def test_a_bundle_of_quiet_shapes_opens_at_the_watermark() -> None:
    # On an idle database no later watermark would come to release what a device waits for.
    bundle = Bundle(["quiet"], watermark=100)
    bundle.joined("quiet", appended=40)
    assert bundle.open
    assert bundle.released == 100


def test_what_arrived_up_to_the_watermark_before_opening_is_left_to_the_logs() -> None:
    bundle = Bundle(["early", "late"], watermark=0)
    bundle.joined("early", appended=10)
    bundle.arrived([record(20), record(30)])
    assert bundle.watermark(20) == ()
    bundle.joined("late", appended=5)
    assert (bundle.open, bundle.released) == (True, 20)
    assert [frame.lsn for frame in bundle.watermark(30)] == [30]


def test_a_bundle_stays_shut_until_the_watermark_reaches_what_is_in_its_logs() -> None:
    bundle = Bundle(["ahead"], watermark=20)
    bundle.joined("ahead", appended=50)
    assert not bundle.open
    assert bundle.watermark(49) == ()
    assert not bundle.open
    bundle.watermark(50)
    assert (bundle.open, bundle.released) == (True, 50)


def test_what_arrived_beyond_a_shape_that_rests_is_released_with_it() -> None:
    bundle = Bundle(["ahead", "resting"], watermark=30)
    bundle.joined("ahead", appended=10)
    bundle.arrived([record(20)])
    bundle.held("resting", 15)
    bundle.joined("resting", appended=15)
    assert (bundle.open, bundle.released) == (True, 15)
    bundle.held("resting", None)
    assert [frame.lsn for frame in bundle.watermark(30)] == [20]
