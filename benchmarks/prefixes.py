"""Scripted answers with real tokens: what prompts would cost with a prefix cache, counted and not computed."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from el4ner_ray.config import FakeEngine, JobConfig, ModelConfig
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.bundled import resolve
from el4ner_ray.engines.fake import ScriptedEngine
from el4ner_ray.engines.tokens import PromptEncoder

# vLLM's own on GPUs; profiles for CPUs name theirs.
_BLOCK_TOKENS = 16


class ScriptedEnsemble:
    """Scripted engines under the models' names, with tokens of the models' tokenizers."""

    def __init__(self, config: JobConfig) -> None:
        """Load the tokenizers alone."""
        self._engines = {model.name: ScriptedEngine(model.name, FakeEngine()) for model in config.models}
        self._counters = {model.name: PromptCounter.of(model) for model in config.models}

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        """One completion a request, in order."""
        counter = self._counters[model]
        answers = await self._engines[model].generate(requests)
        return [counter.counted(r, answer) for r, answer in zip(requests, answers, strict=True)]

    def close(self) -> None:
        """Nothing to end."""


class PromptCounter:
    """The tokens of a model's prompts, and which of them a prefix cache without end would hold."""

    def __init__(self, tokens: Callable[[tuple[str, ...]], list[int]], block: int | None) -> None:
        """`tokens` are those of a prompt, `block` as many as are cached together; None caches nothing."""
        self._tokens, self._block = tokens, block
        self._known: set[int] = set()

    @classmethod
    def of(cls, model: ModelConfig) -> PromptCounter:
        """That of a model. Loads its tokenizer."""
        caches = model.engine.get("enable_prefix_caching", True)
        return cls(tokens_of(model), int(model.engine.get("block_size", _BLOCK_TOKENS)) if caches else None)

    def counted(self, request: Request, answer: Completion) -> Completion:
        """The answer with the tokens of its prompt. Prompts count as asked one after another."""
        ids = self._tokens(request.turns)
        cached = self._take(ids, self._block) if self._block else 0
        return msgspec.structs.replace(answer, prompt_tokens=len(ids), cached_tokens=cached)

    def _take(self, ids: list[int], block: int) -> int:
        """Tokens at the start of a prompt that are known; from now on all its full blocks are."""
        cached, prefix, leading = 0, 0, True
        for end in range(block, len(ids) + 1, block):
            prefix = hash((prefix, *ids[end - block : end]))
            # As in vLLM, the last token is computed in any case, and with it its block.
            leading = leading and end < len(ids) and prefix in self._known
            cached += block if leading else 0
            self._known.add(prefix)
        return cached


def tokens_of(model: ModelConfig) -> Callable[[tuple[str, ...]], list[int]]:
    """How the vLLM engine makes a model's prompts from turns."""
    from transformers import AutoTokenizer

    return PromptEncoder(model, AutoTokenizer.from_pretrained(resolve(model.source), revision=model.revision)).ids
