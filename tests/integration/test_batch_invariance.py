"""What a token computes to on CPU must not depend on its company; with vLLM's real kernel, in a process of its own."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

pytest.importorskip("vllm")

# Gemma 3 270M's down projection: each of 128 rows alone against all of them at once.
ALONE_AND_TOGETHER = """
import torch
from vllm import _custom_ops as ops
from el4ner_ray.engines import batch_invariance
from el4ner_ray.engines.vllm import cpu_dtype
dtype = getattr(torch, cpu_dtype())
batch_invariance.register()
batch_invariance.register()
random = torch.Generator().manual_seed(0)
weight = torch.randn(640, 2048, generator=random).to(dtype) * 0.05
rows = torch.randn(128, 2048, generator=random).to(dtype)
handler = ops.create_onednn_mm(weight.t(), 32)
together = ops.onednn_mm(handler, rows, None)
alone = torch.cat([ops.onednn_mm(handler, row[None], None) for row in rows])
assert ops.onednn_mm(handler, rows[0], None).shape == (640,)
print("differ:", int((together != alone).sum()))
"""


def differing_elements(switch: str) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EL4NER_BATCH_INVARIANT": switch, "VLLM_LOGGING_LEVEL": "ERROR"}
    finished = subprocess.run(
        [sys.executable, "-c", ALONE_AND_TOGETHER], env=environment, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout.split("differ:")[1])


def test_a_row_alone_is_what_it_is_in_company() -> None:
    assert differing_elements("1") == 0


def test_vllm_finds_the_plugin() -> None:
    plugins = importlib.metadata.entry_points(group="vllm.general_plugins")
    assert "el4ner_ray.engines.batch_invariance:register" in {plugin.value for plugin in plugins}
