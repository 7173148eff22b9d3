"""An index is used again only for what it was built from."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from el4ner_ray.config import JobConfig, load
from el4ner_ray.demonstrations import FORMAT
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.pool import open_pool, origin
from tests.conftest import write_jsonl

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
    index.mkdir()
    built_from = open_pool(config, source, str(index / "new")).built_from
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
        ("gold", _changes()[1], []),
    ],
)
def test_an_index_that_other_models_extracted_is_used_and_told(
    pool_spans: str, changed: dict[str, Any], told: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(pool_spans, labels=LABELS)
    config = config.model_copy(update={"demonstrations": config.demonstrations.model_copy(update={"k": 1})})
    (tmp_path / "index.json").write_text(json.dumps(origin(config, POOL, LABELS)))
    with caplog.at_level(logging.WARNING, "el4ner_ray.pool"):
        pool = open_pool(config.model_copy(update=changed), str(tmp_path))
    assert pool.texts is None
    fields = [message.split("other ")[1].split(" than")[0] for message in caplog.messages]
    assert fields == told
