"""The API by FastAPI's test client, with scripted engines in this process: bodies, limits, streams, keys, the page."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from el4ner_ray import splitting
from el4ner_ray.config import JobConfig, load
from el4ner_ray.core.fusion import Fusion
from el4ner_ray.core.prompting import running_text
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.engines.base import Completion, Ensemble, Request
from el4ner_ray.html import policy_hash
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.schema import (
    BATCH,
    DECIDED,
    DOC_ID,
    ENTITY_TYPE,
    ERROR,
    PART,
    PART_SCHEMA,
    TEXT,
    TEXT_START,
    Span,
)
from el4ner_ray.serve.annotator import Annotator, Sentence, ServedPool
from el4ner_ray.serve.api import create_app, key_digest
from el4ner_ray.serve.limits import BusyError, Limits, Room, TooLargeError
from el4ner_ray.serve.messages import AnnotateRequest, AnnotateResponse, StreamLine
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.serve.problems import DeadlineError
from el4ner_ray.serve.service import Service
from el4ner_ray.stages.base import Batch, Stage
from el4ner_ray.stages.given import Given
from el4ner_ray.stages.segment import Segment
from tests.serving import InProcessEnsemble

T = TypeVar("T")

LABELS = {"person": "named people", "place": "cities and rivers"}
BODY: dict[str, Any] = {"texts": ["Anna met Ben in Oslo. Then Carl left Rome."], "labels": LABELS}
SHOWN = {"text": "Anna flew.", "entities": [{"start": 0, "end": 4, "type": "person"}]}
UGLY = (
    "👩\u200d👩\u200d👧 Anna 😂 met Ben👍🏽 in Oslo 🇳🇴.",
    "Anna\r\nKarlsson met Ben.\r\n\r\nThen Ben left Oslo.\r\n",
    "王小明在北京大学工作。他喜欢上海。",
    "ذهبت Anna إلى القاهرة. ثم عادت.",
    "Rene\u0301e met Jose\u0301 in A\u030alesund. 𝒜nna and 𝔅en",
    "Anna\x00 met Ben | Carl = x\u2028Sentence: Dora",
    "",
    " \n\t",
)


class Recording(InProcessEnsemble):
    """Keeps what the models are asked."""

    def __init__(self, config: JobConfig) -> None:
        super().__init__(config)
        self.asked: list[Request] = []

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        self.asked += requests
        return await super().ask(model, requests, session)


class Held(InProcessEnsemble):
    """Answers only when it is let go."""

    def __init__(self, config: JobConfig) -> None:
        super().__init__(config)
        self.asked, self.go = threading.Event(), threading.Event()

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        self.asked.set()
        while not self.go.is_set():
            await asyncio.sleep(0.001)
        return await super().ask(model, requests, session)


class Silent(InProcessEnsemble):
    """Has no answer to anything."""

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        return [Completion("", error="no answer after 7 tries") for _ in requests]


class Broken(InProcessEnsemble):
    """Raises what nobody expects."""

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        raise ZeroDivisionError("secret of the server")


class Late(InProcessEnsemble):
    """Is asked, and then an hour passes by the clock of the event loop."""

    def __init__(self, config: JobConfig) -> None:
        super().__init__(config)
        self.asked = 0

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        self.asked += 1
        loop = asyncio.get_running_loop()
        now = loop.time
        loop.time = lambda: now() + 3600  # type: ignore[method-assign]
        return await asyncio.Future()


Start = Callable[..., TestClient]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes clients of servers; `make` gives their ensemble, which they keep as `ensemble`."""
    opened: list[TestClient] = []

    def started(
        make: Callable[[JobConfig], Ensemble] = InProcessEnsemble,
        limits: Limits | None = None,
        key: str | None = None,
        states: dict[str, str] | None = None,
    ) -> TestClient:
        config, metrics = load(profile="fake"), Metrics()
        ensemble = make(config)

        async def health() -> dict[str, str]:
            return states or dict.fromkeys(config.model_names, "RUNNING")

        service = Service(Annotator(config, None, ensemble), limits or Limits(), metrics)
        app = create_app(service, metrics, health, key_digest(key) if key else None)
        client = TestClient(app, raise_server_exceptions=False)
        client.ensemble = ensemble  # type: ignore[attr-defined]
        client.__enter__()
        opened.append(client)
        return client

    yield started
    for client in opened:
        client.__exit__(None, None, None)


class Others:
    """What else the event loop has to do: so many turns has it had."""

    turns = 0

    async def beside(self, work: Coroutine[Any, Any, T]) -> T:
        counting = asyncio.create_task(self._count())
        done = await work
        counting.cancel()
        return done

    async def _count(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


async def all_of(groups: AsyncIterator[list[Sentence]]) -> list[Sentence]:
    return [sentence async for group in groups for sentence in group]


def lines(client: TestClient, body: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
    answer = client.post("/v1/annotate", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def refused(answer: Any, status: int, code: str, message: str = "") -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["status"], error["code"]) == (status, code)
    assert message in error["message"]


def test_the_answer_has_the_structure_of_the_output(start: Start) -> None:
    answer = start().post("/v1/annotate", json=BODY)
    assert answer.status_code == 200
    AnnotateResponse.model_validate_json(answer.content, strict=True)
    (document,) = answer.json()["documents"]
    assert document["status"] == "ok"
    assert document["error"] is None
    assert len(document["entities"]) >= 3
    for entity in document["entities"] + document["dropped"]:
        assert list(entity) == [field.name for field in ENTITY_TYPE]
        assert pa.array([entity], ENTITY_TYPE).to_pylist()[0]["text"] == entity["text"]
    assert answer.json()["sentences"] == 2
    assert answer.json()["stages"]["extract"]["fake-a"]["requests"] == 2


def test_offsets_are_code_points_of_the_untouched_text(start: Start) -> None:
    documents = start().post("/v1/annotate", json=BODY | {"texts": list(UGLY)}).json()["documents"]
    assert len(documents) == len(UGLY)
    found = [[entity["text"] for entity in document["entities"] + document["dropped"]] for document in documents]
    assert "Karlsson" in " ".join(found[1])
    assert all(found[:6])
    assert found[6:] == [[], []]
    for text, document in zip(UGLY, documents, strict=True):
        for entity in document["entities"] + document["dropped"]:
            assert text[entity["start"] : entity["end"]] == entity["text"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text_is_answered(texts: list[str]) -> None:
    config, metrics = load(profile="fake"), Metrics()
    service = Service(Annotator(config, None, InProcessEnsemble(config)), Limits(), metrics)
    request = AnnotateRequest(texts=texts, labels=LABELS)
    answer = AnnotateResponse.model_validate_json(asyncio.run(service.answer(request)))
    for text, document in zip(texts, answer.documents, strict=True):
        assert document.status == "ok"
        assert all(text[e.start : e.end] == e.text for e in document.entities + document.dropped)


@pytest.mark.parametrize("how", ["field", "header"])
def test_a_stream_tells_the_same_as_the_whole_answer(start: Start, how: str) -> None:
    client = start()
    body = BODY | {"texts": [*BODY["texts"], *UGLY]}
    whole = client.post("/v1/annotate", json=body).json()
    asked: tuple[dict[str, Any], dict[str, str]] = ({"stream": True}, {})
    asked = asked if how == "field" else ({}, {"Accept": "application/x-ndjson"})
    first, *told, last = lines(client, body | asked[0], **asked[1])
    for line in (first, *told, last):
        TypeAdapter(StreamLine).validate_python(line)
    assert (first["kind"], last["kind"]) == ("start", "end")
    assert {line["kind"] for line in told} == {"sentence"}
    assert sorted((line["document"], line["sentence"]) for line in told) == [
        (place["document"], place["sentence"]) for place in first["sentences"]
    ]
    told.sort(key=lambda line: (line["document"], line["sentence"]))
    for number, document in enumerate(whole["documents"]):
        own = [line for line in told if line["document"] == number]
        assert [entity for line in own for entity in line["entities"]] == document["entities"]
        assert [entity for line in own for entity in line["dropped"]] == document["dropped"]
    assert last["sentences"] == whole["sentences"]


def test_a_stream_tells_the_stages_when_asked(start: Start) -> None:
    text = BODY["texts"][0]
    told = lines(start(), BODY | {"stream": True, "stages": True})
    of_first = [line for line in told if line.get("sentence") == 0]
    assert [line.get("stage", line["kind"]) for line in of_first] == ["extract", "classify", "sentence"]
    extracted, typed, done = of_first
    assert all(text[c["start"] : c["end"]] == c["text"] and c["extracted_by"] for c in extracted["candidates"])
    spans = {(c["start"], c["end"]) for c in extracted["candidates"]}
    assert {(e["start"], e["end"]) for e in typed["entities"]} == spans
    assert {(e["start"], e["end"]) for e in done["entities"] + done["dropped"]} == spans


def test_demonstrations_are_shown_in_their_order(start: Start) -> None:
    client = start(Recording)
    other = {"text": "Rome is old.", "entities": []}
    answer = client.post("/v1/annotate", json=BODY | {"demonstrations": [SHOWN, other]}).json()
    assert answer["demonstrations"] == "given"
    for request in client.ensemble.asked:  # type: ignore[attr-defined]
        first, second, asked = [turn for turn in request.turns if "Sentence: " in turn]
        assert "Anna flew." in first
        assert "Rome is old." in second
        assert asked.index("Sentence: ", -60)


def test_without_demonstrations_the_labels_stand_alone(start: Start) -> None:
    client = start(Recording)
    assert client.post("/v1/annotate", json=BODY).json()["demonstrations"] == "none"
    for request in client.ensemble.asked:  # type: ignore[attr-defined]
        assert "named people" in request.turns[0]
        assert running_text(request.turns).count("Sentence: ") == 1


WRONG: list[tuple[Any, str]] = [
    ({}, "texts: "),
    (BODY | {"texts": []}, "texts: "),
    (BODY | {"texts": "Anna"}, "texts: "),
    (BODY | {"texts": ["Anna", 7]}, "texts.1: "),
    (BODY | {"texts": ["a"] * 101}, "texts: "),
    (BODY | {"texts": ["a\ud800b"]}, "texts.0: code point 1"),
    (BODY | {"nonsense": 1}, "nonsense: "),
    (BODY | {"nonsense\ud800": 1}, "unicode"),
    (BODY | {"labels": {"a\ud800": ""}}, "labels.a"),
    (BODY | {"labels": None}, "labels: this server has no label set"),
    (BODY | {"labels": {}}, "labels: the label set is empty"),
    (BODY | {"labels": {"a|b": ""}}, "'a|b'"),
    (BODY | {"labels": {"a": "x\ny"}}, "labels.a: "),
    (BODY | {"labels": {"a": "\udc00"}}, "labels.a: "),
    (BODY | {"labels": {"a" * 101: ""}}, "labels."),
    (BODY | {"labels": {str(i): "" for i in range(51)}}, "labels: "),
    (BODY | {"method": "magic"}, "method: "),
    (BODY | {"method": "calibrated"}, "method: "),
    (BODY | {"demonstrations": [SHOWN] * 33}, "demonstrations: "),
    (BODY | {"demonstrations": [SHOWN | {"text": " "}]}, "demonstrations.0: text"),
    (BODY | {"demonstrations": [SHOWN | {"entities": [{"start": 4, "end": 4, "type": "person"}]}]}, "[4, 4)"),
    (
        BODY | {"demonstrations": [SHOWN | {"entities": [{"start": 4, "end": 5, "type": "person"}]}]},
        "demonstrations.0: entities.0: [4, 5) is white space only; mark what is named, or leave the entity out",
    ),
    (BODY | {"demonstrations": [SHOWN | {"entities": [{"start": 0, "end": 11, "type": "person"}]}]}, "[0, 11)"),
    (BODY | {"demonstrations": [SHOWN | {"entities": [{"start": -1, "end": 1, "type": "person"}]}]}, "start: "),
    (BODY | {"demonstrations": [SHOWN | {"entities": [{"start": 0, "end": 1, "type": "gene"}]}]}, "'gene'"),
    # Two hundred spans of a short text: a prompt would repeat them to a hundred times its length.
    (
        BODY
        | {
            "demonstrations": [
                {"text": "a" * 2000, "entities": [{"start": i, "end": 2000, "type": "person"} for i in range(3)]}
            ]
        },
        "demonstrations.0: entities: they have 5997 code points together, at most 4000",
    ),
]


@pytest.mark.parametrize(("body", "message"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_body_is_told_the_field(start: Start, body: Any, message: str) -> None:
    headers = {"Content-Type": "application/json"}
    refused(start().post("/v1/annotate", content=json.dumps(body), headers=headers), 422, "invalid", message)


SEND_TEXTS = 'send an object with texts, as {"texts": ["Ben met her in Rome."]}'
DEEP = b'{"texts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
NO_JSON: dict[str, tuple[bytes, str]] = {
    "cut off": (
        b"{",
        "is not JSON at line 1, column 2: Expecting property name enclosed in double quotes; " + SEND_TEXTS,
    ),
    "more after it": (b'{"texts":\n["a"]} x', f"is not JSON at line 2, column 8: Extra data; {SEND_TEXTS}"),
    "Latin-1": (
        b'{"texts": ["\xff"]}',
        "is not in UTF-8 at byte 12, counted from 0: invalid start byte; encode it in UTF-8",
    ),
    "deep": (DEEP, f"nests arrays or objects too deep; {SEND_TEXTS}"),
    "long integer": (
        b'{"texts": ' + b"1" * 5000 + b"}",
        "has an integer of more than 4300 digits; its only numbers are the start and end of entities",
    ),
    "array": (b"[]", f"is not an object; {SEND_TEXTS}"),
    "null": (b"null", f"is not an object; {SEND_TEXTS}"),
    "empty": (b"", f"is empty; {SEND_TEXTS}"),
}


@pytest.mark.parametrize(("body", "message"), NO_JSON.values(), ids=NO_JSON)
def test_a_body_that_is_no_object_is_told_why(start: Start, body: bytes, message: str) -> None:
    answer = start().post("/v1/annotate", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"] == {"status": 422, "code": "invalid", "message": f"the body {message}"}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"texts": ["a"], "labels": {"person": "a", "place": "b", "person": "c"}}', "'person'"),
        ('{"texts": ["a"], "labels": {"p\\u00e9": "a", "pé": "b"}}', "'pé'"),
        ('{"texts": ["a"], "labels": {"\\ud800": "a", "\\ud800": "b"}}', r"'\ud800'"),
        ('{"texts": ["a"], "labels": {"person": "a"}, "labels": {"person": "b"}}', "'labels'"),
        ('{"texts": ["a"], "demonstrations": [{"text": "a", "text": "b", "entities": []}]}', "'text'"),
        (f'{{"{"a" * 500}": 1, "{"a" * 500}": 1}}', f"'{'a' * 100}'"),
    ],
)
def test_a_name_that_is_given_twice_is_refused(start: Start, body: str, named: str) -> None:
    # The last one counted, and nobody was told.
    answer = start().post("/v1/annotate", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 422, "invalid", f"{named} stands 2 times in one object of the body; give it once")


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {}])
def test_what_is_not_declared_as_json_is_refused(start: Start, headers: dict[str, str]) -> None:
    # A form of another site could send this without asking the browser's leave.
    answer = start().post("/v1/annotate", content=json.dumps(BODY), headers=headers)
    refused(answer, 422, "invalid", "send the body as Content-Type: application/json")


def test_a_compressed_body_is_refused(start: Start) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    body = json.dumps(BODY).encode()
    answer = start().post("/v1/annotate", content=gzip.compress(body), headers=headers)
    refused(answer, 415, "unsupported_media_type", "send it uncompressed, without this header")
    assert answer.headers["accept-encoding"] == "identity"
    as_it_is = start().post("/v1/annotate", content=body, headers=headers | {"Content-Encoding": "identity"})
    assert as_it_is.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "message"),
    [
        ("GET", "/annotate", 404, "not_found", "there is no such address; /openapi.json tells which there are"),
        ("GET", "/v1/annotate", 405, "method_not_allowed", "this address takes POST alone"),
        ("PUT", "/", 405, "method_not_allowed", "this address takes GET alone"),
    ],
)
def test_a_wrong_address_or_method_is_told_the_right_one(
    start: Start, method: str, path: str, status: int, code: str, message: str
) -> None:
    refused(start().request(method, path), status, code, message)


def test_what_an_address_takes_is_told_to_head(start: Start) -> None:
    answer = start().head("/")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("told", [True, False])
def test_a_long_body_is_not_read(start: Start, told: bool) -> None:
    client = start(limits=Limits(body_bytes=1000))
    body = json.dumps(BODY | {"texts": ["Anna. " * 300]}).encode()
    content: Any = body if told else iter([body[:600], body[600:]])
    answer = client.post("/v1/annotate", content=content, headers={"Content-Type": "application/json"})
    refused(answer, 413, "too_large", "1000 bytes")


def test_more_sentences_than_fit_are_refused(start: Start) -> None:
    client = start(limits=Limits(sentences=3))
    refused(client.post("/v1/annotate", json=BODY | {"texts": ["Anna left. " * 4]}), 413, "too_large", "more than 3")
    assert client.post("/v1/annotate", json=BODY | {"texts": ["Anna left. " * 3]}).status_code == 200


def test_a_text_with_too_many_sentences_is_not_cut_to_its_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    cut, segment = 0, Segment.run

    async def counted(self: Segment, batch: Batch) -> list[list[list[Span]]]:
        nonlocal cut
        cut += 1
        return await segment(self, batch)

    monkeypatch.setattr(Segment, "run", counted)
    client = start(limits=Limits(sentences=3))
    refused(client.post("/v1/annotate", json=BODY | {"texts": ["Anna left. " * 5000]}), 413, "too_large", "more than 3")
    assert cut == 1


def test_a_slash_too_many_leads_nowhere_else(start: Start) -> None:
    refused(start().post("/v1/annotate/", json=BODY, follow_redirects=False), 404, "not_found")


def test_a_client_that_leaves_while_it_sends_is_counted_as_gone(start: Start) -> None:
    client = start()
    messages = iter(({"type": "http.request", "body": b'{"texts"', "more_body": True}, {"type": "http.disconnect"}))

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/annotate",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    assert 'path="/v1/annotate",status="499"} 1.0' in client.get("/metrics").text


def test_beyond_the_limit_clients_are_sent_away_until_there_is_room(start: Start) -> None:
    client = start(Held, limits=Limits(sentences=3))
    held: Held = client.ensemble  # type: ignore[attr-defined]
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.post("/v1/annotate", json=BODY)))
    first.start()
    assert held.asked.wait(20)
    for body in (BODY, BODY | {"stream": True}):
        answer = client.post("/v1/annotate", json=body)
        refused(answer, 429, "busy", "2 sentences")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert client.get("/metrics").text.count("\nel4ner_sentences_in_flight 2.0\n") == 1
    held.go.set()
    first.join()
    assert answers[0].status_code == 200
    assert client.post("/v1/annotate", json=BODY).status_code == 200
    assert "\nel4ner_sentences_in_flight 0.0\n" in client.get("/metrics").text


def test_the_time_limit(start: Start) -> None:
    # By no clock of this machine: how long cutting the texts takes would count.
    client = start(Late, limits=Limits(seconds=3000))
    late: Late = client.ensemble  # type: ignore[attr-defined]
    answer = client.post("/v1/annotate", json=BODY)
    refused(answer, 503, "deadline", "3000 s")
    assert int(answer.headers["retry-after"]) > 0
    assert late.asked > 0
    *_, last = lines(client, BODY | {"stream": True})
    assert (last["kind"], last["error"]["code"]) == ("error", "deadline")
    assert "\nel4ner_sentences_in_flight 0.0\n" in client.get("/metrics").text


def test_engines_without_an_answer_fail_the_text(start: Start) -> None:
    (document,) = start(Silent).post("/v1/annotate", json=BODY).json()["documents"]
    assert (document["status"], document["entities"]) == ("failed", [])
    assert "no answer after 7 tries" in document["error"]


def test_what_nobody_expects_is_not_told_to_clients(start: Start) -> None:
    client = start(Broken)
    answer = client.post("/v1/annotate", json=BODY)
    refused(answer, 500, "internal")
    counted = client.get("/metrics").text
    assert 'el4ner_http_requests_total{path="/v1/annotate",status="500"} 1.0' in counted
    assert 'status="499"' not in counted
    assert "secret" not in answer.text
    *_, last = lines(client, BODY | {"stream": True})
    assert last["error"]["code"] == "internal"
    assert "secret" not in str(last)


def test_the_key(start: Start) -> None:
    client = start(key="k3y")
    for method, path in (("POST", "/v1/annotate"), ("GET", "/v1/models"), ("GET", "/metrics")):
        json_body = BODY if method == "POST" else None
        for authorization in ("", "Bearer wrong", "Bearer", "Basic k3y"):
            answer = client.request(method, path, json=json_body, headers={"Authorization": authorization})
            refused(answer, 401, "unauthorized", "Authorization: Bearer")
            assert answer.headers["www-authenticate"] == "Bearer"
        right = client.request(method, path, json=json_body, headers={"Authorization": "Bearer k3y"})
        assert right.status_code == 200
    assert client.get("/v1/health").status_code == 200
    assert 'id="key"' in client.get("/").text


@pytest.mark.parametrize("authorization", ["", "Bearer wrong"])
def test_the_key_is_looked_at_before_the_body(start: Start, authorization: str) -> None:
    client = start(key="k3y", limits=Limits(body_bytes=1000))
    headers = {"Authorization": authorization, "Content-Type": "application/json"}
    for content in (b"{", b"{}", b'{"texts": ["' + b"a" * 1000 + b'"]}'):
        refused(client.post("/v1/annotate", content=content, headers=headers), 401, "unauthorized")
    text = client.get("/metrics", headers={"Authorization": "Bearer k3y"}).text
    assert '\nel4ner_http_requests_total{path="/v1/annotate",status="401"} 3.0\n' in text


def test_health(start: Start) -> None:
    assert start().get("/v1/health").json()["status"] == "ok"
    answer = start(states={"fake-a": "RUNNING", "fake-b": "UNHEALTHY"}).get("/v1/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "unavailable", "models": {"fake-a": "RUNNING", "fake-b": "UNHEALTHY"}}


def test_models(start: Start) -> None:
    told = start().get("/v1/models").json()
    assert [model["name"] for model in told["models"] if model["verifier"]] == ["fake-c"]
    assert (told["engine"], told["methods"], told["labels"], told["pool_sentences"]) == ("fake", ["paper"], None, None)


def test_metrics(start: Start) -> None:
    client = start()
    found = client.post("/v1/annotate", json=BODY).json()["documents"][0]["entities"]
    client.post("/v1/annotate", json={})
    client.get("/somewhere")
    text = client.get("/metrics").text
    for expected in (
        'el4ner_http_requests_total{path="/v1/annotate",status="200"} 1.0',
        'el4ner_http_requests_total{path="/v1/annotate",status="422"} 1.0',
        'el4ner_http_requests_total{path="other",status="404"} 1.0',
        'el4ner_http_request_seconds_count{path="/v1/annotate"} 2.0',
        "el4ner_sentences_total 2.0",
        f"el4ner_entities_total {len(found)}.0",
    ):
        assert f"\n{expected}\n" in text


def test_openapi_has_examples_that_work(start: Start) -> None:
    client = start()
    told = client.get("/openapi.json").json()
    assert set(told["paths"]) == {"/v1/annotate", "/v1/models", "/v1/health", "/metrics"}
    assert {"401", "413", "415", "422", "429", "503"} <= told["paths"]["/v1/annotate"]["post"]["responses"].keys()
    secured = {path for path, methods in told["paths"].items() for told in methods.values() if "security" in told}
    assert secured == {"/v1/annotate", "/v1/models", "/metrics"}
    (example,) = told["components"]["schemas"]["AnnotateRequest"]["examples"]
    assert client.post("/v1/annotate", json=example).status_code == 200
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404  # they would load scripts from elsewhere


def test_the_page_allows_its_own_script_alone(start: Start) -> None:
    answer = start().get("/")
    policy = answer.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert f"script-src '{policy_hash(script)}'" in policy
    assert f"style-src '{policy_hash(style)}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)


def test_room_is_given_back() -> None:
    async def use() -> None:
        room = Room(5)
        with room.admitted(3):
            with pytest.raises(BusyError), room.admitted(3):
                pass
            with room.admitted(2):
                assert room.taken == 5
        with pytest.raises(TooLargeError), room.admitted(6):
            pass
        assert room.taken == 0

    asyncio.run(use())


def test_a_stream_that_nobody_reads_gives_its_room_back() -> None:
    async def use() -> float:
        config, metrics = load(profile="fake"), Metrics()
        service = Service(Annotator(config, None, InProcessEnsemble(config)), Limits(), metrics)
        stream = await service.stream(AnnotateRequest(**BODY, stream=True))
        await stream.aclose()  # type: ignore[attr-defined]
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait([task])
        (line,) = re.findall(rb"\nel4ner_sentences_in_flight (\S+)\n", metrics.text())
        return float(line)

    assert asyncio.run(use()) == 0


def test_what_a_client_does_not_read_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> list[dict[str, Any]]:
        config, loop = load(profile="fake"), asyncio.get_running_loop()
        service = Service(Annotator(config, None, InProcessEnsemble(config)), Limits(seconds=60), Metrics())
        stream = await service.stream(AnnotateRequest(**BODY, stream=True))
        read = [await anext(stream)]
        while service.in_flight:
            await asyncio.sleep(0)
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + 300)
        await asyncio.sleep(0)  # the clock is looked at
        await asyncio.sleep(0)
        return [json.loads(line) for line in [*read, *[line async for line in stream]]]

    first, last = asyncio.run(use())
    assert (first["kind"], last["kind"]) == ("start", "error")
    assert "not read in time" in last["error"]["message"]


class Slow(Annotator):
    """Cuts texts for ever."""

    async def sentences(self, texts: Any) -> AsyncIterator[list[Sentence]]:
        while True:
            await asyncio.sleep(0)
            yield []


@pytest.mark.parametrize("stream", [False, True])
def test_the_time_limit_holds_while_texts_are_cut(stream: bool) -> None:
    async def use() -> None:
        config = load(profile="fake")
        service = Service(Slow(config, None, InProcessEnsemble(config)), Limits(seconds=0.01), Metrics())
        await (service.stream if stream else service.answer)(AnnotateRequest(**BODY))

    with pytest.raises(DeadlineError, match=r"0\.01 s"):
        asyncio.run(use())


@pytest.mark.parametrize("stream", [False, True])
def test_what_begins_when_the_server_stops_ends_with_it(stream: bool) -> None:
    async def use() -> None:
        config = load(profile="fake")
        service = Service(Slow(config, None, InProcessEnsemble(config)), Limits(), Metrics())
        service.finish_within(0.01)  # while the body of the next one is still on its way
        await (service.stream if stream else service.answer)(AnnotateRequest(**BODY))

    with pytest.raises(DeadlineError, match="is being stopped"):
        asyncio.run(use())


def test_a_server_may_stop_while_a_time_limit_passes() -> None:
    class Stopping(Late):
        async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
            try:
                return await super().ask(model, requests, session)
            finally:
                service.finish_within(1)

    async def use() -> None:
        await service.answer(AnnotateRequest(**BODY))

    config = load(profile="fake")
    ensemble = Stopping(config)
    service = Service(Annotator(config, None, ensemble), Limits(), Metrics())
    with pytest.raises(DeadlineError):
        asyncio.run(use())
    assert ensemble.asked > 0


def test_equal_requests_share_their_stages() -> None:
    config = load(profile="fake")
    annotator = Annotator(config, None, InProcessEnsemble(config))
    shown = LabelledText("0", "Anna flew.", (LabelledSpan(0, 4, "person"),))
    first = annotator.recipe(LABELS, [shown], None)
    assert annotator.recipe(dict(LABELS), [shown], "paper") is first
    # The order of labels is that of the prompt.
    assert annotator.recipe(dict(reversed(LABELS.items())), [shown], None) is not first


def test_serving_is_told_what_is_wrong_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from el4ner_ray.cli import main

    for options, message in (
        (["--pool", str(tmp_path)], "el4ner index"),
        (["--method", "calibrated"], "--pool"),
        (["--host", "256.1.1.1"], "--host 256.1.1.1"),
    ):
        monkeypatch.setattr("sys.argv", ["el4ner", "serve", "--profile", "fake", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


def test_sentences_on_their_own_get_what_they_get_in_their_document() -> None:
    config = load(profile="fake")
    ensemble = InProcessEnsemble(config)
    annotator = Annotator(config, None, ensemble)
    shown = LabelledText("0", "Anna flew.", (LabelledSpan(0, 4, "person"),))
    recipe = annotator.recipe(LABELS, [shown], None)
    texts = [*BODY["texts"], *UGLY]

    async def as_the_job_does() -> list[list[tuple[int, int, str, float]]]:
        rows = {
            DOC_ID: [str(number) for number in range(len(texts))],
            PART: [0] * len(texts),
            TEXT_START: [0] * len(texts),
            TEXT: texts,
            ERROR: [None] * len(texts),
            BATCH: [0] * len(texts),
        }
        table = pa.Table.from_pydict(rows, PART_SCHEMA)
        for stage in (Segment(config), *recipe.stages):
            table = await stage.annotate(table)
        return [
            [(e.span.start, e.span.end, e.label, e.score) for sentence in row for e in sentence if e.kept]
            for row in DECIDED.decode(table)
        ]

    service = Service(annotator, Limits(), Metrics())
    request = AnnotateRequest(texts=texts, labels=LABELS, demonstrations=[SHOWN])  # type: ignore[list-item]
    answer = AnnotateResponse.model_validate_json(asyncio.run(service.answer(request)))
    found = [[(e.start, e.end, e.type, e.score) for e in document.entities] for document in answer.documents]
    assert found == asyncio.run(as_the_job_does())
    assert sum(map(len, found)) > 10


def test_texts_are_cut_into_parts_while_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(profile="fake", overrides={"limits": {"part_characters": 1000}})
    annotator = Annotator(config, None, InProcessEnsemble(config))
    others, seen = Others(), []

    def each_part(text: str, limit: int) -> Iterator[tuple[int, int]]:
        for part in splitting.each_part(text, limit):
            seen.append(others.turns)
            yield part

    monkeypatch.setattr("el4ner_ray.serve.annotator.each_part", each_part)
    asyncio.run(others.beside(all_of(annotator.sentences(["Anna left.", "\u1100" * 5000, ""]))))
    assert len(seen) > 5
    assert len(set(seen)) == len(seen)


def test_texts_of_many_requests_are_cut_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # They hold up others by one piece at a time, however many they are.
    config = load(profile="fake", overrides={"limits": {"part_characters": 1000}})
    annotator = Annotator(config, None, InProcessEnsemble(config))
    others, seen, segment = Others(), [], Segment.run

    async def watched(self: Segment, batch: Batch) -> list[list[list[Span]]]:
        seen.append(others.turns)
        return await segment(self, batch)

    async def cut() -> None:
        await asyncio.gather(*(all_of(annotator.sentences(["Anna left. " * 300])) for _ in range(20)))

    monkeypatch.setattr(Segment, "run", watched)
    asyncio.run(others.beside(cut()))
    assert len(seen) > 60
    assert len(set(seen)) == len(seen)


@pytest.fixture
def calibrated(monkeypatch: pytest.MonkeyPatch) -> tuple[Annotator, list[str]]:
    """An annotator with a calibrated pool, whose stages that compute are fakes; their names as they are loaded."""
    loaded: list[str] = []

    def fake(name: str) -> Callable[..., Stage]:
        def make(*_: object) -> Stage:
            loaded.append(name)
            return Given(0)

        return make

    for name in ("Retrieve", "Fuse"):
        monkeypatch.setattr(f"el4ner_ray.serve.annotator.{name}", fake(name))
    monkeypatch.setattr(DemonstrationIndex, "read_pool", lambda _: [])
    config = load(profile="fake", overrides={"method": "calibrated"})
    pool = ServedPool("index", {"person": " named people\r", "place": "cities"}, 0, (cast(Fusion, None), 0.5))
    return Annotator(config, pool, InProcessEnsemble(config)), loaded


def test_what_calibration_learnt_is_loaded_once(calibrated: tuple[Annotator, list[str]]) -> None:
    # Once with every label set that had been forgotten since, in the event loop.
    annotator, loaded = calibrated
    for _ in range(2):
        assert annotator.recipe(None, [], None).method == "calibrated"
        for number in range(40):
            annotator.recipe({"person": str(number)}, [], None)
    assert loaded == ["Retrieve", "Fuse"]


def test_white_space_around_a_description_makes_no_other_label_set(calibrated: tuple[Annotator, list[str]]) -> None:
    annotator, _ = calibrated
    assert annotator.recipe({"person": "named people", "place": "cities"}, [], None).method == "calibrated"
    assert annotator.recipe({"person": "named people", "place": "towns"}, [], None).method == "paper"


def test_a_long_text_is_cut_into_sentences_while_others_have_their_turn() -> None:
    # Once in one go, and the segmenter takes the square of their number for opening quotation marks: a request of a
    # megabyte would have stopped the server for minutes.
    config = load(profile="fake", overrides={"limits": {"part_characters": 1000}})
    annotator = Annotator(config, None, InProcessEnsemble(config))
    text = "Anna 😂 met Ben.\r\n" * 300 + "\u201ca" * 1000
    others = Others()
    *of_text, last = asyncio.run(others.beside(all_of(annotator.sentences(["", text, "Carl left."]))))
    assert others.turns > 7
    assert [sentence.number for sentence in of_text] == list(range(len(of_text)))
    assert len(of_text) > 300
    for sentence in of_text:
        assert sentence.document == 1
        assert sentence.text == text[sentence.start : sentence.start + len(sentence.text)]
    assert last == Sentence(2, 0, 0, "Carl left.")
