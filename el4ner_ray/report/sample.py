"""The documents that a report shows of a run that is too large to show."""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Callable

from el4ner_ray.report.shown import Shown


class Sample:
    """The `size` documents whose ids have the smallest hashes: the same ones in whatever order they come."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._heap: list[tuple[int, str, Shown]] = []  # the smallest is the first to go

    def add(self, doc_id: str, show: Callable[[], Shown], *, preferred: bool) -> None:
        """Consider a document; those that are not preferred make room for those that are."""
        rank = int.from_bytes(hashlib.sha256(doc_id.encode()).digest()[:8]) + (0 if preferred else 1 << 64)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (-rank, doc_id, show()))
        elif self.size and (-rank, doc_id) > self._heap[0][:2]:
            heapq.heapreplace(self._heap, (-rank, doc_id, show()))

    def documents(self) -> list[Shown]:
        """What was chosen, in the order of the ids: numbers in them by value."""
        return sorted((shown for _, _, shown in self._heap), key=lambda shown: natural(shown.doc_id))


def natural(name: str) -> tuple[str, str]:
    """A sort key by which `doc-9` comes before `doc-10`."""
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name), name
