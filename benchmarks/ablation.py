"""What each part of the method is worth, and each choice in it.

    ablation.py POOL GOLD --out DIR [--name NAME] [--study steps --study models …]

Studies: `steps` (every model alone, union, vote, verification, the calibrated method), `models` (ensembles of two),
`verifiers` (each model as verifier), `retrieval` (how demonstrations are chosen), `k` (how many), `prompts` (other
wordings), `chat` (chat templates), `scores` (ways to scale the calibrated method's score). Each line of POOL and GOLD
is one sentence. Answers are kept in DIR, so that a study pays only for the questions that none asked before; the tables
go to DIR/NAME.json, and `plots.py` draws them. A model alone has the spans that it extracted and the types that it
voted for, with the same prompts and demonstrations as the ensemble.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pyarrow as pa
import typer
from answers import CachedEnsemble
from demonstration_choices import CHOICES
from laboratory import Laboratory, candidates_of, typed
from prompt_choices import Variant, classified, variants, with_chat_templates
from rich.console import Console
from rich.table import Table
from scalings import errors, errors_of_splits
from threadpoolctl import threadpool_limits

from el4ner_ray.calibration import Weighed, operating_point, weighed
from el4ner_ray.config import JobConfig, load
from el4ner_ray.core.evaluation import Evaluation, evaluate
from el4ner_ray.core.reliability import Reliability, reliability
from el4ner_ray.core.voting import majority
from el4ner_ray.labelled import LabelledText, read_labelled
from el4ner_ray.schema import DECIDED, TYPED, Entity
from el4ner_ray.stages.fuse import Weigher
from el4ner_ray.stages.verify import Verify

Rows = dict[str, Evaluation]
KS = (0, 1, 3, 5, 10)


def main(
    pool: str,
    gold: str,
    out: Annotated[Path, typer.Option()],
    name: Annotated[str, typer.Option(help="Of the JSON file.")] = "ablation",
    study: Annotated[list[str] | None, typer.Option(help="May be given several times; default: steps.")] = None,
    pool_sentences: Annotated[int, typer.Option()] = 300,
    sentences: Annotated[int, typer.Option()] = 300,
    k: Annotated[int, typer.Option(help="Demonstrations, but in the study of k.")] = 3,
    profile: Annotated[str, typer.Option()] = "tiny-cpu",
) -> None:
    """Run the studies and print their tables."""
    bench = Bench(
        load(profile=profile, overrides={"method": "calibrated", "demonstrations": {"k": k}}),
        read_labelled(pool, "pool")[:pool_sentences],
        read_labelled(gold, "gold")[:sentences],
        out,
    )
    asyncio.run(_run(bench, study or ["steps"], out / f"{name}.json"))


async def _run(bench: Bench, studies: Sequence[str], file: Path) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    k = bench.config.demonstrations.k
    of_all = {"pool_sentences": len(bench.pool), "sentences": len(bench.gold), "demonstrations": k}
    try:
        for study in studies:
            rows, more = await STUDIES[study](bench)
            if rows:
                _print(study, rows)
            content[study] = of_all | {"rows": {name: found.to_json() for name, found in rows.items()}, **more}
            file.write_text(json.dumps(content, indent=1))
    finally:
        bench.ensemble.close()


class Bench:
    """A pool, gold sentences, and the ensemble with its cached answers."""

    def __init__(self, config: JobConfig, pool: list[LabelledText], gold: list[LabelledText], out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.config, self.pool, self.gold, self.out = config, pool, gold, out
        self.ensemble = CachedEnsemble(config, out / "answers.sqlite")
        self.laboratory = Laboratory(config, pool, self.ensemble, out)

    def evaluated(self, entities: Sequence[Sequence[Entity]]) -> Evaluation:
        """The entities of each gold sentence against the gold."""
        predicted = {text.id: typed(found) for text, found in zip(self.gold, entities, strict=True)}
        return evaluate({text.id: text.typed for text in self.gold}, predicted)

    async def verified(self, table: pa.Table, index: str, verifier: str) -> Evaluation:
        """The paper's method from the votes on: what the verifier leaves."""
        voted = _with_entities(table, [_voted(entities) for entities in _of_sentences(table)])
        config = self.config.model_copy(update={"verifier": verifier})
        stage = Verify(config, self.laboratory.labels, index, self.ensemble)
        return self.evaluated(_kept(await self.laboratory.go_on([stage], voted)))


async def steps(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """Every model alone, then the ensemble step by step, and the calibrated method instead of its last steps."""
    laboratory, models = bench.laboratory, bench.config.model_names
    index = await laboratory.index()
    table = await laboratory.run(laboratory.asking(index), bench.gold)
    candidates = _of_sentences(table)
    rows = {f"{model} alone": bench.evaluated([_alone(model, e) for e in candidates]) for model in models}
    rows["union, vote"] = bench.evaluated([_voted(e) for e in candidates])
    rows["vote, verified (paper)"] = await bench.verified(table, index, bench.config.verifier)
    fusion = await laboratory.fusion(index)
    fused = await laboratory.fuse(index, fusion)(table)
    rows["calibrated"] = bench.evaluated(_kept(fused))
    rows["all that is named"] = bench.evaluated(candidates)
    point = operating_point(fusion, bench.config.calibration)
    kept, all_ = (_reliability(e, bench.gold) for e in (_kept(fused), [row[0] for row in DECIDED.decode(fused)]))
    held_out = fusion.reliability(point.threshold)
    print(f"calibrated: threshold {point.threshold:.3f}; on the pool, held out: F1 {point.f1:.3f}")
    for what, found in {"what is kept": kept, "all candidates": all_, "what is kept of the pool": held_out}.items():
        print(f"calibration error over {what}: {found.error:.3f} (by chance {found.by_chance:.3f})")
    return rows, {
        "reliability": msgspec.to_builtins(kept),
        "reliability_of_candidates": msgspec.to_builtins(all_),
        "fusion": msgspec.to_builtins(fusion.weights),
    }


async def models(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """Ensembles of two models and of all: union and vote. All have the demonstrations of the whole ensemble."""
    index = await bench.laboratory.index()
    found = _of_sentences(await bench.laboratory.run(bench.laboratory.asking(index), bench.gold))
    names = bench.config.model_names
    subsets = [s for size in range(2, len(names) + 1) for s in itertools.combinations(names, size)]
    return {" + ".join(s): bench.evaluated([_voted(_by(s, entities)) for entities in found]) for s in subsets}, {}


async def verifiers(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """The vote without verification, and with each model as the verifier."""
    index = await bench.laboratory.index()
    table = await bench.laboratory.run(bench.laboratory.asking(index), bench.gold)
    rows = {"none": bench.evaluated([_voted(entities) for entities in _of_sentences(table)])}
    for model in bench.config.model_names:
        rows[model] = await bench.verified(table, index, model)
    return rows, {}


async def retrieval(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """How demonstrations are chosen: by spans (the method), by whole sentences, at random, none; union and vote."""
    index = await bench.laboratory.index()
    rows = {}
    for name, choice in CHOICES.items():
        stages = bench.laboratory.asking(index)
        stages[1] = choice(bench.config, index)
        found = _of_sentences(await bench.laboratory.run(stages, bench.gold))
        rows[name] = bench.evaluated([_voted(entities) for entities in found])
    return rows, {}


async def numbers(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """How many demonstrations, chosen by spans; union and vote."""
    rows = {}
    for k in KS:
        demonstrations = bench.config.demonstrations.model_copy(update={"k": k})
        config = bench.config.model_copy(update={"demonstrations": demonstrations})
        laboratory = Laboratory(config, bench.pool, bench.ensemble, bench.out)
        stages = laboratory.asking(await laboratory.index())
        if k == 0:
            stages[1] = CHOICES["none"](config, await laboratory.index())
        found = _of_sentences(await laboratory.run(stages, bench.gold))
        rows[f"k = {k}"] = bench.evaluated([_voted(entities) for entities in found])
    return rows, {}


async def prompts(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """Other wordings, another order of demonstrations, a pool without empty sentences; each model and the vote."""
    rows: Rows = {}
    for name, variant in variants(bench.config, bench.pool, bench.out).items():
        laboratory = Laboratory(variant.config, variant.pool, bench.ensemble, bench.out)
        rows |= _each(bench, name, await classified(variant, laboratory, bench.gold))
    return rows, {}


async def chat(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """The models that have a chat template asked through it. To be run alone: the engines are others."""
    config = with_chat_templates(bench.config)
    ensemble = CachedEnsemble(config, bench.out / "answers.sqlite")
    try:
        laboratory = Laboratory(config, bench.pool, ensemble, bench.out)
        table = await classified(Variant(config, bench.pool), laboratory, bench.gold)
    finally:
        ensemble.close()
    return _each(bench, "chat templates", table), {}


async def scores(bench: Bench) -> tuple[Rows, dict[str, Any]]:
    """Calibration error of the score by how it is scaled: learnt from the pool, and from random parts of the gold."""
    laboratory = bench.laboratory
    index = await laboratory.index()
    weigher, labels = Weigher(bench.config, laboratory.labels, index), tuple(laboratory.labels)
    pool = weighed(weigher, await laboratory.annotated_pool(index))
    table = await laboratory.run(laboratory.asking(index), bench.gold)
    gold = [
        Weighed.of(weigher, text, candidates, demonstrations, of_pool=False)
        for text, (candidates, demonstrations) in zip(bench.gold, candidates_of(table), strict=True)
    ]
    learnt = min(len(pool), len(gold) * 2 // 3)
    # The matrices are small: with a thread a core, these hundreds of fits take several times as long as with one.
    with threadpool_limits(1):
        from_pool, from_gold = errors(pool, gold, labels), errors_of_splits(gold, labels, learnt)
    for name, found in from_pool.items():
        print(f"{name}: from the pool {found}, from {learnt} of the gold sentences {from_gold[name]}")
    return {}, {"from_pool": from_pool, "from_gold": from_gold, "learnt_of_gold": learnt}


def _each(bench: Bench, name: str, table: pa.Table) -> Rows:
    candidates = _of_sentences(table)
    rows = {
        f"{name}: {model}": bench.evaluated([_alone(model, e) for e in candidates])
        for model in bench.config.model_names
    }
    return rows | {f"{name}: vote": bench.evaluated([_voted(e) for e in candidates])}


STUDIES: dict[str, Callable[[Bench], Awaitable[tuple[Rows, dict[str, Any]]]]] = {
    "steps": steps,
    "models": models,
    "verifiers": verifiers,
    "retrieval": retrieval,
    "k": numbers,
    "prompts": prompts,
    "chat": chat,
    "scores": scores,
}


def _alone(model: str, entities: Sequence[Entity]) -> list[Entity]:
    return [
        msgspec.structs.replace(entity, label=vote.label)
        for entity in entities
        if model in entity.extracted_by
        for vote in entity.votes
        if vote.model == model and vote.label
    ]


def _by(models: Sequence[str], entities: Sequence[Entity]) -> list[Entity]:
    """What these models extracted, with their votes."""
    return [
        msgspec.structs.replace(entity, votes=tuple(vote for vote in entity.votes if vote.model in models))
        for entity in entities
        if set(models) & set(entity.extracted_by)
    ]


def _voted(entities: Sequence[Entity]) -> list[Entity]:
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


def _kept(table: pa.Table) -> list[list[Entity]]:
    return [[entity for entity in row[0] if entity.kept] for row in DECIDED.decode(table)]


def _reliability(scored: Sequence[Sequence[Entity]], gold: Sequence[LabelledText]) -> Reliability:
    pairs = [
        (entity.score, (entity.span.start, entity.span.end, entity.label) in text.typed)
        for entities, text in zip(scored, gold, strict=True)
        for entity in entities
    ]
    return reliability([score for score, _ in pairs], [right for _, right in pairs])


def _print(study: str, rows: Rows) -> None:
    table = Table(
        "variant", "P", "R", "F1", "95 % interval", "span P", "span R", "span F1", "type accuracy", title=study
    )
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
