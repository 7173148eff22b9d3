"""Union, majority, ties, abstentions, and when further votes cannot matter."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.core.voting import agreement, is_decided, majority, union
from el4ner_ray.schema import Candidate, Span, Vote

A, B, C = "person", "place", "product"


def votes(*given: tuple[str | None, float]) -> list[Vote]:
    return [Vote(f"m{i}", label, probability) for i, (label, probability) in enumerate(given)]


@pytest.mark.parametrize(
    ("cast", "winner"),
    [
        (votes((A, 0.5), (A, 0.5), (B, 0.99)), A),
        (votes((A, 0.5), (B, 0.6), (C, 0.7)), C),  # a tie goes to the larger probability
        (votes((B, 0.5), (A, 0.5), (C, 0.5)), B),  # then to the first model in the configuration
        (votes((None, 0.0), (B, 0.1), (None, 0.0)), B),  # an abstention is no vote
        (votes((A, 0.3), (B, 0.2), (A, 0.1), (B, 0.9)), B),
        (votes((None, 0.0), (None, 0.0)), None),
        ([], None),
    ],
)
def test_majority(cast: list[Vote], winner: str | None) -> None:
    assert majority(cast) == winner


ballots = st.lists(st.tuples(st.sampled_from([A, B, C, None]), st.floats(0, 1)), max_size=5)


@given(ballots, st.integers(0, 2))
def test_decided_means_that_no_further_votes_can_change_the_majority(
    cast: list[tuple[str | None, float]], outstanding: int
) -> None:
    if not is_decided(votes(*cast), outstanding):
        return
    for more in itertools.product([A, B, C, "other", None], repeat=outstanding):
        assert majority(votes(*cast, *((label, 1.0) for label in more))) == majority(votes(*cast))


def test_a_vote_is_open_while_the_outstanding_models_can_tie_it() -> None:
    assert not is_decided(votes((A, 0.9), (B, 0.9)), 1)
    assert not is_decided(votes((A, 0.9)), 1)
    assert not is_decided([], 0)
    assert is_decided(votes((A, 0.9), (A, 0.1)), 1)
    assert is_decided(votes((A, 0.9), (None, 0.0)), 0)


def test_agreement_is_the_mean_probability_over_the_models_asked() -> None:
    assert agreement(votes((A, 0.9), (A, 0.6), (B, 0.8)), A) == pytest.approx(0.5)


def test_union_keeps_who_found_what_in_the_order_of_the_models() -> None:
    found = {"x": [Span(4, 6), Span(0, 2)], "y": [], "z": [Span(0, 2), Span(0, 6)]}
    assert union(found) == [
        Candidate(Span(0, 2), ("x", "z")),
        Candidate(Span(0, 6), ("z",)),
        Candidate(Span(4, 6), ("x",)),
    ]
