"""What only a GPU can show. Skipped, visibly, where there is none; not yet run on one."""

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
def test_three_models_share_one_card(tmp_path: Path, el4ner: Run) -> None:
    done = el4ner(
        "annotate", ROOT / "examples" / "corpus.jsonl", "--pool", ROOT / "examples" / "pool.jsonl",
        "--output", tmp_path, "--profile", "single-gpu", timeout=1700,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "run.json").read_text())["documents"]["ok"] == 28
