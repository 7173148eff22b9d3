"""How long an engine had something to do, whatever waited in it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class BusyTime:
    """Adds up the time in which at least one request is in an engine, by the clock of its event loop.

    The time of a request alone tells mostly how many others wait beside it. Of this one, each answer is given the part
    that has passed since the answer before it, so that the sum over all answers is the whole.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._counted_to = 0.0
        self._seconds = 0.0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is in the engine while the block runs, however that ends."""
        self._count()
        self._inside += 1
        try:
            yield
        finally:
            self._count()
            self._inside -= 1

    def since_last(self) -> float:
        """Busy seconds since this was last asked; what nobody was answered for counts for the next answer."""
        self._count()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._inside:
            self._seconds += now - self._counted_to
        self._counted_to = now
