"""An ensemble of scripted engines in this process, for tests of what lies above the engines."""

from __future__ import annotations

from el4ner_ray.config import JobConfig
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.fake import ScriptedEngine


class InProcessEnsemble:
    """The engines of the fake profile without Ray Serve: no merging, no retries."""

    def __init__(self, config: JobConfig) -> None:
        self._engines = {name: ScriptedEngine(name, config.fake) for name in config.model_names}

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        return await self._engines[model].generate(requests) if requests else []
