"""Engines behind Ray Serve: one application a model, one engine a replica, shared by all stages through handles."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, NamedTuple

import msgspec
import ray
from ray import serve
from ray._private import state
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from el4ner_ray import capacity, garbage, logs, machine
from el4ner_ray.config import JobConfig, ModelConfig
from el4ner_ray.engines import batch_invariance, inherited, lax_timers
from el4ner_ray.engines.applications import Starting, application_name
from el4ner_ray.engines.base import Completion, Engine, Request
from el4ner_ray.engines.fake import ScriptedEngine
from el4ner_ray.engines.turns import SleepingEngine, TakingTurns, lock_file
from el4ner_ray.errors import RetryableError
from el4ner_ray.placement import start_order

logger = logging.getLogger(__name__)

_encode_completions = msgspec.msgpack.Encoder().encode
_decode_requests = msgspec.msgpack.Decoder(list[Request]).decode

# Calls that may wait at a replica; more would only queue inside vLLM. Serve's default of 5 starves it.
MAX_ONGOING_CALLS = 64

_LOGS = {"encoding": "JSON", "log_level": "WARNING", "enable_access_log": False}

# Where a model's `engine` has no `max_num_seqs`: vLLM's own (0.32) on most cards. On those of 70 GiB or more but the
# A100 it is 1,024, and replicas start before one is full: which card one will have is not known here.
_REQUESTS_AT_ONCE = 256

# glibc gives large blocks back to the system as soon as they are free, and each layer's results, of up to 80 MB, are
# such: every page of them is mapped and zeroed anew. Kept instead, in huge pages where the system has them,
# Qwen2.5-0.5B answered 120 questions in 31 s instead of 40 on one core, 60 in 11.5 instead of 17 on two.
_KEPT_MEMORY = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4000000000:glibc.malloc.hugetlb=1"

# Of engines whose user says nothing else.
_DEFAULTS = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}

_NICENESS = "EL4NER_NICENESS"
_GIVING_WAY = 4  # above that of Ray's workers, which is 15 of 19: two fifths of the weight


class EngineReplica:
    """A Serve replica around one engine. Batches travel as msgpack: pickling the records took 4 times as long."""

    async def __init__(self, config: JobConfig, model: ModelConfig, prefix: str) -> None:  # type: ignore[misc]
        """Load the model, and compute the `prefix` that the job's prompts share.

        Serve gives up after a bounded number of tries.
        """
        self._engine: Engine
        lax_timers.exact()  # Ray's own threads run already, and stay lax
        os.nice(int(os.environ.get(_NICENESS, "0")))  # of what it starts, too
        if model.takes_turns:
            of_process = ray.get_runtime_context()
            card = lock_file(of_process.get_session_name(), of_process.get_accelerator_ids()["GPU"])
            self._engine = await TakingTurns.load(lambda: _loaded(config, model), card)
        else:
            self._engine = _loaded(config, model)
        # Else the first sentences compute the prefix side by side, as many as happen to come at once. How much of a
        # prompt is computed in one go decides how vLLM's CPU attention rounds (with heads as large as Gemma's 256).
        try:
            await self._engine.generate([Request((prefix,), max_tokens=1)])
        except RetryableError as error:
            told = logs.bound(logger, model=model.name)
            told.warning("model %s: the shared prefix is left to the first request: %s", model.name, error)
        garbage.settle()

    async def generate(self, requests: bytes) -> bytes:
        """Msgpack of list[Request] in, msgpack of list[Completion] out."""
        completions: list[Completion] = await self._engine.generate(_decode_requests(requests))
        return _encode_completions(completions)

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica when this raises or hangs."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """Called by Serve when the replica stops in good order."""
        if hasattr(self, "_engine"):
            self._engine.shutdown()


def _loaded(config: JobConfig, model: ModelConfig) -> SleepingEngine:
    if config.engine == "fake":
        return ScriptedEngine(model.name, config.fake)
    from el4ner_ray.engines.vllm import VllmEngine

    return VllmEngine(model)


def deployment_options(config: JobConfig, model: ModelConfig, runtime_env: dict[str, Any]) -> dict[str, Any]:
    """Resources and behaviour of a model's replicas, as Ray Serve takes them."""
    actor: dict[str, Any] = {"num_cpus": model.cpus, "num_gpus": model.gpus}
    if runtime_env:
        actor["runtime_env"] = runtime_env
    options: dict[str, Any] = {
        "name": model.name,
        **_replicas(config, model),
        # Serve's own, above, does not reach replicas where another job started it.
        "logging_config": _LOGS,
        "max_ongoing_requests": MAX_ONGOING_CALLS,
        "health_check_period_s": 10,
        # An engine answers between two steps, which take up to a minute on a busy CPU (4,096 tokens, 0.5B, float32).
        # Three checks that stay away have Serve replace it, before the run is taken to stand still.
        "health_check_timeout_s": 180 if model.gpus_of_replica == 0 and config.engine == "vllm" else 60,
        "graceful_shutdown_timeout_s": 20,
        # How often a replica that is to end looks whether its calls are answered, the first time included.
        "graceful_shutdown_wait_loop_s": 0.2,
        "max_constructor_retry_count": 1,
        "request_router_config": RequestRouterConfig(
            # The stages of a batch go to one replica, which has their prefixes cached; a full one spills over.
            request_router_class="el4ner_ray.engines.routing.TurnRouter",
        ),
    }
    if model.parallel > 1:
        # vLLM's own workers take the GPUs, one bundle each, on one node where that is possible.
        bundles = [{"CPU": model.cpus, "GPU": 1.0}] + [{"GPU": 1.0}] * (model.parallel - 1)
        options |= {"placement_group_bundles": bundles, "placement_group_strategy": "PACK"}
        actor["num_gpus"] = 0
    return options | {"ray_actor_options": actor}


def _replicas(config: JobConfig, model: ModelConfig) -> dict[str, Any]:
    if isinstance(model.replicas, int):
        return {"num_replicas": model.replicas}
    at_once = math.ceil(model.engine.get("max_num_seqs", _REQUESTS_AT_ONCE) / config.limits.call_requests)
    scaling = AutoscalingConfig(
        min_replicas=model.replicas.min,
        max_replicas=model.replicas.max,
        # Calls that are worked on and as many that wait: with fewer a replica is idle between two of them.
        target_ongoing_requests=min(2 * at_once, MAX_ONGOING_CALLS),
        # A run soon asks for as much as it ever will, and goes on so to its end: what queues now, queues later.
        upscale_delay_s=10,
        look_back_period_s=20,
    )
    return {"num_replicas": "auto", "autoscaling_config": scaling}


class CoreShare(NamedTuple):
    """Where a model on CPU computes: a thread on each of these cores; on any, where none is named.

    One that `roams` has a single thread, which goes to whichever of them has time and gives way to larger models.
    """

    cores: list[int]
    threads: int
    roams: bool = False


def core_shares(models: tuple[ModelConfig, ...], cores: int) -> dict[str, CoreShare]:
    """Which of `cores` cores each model on CPU computes on: apart, in proportion to `core_share`.

    With fewer cores than models, the one of the largest share computes on all of them, and each of the others has a
    single thread that gives way to it and uses what time it leaves: on 2 cores (AMD Zen 3), 100 sentences took the
    three models of `tiny-cpu` 479 s, where a core for the largest and the other one for the two small models took
    514 s. Engines with two threads each hold each other up (121 to 151 s for what took 109 s with cores apart).
    """
    on_cpu = sorted((m for m in models if m.gpus == 0), key=lambda m: -m.core_share)
    if not on_cpu:
        return {}
    everywhere = list(range(cores))
    if cores < len(on_cpu):
        largest, *others = on_cpu
        return {largest.name: CoreShare(everywhere, cores)} | {
            m.name: CoreShare(everywhere, 1, roams=True) for m in others
        }
    spare = cores - len(on_cpu)
    total = sum(m.core_share for m in on_cpu)
    counts = {m.name: 1 + math.floor(spare * m.core_share / total) for m in on_cpu}
    counts[on_cpu[0].name] += cores - sum(counts.values())
    chosen, next_core = {}, 0
    for model in on_cpu:
        own = everywhere[next_core : next_core + counts[model.name]]
        chosen[model.name] = CoreShare(own, len(own))
        next_core += len(own)
    return chosen


def reserved_shares(models: tuple[ModelConfig, ...]) -> dict[str, CoreShare]:
    """What each model on CPU computes on where nobody knows what else is on its node: as many threads as `cpus`."""
    return {model.name: CoreShare([], max(1, int(model.cpus))) for model in models if model.gpus == 0}


def cpu_environment(model: ModelConfig, share: CoreShare) -> dict[str, str]:
    """Environment of a model's engine, of vLLM's CPU build, that computes on these of the cores that a run may use."""
    # `enforce_eager` is for the model; vLLM still compiles how logprobs are ranked (`batched_count_greater_than`) when
    # the first constrained answer is asked for, and again when several are.
    own = {"TORCH_COMPILE_DISABLE": "1"} if model.engine.get("enforce_eager") else {}
    allowed = sorted(os.sched_getaffinity(0))
    if share.roams:
        own[_NICENESS] = str(_GIVING_WAY)
    elif share.cores and len(allowed) == machine.cores():
        own["GOMP_CPU_AFFINITY"] = " ".join(str(allowed[core]) for core in share.cores)
    # Else a container has a part of all cores' time; bound threads would share a few cores with those of other ones.
    return own | {
        # With "0" the model computes in the scheduler's process: one process less an engine, which would import vLLM
        # for 10 s and hold 750 MB. vLLM's own binding of threads needs that process, so OpenMP binds them.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(share.threads),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Splitting attention over the length makes its rounding depend on what else is in the batch: 1 of 140 answers
        # changed with the batch size, against 0 without (SmolLM2-135M, batches of 140 and 14).
        "VLLM_CPU_ATTN_SPLIT_KV": "0",
        batch_invariance.SWITCH: "1",
        lax_timers.SWITCH: "1",
        "GLIBC_TUNABLES": _KEPT_MEMORY,
        # Threads that wait must not spin: other engines and the stages share these cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
    }


def environment_alone(model: ModelConfig) -> dict[str, str]:
    """Environment of the engine of a model on CPU that has all cores to itself."""
    cores = machine.cores()
    return cpu_environment(model, CoreShare(list(range(cores)), cores))


def environments(
    config: JobConfig, given: Mapping[str, str] = os.environ, *, on_this_machine: bool = True
) -> dict[str, dict[str, str]]:
    """The environment variables that each model's replicas are started with; `given` may set those of `_DEFAULTS`.

    Engines on CPU share the cores of this machine where all are `on_this_machine`, one of each model.
    """
    if config.engine == "fake":
        return {name: {} for name in config.model_names}
    shares = core_shares(config.models, machine.cores()) if on_this_machine else reserved_shares(config.models)
    common = {name: given.get(name, default) for name, default in _DEFAULTS.items()}
    own = {model.name: cpu_environment(model, share) for model in config.models if (share := shares.get(model.name))}
    return {model.name: common | own.get(model.name, {}) for model in config.models}


def engine_deployment(config: JobConfig, model: ModelConfig, prefix: str) -> Application:
    """What Serve runs for a model: replicas that compute the `prefix` of the job's prompts when they start."""
    job = inherited.of_job()
    given = os.environ | job.get("env_vars", {})
    variables = environments(config, given, on_this_machine=capacity.all_fit_here(config))[model.name]
    options = deployment_options(config, model, inherited.with_variables(job, variables))
    return serve.deployment(EngineReplica).options(**options).bind(config, model, prefix)


def start(config: JobConfig, prefix: str, say: Callable[[str], None]) -> Starting:
    """Deploy every model. Those that start last may still be loading, and have computed the `prefix` of the job's
    prompts when they have started.

    Raises FatalError, naming the model, when one does not come up.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(proxy_location="Disabled", logging_config=_LOGS)
    stop_left_behind(say)
    *before, last = start_order(config.models)
    for models in before:
        _deploy(config, models, prefix, say).wait()
    return _deploy(config, last, prefix, say)


def _deploy(config: JobConfig, models: list[ModelConfig], prefix: str, say: Callable[[str], None]) -> Starting:
    names = [model.name for model in models]
    say(f"starting engines: {', '.join(names)}")
    targets = [
        serve.RunTarget(
            target=engine_deployment(config, model, prefix),
            name=application_name(model.name),
            route_prefix=None,
        )
        for model in models
    ]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return Starting(names, say)


def left_behind(applications: Iterable[str], ended_jobs: Set[str]) -> list[str]:
    """Which of Serve's applications are engines of jobs, by their ids, that have ended."""
    of_jobs = ((name, re.fullmatch(r"el4ner-([0-9a-f]{8})-.+", name)) for name in applications)
    return [name for name, found in of_jobs if found and found[1] in ended_jobs]


def stop_left_behind(say: Callable[[str], None]) -> None:
    """Shut down the engines of jobs that were killed, or lost with their node: they would hold their GPUs for ever."""
    ended = {job["JobID"] for job in state.jobs() if job["IsDead"]}
    for name in left_behind(serve.status().applications, ended):
        say(f"ending {name}, which a killed job had left behind")
        serve.delete(name)


def stop(config: JobConfig, *, wait: bool) -> None:
    """Shut the engines of this job down; other applications of the cluster stay.

    Without `wait` Serve goes on with it by itself: engines that are still loading would take it a minute.
    """
    if not ray.is_initialized():
        return  # they ended with the session; asking Serve would start another one
    running = {application_name(model) for model in config.model_names} & serve.status().applications.keys()
    for name in running:
        serve.delete(name, _blocking=False)
    if wait:
        # All end at once; this waits for those that are still there.
        for name in running:
            serve.delete(name)
