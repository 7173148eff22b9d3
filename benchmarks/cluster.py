"""Scenario `cluster`: many short documents on a cluster of four nodes of one machine.

The engines are scripted, with some latency, each on a GPU of a node of its own; the GPUs are declared, not there. The
head offers cores for the stages. Memory is watched for the driver and for each node, with all that Ray runs on it.
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import running, scripted
from benchmarks.measured import Figure

_MODELS = ("fake-a", "fake-b", "fake-c")


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """Runs over so many documents of one sentence each, the smallest first; every call takes the `latency_ms`.

    `config` is laid over the job's configuration.
    """

    documents: list[int]
    vocabulary: int
    pool: int
    latency_ms: float
    config: dict[str, Any]


class OnNodes(running.Watched):
    """A driver, and the nodes of the cluster that it works on, each with all its processes."""

    def __init__(self, nodes: Sequence[Any]) -> None:
        """`nodes` are those of `ray.cluster_utils.Cluster`, head first."""
        super().__init__()
        roots = [[of_kind[0].process.pid for of_kind in node.all_processes.values()] for node in nodes]
        self._roots = dict(zip(("head", *(f"node {i}" for i in range(1, len(nodes)))), roots, strict=True))
        self.by_place: dict[str, list[int]] = defaultdict(list)

    def look(self, pid: int) -> None:
        """Look at the driver and at every node."""
        super().look(pid)
        self.by_place["driver"].append(self.memory[-1])
        for place, roots in self._roots.items():
            self.by_place[place].append(sum(running.memory_of(root) for root in roots))


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Documents a second, over the whole run and late in it; peak memory of driver and nodes, and its growth."""
    # The runs must have it, too. Ray reads it once in a process.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    names = scripted.names(workload.vocabulary)
    config = workload.config | {
        "demonstrations": {"pool_spans": "gold", "tagger": "none"},
        "fake": {"latency_ms": workload.latency_ms},
        "models": [{"name": name, "source": "fake", "gpus": 1, "cpus": 0.1} for name in _MODELS],
    }
    index = scripted.build_index(scratch, scripted.write_pool(scratch / "pool.jsonl", workload.pool, names), config)
    rates, peaks, figures = {}, {}, []
    for documents in sorted(workload.documents):
        corpus = scripted.write_corpus(scratch / f"{documents}.jsonl", documents, 1, names)
        with _four_nodes() as watched:
            run = scripted.annotate(scratch, corpus, index, f"out-{documents}", config, watched=watched)
        if run.content["documents"]["ok"] != documents:
            raise AssertionError(f"{run.content['documents']} of {documents} documents")
        rates[documents] = documents / run.content["wall_seconds"]
        peaks[documents] = {place: max(memory) for place, memory in watched.by_place.items()}
        figures += [
            Figure("documents a second", "1/s", (rates[documents],), documents),
            *(
                Figure("last third against the middle, documents a second", "", (late,), documents)
                for late in [late_speed(run.output)]
                if late is not None
            ),
            *(Figure(f"memory, {name}", "GB", (peak / 1e9,), documents) for name, peak in peaks[documents].items()),
            *(
                Figure(f"last third against the middle, memory, {name}", "", (running.growth(memory),), documents)
                for name, memory in watched.by_place.items()
            ),
        ]
    first, *others = rates
    for more in others:
        figures.append(Figure(f"documents a second against {first}", "", (rates[more] / rates[first],), more))
        for place, peak in peaks[more].items():
            figures.append(Figure(f"memory against {first}, {place}", "", (peak / peaks[first][place],), more))
    return figures


@contextmanager
def _four_nodes() -> Iterator[OnNodes]:
    """A head with this machine's cores, and three nodes with a GPU each; `el4ner` of this process joins them."""
    from ray.cluster_utils import Cluster

    node = {"object_store_memory": 256 << 20}
    cores = len(os.sched_getaffinity(0))
    cluster = Cluster(initialize_head=True, head_node_args=node | {"num_cpus": cores, "include_dashboard": False})
    try:
        for _ in _MODELS:
            cluster.add_node(wait=False, num_cpus=1, num_gpus=1, **node)
        cluster.wait_for_nodes(timeout=60)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield OnNodes([cluster.head_node, *cluster.worker_nodes])
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        cluster.shutdown()


def late_speed(output: Path) -> float | None:
    """Files a second in the last third of a run's annotation files, against the middle third; None below ten files."""
    times = np.sort([file.stat().st_mtime for file in (output / "annotations").glob("*.parquet")])
    if len(times) < 10:
        return None
    third = (len(times) - 1) // 3
    middle, late = times[-1 - third] - times[-1 - 2 * third], times[-1] - times[-1 - third]
    return float(middle / late)
