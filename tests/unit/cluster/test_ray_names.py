"""Names of hosts in a Ray cluster: built and taken apart in one place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.cluster.ray_names import RayName

parts = st.text(min_size=1).filter(lambda text: "/" not in text and "@" not in text)


@given(parts, parts, st.integers(min_value=1))
def test_what_was_built_is_taken_apart(service: str, host: str, generation: int) -> None:
    name = RayName(service, host, generation)
    assert RayName.parse(str(name)) == name


def test_the_first_generation_is_not_spelled_out() -> None:
    assert str(RayName("mydb-1a2b3c4d", "edge-0")) == "mydb-1a2b3c4d/edge-0"
    assert str(RayName("mydb-1a2b3c4d", "edge-0", 2)) == "mydb-1a2b3c4d/edge-0@2"


@pytest.mark.parametrize("text", ["", "origin", "a/b/c", "/b", "a/", "a/b@", "a/b@0", "a/b@x", "a/b@1@2"])
def test_a_strangers_name_is_no_name_of_ours(text: str) -> None:
    assert RayName.parse(text) is None


@pytest.mark.parametrize(("service", "host"), [("", "b"), ("a", ""), ("a/b", "c"), ("a", "b@2")])
def test_parts_that_would_be_read_otherwise_are_refused(service: str, host: str) -> None:
    with pytest.raises(ValueError, match="no name"):
        RayName(service, host)
