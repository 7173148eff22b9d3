"""What each part of the method is worth: every model alone, the union, the vote, verification, the calibrated method.

    ablation.py POOL GOLD --out DIR [--pool-sentences N] [--sentences N] [--k 3]

Each line of POOL and GOLD is one sentence. Answers are kept in DIR, so that a run that is repeated with other settings
asks only what is new; the table goes to DIR/NAME.json, too. A model alone has the spans that it extracted and the types
that it voted for, with the same prompts and demonstrations as the ensemble.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import pyarrow as pa
import typer
from answers import CachedEnsemble
from laboratory import Laboratory, typed
from rich.console import Console
from rich.table import Table

from el4ner_ray.calibration import operating_point
from el4ner_ray.config import load
from el4ner_ray.core.evaluation import Evaluation, evaluate
from el4ner_ray.core.reliability import Reliability, reliability
from el4ner_ray.core.voting import majority
from el4ner_ray.labelled import LabelledText, read_labelled
from el4ner_ray.schema import DECIDED, TYPED, Entity
from el4ner_ray.stages.verify import Verify

Variant = Callable[[list[Entity]], list[Entity]]


def main(
    pool: str,
    gold: str,
    out: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option(help="Of the JSON file.")] = "ablation",
    pool_sentences: Annotated[int, typer.Option()] = 300,
    sentences: Annotated[int, typer.Option()] = 300,
    k: Annotated[int, typer.Option()] = 3,
    profile: Annotated[str, typer.Option()] = "tiny-cpu",
) -> None:
    """Run and print the table."""
    labelled = read_labelled(pool, "pool")[:pool_sentences]
    asyncio.run(_run(labelled, read_labelled(gold, "gold")[:sentences], out, name, k, profile))


async def _run(pool: list[LabelledText], gold: list[LabelledText], out: Path, name: str, k: int, profile: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    config = load(profile=profile, overrides={"method": "calibrated", "demonstrations": {"k": k}})
    ensemble = CachedEnsemble(config, out / "answers.sqlite")
    try:
        laboratory = Laboratory(config, pool, ensemble, out)
        index = await laboratory.index()
        typed_table = await laboratory.run(laboratory.asking(index), gold)
        rows = _before_verification(typed_table, config.model_names, gold)
        voted = _with_entities(typed_table, [_voted(entities) for entities in _of_sentences(typed_table)])
        verified = await Verify(config, laboratory.labels, index, ensemble)(voted)
        rows["vote, verified (paper)"] = _measured(verified, gold)
        fusion = await laboratory.fusion(index)
        fused = await laboratory.fuse(index, fusion)(typed_table)
        rows["calibrated"] = _measured(fused, gold)
        found = _reliability(fused, gold)
    finally:
        ensemble.close()
    _print(rows)
    point = operating_point(fusion, config.calibration)
    held_out = fusion.reliability(point.threshold)
    print(
        f"calibrated: threshold {point.threshold:.3f}, calibration error {found.error:.3f} (by chance "
        f"{found.by_chance:.3f}); on the pool, held out: F1 {point.f1:.3f}, error {held_out.error:.3f} (by chance "
        f"{held_out.by_chance:.3f})"
    )
    content = {
        "pool_sentences": len(pool),
        "sentences": len(gold),
        "k": k,
        "reliability": msgspec.to_builtins(found),
        "rows": {row: evaluation.to_json() for row, evaluation in rows.items()},
        "fusion": msgspec.to_builtins(fusion.weights),
    }
    (out / f"{name}.json").write_text(json.dumps(content, indent=1))


def _before_verification(table: pa.Table, models: Sequence[str], gold: list[LabelledText]) -> dict[str, Evaluation]:
    def alone(model: str) -> Variant:
        return lambda entities: [
            msgspec.structs.replace(entity, label=vote.label)
            for entity in entities
            if model in entity.extracted_by
            for vote in entity.votes
            if vote.model == model and vote.label
        ]

    variants: dict[str, Variant] = {f"{model} alone": alone(model) for model in models}
    variants["union, vote"] = _voted
    variants["all that is named"] = lambda entities: entities
    return {
        name: _evaluated([variant(entities) for entities in _of_sentences(table)], gold)
        for name, variant in variants.items()
    }


def _voted(entities: list[Entity]) -> list[Entity]:
    labels = [majority(entity.votes) for entity in entities]
    return [
        msgspec.structs.replace(entity, label=label)
        for entity, label in zip(entities, labels, strict=True)
        if label is not None
    ]


def _of_sentences(table: pa.Table) -> list[list[Entity]]:
    return [row[0] for row in TYPED.decode(table)]


def _with_entities(table: pa.Table, entities: list[list[Entity]]) -> pa.Table:
    position = table.column_names.index(TYPED.name)
    return table.set_column(position, TYPED.name, TYPED.encode([[of_sentence] for of_sentence in entities]))


def _measured(table: pa.Table, gold: list[LabelledText]) -> Evaluation:
    return _evaluated(_kept(table), gold)


def _kept(table: pa.Table) -> list[list[Entity]]:
    return [[entity for entity in row[0] if entity.kept] for row in DECIDED.decode(table)]


def _evaluated(entities: list[list[Entity]], gold: list[LabelledText]) -> Evaluation:
    predicted = {text.id: typed(found) for text, found in zip(gold, entities, strict=True)}
    return evaluate({text.id: text.typed for text in gold}, predicted)


def _reliability(table: pa.Table, gold: list[LabelledText]) -> Reliability:
    pairs = [
        (entity.score, (entity.span.start, entity.span.end, entity.label) in text.typed)
        for entities, text in zip(_kept(table), gold, strict=True)
        for entity in entities
    ]
    return reliability([score for score, _ in pairs], [right for _, right in pairs])


def _print(rows: dict[str, Evaluation]) -> None:
    table = Table("variant", "P", "R", "F1", "95 % interval", "span P", "span R", "span F1", "type accuracy")
    for name, evaluation in rows.items():
        micro, spans, interval = evaluation.micro, evaluation.spans, evaluation.micro_f1_interval
        table.add_row(
            name,
            *(f"{rate:.3f}" for rate in (micro.precision, micro.recall, micro.f1)),
            f"{interval.low:.3f} to {interval.high:.3f}" if interval else "",
            *(f"{rate:.3f}" for rate in (spans.precision, spans.recall, spans.f1)),
            f"{evaluation.type_accuracy:.3f}" if evaluation.type_accuracy is not None else "",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
