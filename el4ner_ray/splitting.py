"""Long texts into parts, cut where readers would cut them."""

from __future__ import annotations

import unicodedata

import regex

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
_GRAPHEME = regex.compile(r"\X")
_CONTEXT = 256  # flags are pairs of letters counted from the first of a row: more than 128 flags in a row may be cut


def split_parts(text: str, limit: int) -> list[tuple[int, int]]:
    """Half-open ranges of at most `limit` code points that follow each other and cover the text; [(0, 0)] if empty.

    A cut lies in the second half of what fits: after a paragraph, else a line, else a sentence, else white space, else
    anywhere between graphemes. Only a grapheme that leaves no such place (longer than half the limit) is cut itself.
    """
    ranges = []
    start = 0
    while len(text) - start > limit:
        end = _cut(text, start, start + limit)
        ranges.append((start, end))
        start = end
    return [*ranges, (start, len(text))]


def _cut(text: str, start: int, high: int) -> int:
    low = high - (high - start) // 2
    for pattern in _CUTS:
        for match in reversed(list(pattern.finditer(text, low, high))):
            if _between_graphemes(text, start, match.end()):
                return int(match.end())
    return next((place for place in range(high, low - 1, -1) if _between_graphemes(text, start, place)), high)


def _between_graphemes(text: str, start: int, place: int) -> bool:
    here = text[place - 1 : place + 1]
    if here.isascii():
        return here != "\r\n"
    # After a line break even a combining mark is a grapheme of its own; it still must not begin a part.
    if here[1] == "\u200d" or unicodedata.category(here[1]).startswith("M"):
        return False
    return any(match.end() == place for match in _GRAPHEME.finditer(text, max(start, place - _CONTEXT), place + 1))
