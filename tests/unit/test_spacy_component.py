"""The spaCy component where no engine has to start."""

from __future__ import annotations

import pytest
import spacy

from el4ner_ray.spacy_component import El4ner

POOL = [{"text": "Anna flew.", "entities": [{"start": 0, "end": 4, "type": "person"}]}]


def test_other_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = spacy.blank("en")
    component = nlp.add_pipe("el4ner", config={"pool": POOL, "profile": "fake"})
    assert isinstance(component, El4ner)
    # What would start engines in spaCy's processes, and leave them there.
    monkeypatch.setattr(component.ensemble, "start", lambda: pytest.fail("an engine starts"))
    # spaCy raises what its processes raise as a ValueError with their traceback.
    with pytest.raises(ValueError, match=r"UsageError: el4ner: .* n_process=1"):
        list(nlp.pipe(["Anna met Ben.", "Ben left."], n_process=2))
