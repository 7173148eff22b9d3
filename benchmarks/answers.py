"""The ensemble in this process, one model computing at a time with all cores, every answer kept on disk.

For experiments: a variant pays only for the questions that no earlier one asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from pathlib import Path

import msgspec

from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.core.prompting import running_text
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.identity import source_identity
from el4ner_ray.engines.serving import environment_alone

_decode = msgspec.msgpack.Decoder(Completion).decode
_encode = msgspec.msgpack.Encoder().encode


class CachedEnsemble:
    """Answers from the file, and from vLLM what is not in it. Engines start when they are first needed."""

    def __init__(self, config: JobConfig, file: Path) -> None:
        """Open or create the file of answers."""
        self._models = {model.name: model for model in config.models}
        self._identities = {m.name: _identity(m) for m in config.models}
        self._engines: dict[str, object] = {}
        self._computing = asyncio.Lock()
        self._answers = sqlite3.connect(file)
        self._answers.execute("create table if not exists answers (key blob primary key, completion blob)")
        self.asked = self.computed = 0

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        """One completion a request, in order."""
        keys = [self._key(model, request) for request in requests]
        known = {key: completion for key in keys if (completion := self._known(key))}
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        self.asked += len(requests)
        self.computed += len(missing)
        if missing:
            async with self._computing:
                completions = await self._engine(model).generate(list(missing.values()))
            for key, completion in zip(missing, completions, strict=True):
                known[key] = completion
                self._answers.execute("insert or replace into answers values (?, ?)", (key, _encode(completion)))
            self._answers.commit()
        return [known[key] for key in keys]

    def close(self) -> None:
        """End the engines."""
        for engine in self._engines.values():
            engine.shutdown()
        # vLLM ends an engine once more when it is collected, which fails with a trace at the interpreter's end.
        self._engines.clear()
        self._answers.close()

    def _engine(self, name: str):
        if name not in self._engines:
            from el4ner_ray.engines.vllm import VllmEngine

            environment = environment_alone(self._models[name])
            os.environ.update(environment | {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"})
            self._engines[name] = VllmEngine(self._models[name])
        return self._engines[name]

    def _key(self, model: str, request: Request) -> bytes:
        # Priority changes the order of answers, not the answers.
        asked = request.turns if self._models[model].chat_template else running_text(request.turns)
        question = (self._identities[model], asked, request.max_tokens, request.stop, request.choices)
        return hashlib.sha256(_encode(question)).digest()

    def _known(self, key: bytes) -> Completion | None:
        row = self._answers.execute("select completion from answers where key = ?", (key,)).fetchone()
        return _decode(row[0]) if row else None


def _identity(model: ModelConfig) -> tuple[object, ...]:
    """What a model's answers depend on, but for the question; as it was before templates could be told anything."""
    told = (model.chat_template_kwargs,) if model.chat_template_kwargs else ()
    return (source_identity(model.source, model.revision), model.chat_template, *told)
