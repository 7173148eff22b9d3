"""Scenario `engine_limit`: the pipeline against the bare engines.

A run of the pipeline records every request that reaches a model, which takes microseconds a call. Then
`vllm.LLM.generate` gets the very same prompts, all at once, the models one after another with all cores, each in a
process of its own. It takes them in the order in which the pipeline asked: by priority, later stages first, all
verifications of the corpus would come before the extractions whose prefix they share, and find nothing in the cache.
Engine starts count on neither side.
"""

from __future__ import annotations

import os
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.fresh import in_fresh_process
from benchmarks.measured import Figure, ratios
from benchmarks.recording import FOLDER, recorded
from benchmarks.running import Run
from benchmarks.task import OfText, Task
from el4ner_ray.config import ModelConfig
from el4ner_ray.engines.base import Request
from el4ner_ray.engines.serving import environment_alone
from el4ner_ray.engines.tokens import PromptEncoder
from el4ner_ray.engines.vllm import VllmEngine, engine_arguments

Workload = OfText


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Wall times of both, and their ratio."""
    task = workload.task()
    task.build_index(scratch)
    runs, bare = [], []
    for number in range(workload.repeats):
        record = (scratch / f"requests-{number}").absolute()
        runs.append(recorded_run(task, scratch, f"pipeline-{number}", record))
        bare.append(sum(bare_seconds(model, list(recorded(record, model.name))) for model in task.config.models))
    pipeline = [float(run.content["wall_seconds"]) for run in runs]
    return [
        Figure("wall time", "of the bare engines'", ratios(pipeline, bare)),
        Figure("pipeline", "s", tuple(pipeline)),
        Figure("bare engines", "s", tuple(bare)),
        Figure("F1 of the pipeline", "", tuple(task.f1_of_run(run, scratch) for run in runs)),
        *cpu_times(runs),
    ]


def cpu_times(runs: list[Run]) -> list[Figure]:
    """CPU time of each kind of process, with what it takes to start, most first."""
    taken = [run.watched.cpu_seconds for run in runs]
    kinds = sorted({kind for of_run in taken for kind in of_run}, key=lambda kind: -max(t.get(kind, 0) for t in taken))
    return [Figure(f"CPU time of the pipeline, {kind}", "s", tuple(t.get(kind, 0.0) for t in taken)) for kind in kinds]


def recorded_run(task: Task, scratch: Path, output: str, record: Path) -> Run:
    """A run of the pipeline which keeps in the folder `record` what each model is asked."""
    shutil.rmtree(record, ignore_errors=True)
    with patch.dict(os.environ, {FOLDER: str(record)}):
        return task.annotate(scratch, output, program="benchmarks.recording")


def offline_arguments(model: ModelConfig) -> dict[str, Any]:
    """What `vllm.LLM` takes of the pipeline's engine arguments."""
    arguments = engine_arguments(model)
    del arguments["enable_log_requests"]  # of the asynchronous engine alone
    return arguments


def bare_seconds(model: ModelConfig, requests: list[Request]) -> float:
    """Time of the bare engine, in the environment that the pipeline gives a model that has all cores."""
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if model.gpus == 0:
        environment |= environment_alone(model)
    # glibc reads its part when a process starts.
    with patch.dict(os.environ, environment):
        return in_fresh_process(_seconds, model, requests)


def _seconds(model: ModelConfig, requests: list[Request]) -> float:
    return BareEngine(model).seconds(requests)


class BareEngine(VllmEngine):
    """`vllm.LLM` with the pipeline's engine arguments, prompts and sampling."""

    def __init__(self, model: ModelConfig) -> None:
        """Load the model; vLLM reads the environment now."""
        from vllm import LLM

        self._model = model
        self._llm = LLM(**offline_arguments(model))
        self._tokenizer = self._llm.get_tokenizer()
        self._prompts = PromptEncoder(model, self._tokenizer)
        self._token_ids = cache(self._make_token_ids)

    def seconds(self, requests: list[Request]) -> float:
        """Time for all of them, with tokenising."""
        began = time.perf_counter()
        self._llm.generate(
            [{"prompt_token_ids": self._prompts.ids(request.turns)} for request in requests],
            [self._sampling(request) for request in requests],
            use_tqdm=False,
        )
        return time.perf_counter() - began
