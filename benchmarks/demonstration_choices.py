"""Other ways to choose demonstrations than the method's, to compare it with."""

from __future__ import annotations

import random
from collections.abc import Callable

from el4ner_ray.config import JobConfig
from el4ner_ray.demonstrations import DemonstrationIndex
from el4ner_ray.schema import DEMONSTRATIONS, SENTENCES
from el4ner_ray.stages.base import Batch, Stage
from el4ner_ray.stages.retrieve import Retrieve
from el4ner_ray.text_models import Embedder


class _Choice(Stage):
    name = "retrieve"
    reads = (SENTENCES,)
    writes = DEMONSTRATIONS

    def __init__(self, config: JobConfig, index: str) -> None:
        self._k = config.demonstrations.k
        self._index = DemonstrationIndex.open(index)
        self._embedder = Embedder(config.demonstrations.embedder)

    def choose(self, text: str) -> list[int]:
        """Numbers of pool sentences, best first."""
        raise NotImplementedError

    async def run(self, batch: Batch) -> list[list[list[int]]]:
        chosen: list[list[list[int]]] = [[] for _ in batch.texts]
        for row, _, _, text in batch.sentences():
            chosen[row].append(self.choose(text))
        return chosen


class BySentence(_Choice):
    """The k pool sentences nearest by whole-sentence similarity."""

    def choose(self, text: str) -> list[int]:
        return self._index.by_sentence(self._embedder.embed([text])[0], self._k)


class AtRandom(_Choice):
    """Any k pool sentences; the same for the same text."""

    def choose(self, text: str) -> list[int]:
        return random.Random(text).sample(range(len(self._index.sentences)), self._k)


class NoDemonstrations(_Choice):
    """None: the questions alone."""

    def choose(self, text: str) -> list[int]:
        return []


CHOICES: dict[str, Callable[[JobConfig, str], Stage]] = {
    "spans": Retrieve,
    "sentence": BySentence,
    "random": AtRandom,
    "none": NoDemonstrations,
}
