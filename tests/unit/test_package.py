"""What the package offers to Python, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import el4ner_ray


def test_import_stays_light() -> None:
    """It happens in every process of vLLM."""
    code = "import sys, el4ner_ray.engines.batch_invariance, el4ner_ray.engines.lax_timers; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "torch", "vllm", "pydantic", "pyarrow", "spacy"} & set(done.stdout.split())


def test_pipelines_of_spacy_do_not_import_ray() -> None:
    """The entry point of the component is loaded for every pipeline, also those without the component."""
    code = "import sys, spacy; spacy.blank('en').add_pipe('sentencizer'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"ray", "vllm", "el4ner_ray.ensemble"} & set(done.stdout.split())


def test_names() -> None:
    assert {name: getattr(el4ner_ray, name).__name__ for name in el4ner_ray.__all__} == {
        name: name for name in ("Ensemble", "JobConfig", "annotate")
    }
    with pytest.raises(AttributeError, match="annotated"):
        el4ner_ray.annotated  # noqa: B018
