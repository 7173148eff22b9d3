"""The evidence on each candidate: who extracted it, how the models type it, its look, and what the pool knows of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import regex
from numpy.typing import NDArray

from el4ner_ray.core.similarity import Floats
from el4ner_ray.schema import Entity, Span

Array = NDArray[np.float64]

# A model is never taken to be surer than this that a label is wrong: beyond it, log-probabilities are noise.
_LEAST_LOGPROB = -8.0
_WORD = regex.compile(r"\S+")


@dataclass(frozen=True)
class Evidence:
    """Features of n candidates. Which column means what is in `names`.

    Attributes:
        shared: (n, s), what speaks for an entity whatever its label.
        labelled: (n, labels, t), what speaks for each label.
    """

    shared: Array
    labelled: Array

    @staticmethod
    def concatenate(parts: Sequence[Evidence]) -> Evidence:
        """The candidates of several sentences, one after another; at least one part."""
        return Evidence(np.concatenate([p.shared for p in parts]), np.concatenate([p.labelled for p in parts]))


@dataclass(frozen=True)
class Neighbourhood:
    """What the demonstrations of a sentence are like: the share without entities, and (labels,) with each label."""

    empty: float
    labels: Array


def names(models: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the columns of `shared` and of `labelled` mean."""
    shared = [f"extracted by {model}" for model in models] + [f"certainty of {model}" for model in models]
    shared += [f"listed by {model}" for model in models]
    shared += [
        "extracted by",
        "listed by",
        "extracted at all",
        "listed by, if extracted",
        "largest agreement",
        "near a non-entity",
        "near an entity",
        "empty demonstrations",
    ]
    shared += ["candidates in the sentence", "inside another", "around another", "crosses another"]
    shared += list(_SHAPES)
    return shared, [f"log-probability by {model}" for model in models] + ["votes", "near the label", "demonstrated"]


def weigh(
    sentence: str,
    candidates: Sequence[Entity],
    models: Sequence[str],
    labels: Sequence[str],
    near: Floats,
    around: Neighbourhood,
) -> Evidence:
    """Evidence for the candidates of one sentence.

    Args:
        sentence: The sentence; the candidates' spans count from its start.
        candidates: Each with one vote a model asked; without one, a model is undecided, and without log-probabilities
            (more than 128 different first tokens) it is told by its vote alone.
        models: The ensemble, in configuration order.
        labels: The label set, in its order.
        near: (n, 1 + labels), `Lexicon.nearest` of the candidates.
        around: What the demonstrations say.
    """
    count = len(labels)
    shared, labelled = [], []
    of_all = _relations([candidate.span for candidate in candidates])
    for candidate, cosines, relations in zip(candidates, near, of_all, strict=True):
        logprobs = np.full((len(models), count), -math.log(count))
        votes = np.zeros(count)
        for vote in candidate.votes:
            if vote.logprobs:
                logprobs[models.index(vote.model)] = np.maximum(vote.logprobs, _LEAST_LOGPROB)
            # Not the most probable one: labels that begin with the same token have the same probability.
            if vote.label is not None:
                votes[labels.index(vote.label)] += 1 / len(models)
        extracted = [float(model in candidate.extracted_by) for model in models]
        listed = [float(model in candidate.listed_by) for model in models]
        listed_share, at_all = sum(listed) / len(models), float(bool(candidate.extracted_by))
        shared.append(
            [
                *extracted,
                *np.exp(logprobs.max(axis=1)),
                *listed,
                sum(extracted) / len(models),
                listed_share,
                at_all,
                listed_share * at_all,
                votes.max(),
                cosines[0],
                cosines[1:].max(),
                around.empty,
                math.log(len(candidates)),
                *relations,
                *shape(sentence, candidate.span),
            ]
        )
        labelled.append(np.stack([*logprobs, votes, cosines[1:], around.labels], axis=1))
    width, depth = (len(columns) for columns in names(models))
    return Evidence(np.array(shared, float).reshape(-1, width), np.array(labelled, float).reshape(-1, count, depth))


def _relations(spans: Sequence[Span]) -> Array:
    """Whether each span lies in, around, or across another one, (spans, 3)."""
    starts = np.array([span.start for span in spans], int)[:, None]
    ends = np.array([span.end for span in spans], int)[:, None]
    overlap = (starts < ends.T) & (ends > starts.T) & ((starts != starts.T) | (ends != ends.T))
    inside = overlap & (starts >= starts.T) & (ends <= ends.T)
    around = overlap & (starts <= starts.T) & (ends >= ends.T)
    crosses = overlap & ~inside & ~around
    return np.stack([relation.any(axis=1) for relation in (inside, around, crosses)], axis=1).astype(float)


_SHAPES = (
    "words",
    "characters",
    "starts with a capital",
    "all words capitalised",
    "all capitals",
    "no capital",
    "a capital after the first letter",
    "digits",
    "only digits and signs",
    "at the start",
    "capitalised at the start",
    "signs",
    "more capitals around",
)


def shape(sentence: str, span: Span) -> tuple[float, ...]:
    """What a surface looks like, in the order of `_SHAPES`. Scripts without case have neither kind of letter."""
    surface = sentence[span.start : span.end]
    words = _WORD.findall(surface)
    letters = [c for c in surface if c.isalpha()]
    first = next((c for c in surface if c.isalnum()), " ")
    start = not any(c.isalnum() for c in sentence[: span.start])
    elsewhere = sentence[: span.start] + sentence[span.end :]
    outside = _WORD.findall(elsewhere)
    return (
        math.log1p(len(words)),
        math.log1p(len(surface)),
        float(first.isupper()),
        float(all(word[0].isupper() for word in words)),
        float(len(letters) > 1 and all(c.isupper() for c in letters)),
        float(any(c.islower() for c in letters) and not any(c.isupper() for c in letters)),
        float(any(c.isupper() for word in words for c in word[1:]) and any(c.islower() for c in letters)),
        float(any(c.isdigit() for c in surface)),
        float(not letters),
        float(start),
        float(start and first.isupper()),
        float(any(not c.isalnum() and not c.isspace() for c in surface)),
        sum(word[0].isupper() for word in outside) / max(len(outside), 1),
    )
