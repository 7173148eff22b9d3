"""What decides the annotations of a run, so that a resumption can be told from another run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from el4ner_ray.config import JobConfig

# Arguments of vLLM that say how much an engine holds and on how many cards, not what it answers. They change how sums
# are rounded, as does all that changes what is computed together; see docs/repeatability.md.
CAPACITY = frozenset(
    {
        "cpu_offload_gb",
        "cpu_offload_params",
        "cudagraph_capture_sizes",
        "disable_custom_all_reduce",
        "distributed_executor_backend",
        "enable_sleep_mode",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_memory_bytes",
        "max_cudagraph_capture_size",
        "max_num_active_seqs",
        "max_num_batched_tokens",
        "max_num_scheduled_tokens",
        "max_num_seqs",
        "max_parallel_loading_workers",
        "num_gpu_blocks_override",
        "offload_backend",
        "offload_group_size",
        "offload_num_in_group",
        "offload_params",
        "offload_prefetch_step",
        "pipeline_parallel_size",
        "sleep_mode_offload_cudagraph",
        "tensor_parallel_size",
    }
)

# What changes nothing in the annotations may change between a run and its resumption.
_NOT_IN_FINGERPRINT: Any = {
    "profile": True,
    "limits": {
        "batch_documents",
        "batches_in_flight",
        "retrievers",
        "documents_per_file",
        "request_seconds",
        "call_requests",
        "retries",
    },
    "fake": {"latency_ms", "calls_at_once", "failure_rate", "hang_after"},
    "models": {"__all__": {"gpus", "cpus", "core_share", "replicas", "rates"}},
}


def fingerprint_fields(config: JobConfig, **more: str) -> dict[str, Any]:
    """The fields that decide the annotations; `more` adds hashes of prompts, models and index."""
    fields: dict[str, Any] = config.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
    for model in fields["models"]:
        # Runs from before there was such a field are resumed.
        if not model["chat_template_kwargs"]:
            del model["chat_template_kwargs"]
    return comparable(fields) | more


def capacity_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """What the `engine` section of a model, as run.json has it, says of CAPACITY."""
    return {name: value for name, value in model["engine"].items() if name in CAPACITY}


def comparable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a run without CAPACITY, which earlier versions took to decide annotations, too."""
    models = [
        model | {"engine": {name: value for name, value in model["engine"].items() if name not in CAPACITY}}
        for model in fields.get("models", ())
    ]
    return {**fields, "models": models}


def fingerprint(fields: Mapping[str, Any]) -> str:
    """SHA-256 of the fields in canonical JSON, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
