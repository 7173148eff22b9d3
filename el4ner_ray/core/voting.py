"""The ensemble's decisions: union of spans, majority vote over types."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from el4ner_ray.schema import Candidate, Span, Vote


def union(extracted: Mapping[str, Sequence[Span]]) -> list[Candidate]:
    """S = U_i M_i(X): every span that any model extracted, sorted, with the models that did in the mapping's order."""
    models: dict[Span, list[str]] = defaultdict(list)
    for model, spans in extracted.items():
        for span in spans:
            models[span].append(model)
    return [Candidate(span, tuple(models[span])) for span in sorted(models)]


def majority(votes: Sequence[Vote]) -> str | None:
    """The label with the most votes; None when all abstain.

    Ties go to the larger summed label probability, then to the label that the earlier vote names: votes stand in the
    order of the models in the configuration.
    """
    count: dict[str, int] = defaultdict(int)
    mass: dict[str, float] = defaultdict(float)
    for vote in votes:
        if vote.label is not None:
            count[vote.label] += 1
            mass[vote.label] += vote.probability
    # max() keeps the first of equals, and dicts keep the order of the votes.
    return max(count, key=lambda label: (count[label], mass[label]), default=None)


def is_decided(votes: Sequence[Vote], outstanding: int) -> bool:
    """Whether no answer of `outstanding` further models can change the majority."""
    count: dict[str, int] = defaultdict(int)
    for vote in votes:
        if vote.label is not None:
            count[vote.label] += 1
    first, second = sorted([*count.values(), 0, 0], reverse=True)[:2]
    return first > second + outstanding


def agreement(votes: Sequence[Vote], label: str) -> float:
    """Score of a voted label: the mean over the models asked of the probability they gave it, in [0, 1].

    A model that voted for another label or abstained counts as 0: only the probability of its own answer is known.
    """
    return sum(vote.probability for vote in votes if vote.label == label) / len(votes)
