"""The Grafana dashboard shows what is exported, all of it, and nothing that is not."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
from prometheus_client.parser import text_string_to_metric_families

from el4ner_ray.schema import Failure, Usage
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.telemetry import StageMetrics
from tests.conftest import ROOT

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "el4ner.json").read_text("utf-8"))
RAYS_OWN = {"ray_node_mem_used", "ray_node_gpus_utilization", "ray_object_store_memory"}
SERVES_OWN = {
    "ray_serve_deployment_queued_queries", "ray_serve_num_ongoing_requests_at_replicas",
    "ray_serve_deployment_replica_healthy", "ray_serve_autoscaling_target_replicas",
}  # fmt: skip
# As Grafana reads a dashboard: what a panel must have to be shown.
PANEL = {
    "type": "object",
    "required": ["id", "type", "title", "gridPos"],
    "properties": {
        "id": {"type": "integer"},
        "gridPos": {
            "required": ["x", "y", "w", "h"],
            "properties": {"x": {"minimum": 0, "maximum": 23}, "w": {"minimum": 1, "maximum": 24}},
        },
        "targets": {"type": "array", "minItems": 1, "items": {"required": ["refId", "expr", "legendFormat"]}},
    },
}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DASHBOARD["panels"]
    return found


def queries() -> list[str]:
    told = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    return told + [variable["definition"] for variable in DASHBOARD["templating"]["list"] if "definition" in variable]


def asked() -> set[str]:
    """The names of metrics in all queries."""
    return set(re.findall(r"\b((?:ray_|el4ner_)\w+)", " ".join(queries())))


def exported() -> set[str]:
    """What the stages and the API export, by the names under which Prometheus stores them."""
    metrics = StageMetrics("extract")
    stage = {counter.info["name"] for counter in (*metrics._usage.values(), metrics._rows, metrics._failures)}
    api = Metrics()
    api.answered("/v1/annotate", 200, 0.1)
    families = {
        sample.name
        for family in text_string_to_metric_families(api.text().decode())
        for sample in family.samples
        if family.name.startswith("el4ner_")
    }
    return {f"ray_{name}_total" for name in stage} | families


def test_all_that_is_exported_is_shown_and_nothing_else() -> None:
    beside = {name for name in exported() if name.endswith(("_created", "_sum", "_count"))}  # of the histogram
    assert asked() == (exported() - beside) | RAYS_OWN | SERVES_OWN


def test_labels_are_those_of_the_metrics() -> None:
    metrics = StageMetrics("extract")
    metrics.count({"a": Usage(requests=1)}, [Failure("engine", "extract", "a", "no answer")], rows=1)
    known = {key for counter in (metrics._rows, metrics._failures) for key in counter.info["tag_keys"]}
    known |= {"path", "status", "le", "Location", "deployment", "application"}
    grouped = {
        name for query in queries() for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(", ")
    }
    filtered = {name for query in queries() for name in re.findall(r"(\w+)=~", query)}
    assert grouped | filtered <= known


def test_panels_do_not_overlap_and_have_names() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        jsonschema.validate(panel, PANEL)
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_queries_are_balanced() -> None:
    for query in queries():
        assert query.count("(") == query.count(")"), query
        assert query.count("{") == query.count("}"), query
