"""Options that commands share: JSON for machines, quiet, verbose, completion; option names in messages."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from typer.core import TyperGroup
from typer.main import get_command

from el4ner_ray import cli, job
from el4ner_ray.engines import bundled
from el4ner_ray.export.registry import FORMATS
from el4ner_ray.schema import Usage
from el4ner_ray.serve import application
from tests.conftest import ROOT, write_jsonl
from tests.unit.test_report import document, run_json, write_run

GROUP = cast(TyperGroup, get_command(cli.app))
RUN: dict[str, Any] = {"documents": {"total": 4, "ok": 3, "partial": 0, "failed": 1}, "stages": {}, "name": "Zürich"}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", ["el4ner", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"el4ner-ray {version('el4ner-ray')}\n"


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """`job.annotate` that says and prints something, as workers on a cluster do, and has finished."""

    def annotate(*_: object, say: job.Say, **__: object) -> dict[str, Any]:
        say("annotating")
        print("a worker's line")
        logging.getLogger("el4ner_ray.job").info("the inside")
        return RUN

    monkeypatch.setattr(job, "annotate", annotate)


ANNOTATE = ("annotate", "in.jsonl", "--pool", "pool.jsonl", "-o", "out", "--profile", "fake")


@pytest.mark.parametrize("more", [(), ("--json", "--quiet")])
def test_a_model_that_named_nothing_of_the_texts_is_told_of_at_the_end(
    more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [document("1", "Ana slept.")]
    out = write_run(tmp_path, rows)
    usage = msgspec.to_builtins(Usage(requests=60, surfaces=60, unaligned=60))
    run = run_json(rows, stages={"extract": {"qwen3": usage}})
    monkeypatch.setattr(job, "annotate", lambda *_, **__: run)
    arguments = ("annotate", "in.jsonl", "--pool", "pool.jsonl", "-o", out, "--profile", "fake", *more)
    assert call(monkeypatch, *arguments) == 0
    assert "el4ner: warning: 60 of the 60 names that qwen3 gave are not in the texts" in capsys.readouterr().err


@pytest.mark.usefixtures("finished")
def test_json_is_all_there_is_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *ANNOTATE, "--json", "--max-failed", "1") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == RUN
    assert "Zürich" in captured.out
    assert captured.err.splitlines() == ["el4ner: annotating", "a worker's line"]


@pytest.mark.parametrize(("allowed", "status"), [("0.29", 0), ("0.28", 1), ("29", 0), ("28", 1)])
@pytest.mark.usefixtures("finished")
def test_a_share_of_failures_is_compared_without_rounding(
    monkeypatch: pytest.MonkeyPatch, allowed: str, status: int
) -> None:
    documents = {"total": 100, "ok": 71, "partial": 9, "failed": 20}
    monkeypatch.setitem(RUN, "documents", documents)
    assert call(monkeypatch, *ANNOTATE, "--json", "--max-failed", allowed) == status


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize(
    ("option", "command"),
    [
        ("--max-failed", ANNOTATE),
        ("--max-failed", ("retry", "out")),
        ("--min-score", ("export", "out", "--format", "jsonl", "-o", "out.jsonl")),
        ("--price-per-hour", ("plan", "--profile", "fake")),
        ("--sentences-per-document", ("plan", "--profile", "fake")),
        ("--seconds", ("serve", "--profile", "fake")),
    ],
)
@pytest.mark.usefixtures("finished")
def test_what_is_no_finite_number_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    command: tuple[str, ...],
    number: str,
) -> None:
    monkeypatch.setattr(application, "run", lambda *_: pytest.fail("served"))
    assert call(monkeypatch, *command, option, number) == 2
    assert option in capsys.readouterr().err


@pytest.mark.usefixtures("finished")
def test_quiet_tells_only_what_went_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, *ANNOTATE, "--json", "--quiet") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a worker's line"
    assert lines[1].startswith("el4ner: 1 of 4 documents failed in whole or part, more than --max-failed 0 allows")
    assert os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] == "1"
    assert call(monkeypatch, "annotate", "in.jsonl", "--pool", "p", "-o", "out", "--profile", "huge", "-q") == 2
    assert "'huge'" in capsys.readouterr().err


@pytest.mark.usefixtures("finished")
def test_verbose_logs_what_happens_inside(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    call(monkeypatch, *ANNOTATE, "--json")
    assert "the inside" not in caplog.text
    call(monkeypatch, *ANNOTATE, "--json", "--verbose")
    assert "the inside" in caplog.text


def test_evaluation_and_models_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", [document("1", "Oslo")])
    gold = write_jsonl(tmp_path / "gold.jsonl", [{"id": "1", "text": "Oslo", "entities": []}])
    assert call(monkeypatch, "evaluate", run, "--gold", gold, "--json") == 0
    printed = capsys.readouterr().out
    assert "ensemble" in json.loads(printed)
    assert call(monkeypatch, "evaluate", run, "--gold", gold, "-o", tmp_path / "f1.json") == 0
    assert "all types" in capsys.readouterr().out
    assert (tmp_path / "f1.json").read_text() == printed.rstrip("\n")
    assert call(monkeypatch, "models", "list", "--json") == 0
    assert [asset["name"] for asset in json.loads(capsys.readouterr().out)] == list(bundled.ASSETS)


def test_reports_and_exports_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, html = write_run(tmp_path / "run", [document("1", "Oslo"), document("2", "Bergen")]), tmp_path / "r.html"
    assert call(monkeypatch, "report", run, "-o", html, "--sample", 1, "--json") == 0
    size = html.stat().st_size
    told = {"documents": 2, "shown": 1, "bound": "documents", "bytes": size, "output": str(html)}
    assert json.loads(capsys.readouterr().out) == told
    assert call(monkeypatch, "export", run, "-o", tmp_path / "e.jsonl", "--format", "jsonl", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"documents": 2, "entities": 0, "notes": [], "output": str(tmp_path / "e.jsonl")}


@pytest.mark.parametrize("name", ["run.json", "annotations/0.parquet"])
def test_a_run_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = write_run(tmp_path / "run", [document("1", "Oslo")])
    gold = write_jsonl(tmp_path / "gold.jsonl", [{"id": "1", "text": "Oslo", "entities": []}])
    (run / name).unlink()
    (run / name).mkdir()
    for command in (
        ("evaluate", run, "--gold", gold),
        ("report", run, "-o", tmp_path / "r.html"),
        ("export", run, "-o", tmp_path / "e.jsonl", "--format", "jsonl"),
    ):
        assert call(monkeypatch, *command) == 2
        told = capsys.readouterr().err
        assert f"{run}/{name}: cannot be read: Is a directory; make it readable" in told
        assert told.count("\n") == 1


def test_paths_are_not_broken_over_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [document("1", "Oslo")]
    run = write_run(tmp_path / ("a" * 70) / ("b" * 70), rows)
    texts = {"1": "Oslo", "2": "Bergen"}
    gold = write_jsonl(tmp_path / "gold.jsonl", [{"id": i, "text": t, "entities": []} for i, t in texts.items()])
    monkeypatch.setattr(job, "annotate", lambda *_, **__: run_json(rows))
    monkeypatch.setattr(job, "build_index", lambda *_, **__: {"sentences": 3})
    for command, told in (
        ((*ANNOTATE[:-3], run, "--profile", "fake"), f"annotations: {run}/annotations/*.parquet"),
        (("index", "pool.jsonl", "-o", run, "--profile", "fake"), f"index of 3 sentences: {run}"),
        (("evaluate", run, "--gold", gold), f"1 gold documents are not in {run}: their entities count as missed"),
        (("report", run, "-o", run / "r.html"), f" MB: {run}/r.html"),
    ):
        assert call(monkeypatch, *command) == 0
        assert f"{told}\n" in capsys.readouterr().out


COMMANDS = {
    " ".join(path): command
    for path, command in [
        *(((name,), command) for name, command in GROUP.commands.items() if name != "models"),
        *((("models", name), command) for name, command in cast(TyperGroup, GROUP.commands["models"]).commands.items()),
    ]
}


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_same_everywhere(name: str) -> None:
    offered = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    wanted = {"--quiet", "-q", "--verbose", "-v", "--json"}
    # A server has no result, and tells little, of which nothing should be missed.
    without = {"serve": {"--json", "--quiet", "-q"}, "models prepare": {"--json"}}
    assert wanted & offered == wanted - without.get(name, set())
    assert ("--output" in offered) == ("-o" in offered)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("el4ner ann", {"annotate"}),
        ("el4ner annotate --profile s", {"single-gpu"}),
        ("el4ner annotate --qu", {"--quiet"}),
        ("el4ner export out --format ", set(FORMATS)),
        ("el4ner models prepare g", {"gemma3-270m"}),
    ],
)
def test_completion_in_bash(words: str, offered: set[str]) -> None:
    environment = os.environ | {
        "_EL4NER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "el4ner_ray"], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert set(done.stdout.split()) == offered


def test_messages_name_the_option_that_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", [document("1", "Oslo")])
    other = write_jsonl(tmp_path / "other.jsonl", [{"id": "2", "text": "Oslo", "entities": []}])
    changed = write_jsonl(tmp_path / "changed.jsonl", [{"id": "1", "text": "Bergen", "entities": []}])
    for gold in (other, changed, tmp_path / "none.jsonl"):
        assert call(monkeypatch, "report", run, "-o", tmp_path / "r.html", "--compare", gold) == 2
        assert capsys.readouterr().err.startswith(f"el4ner: --compare {gold}")
        assert call(monkeypatch, "evaluate", run, "--gold", gold) == 2
        assert capsys.readouterr().err.startswith(f"el4ner: --gold {gold}")
