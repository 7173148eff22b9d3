"""When engines have started, and what is told when they cannot."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import msgspec
import pytest
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ReplicaState

from el4ner_ray.config import load
from el4ner_ray.engines import applications, client
from el4ner_ray.engines.applications import Starting, application_name, have_started
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.client import ServedEnsemble
from el4ner_ray.errors import FatalError

JOB = "01000000"
TRACEBACK = (
    'Traceback\n  File "vllm.py", line 3\nel4ner_ray.errors.FatalError: model b: vLLM cannot load /x: no config\n'
)

SaysInTurn = Callable[[Iterator[dict[str, str]]], None]


@pytest.fixture
def serve_says(monkeypatch: pytest.MonkeyPatch) -> SaysInTurn:
    """Lets Serve answer one look after another; the last answer stays."""

    def install(looks: Iterator[dict[str, str]]) -> None:
        last: dict[str, str] = {}

        def status() -> SimpleNamespace:
            nonlocal last
            last = next(looks, last)
            found = {
                application_name(model, JOB): SimpleNamespace(
                    status=ApplicationStatus(state),
                    message="The deployments ['b'] are UNHEALTHY.",
                    deployments={"b": SimpleNamespace(message=TRACEBACK)} if model == "b" else {},
                )
                for model, state in last.items()
            }
            return SimpleNamespace(applications=found)

        monkeypatch.setattr(applications.serve, "status", status)
        monkeypatch.setattr(applications, "PAUSE_SECONDS", 0.001)
        monkeypatch.setattr(applications.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: JOB))

    return install


@pytest.mark.parametrize(
    ("states", "started"),
    [
        ({}, False),
        ({"a": "RUNNING"}, False),
        ({"a": "RUNNING", "b": "NOT_STARTED"}, False),
        ({"a": "RUNNING", "b": "DEPLOYING"}, False),
        ({"a": "RUNNING", "b": "RUNNING"}, True),
        ({"a": "RUNNING", "b": "UNHEALTHY"}, True),  # a replica has died, and Serve replaces it
    ],
)
def test_all_have_started(serve_says: SaysInTurn, states: dict[str, str], started: bool) -> None:
    serve_says(iter([states]))
    assert have_started(["a", "b"]) is started


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("b", "model b does not start: el4ner_ray.errors.FatalError: model b: vLLM cannot load /x: no config"),
        ("a", "model a does not start: The deployments ['b'] are UNHEALTHY."),
    ],
)
def test_a_model_that_cannot_start_is_named(serve_says: SaysInTurn, model: str, told: str) -> None:
    serve_says(iter([{model: "DEPLOY_FAILED"}]))
    with pytest.raises(FatalError) as raised:
        have_started([model])
    assert str(raised.value) == told


def test_waiting_ends_when_all_run_and_tells_so(serve_says: SaysInTurn) -> None:
    serve_says(iter([{}, {"a": "DEPLOYING"}, {"a": "RUNNING"}]))
    told: list[str] = []
    starting = Starting(["a"], told.append)
    starting.wait()
    [line] = told
    assert re.fullmatch(r"engines are ready after \d+ s: a", line)
    assert starting.ended_at is not None
    assert starting.close() is None


def test_waiting_ends_when_a_model_fails(serve_says: SaysInTurn) -> None:
    serve_says(iter([{"b": "DEPLOYING"}, {"b": "DEPLOY_FAILED"}]))
    starting = Starting(["b"], print)
    with pytest.raises(FatalError, match="model b does not start"):
        starting.wait()
    assert starting.ended_at is None


def test_a_run_that_waits_says_once_a_minute_which_replicas_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = "Deployment 'a' has 3 replicas that have taken more than 30s to be scheduled.\nResources required: GPU"
    states = {ReplicaState.RUNNING: 5, ReplicaState.STARTING: 3, ReplicaState.STOPPING: 1}
    deploying = SimpleNamespace(
        status=ApplicationStatus.DEPLOYING,
        deployments={"a": SimpleNamespace(message=waits, replica_states=states)},
    )
    running = SimpleNamespace(status=ApplicationStatus.RUNNING)
    looks = 0

    def status() -> SimpleNamespace:
        nonlocal looks
        looks += 1
        found = {application_name("a", JOB): deploying if looks < 40 else running, application_name("b", JOB): running}
        return SimpleNamespace(applications=found)

    monkeypatch.setattr(applications.serve, "status", status)
    monkeypatch.setattr(applications.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: JOB))
    monkeypatch.setattr(applications, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(applications, "TELL_SECONDS", 0.1)
    told: list[str] = []
    Starting(["a", "b"], told.append).wait()
    *lacking, ready = told
    assert ready == "engines are ready after 0 s: a, b"
    assert 1 <= len(lacking) <= 5  # of some 40 looks
    assert set(lacking) == {
        "engines are not ready after 0 s: a lacks 3 of 8 replicas (Deployment 'a' has 3 replicas that have taken more "
        "than 30s to be scheduled. Resources required: GPU)"
    }


def test_a_run_that_ends_while_models_load_waits_for_none(
    serve_says: SaysInTurn,
) -> None:
    serve_says(iter([{"a": "DEPLOYING"}]))
    starting = Starting(["a"], print)
    assert starting.close() is None
    assert starting.ended_at is None


def test_the_last_look_finds_what_ended_the_run(serve_says: SaysInTurn, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()

    def looks() -> Iterator[dict[str, str]]:
        yield {"b": "DEPLOYING"}
        looked.set()
        yield {"b": "DEPLOY_FAILED"}

    serve_says(looks())
    monkeypatch.setattr(applications, "PAUSE_SECONDS", 60.0)
    starting = Starting(["b"], print)
    failure = starting.close()
    assert looked.is_set()
    assert "model b does not start" in str(failure)


def test_serve_itself_may_die(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead() -> None:
        raise RayServeException("the controller died")

    monkeypatch.setattr(applications.serve, "status", dead)
    with pytest.raises(FatalError, match="engines do not start: the controller died"):
        Starting(["a"], print).wait()


def test_a_state_that_cannot_be_read_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> None:
        raise ValueError("a field is missing")

    monkeypatch.setattr(applications.serve, "status", unreadable)
    monkeypatch.setattr("threading.excepthook", lambda told: None)
    with pytest.raises(FatalError, match="Ray Serve does not tell their state"):
        Starting(["a"], print).wait()


class Answering:
    """Stands for Serve's handle: an engine that answers every request with its own text."""

    def options(self, **_: str) -> Answering:
        return self

    async def remote(self, payload: bytes) -> bytes:
        requests = msgspec.msgpack.decode(payload, type=list[Request])
        return msgspec.msgpack.encode([Completion(request.turns[0]) for request in requests])


def asked(monkeypatch: pytest.MonkeyPatch, ensemble: ServedEnsemble) -> list[str]:
    monkeypatch.setattr(client.serve, "get_deployment_handle", lambda model, application: Answering())
    completions = asyncio.run(ensemble.ask("fake-a", [Request(("Who?",))], "1"))
    return [completion.text for completion in completions]


def test_the_first_question_waits_for_all_models_and_later_ones_do_not_look(
    serve_says: SaysInTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAUSE_SECONDS", 0.001)
    states = [{}, {"fake-a": "RUNNING"}, dict.fromkeys(("fake-a", "fake-b", "fake-c"), "RUNNING")]
    looks = iter([*states, {"fake-a": "DEPLOY_FAILED"}])
    serve_says(looks)
    ensemble = ServedEnsemble(load(profile="fake"))
    assert asked(monkeypatch, ensemble) == ["Who?"]
    assert asked(monkeypatch, ensemble) == ["Who?"]
    assert next(looks) == {"fake-a": "DEPLOY_FAILED"}


def test_questions_that_wait_for_a_model_end_when_it_cannot_start(
    serve_says: SaysInTurn, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_says(iter([{"fake-a": "DEPLOY_FAILED"}]))
    with pytest.raises(FatalError, match="model fake-a does not start"):
        asked(monkeypatch, ServedEnsemble(load(profile="fake")))


def test_engines_of_another_job_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applications.serve, "status", lambda: pytest.fail("looked"))
    assert asked(monkeypatch, ServedEnsemble(load(profile="fake"), JOB)) == ["Who?"]
