"""The engine protocol: prompts in, completions out. All stages speak to all models through it.

As the records of `schema`, its own are nothing for the garbage collector (`gc=False`).
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Request(msgspec.Struct, frozen=True, gc=False):
    """One question to a model.

    Attributes:
        turns: question, answer, question, …; of odd length, so the last turn is the question asked now. A model with a
            chat template gets them as a conversation; others as running text (`core.prompting.running_text`). Either
            way a request whose turns start with those of an earlier one finds that one's prefix in the KV cache.
        max_tokens: the longest answer, in tokens; with choices, the longest choice decides.
        stop: the text that ends an answer; it is not part of it.
        choices: when given, the answer is exactly one of these (constrained decoding).
        priority: lower runs first. Later stages go first, while the prefix they share is still cached.
    """

    turns: tuple[str, ...]
    max_tokens: int = 0
    stop: str = "\n"
    choices: tuple[str, ...] = ()
    priority: int = 0


class Completion(msgspec.Struct, frozen=True, gc=False):
    """A model's answer, as far as the request's `stop`.

    Attributes:
        text: the answer without surrounding white space.
        finished: False when `max_tokens` cut the answer off.
        choice_logprobs: one log-probability for each of the request's choices, judged by the first token of the answer
            and normalised over the choices; empty without choices, and for more choices than the engine can score.
        prompt_tokens: length of the whole prompt; `cached_tokens` of them came from the prefix cache.
        seconds: from arrival at the engine to the last token. Where many requests are in it, most of that is waiting.
        busy_seconds: of the time in which the engine had any request, what passed since its last answer. Over all
            answers that is how long it worked.
        merged: True when an equal request of the same call paid for this answer; its costs are then zero.
        error: why there is no answer (the prompt is longer than the context, …); empty when there is one.
    """

    text: str
    finished: bool = True
    choice_logprobs: tuple[float, ...] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    busy_seconds: float = 0.0
    merged: bool = False
    error: str = ""


class Ensemble(Protocol):
    """Every model of a job behind one call; what stages hold."""

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        """One completion a request, in order; `session` names the requests that share prefixes with each other."""
        ...


class Engine(Protocol):
    """A model that answers batches of requests. One completion a request, in order.

    A request that cannot be answered at all (too long) gets a completion with `error`; faults of the engine itself
    are raised as RetryableError or FatalError.
    """

    async def generate(self, requests: list[Request]) -> list[Completion]: ...

    async def check_health(self) -> None: ...

    def shutdown(self) -> None: ...
