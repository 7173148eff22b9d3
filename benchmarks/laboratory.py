"""The stages of the method in this process, over labelled sentences, with cached answers: what experiments share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from el4ner_ray import schema
from el4ner_ray.calibration import chosen, learn, operating_point
from el4ner_ray.config import JobConfig
from el4ner_ray.core.fusion import Fusion
from el4ner_ray.core.prompting import Prompts
from el4ner_ray.demonstrations import write_index
from el4ner_ray.engines.base import Ensemble
from el4ner_ray.labelled import LabelledText, labels_of
from el4ner_ray.parts import sentence_rows
from el4ner_ray.pool import origin as origin_of
from el4ner_ray.schema import Annotated, Entity
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.fuse import Fuse
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.text_models import Embedder

# As many sentences as keep their prefixes in 1 GB of each model's cache between two stages.
_BATCH = 48


class Laboratory:
    """A pool with its index, and an ensemble."""

    def __init__(self, config: JobConfig, pool: Sequence[LabelledText], ensemble: Ensemble, folder: Path) -> None:
        """`folder` keeps the indexes, one a configuration of the index."""
        self.config, self.pool, self.ensemble, self._folder = config, list(pool), ensemble, folder
        self.labels = labels_of(self.pool)

    async def index(self) -> str:
        """The folder of the pool's index, built where it is not there."""
        origin = origin_of(self.config, self.pool, self.labels)
        folder = self._folder / f"index-{hashlib.sha256(repr(sorted(origin.items())).encode()).hexdigest()[:12]}"
        if not (folder / "index.json").is_file():
            if self.config.demonstrations.pool_spans == "gold":
                surfaces = [[surface for surface, _ in text.mentions] for text in self.pool]
            else:
                table = await self.run([PreExtract(self.config, self.labels, self.ensemble)], self.pool)
                surfaces = [
                    [text.text[query.span.start : query.span.end] for query in found[0]]
                    for text, found in zip(self.pool, schema.QUERY_SPANS.decode(table), strict=True)
                ]
            embedder = Embedder(self.config.demonstrations.embedder)
            write_index(str(folder), self.pool, surfaces, embedder, origin)
        return str(folder)

    async def run(self, stages: Sequence[Stage], texts: Sequence[LabelledText]) -> pa.Table:
        """The rows of the texts, each one sentence, after all stages."""
        return await self.go_on(stages, _rows(texts))

    async def go_on(self, stages: Sequence[Stage], table: pa.Table) -> pa.Table:
        """The rows after these stages, so many at a time as keep their prefixes cached from one stage to the next."""
        done = []
        for start in range(0, table.num_rows, _BATCH):
            some = table.slice(start, _BATCH)
            for stage in stages:
                some = await stage.annotate(some)
            done.append(some)
        return pa.concat_tables(done)

    def asking(self, index: str, *, without_itself: bool = False) -> list[Stage]:
        """The stages as far as classification."""
        of_job = (self.config, self.labels)
        return [
            PreExtract(*of_job, self.ensemble),
            Retrieve(self.config, index, without_itself),
            Extract(*of_job, index, self.ensemble),
            Classify(*of_job, index, self.ensemble),
        ]

    async def annotated_pool(self, index: str) -> list[Annotated]:
        """The pool sentences to learn from, with demonstrations from the rest."""
        numbers = chosen(len(self.pool), self.config.calibration)
        table = await self.run(self.asking(index, without_itself=True), [self.pool[number] for number in numbers])
        return [Annotated(number, *found) for number, found in zip(numbers, candidates_of(table), strict=True)]

    async def fusion(self, index: str) -> Fusion:
        """What calibration on the pool learns."""
        return learn(self.config, self.labels, index, await self.annotated_pool(index))

    def fuse(self, index: str, fusion: Fusion) -> Fuse:
        """The calibrated method's last stage."""
        return Fuse(self.config, self.labels, index, fusion, operating_point(fusion, self.config.calibration).threshold)


def asking_with(prompts: Prompts, stages: Sequence[Stage]) -> None:
    """Have these stages ask with other prompts than the configured ones; nothing may have been asked before."""
    for stage in stages:
        stage._asker.prompts = prompts


def candidates_of(table: pa.Table) -> list[tuple[list[Entity], list[int]]]:
    """The typed candidates of each row's one sentence, and its demonstrations, after classification."""
    typed, demonstrations = schema.TYPED.decode(table), schema.DEMONSTRATIONS.decode(table)
    return [(row[0], shown[0]) for row, shown in zip(typed, demonstrations, strict=True)]


def typed(entities: Sequence[Entity]) -> set[tuple[int, int, str]]:
    """Entities as `core.evaluation` takes them."""
    return {(entity.span.start, entity.span.end, entity.label) for entity in entities}


def _rows(texts: Sequence[LabelledText]) -> pa.Table:
    return sentence_rows([text.id for text in texts], [0] * len(texts), [text.text for text in texts], batch=0)
