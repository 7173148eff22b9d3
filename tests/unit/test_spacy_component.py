"""The spaCy component where no engine has to start."""

from __future__ import annotations

import re
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language

from el4ner_ray.errors import UsageError
from el4ner_ray.results import AnnotatedDocument, Status
from el4ner_ray.spacy_component import El4ner

POOL = [{"text": "Anna flew.", "entities": [{"start": 0, "end": 4, "type": "person"}]}]
ONE = {"demonstrations": {"k": 1}}


def made(language: str = "en", **settings: Any) -> Language:
    nlp = spacy.blank(language)
    nlp.add_pipe("el4ner", config={"pool": POOL, "profile": "fake", "fields": ONE} | settings)
    return nlp


def component_of(nlp: Language) -> El4ner:
    component = nlp.get_pipe("el4ner")
    assert isinstance(component, El4ner)
    return component


def test_forked_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = made()
    monkeypatch.setattr("multiprocessing.Process", get_context("fork").Process)
    # What would start engines in spaCy's processes, and leave them there.
    monkeypatch.setattr(component_of(nlp).ensemble, "start", lambda: pytest.fail("an engine starts"))
    # spaCy raises what its processes raise as a ValueError with their traceback.
    with pytest.raises(ValueError, match=r"UsageError: el4ner: .* n_process=1"):
        list(nlp.pipe(["Anna met Ben.", "Ben left."], n_process=2))


def test_processes_that_are_not_forked_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.14 starts them; spaCy pickles components for them."""
    nlp = made()
    monkeypatch.setattr("multiprocessing.Process", get_context("spawn").Process)
    with pytest.raises(UsageError, match="n_process=1"):
        list(nlp.pipe(["Anna met Ben.", "Ben left."], n_process=2))


@pytest.mark.parametrize(
    ("pipeline", "file", "fields", "language"),
    [
        ("de", None, {}, "de"),
        ("de", "limits: {retries: 1}", {}, "de"),
        ("de", "", {}, "de"),
        ("de", "language: nl", {}, "nl"),
        ("de", "language: nl", {"language": "fr"}, "fr"),
        ("de", None, {"language": "en"}, "en"),
        ("xx", None, {}, "en"),
        ("xx", "language: nl", {}, "nl"),
    ],
)
def test_the_language_is_the_pipelines_unless_another_is_named(
    tmp_path: Path, pipeline: str, file: str | None, fields: dict[str, str], language: str
) -> None:
    config = None
    if file is not None:
        config = tmp_path / "job.yaml"
        config.write_text(file, "utf-8")
    nlp = made(pipeline, config=config and str(config), fields=ONE | fields)
    assert component_of(nlp).ensemble.config.language == language


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"pool": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"pool": [{"text": "Anna"}]}, "pool, item 0"),
        ({"labels": {"a|b": ""}}, "labels: 'a|b'"),
        ({"labels": {"gene": ""}}, "not in the label set"),
        ({"fields": {}}, "demonstrations.k: 5"),
    ],
)
def test_wrong_pools_and_labels_are_told_before_any_model_loads(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        made(**settings)


def test_log_lines_about_failures_quote_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answers(texts: list[str], *_: Any) -> list[AnnotatedDocument]:
        statuses: list[Status] = ["ok", "failed", "partial", "failed"]
        return [
            AnnotatedDocument(text, text, status, (), f"of {text}")
            for text, status in zip(texts, statuses, strict=True)
        ]

    nlp = made()
    ensemble = component_of(nlp).ensemble
    monkeypatch.setattr(ensemble, "start", lambda: None)
    monkeypatch.setattr(ensemble, "annotate", answers)
    docs = list(nlp.pipe(["Anna one", "Anna two", "Anna three", "Anna four"]))
    assert [docs[1].spans["el4ner"].attrs[key] for key in ("status", "error")] == ["failed", "of Anna two"]
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "2 of 4 documents are failed",
        "1 of 4 documents are partial",
    ]
    assert "Anna" not in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"pool": [POOL[0], {"text": "10 % of \"b\":\n# no; 'not' 👩‍👩‍👧 [x]", "entities": []}]},
        {"labels": {"person": 'named people: "all" of them; # as [here]', "a.b": "", "Ort & Land": "", "地名": ""}},
        {"fields": ONE | {"limits": {"retries": 2}}},
    ],
)
def test_a_saved_pipeline_is_the_same_when_it_is_loaded(tmp_path: Path, settings: dict[str, Any]) -> None:
    saved = made(**settings)
    saved.to_disk(tmp_path)
    assert saved.to_bytes()
    before, after = component_of(saved), component_of(spacy.load(tmp_path))
    assert (after._pool, after._labels) == (before._pool, before._labels)
    assert after.ensemble.config == before.ensemble.config


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        *[({"labels": {"person": "", label: "line"}}, "labels") for label in ("schema:Person", "#x", ";x", "[a b]")],
        ({"labels": {"person": "who costs $5"}}, "labels"),
        ({"pool": [*POOL, {"text": "It costs $5.", "entities": []}]}, "pool"),
        ({"pool": [*POOL, {"text": "${HOME}", "entities": []}]}, "pool"),
        ({"fields": ONE | {"labels": {"person": "", "GO:0008150": ""}}}, "fields"),
        ({"spans_key": "$"}, "spans_key"),
    ],
)
def test_what_loading_would_change_is_not_saved(tmp_path: Path, settings: dict[str, Any], field: str) -> None:
    nlp = made(**settings)
    for save in (lambda: nlp.to_disk(tmp_path), nlp.to_bytes):
        with pytest.raises(UsageError, match=f"el4ner: {field}: .* YAML file that `config` names"):
            save()


def test_what_the_config_cannot_hold_is_saved_as_files(tmp_path: Path) -> None:
    pool, config = tmp_path / "pool.jsonl", tmp_path / "job.yaml"
    pool.write_text('{"text": "$5 for Anna", "entities": [{"start": 7, "end": 11, "type": "schema:Person"}]}', "utf-8")
    config.write_text('labels: {"schema:Person": "who costs $5", "#x": ""}\ndemonstrations: {k: 1}', "utf-8")
    nlp = made(pool=str(pool), config=str(config), fields={})
    nlp.to_disk(tmp_path / "saved")
    loaded = component_of(spacy.load(tmp_path / "saved")).ensemble.config.labels
    assert loaded == {"schema:Person": "who costs $5", "#x": ""}
