"""The examples of docs/queries.md and docs/export.md, run as they stand there on a small run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from el4ner_ray.cli import main
from el4ner_ray.labelled import read_labelled
from el4ner_ray.schema import ANNOTATION_SCHEMA, ENTITY_TYPE
from tests.conftest import ROOT
from tests.unit.test_evaluation import entity_row, row, write_run

Printed = Callable[[str], str]


def python_blocks(name: str) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```\n", (ROOT / "docs" / name).read_text("utf-8"), re.DOTALL)
    assert blocks
    return blocks


@pytest.fixture
def printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Printed:
    """Runs a block where `out/demo` is the small run, and returns what it prints."""
    (tmp_path / "out" / "demo").mkdir(parents=True)
    ann, oslo, bo = entity_row(0, 3, "Ann", "person"), entity_row(7, 11, "Oslo", "location"), (0, 2, "Bo", "person")
    late = entity_row(13, 17, "Oslo", "location") | {"score": 0.75}
    write_run(
        tmp_path / "out" / "demo",
        [row("1", "Ann in Oslo", ann, oslo), row("3", None, status="failed", entities=None, error="x")],
        [row("2", "Bo 👋 left\n", entity_row(*bo)), row("2", "is Oslo", late, part=1, start=10), row("4", "no one")],
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(block: str) -> str:
        exec(compile(block, "documentation", "exec"), {})
        return capsys.readouterr().out

    return run


WANTED = {
    "GROUP BY ALL ORDER BY entities DESC": ["person │ 2 │ 0.5", "location │ 2 │ 0.625"],
    "ballot": ["m1 │ 4 │ 1.0", "m2 │ 4 │ 0.0"],
    "import pandas": ["2 13 17 Oslo 0.75", "1 7 11 Oslo 0.50"],
    "import polars": ["Oslo ┆ location ┆ 2 ┆ 0.625"],
    "import datasets": ["5 1 ['Ann']"],
}


@pytest.mark.parametrize("block", python_blocks("queries.md"))
def test_a_query_prints_what_is_in_the_run(printed: Printed, block: str) -> None:
    (wanted,) = (lines for mark, lines in WANTED.items() if mark in block)
    found = re.sub(r"[ ]+", " ", printed(block))
    assert all(line in found for line in wanted), found


def test_the_documented_columns_are_those_of_the_output() -> None:
    table = (ROOT / "docs" / "queries.md").read_text("utf-8").split("|---|---|---|\n")[1].split("\n\n")[0]
    named = re.findall(r"`([a-z_]+)`", "".join(line.split("|")[1] for line in table.splitlines()).replace("`.", "`"))
    within = re.findall(r"`(?:entities)?\.([a-z_]+)`", table)
    assert [name for name in named if name in ANNOTATION_SCHEMA.names] == ANNOTATION_SCHEMA.names
    assert within == [field.name for field in ENTITY_TYPE]


def test_the_export_examples_run(printed: Printed, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^\$ (el4ner export .*)$", (ROOT / "docs" / "export.md").read_text("utf-8"), re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 0
    jsonl, spacy, label_studio = python_blocks("export.md")
    assert "7 11 Oslo location 0.5" in printed(jsonl)
    assert "1 Oslo location 0.5" in printed(spacy)

    tasks = json.loads(Path("out/tasks.json").read_text("utf-8"))
    for task in tasks:
        task["annotations"] = [{"result": done["result"], "was_cancelled": False} for done in task["predictions"]]
    without_label = {"type": "labels", "value": {"start": 0, "end": 1, "text": "x"}}
    tasks[0]["annotations"][0]["result"] += [{"type": "relation", "from_id": "e1", "to_id": "e2"}, without_label]
    tasks[1]["annotations"] = [{"result": [], "was_cancelled": True}]
    Path("out/corrected.json").write_text(json.dumps(tasks), "utf-8")
    printed(label_studio)
    surfaces = {text.id: text.mentions for text in read_labelled("out/gold.jsonl", "gold")}
    assert surfaces == {
        "1": (("Ann", "person"), ("Oslo", "location")),
        "2": (("Bo", "person"), ("Oslo", "location")),
        "4": (),
    }
