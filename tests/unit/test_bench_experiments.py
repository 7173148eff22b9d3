"""The experiments' tools: which answers are kept for which questions, who is asked through a chat template."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import transformers

from benchmarks import answers
from benchmarks.answers import CachedEnsemble
from el4ner_ray.config import JobConfig, load
from el4ner_ray.engines.base import Request
from tests.conftest import ROOT


def _key(folder: Path, **changed: Any) -> bytes:
    config = load(profile="tiny-cpu", models=("smollm2-135m",))
    model = config.models[0].model_copy(update=changed)
    ensemble = CachedEnsemble(config.model_copy(update={"models": (model,)}), folder / "answers.sqlite")
    try:
        return ensemble._key(model.name, Request(("Hello",), 1))
    finally:
        ensemble.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": {"max_model_len": 2048}},
        {"stop_token_ids": (7,)},
        {"gpus": 1.0},
        {"chat_template": True},
        {"source": "bundled:gemma3-270m"},
    ],
)
def test_answers_of_another_configuration_are_not_known(tmp_path: Path, changed: dict[str, Any]) -> None:
    assert _key(tmp_path, **changed) != _key(tmp_path)


def test_answers_are_known_where_only_the_layout_differs(tmp_path: Path) -> None:
    assert _key(tmp_path, cpus=2.0, core_share=9.0) == _key(tmp_path)


def test_answers_of_another_vllm_or_sampling_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _key(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(answers, "versions", lambda: {"vllm": "0.0.1"})
        assert _key(tmp_path) != before
    monkeypatch.setattr(answers.inspect, "getsource", lambda of: "temperature = 1.0")
    assert _key(tmp_path) != before


@pytest.fixture
def prompt_choices(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as `benchmarks/ablation.py` imports it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("prompt_choices")


def _with_tokenizers(monkeypatch: pytest.MonkeyPatch, templates: dict[str, str | None]) -> JobConfig:
    def tokenizer(source: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(chat_template=templates[source])

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", tokenizer)
    models = [{"name": name, "source": name, "chat_template": True} for name in templates]
    return JobConfig.load(models=models, verifier=next(iter(templates)))


def test_models_with_a_chat_template_are_asked_through_it(
    monkeypatch: pytest.MonkeyPatch, prompt_choices: ModuleType
) -> None:
    config = _with_tokenizers(monkeypatch, {"talks": "{{ messages }}", "completes": None})
    asked = {model.name: model.chat_template for model in prompt_choices.with_chat_templates(config).models}
    assert asked == {"talks": True, "completes": False}


def test_without_chat_templates_there_is_nothing_to_compare(
    monkeypatch: pytest.MonkeyPatch, prompt_choices: ModuleType
) -> None:
    config = _with_tokenizers(monkeypatch, {"completes": None, "also": None})
    with pytest.raises(ValueError, match="no tokenizer of completes, also has a chat template"):
        prompt_choices.with_chat_templates(config)


def test_real_text_is_measured_anew_each_time(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n", "utf-8")
    el4ner = tmp_path / "el4ner"
    el4ner.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n', "utf-8")
    el4ner.chmod(0o755)
    python = tmp_path / "python"
    python.symlink_to("/bin/true")
    subprocess.run(
        ["bash", ROOT / "benchmarks" / "real_text.sh", tmp_path, tmp_path / "out"],
        check=True,
        env={"PATH": "/usr/bin:/bin", "EL4NER": str(el4ner), "PYTHON": str(python)},
        stdout=sys.stderr,
    )
    runs = [line for line in (tmp_path / "asked").read_text("utf-8").splitlines() if line.startswith("annotate ")]
    assert len(runs) == 5
    # Without it, a run goes on where an earlier one of the same folder ended, which is at its end.
    assert all("--force" in run.split() for run in runs)
