"""Long texts into parts, cut where readers would cut them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import regex

from el4ner_ray.core.graphemes import ends_of_graphemes

# Where to cut, best first. Each pattern ends where the next part may start.
_CUTS = tuple(
    regex.compile(pattern)
    for pattern in (
        r"\R\s*\R|\u2029",
        r"\R",
        r"[.!?…]['\"’”»)\]]*\s+|[。！？｡؟۔।॥።။។]['\"’”」』）》\])]*\s*",
        r"\s+",
    )
)
_CONTEXT = 256  # before the first place for a cut: a row of flags that begins earlier may be counted wrongly and cut


def split_parts(text: str, limit: int) -> list[tuple[int, int]]:
    """Half-open ranges of at most `limit` code points that follow each other and cover the text; [(0, 0)] if empty.

    A cut lies in the second half of what fits: after a paragraph, else a line, else a sentence, else white space, else
    anywhere between graphemes. Only a grapheme that leaves no such place (longer than half the limit) is cut itself.
    """
    return list(each_part(text, limit))


def each_part(text: str, limit: int) -> Iterator[tuple[int, int]]:
    """The same one by one: each takes milliseconds at most."""
    return _pieces(text, 0, len(text), limit, _CUTS)


def each_piece(text: str, start: int, stop: int, limit: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges of at most `limit` code points that cover `text[start:stop]`, cut at white space alone.

    As `split_parts` where there is none.
    """
    return _pieces(text, start, stop, limit, _CUTS[-1:])


def _pieces(
    text: str, start: int, stop: int, limit: int, cuts: Sequence[regex.Pattern[str]]
) -> Iterator[tuple[int, int]]:
    while stop - start > limit:
        end = _cut(text, start, start + limit, cuts)
        yield start, end
        start = end
    yield start, stop


def _cut(text: str, start: int, high: int, cuts: Sequence[regex.Pattern[str]]) -> int:
    low = high - (high - start) // 2

    @cache
    def ends() -> frozenset[int]:
        # All at once: a text may have thousands of places that look like one for a cut and are none.
        return ends_of_graphemes(text, max(start, low - _CONTEXT), high + 1)

    def is_between_graphemes(place: int) -> bool:
        here = text[place - 1 : place + 1]
        if here.isascii():
            return here != "\r\n"
        # After a line break even a combining mark is a grapheme of its own; it still must not begin a part.
        if here[1] == "\u200d" or unicodedata.category(here[1]).startswith("M"):
            return False
        return place in ends()

    for pattern in cuts:
        for match in reversed(list(pattern.finditer(text, low, high))):
            if is_between_graphemes(match.end()):
                return int(match.end())
    return next(filter(is_between_graphemes, range(high, low - 1, -1)), high)
