"""The models as applications of Ray Serve: how they are called, and whether they run yet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ReplicaState

from el4ner_ray.errors import FatalError

# A look costs Serve's controller a few milliseconds, and a model loads for a minute.
PAUSE_SECONDS = 0.5
# How often a run that waits for engines says for which ones.
TELL_SECONDS = 60.0


def application_name(model: str, job: str | None = None) -> str:
    """Serve application of a model in the Ray job of that id, unless told this one's, whose processes agree on it."""
    return f"el4ner-{job or ray.get_runtime_context().get_job_id()}-{model}"


def have_started(models: Sequence[str]) -> bool:
    """Whether every model of this job has come up.

    One that has died since is no reason to wait: Serve replaces it. Raises FatalError, naming the model, when one
    cannot come up.
    """
    applications = serve.status().applications
    return all(_has_started(model, applications.get(application_name(model))) for model in models)


def _has_started(model: str, application: ApplicationStatusOverview | None) -> bool:
    if application is None:
        return False
    if application.status == ApplicationStatus.DEPLOY_FAILED:
        raise FatalError(f"model {model} does not start: {why_failed(application)}")
    return application.status not in (ApplicationStatus.NOT_STARTED, ApplicationStatus.DEPLOYING)


def why_failed(application: ApplicationStatusOverview) -> str:
    """The line that tells why an application that could not be deployed does not start."""
    # Its own message says only that it failed; those of its deployments have the replicas' tracebacks.
    messages: list[str] = [deployment.message for deployment in application.deployments.values()]
    telling = [line.strip() for message in messages for line in message.splitlines() if "Error" in line]
    return telling[-1] if telling else str(application.message)


def waiting_for(models: Sequence[str]) -> list[str]:
    """For each model that has not come up: how many of its replicas are not there, and what Serve says of it."""
    applications = serve.status().applications
    found = {model: applications.get(application_name(model)) for model in models}
    return [
        f"{model} {_lacking(application)}"
        for model, application in found.items()
        if application is not None and not _has_started(model, application)
    ]


def _lacking(application: ApplicationStatusOverview) -> str:
    deployments = application.deployments.values()
    counted = [states for deployment in deployments for states in deployment.replica_states.items()]
    there = sum(number for state, number in counted if state == ReplicaState.RUNNING)
    wanted = sum(number for state, number in counted if state != ReplicaState.STOPPING)
    # Serve's own message comes after half a minute: what a replica asks for and the cluster has, or that it loads.
    told = " ".join(" ".join(deployment.message for deployment in deployments).split())
    return f"lacks {wanted - there} of {wanted} replicas ({told or 'Ray Serve says nothing yet'})"


class Starting:
    """Models that were told to start; a thread looks whether they have, so that others may load meanwhile."""

    def __init__(self, models: Sequence[str], say: Callable[[str], None]) -> None:
        """`say` is told, from the thread, when all have started, and once a minute before which have not."""
        self._models, self._say = models, say
        self._began = time.perf_counter()
        self._failure: FatalError | None = None
        self._closed, self._over = threading.Event(), threading.Event()
        self.ended_at: float | None = None
        """When all had started, by `time.perf_counter`; None before, and when they never did."""
        threading.Thread(target=self._watch, name="el4ner-starting", daemon=True).start()

    def wait(self) -> None:
        """Return when all have started. Raises FatalError, naming the model, when one cannot come up."""
        try:
            self._over.wait()
        finally:
            self.close()
        if self.ended_at is None:
            raise self._failure or FatalError("engines do not start: Ray Serve does not tell their state")

    def close(self) -> FatalError | None:
        """Look no longer; why a model did not come up, if that is so."""
        self._closed.set()
        # Not the thread's `join`, which returns at once when a signal has interrupted another one (CPython 3.11): asked
        # after Ray's shutdown, Serve would start another session.
        self._over.wait()
        return self._failure

    def _watch(self) -> None:
        try:
            # The last look comes after `close`: what ended the run may be a model that had just failed.
            closed, told_at = False, self._began
            while not have_started(self._models):
                if closed:
                    return
                if time.perf_counter() - told_at >= TELL_SECONDS:
                    told_at = time.perf_counter()
                    self._tell_what_lacks(told_at - self._began)
                closed = self._closed.wait(PAUSE_SECONDS)
            self.ended_at = time.perf_counter()
            self._say(f"engines are ready after {self.ended_at - self._began:.0f} s: {', '.join(self._models)}")
        except FatalError as error:
            self._failure = error
        except (RayError, RayServeException) as error:
            self._failure = FatalError(f"engines do not start: {error}")
        finally:
            self._over.set()

    def _tell_what_lacks(self, seconds: float) -> None:
        # None: they have started in this moment.
        if lacking := waiting_for(self._models):
            self._say(f"engines are not ready after {seconds:.0f} s: {'; '.join(lacking)}")
