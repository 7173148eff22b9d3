"""What stages count arrives at the endpoint that Prometheus reads."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest
import ray

from el4ner_ray.schema import Failure, Usage
from el4ner_ray.telemetry import StageMetrics
from tests.conftest import free_port, until

pytestmark = pytest.mark.timeout(600)

# No real stage's: tests that this process ran before may have counted for those, and their counters are here, too.
STAGE = "told"

Counted = dict[tuple[str, ...], float]


@pytest.fixture
def port() -> Iterator[int]:
    """A Ray session of its own; its metrics are at this port of 127.0.0.1."""
    free = free_port()
    ray.init(
        address="local", num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False,
        _metrics_export_port=free, _node_ip_address="127.0.0.1", _system_config={"metrics_report_interval_ms": 1000},
    )  # fmt: skip
    yield free
    ray.shutdown()


@ray.remote(num_cpus=0)
class _Actor:
    def count(self) -> None:
        metrics = StageMetrics(STAGE)
        usage = {"a": Usage(requests=2, prompt_tokens=70, cached_tokens=64, seconds=1.5), "b": Usage(requests=1)}
        lost = [Failure("engine", STAGE, "b", "no answer"), Failure("engine", STAGE, "b", "no answer")]
        metrics.count(usage, lost, rows=3)
        metrics.count({"a": Usage(requests=3)}, [], rows=1)


def scraped(port: int) -> Counted:
    """(name, stage, model, kind) -> value, over all workers, of this test's stage."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found: Counted = Counter()
    for name, tags, value in re.findall(r"^ray_el4ner_(\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
        of_line = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if of_line["stage"] == STAGE:
            found[name, *(of_line.get(tag, "") for tag in ("stage", "model", "kind"))] += float(value)
    return found


def test_counters_reach_the_metrics_endpoint(port: int) -> None:
    actor = _Actor.remote()
    ray.get(actor.count.remote())
    expected = {
        ("rows_total", STAGE, "", ""): 4,
        ("requests_total", STAGE, "a", ""): 5,
        ("requests_total", STAGE, "b", ""): 1,
        ("prompt_tokens_total", STAGE, "a", ""): 70,
        ("cached_tokens_total", STAGE, "a", ""): 64,
        ("seconds_total", STAGE, "a", ""): 1.5,
        ("failures_total", STAGE, "b", "engine"): 2,
    }
    until(lambda: expected.items() <= scraped(port).items())
    assert scraped(port) == expected
