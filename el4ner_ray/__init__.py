"""Named entities for document archives: the EL4NER ensemble of small LLMs as a distributed batch job on Ray.

From Python: `Ensemble` for texts at hand, `annotate` for a `ray.data.Dataset`, `JobConfig` for how, `read_annotations`
for what a run wrote. They are imported when they are first used, since vLLM imports this package in each of its
processes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from el4ner_ray.config import JobConfig
    from el4ner_ray.dataset import annotate
    from el4ner_ray.ensemble import Ensemble
    from el4ner_ray.results import read_annotations

__all__ = ["Ensemble", "JobConfig", "annotate", "read_annotations"]

_HOMES = {"Ensemble": "ensemble", "JobConfig": "config", "annotate": "dataset", "read_annotations": "results"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
