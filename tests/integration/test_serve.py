"""`el4ner serve` on real Ray Serve with the scripted engine: answers, streams, limits, many clients, and its end."""

from __future__ import annotations

import json
import pickle
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from ray.serve.generated import serve_pb2, serve_pb2_grpc

from el4ner_ray import orphans
from el4ner_ray.serve.messages import AnnotateResponse
from tests.conftest import until
from tests.serving import SECONDS_TO_STOP, Server, served

pytestmark = pytest.mark.timeout(1200)

KEY = "k3y"
SENTENCES, SECONDS, LATENCY_MS = 300, 25, 250
ASKING_STAGES, SIDE_BY_SIDE = 3, 8  # of a sentence without a pool; of one request
LABELS = {"person": "named people", "place": "cities and rivers"}
LONG = {"texts": ["Anna left Oslo. " * 200], "labels": LABELS, "stream": True}
UGLY = (
    "👩\u200d👩\u200d👧 Anna 😂 met Ben👍🏽 in Oslo 🇳🇴.",
    "Anna\r\nKarlsson met Ben.\r\n\r\nThen Ben left Oslo.\r\n",
    "王小明在北京大学工作。他喜欢上海。",
    "ذهبت Anna إلى القاهرة. ثم عادت.",
    "Rene\u0301e met Jose\u0301 in A\u030alesund. 𝒜nna and 𝔅en",
    "",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, calibrated: Path) -> Iterator[Server]:
    """A server with a calibrated pool and a key, whose engines take their time."""
    folder = tmp_path_factory.mktemp("serve")
    config = {"fake": {"latency_ms": LATENCY_MS}, "demonstrations": {"pool_spans": "gold"}}
    (folder / "job.yaml").write_text(yaml.safe_dump(config))
    options = ("--config", folder / "job.yaml", "--pool", calibrated / "index", "--sentences", str(SENTENCES))
    with served(folder, *options, "--seconds", str(SECONDS), key=KEY) as running:
        yield running


def client_of(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with client_of(server) as opened:
        yield opened


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code


def replicas(server: Server) -> list[psutil.Process]:
    """The processes of Ray Serve's replicas."""
    started = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in started if process.cmdline()[:1] and "ServeReplica" in process.cmdline()[0]]


def in_flight(client: httpx.Client) -> float:
    (value,) = re.findall(r"^el4ner_sentences_in_flight (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(value)


def test_health_and_models(client: httpx.Client) -> None:
    assert client.get("/v1/health").json() == {
        "status": "ok",
        "models": dict.fromkeys(("fake-a", "fake-b", "fake-c"), "RUNNING"),
    }
    told = client.get("/v1/models").json()
    assert told["pool_sentences"] == 201
    assert "person" in told["labels"]
    assert told["methods"] == ["paper", "calibrated"]
    assert told["limits"]["sentences"] == SENTENCES


def test_replicas_answer_nobody_without_rays_token(server: Server) -> None:
    running = replicas(server)
    assert len(running) == 4  # three engines and the API
    # What the API sends: pickled, so that whoever is let in runs code there.
    call = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(None))
    for process in running:
        answers = set()
        for listening in (c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN):
            channel = grpc.insecure_channel(f"127.0.0.1:{listening.port}")
            with channel, pytest.raises(grpc.RpcError) as refused:
                serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(call, timeout=10)
            answers.add(refused.value.code())
        # Ray's own port does not know such calls, and the API's speaks HTTP, which asks for another key.
        answers.discard(grpc.StatusCode.UNAVAILABLE)
        assert answers == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


def test_the_demonstrations_of_the_pool_serve_its_labels_alone(client: httpx.Client) -> None:
    texts = {"texts": ["Anna met Ben in Oslo."]}
    own = client.post("/v1/annotate", json=texts)
    AnnotateResponse.model_validate_json(own.content, strict=True)
    assert own.json()["demonstrations"] == "pool"
    assert set(own.json()["stages"]) == {"pre_extract", "retrieve", "extract", "classify", "verify"}
    other = client.post("/v1/annotate", json=texts | {"labels": LABELS}).json()
    assert other["demonstrations"] == "none"
    shown = {"text": "Anna flew.", "entities": [{"start": 0, "end": 4, "type": "person"}]}
    given = client.post("/v1/annotate", json=texts | {"labels": LABELS, "demonstrations": [shown]}).json()
    assert given["demonstrations"] == "given"
    assert all(answer["documents"][0]["entities"] for answer in (own.json(), other, given))


def test_types_that_are_described_otherwise_are_for_the_papers_method(client: httpx.Client) -> None:
    told = client.get("/v1/models").json()
    labels = told["labels"] | {next(iter(told["labels"])): "described otherwise"}
    answer = client.post("/v1/annotate", json={"texts": ["Ann met Bo."], "labels": labels})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["method"], answer.json()["demonstrations"]) == ("paper", "pool")


def test_entities_are_those_of_the_batch_job(client: httpx.Client, calibrated: Path) -> None:
    rows = [row for file in (calibrated / "annotations").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    for row in rows:
        answer = client.post("/v1/annotate", json={"texts": [row["text"]], "method": "calibrated"})
        (document,) = answer.json()["documents"]
        for column in ("entities", "dropped"):
            # The output has scores of 32 bits; the embedder rounds by what else is in its batch.
            found = [entity | {"score": pytest.approx(entity["score"], abs=1e-4)} for entity in row[column]]
            assert document[column] == found
    assert any(row["entities"] for row in rows)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_offsets(client: httpx.Client, labels: dict[str, str] | None) -> None:
    documents = client.post("/v1/annotate", json={"texts": UGLY, "labels": labels}).json()["documents"]
    for text, document in zip(UGLY, documents, strict=True):
        found = document["entities"] + document["dropped"]
        assert document["status"] == "ok"
        assert bool(found) == bool(text)
        assert all(text[entity["start"] : entity["end"]] == entity["text"] for entity in found)


def test_a_stream_tells_every_sentence(client: httpx.Client) -> None:
    body = {"texts": UGLY, "labels": LABELS, "stream": True, "stages": True}
    first, *told, last = map(json.loads, client.post("/v1/annotate", json=body).text.splitlines())
    assert last["kind"] == "end"
    done = [(line["document"], line["sentence"]) for line in told if line["kind"] == "sentence"]
    assert sorted(done) == [(place["document"], place["sentence"]) for place in first["sentences"]]
    assert len(done) > 5


def test_sentences_come_as_they_are_done(client: httpx.Client) -> None:
    with client.stream("POST", "/v1/annotate", json=LONG) as stream:
        lines = stream.iter_lines()
        assert json.loads(next(lines))["kind"] == "start"
        assert json.loads(next(lines))["kind"] == "sentence"
        # It is not over: what is left has its room. So there is none for as much again.
        assert in_flight(client) == 200
        answer = client.post("/v1/annotate", json=LONG)
        refused(answer, 429, "busy")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    # Whoever goes away gives room.
    until(lambda: in_flight(client) == 0)


def test_what_takes_too_long(client: httpx.Client) -> None:
    assert SENTENCES / SIDE_BY_SIDE * ASKING_STAGES * LATENCY_MS / 1000 > SECONDS
    with client.stream("POST", "/v1/annotate", json=LONG | {"texts": ["Anna left Oslo. " * SENTENCES]}) as stream:
        *_, last = stream.iter_lines()
    assert json.loads(last)["error"]["code"] == "deadline"
    assert in_flight(client) == 0


def test_what_is_refused(client: httpx.Client) -> None:
    refused(client.post("/v1/annotate", json=LONG, headers={"Authorization": "Bearer no"}), 401, "unauthorized")
    refused(client.get("/v1/models", headers={"Authorization": ""}), 401, "unauthorized")
    refused(client.post("/v1/annotate", json=LONG | {"texts": ["a" * 1_000_000]}), 413, "too_large")
    refused(client.post("/v1/annotate", json=LONG | {"texts": ["Anna left. " * 301]}), 413, "too_large")
    refused(client.post("/v1/annotate", json={"texts": []}), 422, "invalid")
    refused(client.post("/v1/annotate", content="{"), 422, "invalid")
    refused(client.get("/v2"), 404, "not_found")


def test_fifty_clients_at_once(client: httpx.Client) -> None:
    def one(number: int) -> list[str]:
        texts = [f"Anna{number} met Ben{number} in Oslo. Then Carl{number} left." for _ in range(2)]
        answer = client.post("/v1/annotate", json={"texts": texts, "labels": LABELS})
        assert answer.status_code == 200, answer.text
        documents = answer.json()["documents"]
        return [entity["text"] for document in documents for entity in document["entities"] + document["dropped"]]

    with ThreadPoolExecutor(50) as clients:
        found = list(clients.map(one, range(100)))
    for number, surfaces in enumerate(found):
        assert set(surfaces) <= {f"Anna{number}", f"Ben{number}", "Oslo", f"Then Carl{number}"}
        assert len(surfaces) >= 4


def test_many_clients_beyond_the_limit_are_answered_or_turned_away(client: httpx.Client) -> None:
    """Each asks for 20 sentences at a time, all together for three times as many as there may be."""

    def one(number: int) -> httpx.Response:
        text = f"Anna{number} met Ben in Oslo. " * 20
        return client.post("/v1/annotate", json={"texts": [text], "labels": LABELS})

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(one, range(100)))
    assert {answer.status_code for answer in answers} == {200, 429}
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            [document] = answer.json()["documents"]
            assert document["status"] == "ok"
            found = {entity["text"] for entity in document["entities"] + document["dropped"]}
            assert found <= {f"Anna{number}", "Ben", "Oslo"}
        else:
            refused(answer, 429, "busy")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert in_flight(client) == 0
    assert one(0).status_code == 200


def counted(client: httpx.Client) -> dict[str, float]:
    """What the server counts, by name and labels."""
    lines = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_metrics(client: httpx.Client) -> None:
    until(lambda: in_flight(client) == 0)
    before = counted(client)
    with client.stream("POST", "/v1/annotate", json=LONG) as stream:
        next(stream.iter_lines())
        refused(client.post("/v1/annotate", json=LONG), 429, "busy")
    until(lambda: in_flight(client) == 0)
    body = {"texts": ["Anna left Oslo. " * 10], "labels": LABELS}
    assert client.post("/v1/annotate", json=body).status_code == 200
    refused(client.post("/v1/annotate", json=body, headers={"Authorization": "Bearer no"}), 401, "unauthorized")
    refused(client.post("/v1/annotate", json=body | {"texts": ["a" * 1_000_000]}), 413, "too_large")
    refused(client.post("/v1/annotate", json=body | {"texts": []}), 422, "invalid")
    more = {name: value - before.get(name, 0) for name, value in counted(client).items()}
    # The stream whose client went away had its status, and none of its sentences counts.
    for status, number in {200: 2, 401: 1, 413: 1, 422: 1, 429: 1}.items():
        assert more[f'el4ner_http_requests_total{{path="/v1/annotate",status="{status}"}}'] == number
    assert more["el4ner_sentences_total"] == 10


def test_an_api_that_is_killed_comes_back_and_sigterm_lets_what_is_in_flight_finish(tmp_path: Path) -> None:
    """On a server of its own, as it ends: one for both, because a start takes its time."""
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"fake": {"latency_ms": LATENCY_MS}}))
    with served(tmp_path, "--config", tmp_path / "job.yaml", key=KEY) as server, client_of(server) as client:
        an_api_that_is_killed_comes_back(server, client)
        sigterm_lets_what_is_in_flight_finish_and_leaves_nothing(server, client)


def an_api_that_is_killed_comes_back(server: Server, client: httpx.Client) -> None:
    [api] = [process for process in replicas(server) if re.search(r":api(\.|$)", process.cmdline()[0])]
    api.kill()
    api.wait(30)

    def answers() -> bool:
        try:
            return client.get("/v1/health").status_code == 200
        except httpx.TransportError:
            return False

    until(answers)
    assert client.post("/v1/annotate", json={"texts": ["Anna left Oslo."], "labels": LABELS}).status_code == 200


def sigterm_lets_what_is_in_flight_finish_and_leaves_nothing(server: Server, client: httpx.Client) -> None:
    driver = orphans.Driver.of(psutil.Process(server.process.pid))
    assert len(marked(driver)) > 5
    body = LONG | {"texts": ["Anna left Oslo. " * 40]}
    with client.stream("POST", "/v1/annotate", json=body) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        *_, last = lines
    assert json.loads(last)["kind"] == "end"
    assert server.process.wait(SECONDS_TO_STOP) == 0
    assert marked(driver) == []


def marked(driver: orphans.Driver) -> list[str]:
    """Processes that the driver started, or that they started."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(orphans.MARK) == driver.mark:
                found.append(process.name())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found
