"""What each model of an ensemble costs a sentence: from a finished run, or from the rates of the configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from el4ner_ray.accounting import summaries
from el4ner_ray.config import JobConfig, ModelConfig, restored
from el4ner_ray.engines.serving import CoreShare, core_shares
from el4ner_ray.errors import UsageError
from el4ner_ray.fingerprint import capacity_of, comparable
from el4ner_ray.sink import Place

Costs = Mapping[str, float]
"""Seconds that one replica of each model, or one core, works on a sentence."""

# Tokens and candidates of a sentence without a measured run: those of qwen2.5-coder-0.5b on examples/corpus.jsonl.
_LISTING, _LISTED = 37, 38
_SENTENCE, _DEMONSTRATION, _ANSWER = 22, 60, 10
_CANDIDATES, _TYPING, _VERIFYING = 2.9, 27, 36


@dataclass(frozen=True)
class Measured:
    """What a finished run tells: costs, how long it took to start, and how many sentences a document had.

    `startup_seconds` is until the first document could be annotated, the mean of its sessions. `sentences_per_document`
    is None where documents were annotated again (`el4ner retry`): their sentences count each time. `notes` tell what
    costs hold that is not the models' own.
    """

    costs: dict[str, float]
    startup_seconds: float
    sentences_per_document: float | None
    notes: tuple[str, ...] = ()


def measured(run: Mapping[str, Any], directory: str) -> Measured:
    """Costs from the run.json of a finished run in `directory`. Raises UsageError.

    A model's is how long its engines had any request, over all replicas: the time that requests spent there is mostly
    waiting at whichever is the bottleneck. They are scaled so that the run's own layout has the run's own speed: what
    is not the engines' (waiting at the beginning and the end, stages, Ray) is part of them.
    """
    where = f"--run {directory}"
    if run["status"] != "finished" or not run["sentences"] or not run["sessions"]:
        raise UsageError(f"{where}: nothing was annotated to the end; give the output of a finished run")
    timed = sum(session["sentences"] for session in run["sessions"])
    if timed < run["sentences"] / 2:
        raise UsageError(
            f"{where}: {timed} of its {run['sentences']} sentences were timed, the others by a session that was "
            "killed; give a run that was not"
        )
    config, cores = _as_it_ran(run, where)
    if ranges := [model.name for model in config.models if model.replica_range.min < model.replica_range.max]:
        raise UsageError(
            f"{where}: nobody knows how long each of the replicas of {', '.join(ranges)} was there; give a run with a "
            "number as models[].replicas, not a range"
        )
    if config.engine == "fake":
        raise UsageError(f"{where}: its engines were scripted; give a run with real models")
    if not all("busy_seconds" in usage for stage in run["stages"].values() for usage in stage.values()):
        raise UsageError(f"{where}: run.json does not say how long engines were busy; annotate anew with this version")
    spent = {name: _busy_seconds(run, name) for name in config.model_names}
    if not all(spent.values()):
        idle = ", ".join(name for name, seconds in spent.items() if not seconds)
        raise UsageError(f"{where}: its engines took no time ({idle}); give a run with real models")
    if on_cores(config):
        if cores is None:
            raise UsageError(f"{where}: run.json does not say on how many cores; annotate anew with this version")
        shares = core_shares(config.models, cores)
        spent = {name: seconds * shares[name].threads for name, seconds in spent.items()}
        longest = sentence_seconds(spent, shares)
    else:
        longest = max(spent[model.name] / model.replica_range.max for model in config.models)
    scale = 1 / (run["sentences_per_second"] * longest)
    return Measured(
        {name: seconds * scale for name, seconds in spent.items()},
        run["startup_seconds"] / len(run["sessions"]),
        None if _was_retried(run, Place(directory)) else run["sentences"] / run["documents"]["total"],
        _notes(config, cores),
    )


def _as_it_ran(run: Mapping[str, Any], where: str) -> tuple[JobConfig, int | None]:
    """The configuration, with the replicas and the engines' capacity, and the cores of the sessions that annotated.

    Raises UsageError where these differ: run.json does not tell which of them the engines' seconds are from.
    """
    models = run["config"]["models"]
    own: dict[str, Any] = {
        "replicas": {model["name"]: model["replicas"] for model in models},
        "capacity": {model["name"]: capacity_of(model) for model in models},
    }
    if on_cores(restored(run["config"])):
        own["cores"] = run.get("cores")
    # Earlier versions wrote none of these into sessions.
    first, *others = [own | {key: s[key] for key in own.keys() & s.keys()} for s in run["sessions"] if s["sentences"]]
    if differing := [key for key in own if any(other[key] != first[key] for other in others)]:
        raise UsageError(
            f"{where}: its sessions had different {' and '.join(differing)}, and nobody knows how long engines worked "
            "in each; give a run of one session, or of sessions that had the same"
        )
    of_sessions = [
        model | {"replicas": first["replicas"][name], "engine": model["engine"] | first["capacity"][name]}
        for name, model in ((model["name"], model) for model in comparable(run["config"])["models"])
    ]
    return restored(run["config"] | {"models": of_sessions}), first.get("cores")


def _was_retried(run: Mapping[str, Any], place: Place) -> bool:
    """Whether documents of the run in `place` were annotated again; run.json tells only of several sessions."""
    return len(run["sessions"]) > 1 and any(summary.retry for summary in summaries(place))


def _busy_seconds(run: Mapping[str, Any], model: str) -> float:
    return math.fsum(stage[model]["busy_seconds"] for stage in run["stages"].values() if model in stage)


def _notes(config: JobConfig, cores: int | None) -> tuple[str, ...]:
    # Models in turns have the whole card while they are busy.
    on_a_card = any(0 < model.gpus_of_replica < 1 and not model.takes_turns for model in config.models)
    if on_a_card or (cores is not None and any(share.roams for share in core_shares(config.models, cores).values())):
        where = "card" if on_a_card else "core"
        return (
            f"models that shared a {where} in the measured run were busy for longer while the others of that {where} "
            "worked: how they compare is a guess",
        )
    return ()


def stated(config: JobConfig) -> Costs:
    """Costs from the `rates` of the configuration and the tokens of a usual sentence. Raises UsageError."""
    return {model.name: _stated_cost(config, model) for model in config.models}


def _stated_cost(config: JobConfig, model: ModelConfig) -> float:
    if model.rates is None:
        raise UsageError(
            f"models.{model.name}.rates: not given, and no measured run either; annotate some documents and give "
            "their output as --run DIR, or state the rates in --config"
        )
    verified = _CANDIDATES if config.method == "paper" and model.name == config.verifier else 0.0
    # Between turns an engine forgets the prefix that the stages share, and computes it again for each.
    asking = (2 + (verified > 0)) if model.takes_turns else 1
    prompt: float = _LISTING + asking * (_SENTENCE + config.demonstrations.k * _DEMONSTRATION)
    prompt += _CANDIDATES * _TYPING + verified * _VERIFYING
    generated = min(_LISTED, config.limits.zero_shot_tokens) + _ANSWER + _CANDIDATES + verified
    return prompt / model.rates.prompt + generated / model.rates.generated


def on_cores(config: JobConfig) -> bool:
    """Whether the ensemble computes on cores, not on GPUs. Raises UsageError for one that does both."""
    kinds = {model.gpus_of_replica == 0 for model in config.models}
    if len(kinds) == 2:
        raise UsageError("models: some with gpus: 0 beside others on GPUs cannot be planned; plan them apart")
    return kinds == {True}


def sentence_seconds(costs: Costs, shares: Mapping[str, CoreShare]) -> float:
    """How long a sentence takes: the core with the most work, or one model's threads, if these take longer."""
    return max(*core_seconds(costs, shares).values(), *(costs[name] / share.threads for name, share in shares.items()))


def core_seconds(costs: Costs, shares: Mapping[str, CoreShare]) -> dict[int, float]:
    """How long each core works on a sentence."""
    by_core: dict[int, float] = {}
    for name, share in shares.items():
        for core in share.cores:
            by_core[core] = by_core.get(core, 0.0) + costs[name] / len(share.cores)
    return by_core
