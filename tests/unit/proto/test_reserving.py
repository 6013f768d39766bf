"""What a device and a server say about values of sequences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.unit.proto.conversation import streaming

from syncline.proto.blocks import Block
from syncline.proto.errors import ProtocolError
from syncline.proto.events import (
    ReleaseDone,
    ReleaseRequested,
    Reserved,
    ReserveRefused,
    ReserveRequested,
)
from syncline.proto.session import ClientSession


def test_values_of_a_sequence_are_reserved_and_given_back() -> None:
    talk = streaming()
    talk.server.extensions = True
    blocks = (Block(1, 91, 10), Block(-5, -7, -1), Block(8, 8, 1))
    assert talk.server.receive(talk.client.reserve("items", "id", 12, 3)) == [ReserveRequested(3, "items", "id", 12, 3)]
    assert talk.client.receive(talk.server.reserved(3, blocks)) == ([Reserved("items", "id", blocks)], [])
    talk.server.receive(talk.client.reserve("items", "id", 1, 0))
    refusal = talk.server.reserve_refused(4, "EXHAUSTED", "no more")
    assert talk.client.receive(refusal) == ([ReserveRefused("items", "id", "EXHAUSTED", "no more")], [])
    assert talk.server.receive(talk.client.release("items", "id", blocks)) == [
        ReleaseRequested(5, "items", "id", blocks)
    ]
    assert talk.client.receive(talk.server.released(5)) == ([ReleaseDone()], [])


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda client: client.reserve("items", "id", 0, 0), "1 to 10000 values"),
        (lambda client: client.reserve("items", "id", 10_001, 0), "1 to 10000 values"),
        (lambda client: client.reserve("items", "id", 10_000, 10_001), "at most 20000 values"),
        (lambda client: client.release("items", "id", [Block(1, 2, 0)]), "not a block"),
        (lambda client: client.release("items", "id", [Block(1, 2, -1)]), "not a block"),
        (lambda client: client.release("items", "id", [Block(1, 4, 2)]), "not a block"),
        (lambda client: client.release("items", "id", [Block(1, 1, 1)] * 4_001), "more than 4000 blocks"),
    ],
)
def test_no_device_gets_or_gives_what_is_none(wrong: Callable[[ClientSession], bytes], what: str) -> None:
    talk = streaming()
    talk.server.extensions = True
    with pytest.raises(ProtocolError, match=what):
        talk.server.receive(wrong(talk.client))


@pytest.mark.parametrize("method", ["reserve", "release"])
def test_a_device_without_extensions_has_no_values(method: str) -> None:
    talk = streaming()
    call = talk.client.reserve("items", "id", 1, 0) if method == "reserve" else talk.client.release("items", "id", [])
    with pytest.raises(ProtocolError, match=f"no method '{method}'"):
        talk.server.receive(call)
