"""What a run asks Ray for, compared with what the cluster has and may get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from el4ner_ray import capacity, machine, pipeline
from el4ner_ray.capacity import check, logical_cpus, may_grow
from el4ner_ray.config import JobConfig, load
from el4ner_ray.errors import UsageError

NODE = "3e0a92f733e1dff9055177a3"
ALONE = {NODE: f"node_{NODE}"}  # as Ray's monitor calls nodes that it did not start
SCALED = {"10.0.0.1": "head", "10.0.0.2": "engines-24gb"}


def paper(**of_models: Any) -> JobConfig:
    """Profile `paper` with these fields for each model."""
    models = [model.model_dump() | of_models for model in load(profile="paper").models]
    return load(profile="paper", overrides={"models": models})


def of_ray(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str] | None, **resources: float) -> None:
    """Let Ray tell of a cluster with nodes of these kinds, by their names, and with these resources."""
    told = json.dumps({"autoscaler_report": {"node_type_mapping": kinds}}).encode() if kinds is not None else None
    monkeypatch.setattr(capacity.internal_kv, "_internal_kv_get", lambda _: told)
    monkeypatch.setattr(capacity.ray, "cluster_resources", lambda: resources)


@pytest.mark.parametrize(("kinds", "grows"), [(ALONE, False), (SCALED, True), ({}, True), (None, True)])
def test_whether_nodes_may_come(monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str] | None, grows: bool) -> None:
    of_ray(monkeypatch, kinds)
    assert may_grow() is grows


@pytest.mark.parametrize(
    ("config", "resources", "told"),
    [
        (
            paper(replicas=8),
            {"CPU": 64.0, "GPU": 5.0},
            "models: those of profile paper need 24 GPUs, and the Ray cluster, which has no autoscaler, has 5; lower "
            "models[].replicas, add nodes, or use another --profile",
        ),
        (
            paper(),
            {"CPU": 3.0, "GPU": 3.0},
            "models: their engines ask for 3 CPUs and the stages for 0.5, and the Ray cluster, which has no "
            "autoscaler, has 3; lower models[].cpus or models[].replicas, or add nodes",
        ),
        (load(profile="tiny-cpu"), {}, "ask for 1 CPUs and the stages for 0.5, and the Ray cluster.* has 0;"),
    ],
)
def test_a_cluster_that_cannot_grow_and_has_too_little_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, config: JobConfig, resources: dict[str, float], told: str
) -> None:
    of_ray(monkeypatch, ALONE, **resources)
    with pytest.raises(UsageError, match=told.replace("[]", r"\[\]")):
        check(config, pipeline.cpus(config))


@pytest.mark.parametrize(
    ("kinds", "resources"),
    [(ALONE, {"CPU": 3.5, "GPU": 3.0}), (ALONE, {"CPU": 64.0, "GPU": 8.0}), (SCALED, {"CPU": 1.0}), (None, {})],
)
def test_engines_that_fit_or_may_fit_later_start(
    monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str] | None, resources: dict[str, float]
) -> None:
    of_ray(monkeypatch, kinds, **resources)
    config = paper()
    check(config, pipeline.cpus(config))


def test_stages_ask_for_cpus_by_their_actors() -> None:
    assert pipeline.cpus(load(profile="paper")) == pytest.approx(0.5)
    assert pipeline.cpus(load(profile="paper", overrides={"limits": {"retrievers": 9}})) == pytest.approx(0.9)


def test_a_session_here_has_room_for_the_replicas_that_its_cards_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cards_of_ray", lambda: 4)
    assert logical_cpus(load(profile="tiny-cpu"), 0.5) == 2
    assert logical_cpus(load(profile="fake")) == 2
    assert logical_cpus(paper(), 1.3) == 5
    assert logical_cpus(paper(replicas={"min": 1, "max": 64})) == 13
