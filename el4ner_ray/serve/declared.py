"""The server for clusters that deploy a Serve file (`serveConfigV2` of a RayService): one application a model, one API.

The applications find each other by their names, `el4ner-service-MODEL`.
"""

# Without `from __future__ import annotations`: Serve reads the type of a builder's argument, not its name.
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from el4ner_ray.config import JobConfig, ModelConfig, load
from el4ner_ray.core.prompting import Prompts
from el4ner_ray.engines import serving
from el4ner_ray.errors import UsageError
from el4ner_ray.job import check_assets
from el4ner_ray.serve.application import api_deployment, api_key, served_pool
from el4ner_ray.serve.limits import Limits

JOB = "service"
"""Stands for the id of a Ray job in the names of the applications."""


class Served(BaseModel):
    """`args` of an application: the same configuration for all of them.

    An engine also has its `model`; the API may have limits, as `el4ner serve` has `--sentences` and `--seconds`.
    """

    model_config = ConfigDict(extra="forbid")

    profile: str | None = None
    config: Path | None = None
    pool: str | None = None
    model: str | None = None
    sentences: int = Field(Limits.sentences, ge=1)
    seconds: float = Field(Limits.seconds, ge=0.1, allow_inf_nan=False)

    def load(self) -> JobConfig:
        """The configuration, checked. Raises UsageError."""
        config = load(self.config, self.profile)
        check_assets(config)
        return config


def engine(arguments: Served) -> Application:
    """The engine of one `model` of the configuration. Raises UsageError."""
    config = arguments.load()
    model = _model(config, arguments.model)
    labels = (served_pool(config, arguments.pool).labels if arguments.pool else config.labels) or {}
    return serving.engine_deployment(config, model, Prompts(config.prompts, labels).prefix)


def api(arguments: Served) -> Application:
    """The HTTP API on those engines; the key is EL4NER_API_KEY in the environment. Raises UsageError."""
    config = arguments.load()
    pool = served_pool(config, arguments.pool) if arguments.pool else None
    limits = Limits(sentences=arguments.sentences, seconds=arguments.seconds)
    return api_deployment().bind(config, pool, limits, api_key(), JOB)


def _model(config: JobConfig, name: str | None) -> ModelConfig:
    for model in config.models:
        if model.name == name:
            return model
    raise UsageError(f"model: there is no {name!r} in this configuration; it has {', '.join(config.model_names)}")
