"""The ensemble behind Ray Serve: one call a model, with retries, deadlines and equal requests merged."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextvars import Context

import msgspec
from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, TaskCancelledError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from tenacity import AsyncRetrying, RetryError, before_sleep_log, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from el4ner_ray import logs
from el4ner_ray.config import JobConfig
from el4ner_ray.core.grouping import grouped
from el4ner_ray.engines.applications import PAUSE_SECONDS, application_name, have_started
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.errors import RetryableError

logger = logging.getLogger(__name__)

_encode_requests = msgspec.msgpack.Encoder().encode
_decode_completions = msgspec.msgpack.Decoder(list[Completion]).decode

# The replica died (Ray's memory monitor ended it) or is being replaced, its node died with the answer, the connection
# broke, Serve turned the call away, or the deadline passed.
_PASSING = (
    *(RetryableError, RayActorError, OutOfMemoryError, ObjectLostError, AioRpcError),
    *(RayServeException, TaskCancelledError, TimeoutError),
)

_FREE = {"prompt_tokens": 0, "cached_tokens": 0, "generated_tokens": 0, "seconds": 0.0, "busy_seconds": 0.0}

# gRPC takes messages of 4 MiB, and a character up to 4 bytes.
_CALL_CHARACTERS = 900_000


class ServedEnsemble:
    """The running engines of a job. One per stage actor."""

    def __init__(self, config: JobConfig, job: str | None = None) -> None:
        """The engines are those of this Ray job, which may still be starting: the first call waits for all of them.

        Or those of the job of that id, which must have been started. Replicas of Ray Serve must name it: they belong to
        the job that started Serve, which may be another.
        """
        self.models = config.model_names
        self._job = job
        self._limits = config.limits
        self._handles: dict[str, DeploymentHandle] = {}
        self._started = job is not None
        self._looking = asyncio.Lock()

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        """One completion a request, in order. Equal requests run once.

        Calls of one `session` go to the same replica while it has room. When all tries fail, every completion carries
        an `error`. Faults that cannot pass are raised as the engine raised them, and FatalError when a model cannot
        start.
        """
        distinct = list(dict.fromkeys(requests))
        if not distinct:
            return []
        calls = list(grouped(distinct, _characters, _CALL_CHARACTERS, self._limits.call_requests))
        # Inside a Serve replica, calls inherit the id of the request that it answers, and Serve's router (Ray 2.60,
        # `_pending_requests_by_id`) loses all but one of those that have the same: each gets a context without any.
        # They log what this context is about.
        told = logs.bound(logger, model=model)
        apart = [asyncio.create_task(self._call(model, call, session, told), context=Context()) for call in calls]
        answered = await asyncio.gather(*apart)
        answer = dict(zip(distinct, itertools.chain.from_iterable(answered), strict=True))
        # What a merged request cost is counted once.
        costs = set(distinct)
        merged = []
        for request in requests:
            completion = answer[request]
            if request in costs:
                costs.remove(request)
            else:
                completion = msgspec.structs.replace(completion, **_FREE, merged=True)
            merged.append(completion)
        return merged

    async def _until_started(self) -> None:
        if self._started:
            return
        async with self._looking:
            while not self._started:
                self._started = await asyncio.to_thread(have_started, self.models)
                if not self._started:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self, model: str, requests: list[Request], session: str, told: logs.Logger) -> list[Completion]:
        try:
            return await self._with_retries(model, requests, session, told)
        except RetryError as error:
            reason = f"no answer after {self._limits.retries + 1} tries: {error.last_attempt.exception()!r}"
            return [Completion("", error=" ".join(reason.split()))] * len(requests)

    async def _with_retries(
        self, model: str, requests: list[Request], session: str, told: logs.Logger
    ) -> list[Completion]:
        payload = _encode_requests(requests)
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(self._limits.retries + 1),
            # Seven tries span some two minutes at their longest: an engine that died is loaded again meanwhile.
            wait=wait_random_exponential(multiplier=2, max=60),
            retry=retry_if_exception_type(_PASSING),
            before_sleep=before_sleep_log(told, logging.WARNING),
        ):
            with attempt:
                await self._until_started()
                response = self._generate(model).options(session_id=session).remote(payload)
                try:
                    async with asyncio.timeout(self._limits.request_seconds):
                        return _decode_completions(await response)
                except (TimeoutError, asyncio.CancelledError):
                    # Else the replica would go on with what nobody waits for, beside the next try of the same.
                    response.cancel()
                    raise
        raise AssertionError("unreachable: tenacity returns or raises")

    def _generate(self, model: str) -> DeploymentHandle:
        if model not in self._handles:
            handle = serve.get_deployment_handle(model, application_name(model, self._job))
            # For bytes; Serve's default over gRPC, cloudpickle, is for objects that pickle does not take.
            pickled = {"request_serialization": "pickle", "response_serialization": "pickle"}
            self._handles[model] = handle.options(method_name="generate", **pickled)
        return self._handles[model]


def _characters(request: Request) -> int:
    return sum(map(len, request.turns + request.choices))
