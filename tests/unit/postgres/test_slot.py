from __future__ import annotations

from syncline.actors.postgres.lsn import Lsn
from syncline.actors.postgres.slot import PreconditionError, SlotState, slot_name


def test_a_slot_is_named_after_its_database_in_the_characters_slots_allow() -> None:
    assert slot_name("shop") == "electric_replication_out_shop"
    assert slot_name("My-Shop") == "electric_replication_out_my_shop"
    assert len(slot_name("x" * 63)) == 63


def test_a_slot_stands_one_past_what_was_confirmed() -> None:
    state = SlotState("s", False, None, Lsn(1), Lsn(101), "reserved", 0, 0)
    assert state.done == 100


def test_an_unmet_condition_says_what_to_do() -> None:
    error = PreconditionError("wal_level is replica", "set it to logical")
    assert str(error) == "wal_level is replica: set it to logical"
    assert error.hint == "set it to logical"
