"""The implementations that the pipeline is compared with do the same method."""

from __future__ import annotations

import asyncio
import inspect
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.naive import NaivePrompts
from benchmarks.prefixes import PromptCounter
from benchmarks.recording import recorded
from benchmarks.sequential import Sequential
from el4ner_ray.config import JobConfig
from el4ner_ray.core.prompting import LabelledSentence, running_text
from el4ner_ray.demonstrations import write_index
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.bundled import is_ready
from el4ner_ray.engines.fake import ScriptedEngine
from el4ner_ray.in_process import InProcess
from el4ner_ray.labelled import labels_of, read_labelled
from el4ner_ray.pipeline import method
from el4ner_ray.pool import origin
from el4ner_ray.text_models import Embedder
from tests.conftest import ROOT

needs_embedder = pytest.mark.skipif(not is_ready("all-minilm-l6-v2"), reason="the embedder is not here (make assets)")


class Scripted:
    """A scripted engine as both sides take it."""

    def __init__(self, config: JobConfig) -> None:
        self._engines = {name: ScriptedEngine(name, config.fake) for name in config.model_names}

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        return await self._engines[model].generate(requests)

    def one_by_one(self, model: str) -> Any:
        return OneByOne(self._engines[model])


class OneByOne:
    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    def answer(self, turns: tuple[str, ...], max_tokens: int, stop: str) -> tuple[str, bool]:
        completion = self._ask(Request(turns, max_tokens, stop))
        return completion.text, completion.finished

    def choose(self, turns: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, float]:
        return self._ask(Request(turns, choices=choices)).text, 0.8

    def _ask(self, request: Request) -> Completion:
        [completion] = asyncio.run(self._engine.generate([request]))
        return completion


@needs_embedder
def test_sequential_finds_what_the_pipeline_finds(tmp_path: Path) -> None:
    config = JobConfig.load(profile="fake", segmenter="none", demonstrations={"pool_spans": "gold", "tagger": "none"})
    pool = read_labelled(str(ROOT / "examples" / "pool.jsonl"), "pool")
    labels, index = labels_of(pool), str(tmp_path / "index")
    surfaces = [[surface for surface, _ in text.mentions] for text in pool]
    write_index(index, pool, surfaces, Embedder(config.demonstrations.embedder), origin(config, pool, labels))
    texts = [json.loads(line)["text"] for line in (ROOT / "examples" / "corpus.jsonl").read_text("utf-8").splitlines()]
    texts = [text.splitlines()[0] for text in texts[:12]]
    ensemble = Scripted(config)
    steps = []
    for stage, arguments in method(config, labels, index, None):
        asks = "ensemble" in inspect.signature(stage).parameters
        steps.append((stage, (*arguments, ensemble) if asks else arguments))
    documents = asyncio.run(InProcess(steps, config.limits).annotate(texts))
    plain = Sequential(config, index, {name: ensemble.one_by_one(name) for name in config.model_names})
    for text, document in zip(texts, documents, strict=True):
        found = plain.annotate(text)
        for entities, kept in ((document.entities, True), (document.dropped, False)):
            expected = [(e.start, e.end, e.type) for e in entities]
            assert [(e.span.start, e.span.end, e.label) for e in found if e.kept is kept] == expected
    assert any(document.entities for document in documents)


def test_naive_prompts_share_no_start_but_ask_the_same() -> None:
    prompts = NaivePrompts("v1", {"place": "", "person": ""})
    shown = prompts.demonstration(LabelledSentence("Ada saw Rome", (("Ada", "person"), ("Rome", "place"))))
    extraction = prompts.extraction("Bob left Oslo", [shown])
    classification = prompts.classification(extraction, ["Bob", "Oslo"], "Oslo")
    verification = prompts.verification(classification, "Oslo", "place")
    asked = [running_text(turns) for turns in (extraction, classification, verification)]
    assert len({turn[:8] for turn in asked}) == 3
    assert all("Bob left Oslo" in turn and "Ada saw Rome" in turn for turn in asked)
    assert "Type of Ada: person" not in asked[0]
    assert asked[1].endswith("Type of Oslo:")
    assert "Rome is a place in this sentence: true" in asked[2]
    assert asked[2].endswith("Oslo is a place in this sentence:")


def test_prompts_are_counted_as_a_prefix_cache_does() -> None:
    prompts = [
        "aaaabbbbcc",
        "aaaabbbbcc",
        "aaaabbbb",
        "xaaabbbbcc",
        "aaaaxbbbcc",
        "aaaabbbbccccd",
        "ddddeeee",
        "ddddeeeeff",
    ]
    requests = [Request((prompt,)) for prompt in prompts]

    def counts(counter: PromptCounter) -> list[tuple[int, int]]:
        counted = [counter.counted(request, Completion("")) for request in requests]
        return [(completion.prompt_tokens, completion.cached_tokens) for completion in counted]

    def letters(turns: tuple[str, ...]) -> list[int]:
        return list(map(ord, turns[0]))

    assert counts(PromptCounter(letters, 4)) == [(10, 0), (10, 8), (8, 4), (10, 0), (10, 4), (13, 8), (8, 0), (10, 8)]
    assert counts(PromptCounter(letters, None)) == [(len(prompt), 0) for prompt in prompts]


def test_recorded_requests_come_back(tmp_path: Path) -> None:
    calls = [[Request(("a",), 5), Request(("b", "c", "d"), choices=("x", "y"))], [Request(("e",), priority=3)]]
    payloads = [msgspec.msgpack.encode(call) for call in calls]
    (tmp_path / "model.1").write_bytes(b"".join(struct.pack("<Q", len(p)) + p for p in payloads))
    (tmp_path / "other.1").write_bytes(b"")
    assert list(recorded(tmp_path, "model")) == [request for call in calls for request in call]
