"""The spine: corpus -> segment -> pre_extract -> retrieve -> extract -> classify -> verify -> sink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset

from el4ner_ray import schema
from el4ner_ray.config import JobConfig
from el4ner_ray.errors import FatalError
from el4ner_ray.labelled import LabelledText
from el4ner_ray.schema import QUERY_SPANS, SENTENCES, Span
from el4ner_ray.sink import AnnotationSink
from el4ner_ray.source import CorpusSource
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.stages.segment import Segment
from el4ner_ray.stages.verify import Verify

STAGES: tuple[type[Stage], ...] = (Segment, PreExtract, Retrieve, Extract, Classify, Verify)

# Stages wait for engines most of the time. Whole CPUs for seven operators would leave a small machine waiting for ever;
# read and write tasks ask for a little more, so that Ray does not fuse them with a stage and each shows its progress.
_STAGE_CPUS, _TASK_CPUS = 0.05, 0.1

# Pool sentences that are sent together. Nothing waits for them but the index, so the engines may be kept full.
_POOL_BATCH = 16


def annotate(
    source: CorpusSource, config: JobConfig, labels: Mapping[str, str], index: str, sink: AnnotationSink
) -> None:
    """Run the whole method over the corpus; returns when the last row is committed."""
    check_chain(STAGES)
    documents = read(source)
    documents = apply(documents, Segment, config)
    documents = apply(documents, PreExtract, config, labels)
    documents = apply(documents, Retrieve, config, index)
    documents = apply(documents, Extract, config, labels, index)
    documents = apply(documents, Classify, config, labels, index)
    documents = apply(documents, Verify, config, labels, index)
    documents.write_datasink(sink, ray_remote_args={"num_cpus": _TASK_CPUS})


def extract_pool(pool: list[LabelledText], config: JobConfig, labels: Mapping[str, str]) -> list[list[str]]:
    """The surfaces that the models, asked zero-shot, extract from each pool sentence, in pool order.

    Raises FatalError when an engine could not answer: an index with holes would serve all later runs.
    """
    sentences = apply(_pool_dataset(pool), PreExtract, config, labels)
    surfaces: list[list[str]] = [[] for _ in pool]
    for table in sentences.iter_batches(batch_size=None, batch_format="pyarrow"):
        for failures in schema.failures_column(PreExtract.name).decode(table):
            lost = [failure for failure in failures if failure.kind == "engine"]
            if lost:
                raise FatalError(f"index: {lost[0].model} could not answer for a pool sentence: {lost[0].reason}")
        numbers = table.column(schema.PART).to_pylist()
        for number, spans in zip(numbers, QUERY_SPANS.decode(table), strict=True):
            text = pool[number].text
            surfaces[number] = [text[span.start : span.end] for span in spans[0]]
    return surfaces


def read(source: CorpusSource) -> Dataset:
    """The corpus as a data set of parts, in blocks that are the batches of all stages."""
    DataContext.get_current().target_max_block_size = source.block_bytes
    return ray.data.read_datasource(source, override_num_blocks=source.num_tasks, num_cpus=_TASK_CPUS)


def apply(documents: Dataset, stage: type[Stage], config: JobConfig, *arguments: Any) -> Dataset:
    """A stage over a data set, as an operator of its own."""
    in_flight = config.limits.batches_in_flight
    return documents.map_batches(
        stage,
        fn_constructor_args=(config, *arguments),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=_STAGE_CPUS,
        compute=ActorPoolStrategy(
            size=1, max_tasks_in_flight_per_actor=in_flight, max_concurrent_calls_per_actor=in_flight
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


def _pool_dataset(pool: list[LabelledText]) -> Dataset:
    """Pool sentences as rows; PART carries their number, and each text is one sentence."""
    blocks = []
    for start in range(0, len(pool), _POOL_BATCH):
        texts = pool[start : start + _POOL_BATCH]
        numbers = range(start, start + len(texts))
        rows = {
            schema.DOC_ID: [text.id for text in texts],
            schema.PART: list(numbers),
            schema.TEXT_START: [0] * len(texts),
            schema.TEXT: [text.text for text in texts],
            schema.ERROR: [None] * len(texts),
            schema.BATCH: [start] * len(texts),
        }
        table = pa.Table.from_pydict(rows, schema.PART_SCHEMA)
        blocks.append(
            table.append_column(SENTENCES.name, SENTENCES.encode([[Span(0, len(text.text))] for text in texts]))
        )
    return ray.data.from_arrow(blocks)
