"""Requests from their texts to their answer: admitted, cut into groups of sentences, annotated side by side."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from el4ner_ray.serve.annotator import Annotator, Recipe, Sentence
from el4ner_ray.serve.limits import OF_ONE_REQUEST, Limits, Room
from el4ner_ray.serve.lines import Lines
from el4ner_ray.serve.messages import AnnotateRequest
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.serve.problems import DeadlineError
from el4ner_ray.serve.results import SentenceResult, costs, interim, joined, sentence_results

logger = logging.getLogger(__name__)

Tell = Callable[[dict[str, Any]], None]

# Sentences that travel together: one call a stage and model for all of them, but none is told before all are done.
_GROUP = 8
# After the time limit, for clients that read slowly. What they have not read by then is forgotten.
_SECONDS_TO_READ = 30


@dataclass(frozen=True)
class Work:
    """An admitted request. `tell` gets the events of a stream; None where only the whole answer counts."""

    request: AnnotateRequest
    recipe: Recipe
    sentences: list[Sentence]
    tell: Tell | None = None
    began: float = field(default_factory=time.perf_counter)

    @property
    def facts(self) -> dict[str, Any]:
        """How the request is annotated."""
        recipe = self.recipe
        return {"method": recipe.method, "demonstrations": recipe.demonstrations, "labels": recipe.labels}


class Service:
    """Annotates requests side by side, within the limits."""

    def __init__(self, annotator: Annotator, limits: Limits, metrics: Metrics) -> None:
        """All three are shared by all requests of the process."""
        self.annotator, self.limits, self._metrics = annotator, limits, metrics
        self._room = Room(limits.sentences)
        self._deadlines: set[asyncio.Timeout] = set()
        self._stops_at = math.inf  # time of the event loop
        metrics.watch(lambda: self.in_flight)

    async def answer(self, request: AnnotateRequest) -> bytes:
        """The whole answer as JSON (`messages.AnnotateResponse`).

        Raises UsageError, TooLargeError, BusyError, and DeadlineError when it takes longer than `limits.seconds`.
        """
        async with self._bounded(self._limit()):
            recipe, sentences = await self._understood(request)
            with self._room.admitted(len(sentences)):
                work = Work(request, recipe, sentences)
                results = await self._annotated(work)
        of_document: list[list[SentenceResult]] = [[] for _ in request.texts]
        for result in results:
            of_document[result.sentence.document].append(result)
        return msgspec.json.encode(work.facts | {"documents": list(map(joined, of_document))} | _totals(work, results))

    async def stream(self, request: AnnotateRequest) -> AsyncIterator[bytes]:
        """The answer as lines of JSON, a sentence each as soon as it is done (`messages.StreamLine`).

        Raises as `answer` does, before the first line; what goes wrong later is the last line.
        """
        until = self._limit()
        async with self._bounded(until):
            recipe, sentences = await self._understood(request)
        held = ExitStack()
        held.enter_context(self._room.admitted(len(sentences)))
        lines = Lines(until + _SECONDS_TO_READ)
        work = Work(request, recipe, sentences, lines.tell)
        task = asyncio.create_task(self._streamed(work, lines, until))

        def end(_: object) -> None:
            held.close()
            lines.end()

        # A callback runs even where the task, or whoever reads the lines, was cancelled before it started.
        task.add_done_callback(end)
        return lines.read(task)

    @property
    def in_flight(self) -> int:
        """Sentences that are annotated or wait for it."""
        return self._room.taken

    def finish_within(self, seconds: float) -> None:
        """What takes longer from now on ends as what exceeds `limits.seconds` does: the server stops.

        So does what begins later: a request may have been on its way.
        """
        self._stops_at = asyncio.get_running_loop().time() + seconds
        for deadline in self._deadlines:
            if not deadline.expired():  # else it is about to end, and may not be changed
                deadline.reschedule(min(deadline.when() or self._stops_at, self._stops_at))

    def _limit(self) -> float:
        return asyncio.get_running_loop().time() + self.limits.seconds

    async def _understood(self, request: AnnotateRequest) -> tuple[Recipe, list[Sentence]]:
        shown = [demonstration.labelled(number) for number, demonstration in enumerate(request.demonstrations)]
        recipe = self.annotator.recipe(request.labels, shown, request.method)
        sentences: list[Sentence] = []
        async for found in self.annotator.sentences(request.texts):
            sentences += found
            self._room.check_fits(len(sentences))
        return recipe, sentences

    async def _streamed(self, work: Work, lines: Lines, until: float) -> None:
        sentences = [_place(sentence) for sentence in work.sentences]
        lines.tell({"kind": "start"} | work.facts | {"documents": len(work.request.texts), "sentences": sentences})
        try:
            async with self._bounded(until):
                results = await self._annotated(work)
        except Exception as error:
            if not isinstance(error, DeadlineError):
                logger.exception("a stream ended")
            lines.tell_error(error)
        else:
            lines.tell({"kind": "end"} | _totals(work, results))

    async def _annotated(self, work: Work) -> list[SentenceResult]:
        own = asyncio.Semaphore(OF_ONE_REQUEST)
        size = 1 if work.tell else _GROUP

        async def in_turn(group: list[Sentence]) -> list[SentenceResult]:
            async with own, self._room.in_flight:
                return await self._annotated_group(work, group)

        async with asyncio.TaskGroup() as tasks:
            starts = range(0, len(work.sentences), size)
            groups = [tasks.create_task(in_turn(work.sentences[start : start + size])) for start in starts]
        results = [result for group in groups for result in group.result()]
        self._metrics.annotated(len(results), sum(len(result.entities) for result in results))
        return results

    @asynccontextmanager
    async def _bounded(self, until: float) -> AsyncIterator[None]:
        """Raises DeadlineError at `until`, or when the server has no more time to finish."""
        try:
            async with asyncio.timeout_at(min(until, self._stops_at)) as deadline:
                self._deadlines.add(deadline)
                try:
                    yield
                finally:
                    self._deadlines.remove(deadline)
        except TimeoutError:
            raise DeadlineError(
                "the server is being stopped; try again later"
                if self._stops_at < math.inf
                else f"the texts were not annotated within {self.limits.seconds:g} s; send fewer, or try again later"
            ) from None

    async def _annotated_group(self, work: Work, group: Sequence[Sentence]) -> list[SentenceResult]:
        async for stage, table in self.annotator.steps(work.recipe, group):
            if work.tell and work.request.stages:
                for row, sentence in enumerate(group):
                    if found := interim(stage, sentence, table, row):
                        work.tell({"kind": "stage", "stage": stage.name} | _place(sentence) | found)
        results = list(sentence_results(work.recipe.stages, group, table))
        if work.tell:
            for result in results:
                work.tell({"kind": "sentence"} | _place(result.sentence) | joined([result]))
        return results


def _place(sentence: Sentence) -> dict[str, int]:
    end = sentence.start + len(sentence.text)
    return {"document": sentence.document, "sentence": sentence.number, "start": sentence.start, "end": end}


def _totals(work: Work, results: Sequence[SentenceResult]) -> dict[str, Any]:
    return {
        "sentences": len(results),
        "seconds": round(time.perf_counter() - work.began, 3),
        "stages": costs(results),
    }
