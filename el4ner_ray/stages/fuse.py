"""The calibrated method's last stage: all evidence on a candidate as one probability, and what passes the threshold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property

import msgspec
import numpy as np

from el4ner_ray.config import JobConfig
from el4ner_ray.core.evidence import Array, Evidence, Neighbourhood, weigh
from el4ner_ray.core.fusion import Fusion, resolve
from el4ner_ray.core.scaling import Scaling
from el4ner_ray.demonstrations import DemonstrationIndex, read_metadata
from el4ner_ray.schema import DECIDED, DEMONSTRATIONS, SENTENCES, TYPED, Entity, Span
from el4ner_ray.stages.base import Batch, Stage
from el4ner_ray.text_models import Embedder


class Weigher:
    """Evidence for the candidates of a sentence, from the votes and from the labelled pool."""

    def __init__(self, config: JobConfig, labels: Mapping[str, str], index: str) -> None:
        """Load the embedder and map the index."""
        self._models = config.model_names
        self._labels = tuple(labels)
        self._embedder = Embedder(config.demonstrations.embedder)
        self.pool = DemonstrationIndex.read_pool(index)
        types = read_metadata(index)["types"]
        numbers = {number: self._labels.index(type_) for number, type_ in enumerate(types)}
        self._lexicon = DemonstrationIndex.open(index).lexicon(numbers, len(self._labels))

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """The pool sentences of each text: needed to learn from the pool, not to annotate with what was learnt."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, known in enumerate(self.pool):
            numbers[known.text].append(number)
        return numbers

    def weigh(self, sentence: str, candidates: list[Entity], demonstrations: list[int], *, of_pool: bool) -> Evidence:
        """Evidence for a sentence's candidates, whose spans count from its start.

        A sentence of the pool does not testify for itself, nor do others of the same text.
        """
        surfaces = [sentence[c.span.start : c.span.end] for c in candidates]
        without = self._numbers[sentence] if of_pool else ()
        near = self._lexicon.nearest(self._embedder.embed(surfaces), without)
        return weigh(sentence, candidates, self._models, self._labels, near, self._neighbourhood(demonstrations))

    def _neighbourhood(self, demonstrations: list[int]) -> Neighbourhood:
        shown = [self.pool[number] for number in demonstrations]
        with_label = Counter(label for s in shown for label in {entity.type for entity in s.entities})
        total = max(len(shown), 1)
        labels = np.array([with_label[label] / total for label in self._labels])
        return Neighbourhood(sum(not s.entities for s in shown) / total, labels)


class Fuse(Stage):
    """P(entity, type) of every candidate; of those above the threshold, what is left when conflicts are resolved."""

    name = "fuse"
    reads = (SENTENCES, DEMONSTRATIONS, TYPED)
    writes = DECIDED

    def __init__(
        self, config: JobConfig, labels: Mapping[str, str], index: str, fusion: Fusion, threshold: float
    ) -> None:
        """Load the pool and its surfaces. `threshold`: the least probability of what is kept."""
        self._labels = tuple(labels)
        self._fusion, self._threshold = fusion, threshold
        self._weigher = Weigher(config, labels, index)

    async def run(self, batch: Batch) -> list[list[list[Entity]]]:
        """The candidates of each sentence of each row with their probabilities; which of them are kept."""
        typed: list[list[list[Entity]]] = batch.read(TYPED)
        demonstrations: list[list[list[int]]] = batch.read(DEMONSTRATIONS)
        decided: list[list[list[Entity]]] = [[] for _ in typed]
        for row, number, span, text in batch.sentences():
            candidates = moved(typed[row][number], -span.start)
            scored = self._scored(text, candidates, demonstrations[row][number])
            decided[row].append(moved(scored, span.start))
        return decided

    def _scored(self, text: str, candidates: list[Entity], demonstrations: list[int]) -> list[Entity]:
        if not candidates:
            return []
        evidence = self._weigher.weigh(text, candidates, demonstrations, of_pool=False)
        fusion = self._fusion
        scored = score(candidates, fusion.weights.probabilities(evidence), self._labels, fusion.scaling)
        return decide(scored, self._threshold, fusion.nested)


def score(candidates: list[Entity], probabilities: Array, labels: tuple[str, ...], scaling: Scaling) -> list[Entity]:
    """The candidates with their most probable label and its probability, scaled, as the score."""
    best = probabilities[:, 1:].argmax(axis=1)
    scores = scaling(probabilities[np.arange(len(best)), 1 + best])
    return [
        msgspec.structs.replace(candidate, label=labels[label], score=float(value))
        for candidate, label, value in zip(candidates, best, scores, strict=True)
    ]


def decide(scored: list[Entity], threshold: float, nested: bool) -> list[Entity]:
    """The candidates; kept is what passes the threshold, without the conflicts."""
    above = [number for number, entity in enumerate(scored) if entity.score >= threshold]
    chosen = resolve([scored[i].span for i in above], [scored[i].score for i in above], nested)
    kept = {above[i] for i in chosen}
    return [msgspec.structs.replace(entity, kept=number in kept) for number, entity in enumerate(scored)]


def moved(entities: list[Entity], by: int) -> list[Entity]:
    """The entities with their spans shifted by so many code points."""
    return [msgspec.structs.replace(e, span=Span(e.span.start + by, e.span.end + by)) for e in entities]
