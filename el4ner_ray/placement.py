"""Which replicas a run starts together, and which cards they get."""

from __future__ import annotations

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
    """The fewest GPUs on which Ray can place the fewest replicas of all models; 0 for models on cores.

    Two replicas of one model may be beside each other, which `rooms` does not plan.
    """
    replicas = {model.name: model.replica_range.min for model in config.models}
    free: list[float] = []
    for model in _on_shares(config.models):
        for _ in range(replicas[model.name]):
            card = _fullest(model.gpus_of_replica, free)
            if card is None:
                card = len(free)
                free.append(1.0)
            free[card] -= model.gpus_of_replica
    return _whole_cards(config.models, replicas) + len(free)


def rooms(models: tuple[ModelConfig, ...], replicas: Mapping[str, int], gpus: int) -> list[float] | None:
    """What is free of each card in [0, 1] when a run has started these replicas; None where it cannot place them.

    A run starts model after model, all replicas of one at once, and Ray takes the fullest card that has room. Two of
    one model on a card would load side by side, each taking the other's memory for its own.
    """
    whole = _whole_cards(models, replicas)
    if whole > gpus:
        return None
    free = [0.0] * whole + [1.0] * (gpus - whole)
    for model in _on_shares(models):
        if not _place(model.gpus_of_replica, replicas[model.name], free):
            return None
    return free


def beside_themselves(config: JobConfig) -> list[str]:
    """Models of which a run would put two replicas on one card, however many cards there are.

    They would load at the same time, each taking the other's memory for its own. Models in turns load in turns, too.
    """
    replicas = {model.name: model.replica_range.min for model in config.models}
    pairs = [m.name for m in _on_shares(config.models) if replicas[m.name] > 1 and not m.takes_turns]
    # With so many all have a place, and more would change nothing: an empty card is the last that Ray takes.
    enough = sum(replicas[model.name] * math.ceil(model.gpus_of_replica) for model in config.models)
    return pairs if pairs and rooms(config.models, replicas, enough) is None else []


def _on_shares(models: tuple[ModelConfig, ...]) -> list[ModelConfig]:
    """Models that take a part of a card, as they start."""
    return [model for group in start_order(models) for model in group if 0 < model.gpus_of_replica < 1]


def _whole_cards(models: tuple[ModelConfig, ...], replicas: Mapping[str, int]) -> int:
    return sum(replicas[m.name] * math.ceil(m.gpus_of_replica) for m in models if m.gpus_of_replica >= 1)


def _place(share: float, replicas: int, free: list[float]) -> bool:
    """Take each replica's share from what is `free`; False where one has no place, or only beside another of them."""
    taken: set[int] = set()
    for _ in range(replicas):
        card = _fullest(share, free)
        if card is None or card in taken:
            return False
        taken.add(card)
        free[card] -= share
    return True


def _fullest(share: float, free: list[float]) -> int | None:
    """The card that Ray takes: the fullest one that has room for the share."""
    # Shares such as 0.34 + 0.33 + 0.33 are not exact.
    with_room = [card for card, room in enumerate(free) if room > share - 1e-6]
    return min(with_room, key=free.__getitem__, default=None)
