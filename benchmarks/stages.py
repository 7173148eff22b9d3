"""Scenario `stages`: CPU time of each stage in this process, without Ray, and of the two small models beside the LLMs.

What `orchestration` measures above this is the price of Ray Data and Ray Serve. One thread each, as Ray gives a stage.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from threadpoolctl import threadpool_limits

from benchmarks import scripted
from benchmarks.measured import Figure
from el4ner_ray.config import JobConfig, load
from el4ner_ray.core.alignment import align
from el4ner_ray.demonstrations import write_index
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.fake import ScriptedEngine
from el4ner_ray.labelled import labels_of, read_labelled
from el4ner_ray.languages import tagger_for
from el4ner_ray.parts import table_of_parts
from el4ner_ray.pool import origin
from el4ner_ray.schema import Span
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.stages.segment import Segment
from el4ner_ray.stages.verify import Verify
from el4ner_ray.text_models import Embedder, Tagger

_UNIT = "s/1000 sentences"
_DOCUMENT_SENTENCES = 8


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """`documents` of 8 sentences, `batch_documents` of them at a time, with so many distinct names in all."""

    documents: int
    batch_documents: int
    vocabulary: int
    pool: int
    repeats: int


class _Timed:
    """Scripted engines; what they take is no stage's."""

    def __init__(self, config: JobConfig) -> None:
        self._engines = {name: ScriptedEngine(name, config.fake) for name in config.model_names}
        self.seconds = 0.0

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        began = time.process_time()
        completions = await self._engines[model].generate(requests)
        self.seconds += time.process_time() - began
        return completions


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """CPU seconds for 1,000 sentences: the stages with all surfaces embedded before; then each small model alone."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    config = load(profile="fake", overrides={"demonstrations": {"pool_spans": "gold", "tagger": "none"}})
    names = scripted.names(workload.vocabulary)
    texts = _texts(scripted.write_corpus(scratch / "corpus.jsonl", workload.documents, _DOCUMENT_SENTENCES, names))
    ensemble = _Timed(config)
    stages = _stages(config, scripted.write_pool(scratch / "pool.jsonl", workload.pool, names), scratch, ensemble)
    asyncio.run(_run(stages, texts, workload.batch_documents, ensemble))  # embeds every surface
    spent: dict[str, list[float]] = defaultdict(list)
    for _ in range(workload.repeats):
        of_pass = asyncio.run(_run(stages, texts, workload.batch_documents, ensemble))
        for name, seconds in (of_pass | {"all stages": sum(of_pass.values())}).items():
            spent[name].append(seconds)
        for name, seconds in _apart(config, texts, workload.batch_documents).items():
            spent[name].append(seconds)
    sentences = workload.documents * _DOCUMENT_SENTENCES
    return [Figure(name, _UNIT, tuple(1000 * value / sentences for value in values)) for name, values in spent.items()]


async def _run(stages: Sequence[Stage], texts: Sequence[str], batch: int, ensemble: _Timed) -> dict[str, float]:
    """CPU seconds of each stage over all texts, the engines' own left out."""
    spent: dict[str, float] = defaultdict(float)
    for first in range(0, len(texts), batch):
        some = texts[first : first + batch]
        count = len(some)
        table = table_of_parts([str(first)] * count, [0] * count, [0] * count, some, [None] * count, batch=first)
        for stage in stages:
            began, before = time.process_time(), ensemble.seconds
            table = await stage.annotate(table)
            spent[stage.name] += time.process_time() - began - (ensemble.seconds - before)
    return spent


def _apart(config: JobConfig, texts: Sequence[str], batch: int) -> dict[str, float]:
    """CPU seconds of finding the names of each sentence in it, of tagging it, and of embedding names never seen."""
    embedder = Embedder(config.demonstrations.embedder)
    tagger = Tagger(tagger_for("en"), config.demonstrations.weights)
    spent: dict[str, float] = defaultdict(float)
    size = batch * _DOCUMENT_SENTENCES
    sentences = [sentence for text in texts for sentence in text.split("\n")]
    for first in range(0, len(sentences), size):
        some = sentences[first : first + size]
        surfaces = [[word for word in sentence.split() if word[0].isupper()] for sentence in some]
        began = time.process_time()
        spans: list[list[Span]] = [align(text, named)[0] for text, named in zip(some, surfaces, strict=True)]
        aligned = time.process_time()
        tagger.weights(some, spans)
        tagged = time.process_time()
        # A number makes each surface a new one.
        embedder.embed([f"{s} {first + i}" for i, of_sentence in enumerate(surfaces) for s in of_sentence])
        spent["alignment of two names"] += aligned - began
        spent["tagging"] += tagged - aligned
        spent["embedding two new surfaces"] += time.process_time() - tagged
    return spent


def _stages(config: JobConfig, pool: Path, scratch: Path, ensemble: _Timed) -> list[Stage]:
    labelled = read_labelled(str(pool), "pool")
    labels = labels_of(labelled)
    index = str(scratch / "index")
    surfaces = [[surface for surface, _ in text.mentions] for text in labelled]
    write_index(index, labelled, surfaces, Embedder(config.demonstrations.embedder), origin(config, labelled, labels))
    return [
        Segment(config),
        PreExtract(config, labels, ensemble),
        Retrieve(config, index),
        Extract(config, labels, index, ensemble),
        Classify(config, labels, index, ensemble),
        Verify(config, labels, index, ensemble),
    ]


def _texts(corpus: Path) -> list[str]:
    return [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
