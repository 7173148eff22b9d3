"""What only a GPU can show. Skipped, visibly, where there is none.

    python -m pytest tests/gpu

Needs vLLM's CUDA build and a card of 24 GB or more; the bundled models, so no hub.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="no GPU on this machine"),
    pytest.mark.skipif(not any(d.name == "vllm" for d in distributions()), reason="needs vLLM's CUDA build"),
]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("config", ["bundled.yaml", "turns.yaml"])
def test_three_models_on_one_card(config: str, tmp_path: Path, el4ner: Run) -> None:
    done = el4ner(
        "annotate", ROOT / "examples" / "corpus.jsonl", "--pool", ROOT / "examples" / "pool.jsonl",
        "--pool-spans", "gold", "--output", tmp_path, "--config", Path(__file__).with_name(config), timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["documents"]["ok"] == 28
    assert run["entities"] > 28
    assert all(used["cached_tokens"] > used["prompt_tokens"] / 2 for used in run["stages"]["classify"].values())
