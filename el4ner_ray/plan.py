"""How many replicas of each model, how fast, how long and for how much: `el4ner plan`, before anything is started.

Sentences come as fast as the bottleneck lets them, one in `max_m cost(m) / replicas(m)` seconds, where the cost of a
model is in seconds of a replica, or of a core; see costs.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from el4ner_ray.config import JobConfig, ModelConfig, ReplicaRange, restored
from el4ner_ray.costs import Costs, Measured, core_seconds, measured, on_cores, sentence_seconds, stated
from el4ner_ray.engines.serving import core_shares
from el4ner_ray.errors import UsageError
from el4ner_ray.output import read_run
from el4ner_ray.placement import rooms
from el4ner_ray.results import RUN_FILE
from el4ner_ray.sink import Place

# Stages hold so many batches for each replica: one that it works on, one that waits.
_BATCHES_A_REPLICA = 2

# What one actor of stage `retrieve` tags and embeds in a second where every name is new: 8.2 ms of a core a sentence
# with two names (`bench --only stages`).
_SENTENCES_A_RETRIEVER = 120


@dataclass(frozen=True)
class Replicas:
    """The replicas of one model. `gpus` are those of one replica; `cores` those that it computes on, without a GPU.

    `busy` is the share of the time in [0, 1] that its replicas work when the bottleneck always does.
    """

    model: str
    replicas: int
    gpus: float
    cores: int
    cost_seconds: float
    busy: float


@dataclass(frozen=True)
class Plan:
    """A layout and its speed. `idle_gpus` hold no replica: none of the bottleneck fits there."""

    models: tuple[Replicas, ...]
    gpus: int
    idle_gpus: int
    bottleneck: str
    sentences_per_second: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Bill:
    """What a corpus takes: annotation, what comes before it (`costs.Measured`), and both together in hours."""

    sentences: int
    startup_seconds: float
    annotation_seconds: float
    hours: float
    gpu_hours: float
    price: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """What is asked: the machine, and the corpus, both as the options of `el4ner plan`."""

    gpus: int | None = None
    cores: int | None = None
    documents: int | None = None
    sentences_per_document: float | None = None
    price_per_hour: float | None = None


def planned(wanted: Wanted, config: JobConfig, run: str | None) -> tuple[Plan, Bill | None]:
    """The plan, and what the corpus takes where one is named; at the speed of the finished run in `run`, if given.

    Raises UsageError, naming the option and the mend.
    """
    without_gpus = on_cores(config)
    known = measured(_run_of(run), run) if run else None
    costs = _costs_of(config, known, run)
    if without_gpus:
        plan = plan_cores(config, costs, _number("cores", wanted.cores, "gpus", wanted.gpus))
    else:
        plan = plan_gpus(config, costs, _number("gpus", wanted.gpus, "cores", wanted.cores))
    if known:
        plan = replace(plan, notes=(*plan.notes, *known.notes))
    return plan, _bill_of(wanted, plan, known)


def config_of(run: str) -> JobConfig:
    """The configuration of the run in an output folder. Raises UsageError."""
    return restored(_run_of(run)["config"])


def _run_of(directory: str) -> Mapping[str, Any]:
    run = read_run(Place(directory))
    if run is None:
        raise UsageError(f"--run {directory}: no {RUN_FILE} in it; give the folder that `el4ner annotate` wrote")
    return run


def _costs_of(config: JobConfig, known: Measured | None, run: str | None) -> Costs:
    if known is None:
        return stated(config)
    if missing := set(config.model_names) - known.costs.keys():
        raise UsageError(f"--run {run}: did not measure {', '.join(sorted(missing))}; give a run with these models")
    return {name: known.costs[name] for name in config.model_names}


def _number(name: str, value: int | None, other: str, excluded: int | None) -> int:
    if value is None or excluded is not None:
        kind = "GPUs" if name == "gpus" else "cores of one machine"
        raise UsageError(f"--{other if excluded else name}: these models run on {kind}; give --{name}, not --{other}")
    return value


def _bill_of(wanted: Wanted, plan: Plan, known: Measured | None) -> Bill | None:
    if wanted.documents is None:
        return None
    a_document = wanted.sentences_per_document or (known and known.sentences_per_document)
    if not a_document:
        why = "the run was retried, which counts some documents twice" if known else "no --run that tells it"
        raise UsageError(f"--sentences-per-document: not given, and {why}; give {'it' if known else 'one of them'}")
    startup = known.startup_seconds if known else 0.0
    return bill(plan, round(wanted.documents * a_document), startup, wanted.price_per_hour)


def plan_gpus(config: JobConfig, costs: Costs, gpus: int) -> Plan:
    """One replica of each model, then always one more of the bottleneck, while a run can place all. Raises UsageError.

    A replica on several cards takes whole ones; shares are placed as `placement.rooms` says.
    """
    replicas = {model.name: 1 for model in config.models}
    sizes = {model.name: model.gpus_of_replica for model in config.models}
    free = rooms(config.models, replicas, gpus)
    if free is None:
        raise UsageError(f"--gpus {gpus}: {_needs(config.models)}; take more GPUs, or smaller or fewer models")
    bottleneck = _slowest(costs, replicas)
    while more := rooms(config.models, replicas | {bottleneck: replicas[bottleneck] + 1}, gpus):
        free = more
        replicas[bottleneck] += 1
        bottleneck = _slowest(costs, replicas)
    seconds = costs[bottleneck] / replicas[bottleneck]
    models = tuple(
        Replicas(name, replicas[name], sizes[name], 0, costs[name], costs[name] / replicas[name] / seconds)
        for name in config.model_names
    )
    notes = _gpu_notes(config, models, 1 / seconds)
    idle = free.count(1.0)
    if idle and sizes[bottleneck] < 1:
        notes.append(
            f"one more replica of {bottleneck} would load beside another on its card, where vLLM cannot measure its "
            "memory; with `gpus: 1` for each model, the GPUs left over have work"
        )
    return Plan(models, gpus, idle, bottleneck, 1 / seconds, tuple(notes))


def plan_cores(config: JobConfig, costs: Costs, cores: int) -> Plan:
    """One replica of each model on cores of one machine, as `engines.serving.core_shares` lays them out."""
    shares = core_shares(config.models, cores)
    by_core, seconds = core_seconds(costs, shares), sentence_seconds(costs, shares)
    slowest_core = max(by_core, key=lambda core: by_core[core])
    bottleneck = max(
        (name for name, share in shares.items() if slowest_core in share.cores),
        key=lambda name: costs[name] / shares[name].threads,
    )
    models = tuple(
        Replicas(name, 1, 0.0, shares[name].threads, costs[name], costs[name] / shares[name].threads / seconds)
        for name in config.model_names
    )
    guess = "a model on several cores is taken to be as many times as fast"
    notes = (guess,) if any(model.cores > 1 for model in models) else ()
    return Plan(models, 0, 0, bottleneck, 1 / seconds, notes)


def bill(plan: Plan, sentences: int, startup_seconds: float, price_per_hour: float | None) -> Bill:
    """What `sentences` take. The price is that of a GPU and hour; without GPUs, of the machine and hour."""
    annotation = sentences / plan.sentences_per_second
    hours = (startup_seconds + annotation) / 3600
    price = None if price_per_hour is None else hours * (plan.gpus or 1) * price_per_hour
    return Bill(sentences, startup_seconds, annotation, hours, hours * plan.gpus, price)


def planned_fields(config: JobConfig, plan: Plan) -> dict[str, Any]:
    """The fields of a YAML file with which `annotate` runs as planned; what is planned ends a range of replicas."""
    planned = {model.model: model.replicas for model in plan.models}
    in_flight = max(config.limits.batches_in_flight, _BATCHES_A_REPLICA * max(planned.values()))
    retrievers = max(config.limits.retrievers, _retrievers(plan.sentences_per_second))
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in config.models]
    replicas = {
        model.name: {"min": min(model.replicas.min, planned[model.name]), "max": planned[model.name]}
        if isinstance(model.replicas, ReplicaRange)
        else planned[model.name]
        for model in config.models
    }
    return {
        "profile": config.profile,
        "models": [fields | {"replicas": replicas[fields["name"]]} for fields in models],
        "verifier": config.verifier,
        "limits": {"batches_in_flight": in_flight, "retrievers": retrievers},
    }


def _retrievers(sentences_per_second: float) -> int:
    return math.ceil(sentences_per_second / _SENTENCES_A_RETRIEVER)


def _slowest(costs: Costs, replicas: Mapping[str, int]) -> str:
    return max(replicas, key=lambda name: costs[name] / replicas[name])


def _needs(models: tuple[ModelConfig, ...]) -> str:
    each = ", ".join(f"{model.name} {model.gpus_of_replica:g}" for model in models)
    return f"the ensemble does not fit; one replica of each model takes {each}"


def _gpu_notes(config: JobConfig, models: tuple[Replicas, ...], sentences_per_second: float) -> list[str]:
    notes = []
    if any(0 < model.gpus < 1 for model in models):
        notes.append("a replica on a share of a card is taken to have that share's speed, whatever else runs there")
    if wide := [model.model for model in models if model.gpus > 1]:
        notes.append(f"the GPUs of a replica of {', '.join(wide)} should be on one node")
    most = max(model.replicas for model in models)
    if config.limits.batches_in_flight < _BATCHES_A_REPLICA * most:
        notes.append(
            f"limits.batches_in_flight: {config.limits.batches_in_flight} would leave some of {most} replicas without "
            f"work; {_BATCHES_A_REPLICA * most} or more do not"
        )
    if config.limits.retrievers < (needed := _retrievers(sentences_per_second)):
        notes.append(
            f"limits.retrievers: {config.limits.retrievers} is too few for that speed where most names are new; "
            f"{needed} or more do"
        )
    return notes


def plan_tables(plan: Plan, corpus: Bill | None) -> Iterator[Table]:
    """The replicas, and what the corpus takes."""
    models = Table(title="replicas")
    models.add_column("model", no_wrap=True)
    for column in ("replicas", "GPUs each" if plan.gpus else "cores", "seconds a sentence", "busy"):
        models.add_column(column, justify="right")
    for model in plan.models:
        where = f"{model.gpus:g}" if plan.gpus else str(model.cores)
        models.add_row(model.model, str(model.replicas), where, f"{model.cost_seconds:.3g}", f"{model.busy:.0%}")
    yield models
    totals = Table("", "", title="speed and price", show_header=False)
    totals.add_row("sentences/s", f"{plan.sentences_per_second:.3g}, as fast as {plan.bottleneck}")
    if plan.idle_gpus:
        totals.add_row("GPUs left over", str(plan.idle_gpus))
    if corpus is not None:
        totals.add_row("sentences", f"{corpus.sentences:,}")
        start = f"{corpus.startup_seconds:.0f} s of them until annotation begins"
        totals.add_row("hours", f"{corpus.hours:,.2f}, {start if corpus.startup_seconds else 'without start-up'}")
        if plan.gpus:
            totals.add_row("GPU hours", f"{corpus.gpu_hours:,.1f}")
        if corpus.price is not None:
            totals.add_row("price", f"{corpus.price:,.2f}")
    yield totals
