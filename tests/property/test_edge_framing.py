"""Frames against an independent implementation: whatever it writes, however it is cut, is read as it was meant."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol

from syncline.actors.devices.framing import (
    MESSAGE_TOO_BIG,
    Closing,
    FrameReader,
    FrameRefused,
    Ping,
    Pong,
    close_frame,
    header,
    unmask,
)

sizes = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536]) | st.integers(0, 300)
events = st.lists(
    st.tuples(st.just("message"), st.lists(sizes, min_size=1, max_size=4))
    | st.tuples(st.sampled_from(["ping", "pong"]), st.integers(0, 125)),
    max_size=6,
)


def client() -> Protocol:
    return Protocol(CLIENT, state=OPEN)


def drain(reader: FrameReader) -> list[object]:
    found = []
    while (message := reader.next()) is not None:
        found.append(message)
    return found


@given(events, st.data())
def test_what_a_client_writes_is_read_however_it_is_cut(planned: list[tuple[str, object]], data: st.DataObject) -> None:
    writer, expected = client(), []
    for kind, size in planned:
        if kind == "message":
            assert isinstance(size, list)
            parts = [os.urandom(n) for n in size]
            writer.send_binary(parts[0], fin=len(parts) == 1)
            for index, fragment in enumerate(parts[1:], start=2):
                writer.send_continuation(fragment, fin=index == len(parts))
            expected.append(b"".join(parts))
        else:
            assert isinstance(size, int)
            payload = os.urandom(size)
            (writer.send_ping if kind == "ping" else writer.send_pong)(payload)
            expected.append(Ping(payload) if kind == "ping" else Pong(payload))
    wire = b"".join(writer.data_to_send())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reader, found = FrameReader(1 << 20, 1 << 20), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        reader.feed(wire[start:end])
        found += drain(reader)
    assert found == expected
    assert reader.buffered_bytes == 0


@given(sizes)
def test_what_we_write_a_client_reads(size: int) -> None:
    payload = os.urandom(size)
    reader = client()
    reader.receive_data(header(size) + payload)
    assert reader.events_received() == [Frame(Opcode.BINARY, payload)]


@given(st.integers(3000, 4999), st.text())
def test_a_close_reason_of_any_length_is_cut_to_fit(code: int, reason: str) -> None:
    reader = client()
    reader.receive_data(close_frame(code, reason))
    assert reader.close_rcvd is not None
    assert reader.close_rcvd.code == code
    assert reason.encode(errors="replace").decode().startswith(reader.close_rcvd.reason)


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking_twice_is_nothing(payload: bytes, mask: bytes) -> None:
    masked = unmask(payload, mask)
    assert masked == bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    assert unmask(masked, mask) == payload


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_any_bytes_are_messages_or_a_refusal_and_never_held_beyond_the_limit(chunks: list[bytes]) -> None:
    reader = FrameReader(64, 64)
    try:
        for chunk in chunks:
            reader.feed(chunk)
            for message in drain(reader):
                assert isinstance(message, Ping | Pong | Closing) or (isinstance(message, bytes) and len(message) <= 64)
            assert reader.buffered_bytes <= 64 + 64 + 14
    except FrameRefused as refused:
        assert close_frame(refused.code, refused.reason)  # noqa: PT017 - either outcome is right


@given(st.integers(65, 1 << 62))
def test_an_announced_length_above_the_limit_is_refused_before_its_bytes_arrive(size: int) -> None:
    head = bytearray(header(size))
    head[1] |= 0x80
    reader = FrameReader(64, 64)
    reader.feed(bytes(head))
    with pytest.raises(FrameRefused) as caught:
        reader.next()
    assert caught.value.code == MESSAGE_TOO_BIG
