"""The rows of the last stage as what a request gets: entities, costs, failures, structured as in the Parquet output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from el4ner_ray import schema
from el4ner_ray.annotations import entity_row, status_of, worst
from el4ner_ray.schema import CANDIDATES, DECIDED, TYPED, Entity, Failure, Usage
from el4ner_ray.serve.annotator import Sentence
from el4ner_ray.stages.base import Stage


@dataclass(frozen=True)
class SentenceResult:
    """A sentence after the last stage. `entities` and `dropped` have the fields of `schema.ENTITY_TYPE`."""

    sentence: Sentence
    entities: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    failures: list[Failure]
    usage: dict[str, dict[str, Usage]]
    """By stage and model."""

    @property
    def requests(self) -> int:
        """What the models were asked."""
        asked = (usage for stage in schema.ASKING_STAGES & self.usage.keys() for usage in self.usage[stage].values())
        return sum(usage.requests + usage.merged for usage in asked)


def sentence_results(
    stages: Sequence[Stage], sentences: Sequence[Sentence], table: pa.Table
) -> Iterable[SentenceResult]:
    """The rows of a table that all stages have seen."""
    usages = {stage.name: schema.usage_column(stage.name).decode(table) for stage in stages}
    failures = [schema.failures_column(stage.name).decode(table) for stage in stages]
    for row, (sentence, decided) in enumerate(zip(sentences, DECIDED.decode(table), strict=True)):
        yield SentenceResult(
            sentence,
            [entity_row(entity, sentence.text, sentence.start) for entity in decided[0] if entity.kept],
            [entity_row(entity, sentence.text, sentence.start) for entity in decided[0] if not entity.kept],
            [failure for of_stage in failures for failure in of_stage[row]],
            {name: of_rows[row] for name, of_rows in usages.items()},
        )


def joined(results: Iterable[SentenceResult]) -> dict[str, Any]:
    """Several sentences, in their order, as one annotation: status, entities, dropped and error."""
    parts = sorted(results, key=lambda result: result.sentence.number)
    failures = [failure for part in parts for failure in part.failures]
    return {
        "status": status_of(failures, sum(part.requests for part in parts)),
        "entities": [entity for part in parts for entity in part.entities],
        "dropped": [entity for part in parts for entity in part.dropped],
        "error": worst(failures),
    }


def costs(results: Iterable[SentenceResult]) -> dict[str, dict[str, Usage]]:
    """What the sentences cost together, by stage and model, as `stages` in run.json."""
    total: dict[str, dict[str, Usage]] = {}
    for result in results:
        for stage, models in result.usage.items():
            for model, usage in models.items():
                total.setdefault(stage, {}).setdefault(model, Usage()).add(usage)
    return total


def interim(stage: Stage, sentence: Sentence, table: pa.Table, row: int) -> dict[str, Any] | None:
    """What a stage in between knows of a sentence: its candidates, or its typed ones; None if it found neither."""
    text, start = sentence.text, sentence.start
    if stage.writes is CANDIDATES:
        candidates = CANDIDATES.decode(table.slice(row, 1))[0][0]
        return {
            "candidates": [
                {
                    "start": start + candidate.span.start,
                    "end": start + candidate.span.end,
                    "text": text[candidate.span.start : candidate.span.end],
                    "extracted_by": list(candidate.extracted_by),
                }
                for candidate in candidates
            ]
        }
    if stage.writes is TYPED:
        typed: list[Entity] = TYPED.decode(table.slice(row, 1))[0][0]
        return {"entities": [entity_row(entity, text, start) for entity in typed]}
    return None
