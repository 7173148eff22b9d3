"""The scripted engine's load: how many calls it works on at the same time."""

from __future__ import annotations

import asyncio

import pytest

from el4ner_ray.config import FakeEngine
from el4ner_ray.engines.base import Request
from el4ner_ray.engines.fake import ScriptedEngine


@pytest.mark.parametrize(("calls_at_once", "most"), [(None, 5), (1, 1), (2, 2)])
def test_calls_beyond_those_at_once_wait(monkeypatch: pytest.MonkeyPatch, calls_at_once: int | None, most: int) -> None:
    sleep, working, seen = asyncio.sleep, 0, 0

    async def watched(seconds: float) -> None:
        nonlocal working, seen
        assert seconds == 9
        working += 1
        seen = max(seen, working)
        await sleep(0)
        working -= 1

    async def calls() -> list[str]:
        engine = ScriptedEngine("a", FakeEngine(latency_ms=9000, calls_at_once=calls_at_once))
        asked = [engine.generate([Request((f"Sentence: Anna met Ben {number}.",))]) for number in range(5)]
        return [completion.text for [completion] in await asyncio.gather(*asked)]

    monkeypatch.setattr(asyncio, "sleep", watched)
    assert len(asyncio.run(calls())) == 5
    assert seen == most
