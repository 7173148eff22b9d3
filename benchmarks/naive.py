"""Scenario `naive`: the method with a prompt of its own for each question, and nothing shared.

Each stage has its own instructions and shows demonstrations of its own question only, so no prompt starts like another
stage's; engines keep no prefixes; every model is asked for every type. Equal requests of a call run once on both sides.
The pipeline's stages run in this process for both, one model computing at a time.

With `answers: scripted` no model computes: scripted engines answer, the models' tokenizers count the prompts, and the
prefix cache is a simulated one that never runs out. That gives the tokens, and neither F1 nor time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from benchmarks.answers import CachedEnsemble
from benchmarks.laboratory import Laboratory, asking_with
from benchmarks.measured import Figure
from benchmarks.prefixes import ScriptedEnsemble
from benchmarks.task import Task
from el4ner_ray.config import JobConfig
from el4ner_ray.core.prompting import LabelledSentence, Prompts, one_line
from el4ner_ray.engines.base import Completion, Ensemble, Request
from el4ner_ray.schema import DECIDED, Entity
from el4ner_ray.stages.base import Batch, Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.verify import Verify


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """All models of the profile where `models` is empty."""

    data: list[str]
    sentences: int
    pool: int
    k: int
    profile: str
    models: list[str]
    answers: Literal["real", "scripted"]
    repeats: int


class Metered:
    """An ensemble whose computed prompt tokens are added up. Equal requests of a call run once."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble
        self.computed_tokens = 0

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        """One completion a request, in order."""
        asked = list(dict.fromkeys(requests))
        answer = dict(zip(asked, await self._ensemble.ask(model, asked, session), strict=True))
        self.computed_tokens += sum(c.prompt_tokens - c.cached_tokens for c in answer.values())
        return [answer[request] for request in requests]


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Ratios of computed prompt tokens and of wall time, and the difference in F1, for each data set."""
    figures = []
    for data in workload.data:
        tokens, seconds, f1, shared_tokens = [], [], [], []
        task = Task.of(
            data, workload.profile, workload.models, workload.sentences, workload.pool,
            k=workload.k, pool_spans="gold",
        )  # fmt: skip
        for number in range(workload.repeats):
            shared = _run(task, workload.answers, scratch / f"{data}-{number}-shared", naive=False)
            naive = _run(task, workload.answers, scratch / f"{data}-{number}-naive", naive=True)
            tokens.append(shared[0] / naive[0])
            seconds.append(shared[1] / naive[1])
            f1.append(shared[2] - naive[2])
            shared_tokens.append(shared[0] / len(task.gold))
        figures.append(Figure(f"computed prompt tokens {data}", "of naive", tuple(tokens)))
        figures.append(Figure(f"computed prompt tokens a sentence {data}", "tokens", tuple(shared_tokens)))
        if workload.answers == "real":
            figures.append(Figure(f"wall time {data}", "of naive", tuple(seconds)))
            figures.append(Figure(f"F1 difference {data}", "", tuple(f1)))
    return figures


def _run(task: Task, answers: str, folder: Path, *, naive: bool) -> tuple[float, float, float]:
    """Computed prompt tokens, seconds and F1."""
    folder.mkdir(parents=True, exist_ok=True)
    config = without_prefix_cache(task.config) if naive else task.config
    if answers == "scripted":
        inner: ScriptedEnsemble | CachedEnsemble = ScriptedEnsemble(config)
    else:
        (folder / "answers.sqlite").unlink(missing_ok=True)  # nothing may be known before
        inner = CachedEnsemble(config, folder / "answers.sqlite")
    try:
        metered = Metered(inner)
        laboratory = Laboratory(config, task.pool, metered, folder.parent)
        return asyncio.run(_annotate(task, laboratory, metered, naive))
    finally:
        inner.close()


async def _annotate(task: Task, laboratory: Laboratory, metered: Metered, naive: bool) -> tuple[float, float, float]:
    index = await laboratory.index()
    asking = laboratory.asking(index)
    stages: list[Stage] = [*asking, Verify(laboratory.config, laboratory.labels, index, metered)]
    if naive:
        stages[3] = NaiveClassify(laboratory.config, laboratory.labels, index, metered)
        prompts = NaivePrompts(laboratory.config.prompts, laboratory.labels)
        asking_with(prompts, stages[2:])
    # Engines start with the first question; their start counts on neither side.
    await asyncio.gather(*(metered.ask(m, [Request(("Hello",), 1)], "") for m in laboratory.config.model_names))
    metered.computed_tokens = 0
    began = time.perf_counter()
    table = await laboratory.run(stages, task.gold)
    seconds = time.perf_counter() - began
    decided: list[list[list[Entity]]] = DECIDED.decode(table)
    return float(metered.computed_tokens), seconds, task.f1([row[0] for row in decided])


def without_prefix_cache(config: JobConfig) -> JobConfig:
    """The same with engines that compute every prompt whole."""
    models = [
        model.model_copy(update={"engine": model.engine | {"enable_prefix_caching": False}}) for model in config.models
    ]
    return config.model_copy(update={"models": tuple(models)})


class NaiveClassify(Classify):
    """Asks every model about every surface."""

    async def _vote(self, batch: Batch, ballots: list[Any]) -> None:
        for model in self._asker.models:
            await self._ask(batch, model, ballots)


class NaivePrompts(Prompts):
    """One turn a question, each with its own instructions and demonstrations of that question alone."""

    def __init__(self, version: str, labels: Mapping[str, str]) -> None:
        super().__init__(version, labels)
        self._known: dict[tuple[str, ...], LabelledSentence] = {}
        self._asked: dict[tuple[str, ...], tuple[str, Sequence[LabelledSentence]]] = {}

    def demonstration(self, sentence: LabelledSentence) -> tuple[str, ...]:
        """The sentence with its entities, without their types."""
        shown = super().demonstration(sentence)[:2]
        self._known[shown] = sentence
        return shown

    def extraction(self, sentence: str, demonstrations: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """The pipeline's own instructions, for extraction alone."""
        turns = super().extraction(sentence, demonstrations)
        self._asked[turns] = sentence, [self._known[shown] for shown in demonstrations]
        return turns

    def classification(self, extraction: Sequence[str], surfaces: Sequence[str], surface: str) -> tuple[str, ...]:
        """Instructions, demonstrations with types, the sentence, the surface."""
        sentence, demonstrations = self._asked[tuple(extraction)]
        shown = "".join(
            f"Sentence: {one_line(d.text)}\n" + "".join(f"Type of {one_line(s)}: {t}\n" for s, t in d.entities) + "\n"
            for d in demonstrations
        )
        head = f"Give the type of a name in a sentence. Types: {', '.join(self._labels)}.\n\n"
        turns = (f"{head}{shown}Sentence: {one_line(sentence)}\nType of {one_line(surface)}:",)
        self._asked[turns] = sentence, demonstrations
        return turns

    def verification(self, classification: Sequence[str], surface: str, label: str) -> tuple[str, ...]:
        """Instructions, demonstrations with true statements, the sentence, the statement."""
        sentence, demonstrations = self._asked[tuple(classification)]
        shown = "".join(
            f"Sentence: {one_line(d.text)}\n"
            + "".join(f"True or false: {one_line(s)} is a {t} in this sentence: true\n" for s, t in d.entities)
            + "\n"
            for d in demonstrations
        )
        head = "Say whether a statement about a sentence is true or false.\n\n"
        statement = f"True or false: {one_line(surface)} is a {label} in this sentence:"
        return (f"{head}{shown}Sentence: {one_line(sentence)}\n{statement}",)
