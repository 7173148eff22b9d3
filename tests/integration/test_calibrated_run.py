"""The calibrated method on real Ray with the scripted engine: what is learnt once is used again."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import CALIBRATED, ROOT, Run

pytestmark = pytest.mark.timeout(1200)

CORPUS, POOL = ROOT / "examples" / "corpus.jsonl", ROOT / "examples" / "pool.jsonl"


def test_scores_are_above_the_threshold_and_nothing_overlaps(calibrated: Path) -> None:
    run = json.loads((calibrated / "run.json").read_text("utf-8"))
    assert run["calibration"]["sentences"] > 100
    assert run["calibration"]["threshold"] > 0
    assert "verify" not in run["stages"]
    assert run["preparation"].keys() == {"pre_extract", "retrieve", "extract", "classify"}
    rows = [row for file in (calibrated / "annotations").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    entities = [entity for row in rows for entity in row["entities"]]
    assert entities
    for row in rows:
        found = sorted((entity["start"], entity["end"]) for entity in row["entities"])
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(found))
        assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in row["entities"])
    # Scores are stored as 32-bit numbers.
    assert min(entity["score"] for entity in entities) >= run["calibration"]["threshold"] - 1e-6
    assert {len(entity["votes"]) for entity in entities} == {3}


def test_it_asks_no_more_than_the_papers_method(calibrated: Path, tmp_path: Path, el4ner: Run) -> None:
    paper = tmp_path / "paper"
    options = [option for option in CALIBRATED if option not in ("--method", "calibrated")]
    done = el4ner("annotate", CORPUS, "--pool", calibrated / "index", "--output", paper, *options)
    assert done.returncode == 0, done.stderr

    def requests(folder: Path) -> int:
        stages = json.loads((folder / "run.json").read_text("utf-8"))["stages"]
        return sum(
            usage["requests"] for stage, models in stages.items() for usage in models.values() if stage != "retrieve"
        )

    assert requests(calibrated) <= requests(paper)


def test_what_was_learnt_is_used_again_and_other_targets_need_no_learning(
    calibrated: Path, tmp_path: Path, el4ner: Run
) -> None:
    strict = tmp_path / "strict"
    options = (*CALIBRATED, "--target-recall", "0.01")
    done = el4ner("annotate", CORPUS, "--pool", calibrated / "index", "--output", strict, *options)
    assert done.returncode == 0, done.stderr
    assert "calibration: annotating" not in done.stderr
    thresholds = [
        json.loads((f / "run.json").read_text("utf-8"))["calibration"]["threshold"] for f in (strict, calibrated)
    ]
    assert thresholds[0] >= thresholds[1]


def test_a_target_out_of_reach_is_refused(calibrated: Path, tmp_path: Path, el4ner: Run) -> None:
    options = (*CALIBRATED, "--target-recall", "1")
    done = el4ner("annotate", CORPUS, "--pool", calibrated / "index", "--output", tmp_path / "out", *options)
    assert done.returncode == 2
    assert "no threshold reaches recall 1" in done.stderr


def test_a_small_pool_falls_back_to_the_papers_method(tmp_path: Path, el4ner: Run) -> None:
    small, out = tmp_path / "pool.jsonl", tmp_path / "out"
    small.write_text("".join(POOL.read_text("utf-8").splitlines(keepends=True)[:60]), "utf-8")
    done = el4ner("annotate", CORPUS, "--pool", small, "--output", out, *CALIBRATED)
    assert done.returncode == 0, done.stderr
    assert "warning: method calibrated needs 100 labelled sentences, the pool has 60" in done.stderr
    run = json.loads((out / "run.json").read_text("utf-8"))
    assert run["config"]["method"] == "paper"
    assert "calibration" not in run
