"""An index is used again only for what it was built from."""

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from el4ner_ray import pipeline
from el4ner_ray.config import JobConfig, load
from el4ner_ray.demonstrations import FORMAT, write_index
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.pool import open_pool, origin
from el4ner_ray.stages.base import Stage
from el4ner_ray.text_models import Embedder
from tests.conftest import write_empty_index, write_jsonl

LABELS = {"person": "named people"}
POOL = [LabelledText("1", "Ana slept.", (LabelledSpan(0, 3, "person"),))]


def _config(pool_spans: str, **changed: Any) -> JobConfig:
    config = load(profile="fake", overrides={"demonstrations": {"pool_spans": pool_spans}})
    return config.model_copy(update=changed)


def _changes() -> list[dict[str, Any]]:
    config = _config("extracted")
    first, *others = config.models
    return [
        {"models": (first.model_copy(update={"chat_template": True}), *others)},
        {"models": tuple(others)},
        {"limits": config.limits.model_copy(update={"zero_shot_tokens": 7})},
        {"models": (first.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}}), *others)},
    ]


@pytest.mark.parametrize("changed", _changes(), ids=lambda changed: next(iter(changed)))
def test_what_models_list_depends_on_how_they_are_asked(changed: dict[str, Any]) -> None:
    assert origin(_config("extracted"), POOL, LABELS) != origin(_config("extracted", **changed), POOL, LABELS)


@pytest.mark.parametrize("changed", _changes(), ids=lambda changed: next(iter(changed)))
def test_gold_spans_serve_any_ensemble(changed: dict[str, Any]) -> None:
    assert origin(_config("gold"), POOL, LABELS) == origin(_config("gold", **changed), POOL, LABELS)


def test_an_index_of_another_format_is_built_again_where_it_is_the_jobs_own(tmp_path: Path) -> None:
    config = load(profile="fake", overrides={"demonstrations": {"k": 1, "pool_spans": "gold"}})
    source = str(
        write_jsonl(
            tmp_path / "pool.jsonl", [{"text": "Ana slept.", "entities": [{"start": 0, "end": 3, "type": "person"}]}]
        )
    )
    index = tmp_path / "index"
    built_from = open_pool(config, source, str(index)).built_from
    write_empty_index(index, built_from)
    for format_, left in ((FORMAT, None), (FORMAT - 1, 1), (FORMAT + 1, 1)):
        (index / "index.json").write_text(json.dumps(built_from | {"format": format_}))
        texts = open_pool(config, source, str(index)).texts
        assert (texts if texts is None else len(texts)) == left
    told = rf"--pool {index}: index format {FORMAT + 1}, need {FORMAT}; build it again with `el4ner index`"
    with pytest.raises(UsageError, match=told):
        open_pool(config, str(index))
    (index / "index.json").write_text('{"pages": 3}')  # of something else: nothing is put in its place
    with pytest.raises(UsageError, match="of something else than a demonstration index; name another folder"):
        open_pool(config, source, str(index))


@pytest.mark.parametrize(
    ("characters", "k", "context", "warned"),
    [(8_000, 5, 4_096, True), (8_000, 1, 4_096, False), (200, 5, 4_096, False), (8_000, 5, 32_768, False),
     (8_000, 5, None, False)],
)  # fmt: skip
def test_a_pool_of_documents_that_no_prompt_can_hold_is_told_before_models_load(
    characters: int, k: int, context: int | None, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Every document became an error row, or the index ended in an error after models had loaded."""
    config = load(profile="fake", overrides={"demonstrations": {"k": k, "pool_spans": "gold"}})
    first, *others = config.models
    engine = {} if context is None else {"max_model_len": context}
    config = config.model_copy(update={"models": (first.model_copy(update={"engine": engine}), *others)})
    rows = [
        {"id": f"d{n}", "text": "Ana " * (characters // 4 + n), "entities": [{"start": 0, "end": 3, "type": "person"}]}
        for n in range(8)
    ]
    open_pool(config, rows)
    told = [record.getMessage() for record in caplog.records if "max_model_len" in record.getMessage()]
    assert bool(told) == warned
    if warned:
        assert told[0].startswith(
            "pool, id 'd7' has 8,028 characters, and a prompt that shows the 5 longest texts needs "
        )
        assert "engine.max_model_len is 4,096" in told[0]


def test_an_index_with_a_type_that_no_prompt_can_hold_is_refused(tmp_path: Path) -> None:
    config = load(profile="fake", overrides={"demonstrations": {"k": 1, "pool_spans": "gold"}})
    built_from = origin(config, POOL, LABELS) | {"types": ["<eos>"]}
    (tmp_path / "index.json").write_text(json.dumps(built_from))
    with pytest.raises(UsageError, match=rf"--pool {tmp_path}: its type '<eos>' must be .* build the index again"):
        open_pool(config, str(tmp_path))


@pytest.mark.parametrize(
    ("pool_spans", "changed", "told"),
    [
        ("extracted", {}, []),
        ("extracted", _changes()[0], ["chat_templates"]),
        ("extracted", _changes()[1], ["models"]),
        ("extracted", _changes()[2], ["answer_tokens"]),
        ("extracted", _changes()[3], ["chat_template_kwargs"]),
        ("gold", _changes()[1], []),
    ],
)
def test_an_index_that_other_models_extracted_is_used_and_told(
    pool_spans: str, changed: dict[str, Any], told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(pool_spans, labels=LABELS)
    config = config.model_copy(update={"demonstrations": config.demonstrations.model_copy(update={"k": 1})})
    write_empty_index(tmp_path / "index", origin(config, POOL, LABELS))
    with caplog.at_level(logging.WARNING, "el4ner_ray.pool"):
        pool = open_pool(config.model_copy(update=changed), str(tmp_path / "index"))
    assert pool.texts is None
    fields = [message.split("other ")[1].split(" than")[0] for message in caplog.messages]
    assert fields == told


def test_an_index_of_what_a_template_was_told_is_told_where_it_is_told_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config("extracted", labels=LABELS)
    config = config.model_copy(update={"demonstrations": config.demonstrations.model_copy(update={"k": 1})})
    write_empty_index(tmp_path / "index", origin(config.model_copy(update=_changes()[3]), POOL, LABELS))
    with caplog.at_level(logging.WARNING, "el4ner_ray.pool"):
        open_pool(config, str(tmp_path / "index"))
    assert ["with other chat_template_kwargs than" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("name", ["spans.npy", "span_of.npy", "starts.npy", "sentences.npy", "pool.parquet"])
@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda _: b"", lambda content: bytes(len(content))])
def test_a_damaged_index_is_told_before_any_model_loads(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    config = _config("gold", labels=LABELS)
    config = config.model_copy(update={"demonstrations": config.demonstrations.model_copy(update={"k": 1})})
    folder = tmp_path / "index"
    embedder = SimpleNamespace(embed=lambda texts: np.ones((len(texts), 3), np.float32))
    write_index(str(folder), POOL, [["Ana"]], cast(Embedder, embedder), origin(config, POOL, LABELS))
    assert open_pool(config, str(folder)).texts is None
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=rf"{name}: damaged: .*; remove its folder and build the index again$"):
        open_pool(config, str(folder))


def test_what_was_asked_for_an_index_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ensemble:
        async def ask(self, _: str, requests: list[Request], __: str) -> list[Completion]:
            return [Completion("Ana", prompt_tokens=7)] * len(requests)

    def apply(blocks: list[pa.Table], stage: Callable[..., Stage], *arguments: Any) -> SimpleNamespace:
        tables = [asyncio.run(stage(*arguments, Ensemble()).annotate(block)) for block in blocks]
        return SimpleNamespace(iter_batches=lambda **_: tables)

    monkeypatch.setattr(pipeline.ray.data, "from_arrow", lambda blocks: blocks)
    monkeypatch.setattr(pipeline, "apply", apply)
    config = _config("extracted")
    surfaces, costs = pipeline.extract_pool(POOL * 20, config, LABELS)
    assert surfaces == [["Ana"]] * 20
    asked = {name: (usage.requests, usage.prompt_tokens) for name, usage in costs.stages["pre_extract"].items()}
    assert asked == dict.fromkeys(config.model_names, (20, 140))
