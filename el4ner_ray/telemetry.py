"""What a run does, as metrics of the Ray cluster: Prometheus reads them as `ray_el4ner_…_total` from every node."""

from __future__ import annotations

from collections import Counter as Tally

from ray.util.metrics import Counter

from el4ner_ray.schema import Failure, Usage

_OF_USAGE = {
    "requests": "Requests to the engines.",
    "merged": "Requests that an equal one paid for.",
    "prompt_tokens": "Tokens of prompts.",
    "cached_tokens": "Tokens of prompts that came from a prefix cache.",
    "generated_tokens": "Tokens that were generated.",
    "parse_failures": "Answers that could not be read, or only in part.",
    "unaligned": "Surfaces that a model named and the sentence does not hold.",
    "seconds": "Time that requests spent in the engines, in seconds.",
}


class StageMetrics:
    """The counters of one stage actor, each by stage and model."""

    def __init__(self, stage: str) -> None:
        """Register the counters with Ray; without a Ray session they go nowhere."""
        self._stage = stage
        self._usage = {
            name: Counter(f"el4ner_{name}", description, tag_keys=("stage", "model"))
            for name, description in _OF_USAGE.items()
        }
        self._rows = Counter("el4ner_rows", "Documents, or parts of long ones, that a stage is done with.", ("stage",))
        self._failures = Counter("el4ner_failures", "What a stage could not do.", ("stage", "model", "kind"))

    def count(self, usage: dict[str, Usage], failures: list[Failure], rows: int) -> None:
        """Add what the stage spent on some rows, and where it failed."""
        if rows:
            self._rows.inc(rows, {"stage": self._stage})
        for model, spent in usage.items():
            for name, counter in self._usage.items():
                if amount := getattr(spent, name):
                    counter.inc(amount, {"stage": self._stage, "model": model})
        for (model, kind), number in Tally((failure.model, failure.kind) for failure in failures).items():
            self._failures.inc(number, {"stage": self._stage, "model": model, "kind": kind})
