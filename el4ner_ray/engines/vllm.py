"""The real engine: one model in vLLM's AsyncLLM, GPU or CPU build."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any

import msgspec

from el4ner_ray.config import ModelConfig
from el4ner_ray.core.parsing import said_in_full
from el4ner_ray.engines import batch_invariance
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.bundled import resolve
from el4ner_ray.engines.busy import BusyTime
from el4ner_ray.engines.tokens import PromptEncoder
from el4ner_ray.errors import FatalError, RetryableError

# vLLM's bound on `logprob_token_ids`. Larger label sets are voted on without probabilities.
_MAX_SCORED_TOKENS = 128
# Sets of choices, of a job a few, whose tokens are kept: clients of the server name sets of their own.
_KEPT_CHOICES = 64
# How vLLM says that an answer is none: it was told to end it, or could not compute it. Such may be without any token.
_BROKEN_OFF = ("abort", "error")


def engine_arguments(model: ModelConfig) -> dict[str, Any]:
    """What vLLM is started with: the pipeline's needs, the model's `engine` section over them."""
    return {
        "model": resolve(model.source),
        "served_model_name": model.name,
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "enable_prefix_caching": True,
        # Later stages of a sentence run before earlier stages of others, while their prefix is still cached.
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "enable_log_requests": False,
        **({"dtype": cpu_dtype()} if model.gpus == 0 else {}),
        # vLLM would choose it, too, inside a placement group, but first refuses workers on several nodes (0.32).
        **({"distributed_executor_backend": "ray"} if model.parallel > 1 else {}),
    } | model.engine


def cpu_dtype() -> str:
    """bfloat16 where the CPU multiplies in it (on x86 from AVX-512 on), else float32.

    Without, one core of an AMD Zen 3 did 7 GFLOP/s in bfloat16 and 40 to 53 in float32, for twice the memory.
    """
    import torch

    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


def check_plugin() -> None:
    """Raise FatalError where the environment switches batch invariance on and vLLM would not load its plugin."""
    allowed = os.environ.get("VLLM_PLUGINS")
    found = {plugin.value: plugin.name for plugin in entry_points(group="vllm.general_plugins")}
    name = found.get(f"{batch_invariance.__name__}:register")
    loaded = name is not None and (allowed is None or name in allowed.split(","))
    if os.environ.get(batch_invariance.SWITCH) and not loaded:
        raise FatalError(
            f"vLLM does not load the plugin {batch_invariance.__name__}: install el4ner-ray anew where engines run, "
            "or name el4ner_batch_invariance in VLLM_PLUGINS"
        )


class VllmEngine:
    """Answers requests with one model. Loading takes 20 to 60 s; a second instance needs its own memory."""

    def __init__(self, model: ModelConfig) -> None:
        """Load the model; raises FatalError when vLLM cannot."""
        check_plugin()
        # Imported here: vllm takes 10 s to import, reads its environment variables on import, and driver and stages
        # never need it.
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        self._model = model
        try:
            # vLLM's defaults for work without anyone who waits: up to 16,384 tokens a step on an H100, 8,192 on smaller
            # cards. An asynchronous engine that says nothing gets 2,048.
            self._llm = AsyncLLM.from_engine_args(
                AsyncEngineArgs(**engine_arguments(model)), usage_context=UsageContext.LLM_CLASS
            )
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            raise FatalError(f"model {model.name}: vLLM cannot load {model.source}: {error}") from error
        self._tokenizer = self._llm.get_tokenizer()
        self._prompts = PromptEncoder(model, self._tokenizer)
        self._ids = itertools.count()
        self._busy = BusyTime()
        self._token_ids = lru_cache(_KEPT_CHOICES)(self._make_token_ids)

    async def generate(self, requests: list[Request]) -> list[Completion]:
        """Answer a batch; see `engines.base.Engine`."""
        return list(await asyncio.gather(*map(self._answer, requests)))

    async def check_health(self) -> None:
        """Raise when vLLM's engine process is dead; do not return while it is stuck, or busy with a step."""
        await self._llm.check_health()  # knows only whether the process has ended
        await self._llm.is_sleeping()  # is answered by its loop, between two steps

    async def sleep(self) -> None:
        """Move the weights to the machine's memory and forget the prefix cache. Needs `enable_sleep_mode`."""
        await self._llm.sleep(level=1)

    async def wake_up(self) -> None:
        """Take the weights back to the card. Raises RetryableError while its memory is not free."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.wake_up()
        except (RuntimeError, EngineDeadError) as error:
            # What a killed engine held is free some seconds after it.
            raise RetryableError(f"model {self._model.name}: cannot wake up: {error}") from error

    def shutdown(self) -> None:
        """End vLLM's processes."""
        self._llm.shutdown()

    async def _answer(self, request: Request) -> Completion:
        with self._busy.request():
            completion = await self._asked(request)
        return msgspec.structs.replace(completion, busy_seconds=self._busy.since_last())

    async def _asked(self, request: Request) -> Completion:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        loop = asyncio.get_running_loop()
        started = loop.time()
        final = None
        try:
            prompt = {"prompt_token_ids": self._prompts.ids(request.turns)}
            async for output in self._llm.generate(
                prompt, self._sampling(request), f"r{next(self._ids)}", priority=request.priority
            ):
                final = output
        except (ValueError, VLLMClientError) as error:
            # vLLM's own word for a request that it will never take, such as one longer than the context.
            return Completion("", error=" ".join(str(error).split()))
        except (EngineDeadError, EngineGenerateError) as error:
            raise RetryableError(f"model {self._model.name}: the engine died: {error}") from error
        if final is None:
            raise RetryableError(f"model {self._model.name}: the engine gave no answer")
        answer = final.outputs[0]
        if answer.finish_reason in _BROKEN_OFF:
            raise RetryableError(f"model {self._model.name}: the engine broke an answer off ({answer.finish_reason})")
        return Completion(
            text=self._text(request, answer),
            # An answer that vLLM ends because it only repeats itself has said all that it has to say.
            finished=self._one_token_tells(request.choices) or answer.finish_reason in ("stop", "repetition"),
            choice_logprobs=self._choice_logprobs(request, answer) if request.choices else (),
            prompt_tokens=len(final.prompt_token_ids or ()),
            cached_tokens=final.num_cached_tokens or 0,
            generated_tokens=len(answer.token_ids),
            seconds=loop.time() - started,
        )

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

        shared: dict[str, Any] = {
            "temperature": 0.0,
            "stop_token_ids": list(self._model.stop_token_ids) or None,
            "output_kind": RequestOutputKind.FINAL_ONLY,
        }
        if not request.choices:
            return SamplingParams(
                max_tokens=request.max_tokens,
                stop=[request.stop],
                # Some chat models begin with a line break (GLM-4), which is not yet the end of their answer. vLLM looks
                # for the stop only after so many tokens.
                min_tokens=1 if self._model.chat_template else 0,
                # Small models repeat an item until the limit. Shorter patterns than three tokens occur in long numbers.
                repetition_detection=RepetitionDetectionParams(max_pattern_size=16, min_pattern_size=3, min_count=3),
                **shared,
            )
        first = self._first_tokens(request.choices)
        scored = sorted(set(first)) if len(set(first)) <= _MAX_SCORED_TOKENS else None
        if self._one_token_tells(request.choices):
            return SamplingParams(max_tokens=1, allowed_token_ids=first, logprob_token_ids=scored, **shared)
        return SamplingParams(
            max_tokens=self._choice_tokens_limit(request.choices),
            structured_outputs=StructuredOutputsParams(choice=self._written(request.choices)),
            logprob_token_ids=scored,
            **shared,
        )

    def _text(self, request: Request, answer: Any) -> str:
        if self._one_token_tells(request.choices):
            return request.choices[self._first_tokens(request.choices).index(answer.token_ids[0])]
        text = said_in_full(answer.text) if answer.finish_reason == "repetition" else str(answer.text)
        return text.strip()

    def _written(self, choices: tuple[str, ...]) -> list[str]:
        # In running text an answer stands after a space, which belongs to its first token.
        return [choice if self._model.chat_template else f" {choice}" for choice in choices]

    def _make_token_ids(self, choices: tuple[str, ...]) -> list[list[int]]:
        return [self._tokenizer.encode(choice, add_special_tokens=False) for choice in self._written(choices)]

    def _first_tokens(self, choices: tuple[str, ...]) -> list[int]:
        return [ids[0] for ids in self._token_ids(choices)]

    def _one_token_tells(self, choices: tuple[str, ...]) -> bool:
        """Whether each choice begins with a token of its own: then one token is generated, and no grammar is needed."""
        return bool(choices) and len(set(self._first_tokens(choices))) == len(choices)

    def _choice_tokens_limit(self, choices: tuple[str, ...]) -> int:
        # A model may spell a choice in more tokens than its tokenizer would: with room for the usual ones only, 10 of
        # 419 answers of SmolLM2-135M were cut off.
        return max(16, 2 * max(map(len, self._token_ids(choices))))

    def _choice_logprobs(self, request: Request, answer: Any) -> tuple[float, ...]:
        ids = self._first_tokens(request.choices)
        if not answer.logprobs:
            return ()
        found = answer.logprobs[0]
        mass = {i: math.exp(found[i].logprob) for i in set(ids) if i in found}
        # Choices that begin with the same token share its mass: nothing tells them apart at that point.
        shares = [mass.get(i, 0.0) / ids.count(i) for i in ids]
        total = sum(shares)
        if total <= 0:
            return ()
        return tuple(math.log(max(share / total, 1e-9)) for share in shares)
