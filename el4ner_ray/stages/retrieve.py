"""Stage 2: the pool sentences whose spans are most like the sentence's own become its demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from el4ner_ray.config import JobConfig
from el4ner_ray.core.similarity import Floats
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.schema import DEMONSTRATIONS, QUERY_SPANS, SENTENCES, Candidate, Span
from el4ner_ray.stages.base import Batch, Stage
from el4ner_ray.text_models import Embedder, Tagger


class Retrieve(Stage):
    """Span-level similarity, weighted by part of speech; whole-sentence similarity where there is nothing to weigh."""

    name = "retrieve"
    reads = (SENTENCES, QUERY_SPANS)
    writes = DEMONSTRATIONS

    def __init__(self, config: JobConfig, index: str, without_itself: bool = False) -> None:
        """Load embedder and tagger (a few seconds) and map the index.

        `without_itself` is for sentences of the pool: none becomes a demonstration for its own text.
        """
        settings = config.demonstrations
        self._k = settings.k
        self._index = DemonstrationIndex.open(index)
        self._embedder = Embedder(settings.embedder)
        self._embedder_name = settings.embedder
        self._tagger = Tagger(settings.tagger, settings.weights)
        self._texts = [text.text for text in DemonstrationIndex.read_pool(index)] if without_itself else None

    async def run(self, batch: Batch) -> list[list[list[int]]]:
        """Pool indices for each sentence of each row, best first."""
        queries: list[list[list[Candidate]]] = batch.read(QUERY_SPANS)
        rows, texts, spans = [], [], []
        for row, number, sentence, text in batch.sentences():
            rows.append(row)
            texts.append(text)
            found = [query.span for query in queries[row][number]]
            spans.append([Span(span.start - sentence.start, span.end - sentence.start) for span in found])
        weights = self._tagger.weights(texts, spans)
        # One call embeds all spans of the batch: the model is several times faster on many short texts than on few.
        flat = self._embedder.embed(
            [text[span.start : span.end] for text, found in zip(texts, spans, strict=True) for span in found]
        )
        bounds = np.cumsum([0, *map(len, spans)])
        vectors = [flat[start:end] for start, end in pairwise(bounds)]
        chosen: list[list[list[int]]] = [[] for _ in batch.texts]
        nearest = self._nearest(texts, vectors, weights)
        for row, text, of_sentence, by_spans in zip(rows, texts, weights, nearest, strict=True):
            usage = batch.ledgers[row].usage[self._embedder_name]
            usage.requests += 1
            usage.fallbacks += not self._tells(of_sentence)
            if self._texts is not None:
                by_spans = [number for number in by_spans if self._texts[number] != text][: self._k]
            chosen[row].append(by_spans)
        return chosen

    def _nearest(self, texts: Sequence[str], vectors: Sequence[Floats], weights: Sequence[Floats]) -> list[list[int]]:
        """Pool indices for each sentence, the sentence itself among them where the pool has it."""
        ks = [self._k + self._copies(text) for text in texts]
        telling = [number for number, of_sentence in enumerate(weights) if self._tells(of_sentence)]
        by_spans = self._index.by_spans(
            [vectors[number] for number in telling],
            [weights[number] for number in telling],
            [ks[number] for number in telling],
        )
        nearest = dict(zip(telling, by_spans, strict=True))
        others = [number for number in range(len(texts)) if number not in nearest]
        embedded = self._embedder.embed([texts[number] for number in others])
        for number, vector in zip(others, embedded, strict=True):
            nearest[number] = self._index.by_sentence(vector, ks[number])
        return [nearest[number] for number in range(len(texts))]

    def _tells(self, weights: Floats) -> bool:
        return bool(weights.sum() > 0 and len(self._index.span_of))

    def _copies(self, text: str) -> int:
        return self._texts.count(text) if self._texts is not None else 0
