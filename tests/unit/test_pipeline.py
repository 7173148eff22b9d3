"""The chain of stages: each finds what it reads, and a pool that an engine did not answer for serves nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from el4ner_ray import pipeline
from el4ner_ray.config import load
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.errors import FatalError
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.pipeline import STAGES, apply_all, check_chain
from el4ner_ray.schema import Failure, failures_column
from el4ner_ray.stages import retrieve
from el4ner_ray.stages.base import Stage
from el4ner_ray.stages.classify import Classify
from el4ner_ray.stages.extract import Extract
from el4ner_ray.stages.given import Given
from el4ner_ray.stages.pre_extract import PreExtract
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.stages.segment import Segment
from el4ner_ray.stages.verify import Verify
from tests.scripted import ByFirstLetter, EqualWeights, Scripted, index_of, table_of

CONFIG = load(profile="fake", overrides={"demonstrations": {"k": 1}})
LABELS = {"person": ""}
POOL = [LabelledText(name, f"{name} slept.", (LabelledSpan(0, 4, "person"),)) for name in ("Anna", "Cleo", "Dora")]


@pytest.mark.parametrize("stages", [*STAGES.values(), (Segment, Given, Extract)])
def test_every_method_finds_what_it_reads(stages: Sequence[type[Stage]]) -> None:
    check_chain(stages)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ((Extract,), r"stage extract reads el4ner\.sentences, el4ner\.demonstrations, which no stage before it writes"),
        ((Segment, Extract), r"stage extract reads el4ner\.demonstrations, which"),
        ((Segment, Retrieve, PreExtract), r"stage retrieve reads el4ner\.query_spans, which"),  # in the wrong order
        ((Segment, PreExtract, Retrieve, Extract, Verify), r"stage verify reads el4ner\.typed, which"),
    ],
)
def test_a_stage_that_lacks_a_column_is_refused_before_anything_runs(stages: Sequence[type[Stage]], told: str) -> None:
    with pytest.raises(TypeError, match=told):
        check_chain(stages)
    documents: Any = None  # nothing is asked of it
    with pytest.raises(TypeError, match=told):
        apply_all(documents, [(stage, (CONFIG,)) for stage in stages])


PARSE, ENGINE = Failure("parse", "x", "a", "empty"), Failure("engine", "x", "b", "no answer after 7 tries")


@pytest.mark.parametrize(
    ("pre_extract", "classify", "told"),
    [
        ([[], []], [[], []], None),
        ([[PARSE], [PARSE]], [[], [PARSE]], None),  # an answer that nobody can read is an answer
        ([[ENGINE], []], [[], []], "b could not answer"),
        ([[], [PARSE, ENGINE]], [[], []], "b could not answer"),
        ([[], []], [[], [ENGINE]], "pool: b could not answer for a sentence: no answer after 7 tries"),
    ],
)
def test_holes_are_refused_wherever_they_are(
    pre_extract: list[list[Failure]], classify: list[list[Failure]], told: str | None
) -> None:
    table = table_of(["a", "b"], {failures_column("pre_extract"): pre_extract, failures_column("classify"): classify})
    stages = (PreExtract, Classify)
    if told is None:
        pipeline._refuse_holes(table, stages)
    else:
        with pytest.raises(FatalError, match=told):
            pipeline._refuse_holes(table, stages)


@pytest.fixture
def ensemble(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Asked by the stages, which run here instead of in actors: models that find the names, until one is too late."""

    def answer(_: str, request: Request) -> Completion:
        return Completion(request.choices[0] if request.choices else request.turns[-1].split("Sentence: ")[1][:4])

    scripted = Scripted(answer)

    def apply(blocks: list[pa.Table], stage: Any, *arguments: Any) -> Any:
        made = stage(*arguments) if stage is Retrieve else stage(*arguments, scripted)
        return Applied([asyncio.run(made.annotate(block)) for block in blocks])

    class Applied(list[pa.Table]):
        def iter_batches(self, **_: Any) -> list[pa.Table]:
            return self

    monkeypatch.setattr(pipeline, "ray", SimpleNamespace(data=SimpleNamespace(from_arrow=lambda blocks: blocks)))
    monkeypatch.setattr(pipeline, "apply", apply)
    monkeypatch.setattr(retrieve, "Embedder", lambda _: ByFirstLetter())
    monkeypatch.setattr(retrieve, "Tagger", lambda *_: EqualWeights())
    return scripted


def late(request: Request, stage: str) -> bool:
    """Whether it is of this stage, and about Cleo."""
    asked = {1: "pre_extract"}.get(len(request.turns), "classify" if request.choices else "extract")
    return asked == stage and "Cleo" in request.turns[-1]


@pytest.mark.parametrize("stage", ["pre_extract", "extract", "classify", None])
def test_nothing_is_learnt_from_a_pool_that_an_engine_did_not_answer_for(
    ensemble: Scripted, tmp_path: Path, stage: str | None
) -> None:
    answer = ensemble.answer

    def too_late(model: str, request: Request) -> Completion:
        if stage and model == "fake-b" and late(request, stage):
            return Completion("", error="no answer after 7 tries")
        return answer(model, request)

    ensemble.answer = too_late
    index = index_of(tmp_path / "index", POOL, [[text.text[:4]] for text in POOL])

    def learn() -> Any:
        return pipeline.annotate_pool(POOL, [0, 1, 2], CONFIG, LABELS, index)

    def extract() -> Any:
        return pipeline.extract_pool(POOL, CONFIG, LABELS)

    told = "pool: fake-b could not answer for a sentence: no answer after 7 tries"
    if stage is None:
        annotated, costs = learn()
        assert [sentence.number for sentence in annotated] == [0, 1, 2]
        assert all(sentence.number not in sentence.demonstrations for sentence in annotated)
        assert costs.stages.keys() == {"pre_extract", "retrieve", "extract", "classify"}
    else:
        with pytest.raises(FatalError, match=told):
            learn()
    if stage == "pre_extract":
        with pytest.raises(FatalError, match=told):
            extract()
    else:
        assert extract()[0] == [["Anna"], ["Cleo"], ["Dora"]]
