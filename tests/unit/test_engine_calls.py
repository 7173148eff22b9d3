"""How requests are put into calls to an engine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.engines.base import Request
from el4ner_ray.engines.client import calls_of


def asked(*lengths: int) -> list[Request]:
    return [Request(("x" * length,)) for length in lengths]


@pytest.mark.parametrize(
    ("lengths", "calls"),
    [
        ((), []),
        ((1, 1, 1, 1), [3, 1]),
        ((5, 5), [2]),
        ((5, 6), [1, 1]),
        ((30, 1, 30), [1, 1, 1]),  # one that is too long by itself goes alone
    ],
)
def test_calls_are_full(lengths: tuple[int, ...], calls: list[int]) -> None:
    assert [len(call) for call in calls_of(asked(*lengths), 3, 10)] == calls


@given(st.lists(st.integers(0, 20)), st.integers(1, 5), st.integers(1, 40))
def test_every_request_is_in_one_call_in_order_and_within_both_bounds(
    lengths: list[int], most: int, characters: int
) -> None:
    requests = asked(*lengths)
    calls = list(calls_of(requests, most, characters))
    assert [request for call in calls for request in call] == requests
    for call in calls:
        assert 1 <= len(call) <= most
        assert len(call) == 1 or sum(len(request.turns[0]) for request in call) <= characters
