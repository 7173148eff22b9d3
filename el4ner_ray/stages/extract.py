"""Stage 3: extraction with demonstrations; the union of all models' spans keeps recall high."""

from __future__ import annotations

from collections.abc import Mapping

from el4ner_ray.config import JobConfig
from el4ner_ray.core.voting import union
from el4ner_ray.engines.base import Ensemble
from el4ner_ray.schema import CANDIDATES, DEMONSTRATIONS, SENTENCES, Candidate
from el4ner_ray.stages.asking import Asker, Pool
from el4ner_ray.stages.base import Batch, Stage


class Extract(Stage):
    """S = U_i M_i(X, D, P(I_ext))."""

    name = "extract"
    reads = (SENTENCES, DEMONSTRATIONS)
    writes = CANDIDATES

    def __init__(
        self, config: JobConfig, labels: Mapping[str, str], pool: Pool, ensemble: Ensemble | None = None
    ) -> None:
        """Load prompts and pool. `ensemble` is asked instead of the one behind Ray Serve."""
        self._asker = Asker(config, labels, pool, ensemble)

    async def run(self, batch: Batch) -> list[list[list[Candidate]]]:
        """The candidates of each sentence of each row."""
        extracted = await self._asker.extract(batch)
        return [[union(by_model) for by_model in row] for row in extracted]
