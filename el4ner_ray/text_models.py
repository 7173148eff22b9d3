"""The two small models beside the LLMs: the sentence embedder and the part-of-speech tagger."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from el4ner_ray.core.similarity import Floats
from el4ner_ray.engines.bundled import resolve
from el4ner_ray.errors import FatalError
from el4ner_ray.languages import NO_TAGGER
from el4ner_ray.schema import Span

logger = logging.getLogger(__name__)

# Surfaces repeat a lot in an archive; 100,000 vectors of 384 numbers are 150 MB.
_CACHED_VECTORS = 100_000


class Embedder:
    """A sentence-transformers model that remembers the surfaces it has seen."""

    def __init__(self, source: str) -> None:
        """Load the model; raises FatalError when that fails."""
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(resolve(source), device="cpu")
        except (OSError, ValueError) as error:
            raise FatalError(f"demonstrations.embedder: cannot load {source}: {error}") from error
        self._dimension: int = self._model.get_embedding_dimension()
        self._known: dict[str, Floats] = {}

    def embed(self, texts: Sequence[str]) -> Floats:
        """(n, d) unit vectors, one a text."""
        unknown = list(dict.fromkeys(text for text in texts if text not in self._known))
        if len(self._known) + len(unknown) > _CACHED_VECTORS:
            self._known.clear()
            unknown = list(dict.fromkeys(texts))
        if unknown:
            vectors = self._model.encode(unknown, normalize_embeddings=True, show_progress_bar=False)
            self._known.update(zip(unknown, vectors, strict=True))
        if not texts:
            return np.empty((0, self._dimension), np.float32)
        return np.stack([self._known[text] for text in texts]).astype(np.float32)


class Tagger:
    """Weights spans by the universal part of speech of their head word, with a spaCy pipeline."""

    def __init__(self, source: str, weights: Mapping[str, float]) -> None:
        """Load the pipeline, `none` loads nothing; raises FatalError when that fails."""
        self._source, self._weights = source, weights
        self._told = False
        self._nlp: Any = None
        if source != NO_TAGGER:
            import spacy

            try:
                self._nlp = spacy.load(resolve(source), exclude=["ner", "lemmatizer"])
            except OSError as error:
                raise FatalError(f"demonstrations.tagger: cannot load {source}: {error}") from error

    def weights(self, sentences: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[Floats]:
        """One weight for each span of each sentence, from the word that heads the span in its sentence."""
        if self._nlp is None:
            return [np.ones(len(of_sentence), np.float32) for of_sentence in spans]
        result = [np.empty(0, np.float32) for _ in spans]
        # A sentence without spans has nothing to weigh; tagging is the slowest step that is not an LLM's.
        asked = [number for number, of_sentence in enumerate(spans) if of_sentence]
        # Else every new word stays in spaCy's tables for ever.
        with self._nlp.memory_zone():
            for number, doc in zip(asked, self._nlp.pipe(sentences[number] for number in asked), strict=True):
                self._tell_without_heads(doc)
                heads = [doc.char_span(s.start, s.end, alignment_mode="expand").root.pos_ for s in spans[number]]
                result[number] = np.array([self._weights.get(pos, self._weights["other"]) for pos in heads], np.float32)
        return result

    def _tell_without_heads(self, doc: Any) -> None:
        """Once: without a parse, spaCy takes the first word for the head, "Stadt" of "Stadt Köln"."""
        if not self._told and not doc.has_annotation("DEP"):
            self._told = True
            logger.warning(
                "demonstrations.tagger: %s has no parser, so the first word of each span stands for its head; name a "
                "pipeline with a parser, or `none` for equal weights",
                self._source,
            )
