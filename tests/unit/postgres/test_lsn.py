from __future__ import annotations

import pytest

from syncline.actors.postgres.lsn import Lsn


@pytest.mark.parametrize(
    ("text", "value"),
    [("0/0", 0), ("0/16B3748", 0x16B3748), ("16/B374D848", 0x16B374D848), ("FFFFFFFF/FFFFFFFF", 2**64 - 1)],
)
def test_reads_and_prints_as_postgres_does(text: str, value: int) -> None:
    assert Lsn.parse(text) == value
    assert str(Lsn(value)) == text


@pytest.mark.parametrize("text", ["", "16", "16/", "/0", "1/2/3", "x/0", "0/123456789", "0/0 "])
def test_refuses_what_is_no_position(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


def test_positions_compare_as_numbers() -> None:
    assert Lsn.parse("1/0") > Lsn.parse("0/FFFFFFFF")
