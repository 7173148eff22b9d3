"""A vLLM plugin: on CPU a token's numbers do not depend on how many others are computed with it.

oneDNN multiplies a single row by another kernel, which adds up in another order where rows are long (the down
projections: 73 of 327,680 elements differ with Gemma 3's 2048 x 640). A request that happens to be alone for a step
then continues with slightly other numbers than in company, and one answer in sixty changes in the end. A second row
costs 1 to 10 % of such a step. With it and one thread an engine, and attention not split over the length
(`serving.cpu_environment`), prompts alone and in batches of 12 gave the same bits in every layer of all three bundled
models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

SWITCH = "EL4NER_BATCH_INVARIANT"

Multiply = Callable[[Any, Any, Any], Any]


def register() -> None:
    """Called by vLLM in each of its processes (entry point `vllm.general_plugins`); does nothing unless switched on."""
    if os.environ.get(SWITCH) != "1":
        return
    from vllm import _custom_ops

    # vLLM may call a plugin more than once in a process.
    if not hasattr(_custom_ops.onednn_mm, "unpadded"):
        _custom_ops.onednn_mm = padded(_custom_ops.onednn_mm)


def padded(multiply: Multiply) -> Multiply:
    """`multiply(handler, x, bias)` of `vllm._custom_ops.onednn_mm`, never with a single row."""

    def multiply_rows(handler: Any, x: Any, bias: Any) -> Any:
        width = x.shape[-1]
        if x.numel() != width:
            return multiply(handler, x, bias)
        twice = x.reshape(1, width).expand(2, width).contiguous()
        return multiply(handler, twice, bias)[:1].reshape(*x.shape[:-1], -1)

    multiply_rows.unpadded = multiply  # type: ignore[attr-defined]
    return multiply_rows
