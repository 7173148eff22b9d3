"""The documents that a report shows of a run that is too large to show."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable
from typing import Literal

from el4ner_ray.report.shown import Shown

Bound = Literal["documents", "characters"]
"""What keeps further documents out of a sample: that so many were asked for, or that a page has no room for them."""

# Room for a hundred thousand entities (tests/integration/test_report_browser.py); one counts as so many characters.
_CHARACTERS, _CHARACTERS_OF_MARK = 20_000_000, 150


class Sample:
    """The documents whose ids have the smallest hashes: the same ones in whatever order they come.

    They are at most `size`, and no more than have `characters` together, each entity counting, too.
    """

    def __init__(self, size: int, characters: int = _CHARACTERS) -> None:
        self._size = size
        self._room = characters
        self._heap: list[tuple[int, str, Shown]] = []  # the smallest is the first to go
        self._gone: tuple[int, str] | None = None  # the best of those that had to go; nothing worse comes in again

    def add(self, doc_id: str, show: Callable[[], Shown], *, preferred: bool) -> None:
        """Consider a document; those that are not preferred make room for those that are."""
        rank = int.from_bytes(hashlib.sha256(doc_id.encode()).digest()[:8]) + (0 if preferred else 1 << 64)
        key = -rank, doc_id
        if self._gone and key < self._gone:
            return
        shown = show()
        heapq.heappush(self._heap, (*key, shown))
        self._room -= _characters(shown)
        while self._heap and (len(self._heap) > self._size or self._room < 0):
            last_rank, last_id, last = heapq.heappop(self._heap)
            self._gone = last_rank, last_id
            self._room += _characters(last)

    @property
    def bound(self) -> Bound | None:
        """Which bound kept documents out; None where all that were considered are there."""
        if self._gone is None:
            return None
        return "documents" if len(self._heap) == self._size else "characters"

    def documents(self) -> list[Shown]:
        """What was chosen, in the order of the ids: numbers in them by value."""
        return sorted((shown for _, _, shown in self._heap), key=lambda shown: natural(shown.doc_id))


def _characters(shown: Shown) -> int:
    return len(shown.text) + _CHARACTERS_OF_MARK * len(shown.marks)


def natural(name: str) -> tuple[str, str]:
    """A sort key by which `doc-9` comes before `doc-10`."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name
