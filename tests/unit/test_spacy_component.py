"""The spaCy component where no engine has to start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy

from el4ner_ray.spacy_component import El4ner

POOL = [{"text": "Anna flew.", "entities": [{"start": 0, "end": 4, "type": "person"}]}]


def added(language: str = "en", **settings: Any) -> El4ner:
    component = spacy.blank(language).add_pipe("el4ner", config={"pool": POOL, "profile": "fake"} | settings)
    assert isinstance(component, El4ner)
    return component


def test_other_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = spacy.blank("en")
    component = nlp.add_pipe("el4ner", config={"pool": POOL, "profile": "fake"})
    assert isinstance(component, El4ner)
    # What would start engines in spaCy's processes, and leave them there.
    monkeypatch.setattr(component.ensemble, "start", lambda: pytest.fail("an engine starts"))
    # spaCy raises what its processes raise as a ValueError with their traceback.
    with pytest.raises(ValueError, match=r"UsageError: el4ner: .* n_process=1"):
        list(nlp.pipe(["Anna met Ben.", "Ben left."], n_process=2))


@pytest.mark.parametrize(
    ("pipeline", "file", "fields", "language"),
    [
        ("de", None, {}, "de"),
        ("de", "demonstrations: {k: 1}", {}, "de"),
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
    component = added(pipeline, config=config and str(config), fields=fields)
    assert component.ensemble.config.language == language
