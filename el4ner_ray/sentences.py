"""Where sentences end, by sentencex, whatever the text is."""

from __future__ import annotations

import logging

import regex
from sentencex import get_sentence_boundaries

from el4ner_ray.schema import Span

logger = logging.getLogger(__name__)

_LINES = regex.compile(r"\R")
_SPACE = regex.compile(r"\s")


def sentence_spans(language: str, text: str) -> list[Span]:
    """Half-open ranges of code points that follow each other and cover the text; none if it is empty."""
    spans = _by_sentencex(language, text)
    if spans is None:
        # It slices bytes before a full stop: "J.A\xa0." is enough (version 1.0.32). Plain spaces are one byte.
        spans = _by_sentencex(language, _SPACE.sub(lambda space: space[0] if space[0] in "\r\n" else " ", text))
    if spans is None:
        logger.warning(
            "sentencex cannot cut a text of %d characters into sentences; its lines stand for them", len(text)
        )
        ends = [*(match.end() for match in _LINES.finditer(text)), len(text)]
        spans = [Span(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]
    return spans


def _by_sentencex(language: str, text: str) -> list[Span] | None:
    """None where it gives up. That is no Exception, so that it would end the process of a stage, and the run."""
    try:
        found = get_sentence_boundaries(language, text)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # each Rust module has a type of its own, which cannot be imported
            raise
        return None
    return [Span(sentence["start_index"], sentence["end_index"]) for sentence in found]
