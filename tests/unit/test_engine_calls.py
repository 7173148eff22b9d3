"""Calls to an engine."""

import asyncio
import logging
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

from el4ner_ray import logs
from el4ner_ray.config import load
from el4ner_ray.engines.base import Request
from el4ner_ray.engines.client import ServedEnsemble


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
    handle = SimpleNamespace(generate=SimpleNamespace(remote=lambda _: response))
    monkeypatch.setattr(ServedEnsemble, "_handle", lambda *_: SimpleNamespace(options=lambda session_id: handle))

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
