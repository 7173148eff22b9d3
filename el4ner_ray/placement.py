"""Which replicas a run starts together, and which cards they get."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from el4ner_ray.config import JobConfig, ModelConfig


def start_order(models: tuple[ModelConfig, ...]) -> list[list[ModelConfig]]:
    """Groups of models that start together, one group after another.

    vLLM measures the free memory of its GPU while it starts, so engines that share a card must not start at once.
    Others may: most of a start is importing, on one core. Large shares come first: small ones fit beside them.
    """
    apart = sorted((model for model in models if model.gpus != int(model.gpus)), key=lambda model: -model.gpus)
    together = [model for model in models if model not in apart]
    return ([together] if together else []) + [[model] for model in apart]


def cards_needed(config: JobConfig) -> int:
    """The fewest GPUs on which a run can place the fewest replicas of all models; 0 for models on cores."""
    replicas = {model.name: model.replica_range.min for model in config.models}
    return next(gpus for gpus in itertools.count() if rooms(config.models, replicas, gpus) is not None)


def rooms(models: tuple[ModelConfig, ...], replicas: Mapping[str, int], gpus: int) -> list[float] | None:
    """What is free of each card in [0, 1] when a run has started these replicas; None where it cannot place them.

    A run starts model after model, all replicas of one at once, and Ray takes the fullest card that has room. Two of
    one model on a card would load side by side, each taking the other's memory for its own.
    """
    in_order = [model for group in start_order(models) for model in group]
    whole = sum(replicas[m.name] * math.ceil(m.gpus_of_replica) for m in in_order if m.gpus_of_replica >= 1)
    if whole > gpus:
        return None
    free = [0.0] * whole + [1.0] * (gpus - whole)
    for model in in_order:
        if 0 < model.gpus_of_replica < 1 and not _place(model.gpus_of_replica, replicas[model.name], free):
            return None
    return free


def _place(share: float, replicas: int, free: list[float]) -> bool:
    """Take each replica's share from what is `free`; False where one has no place, or only beside another of them."""
    taken: set[int] = set()
    for _ in range(replicas):
        # Shares such as 0.34 + 0.33 + 0.33 are not exact.
        with_room = [card for card, room in enumerate(free) if room > share - 1e-6]
        card = min(with_room, key=free.__getitem__, default=None)
        if card is None or card in taken:
            return False
        taken.add(card)
        free[card] -= share
    return True
