"""The scripted engine: rule-based answers without a model, for tests of faults and of scale.

Its answers depend on nothing but the request and the model's name, so that two runs agree to the letter whatever dies
in between. They mean nothing as annotations, and `run.json` says `"engine": "fake"`.
"""

from __future__ import annotations

import asyncio
import math
import random
import zlib
from contextlib import nullcontext
from functools import cache

import regex

from el4ner_ray.config import FakeEngine as FakeSettings
from el4ner_ray.core.prompting import FALSE, NO_ENTITY, SEPARATOR, TRUE, running_text
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.busy import BusyTime
from el4ner_ray.errors import FatalError, RetryableError

_NAME = regex.compile(r"\p{Lu}[\p{L}\p{M}\p{Nd}]*(?: \p{Lu}[\p{L}\p{M}\p{Nd}]*)*|[\p{Han}]{2,4}")
_GARBAGE = ("", "\ufffd\ufffd", "| | |", "Sentence: again", "Nowhere In The Text", "none | ???", "[" * 300)


class ScriptedEngine:
    """Names capitalised words as entities; types them by a hash on which the models mostly agree."""

    def __init__(self, model: str, settings: FakeSettings) -> None:
        """`model` seeds the differences between members of the ensemble."""
        self._model = model
        self._settings = settings
        # Which calls fail does not depend on what they ask: a retry of the same call must be able to succeed.
        self._faults = random.Random(model)
        self._calls = 0
        self._room = asyncio.Semaphore(settings.calls_at_once) if settings.calls_at_once else nullcontext()
        self._busy = BusyTime()
        self._asleep = False

    async def generate(self, requests: list[Request]) -> list[Completion]:
        """Answer a batch; see `engines.base.Engine`. Raises FatalError while it sleeps."""
        if self._asleep:
            raise FatalError(f"model {self._model}: asked while it sleeps")
        self._calls += 1
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        with self._busy.request():
            await self._hang_if_due()
            async with self._room:
                if self._settings.latency_ms:
                    await asyncio.sleep(self._settings.latency_ms / 1000)
        if self._faults.random() < self._settings.failure_rate:
            raise RetryableError(f"model {self._model}: scripted fault")
        seconds = loop.time() - arrived
        return [self._answer(request, seconds, self._busy.since_last()) for request in requests]

    async def check_health(self) -> None:
        """Healthy unless it hangs."""
        await self._hang_if_due()

    async def sleep(self) -> None:
        """Answer nothing until it is woken."""
        self._asleep = True

    async def wake_up(self) -> None:
        """Answer again."""
        self._asleep = False

    def shutdown(self) -> None:
        """Nothing to end."""

    async def _hang_if_due(self) -> None:
        if self._settings.hang_after is not None and self._calls > self._settings.hang_after:
            await asyncio.Event().wait()

    def _answer(self, request: Request, seconds: float, busy_seconds: float) -> Completion:
        prompt = running_text(request.turns)
        text = self._garbage(prompt)
        logprobs: tuple[float, ...] = ()
        if text is None:
            if request.choices:
                text = self._choose(request.turns, request.choices)
                logprobs = _peaked(len(request.choices), request.choices.index(text))
            else:
                text = self._extract(request.turns[-1])
        return Completion(
            text=text,
            choice_logprobs=logprobs,
            prompt_tokens=len(prompt) // 4,
            generated_tokens=1 + len(text) // 4,
            seconds=seconds,
            busy_seconds=busy_seconds,
        )

    def _garbage(self, prompt: str) -> str | None:
        rate = self._settings.garbage_rate
        if rate and _hash(self._model, "garbage", prompt) / 2**32 < rate:
            return _GARBAGE[_hash(self._model, prompt) % len(_GARBAGE)]
        return None

    def _extract(self, turn: str) -> str:
        sentence = turn.rsplit("Sentence: ", 1)[-1].split("\n", 1)[0]
        names = dict.fromkeys(match.group() for match in _NAME.finditer(sentence))
        # Each model misses about a sixth of the names, and not the same ones.
        return SEPARATOR.join(name for name in names if _hash(self._model, name) % 6) or NO_ENTITY

    def _choose(self, turns: tuple[str, ...], choices: tuple[str, ...]) -> str:
        if set(choices) == {TRUE, FALSE}:
            return FALSE if _hash(turns[-1]) % 10 == 0 else TRUE
        whim = self._model if _hash(self._model, turns[-1]) % 5 == 0 else ""
        return choices[_hash(whim, turns[-1]) % len(choices)]


@cache
def _peaked(choices: int, at: int) -> tuple[float, ...]:
    rest = 0.2 / max(choices - 1, 1)
    return tuple(math.log(0.8 if index == at else rest) for index in range(choices))


def _hash(*parts: str) -> int:
    return zlib.crc32("\0".join(parts).encode("utf-8", "replace"))
