"""Configuration: what a profile asks Ray and vLLM for, what a wrong field is told, what a fingerprint sees."""

import ast
import copy
import doctest
import os
import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from el4ner_ray import config as config_module
from el4ner_ray import machine
from el4ner_ray.config import PROFILES, JobConfig, ReplicaRange, load
from el4ner_ray.engines import serving
from el4ner_ray.engines.vllm import engine_arguments
from el4ner_ray.errors import UsageError
from el4ner_ray.fingerprint import CAPACITY, fingerprint, fingerprint_fields
from el4ner_ray.job import NO_PROGRESS_SECONDS
from el4ner_ray.placement import start_order
from tests.conftest import ROOT


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid(profile: str) -> None:
    config = load(profile=profile)
    assert config.verifier in config.model_names
    assert len(config.models) == 3


def test_paper_asks_for_a_gpu_a_replica_and_the_papers_models() -> None:
    config = load(profile="paper")
    assert [model.source for model in config.models] == [
        "THUDM/glm-4-9b-chat-hf",
        "microsoft/phi-4",
        "Qwen/Qwen2.5-14B-Instruct",
    ]
    for model in config.models:
        assert serving.deployment_options(config, model, {})["ray_actor_options"]["num_gpus"] == 1
        assert "VLLM_CPU_KVCACHE_SPACE" not in serving.environments(config)[model.name]
        arguments = engine_arguments(model)
        assert arguments["enable_prefix_caching"] is True
        assert arguments["trust_remote_code"] is False
        assert arguments["gpu_memory_utilization"] == 0.9
        assert model.chat_template
    assert config.models[0].stop_token_ids == (151329, 151336, 151338)


def test_single_gpu_shares_one_card_in_compute_and_memory() -> None:
    models = load(profile="single-gpu").models
    assert sum(model.gpus for model in models) <= 1.01
    assert sum(model.engine["gpu_memory_utilization"] for model in models) <= 0.95
    assert all(model.engine["gpu_memory_utilization"] <= model.gpus for model in models)


def test_models_in_turns_share_one_card_and_each_takes_most_of_its_memory() -> None:
    config = load(profile="paper-one-gpu")
    assert sum(model.gpus for model in config.models) <= 1
    for model in config.models:
        assert engine_arguments(model)["enable_sleep_mode"] is True
        assert engine_arguments(model)["gpu_memory_utilization"] == 0.8
        assert serving.deployment_options(config, model, {})["ray_actor_options"]["num_gpus"] == 0.33
    # Each loads in a turn of its own.
    assert [len(group) for group in start_order(config.models)] == [1, 1, 1]


@pytest.mark.parametrize("more", [{"gpus": 1}, {"gpus": 0.5, "engine": {"tensor_parallel_size": 2}}])
def test_no_turns_on_a_card_of_ones_own(more: dict[str, Any]) -> None:
    engine = {"enable_sleep_mode": True} | more.get("engine", {})
    with pytest.raises(UsageError, match=r"enable_sleep_mode: .*fraction"):
        load(
            profile="fake",
            overrides={"models": [{"name": "a", "source": "x"} | more | {"engine": engine}], "verifier": "a"},
        )


@pytest.mark.parametrize(
    ("gpus", "engine", "named"),
    [
        (0, {"tensor_parallel_size": 2}, r"engine\.tensor_parallel_size: .*gpus: 0"),
        (0, {"pipeline_parallel_size": 2}, r"engine\.pipeline_parallel_size: .*gpus: 0"),
        (1, {"tensor_parallel_size": "two"}, "'two'"),
        (1, {"tensor_parallel_size": None}, "None"),
        (1, {"pipeline_parallel_size": 0}, "pipeline_parallel_size: 0"),
        (2, {}, r"models\.0: gpus: an engine uses one card, and 2 .*give 1, or .*engine\.tensor_parallel_size"),
        (1.5, {}, r"gpus: .* and 1\.5 would"),
        (1.5, {"tensor_parallel_size": 2}, r"gpus: .* and 1\.5 would"),
        (1, {"data_parallel_size": 2}, r"engine\.data_parallel_size: .*`replicas`"),
        (1, {"data_parallel_size": None}, r"engine\.data_parallel_size"),
    ],
)
def test_workers_are_counted_and_have_cards(gpus: float, engine: dict[str, Any], named: str) -> None:
    model = {"name": "a", "source": "x", "gpus": gpus, "engine": engine}
    with pytest.raises(UsageError, match=named):
        load(profile="fake", overrides={"models": [model], "verifier": "a"})


@pytest.mark.parametrize(
    ("gpus", "engine"),
    [
        (2, {"tensor_parallel_size": 2}),
        (2, {"pipeline_parallel_size": 2}),
        (1, {"tensor_parallel_size": 4, "data_parallel_size": 1}),
    ],
)
def test_cards_that_an_engine_uses_may_be_asked_for(gpus: float, engine: dict[str, Any]) -> None:
    given = {"name": "a", "source": "x", "gpus": gpus, "engine": engine}
    config = load(profile="fake", overrides={"models": [given], "verifier": "a"})
    assert config.models[0].gpus_of_replica == max(gpus, config.models[0].parallel)


@pytest.mark.parametrize("at_once", ["64", None, 0, 1.5, True])
def test_requests_at_once_are_counted(at_once: Any) -> None:
    # A range of replicas is scaled by them.
    model = {"name": "a", "source": "x", "replicas": {"min": 1, "max": 2}, "engine": {"max_num_seqs": at_once}}
    with pytest.raises(UsageError, match=rf"engine\.max_num_seqs: {at_once!r} is no number"):
        load(profile="fake", overrides={"models": [model], "verifier": "a"})


def test_tensor_parallel_models_get_a_bundle_for_each_gpu() -> None:
    config = load(profile="paper")
    model = config.models[0].model_copy(update={"engine": {"tensor_parallel_size": 4}})
    options = serving.deployment_options(config, model, {})
    assert sum(bundle["GPU"] for bundle in options["placement_group_bundles"]) == 4
    assert options["ray_actor_options"]["num_gpus"] == 0
    assert engine_arguments(model)["distributed_executor_backend"] == "ray"
    assert "distributed_executor_backend" not in engine_arguments(config.models[0])


@pytest.mark.parametrize(
    ("engine", "call_requests", "calls"),
    [({}, 64, 8), ({"max_num_seqs": 128}, 64, 4), ({"max_num_seqs": 8}, 64, 2), ({"max_num_seqs": 1024}, 1, 64)],
)
def test_a_range_of_replicas_follows_the_calls_that_fill_an_engine(
    engine: dict[str, int], call_requests: int, calls: int
) -> None:
    paper = load(profile="paper", overrides={"limits": {"call_requests": call_requests}})
    model = paper.models[0].model_copy(update={"replicas": ReplicaRange(min=2, max=5), "engine": engine})
    scaling = serving.deployment_options(paper, model, {})["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (2, 5, calls)
    assert "autoscaling_config" not in serving.deployment_options(paper, paper.models[0], {})


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 7, 64])
def test_engines_on_cpu_share_the_cores_by_their_share_of_the_work(cores: int) -> None:
    models = load(profile="tiny-cpu").models
    chosen = serving.core_shares(models, cores)
    assert set(chosen) == {model.name for model in models}
    assert {core for share in chosen.values() for core in share.cores} == set(range(cores))
    assert not chosen["qwen2.5-coder-0.5b"].roams
    assert sum(share.roams for share in chosen.values()) == (2 if cores < len(models) else 0)
    if cores >= len(models):
        assert not any(share.roams for share in chosen.values())
        assert sum(share.threads for share in chosen.values()) == cores
        assert chosen["qwen2.5-coder-0.5b"].threads >= chosen["smollm2-135m"].threads


def test_on_two_cores_the_large_model_has_both_and_the_others_what_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    monkeypatch.setattr(machine, "cores", lambda: 2)
    config = load(profile="tiny-cpu")
    assert serving.core_shares(config.models, 2) == {
        "qwen2.5-coder-0.5b": ([0, 1], 2, False),
        "gemma3-270m": ([0, 1], 1, True),
        "smollm2-135m": ([0, 1], 1, True),
    }
    names = ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "EL4NER_NICENESS")
    chosen = {model: tuple(map(set_.get, names)) for model, set_ in serving.environments(config).items()}
    assert chosen == {
        "qwen2.5-coder-0.5b": ("2", "3 5", None),
        "gemma3-270m": ("1", None, "4"),
        "smollm2-135m": ("1", None, "4"),
    }


def test_threads_of_a_container_with_a_part_of_the_time_are_not_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each such container of a machine would bind its own to the first cores.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    config = load(profile="tiny-cpu")
    chosen = [*serving.environments(config).values(), serving.environment_alone(config.models[0])]
    assert not any("GOMP_CPU_AFFINITY" in environment for environment in chosen)
    assert max(int(environment["OMP_NUM_THREADS"]) for environment in chosen) == 2


@pytest.mark.parametrize(
    ("nodes", "cpus", "replicas", "here"),
    [
        (1, 2.0, 1, True),
        (2, 2.0, 1, False),
        (1, 0.5, 1, False),
        (1, 8.0, 2, False),
        (1, 8.0, {"min": 1, "max": 2}, False),
    ],
)
def test_on_a_cluster_threads_are_bound_to_no_cores(
    monkeypatch: pytest.MonkeyPatch, nodes: int, cpus: float, replicas: Any, here: bool
) -> None:
    """All replicas of a model were bound to the same cores, counted on the driver's machine, wherever they were."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env={}))
    there = [{"Alive": True, "Resources": {"CPU": cpus}}] * nodes + [{"Alive": False, "Resources": {}}]
    monkeypatch.setattr(ray, "nodes", lambda: there)
    models = [
        {"name": name, "source": "x", "gpus": 0, "cpus": asked, "core_share": share, "replicas": replicas}
        for name, asked, share in (("small", 0.25, 1), ("large", 1.75 if here else 3.5, 3))
    ]
    config = load(profile="tiny-cpu", overrides={"models": models, "verifier": "small"})
    names = ("OMP_NUM_THREADS", "GOMP_CPU_AFFINITY", "EL4NER_NICENESS")
    chosen = {}
    for model in config.models:
        deployment = serving.engine_deployment(config, model, "")._bound_deployment
        variables = deployment.ray_actor_options["runtime_env"]["env_vars"]
        chosen[model.name] = tuple(map(variables.get, names))
    on_all = {"small": ("1", "1", None), "large": ("1", "0", None)}
    assert chosen == (on_all if here else {"small": ("1", None, None), "large": ("3", None, None)})


@pytest.mark.parametrize(("profile", "seconds"), [("paper", 60), ("fake", 60), ("tiny-cpu", 180)])
def test_an_engine_that_hangs_is_replaced_before_the_run_is_taken_to_stand_still(profile: str, seconds: int) -> None:
    config = load(profile=profile)
    for model in config.models:
        options = serving.deployment_options(config, model, {})
        assert options["health_check_timeout_s"] == seconds
        assert 3 * (seconds + options["health_check_period_s"]) < NO_PROGRESS_SECONDS


@pytest.mark.parametrize("eager", [True, False])
def test_an_eager_engine_on_cpu_compiles_nothing(eager: bool) -> None:
    """The first constrained answer waited for vLLM to compile how it ranks logprobs, whatever `enforce_eager` said."""
    config = load(profile="tiny-cpu")
    models = tuple(m.model_copy(update={"engine": dict(m.engine) | {"enforce_eager": eager}}) for m in config.models)
    for environment in serving.environments(config.model_copy(update={"models": models})).values():
        assert (environment.get("TORCH_COMPILE_DISABLE") == "1") is eager


@pytest.mark.parametrize("profile", ["paper", "tiny-cpu"])
def test_engines_of_every_job_of_a_cluster_have_that_jobs_environment(
    monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    """Serve's controller, which belongs to the first job, gave them its own: `HF_TOKEN` of a second one was lost."""
    of_job = {
        "working_dir": "gcs://_ray_pkg_1.zip",
        "py_modules": ["gcs://_ray_pkg_2.zip"],
        "env_vars": {"HF_TOKEN": "t", "VLLM_LOGGING_LEVEL": "INFO", "VLLM_CPU_ATTN_SPLIT_KV": "1"},
    }
    kept = copy.deepcopy(of_job)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(runtime_env=of_job))
    config = load(profile=profile)
    for model in config.models:
        deployment = serving.engine_deployment(config, model, "")._bound_deployment
        environment = deployment.ray_actor_options["runtime_env"]
        assert environment["working_dir"] == "gcs://_ray_pkg_1.zip"
        assert environment["py_modules"] == ["gcs://_ray_pkg_2.zip"]
        variables = environment["env_vars"]
        assert (variables["HF_TOKEN"], variables["VLLM_LOGGING_LEVEL"]) == ("t", "INFO")
        # What an engine cannot do without stands over the job's own.
        assert variables["VLLM_CPU_ATTN_SPLIT_KV"] == ("0" if profile == "tiny-cpu" else "1")
    assert of_job == kept


def test_vllm_says_as_much_as_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(profile="paper")

    def levels() -> set[str]:
        return {environment["VLLM_LOGGING_LEVEL"] for environment in serving.environments(config).values()}

    monkeypatch.delenv("VLLM_LOGGING_LEVEL", raising=False)
    assert levels() == {"WARNING"}
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    assert levels() == {"INFO"}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such switches")
def test_an_engine_on_cpu_keeps_the_memory_of_a_layer_for_the_next() -> None:
    """A fifth of an engine's time went into pages that the system took back and gave anew, layer by layer."""
    config = load(profile="tiny-cpu")
    [kept] = {environment["GLIBC_TUNABLES"] for environment in serving.environments(config).values()}
    layers = "import resource\nfor _ in range(10): bytearray(80 << 20)\n"
    faults = layers + "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)"
    command = [sys.executable, "-c", faults]
    without, with_it = (
        int(subprocess.run(command, env=tunables, capture_output=True, check=True, timeout=30).stdout)
        for tunables in ({}, {"GLIBC_TUNABLES": kept})
    )
    assert with_it < without / 4


def model(fields: str) -> str:
    """A configuration with one model that has these fields."""
    return f"{{verifier: a, models: [{{name: a, source: x, {fields}}}]}}"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        ("demonstrations: {k: 0}", "demonstrations.k"),
        ("demonstration: {k: 3}", "demonstration: there is no such field"),
        ("verifier: gpt-4", "verifier: 'gpt-4' is not one of the models"),
        ("labels: {}", "the label set is empty"),
        ("labels: {'a|b': ''}", "'a|b'"),
        ("labels: {'': ''}", "labels"),
        ("labels: {'<eos>': ''}", "labels: '<eos>' must be a single line without"),
        (r'labels: {"a\e[31m": ""}', r"labels: 'a\x1b[31m' must be a single line without"),
        ("models: []", "models"),
        ("profile: huge", "there is no 'huge'"),
        ("method: magic", "method"),
        ("- 1", "must hold a mapping"),
        ("a: [", "not YAML"),
        ("limits: {part_characters: -1}", "limits.part_characters"),
        ("demonstrations: {weights: {PROPN: 1}}", "PROPN, NOUN, PRON and other"),
        ("{verifier: union, models: [{name: union, source: x}]}", "the name 'union' is that of all models together"),
        (model("replicas: 0"), "models.0.replicas.number: "),
        (model("replicas: {max: 0}"), "models.0.replicas.range.max: "),
        (model("replicas: {min: 3, max: 2}"), "min is 3, more than max"),
        (model("replicas: {min: 1, max: 2}, gpus: 0.5"), "give a number, or whole cards"),
        # JSON has no such numbers: a run that had written them could not be resumed.
        ("limits: {request_seconds: .inf}", "limits.request_seconds: Input should be a finite number"),
        ("demonstrations: {weights: {PROPN: .inf, NOUN: 1, PRON: 1, other: 0}}", "demonstrations.weights.PROPN: "),
        (model("cpus: .nan"), "models.0.cpus: "),
        (model("engine: {rope: {factor: [.inf]}}"), "models.0.engine: holds .inf or .nan"),
        ("labels:\n  person: a\n  place: b\n  person: c", "job.yaml: line 4: the key 'person' stands in this mapping"),
        (
            "limits: {retries: 1}\nlimits: {retries: 2}",
            "line 2: the key 'limits' stands in this mapping already, in line 1",
        ),
        ("demonstrations: {k: 3, k: 5}", "line 1: the key 'k' stands"),
        (model("engine: {&a k: 3, *a : 5}"), "line 1: the key 'k' stands"),
        ("revision: 2024-13-01", "not YAML: month must be in 1..12"),
        # YAML 1.1 reads words as what they were not meant to be.
        ("language: no", "language: is a boolean, as which YAML reads no, off and false; write it in quotes"),
        ("language: on", "language: is a boolean, as which YAML reads yes, on and true; write it in quotes"),
        ("language:", "language: has no value; give one or leave it out"),
        (model("revision: 1234567"), "models.0.revision: is a number, not a string; write it in quotes"),
        (model("revision: 2024-03-01"), "models.0.revision: is a date, not a string; write it in quotes"),
        ("labels: {person: }", 'labels.person: has no description; write one, or "" for none'),
        ("labels: {person: no}", "labels.person: is a boolean"),
        ("labels: {person: [a]}", "labels.person: Input should be a valid string"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path: Path, text: str, telling: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(written(tmp_path, text))
    assert telling in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_labels_are_the_words_that_stand_there(tmp_path: Path) -> None:
    """To YAML 1.1, some are booleans and numbers."""
    config = load(
        written(tmp_path, 'labels: {no: Norway, on: "", 2024: years, 1.0: versions, null: "", yes: &a b, y: *a}')
    )
    assert config.labels == {
        "no": "Norway",
        "on": "",
        "2024": "years",
        "1.0": "versions",
        "null": "",
        "yes": "b",
        "y": "b",
    }


def test_a_mapping_may_override_what_it_merges(tmp_path: Path) -> None:
    text = """
      verifier: a
      models:
        - &a {name: a, source: x, gpus: 1}
        - &b {<<: *a, name: b, gpus: 0.5}
        - {<<: [*b, *a], name: c}
    """
    assert [(m.name, m.source, m.gpus) for m in load(written(tmp_path, text)).models] == [
        ("a", "x", 1.0), ("b", "x", 0.5), ("c", "x", 0.5)
    ]  # fmt: skip


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml"):
        load(tmp_path / "none.yaml")


def test_the_file_wins_over_the_profile_and_options_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "profile: fake\ndemonstrations: {k: 3, tagger: none}\nlabels: {x: an x}")
    config = load(path, overrides={"demonstrations": {"k": 7}})
    assert (config.engine, config.demonstrations.k, config.demonstrations.tagger) == ("fake", 7, "none")
    assert config.labels == {"x": "an x"}


def test_choosing_models_keeps_the_verifier_where_it_can() -> None:
    assert load(models=("qwen2.5-coder-0.5b",)).verifier == "qwen2.5-coder-0.5b"
    assert load(models=("smollm2-135m", "gemma3-270m")).verifier == "smollm2-135m"
    with pytest.raises(UsageError, match="there is no 'gpt'"):
        load(models=("gpt",))


def test_choosing_models_where_the_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("models:\n")
    with pytest.raises(UsageError, match=r"^--models: there is no 'a' in this configuration; it has none$"):
        load(path, profile="fake", models=("a",))


def test_the_fingerprint_sees_what_decides_annotations_and_nothing_else() -> None:
    def of(config: JobConfig) -> str:
        return fingerprint(fingerprint_fields(config))

    base = load(profile="fake")
    assert of(base) == of(load(profile="fake"))
    assert of(base) == of(load(profile="fake", overrides={"limits": {"batches_in_flight": 2, "retries": 1}}))
    assert of(base) == of(load(profile="fake", overrides={"limits": {"retrievers": 3}}))
    assert of(base) == of(load(profile="fake", overrides={"fake": {"latency_ms": 9, "calls_at_once": 2}}))
    for change in ({"labels": {"x": ""}}, {"demonstrations": {"k": 4}}, {"limits": {"answer_tokens": 50}}):
        assert of(base) != of(load(profile="fake", overrides=change))


def _with_template(**model: Any) -> JobConfig:
    model = {"name": "a", "source": "fake", "gpus": 0, "chat_template": True} | model
    return load(profile="fake", overrides={"models": [model], "verifier": "a"})


def test_what_a_template_is_told_decides_annotations_and_runs_from_before_it_could_be_told_are_resumed() -> None:
    silent = fingerprint_fields(_with_template(), index="1")
    assert "chat_template_kwargs" not in silent["models"][0]
    told = fingerprint_fields(_with_template(chat_template_kwargs={"enable_thinking": False}), index="1")
    assert told["models"][0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (
            {"chat_template_kwargs": {"tokenize": False}},
            "models.0.chat_template_kwargs: 'tokenize' is not for the template, and decided by the engine",
        ),
        (
            {"chat_template_kwargs": {"budget": float("inf")}},
            "models.0.chat_template_kwargs: holds .inf or .nan",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "chat_template": False},
            "models.0: chat_template_kwargs: tells a chat template something, and this model is asked with",
        ),
    ],
)
def test_what_no_template_can_be_told_is_refused(model: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        _with_template(**model)


def test_no_packaged_model_is_asked_otherwise_tomorrow() -> None:
    # Llama 3.2's template writes the date of the day into prompts, unless it is given one.
    llamas = [m for profile in PROFILES for m in load(profile=profile).models if "Llama-3.2" in m.source]
    assert llamas
    assert all(model.chat_template_kwargs == {"date_string": "26 Jul 2024"} for model in llamas)


def with_engine(**engine: Any) -> JobConfig:
    """The paper's ensemble with these engine arguments over those of its first model."""
    paper = load(profile="paper")
    first, *others = paper.models
    changed = first.model_copy(update={"engine": first.engine | engine})
    return paper.model_copy(update={"models": (changed, *others)})


@pytest.mark.parametrize(
    ("argument", "value", "decides"),
    [
        ("max_num_seqs", 128, False),
        ("gpu_memory_utilization", 0.85, False),
        ("tensor_parallel_size", 2, False),
        ("enforce_eager", True, False),
        ("dtype", "float16", True),
        ("quantization", "fp8", True),
        ("max_model_len", 4096, True),
        ("kv_cache_dtype", "fp8", True),
        ("block_size", 32, True),
    ],
)
def test_how_much_an_engine_holds_decides_no_annotation(argument: str, value: object, decides: bool) -> None:
    # Once a run that was out of memory could only go on with the arguments for which it was.
    before, now = fingerprint_fields(with_engine()), fingerprint_fields(with_engine(**{argument: value}))
    assert (fingerprint(before) != fingerprint(now)) is decides


def test_arguments_that_decide_nothing_are_arguments_of_vllm() -> None:
    vllm = find_spec("vllm")
    if vllm is None or vllm.origin is None:
        pytest.skip("vLLM is not installed")
    # Read, not imported, which takes 10 s.
    tree = ast.parse((Path(vllm.origin).parent / "engine" / "arg_utils.py").read_text("utf-8"))
    [arguments] = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "EngineArgs")
    named = {field.target.id for field in arguments.body if isinstance(field, ast.AnnAssign)}  # type: ignore[union-attr]
    assert named >= CAPACITY
    told = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert not [name for name in CAPACITY if f"`{name}`" not in told]


def test_engines_of_ended_jobs_are_told_from_all_others() -> None:
    ended, running = "05000000", "06000000"
    names = [
        f"el4ner-{ended}-phi-4",
        f"el4ner-{running}-phi-4",
        f"el4ner-{ended}-_api",
        "el4ner-service-phi-4",
        "other",
    ]
    assert serving.left_behind(names, {ended, "01000000"}) == [names[0], names[2]]
    assert serving.left_behind(names, set()) == []


def test_the_example_of_the_configuration() -> None:
    failed, tried = doctest.testmod(config_module)
    assert (failed, tried > 0) == (0, True)
