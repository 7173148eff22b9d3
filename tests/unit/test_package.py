"""What the package offers to Python, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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
        name: name for name in ("Ensemble", "JobConfig", "annotate", "read_annotations")
    }
    with pytest.raises(AttributeError, match="annotated"):
        el4ner_ray.annotated  # noqa: B018


def test_every_name_that_the_pages_take_from_the_package_is_there() -> None:
    """After `import el4ner_ray` alone: submodules are there only once something else imported them."""
    pages = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]
    calls = {call for page in pages for call in re.findall(r"\bel4ner_ray((?:\.\w+)+)\(", page.read_text("utf-8"))}
    assert calls
    code = "import el4ner_ray\n" + "".join(f"el4ner_ray{call}\n" for call in sorted(calls))
    subprocess.run([sys.executable, "-c", code], check=True)
