"""How items are put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.core.grouping import grouped


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ((), []),
        ((1, 1, 1, 1), [3, 1]),
        ((5, 5), [2]),
        ((5, 6), [1, 1]),
        ((30, 1, 30), [1, 1, 1]),  # one that is too large by itself goes alone
    ],
)
def test_groups_are_full(sizes: tuple[int, ...], groups: list[int]) -> None:
    assert [len(group) for group in grouped(sizes, int, 10, 3)] == groups


@given(st.lists(st.integers(0, 20)), st.integers(1, 40), st.none() | st.integers(1, 5))
def test_every_item_is_in_one_group_in_order_and_within_both_bounds(
    sizes: list[int], most_size: int, most_items: int | None
) -> None:
    groups = list(grouped(sizes, int, most_size, most_items))
    assert [size for group in groups for size in group] == sizes
    for group in groups:
        assert 1 <= len(group) <= (most_items or len(sizes))
        assert len(group) == 1 or sum(group) <= most_size
