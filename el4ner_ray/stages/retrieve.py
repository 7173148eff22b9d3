"""Stage 2: the pool sentences whose spans are most like the sentence's own become its demonstrations."""

from __future__ import annotations

from el4ner_ray.config import JobConfig
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
        chosen: list[list[list[int]]] = [[] for _ in batch.texts]
        start = 0
        for row, text, of_sentence in zip(rows, texts, weights, strict=True):
            vectors = flat[start : start + len(of_sentence)]
            start += len(of_sentence)
            usage = batch.ledgers[row].usage[self._embedder_name]
            usage.requests += 1
            k = self._k + self._copies(text)
            if of_sentence.sum() > 0 and len(self._index.spans):
                nearest = self._index.by_spans(vectors, of_sentence, k)
            else:
                usage.fallbacks += 1
                nearest = self._index.by_sentence(self._embedder.embed([text])[0], k)
            if self._texts is not None:
                nearest = [number for number in nearest if self._texts[number] != text][: self._k]
            chosen[row].append(nearest)
        return chosen

    def _copies(self, text: str) -> int:
        return self._texts.count(text) if self._texts is not None else 0
