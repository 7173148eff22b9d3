"""Joining a Ray cluster, or starting one on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants, services, worker
from ray.data import DataContext
from ray.job_config import JobConfig

from el4ner_ray import idle_loop, logs, machine, orphans, read_ahead
from el4ner_ray.engines import lax_timers
from el4ner_ray.errors import UsageError

logger = logging.getLogger(__name__)

# Blocks are small and few are in flight; Ray's default of 30 % of memory would starve engines on the same machine.
_OBJECT_STORE_BYTES = 1 << 30

# What Ray does beside the work counts where the engines have the same few cores. All of this can be set otherwise.
_FEWER_ROUNDS = {
    # After a second Ray ends idle processes of tasks, down to as many as there are CPUs that nobody reserved
    # (https://github.com/ray-project/ray/pull/36766), which is none beside engines on two cores: nearly every file of
    # the output was written by a new process, which imports for a second first (36 processes instead of 18 over 200
    # sentences).
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    # Serve's controller looks round ten times a second.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    # So often, too, each replica and each handle hands its metrics to Ray, which passes them on every 10 s.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "10000",
    # So often, too, the log monitor searches for new log files, which it would show if it were asked to.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "60",
    # Every 5 s the agent asks the system about each process.
    "REPORTER_UPDATE_INTERVAL_MS": "30000",
}
# On so many Ray runs without its dashboard, which has ten processes, and Ray Data's loop sleeps while engines work.
_FEW_CORES = 4
# Then nobody can ask for the history of tasks, which Ray would collect: 77 MB over a million sentences.
_NO_HISTORY = {"task_events_report_interval_ms": 0}
# Each thread of a process may have an arena of glibc's malloc, and what is free in one is of no use to another: some 20
# processes of many threads go on to grow for minutes. With two, they do not.
_FEW_ARENAS = {"MALLOC_ARENA_MAX": "2"}

# Ray 2.60 gives a node 30 s to start (a constant in `ray/_private/node.py`), its dashboard 60, each part of it and the
# node's agent 30. Where two cores are busy with another run, that is too little, and the run ends with Ray's own error.
_SECONDS_TO_START, _TRIES_TO_START = 90, 3
_PATIENCE = {
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": str(_SECONDS_TO_START),
    "RAY_agent_register_timeout_ms": str(1000 * _SECONDS_TO_START),
}
_pause = threading.Event()

_KILLED_FOR_MEMORY = re.compile(
    r"(\d+) worker\(s\) were killed due to the node running low on memory\..*? was (.+? used / .+?) limit"
)


def end_leftovers() -> None:
    """End the processes that killed runs left behind on this machine: they might still commit files."""
    if not machine.cluster_address():
        ended = orphans.end(lambda driver: not driver.is_running())
        if ended:
            logger.warning("ended %d processes that a killed run had left behind", ended)


@contextmanager
def session(cpus: int = 0) -> Iterator[None]:
    """A Ray session: the cluster of RAY_ADDRESS (set by `ray job submit`), else one on this machine for the run.

    One on this machine offers as many logical CPUs as there are cores, or `cpus` where that is more.
    On this machine, timeouts in what Ray starts, but for engines and the API, then pass up to 90 ms late
    (`engines.lax_timers`). Within it SIGTERM arrives as SystemExit, and so does SIGHUP, unless it is ignored or the
    caller handles it. Raises UsageError when the cluster does not answer.
    """
    if ray.is_initialized():
        yield
        return
    # Serve's routine messages (a line a call) stay in its log files; it reads this in every process of the session.
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    # Ray's C++ side reports routine matters of its own actors as errors; its log files keep what is fatal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    local = not machine.cluster_address()
    if local:
        for name, value in _FEWER_ROUNDS.items():
            os.environ.setdefault(name, value)
        end_leftovers()
    with _handlers_restored():
        events: Path | None = None
        try:
            with lax_timers.inherited():
                _join(local, cpus)
            if local:
                events = Path(worker._global_node.get_logs_dir_path(), "events", "event_RAYLET.log")
            _configure_data()
            yield
        finally:
            try:
                ray.shutdown()
                if events is not None:
                    tell_memory_kills(events)
            finally:  # whatever ended these two: a second Ctrl-C, or a file that cannot be read
                if local:
                    # Ray's agents, which would follow in some seconds; and of an interrupted run, engines.
                    orphans.end(lambda driver: driver == orphans.this_driver())


def tell_memory_kills(events: Path) -> None:
    """Log that Ray ended processes for want of memory, from a raylet's file of events (a JSON object a line).

    Each failure that follows names something else: engines that do not start a second time, actors that are not there.
    On a cluster Ray tells it in the driver's output.
    """
    try:
        found = _KILLED_FOR_MEMORY.findall(events.read_text("utf-8"))
    except FileNotFoundError:  # nothing happened
        return
    if found:
        logger.warning(
            "Ray ended processes of this run for want of memory, %d in all (the last time with %s): end what else runs "
            "on this machine, or take a smaller profile (`el4ner doctor` names those that fit)",
            sum(int(number) for number, _ in found),
            found[-1][1],
        )


@contextmanager
def patient_start() -> Iterator[None]:
    """Within it, a node of Ray may take minutes to start."""
    look, seconds = services.get_node, ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)

    def patiently(*arguments: Any) -> Any:
        end = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                return look(*arguments)
            except RuntimeError:  # not there yet
                if time.monotonic() > end:
                    raise
            _pause.wait(0.5)

    services.get_node, ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = patiently, _SECONDS_TO_START
    try:
        yield
    finally:
        services.get_node, ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S = look, seconds


def _join(local: bool, cpus: int) -> None:
    # Not ray.init's own argument for it: this process, which a person reads, goes on as it is.
    job = JobConfig()
    job.set_py_logging_config(logs.of_workers())
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        _arrives_as_exception(signal.SIGHUP)
    try:
        with _hangups_wait():
            if local:
                _start_marked(job, cpus)
            else:
                _join_cluster(job)
    except SystemExit as ended:
        # While it starts, Ray's own handler of signals is there; it exits with the bare number.
        raise SystemExit(128 + signal.SIGTERM) if ended.code == signal.SIGTERM else ended from None
    # Ray 2.60 leaves SIGTERM to its C++ side, which prints a stack and ends the process on the spot: engines stay
    # behind. As an exception it runs every `finally`, which shuts the engines down.
    _arrives_as_exception(signal.SIGTERM)


def _join_cluster(job: JobConfig) -> None:
    address = machine.cluster_address()
    # Ray itself asks for a minute. What "auto" means, it finds in more ways.
    found = machine.cluster(address) if address != "auto" else None
    if found and not found.answers:
        raise _no_answer(address)
    try:
        ray.init(job_config=job, log_to_driver=True, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise _no_answer(address, " ".join(str(error.__cause__ or error).split())) from error


def _no_answer(address: str, why: str = "") -> UsageError:
    return UsageError(
        f"RAY_ADDRESS={address}: no answer{f' ({why})' if why else ''}; unset RAY_ADDRESS or start the cluster"
    )


def _start_marked(job: JobConfig, cpus: int) -> None:
    few = machine.cores() <= _FEW_CORES
    of_the_run = {orphans.MARK: orphans.this_driver().mark}
    if few:
        of_the_run |= {name: value for name, value in _FEW_ARENAS.items() if name not in os.environ}
    os.environ.update(of_the_run)
    try:
        _start(job, cpus, few)
    finally:
        # Ray's processes have it now, and pass it on to all that they start. What this process starts itself, which
        # the caller of `Ensemble` may do, is none of the run.
        for name in of_the_run:
            del os.environ[name]


@contextmanager
def _hangups_wait() -> Iterator[None]:
    """Within it SIGHUP waits, and what is started does not get it: a terminal that is closed sends it to all processes,
    and without Ray's the engines could not be shut down.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """After it, SIGTERM and SIGHUP do what they did before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # else it was not set from Python
                    signal.signal(number, handler)


def _start(job: JobConfig, cpus: int, few_cores: bool) -> None:
    """A session on this machine. A raylet ends itself when its agent has not started after 30 s: then another try."""
    if few_cores:
        idle_loop.install()
    for tries_left in reversed(range(_TRIES_TO_START)):
        try:
            with patient_start():
                ray.init(
                    address="local",
                    job_config=job,
                    num_cpus=max(2, machine.cores(), cpus),
                    num_gpus=machine.parts_of_cards(),
                    object_store_memory=min(_OBJECT_STORE_BYTES, psutil.virtual_memory().total // 10),
                    include_dashboard=not few_cores,
                    _system_config=_NO_HISTORY if few_cores else None,
                    dashboard_host="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
            return
        except Exception as error:  # Ray has no type of its own for this
            if not tries_left or "timed out during startup" not in str(error):
                raise
            logger.warning("Ray did not start in time and is started anew; is this machine busy?")
            orphans.end(lambda driver: driver == orphans.this_driver())


def _arrives_as_exception(number: signal.Signals) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def _configure_data() -> None:
    context = DataContext.get_current()
    context.print_on_execution_start = False
    context.enable_auto_log_stats = False
    # Else a thread in every task watches its process's memory, which nothing here reads.
    context.memory_usage_poll_interval_s = None
    # Output in the order of the input. Requests then reach the engines in the same order each time, too, and find the
    # same demonstrations of earlier sentences in the prefix cache: how much of a prompt was cached decides how vLLM's
    # CPU attention rounds with heads as large as Gemma's.
    context.execution_options.preserve_order = True
    read_ahead.bound(context)
    # They advise on logical memory requests, which nothing here uses.
    context.issue_detectors_config.detectors = []
