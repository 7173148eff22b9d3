"""What only a GPU can show. Skipped, visibly, where there is none.

    python -m pytest tests/gpu

Needs vLLM's CUDA build and a card of 24 GB or more; the bundled models, so no hub.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, Run

BUNDLED = Path(__file__).with_name("bundled.yaml")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU on this machine"),
    pytest.mark.skipif(not any(d.name == "vllm" for d in distributions()), reason="needs vLLM's CUDA build"),
]


def annotated(config: Path, output: Path, el4ner: Run) -> dict[str, Any]:
    """run.json of a run over the example documents, all of which have been annotated."""
    done = el4ner(
        "annotate", ROOT / "examples" / "corpus.jsonl", "--pool", ROOT / "examples" / "pool.jsonl",
        "--pool-spans", "gold", "--output", output, "--config", config, timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    run: dict[str, Any] = json.loads((output / "run.json").read_text())
    assert run["documents"]["ok"] == 28
    assert run["entities"] > 28
    return run


@pytest.mark.timeout(1800)
def test_three_models_share_one_card(tmp_path: Path, el4ner: Run) -> None:
    run = annotated(BUNDLED, tmp_path, el4ner)
    assert all(used["cached_tokens"] > used["prompt_tokens"] / 2 for used in run["stages"]["classify"].values())


@pytest.mark.timeout(1800)
def test_models_take_turns_on_one_card(tmp_path: Path, el4ner: Run) -> None:
    content = yaml.safe_load(BUNDLED.read_text())
    for model in content["models"]:
        # As if two of them together were too large for it. One that sleeps forgets its prefix cache.
        model["engine"] = model["engine"] | {"gpu_memory_utilization": 0.6, "enable_sleep_mode": True}
    config = tmp_path / "turns.yaml"
    config.write_text(yaml.safe_dump(content))
    annotated(config, tmp_path / "out", el4ner)
