"""User-perceived characters (extended grapheme clusters, UAX 29): nothing ends inside one."""

from __future__ import annotations

import regex

# For a long row of flags, which are pairs of letters, \X takes the cube of its length.
_GRAPHEME = regex.compile(r"\p{RI}\p{RI}[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}]*|\X")


def ends_of_graphemes(text: str, start: int, stop: int) -> frozenset[int]:
    """Where the user-perceived characters of `text[start:stop]` end, as places in `text`; `start` begins one."""
    return frozenset(match.end() for match in _GRAPHEME.finditer(text, start, stop))
