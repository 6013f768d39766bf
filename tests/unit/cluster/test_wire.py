"""What may cross a link, and how it comes out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.cluster.ref import Address, Ref
from syncline.cluster.spec import ChildSpec, Exit, ExitKind, Factory, Restart
from syncline.cluster.testing import probe
from syncline.cluster.wire import Form, Wire, WireError


class Colour(Enum):
    RED = "red"


class Position(int):
    """A kind of int."""


@dataclass(frozen=True)
class Letter:
    text: str
    enclosed: tuple[object, ...] = ()


def no_refs(_: Any) -> Any:
    raise AssertionError("no ref was expected")


def crossed(value: object, *types: type) -> Any:
    wire = Wire(types)
    return wire.decode(wire.encode(value, no_refs), no_refs)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(0, 99), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_values_come_out_as_they_went_in(value: object) -> None:
    assert crossed(value) == value


def test_declared_types_keep_their_type() -> None:
    letter = Letter("hello", (Colour.RED, Position(7), frozenset({1, 2}), Letter("inner")))
    out = crossed(letter, Letter, Colour, Position)
    assert out == letter
    assert type(out.enclosed[1]) is Position


def test_a_dataclass_known_with_other_fields_is_refused() -> None:
    wire, other = Wire([Letter]), Wire()
    other._types[wire._names[Letter]] = Address
    with pytest.raises(WireError, match="not a message"):
        other.decode(wire.encode(Letter("hello"), no_refs), no_refs)


def test_a_child_spec_crosses_when_its_start_is_a_factory() -> None:
    spec = ChildSpec("id", Factory("package.module:name", (1, "two")), Restart.TRANSIENT, name="name")
    assert crossed(spec) == spec
    with pytest.raises(WireError, match="not declared"):
        crossed(ChildSpec("id", lambda: no_refs(None)))


def test_the_cause_of_an_exit_crosses_as_text() -> None:
    out = crossed(Exit(ExitKind.CRASHED, ValueError("why")))
    assert (out.kind, out.cause, out.detail) == (ExitKind.CRASHED, None, "ValueError('why')")


async def test_a_ref_crosses_as_its_address() -> None:
    wire, actor = Wire(), await probe()
    seen: list[Address] = []

    def ref_of(address: Address) -> Ref:
        seen.append(address)
        return actor.ref

    assert wire.decode(wire.encode([actor.ref], lambda ref: ref.address), ref_of) == [actor.ref]
    assert seen == [actor.ref.address]


def test_an_undeclared_type_is_refused_by_both_ends() -> None:
    with pytest.raises(WireError, match="not declared"):
        crossed(Letter("hello"))
    with pytest.raises(WireError, match="not declared"):
        Wire().decode(Wire([Letter]).encode(Letter("hello"), no_refs), no_refs)


def test_a_type_with_a_form_of_its_own_crosses_in_it() -> None:
    forms = {Letter: Form(lambda letter: (letter.text, letter.enclosed), lambda plain: Letter(*plain))}
    wire, letter = Wire([Colour], forms), Letter("hello", ((b"a", None, 2**63), ("nested", -1)))
    assert wire.decode(wire.encode([Colour.RED, letter], no_refs), no_refs) == [Colour.RED, letter]
    with pytest.raises(WireError, match="no form"):
        Wire([Letter, Colour]).decode(wire.encode(letter, no_refs), no_refs)
    with pytest.raises(WireError, match="cannot be encoded"):
        wire.encode(Letter("hello", (object(),)), no_refs)
    other = Wire((), {Letter: Form(lambda letter: letter.text, lambda plain: Letter(*plain))})
    with pytest.raises(WireError, match="not a message"):
        wire.decode(other.encode(Letter("hello"), no_refs), no_refs)


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_raise_a_wire_error(data: bytes) -> None:
    with suppress(WireError):
        Wire([Letter, Colour]).decode(data, lambda address: cast("Ref", address))


def test_only_values_can_be_declared() -> None:
    with pytest.raises(ValueError, match="no dataclass"):
        Wire([object])
