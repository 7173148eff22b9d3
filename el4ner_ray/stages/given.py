"""In place of stages 1 and 2, where somebody gives the demonstrations: every sentence gets all of them."""

from __future__ import annotations

from el4ner_ray.schema import DEMONSTRATIONS, SENTENCES
from el4ner_ray.stages.base import Batch, Stage


class Given(Stage):
    """A prompt shows them in the order in which they are given; without any it asks by the instructions alone."""

    name = "given"
    reads = (SENTENCES,)
    writes = DEMONSTRATIONS

    def __init__(self, count: int) -> None:
        """Nothing is loaded; the stages after this one hold the `count` labelled sentences."""
        # Best first, as retrieval gives them: prompts show the best one last.
        self._numbers = list(reversed(range(count)))

    async def run(self, batch: Batch) -> list[list[list[int]]]:
        """The numbers of all demonstrations, for each sentence of each row."""
        return [[self._numbers for _ in sentences] for sentences in batch.read(SENTENCES)]
