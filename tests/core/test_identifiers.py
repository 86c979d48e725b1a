"""Ids from outside, and the names that are made of several."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasm_sandboxer.core.identifiers import identifier, joined
from wasm_sandboxer.errors import InvalidArgument

IDENTIFIERS = st.from_regex(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*", fullmatch=True).filter(lambda each: len(each) < 77)


@pytest.mark.parametrize("bad", ["", "-", "a--b", "a-", "-a", ".a", "a/b", "a b", "a\n", "x" * 77])
def test_what_containerd_would_not_take_is_no_identifier(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="must be letters and digits"):
        identifier("id", bad)


@given(st.lists(IDENTIFIERS, min_size=1, max_size=3))
def test_a_joined_name_says_what_it_was_made_of(parts: list[str]) -> None:
    assert [identifier("id", part) for part in parts] == parts
    assert joined(*parts).split("--") == parts
