"""Stage 1: zero-shot extraction by every model; the spans stand for the sentence when demonstrations are sought."""

from __future__ import annotations

from collections.abc import Mapping

from el4ner_ray.config import JobConfig
from el4ner_ray.core.voting import union
from el4ner_ray.engines.base import Ensemble
from el4ner_ray.schema import QUERY_SPANS, SENTENCES, Candidate
from el4ner_ray.stages.asking import Asker
from el4ner_ray.stages.base import Batch, Stage


class PreExtract(Stage):
    """S^ = U_i M_i(X, P(I_ext)), without demonstrations."""

    name = "pre_extract"
    reads = (SENTENCES,)
    writes = QUERY_SPANS

    def __init__(self, config: JobConfig, labels: Mapping[str, str], ensemble: Ensemble | None = None) -> None:
        """Load the prompts. `ensemble` is asked instead of the one behind Ray Serve."""
        self._asker = Asker(config, labels, None, ensemble)

    async def run(self, batch: Batch) -> list[list[list[Candidate]]]:
        """The union of the models' spans, for each sentence of each row."""
        extracted = await self._asker.extract(batch)
        return [[union(by_model) for by_model in row] for row in extracted]
