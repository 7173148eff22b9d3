"""A run as it is seen while it goes on: the first annotated documents, and how far it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import pyarrow.compute as pc

from el4ner_ray import parquet
from el4ner_ray.accounting import Committed
from el4ner_ray.errors import UsageError
from el4ner_ray.results import AnnotatedDocument, first_parts
from el4ner_ray.schema import PART
from el4ner_ray.show import on_one_line
from el4ner_ray.sink import ANNOTATIONS, Place

logger = logging.getLogger(__name__)

Say = Callable[[str], None]

_FIRST_DOCUMENTS, _CHARACTERS = 3, 160
# Listing the folder costs a request on object stores, and time where a run has made many files.
_LEAST_PAUSE_SECONDS, _PAUSE_PER_LISTING = 2.0, 50.0
_REPORT_SECONDS = 30.0


class Progress:
    """What is committed so far, and what of it was told."""

    def __init__(self, place: Place, total: int, say: Say, before: Committed) -> None:
        """`total` documents are to be in the folder when the run is done; those there `before` it are not told."""
        self._place, self._total, self._say = place, total, say
        self._began = time.monotonic()
        self._files = set(before.files)
        self._documents = before.documents
        # When the first documents came, and how many there were then: filling the pipeline takes longer than the rate
        # at which it goes on lets expect.
        self._first: tuple[float, int] | None = None
        self._told = self._began
        self._shown = 0

    def look(self) -> None:
        """Tell of what was committed since the last look: the first documents at once, numbers now and then."""
        before = self._documents
        for path in self._new_files():
            self._count(path)
            self._show_first(path)
        came = self._documents > before
        if came and (self._first is None or time.monotonic() - self._told >= _REPORT_SECONDS):
            self._told = time.monotonic()
            self._say(self._how_far())
        if came and self._first is None:
            self._first = time.monotonic(), self._documents

    def _new_files(self) -> list[str]:
        return sorted(set(self._place.files(ANNOTATIONS, ".parquet")) - self._files)

    def _count(self, path: str) -> None:
        """Count the documents that begin in a file. One that cannot be read for once is new to the next look, too."""
        with self._place.open(path) as file:
            parts = parquet.table(file, [PART]).column(PART)
        self._documents += pc.sum(pc.equal(parts, 0)).as_py() or 0
        self._files.add(path)

    def _show_first(self, path: str) -> None:
        if self._shown >= _FIRST_DOCUMENTS:
            return
        with self._place.open(path) as file:
            for document in islice(first_parts(file), _FIRST_DOCUMENTS - self._shown):
                self._say(f"{on_one_line(document.doc_id)}: {marked(document, _CHARACTERS)}")
                self._shown += 1

    def _how_far(self) -> str:
        now = time.monotonic()
        told = f"{self._documents} of {self._total} documents after {_duration(now - self._began)}"
        if self._first is None:
            return told
        since, before = self._first
        left = (now - since) / (self._documents - before) * (self._total - self._documents)
        return f"{told}, about {_duration(left)} left"


def marked(document: AnnotatedDocument, characters: int) -> str:
    """The beginning of a text on one line, outermost entities as `[Ada Lovelace | person]`."""
    shown, position = [], 0
    for entity in sorted(document.entities, key=lambda e: (e.start, -e.end)):
        if entity.start >= position and entity.end <= characters:
            shown += [document.text[position : entity.start], f"[{entity.text} | {entity.type}]"]
            position = entity.end
    shown.append(document.text[position:characters])
    return on_one_line("".join(shown)) + (" …" if len(document.text) > characters else "")


@contextmanager
def watched(place: Place, total: int, say: Say, before: Committed) -> Iterator[None]:
    """Tell of a run's progress into `place` while the block runs, from a thread of its own.

    The arguments are those of `Progress`.
    """
    progress, done = Progress(place, total, say, before), threading.Event()

    def watch() -> None:
        pause = _LEAST_PAUSE_SECONDS
        while not done.wait(pause):
            began = time.monotonic()
            try:
                progress.look()
            except (OSError, UsageError) as error:
                # The run itself will say so if its output cannot be reached.
                logger.warning("progress cannot be read: %s", error)
            pause = max(_LEAST_PAUSE_SECONDS, _PAUSE_PER_LISTING * (time.monotonic() - began))

    thread = threading.Thread(target=watch, name="el4ner-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
