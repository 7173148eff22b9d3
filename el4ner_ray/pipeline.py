"""The spine: corpus -> segment -> pre_extract -> retrieve -> extract -> classify -> verify or fuse -> sink."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset

from el4ner_ray import schema, tracing
from el4ner_ray.config import JobConfig
from el4ner_ray.core.fusion import Fusion
from el4ner_ray.errors import FatalError
from el4ner_ray.labelled import LabelledText
from el4ner_ray.parts import sentence_rows
from el4ner_ray.schema import DEMONSTRATIONS, QUERY_SPANS, TYPED, Annotated
from el4ner_ray.sink import AnnotationSink, FileSummary, spent_on
from el4ner_ray.source import CorpusSource
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.fuse import Fuse
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.stages.segment import Segment
from el4ner_ray.stages.verify import Verify

_TYPING = (Segment, PreExtract, Retrieve, Extract, Classify)
STAGES: dict[str, tuple[type[Stage], ...]] = {"paper": (*_TYPING, Verify), "calibrated": (*_TYPING, Fuse)}

Step = tuple[type[Stage], tuple[Any, ...]]
"""A stage and the arguments of its constructor."""

# Stages wait for engines most of the time. Whole CPUs for seven operators would leave a small machine waiting for ever;
# read and write tasks ask for a little more, so that Ray does not fuse them with a stage and each shows its progress.
_STAGE_CPUS, TASK_CPUS = 0.05, 0.1

# Pool sentences that are sent together. Nothing waits for them but the index, so the engines may be kept full.
_POOL_BATCH = 16


def annotate(
    source: CorpusSource,
    config: JobConfig,
    labels: Mapping[str, str],
    index: str,
    fusion: tuple[Fusion, float] | None,
    sink: AnnotationSink,
) -> None:
    """Run the whole method over the corpus; returns when the last row is committed.

    `fusion` is what the calibrated method learnt, and its threshold; None for the paper's method.
    """
    with tracing.run():
        documents = apply_all(read(source), method(config, labels, index, fusion))
        documents.write_datasink(sink, ray_remote_args={"num_cpus": TASK_CPUS})


def cpus(config: JobConfig) -> float:
    """Logical CPUs without which a run stands still: of its stages, of a task that reads and of one that writes."""
    actors = len(STAGES[config.method]) - 1 + config.limits.retrievers
    return actors * _STAGE_CPUS + 2 * TASK_CPUS


def method(config: JobConfig, labels: Mapping[str, str], index: str, fusion: tuple[Fusion, float] | None) -> list[Step]:
    """The stages in their order, each with its arguments. `fusion` as in `annotate`."""
    return [
        (Segment, (config,)),
        (PreExtract, (config, labels)),
        (Retrieve, (config, index)),
        (Extract, (config, labels, index)),
        (Classify, (config, labels, index)),
        (Verify, (config, labels, index)) if fusion is None else (Fuse, (config, labels, index, *fusion)),
    ]


def apply_all(documents: Dataset, steps: Sequence[Step]) -> Dataset:
    """The stages over a data set, one after another. Raises TypeError when one reads a column that none writes."""
    check_chain(stage for stage, _ in steps)
    for stage, arguments in steps:
        documents = apply(documents, stage, *arguments)
    return documents


def extract_pool(
    pool: list[LabelledText], config: JobConfig, labels: Mapping[str, str]
) -> tuple[list[list[str]], FileSummary]:
    """The surfaces that the models, asked zero-shot, extract from each pool sentence, in pool order, and what it cost.

    Raises FatalError when an engine could not answer: an index with holes would serve all later runs.
    """
    sentences = apply(ray.data.from_arrow(pool_blocks(pool, range(len(pool)))), PreExtract, config, labels)
    surfaces: list[list[str]] = [[] for _ in pool]
    costs = FileSummary()
    for table in sentences.iter_batches(batch_size=None, batch_format="pyarrow"):
        _refuse_holes(table, (PreExtract,))
        costs.add(spent_on(table, (PreExtract.name,)))
        numbers = table.column(schema.PART).to_pylist()
        for number, found in zip(numbers, QUERY_SPANS.decode(table), strict=True):
            text = pool[number].text
            surfaces[number] = [text[query.span.start : query.span.end] for query in found[0]]
    return surfaces, costs


def annotate_pool(
    pool: list[LabelledText], numbers: Sequence[int], config: JobConfig, labels: Mapping[str, str], index: str
) -> tuple[list[Annotated], FileSummary]:
    """The pool sentences of these numbers as far as classification, shown demonstrations from the rest, and the costs.

    Raises FatalError when an engine could not answer: what is learnt from them serves all later runs.
    """
    sentences = ray.data.from_arrow(pool_blocks(pool, numbers))
    sentences = apply(sentences, PreExtract, config, labels)
    sentences = apply(sentences, Retrieve, config, index, True)
    sentences = apply(sentences, Extract, config, labels, index)
    sentences = apply(sentences, Classify, config, labels, index)
    annotated: list[Annotated] = []
    costs = FileSummary()
    for table in sentences.iter_batches(batch_size=None, batch_format="pyarrow"):
        _refuse_holes(table, (PreExtract, Extract, Classify))
        costs.add(spent_on(table, (stage.name for stage in (PreExtract, Retrieve, Extract, Classify))))
        of_rows = zip(
            table.column(schema.PART).to_pylist(), TYPED.decode(table), DEMONSTRATIONS.decode(table), strict=True
        )
        annotated += [Annotated(number, typed[0], chosen[0]) for number, typed, chosen in of_rows]
    return sorted(annotated, key=lambda sentence: sentence.number), costs


def _refuse_holes(table: pa.Table, stages: Iterable[type[Stage]]) -> None:
    for stage in stages:
        for failures in schema.failures_column(stage.name).decode(table):
            for lost in failures:
                if lost.kind == "engine":
                    raise FatalError(f"pool: {lost.model} could not answer for a sentence: {lost.reason}")


def read(source: CorpusSource) -> Dataset:
    """The corpus as a data set of parts, in blocks that are the batches of all stages."""
    DataContext.get_current().target_max_block_size = source.block_bytes
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, num_cpus=TASK_CPUS)


def apply(documents: Dataset, stage: type[Stage], config: JobConfig, *arguments: Any) -> Dataset:
    """A stage over a data set, as an operator of its own."""
    # The other stages wait for engines, for which one actor is enough.
    actors = config.limits.retrievers if stage is Retrieve else 1
    in_flight = math.ceil(config.limits.batches_in_flight / actors)
    return documents.map_batches(
        stage,
        fn_constructor_args=(config, *arguments),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=_STAGE_CPUS,
        compute=ActorPoolStrategy(
            size=actors, max_tasks_in_flight_per_actor=in_flight, max_concurrent_calls_per_actor=in_flight
        ),
    )


def check_chain(stages: Iterable[type[Stage]]) -> None:
    """Raise TypeError when a stage reads a column that no earlier stage writes."""
    written: set[str] = set()
    for stage in stages:
        missing = [column.name for column in stage.reads if column.name not in written]
        if missing:
            raise TypeError(f"stage {stage.name} reads {', '.join(missing)}, which no stage before it writes")
        written.add(stage.writes.name)


def pool_blocks(pool: list[LabelledText], numbers: Sequence[int]) -> list[pa.Table]:
    """These pool sentences as rows; PART carries their number, and each text is one sentence.

    The numbers of the batches follow each other, so that they take the replicas in turn.
    """
    blocks = []
    for batch, start in enumerate(range(0, len(numbers), _POOL_BATCH)):
        some = list(numbers[start : start + _POOL_BATCH])
        blocks.append(sentence_rows([pool[n].id for n in some], some, [pool[n].text for n in some], batch=batch))
    return blocks
