"""The runtime environment of a Ray job, for the replicas that Ray Serve starts on its behalf.

Serve takes it over by itself only where a deployment has none of its own; of one that has, all but the working folder
comes from Serve's controller, which belongs to the first job of a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray


def of_job() -> dict[str, Any]:
    """The runtime environment of the job that this process belongs to, its folders as URIs; empty without Ray."""
    # Whoever looks at a deployment without a session starts none: asking for the context would.
    return dict(ray.get_runtime_context().runtime_env) if ray.is_initialized() else {}


def with_variables(job: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """The runtime environment of a job, with these environment variables over its own."""
    merged = {**job.get("env_vars", {}), **variables}
    return {**job, "env_vars": merged} if merged else dict(job)
