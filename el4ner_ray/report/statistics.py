"""What a report counts over a whole run: one document at a time, in memory that does not grow with the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Generic, TypeVar

from el4ner_ray import parquet
from el4ner_ray.core.bins import bin_of
from el4ner_ray.results import AnnotatedDocument
from el4ner_ray.sink import ERRORS, Place

BINS = 20

Key = TypeVar("Key", bound=Hashable)
Failed = tuple[str, str, str, str]  # kind, stage, model, reason


class Frequent(Generic[Key]):
    """Counts of the most frequent keys: exact for up to twice `capacity` different ones.

    Beyond that, rare keys are dropped (Misra and Gries 1982, in batches): a count is then at most `missing` too low,
    and `missing` is at most the number of additions divided by `capacity`.
    """

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._counts: Counter[Key] = Counter()
        self.missing = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, key: Key) -> None:
        self._counts[key] += 1
        if len(self._counts) > 2 * self._capacity:
            floor = sorted(self._counts.values(), reverse=True)[self._capacity]
            self._counts = Counter({key: count - floor for key, count in self._counts.items() if count > floor})
            self.missing += floor

    def top(self, number: int) -> list[tuple[Key, int]]:
        """The most frequent keys with their counts; equal ones in the order of the keys."""
        return sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:number]


class Histogram:
    """Scores in [0, 1] by equal bins."""

    def __init__(self) -> None:
        self.bins = [0] * BINS

    def add(self, score: float) -> None:
        self.bins[bin_of(score, BINS)] += 1


@dataclass(frozen=True)
class Agreement:
    """Two models: spans of the output that both or either extracted; spans typed by both, and with the same type.

    `asked_alike`: whether both were asked for a type wherever any model was. Else one of them was asked only where the
    others disagreed, and how often they have the same type there says nothing about the rest.
    """

    first: str
    second: str
    both: int
    either: int
    voted: int
    same: int
    asked_alike: bool

    @property
    def shared_spans(self) -> float:
        """Jaccard index of the two models' spans, in [0, 1]; 0 where neither has one."""
        return self.both / self.either if self.either else 0.0

    @property
    def shared_types(self) -> float:
        """Of the spans that both gave a type, the share with the same one; 0 where there is none."""
        return self.same / self.voted if self.voted else 0.0


@dataclass
class Statistics:
    """Counts over the documents added so far. `types` counts entities; the sets name all that occurs in evidence."""

    documents: int = 0
    without_entities: int = 0
    types: Counter[str] = field(default_factory=Counter)
    voted_types: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    surfaces: Frequent[tuple[str, str]] = field(default_factory=Frequent)
    scores: Histogram = field(default_factory=Histogram)
    _extractors: Counter[tuple[str, ...]] = field(default_factory=Counter)
    _put_to_vote: int = 0
    _asked: Counter[str] = field(default_factory=Counter)
    _voted: Counter[tuple[str, str]] = field(default_factory=Counter)
    _same: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def entities(self) -> int:
        """Entities of all types."""
        return self.types.total()

    def add(self, document: AnnotatedDocument) -> None:
        """Count a document."""
        self.documents += 1
        self.without_entities += not document.entities
        for entity in document.entities:
            self.types[entity.type] += 1
            self.surfaces.add((entity.text, entity.type))
            self.scores.add(entity.score)
            self._extractors[entity.extracted_by] += 1
            self.models.update(entity.extracted_by, (model for model, _ in entity.votes))
            self._put_to_vote += bool(entity.votes)
            self._asked.update(model for model, _ in entity.votes)
            votes = sorted((model, type_) for model, type_ in entity.votes if type_ is not None)
            self.voted_types.update(type_ for _, type_ in votes)
            for (first, one), (second, other) in combinations(votes, 2):
                self._voted[first, second] += 1
                self._same[first, second] += one == other

    def ranked_types(self) -> list[tuple[str, int]]:
        """Types with their entities, most frequent first, then by name."""
        return sorted(self.types.items(), key=lambda item: (-item[1], item[0]))

    def agreements(self, models: Sequence[str]) -> list[Agreement]:
        """Each pair of `models`, in their order."""
        return [self._agreement(first, second) for first, second in combinations(models, 2)]

    def _agreement(self, first: str, second: str) -> Agreement:
        found = [({first, second} & set(names), count) for names, count in self._extractors.items()]
        first_key, second_key = sorted((first, second))
        return Agreement(
            first=first,
            second=second,
            both=sum(count for names, count in found if len(names) == 2),
            either=sum(count for names, count in found if names),
            voted=self._voted[first_key, second_key],
            same=self._same[first_key, second_key],
            asked_alike=self._asked[first] == self._asked[second] == self._put_to_vote,
        )


def count_failures(place: Place) -> Frequent[Failed]:
    """The error rows of a run by kind, stage, model and reason; a model that is not known is an empty string."""
    failures: Frequent[Failed] = Frequent()
    columns = ["kind", "stage", "model", "reason"]
    for path in place.files(ERRORS, ".parquet"):
        with parquet.whole_errors(path), place.open(path) as file:
            for batch in map(parquet.valid, parquet.batches(file, columns)):
                for key in _rows(batch.select(columns).to_pydict().values()):
                    failures.add(key)
    return failures


def _rows(columns: Iterable[list[str | None]]) -> Iterable[Failed]:
    for kind, stage, model, reason in zip(*columns, strict=True):
        yield kind or "", stage or "", model or "", reason or ""
