"""What a token computes to on CPU must not depend on its company; with vLLM's real kernel, in a process of its own."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from el4ner_ray.engines import batch_invariance
from el4ner_ray.engines.vllm import check_plugin
from el4ner_ray.errors import FatalError

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


# Attention with heads of WIDTH numbers (Gemma's have 256, the others' 64): five prompts alone against all at once.
PROMPTS_ALONE_AND_TOGETHER = """
import torch
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa
from el4ner_ray.engines import batch_invariance
from el4ner_ray.engines.vllm import cpu_dtype
dtype = getattr(torch, cpu_dtype())
batch_invariance.register()
BLOCK, HEADS = 32, 4
isa = _get_attn_isa(dtype, BLOCK, WIDTH)
random = torch.Generator().manual_seed(0)
def some(length, heads):
    return torch.randn(length, heads, WIDTH, generator=random).to(dtype)
def attended(prompts):
    lengths = [len(query) for query, _, _ in prompts]
    query, key, value = (torch.cat(parts) for parts in zip(*prompts))
    blocks = [-(-length // BLOCK) for length in lengths]
    first = [sum(blocks[:number]) for number in range(len(blocks))]
    table = torch.tensor([[start + min(i, own - 1) for i in range(max(blocks))] for start, own in zip(first, blocks)])
    slots = torch.cat([BLOCK * start + torch.arange(length) for start, length in zip(first, lengths)])
    keys, values = torch.zeros(sum(blocks), 1, 2 * BLOCK, WIDTH, dtype=dtype).chunk(2, dim=2)
    ops.cpu_attn_reshape_and_cache(key, value, keys, values, slots, isa)
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    seen = torch.tensor(lengths).int()
    plan = ops.cpu_attn_get_scheduler_metadata(
        num_reqs=len(prompts), num_heads=HEADS, num_kv_heads=1, head_dim=WIDTH, seq_lens=seen, dtype=dtype,
        query_start_loc=starts, causal=True, sliding_window_size=-1, isa=isa, enable_kv_split=False,
    )
    output = torch.empty_like(query)
    ops.cpu_attention_with_kv_cache(
        query=query, key_cache=keys, value_cache=values, output=output, query_start_loc=starts, seq_lens=seen,
        scale=1 / 16, causal=True, alibi_slopes=None, sliding_window=-1, block_table=table.int(), softcap=0.0,
        scheduler_metadata=plan, s_aux=None,
    )
    return output
prompts = [(some(length, HEADS), some(length, 1), some(length, 1)) for length in (270, 31, 505, 64, 130)]
together = attended(prompts)
alone = torch.cat([attended([prompt]) for prompt in prompts])
assert together.isfinite().all()
print("differ:", int((together != alone).sum()))
"""


def differing_elements(code: str) -> int:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "EL4NER_BATCH_INVARIANT": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    finished = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout.split("differ:")[1])


def test_a_row_alone_is_what_it_is_in_company() -> None:
    assert differing_elements(ALONE_AND_TOGETHER) == 0


@pytest.mark.parametrize("width", [64, 256])
def test_a_prompt_alone_attends_as_it_does_in_company(width: int) -> None:
    assert differing_elements(f"WIDTH = {width}\n{PROMPTS_ALONE_AND_TOGETHER}") == 0


def test_a_plugin_that_vllm_would_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(batch_invariance.SWITCH, "1")
    check_plugin()
    monkeypatch.setenv("VLLM_PLUGINS", "another")
    with pytest.raises(FatalError, match="VLLM_PLUGINS"):
        check_plugin()
    monkeypatch.delenv(batch_invariance.SWITCH)
    check_plugin()


def test_vllm_finds_the_plugin() -> None:
    plugins = importlib.metadata.entry_points(group="vllm.general_plugins")
    assert "el4ner_ray.engines.batch_invariance:register" in {plugin.value for plugin in plugins}
