"""Calls to an engine."""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, Generator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from ray.exceptions import OutOfMemoryError
from tenacity import wait_none

from el4ner_ray import logs
from el4ner_ray.config import ModelConfig, load
from el4ner_ray.engines import client
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.busy import BusyTime
from el4ner_ray.engines.client import ServedEnsemble
from el4ner_ray.engines.vllm import VllmEngine
from el4ner_ray.errors import RetryableError
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


def test_an_engine_that_ray_ended_for_want_of_memory_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        async def _give(self) -> bytes:
            if len(asked) == 1:
                raise OutOfMemoryError("the node was low on memory")
            return msgspec.msgpack.encode([Completion("Oslo")])

        def __await__(self) -> Generator[Any, None, bytes]:
            return self._give().__await__()

        def cancel(self) -> None:
            raise AssertionError("it has answered")

    def generate(_: bytes) -> Answer:
        asked.append(1)
        return Answer()

    asked: list[int] = []
    handle = SimpleNamespace(remote=generate)
    monkeypatch.setattr(ServedEnsemble, "_generate", lambda *_: SimpleNamespace(options=lambda session_id: handle))
    monkeypatch.setattr(client, "wait_random_exponential", lambda **_: wait_none())
    ensemble = ServedEnsemble(load(profile="fake"), "01")
    [answer] = asyncio.run(ensemble._call("fake-a", [Request(("x",))], "", logs.bound(logging.getLogger())))
    assert answer.text == "Oslo"
    assert len(asked) == 2


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
