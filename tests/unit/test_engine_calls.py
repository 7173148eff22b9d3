"""Calls to an engine."""

import asyncio
import logging
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from ray.exceptions import OutOfMemoryError
from tenacity import wait_none

from el4ner_ray import logs
from el4ner_ray.config import load
from el4ner_ray.engines import client
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.client import ServedEnsemble
from el4ner_ray.engines.vllm import VllmEngine


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
