"""Agreement of predicted with gold entities: exact span and type, pooled over all documents.

With TP the entities that prediction and gold share, FP those only predicted, FN those only in the gold:

    P = TP / (TP + FP)        R = TP / (TP + FN)        F1 = 2 TP / (2 TP + FP + FN)

which is micro-averaging, as in MUC and CoNLL-2003 (Tjong Kim Sang and De Meulder 2003, section 4) and in seqeval. Where
a denominator is 0 the value is 0, as with seqeval's `zero_division=0`. Entities are compared as sets per document, so
nested ones need no care and one that is predicted twice counts once. Every document of the gold counts, also those
without entities and those without a prediction.

Pure: numpy and msgspec alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from el4ner_ray.core.reliability import Reliability

Typed: TypeAlias = tuple[int, int, str]
"""An entity: the half-open range `[start, end)` of code points, and the type."""


class Score(msgspec.Struct, frozen=True):
    """Counts, and what follows from them. P, R and F1 lie in [0, 1]."""

    true_positives: int = 0
    false_positives: int = 0
    false_negatives: int = 0

    @property
    def precision(self) -> float:
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        return _ratio(self.true_positives, self.support)

    @property
    def f1(self) -> float:
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def support(self) -> int:
        """Entities in the gold."""
        return self.true_positives + self.false_negatives

    def to_json(self) -> dict[str, Any]:
        """The counts and the rates, unrounded."""
        rates = {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.support}
        return rates | msgspec.structs.asdict(self)


class Interval(msgspec.Struct, frozen=True):
    """A confidence interval, both ends included, and how it was found."""

    low: float
    high: float
    confidence: float
    resamples: int
    seed: int


class Evaluation(msgspec.Struct, frozen=True):
    """What `evaluate` found.

    micro: exact span and type, over all types. micro_f1_interval: of its F1; None for fewer than two documents.
    spans: exact span, whatever the type. type_accuracy: of the spans found, the share with a right type; None where no
    span was found. types: exact span and type, by type, most frequent in the gold first, then by name.
    documents: of the gold; with_entities and without_entities count its parts. false_positives_without_entities: what
    was predicted in the latter, and documents_falsely_annotated how many of them it touches.
    missing_documents: ids of the gold that the predictions lack; their entities count as missed.
    ignored_documents: how many predicted documents the gold lacks; they do not count at all.
    reliability: whether the scores mean what they say; None where predictions came without, or there are none.
    """

    micro: Score
    micro_f1_interval: Interval | None
    spans: Score
    type_accuracy: float | None
    types: dict[str, Score]
    documents: int
    with_entities: int
    without_entities: int
    false_positives_without_entities: int
    documents_falsely_annotated: int
    missing_documents: tuple[str, ...]
    ignored_documents: int
    reliability: Reliability | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything as plain dicts, lists and numbers, with P, R and F1 beside the counts."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return content | {
            "micro": self.micro.to_json(),
            "spans": self.spans.to_json(),
            "types": {name: score.to_json() for name, score in self.types.items()},
            "missing_documents": list(self.missing_documents),
        }


def evaluate(
    gold: Mapping[str, Collection[Typed]],
    predicted: Mapping[str, Collection[Typed]],
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compare the predictions with the gold, both by document id; neither order nor duplicates matter.

    It serves any two annotations: the ensemble, one model's votes on the union, a union before verification (its types
    are then of no account, but `spans` is). Raises nothing but what a malformed argument does by itself.
    """
    ids = list(gold)
    gold_sets = [frozenset(gold[id_]) for id_ in ids]
    predicted_sets = [frozenset(predicted.get(id_, ())) for id_ in ids]
    pairs = list(zip(gold_sets, predicted_sets, strict=True))
    per_document = [_score(gold_set, predicted_set) for gold_set, predicted_set in pairs]
    unannotated = [predicted_set for gold_set, predicted_set in pairs if not gold_set]
    return Evaluation(
        micro=_total(per_document),
        micro_f1_interval=bootstrap_f1(per_document, resamples=resamples, seed=seed),
        spans=_total([_score(_spans(gold_set), _spans(predicted_set)) for gold_set, predicted_set in pairs]),
        type_accuracy=_type_accuracy(pairs),
        types=_by_type(pairs),
        documents=len(ids),
        with_entities=len(ids) - len(unannotated),
        without_entities=len(unannotated),
        false_positives_without_entities=sum(map(len, unannotated)),
        documents_falsely_annotated=sum(map(bool, unannotated)),
        missing_documents=tuple(id_ for id_ in ids if id_ not in predicted),
        ignored_documents=sum(id_ not in gold for id_ in predicted),
    )


def bootstrap_f1(
    per_document: Sequence[Score], confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap interval of micro F1 (Efron and Tibshirani 1993, chapter 13).

    None for fewer than two documents: one that is drawn again and again is always the same, and would look certain.

    Documents are resampled, not entities, since the entities of one document are not independent. F1 depends only on
    how often each (TP, FP + FN) is drawn, so documents with equal counts are drawn as one multinomial cell: the same
    distribution as drawing the documents one by one, in a fraction of the time and memory. The same counts give the
    same interval in whatever order the documents come.
    """
    if len(per_document) < 2:
        return None
    counts = np.array([(s.true_positives, s.false_positives + s.false_negatives) for s in per_document], np.int64)
    cells, frequencies = np.unique(counts, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(len(counts), frequencies / len(counts), size=resamples)
    right, wrong = (draws @ cells).T
    found = 2 * right + wrong
    f1 = np.divide(2 * right, found, out=np.zeros(resamples), where=found > 0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(f1, [tail, 1 - tail])
    return Interval(float(low), float(high), confidence, resamples, seed)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _score(gold: Collection[Any], predicted: Collection[Any]) -> Score:
    """Both must be sets."""
    both = len(frozenset(gold) & frozenset(predicted))
    return Score(both, len(predicted) - both, len(gold) - both)


def _total(scores: Sequence[Score]) -> Score:
    return Score(
        sum(score.true_positives for score in scores),
        sum(score.false_positives for score in scores),
        sum(score.false_negatives for score in scores),
    )


def _spans(entities: Collection[Typed]) -> frozenset[tuple[int, int]]:
    return frozenset((start, end) for start, end, _ in entities)


_Pairs: TypeAlias = Sequence[tuple[frozenset[Typed], frozenset[Typed]]]


def _by_type(pairs: _Pairs) -> dict[str, Score]:
    # One pass over the entities, not one a type and document: label sets of hundreds of types exist.
    counts: dict[str, list[int]] = {}
    for gold, predicted in pairs:
        for column, entities in enumerate((gold & predicted, predicted - gold, gold - predicted)):
            for _, _, label in entities:
                counts.setdefault(label, [0, 0, 0])[column] += 1
    scores = {label: Score(*found) for label, found in counts.items()}
    return dict(sorted(scores.items(), key=lambda item: (-item[1].support, item[0])))


def _type_accuracy(pairs: _Pairs) -> float | None:
    """Of the spans that are both in gold and prediction, the share of which a predicted type is a gold type.

    Where each span has one type, as votes give it, that is plain accuracy.
    """
    found = sum(len(_spans(gold) & _spans(predicted)) for gold, predicted in pairs)
    right = sum(len(_spans(gold & predicted)) for gold, predicted in pairs)
    return right / found if found else None
