"""The server on Ray: engines, one replica of the API on them that listens itself; and the end of all."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import Deployment

from el4ner_ray import capacity, cluster, garbage, machine
from el4ner_ray.calibration import operating_point, read_fusion
from el4ner_ray.config import JobConfig
from el4ner_ray.core.prompting import Prompts
from el4ner_ray.engines import inherited, lax_timers, serving
from el4ner_ray.engines.applications import application_name, why_failed
from el4ner_ray.engines.client import ServedEnsemble
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.job import calibration_basis, check_assets
from el4ner_ray.pool import open_pool
from el4ner_ray.serve.annotator import Annotator, ServedPool
from el4ner_ray.serve.api import create_app, key_digest
from el4ner_ray.serve.limits import Limits
from el4ner_ray.serve.listening import Address, Listener
from el4ner_ray.serve.metrics import Metrics
from el4ner_ray.serve.service import Service

API_KEY = "EL4NER_API_KEY"
Say = Callable[[str], None]

# The limits count sentences; what Serve's proxy lets through beside them are requests that are answered at once.
_ONGOING_REQUESTS = 1000
# What is in flight when the server is told to stop may finish within so many seconds.
_SECONDS_TO_FINISH = 20
# Calls to the engines are most of what a request costs. Ray Serve routes them in one thread and runs the API in
# another, both beside its own: without these hand-overs 41 ms of CPU instead of 52. Over Serve's gRPC, which asks for
# Ray's token as Ray's own ports do, a call passes no object store: 67 ms instead of 96, on a slower machine (50
# clients of benchmarks/serve_load.py). A batch job's stages do not use it: what was asked of a lost node would fail
# minutes later. Its channels would go through a proxy of the environment, which does not know the nodes of a cluster:
# Ray switches that off for its own channels alone, an empty `grpc_proxy` for all.
_CHEAP_CALLS = {
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "grpc_proxy": "",
}


class Api:
    """Stages over requests, on the engines of the Ray job that started it."""

    def __init__(self, config: JobConfig, pool: ServedPool | None, limits: Limits, key: bytes | None, job: str) -> None:
        """`job` is the id of the Ray job whose engines are asked."""
        self._config, self._job, self._key = config, job, key
        self._metrics = Metrics()
        annotator = Annotator(config, pool, ServedEnsemble(config, job))
        self._service = Service(annotator, limits, self._metrics)
        garbage.settle()

    def app(self) -> FastAPI:
        """What answers HTTP."""
        return create_app(self._service, self._metrics, self._states, self._key)

    # Called by Serve when a replica behind its HTTP proxy has started.
    __serve_build_asgi_app__ = app

    async def _states(self) -> dict[str, str]:
        applications = (await asyncio.to_thread(serve.status)).applications
        found = {name: applications.get(application_name(name, self._job)) for name in self._config.model_names}
        return {name: state.status.value if state else "NOT_STARTED" for name, state in found.items()}


class ListeningApi(Api):
    """The same, which takes its requests itself: Ray Serve's HTTP proxy is left out."""

    async def __init__(self, address: Address, *of_api: Any) -> None:  # type: ignore[misc]
        """`of_api`: what Api takes. Raises UsageError when nothing can listen there."""
        lax_timers.exact()
        super().__init__(*of_api)
        self._listener = await Listener.open(self.app(), address, _SECONDS_TO_FINISH)

    async def check_health(self) -> None:
        """Called by Serve, which replaces the replica when this raises or hangs."""
        if not self._listener.is_open:
            raise FatalError("the API does not listen any more")

    async def __del__(self) -> None:
        """Called by Serve when the replica stops in good order."""
        self._service.finish_within(_SECONDS_TO_FINISH - 2)  # what it then says still arrives
        await self._listener.close()


def run(config: JobConfig, pool_folder: str | None, address: Address, limits: Limits, say: Say) -> None:
    """Serve until SIGTERM or SIGINT; then requests in flight finish, and nothing that was started is left.

    The API key is read from the environment. Raises UsageError before any model loads, FatalError where one does not.
    """
    check_assets(config)
    if config.method == "calibrated" and not pool_folder:
        raise UsageError("method: calibrated is learnt from a pool; name its index with --pool, or use --method paper")
    pool = served_pool(config, pool_folder) if pool_folder else None
    if not machine.cluster_address():
        # Else Ray Serve would say so a minute later. On a cluster, a killed job's API may have the port until the
        # engines start, which ends it.
        cluster.end_leftovers()
        address.bound().close()
    key = api_key()
    labels = pool.labels if pool else config.labels or {}
    with cluster.session(capacity.logical_cpus(config)):
        capacity.check(config)
        try:
            serving.start(config, Prompts(config.prompts, labels).prefix, say).wait()
            _deploy(address, config, pool, limits, key)
            _check_reachable(address)
            say(f"listening on {address}{'' if key else f'; anybody who reaches it may ask ({API_KEY} is not set)'}")
            _wait()
            say("stopping: requests in flight may finish")
        except BaseException:
            _stop(config, wait=False)
            raise
        _stop(config, wait=True)


def api_key() -> bytes | None:
    """Digest of the key in the environment; None where none is set. Raises UsageError."""
    key = os.environ.get(API_KEY)
    if key is None:
        return None
    if not key:  # of a variable or a Secret that was thought to hold one
        raise UsageError(f"{API_KEY}: is empty; set a key, or unset it to let anybody ask")
    if not key.isascii():
        raise UsageError(f"{API_KEY}: clients encode other characters than ASCII in different ways; use ASCII alone")
    if key.strip() != key or not key.isprintable():
        raise UsageError(
            f"{API_KEY}: has white space at an end or a control character in it, which a header does not carry: nobody "
            "could ask; take it out"
        )
    return key_digest(key)


def served_pool(config: JobConfig, folder: str) -> ServedPool:
    """The index in `folder`, with what was learnt from it. Raises UsageError."""
    if not (Path(folder) / "index.json").is_file():
        raise UsageError(f"--pool {folder}: is not an index; build one with `el4ner index POOL --output DIR`")
    pool = open_pool(config, str(Path(folder).absolute()), index="")
    calibrated = config.model_copy(update={"method": "calibrated"})
    learnt = read_fusion(pool.index, calibration_basis(calibrated, pool))
    if learnt is None and config.method == "calibrated":
        raise UsageError(
            f"--pool {folder}: nothing was learnt from it with this configuration; "
            "run `el4ner index POOL --output DIR --method calibrated`, or use --method paper"
        )
    fusion = (learnt, operating_point(learnt, config.calibration).threshold) if learnt else None
    return ServedPool(pool.index, pool.labels, pool.built_from["sentences"], fusion)


def _name() -> str:
    return application_name("_api")  # no model can be called that


def api_deployment() -> Deployment:
    """One replica of the API behind Serve's HTTP proxy; bind it to the arguments of `Api`."""
    return serve.deployment(serve.ingress()(Api)).options(**_options({"num_cpus": 0.1}))


def listening_deployment(node: str) -> Deployment:
    """One replica of the API, on the node of this id; bind it to the arguments of `ListeningApi`."""
    # A head that offers no cores to stages may be told to serve.
    here = {"num_cpus": 0, "label_selector": {"ray.io/node-id": node}}
    return serve.deployment(ListeningApi).options(**_options(here))


def _options(actor: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "api",
        "num_replicas": 1,
        "max_ongoing_requests": _ONGOING_REQUESTS,
        "graceful_shutdown_timeout_s": _SECONDS_TO_FINISH + 2,
        "graceful_shutdown_wait_loop_s": 0.2,  # as of the engines
        "max_constructor_retry_count": 1,
        "ray_actor_options": actor | {"runtime_env": inherited.with_variables(inherited.of_job(), _CHEAP_CALLS)},
    }


def _deploy(address: Address, config: JobConfig, pool: ServedPool | None, limits: Limits, key: bytes | None) -> None:
    here = ray.get_runtime_context()
    api = listening_deployment(here.get_node_id()).bind(address, config, pool, limits, key, here.get_job_id())
    try:
        serve.run(api, name=_name(), route_prefix=None)
    except RuntimeError as error:  # which says only that it failed
        failed = serve.status().applications.get(_name())
        raise FatalError(f"the API does not start: {(failed and why_failed(failed)) or error}") from error


def _check_reachable(address: Address) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as it is about this machine, not a proxy
    try:
        direct.open(f"{address}/v1/health", timeout=60).close()
    except OSError as error:
        raise FatalError(f"{address} does not answer ({error}); name an address of this machine with --host") from error


def _stop(config: JobConfig, *, wait: bool) -> None:
    if _name() in serve.status().applications:
        serve.delete(_name(), _blocking=wait)
    serving.stop(config, wait=wait)


def _wait() -> None:
    # Both arrive as exceptions (cluster.session sees to SIGTERM), which is how all else is ended, too.
    try:
        while True:
            signal.pause()
    except (KeyboardInterrupt, SystemExit):
        return
