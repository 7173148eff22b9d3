"""What a request may cost, and whose sentences are annotated when: some in flight, some waiting, the others refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from el4ner_ray.errors import El4nerError, UsageError

TEXTS = 100
LABELS = 50
LABEL_CHARACTERS = 100
DESCRIPTION_CHARACTERS = 500
DEMONSTRATIONS = 32
DEMONSTRATION_CHARACTERS = 2_000
ENTITIES = 200
# Of the entities of a demonstration together: nested ones repeat their text, overlapping ones could a hundred times.
ENTITY_CHARACTERS = 2 * DEMONSTRATION_CHARACTERS

# Groups of sentences that travel through the stages at once, in all and of one request: a short request need not wait
# until a long one is done.
IN_FLIGHT = 64
OF_ONE_REQUEST = 8


@dataclass(frozen=True)
class Limits:
    """What can be set. `sentences` are those in flight or waiting, of all requests; `seconds` a request may take."""

    body_bytes: int = 1_000_000
    sentences: int = 500
    seconds: float = 120.0


class TooLargeError(UsageError):
    """More than would be accepted at any time."""


class BusyError(El4nerError):
    """More than there is room for now. `retry_after`: seconds after which it may be otherwise."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Room:
    """The sentences that are in flight or wait."""

    def __init__(self, sentences: int) -> None:
        """Room for so many sentences."""
        self.capacity = sentences
        self.taken = 0
        self.in_flight = asyncio.Semaphore(IN_FLIGHT)  # first come, first served
        self._latest_seconds = 1.0

    def check_fits(self, sentences: int) -> None:
        """Raises TooLargeError where there is never room for so many."""
        if sentences > self.capacity:
            raise TooLargeError(
                f"texts: they have more than {self.capacity} sentences, which is all that fit; send fewer"
            )

    @contextmanager
    def admitted(self, sentences: int) -> Iterator[None]:
        """Holds room for so many while the context lasts; raises TooLargeError or BusyError where there is none."""
        self.check_fits(sentences)
        if self.taken + sentences > self.capacity:
            raise BusyError(
                f"{self.taken} sentences are being annotated or wait, at most {self.capacity} may; try again later",
                min(60, math.ceil(self._latest_seconds)),
            )
        self.taken += sentences
        began = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self.taken -= sentences
            # Room comes free when a request ends: what the latest one took is the best guess when that will be.
            self._latest_seconds = asyncio.get_running_loop().time() - began
