"""What a run asks Ray for, and whether the cluster will ever have it."""

from __future__ import annotations

import json
import math

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.experimental import internal_kv

from el4ner_ray import machine
from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.errors import UsageError
from el4ner_ray.placement import cards_needed

# Beside the engines. With less, few of the tasks that read and write would run at a time.
_LEAST_FOR_STAGES = 1.0


def logical_cpus(config: JobConfig, of_stages: float = 0.0) -> int:
    """Logical CPUs with which a session on this machine keeps no process of the run waiting.

    They are bookkeeping there: engines on CPU are laid out on the cores by `core_share`, those on GPUs need their card.
    """
    engines = sum(model.cpus * _most_replicas(model) for model in config.models)
    return math.ceil(engines + max(of_stages, _LEAST_FOR_STAGES))


def _most_replicas(model: ModelConfig) -> int:
    """The replicas that a model may have on this machine, whose cards bound a range."""
    bounds = model.replica_range
    if bounds.min == bounds.max or not model.gpus_of_replica:
        return bounds.max
    return min(bounds.max, max(bounds.min, int(machine.cards_of_ray() // model.gpus_of_replica)))


def check(config: JobConfig, of_stages: float = 0.0) -> None:
    """Raise UsageError when engines or stages would wait for ever: the cluster has too little, and cannot grow."""
    if may_grow():
        return
    found = ray.cluster_resources()
    where = "the Ray cluster, which has no autoscaler, has"
    cards, cards_found = cards_needed(config), found.get("GPU", 0.0)
    if cards > cards_found:
        raise UsageError(
            f"models: those of profile {config.profile} need {cards} GPU{'s' * (cards > 1)}, and {where} "
            f"{cards_found:g}; lower models[].replicas, add nodes, or use another --profile"
        )
    engines = sum(model.cpus * model.replica_range.min for model in config.models)
    cpus, cpus_found = engines + of_stages, found.get("CPU", 0.0)
    if cpus > cpus_found + 1e-6:  # sums of fractions are not exact
        raise UsageError(
            f"models: their engines ask for {engines:g} CPUs and the stages for {of_stages:g}, and {where} "
            f"{cpus_found:g}; lower models[].cpus or models[].replicas, or add nodes"
        )


def all_fit_here(config: JobConfig) -> bool:
    """Whether the engines on CPU, one of each model, come to this machine and to no other.

    So it is where Ray has one node, with CPUs for all of them, and this process is on it. True without Ray.
    """
    on_cpu = [model for model in config.models if model.gpus == 0]
    if not ray.is_initialized():
        return True
    nodes = [node for node in ray.nodes() if node["Alive"]]
    single = all(model.replica_range.max == 1 for model in on_cpu)
    cpus = sum(model.cpus for model in on_cpu)
    return single and len(nodes) == 1 and cpus <= nodes[0]["Resources"].get("CPU", 0.0) + 1e-6


def may_grow() -> bool:
    """Whether an autoscaler may add nodes to the cluster; also where Ray does not tell."""
    told = internal_kv._internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report = json.loads(told).get("autoscaler_report") if told else None
    kinds = (report or {}).get("node_type_mapping") or {}
    # Without an autoscaler Ray's monitor makes up a type for each node, from its id.
    return not (kinds and all(kind == f"node_{node}" for node, kind in kinds.items()))
