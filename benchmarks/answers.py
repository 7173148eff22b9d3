"""The ensemble in this process, one model computing at a time with all cores, every answer kept on disk.

For experiments: a variant pays only for the questions that no earlier one asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.core.parsing import said_in_full
from el4ner_ray.core.prompting import running_text
from el4ner_ray.engines import vllm
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.identity import source_identity
from el4ner_ray.engines.serving import environment_alone
from el4ner_ray.machine import versions

_decode = msgspec.msgpack.Decoder(Completion).decode
_encode = msgspec.msgpack.Encoder().encode


def identity(model: ModelConfig) -> tuple[Any, ...]:
    """What decides a model's answer beside the question: answers that were kept under another one are not its own.

    The model, how it is asked, what ends its answer, the engine's arguments, the version of vLLM, and the code that
    says how to sample and reads what comes of it.
    """
    code = inspect.getsource(vllm) + inspect.getsource(said_in_full)
    return (
        source_identity(model.source, model.revision),
        model.chat_template,
        dict(model.chat_template_kwargs),
        model.stop_token_ids,
        json.dumps(model.engine, sort_keys=True, default=str),
        vllm.cpu_dtype() if model.gpus == 0 else None,
        {name: version for name, version in versions().items() if name.startswith("vllm")},
        hashlib.sha256(code.encode()).digest(),
    )


class CachedEnsemble:
    """Answers from the file, and from vLLM what is not in it. Engines start when they are first needed."""

    def __init__(self, config: JobConfig, file: Path) -> None:
        """Open or create the file of answers."""
        self._models = {model.name: model for model in config.models}
        self._identities = {model.name: identity(model) for model in config.models}
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
            environment = environment_alone(self._models[name])
            os.environ.update(environment | {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"})
            self._engines[name] = vllm.VllmEngine(self._models[name])
        return self._engines[name]

    def _key(self, model: str, request: Request) -> bytes:
        # Priority changes the order of answers, not the answers.
        asked = request.turns if self._models[model].chat_template else running_text(request.turns)
        question = (self._identities[model], asked, request.max_tokens, request.stop, request.choices)
        return hashlib.sha256(_encode(question)).digest()

    def _known(self, key: bytes) -> Completion | None:
        row = self._answers.execute("select completion from answers where key = ?", (key,)).fetchone()
        return _decode(row[0]) if row else None
