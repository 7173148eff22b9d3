"""Texts cut for display: into passages of bounded length, and those into segments that begin or end no entity inside.

A browser counts UTF-16 units where this project counts code points, so the page gets pieces of text, never offsets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise

from el4ner_ray.report.shown import Mark

PASSAGE_CHARACTERS = 3_000

Segment = str | tuple[str, list[int]]
"""Plain text, or text with the numbers of the marks that cover it, the outermost first."""

_BREAKS = ("\n", "。", ". ", " ")  # from the best place to cut to the worst


def passages(text: str, marks: Sequence[Mark]) -> Iterator[tuple[int, int, list[Mark]]]:
    """Start and end of each passage, in code points of `text`, and the marks in it; none is cut in two.

    Passages follow each other without a gap; an empty text is one empty passage.
    """
    ordered = sorted(marks, key=lambda mark: (mark.start, mark.end))
    covered = _merged(ordered)
    starts = [mark.start for mark in ordered]
    for start, end in _cuts(text, covered):
        yield start, end, ordered[bisect_left(starts, start) : bisect_left(starts, end)]


def lanes(marks: Sequence[Mark]) -> list[int]:
    """For each mark a line below the text, from 0, so that those that overlap have different ones, the outer lower."""
    chosen = [0] * len(marks)
    placed: list[int] = []
    for number in sorted(range(len(marks)), key=lambda number: marks[number].end - marks[number].start):
        mark = marks[number]
        overlapping = (other for other in placed if marks[other].start < mark.end and mark.start < marks[other].end)
        # One below all that it overlaps: the first free lane could lie between an inner mark and its text.
        chosen[number] = max((chosen[other] + 1 for other in overlapping), default=0)
        placed.append(number)
    return chosen


def segments(text: str, start: int, end: int, marks: Sequence[Mark], lane_of: Sequence[int]) -> list[Segment]:
    """`text[start:end]` in pieces; `marks` lie within it, `lane_of` is what `lanes` says of them."""
    edges = {start, end} | {mark.start for mark in marks} | {mark.end for mark in marks}
    starting: dict[int, list[int]] = {}
    for number, mark in enumerate(marks):
        starting.setdefault(mark.start, []).append(number)
    pieces: list[Segment] = []
    covering: list[int] = []
    for left, right in pairwise(sorted(edges)):
        covering = [number for number in covering if marks[number].end > left] + starting.get(left, [])
        covering.sort(key=lambda number: -lane_of[number])
        pieces.append((text[left:right], covering) if covering else text[left:right])
    return pieces


def _merged(ordered: Sequence[Mark]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for mark in ordered:
        if ranges and mark.start < ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], mark.end))
        else:
            ranges.append((mark.start, mark.end))
    return ranges


def _cuts(text: str, covered: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    starts = [start for start, _ in covered]
    begin = 0
    while len(text) - begin > PASSAGE_CHARACTERS:
        cut = _break(text, begin + PASSAGE_CHARACTERS // 2, begin + PASSAGE_CHARACTERS)
        before = bisect_left(starts, cut) - 1
        if before >= 0:
            cut = max(cut, covered[before][1])
        yield begin, cut
        begin = cut
    if begin < len(text) or not text:
        yield begin, len(text)


def _break(text: str, low: int, high: int) -> int:
    for separator in _BREAKS:
        found = text.rfind(separator, low, high)
        if found >= 0:
            return found + len(separator)
    return high
