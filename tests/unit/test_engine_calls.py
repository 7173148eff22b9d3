"""Calls to an engine."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from types import SimpleNamespace
from typing import Any

import grpc
import msgspec
import pytest
from grpc.aio import AioRpcError
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from tenacity import wait_none

from el4ner_ray import logs
from el4ner_ray.config import ModelConfig, load
from el4ner_ray.engines import client
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.busy import BusyTime
from el4ner_ray.engines.client import ServedEnsemble
from el4ner_ray.engines.vllm import VllmEngine
from el4ner_ray.errors import FatalError, RetryableError
from el4ner_ray.parts import sentence_rows
from el4ner_ray.stages.asking import Asker
from el4ner_ray.stages.base import Batch, spent


class Unanswered:
    """What Serve gives for a call whose replica does not answer."""

    def __init__(self) -> None:
        self.cancelled = False

    def __await__(self) -> Generator[Any, None, bytes]:
        return asyncio.get_running_loop().create_future().__await__()

    def cancel(self) -> None:
        self.cancelled = True


@pytest.mark.parametrize("given_up", [False, True])
def test_a_call_that_nobody_waits_for_any_more_is_cancelled(monkeypatch: pytest.MonkeyPatch, given_up: bool) -> None:
    # Once each try of a call that took too long went on in its replica, beside the next ones.
    limits = {"retries": 0, "request_seconds": 600 if given_up else 0.01}
    ensemble, response = ServedEnsemble(load(profile="fake", overrides={"limits": limits}), "01"), Unanswered()
    handle = SimpleNamespace(remote=lambda _: response)
    monkeypatch.setattr(ServedEnsemble, "_generate", lambda *_: SimpleNamespace(options=lambda session_id: handle))

    async def ask() -> None:
        call = asyncio.create_task(ensemble._call("fake-a", [Request(("x",))], "", logs.bound(logging.getLogger())))
        if given_up:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            (answer,) = await call
            assert answer.error.startswith("no answer after 1 tries: TimeoutError")

    asyncio.run(ask())
    assert response.cancelled


class Calls:
    """Stands for Serve: answers each request by its question, and raises each of `failures` first."""

    def __init__(self, failures: Iterable[Exception] = ()) -> None:
        self.asked: list[list[str]] = []
        self.sessions: set[str] = set()
        self._failures = iter(failures)

    def options(self, session_id: str) -> SimpleNamespace:
        self.sessions.add(session_id)
        return SimpleNamespace(remote=self._generate)

    def _generate(self, payload: bytes) -> Answer:
        questions = [request.turns[-1] for request in msgspec.msgpack.decode(payload, type=list[Request])]
        self.asked.append(questions)
        return Answer(next(self._failures, [Completion(question.upper()) for question in questions]))


class Answer:
    """What Serve gives for a call: completions, or what is raised."""

    def __init__(self, outcome: Exception | list[Completion]) -> None:
        self._outcome = outcome

    async def _give(self) -> bytes:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return msgspec.msgpack.encode(self._outcome)

    def __await__(self) -> Generator[Any, None, bytes]:
        return self._give().__await__()

    def cancel(self) -> None:
        assert isinstance(self._outcome, TimeoutError), "it has answered"


Asked = Callable[..., list[Completion]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Completions for questions by engines that are called so, and again without a pause."""

    def asked(calls: Calls, *questions: str, **limits: int) -> list[Completion]:
        monkeypatch.setattr(ServedEnsemble, "_generate", lambda *_: calls)
        monkeypatch.setattr(client, "wait_random_exponential", lambda **_: wait_none())
        ensemble = ServedEnsemble(load(profile="fake", overrides={"limits": limits}), "01")
        return asyncio.run(ensemble.ask("fake-a", [Request((question,)) for question in questions], "batch-7"))

    return asked


PASSING = [
    RetryableError("scripted fault"),
    RayActorError(),
    ObjectLostError("ab", None, ""),
    OutOfMemoryError("the node was low on memory"),
    AioRpcError(grpc.StatusCode.UNAVAILABLE, None, None),
    RayServeException("no replica"),
    TaskCancelledError(),
    TimeoutError("late"),
]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: type(fault).__name__)
def test_a_call_whose_fault_passes_is_made_again_as_often_as_is_allowed(ask: Asked, fault: Exception) -> None:
    calls = Calls([fault] * 2)
    [answer] = ask(calls, "x", retries=2)
    assert (answer.text, answer.error) == ("X", "")
    assert calls.asked == [["x"]] * 3
    calls = Calls([fault] * 3)
    [answer] = ask(calls, "x", retries=2)
    assert answer.text == ""
    assert re.match(rf"no answer after 3 tries: <?{type(fault).__name__}\b", answer.error)
    assert len(calls.asked) == 3


def test_a_fault_that_cannot_pass_is_raised_at_once(ask: Asked) -> None:
    calls = Calls([FatalError("model fake-a: its memory is full")] * 2)
    with pytest.raises(FatalError, match="its memory is full"):
        ask(calls, "x")
    assert len(calls.asked) == 1


def test_calls_have_the_session_that_they_are_made_for(ask: Asked) -> None:
    calls = Calls()
    ask(calls, "x", "y", call_requests=1)
    assert calls.sessions == {"batch-7"}


def test_calls_hold_no_more_requests_and_characters_than_fit(ask: Asked) -> None:
    calls = Calls()
    answers = ask(calls, *"abcdea", call_requests=2)
    assert sorted(calls.asked) == [["a", "b"], ["c", "d"], ["e"]]
    assert [answer.text for answer in answers] == list("ABCDEA")
    # gRPC takes 4 MiB, and a character may have 4 bytes.
    long = [letter * 400_000 for letter in "abc"]
    calls = Calls()
    ask(calls, *long)
    assert sorted(calls.asked) == [long[:2], long[2:]]


def test_an_answer_for_equal_sentences_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # Once a sentence that stood there eight times had eight answers not parsed, of one request.
    async def answer(_: Any, model: str, requests: list[Request], *__: Any) -> list[Completion]:
        return [Completion(" | ".join(f"Nowhere {i}" for i in range(65)))] * len(requests)  # more than a sentence holds

    monkeypatch.setattr(ServedEnsemble, "_call", answer)
    config = load(profile="fake")
    asker = Asker(config, {"place": ""}, None, ServedEnsemble(config, "01"))
    batch = Batch.of(sentence_rows(["a"] * 8, list(range(8)), ["Anna met Ben."] * 8, batch=0), "pre_extract")

    async def ask() -> None:
        await asker.extract(batch)
        asked = [(question, question.turns) for question in asker.questions(batch)]
        await asker.choose(batch, "fake-b", asked, ("place",))

    asyncio.run(ask())
    usage, failures = spent(batch.ledgers)
    counts = {m: (u.requests, u.merged, u.parse_failures, u.unaligned) for m, u in usage.items()}
    assert counts == dict.fromkeys(config.model_names, (1, 7, 1, 64)) | {"fake-b": (2, 14, 2, 64)}
    assert {u.surfaces for u in usage.values()} == {64}
    assert len(failures) == 8 * (len(config.models) + 1)  # each sentence lacks an answer


@pytest.mark.parametrize("stuck", [True, False])
def test_an_engine_that_is_stuck_is_not_healthy(stuck: bool) -> None:
    class Llm:
        # Knows only whether the engine's process has ended.
        async def check_health(self) -> None: ...

        async def is_sleeping(self) -> bool:
            if stuck:
                await asyncio.Event().wait()
            return False

    engine = object.__new__(VllmEngine)
    engine._llm = Llm()

    async def check() -> bool:
        checking = asyncio.create_task(engine.check_health())
        done, _ = await asyncio.wait({checking}, timeout=0.01 if stuck else 10)
        checking.cancel()
        return bool(done)

    assert asyncio.run(check()) is not stuck


@pytest.mark.parametrize("choices", [(), ("true", "false")])
@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_engine_broke_off_is_asked_for_again(reason: str, choices: tuple[str, ...]) -> None:
    # Once one of no token was an IndexError, which ended the run, and one in words was an empty answer.
    pytest.importorskip("vllm")

    class Llm:
        async def generate(self, *_: Any, **__: Any) -> AsyncGenerator[Any]:
            answer = SimpleNamespace(text="", token_ids=[], finish_reason=reason, logprobs=None)
            yield SimpleNamespace(outputs=[answer], prompt_token_ids=[1], num_cached_tokens=0)

    engine = object.__new__(VllmEngine)
    engine._model = ModelConfig(name="phi-4", source="fake")
    engine._llm, engine._ids, engine._busy = Llm(), itertools.count(), BusyTime()
    engine._prompts = SimpleNamespace(ids=lambda turns: [1])  # type: ignore[assignment]
    engine._token_ids = lambda written: [[number] for number, _ in enumerate(written)]  # type: ignore[assignment]
    told = rf"^model phi-4: the engine broke an answer off \({reason}\)$"
    with pytest.raises(RetryableError, match=told):
        asyncio.run(engine.generate([Request(("x",), max_tokens=4, choices=choices)]))
