"""Stage 0: texts into sentences, as half-open spans of the untouched text."""

from __future__ import annotations

from collections.abc import Iterator

import regex

from el4ner_ray.config import JobConfig
from el4ner_ray.schema import SENTENCES, Span
from el4ner_ray.sentences import sentence_spans
from el4ner_ray.splitting import each_piece
from el4ner_ray.stages.base import Batch, Stage

_LETTER_OR_DIGIT = regex.compile(r"[\p{L}\p{N}]")


class Segment(Stage):
    """Cuts each text into sentences with sentencex; very long ones again at white space."""

    name = "segment"
    writes = SENTENCES

    def __init__(self, config: JobConfig) -> None:
        """Nothing is loaded."""
        self._config = config

    async def run(self, batch: Batch) -> list[list[Span]]:
        """Sentences of each text."""
        return [list(self._sentences(text)) for text in batch.texts]

    def _sentences(self, text: str) -> Iterator[Span]:
        if self._config.segmenter == "none":
            pieces = [Span(0, len(text))]
        else:
            pieces = sentence_spans(self._config.language, text)
        for piece in pieces:
            for start, end in each_piece(text, piece.start, piece.end, self._config.limits.sentence_characters):
                trimmed = trim(text, Span(start, end))
                # What has neither letter nor digit names nothing; no model is asked about it.
                if _LETTER_OR_DIGIT.search(text, trimmed.start, trimmed.end):
                    yield trimmed


def trim(text: str, span: Span) -> Span:
    """The span without white space at its ends."""
    inside = text[span.start : span.end]
    start = span.start + len(inside) - len(inside.lstrip())
    return Span(start, max(start, span.start + len(inside.rstrip())))
