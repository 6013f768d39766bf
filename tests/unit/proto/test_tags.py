from __future__ import annotations

import pytest

from syncline.proto.errors import ProtocolError
from syncline.proto.tags import Seen, Tag, format_tag, format_tags, observe, parse_tag, parse_tags


def test_a_tag_reads_origin_and_milliseconds() -> None:
    assert parse_tag("postgres_1@1700000000123") == Tag("postgres_1", 1700000000123)
    assert format_tag(Tag("a-b", 7)) == "a-b@7"


def test_an_origin_may_hold_an_at_sign() -> None:
    assert parse_tag("ann@example@5") == Tag("ann@example", 5)


@pytest.mark.parametrize("text", ["", "a", "@1", "a@", "a@-1", "a@1.5", "a@١", "a@" + "9" * 40, "a@ 1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError, match="not a tag"):
        parse_tag(text)


def test_the_same_tags_always_have_the_same_text() -> None:
    assert format_tags(parse_tags(["a@1", "b@2", "postgres_1@2"])) == ("postgres_1@2", "b@2", "a@1")


def test_observing_a_tag_observes_all_earlier_ones_of_that_origin() -> None:
    tags = parse_tags(["postgres_1@0", "A@5", "A@9", "B@7"])
    assert observe(tags, Seen(parse_tags(["postgres_1@100", "A@7"]), "C"), None) == parse_tags(["A@9", "B@7"])


def test_a_new_tag_joins_what_was_not_observed() -> None:
    assert observe(parse_tags(["B@7"]), Seen((), "A"), Tag("A", 3)) == parse_tags(["A@3", "B@7"])
