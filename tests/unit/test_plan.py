"""`el4ner plan`: replicas by cost, what fits the GPUs, and a measured run's own layout has its own speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray import cli
from el4ner_ray.config import JobConfig, ReplicaRange, load
from el4ner_ray.costs import _DEMONSTRATION, _SENTENCE, measured, stated
from el4ner_ray.errors import UsageError
from el4ner_ray.placement import cards_needed, start_order
from el4ner_ray.plan import bill, plan_cores, plan_gpus, planned_fields
from el4ner_ray.schema import ANNOTATION_SCHEMA
from el4ner_ray.sink import FileSummary, Place, commit

PAPER = load(profile="paper")
NAMES = PAPER.model_names


def ensemble(*gpus: float, **engines: dict[str, Any]) -> JobConfig:
    """Models a, b, c, … that take these shares of GPUs; `engines` has engine arguments by name."""
    names = "abcdef"[: len(gpus)]
    models = [
        {"name": name, "source": "x", "gpus": share, "engine": engines.get(name, {})}
        for name, share in zip(names, gpus, strict=True)
    ]
    return JobConfig.model_validate({"profile": "paper", "models": models, "verifier": "a"})


def in_pairs(*gpus: float) -> JobConfig:
    """`ensemble` with two replicas of each model."""
    config = ensemble(*gpus)
    models = tuple(model.model_copy(update={"replicas": 2}) for model in config.models)
    return config.model_copy(update={"models": models})


def finished(config: JobConfig, seconds: dict[str, float], **more: Any) -> dict[str, Any]:
    """run.json of 20 documents with 100 sentences at 0.5 sentences/s."""
    stages = {"extract": {name: {"busy_seconds": value / 2} for name, value in seconds.items()}}
    return {
        "status": "finished",
        "config": config.model_dump(mode="json"),
        "documents": {"total": 20},
        "sentences": 100,
        "sentences_per_second": 0.5,
        "startup_seconds": 60.0,
        "sessions": [{"sentences": 60}, {"sentences": 40}],
        "stages": stages | {"verify": stages["extract"], "retrieve": {"embedder": {"busy_seconds": 0.0}}},
        "cores": 2,
    } | more


@pytest.mark.parametrize(
    ("gpus", "costs", "replicas"),
    [
        (3, (1, 2, 3), (1, 1, 1)),
        (4, (1, 2, 3), (1, 1, 2)),
        (6, (1, 2, 3), (1, 2, 3)),
        (12, (1, 2, 3), (2, 4, 6)),
        (8, (1, 1, 1), (3, 3, 2)),
        (5, (9, 1, 1), (3, 1, 1)),
    ],
)
def test_replicas_are_proportional_to_costs(gpus: int, costs: tuple[float, ...], replicas: tuple[int, ...]) -> None:
    plan = plan_gpus(PAPER, dict(zip(NAMES, costs, strict=True)), gpus)
    assert tuple(model.replicas for model in plan.models) == replicas
    slowest = max(cost / number for cost, number in zip(costs, replicas, strict=True))
    assert plan.sentences_per_second == pytest.approx(1 / slowest)
    assert max(model.busy for model in plan.models) == pytest.approx(1)
    assert plan.idle_gpus == 0


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=3), st.integers(3, 14))
def test_no_other_split_of_whole_gpus_is_faster(costs: list[float], gpus: int) -> None:
    plan = plan_gpus(PAPER, dict(zip(NAMES, costs, strict=True)), gpus)
    a, b, c = costs
    best = min(max(a / i, b / j, c / (gpus - i - j)) for i in range(1, gpus - 1) for j in range(1, gpus - i))
    assert 1 / plan.sentences_per_second == pytest.approx(best)


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=3), st.integers(1, 20))
def test_a_further_gpu_never_slows_down(costs: list[float], gpus: int) -> None:
    config, by_name = load(profile="single-gpu"), dict(zip(load(profile="single-gpu").model_names, costs, strict=True))
    fewer, more = (plan_gpus(config, by_name, number) for number in (gpus, gpus + 1))
    assert more.sentences_per_second >= fewer.sentences_per_second * (1 - 1e-9)


def started(config: JobConfig, replicas: dict[str, int], gpus: int) -> list[list[str]]:
    """The models on each card when a run has started these replicas: Ray takes the fullest card that has room."""
    cards: list[list[str]] = [[] for _ in range(gpus)]
    sizes = {model.name: model.gpus for model in config.models}
    for model in (model for group in start_order(config.models) for model in group):
        for _ in range(replicas[model.name]):
            loads = [sum(sizes[name] for name in card) for card in cards]
            card = max((n for n in range(gpus) if loads[n] + model.gpus < 1 + 1e-6), key=loads.__getitem__)
            cards[card].append(model.name)
    return cards


@pytest.mark.parametrize("config", [load(profile="single-gpu"), ensemble(0.4, 0.6), ensemble(0.25, 1, 0.7)])
@pytest.mark.parametrize("gpus", [2, 4, 8])
@pytest.mark.parametrize("costs", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 2.0, 9.0)])
def test_a_run_can_start_what_is_planned_and_no_model_beside_itself(
    config: JobConfig, gpus: int, costs: tuple[float, ...]
) -> None:
    plan = plan_gpus(config, dict(zip(config.model_names, costs, strict=False)), gpus)
    cards = started(config, {model.model: model.replicas for model in plan.models}, gpus)
    assert all(len(card) == len(set(card)) for card in cards)
    assert plan.idle_gpus == cards.count([])


def test_shares_of_a_card_fill_it_and_no_more() -> None:
    config = load(profile="single-gpu")
    costs = dict.fromkeys(config.model_names, 1.0)
    one, two = (plan_gpus(config, costs, gpus) for gpus in (1, 2))
    assert [model.replicas for model in one.models] == [1, 1, 1]
    # Ray would put a second one beside the first, where both would load at once.
    assert [model.replicas for model in two.models] == [1, 1, 1]
    assert (one.idle_gpus, two.idle_gpus) == (0, 1)
    assert [note for note in two.notes if note not in one.notes] == [
        "one more replica of qwen2.5-3b would load beside another on its card, where vLLM cannot measure its memory; "
        "with `gpus: 1` for each model, the GPUs left over have work"
    ]
    # 0.6 and 0.6 take two cards, and a third 0.6 fits on neither.
    pair = plan_gpus(ensemble(0.6, 0.6), {"a": 1.0, "b": 1.0}, 2)
    assert [model.replicas for model in pair.models] == [1, 1]
    # Shares above a half lie on cards of their own, with room for a small one beside each.
    filled = plan_gpus(ensemble(0.4, 0.6), {"a": 1.0, "b": 1.0}, 3)
    assert [model.replicas for model in filled.models] == [3, 3]
    assert filled.idle_gpus == 0


@pytest.mark.parametrize(
    ("config", "cards"),
    [
        (load(profile="paper"), 3),
        (load(profile="single-gpu"), 1),
        (load(profile="tiny-cpu"), 0),
        (ensemble(0.6, 0.6, 0.6), 3),  # 1.8 cards in sum
        (ensemble(0.4, 0.6, 1), 2),
        (in_pairs(0.34, 0.33), 2),
        (in_pairs(0.5), 1),  # side by side, as Ray places them
        (in_pairs(1, 0.6), 4),
    ],
)
def test_cards_that_an_ensemble_needs(config: JobConfig, cards: int) -> None:
    assert cards_needed(config) == cards


def test_large_shares_start_first() -> None:
    models = ensemble(0.3, 0.6, 1, 0.7, 0.4).models
    assert [[model.name for model in group] for group in start_order(models)] == [["c"], ["d"], ["b"], ["e"], ["a"]]
    assert plan_gpus(ensemble(0.3, 0.6, 0.7, 0.4), dict.fromkeys("abcd", 1.0), 2).idle_gpus == 0


def test_a_parallel_replica_takes_whole_cards() -> None:
    config = ensemble(1, 0.5, b={}, a={"tensor_parallel_size": 2, "pipeline_parallel_size": 2})
    plan = plan_gpus(config, {"a": 10.0, "b": 1.0}, 8)
    assert [(model.replicas, model.gpus) for model in plan.models] == [(1, 4.0), (1, 0.5)]
    assert plan.idle_gpus == 3
    assert any("one node" in note for note in plan.notes)
    assert [model.replicas for model in plan_gpus(config, {"a": 10.0, "b": 1.0}, 9).models] == [2, 1]


@pytest.mark.parametrize(
    ("config", "gpus"),
    [
        (ensemble(1, 1, 1), 2),
        (ensemble(0.6, 0.6), 1),
        (ensemble(1, 0.5, a={"tensor_parallel_size": 2}), 2),
        (load(profile="paper"), 1),
    ],
)
def test_an_ensemble_that_does_not_fit_is_refused(config: JobConfig, gpus: int) -> None:
    with pytest.raises(UsageError, match=rf"--gpus {gpus}: the ensemble does not fit.*{config.model_names[0]}"):
        plan_gpus(config, dict.fromkeys(config.model_names, 1.0), gpus)


def test_few_batches_in_flight_are_told() -> None:
    assert plan_gpus(PAPER, dict.fromkeys(NAMES, 1.0), 3).notes == ()
    (note,) = plan_gpus(PAPER, dict.fromkeys(NAMES, 1.0), 30).notes
    assert note.startswith("limits.batches_in_flight: 16")


def test_retrieval_is_sized_for_the_engines() -> None:
    fast = plan_gpus(PAPER, dict.fromkeys(NAMES, 0.004), 3)
    assert fast.sentences_per_second == pytest.approx(250)
    (note,) = fast.notes
    assert note == "limits.retrievers: 1 is too few for that speed where most names are new; 3 or more do"
    assert planned_fields(PAPER, fast)["limits"] == {"batches_in_flight": 16, "retrievers": 3}


@pytest.mark.parametrize("profile", ["paper", "single-gpu"])
@pytest.mark.parametrize("seconds", [(30.0, 60.0, 90.0), (5.0, 5.0, 5.0)])
def test_the_layout_of_a_measured_run_has_its_speed(profile: str, seconds: tuple[float, ...]) -> None:
    config = load(profile=profile)
    run = finished(config, dict(zip(config.model_names, seconds, strict=True)))
    known = measured(run, "out")
    gpus = 3 if profile == "paper" else 1
    assert plan_gpus(config, known.costs, gpus).sentences_per_second == pytest.approx(0.5)
    assert (known.startup_seconds, known.sentences_per_document) == (30.0, 5.0)


def test_replicas_of_the_measured_run_count() -> None:
    models = [model.model_copy(update={"replicas": 1 + (model.name == "phi-4")}) for model in PAPER.models]
    run = finished(PAPER.model_copy(update={"models": tuple(models)}), dict(zip(NAMES, (30, 60, 30), strict=True)))
    plan = plan_gpus(PAPER, measured(run, "out").costs, 4)
    assert [model.replicas for model in plan.models] == [1, 2, 1]
    assert plan.sentences_per_second == pytest.approx(0.5)


def ranged(least: int, most: int) -> JobConfig:
    """The paper's ensemble with this range of replicas of phi-4."""
    some = ReplicaRange(min=least, max=most)
    models = [model.model_copy(update={"replicas": some} if model.name == "phi-4" else {}) for model in PAPER.models]
    return PAPER.model_copy(update={"models": tuple(models)})


def test_a_range_of_replicas_ends_where_the_plan_does() -> None:
    plan = plan_gpus(PAPER, dict(zip(NAMES, (1.0, 3.0, 1.0), strict=True)), 5)
    for least, expected in ((2, {"min": 2, "max": 3}), (4, {"min": 3, "max": 3})):
        fields = planned_fields(ranged(least, 8), plan)
        assert [model["replicas"] for model in fields["models"]] == [1, expected, 1]


def test_a_run_whose_replicas_came_and_went_is_no_measure() -> None:
    seconds = dict(zip(NAMES, (30, 60, 30), strict=True))
    with pytest.raises(UsageError, match="replicas of phi-4 was there"):
        measured(finished(ranged(1, 2), seconds), "out")
    assert measured(finished(ranged(1, 1), seconds), "out") == measured(finished(PAPER, seconds), "out")


def session(sentences: int, replicas: int, cores: int = 2) -> dict[str, Any]:
    """One of a run with so many replicas of each of the paper's models."""
    return {"sentences": sentences, "replicas": dict.fromkeys(NAMES, replicas), "cores": cores}


def test_a_run_whose_sessions_had_different_replicas_or_cores_is_no_measure() -> None:
    seconds = dict.fromkeys(NAMES, 30.0)
    differing = finished(PAPER, seconds, sessions=[session(60, 2), session(40, 1)])
    with pytest.raises(UsageError, match=r"--run out: its sessions had different replicas, .* give a run"):
        measured(differing, "out")
    cpu = load(profile="tiny-cpu")
    resumed = [{"sentences": 60, "cores": 8}, {"sentences": 40, "cores": 2}]
    with pytest.raises(UsageError, match="different cores"):
        measured(finished(cpu, dict.fromkeys(cpu.model_names, 30.0), sessions=resumed), "out")


def test_a_run_whose_sessions_had_engines_of_another_size_is_no_measure() -> None:
    seconds = dict.fromkeys(NAMES, 30.0)
    none = {name: dict[str, Any]() for name in NAMES}
    wide = none | {NAMES[0]: {"tensor_parallel_size": 2}}
    first, second = ({"sentences": 50, "capacity": capacity} for capacity in (wide, none))
    with pytest.raises(UsageError, match="its sessions had different capacity"):
        measured(finished(PAPER, seconds, sessions=[first, second]), "out")
    known = measured(finished(PAPER, seconds, sessions=[first]), "out")
    assert known.costs == measured(finished(PAPER, seconds), "out").costs


def test_what_a_run_is_measured_by_is_what_its_annotating_sessions_had() -> None:
    seconds = dict.fromkeys(NAMES, 30.0)
    # The last one found nothing left, and engines on cards do not care on how many cores the run was started.
    run = finished(PAPER, seconds, sessions=[session(60, 2), session(40, 2, cores=8), session(0, 1)])
    plan = plan_gpus(PAPER, measured(run, "out").costs, 6)
    assert plan.sentences_per_second == pytest.approx(0.5)


@pytest.mark.parametrize(("sessions", "retry", "sentences"), [(1, 0, 5.0), (2, 0, 5.0), (2, 2, None)])
def test_a_retried_run_does_not_tell_how_long_documents_are(
    tmp_path: Path, sessions: int, retry: int, sentences: float | None
) -> None:
    rows = pa.Table.from_pylist([], ANNOTATION_SCHEMA)
    for number in (0, retry):
        commit(Place(str(tmp_path)), f"{number}.parquet", rows, FileSummary(sentences=50, retry=number), [])
    run = finished(PAPER, dict.fromkeys(NAMES, 30.0), sessions=[{"sentences": 50}] * sessions)
    known = measured(run, str(tmp_path))
    assert known.sentences_per_document == sentences
    assert known.costs == measured(run, "out").costs


def test_a_retried_run_is_planned_with_the_length_of_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pa.Table.from_pylist([], ANNOTATION_SCHEMA)
    commit(Place(str(tmp_path)), "0.parquet", rows, FileSummary(sentences=100, retry=2), [])
    run = write_run(tmp_path, finished(PAPER, dict.fromkeys(NAMES, 30.0)))
    arguments = ("--run", run, "--gpus", 3, "--documents", 10)
    assert call(monkeypatch, *arguments) == 2
    assert "--sentences-per-document: not given, and the run was retried" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--sentences-per-document", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["corpus"]["sentences"] == 40


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 16])
def test_the_cores_of_a_measured_run_have_its_speed(cores: int) -> None:
    config = load(profile="tiny-cpu")
    run = finished(config, dict(zip(config.model_names, (18.0, 22.0, 42.0), strict=True)), cores=cores)
    plan = plan_cores(config, measured(run, "out").costs, cores)
    assert plan.sentences_per_second == pytest.approx(0.5)
    assert max(model.busy for model in plan.models) <= 1 + 1e-9


def test_more_cores_are_faster_and_told_to_be_a_guess() -> None:
    config = load(profile="tiny-cpu")
    costs = dict(zip(config.model_names, (1.0, 2.0, 3.0), strict=True))
    plans = [plan_cores(config, costs, cores) for cores in (1, 2, 3, 6)]
    assert [1 / plan.sentences_per_second for plan in plans] == pytest.approx([6.0, 3.0, 3.0, 1.0])
    assert [model.cores for model in plans[-1].models] == [1, 2, 3]
    # On two, the largest model has a thread on each.
    assert [bool(plan.notes) for plan in plans] == [False, True, False, True]


def test_a_single_thread_bounds_its_model_whatever_the_cores_have_to_do() -> None:
    config = load(profile="tiny-cpu")
    costs = dict(zip(config.model_names, (1.0, 5.0, 1.0), strict=True))
    plan = plan_cores(config, costs, 2)
    assert plan.sentences_per_second == pytest.approx(1 / 5)
    assert plan.bottleneck == "gemma3-270m"
    assert max(model.busy for model in plan.models) == pytest.approx(1)


def test_a_run_that_does_not_tell_busy_time_is_no_measure() -> None:
    run = finished(PAPER, dict.fromkeys(NAMES, 1.0))
    run["stages"]["extract"] = {name: {"seconds": 30.0} for name in NAMES}
    with pytest.raises(UsageError, match=r"^--run out: run\.json does not say how long engines were busy; annotate "):
        measured(run, "out")


@pytest.mark.parametrize("timed", [0, 3])
def test_a_run_of_which_little_was_timed_tells_no_speed(timed: int) -> None:
    run = finished(PAPER, dict.fromkeys(NAMES, 1.0), sessions=[{"sentences": timed}], sentences_per_second=0.0)
    with pytest.raises(UsageError, match=f"{timed} of its 100 sentences were timed"):
        measured(run, "out")


def test_the_bill() -> None:
    plan = plan_gpus(PAPER, dict.fromkeys(NAMES, 0.01), 6)  # 200 sentences/s
    whole = bill(plan, 720_000, 1800.0, 2.5)
    assert (whole.annotation_seconds, whole.hours, whole.gpu_hours, whole.price) == pytest.approx((3600, 1.5, 9, 22.5))
    cpu = load(profile="tiny-cpu")
    on_cores = bill(plan_cores(cpu, dict.fromkeys(cpu.model_names, 1.0), 3), 3600, 0.0, 0.4)
    assert (on_cores.hours, on_cores.gpu_hours, on_cores.price) == pytest.approx((1, 0, 0.4))
    assert bill(plan, 1, 0.0, None).price is None


def test_stated_costs_follow_rates_verifier_and_demonstrations() -> None:
    costs = stated(PAPER)
    glm, phi, qwen = (costs[name] for name in NAMES)
    assert glm < phi < qwen  # by parameters; the last one verifies, too
    few = PAPER.demonstrations.model_copy(update={"k": 1})
    assert all(stated(PAPER.model_copy(update={"demonstrations": few}))[name] < costs[name] for name in NAMES)


def test_the_calibrated_method_verifies_nothing() -> None:
    config = PAPER.model_copy(update={"method": "calibrated"})
    others = [stated(config.model_copy(update={"verifier": name})) for name in NAMES]
    assert others == [stated(config)] * len(NAMES)
    assert stated(config)[PAPER.verifier] < stated(PAPER)[PAPER.verifier]


def test_models_in_turns_compute_their_prefix_in_every_stage() -> None:
    config = load(profile="paper-one-gpu")
    awake = config.model_copy(
        update={"models": tuple(m.model_copy(update={"engine": {}}) for m in config.models), "profile": "paper"}
    )
    prefix = _SENTENCE + config.demonstrations.k * _DEMONSTRATION
    for model in config.models:
        again = 2 if model.name == config.verifier else 1
        assert model.rates
        more = stated(config)[model.name] - stated(awake)[model.name]
        assert more == pytest.approx(again * prefix / model.rates.prompt)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["el4ner", "plan", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def write_run(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "run.json").write_text(json.dumps(content), "utf-8")
    return folder


def test_the_command_plans_prices_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path, finished(PAPER, dict(zip(NAMES, (10, 20, 30), strict=True))))
    file = tmp_path / "new" / "job.yaml"
    arguments = ("--run", run, "--gpus", 6, "--documents", 1000, "--price-per-hour", 2, "-o", file)
    assert call(monkeypatch, *arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [model["replicas"] for model in told["plan"]["models"]] == [1, 2, 3]
    assert told["plan"]["sentences_per_second"] == pytest.approx(1.5)
    assert told["corpus"]["sentences"] == 5000
    assert told["corpus"]["price"] == pytest.approx((5000 / 1.5 + 30) / 3600 * 6 * 2)
    assert call(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in NAMES)
    written = load(file)
    assert [model.replicas for model in written.models] == [1, 2, 3]
    assert [model.engine for model in written.models] == [model.engine for model in PAPER.models]


def test_the_profile_of_the_paper_is_planned_by_its_rates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--gpus", 8, "--profile", "paper", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(model["replicas"] for model in told["plan"]["models"]) == 8
    assert told["corpus"] is None


def test_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = dict.fromkeys(NAMES, 1.0)
    cpu = load(profile="tiny-cpu")
    runs = {
        "running": finished(PAPER, seconds, status="running"),
        "fake": finished(load(profile="fake"), dict.fromkeys(load(profile="fake").model_names, 1e-3)),
        "paper": finished(PAPER, seconds),
        "old": {
            key: value for key, value in finished(cpu, dict.fromkeys(cpu.model_names, 1.0)).items() if key != "cores"
        },
    }
    for name, content in runs.items():
        (tmp_path / name).mkdir()
        write_run(tmp_path / name, content)
    monkeypatch.chdir(tmp_path)
    mixed = yaml.safe_dump({"models": [{"name": "a", "source": "x"}, {"name": "b", "source": "y", "gpus": 0}]})
    (tmp_path / "mixed.yaml").write_text(mixed + "verifier: a\n")
    cases: list[tuple[list[str], list[str]]] = [
        (["--profile", "paper"], ["--gpus"]),
        (["--profile", "paper", "--cores", "4"], ["--cores", "--gpus"]),
        (["--run", "old", "--gpus", "4"], ["--run old", "cores"]),
        (["--profile", "tiny-cpu", "--cores", "4"], ["models.smollm2-135m.rates", "--run"]),
        (["--profile", "paper", "--gpus", "2"], ["--gpus 2", "phi-4 1"]),
        (["--profile", "paper", "--gpus", "3", "--documents", "5"], ["--sentences-per-document", "--run"]),
        (["--run", "none", "--gpus", "3"], ["--run none", "run.json"]),
        (["--run", "running", "--gpus", "3"], ["--run running", "finished"]),
        (["--run", "fake", "--cores", "3"], ["--run fake", "real models"]),
        (["--run", "paper", "--gpus", "3", "--profile", "single-gpu"], ["--run paper", "gemma2-2b"]),
        (["--config", "mixed.yaml", "--profile", "paper", "--gpus", "3", "--run", "paper"], ["models", "gpus: 0"]),
    ]
    for arguments, named in cases:
        assert call(monkeypatch, *arguments) == 2, arguments
        message = capsys.readouterr().err
        assert message.count("\n") == 1, message
        assert all(word in message for word in named), message
