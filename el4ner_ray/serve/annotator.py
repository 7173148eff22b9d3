"""The stages of the method over the sentences of one request, in this process, on engines that all requests share."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pyarrow as pa

from el4ner_ray.config import JobConfig
from el4ner_ray.core.fusion import Fusion
from el4ner_ray.core.grouping import grouped
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.engines.base import Ensemble
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledText
from el4ner_ray.parts import table_of_parts
from el4ner_ray.schema import SENTENCES, Span
from el4ner_ray.serve.computing import Computing
from el4ner_ray.splitting import each_part
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.fuse import Fuse
from el4ner_ray.stages.given import Given
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.stages.segment import Segment
from el4ner_ray.stages.verify import Verify

Method = Literal["paper", "calibrated"]

# Label sets whose prompts and demonstrations are kept rendered.
_KEPT_RECIPES = 32


Step = tuple[Stage, Callable[[pa.Table], Awaitable[pa.Table]]]


@dataclass(frozen=True)
class Sentence:
    """A sentence of a request. `text` starts at `start`, in code points, of the document of that number."""

    document: int
    number: int
    start: int
    text: str


@dataclass(frozen=True)
class Recipe:
    """The label set, where demonstrations are from, and the stages after segmentation, each with what runs it."""

    labels: dict[str, str]
    demonstrations: Literal["pool", "given", "none"]
    method: Method
    steps: tuple[Step, ...]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In the order in which they run."""
        return tuple(stage for stage, _ in self.steps)


@dataclass(frozen=True)
class ServedPool:
    """The folder of an index, its label set, and what calibration learnt from it with the threshold, if it did."""

    index: str
    labels: dict[str, str]
    sentences: int
    fusion: tuple[Fusion, float] | None


@dataclass(frozen=True)
class _Request:
    labels: tuple[tuple[str, str], ...]
    demonstrations: tuple[LabelledText, ...]
    method: Method
    from_pool: bool


class Annotator:
    """Chooses the stages for a request and runs them. One a process; requests may run side by side."""

    def __init__(self, config: JobConfig, pool: ServedPool | None, ensemble: Ensemble) -> None:
        """With a pool, the embedder, the tagger and what calibration learnt are loaded here."""
        self.config, self.pool = config, pool
        self._ensemble = ensemble
        self._segment = Segment(config)
        self._sessions = itertools.count()
        # Embedding and tagging compute here; the event loop must go on meanwhile.
        self._thread = ThreadPoolExecutor(1)
        self._retrieve = self._computing(Retrieve(config, pool.index)) if pool else None
        self._pool_sentences = DemonstrationIndex.read_pool(pool.index) if pool else []
        self._fuse = (
            self._computing(Fuse(config, pool.labels, pool.index, *pool.fusion)) if pool and pool.fusion else None
        )
        self._cutting = asyncio.Lock()  # first come, first served
        self._recipe = lru_cache(_KEPT_RECIPES)(self._make_recipe)

    @property
    def labels(self) -> dict[str, str] | None:
        """The label set of requests that name none: the pool's or the configuration's."""
        return self.pool.labels if self.pool else self.config.labels

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that can be asked for."""
        return ("paper", "calibrated") if self.pool and self.pool.fusion else ("paper",)

    def recipe(
        self, labels: Mapping[str, str] | None, demonstrations: Sequence[LabelledText], method: Method | None
    ) -> Recipe:
        """How to annotate with this label set (None: `self.labels`) and method (None: the configuration's).

        Without demonstrations those of the pool are used, where the labels are the pool's. Raises UsageError.
        """
        chosen = labels or self.labels
        if not chosen:
            raise UsageError("labels: this server has no label set of its own; name the types, each with a description")
        for number, shown in enumerate(demonstrations):
            for entity in shown.entities:
                if entity.type not in chosen:
                    raise UsageError(
                        f"demonstrations.{number}.entities: the type {entity.type!r} is not among the labels "
                        f"({', '.join(chosen)}); add it to them or take it out"
                    )
        from_pool = not demonstrations and self.pool is not None and chosen.keys() == self.pool.labels.keys()
        # What was learnt from the pool is for its types as they are described there.
        as_learnt = from_pool and _trimmed(chosen) == _trimmed(self.labels or {})
        method = method or (self.config.method if as_learnt else "paper")
        if method == "calibrated":
            if method not in self.methods:
                raise UsageError(
                    "method: this server has no calibrated pool, so calibrated is not to be had; use paper"
                )
            if not as_learnt or not self.labels:
                raise UsageError(
                    "method: calibrated is learnt with the pool's labels and sentences; leave both out, or use paper"
                )
            chosen = self.labels
        return self._recipe(_Request(tuple(chosen.items()), tuple(demonstrations), method, from_pool))

    def _make_recipe(self, request: _Request) -> Recipe:
        labels = dict(request.labels)
        config = self.config.model_copy(update={"method": request.method})
        if request.from_pool and self.pool and self._retrieve:
            source: Literal["pool", "given", "none"] = "pool"
            shown: Sequence[LabelledText] = self._pool_sentences
            before = [_asking(PreExtract(config, labels, self._ensemble)), self._retrieve]
        else:
            source = "given" if request.demonstrations else "none"
            shown = request.demonstrations
            before = [_asking(Given(len(request.demonstrations)))]
        asking = [
            _asking(Extract(config, labels, shown, self._ensemble)),
            _asking(Classify(config, labels, shown, self._ensemble)),
        ]
        if request.method == "calibrated" and self._fuse:
            last = self._fuse
        else:
            last = _asking(Verify(config, labels, shown, self._ensemble))
        return Recipe(labels, source, request.method, (*before, *asking, last))

    def _computing(self, stage: Stage) -> Step:
        return stage, Computing(stage, self._thread)

    async def sentences(self, texts: Sequence[str]) -> AsyncIterator[list[Sentence]]:
        """The sentences of the texts, in order, some at a time; a text without letters and digits has none."""
        limit = self.config.limits.part_characters
        parts = []
        # In the event loop, which is free for others in between.
        for document, text in enumerate(texts):
            for number, (start, end) in enumerate(each_part(text, limit)):
                parts.append(Sentence(document, number, start, text[start:end]))
                await asyncio.sleep(0)
        numbers = [itertools.count() for _ in texts]
        # A sentence takes less than a millisecond, but opening quotation marks the square of their number (sentencex):
        # 8,000 of them 25 ms, a megabyte minutes. One request at a time, so that all of them together hold up others no
        # longer than that.
        for together in grouped(parts, lambda part: len(part.text), limit):
            async with self._cutting:
                table = await self._segment(_rows(together, session=0))
                await asyncio.sleep(0)
            found = []
            for part, spans in zip(together, SENTENCES.decode(table), strict=True):
                for span in spans:
                    text = part.text[span.start : span.end]
                    found.append(Sentence(part.document, next(numbers[part.document]), part.start + span.start, text))
            yield found

    async def steps(self, recipe: Recipe, sentences: Sequence[Sentence]) -> AsyncIterator[tuple[Stage, pa.Table]]:
        """Each stage with the table that it leaves, one row a sentence, in order; they travel together."""
        table = _rows(sentences, next(self._sessions))
        spans = [[Span(0, len(sentence.text))] for sentence in sentences]
        table = table.append_column(SENTENCES.name, SENTENCES.encode(spans))
        for stage, run in recipe.steps:
            table = await run(table)
            yield stage, table


def _trimmed(labels: Mapping[str, str]) -> dict[str, str]:
    # As the page and other forms send descriptions.
    return {label: description.strip() for label, description in labels.items()}


def _asking(stage: Stage) -> Step:
    return stage, stage.annotate


def _rows(sentences: Sequence[Sentence], session: int) -> pa.Table:
    return table_of_parts(
        [str(sentence.document) for sentence in sentences],
        [sentence.number for sentence in sentences],
        [sentence.start for sentence in sentences],
        [sentence.text for sentence in sentences],
        [None] * len(sentences),
        session,
    )
