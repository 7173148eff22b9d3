"""Four nodes on this machine, their GPUs declared: placement as configured; a node lost, one added; a service."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml
from ray import serve
from ray._private import state
from ray._private.authentication_test_utils import reset_auth_token_state
from ray.cluster_utils import Cluster

from el4ner_ray.cluster import patient_start
from el4ner_ray.engines.applications import application_name
from el4ner_ray.serve.declared import JOB, Served, api, engine
from tests.conftest import free_port, until, write_jsonl
from tests.faults.bench import Annotation, Difference, command, compare, files

pytestmark = pytest.mark.timeout(1200)

MODELS = ("fake-a", "fake-b", "fake-c")
DOCUMENTS = 64
NODE = {"object_store_memory": 80 << 20}
A_GPU_EACH: dict[str, Any] = {
    "models": [{"name": name, "source": "fake", "gpus": 1, "cpus": 0.1} for name in MODELS],
    "fake": {"latency_ms": 400},
    "limits": {"batch_documents": 4, "batches_in_flight": 2, "documents_per_file": 8, "retries": 12},
}
# Each stage always has six calls at each model, far more than two a replica, until the documents run out.
GROWING: dict[str, Any] = {
    "models": [
        {"name": name, "source": "fake", "gpus": 0, "cpus": 0.05, "engine": {"max_num_seqs": 64}}
        | {"replicas": {"min": 1, "max": 3} if name == "fake-b" else 1}
        for name in MODELS
    ],
    "fake": {"latency_ms": 5000},
    "limits": {"batch_documents": 1, "batches_in_flight": 6, "documents_per_file": 8, "retries": 12},
}


@pytest.fixture(scope="module")
def token() -> Iterator[None]:
    """A token of Ray for this process and all that it starts."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        reset_auth_token_state()
        yield
    reset_auth_token_state()


@pytest.fixture(scope="module")
def four_nodes(token: None) -> Iterator[Cluster]:
    """A head for the stages and three nodes with a GPU each; this process is one of its drivers."""
    with patient_start():
        cluster = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 2, "include_dashboard": False})
        try:
            for _ in MODELS:
                cluster.add_node(wait=False, num_cpus=1, num_gpus=1, **NODE)
            cluster.wait_for_nodes(timeout=240)
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def engines() -> list[tuple[str, str]]:
    """The model, and the id of the node, of each living engine."""
    return [
        (actor["Name"].rsplit("#", 2)[1], actor["Address"]["NodeID"])
        for actor in state.actors().values()
        if actor["State"] == "ALIVE" and actor["Name"].startswith("SERVE_REPLICA::el4ner-")
    ]


def replicas() -> dict[str, str]:
    """Id of the node of the engine of each model, when each has one."""
    return dict(engines())


def free_gpus() -> float:
    return float(ray.available_resources().get("GPU", 0))


class Job:
    """`el4ner annotate` on the cluster, with a GPU for each model."""

    def __init__(self, folder: Path, index: Path, address: str) -> None:
        texts = (f"Anna Berg met Ben in Oslo, year {i}." for i in range(DOCUMENTS))
        corpus = write_jsonl(folder / "in.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(texts)])
        self._arguments = ("annotate", corpus, "--pool", index, "--pool-spans", "gold", "--profile", "fake")
        self._address = address

    def start(self, output: Path, settings: dict[str, Any] = A_GPU_EACH) -> Annotation:
        config = output.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(settings))
        line = command(*self._arguments, "--config", config, "--output", output)
        return Annotation(line, output, {"RAY_ADDRESS": self._address})


@pytest.mark.usefixtures("four_nodes")
def test_a_declared_service_answers(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("EL4NER_API_KEY", "k3y")
    port = free_port()
    request.addfinalizer(serve.shutdown)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    engines = {application_name(name, JOB): engine(Served(profile="fake", model=name)) for name in MODELS}
    for name, application in engines.items():
        serve.run(application, name=name, route_prefix=None)
    serve.run(api(Served(profile="fake")), name=application_name("_api", JOB), route_prefix="/")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=60) as client:
        assert client.get("/health").json()["models"] == dict.fromkeys(MODELS, "RUNNING")
        asked = {"texts": ["Anna met Ben."], "labels": {"person": "named people", "place": "cities and rivers"}}
        assert client.post("/annotate", json=asked).status_code == 401
        answer = client.post("/annotate", json=asked, headers={"Authorization": "Bearer k3y"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["documents"][0]["status"] == "ok"


@pytest.fixture(scope="module")
def job(four_nodes: Cluster, gold_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"), gold_index, four_nodes.address)


@pytest.fixture(scope="module")
def undisturbed(four_nodes: Cluster, job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run in which nothing happens: three engines on three nodes, a GPU each."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    until(lambda: free_gpus() == 3)
    with job.start(output) as run:
        until(lambda: replicas().keys() == set(MODELS))
        with_gpus = {node.node_id for node in four_nodes.worker_nodes}
        assert set(replicas().values()) == with_gpus  # three engines on three nodes: one each
        until(lambda: free_gpus() == 0)
        assert run.wait(200) == 0, run.told()
    return output


def test_a_lost_node_changes_nothing(four_nodes: Cluster, job: Job, undisturbed: Path, tmp_path: Path) -> None:
    disturbed = tmp_path / "disturbed"
    until(lambda: free_gpus() == 3)
    with job.start(disturbed) as run:
        until(lambda: bool(files(disturbed)))
        committed = len(files(disturbed))
        (lost,) = [node for node in four_nodes.worker_nodes if node.node_id == replicas()["fake-b"]]
        four_nodes.remove_node(lost, allow_graceful=False)
        added = four_nodes.add_node(num_cpus=1, num_gpus=1, **NODE)
        ended = run.process.poll
        # The loss is noticed after half a minute, and on a busy machine the next engine takes its time, too.
        until(
            lambda: replicas().get("fake-b") == added.node_id or ended() is not None,
            seconds=240,
            told=lambda: (engines(), run.told()),
        )
        assert ended() is None, run.told()
        assert run.wait(200) == 0, run.told()
    assert committed < len(files(disturbed))
    assert compare(disturbed, undisturbed) == Difference(0, 0, 0)


def test_replicas_come_while_calls_queue_and_change_nothing(job: Job, undisturbed: Path, tmp_path: Path) -> None:
    growing = tmp_path / "growing"
    until(lambda: not engines())
    with job.start(growing, GROWING) as run:
        until(lambda: len(engines()) == 3)  # one of each, as the range begins
        until(lambda: [model for model, _ in engines()].count("fake-b") == 3 or run.process.poll() is not None)
        assert run.process.poll() is None, run.told()
        committed = len(files(growing))
        assert run.wait(200) == 0, run.told()
    assert committed < len(files(growing))
    assert compare(growing, undisturbed) == Difference(0, 0, 0)
