"""Evaluation against hand-computed cases and other libraries; reading a run's output back."""

import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate.evaluator import Evaluator
from rich.console import Console
from seqeval.metrics.sequence_labeling import f1_score, get_entities, precision_recall_fscore_support

from el4ner_ray import measure, results
from el4ner_ray.cli import main
from el4ner_ray.core.evaluation import Score, Typed, bootstrap_f1, evaluate
from el4ner_ray.errors import UsageError
from el4ner_ray.evaluation_tables import evaluation_table, evaluation_tables, notes
from el4ner_ray.measure import RunEvaluation, evaluate_run
from el4ner_ray.results import AnnotatedEntity, read_account, read_annotations
from el4ner_ray.schema import ANNOTATION_SCHEMA

# --- Hand-computed cases

A, B, C = (0, 3, "PER"), (4, 9, "LOC"), (4, 9, "ORG")
INNER, OUTER = (0, 2, "protein"), (0, 7, "DNA")


@pytest.mark.parametrize(
    ("gold", "predicted", "micro", "spans", "accuracy"),
    [
        ({}, {}, (0, 0, 0), (0, 0, 0), None),
        ({"1": []}, {"1": []}, (0, 0, 0), (0, 0, 0), None),
        ({"1": [A, B]}, {"1": [A, B]}, (2, 0, 0), (2, 0, 0), 1.0),
        ({"1": [A, B]}, {"1": []}, (0, 0, 2), (0, 0, 2), None),
        ({"1": [A, B]}, {}, (0, 0, 2), (0, 0, 2), None),
        ({"1": []}, {"1": [A]}, (0, 1, 0), (0, 1, 0), None),
        ({"1": [A, B]}, {"1": [A, C]}, (1, 1, 1), (2, 0, 0), 0.5),
        ({"1": [A]}, {"1": [(0, 4, "PER")]}, (0, 1, 1), (0, 1, 1), None),
        ({"1": [INNER, OUTER]}, {"1": [OUTER]}, (1, 0, 1), (1, 0, 1), 1.0),
        ({"1": [INNER, OUTER]}, {"1": [OUTER, INNER]}, (2, 0, 0), (2, 0, 0), 1.0),
        ({"1": [A]}, {"1": [A, A, A]}, (1, 0, 0), (1, 0, 0), 1.0),
        ({"1": [A, A]}, {"1": [A]}, (1, 0, 0), (1, 0, 0), 1.0),
        ({"1": [B, C]}, {"1": [B]}, (1, 0, 1), (1, 0, 0), 1.0),
        ({"1": [B]}, {"1": [B, C]}, (1, 1, 0), (1, 0, 0), 1.0),
        ({"1": [A], "2": []}, {"1": [], "2": [A]}, (0, 1, 1), (0, 1, 1), None),
    ],
)
def test_counts(gold: Any, predicted: Any, micro: Any, spans: Any, accuracy: float | None) -> None:
    found = evaluate(gold, predicted)
    assert found.micro == Score(*micro)
    assert found.spans == Score(*spans)
    assert found.type_accuracy == accuracy


def test_rates_and_types() -> None:
    gold = {"1": [A, B], "2": [A], "3": [], "4": [], "5": [C]}
    predicted = {"1": [A, C], "2": [A, (5, 6, "MISC")], "3": [A, B], "4": [], "other": [A]}
    found = evaluate(gold, predicted)
    assert found.micro == Score(true_positives=2, false_positives=4, false_negatives=2)
    assert found.micro.precision == pytest.approx(2 / 6)
    assert found.micro.recall == pytest.approx(2 / 4)
    assert found.micro.f1 == pytest.approx(2 * (2 / 6) * (2 / 4) / (2 / 6 + 2 / 4))
    assert found.micro.support == 4
    assert found.types == {"PER": Score(2, 1, 0), "LOC": Score(0, 1, 1), "ORG": Score(0, 1, 1), "MISC": Score(0, 1, 0)}
    assert list(found.types) == ["PER", "LOC", "ORG", "MISC"]
    assert found.spans == Score(3, 3, 1)
    assert found.type_accuracy == pytest.approx(2 / 3)
    assert (found.documents, found.with_entities, found.without_entities) == (5, 3, 2)
    assert (found.false_positives_without_entities, found.documents_falsely_annotated) == (2, 1)
    assert (found.missing_documents, found.ignored_documents) == (("5",), 1)


def test_nothing_divided_by_nothing_is_zero() -> None:
    empty = Score()
    assert (empty.precision, empty.recall, empty.f1) == (0.0, 0.0, 0.0)
    assert evaluate({}, {}).micro_f1_interval is None
    interval = evaluate({"1": [], "2": []}, {"1": []}).micro_f1_interval
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_to_json_is_json() -> None:
    content = evaluate({"1": [A, B], "2": [A]}, {"1": [A, C]}).to_json()
    assert json.loads(json.dumps(content)) == content
    assert content["micro"]["f1"] == pytest.approx(0.4)
    assert content["types"]["PER"]["support"] == 2
    assert content["missing_documents"] == ["2"]
    assert content["micro_f1_interval"]["confidence"] == 0.95


# --- The interval


def test_interval_agrees_with_drawing_documents_one_by_one() -> None:
    generator = np.random.default_rng(5)
    counts = generator.poisson((2.0, 1.0, 1.5), size=(200, 3))
    scores = [Score(*map(int, row)) for row in counts]
    totals = counts[generator.integers(0, 200, (40_000, 200))].sum(axis=1)
    plain = 2 * totals[:, 0] / (2 * totals[:, 0] + totals[:, 1] + totals[:, 2])
    for confidence, tail in ((0.95, 0.025), (0.9, 0.05), (0.5, 0.25)):
        found = bootstrap_f1(scores, confidence, resamples=40_000)
        assert found is not None
        # Chance moves a bound by 0.02 standard deviations, and those for 0.95 and 0.9 are 0.3 apart.
        assert (found.low, found.high) == pytest.approx(np.quantile(plain, [tail, 1 - tail]), abs=0.06 * plain.std())


def test_one_document_has_no_interval() -> None:
    # Drawn again and again it is always the same: an interval without width, as if it were certain.
    assert evaluate({"1": [A, B]}, {"1": [A, C]}).micro_f1_interval is None
    assert bootstrap_f1([Score(2, 1, 1)]) is None
    assert evaluate({"1": [A, B], "2": [A]}, {"1": [A, C]}).micro_f1_interval is not None


def test_interval_is_repeatable_whatever_the_order() -> None:
    scores = [Score(1, 0, 2), Score(3, 1, 0), Score(0, 2, 1), Score(2, 2, 2)] * 5
    assert bootstrap_f1(scores) == bootstrap_f1(scores[::-1])
    assert bootstrap_f1(scores) != bootstrap_f1(scores, seed=1)
    interval = bootstrap_f1(scores)
    assert interval is not None
    assert interval.low < 2 * 30 / (2 * 30 + 25 + 25) < interval.high


# --- Properties

TYPED = st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from("XYZ"))
DOCUMENTS = st.dictionaries(st.text(max_size=3), st.lists(TYPED, max_size=6), max_size=8)


@given(DOCUMENTS)
@settings(max_examples=100, deadline=None)
def test_perfect_predictions_have_f1_one(gold: dict[str, list[Typed]]) -> None:
    found = evaluate(gold, {id_: entities[::-1] * 2 for id_, entities in gold.items()}, resamples=10)
    wanted = 1.0 if any(gold.values()) else 0.0
    assert (found.micro.precision, found.micro.recall, found.micro.f1, found.spans.f1) == (wanted,) * 4
    assert all(score.f1 == 1.0 for score in found.types.values())
    assert (found.missing_documents, found.ignored_documents, found.false_positives_without_entities) == ((), 0, 0)


@given(DOCUMENTS, DOCUMENTS)
@settings(max_examples=200, deadline=None)
def test_parts_add_up(gold: dict[str, list[Typed]], predicted: dict[str, list[Typed]]) -> None:
    found = evaluate(gold, predicted, resamples=10)
    for field in ("true_positives", "false_positives", "false_negatives"):
        assert sum(getattr(score, field) for score in found.types.values()) == getattr(found.micro, field)
    assert found.micro.support == sum(len(set(entities)) for entities in gold.values())
    assert found.spans.true_positives <= found.spans.support <= found.micro.support
    assert found.with_entities + found.without_entities == found.documents == len(gold)
    assert 0.0 <= found.micro.f1 <= 1.0
    swapped = evaluate(predicted, gold, resamples=10)
    if gold.keys() == predicted.keys():
        assert (swapped.micro.precision, swapped.micro.recall) == (found.micro.recall, found.micro.precision)


def random_tags(seed: int, sentences: int = 150) -> Iterator[list[str]]:
    """Well-formed flat BIO."""
    generator = random.Random(seed)
    for _ in range(sentences):
        tags: list[str] = []
        while len(tags) < generator.randint(1, 15):
            label, length = generator.choice("XYZ"), generator.randint(1, 3)
            entity = [f"B-{label}"] + [f"I-{label}"] * (length - 1)
            tags += entity if generator.random() < 0.4 else ["O"] * length
        yield tags


def noisy(tags: Sequence[str], generator: random.Random) -> list[str]:
    """Another well-formed flat BIO of the same length, that agrees in about half of the entities."""
    other = ["O"] * len(tags)
    for label, first, last in get_entities(list(tags)):
        kind = generator.choice(["same", "same", "type", "shorter", "gone"])
        label = generator.choice("XYZ") if kind == "type" else label
        last = max(first, last - 1) if kind == "shorter" else last
        if kind != "gone":
            other[first : last + 1] = [f"B-{label}"] + [f"I-{label}"] * (last - first)
    return [f"B-{generator.choice('XYZ')}" if tag == "O" and generator.random() < 0.1 else tag for tag in other]


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_seqeval_and_nervaluate_on_flat_data(seed: int) -> None:
    generator = random.Random(-seed - 1)
    gold = list(random_tags(seed))
    predicted = [noisy(tags, generator) for tags in gold]

    def documents(sentences: list[list[str]]) -> dict[str, list[Typed]]:
        return {
            str(i): [(first, last + 1, label) for label, first, last in get_entities(tags)]
            for i, tags in enumerate(sentences)
        }

    found = evaluate(documents(gold), documents(predicted))
    assert 0.2 < found.micro.f1 < 0.8  # the comparison is of something

    assert found.micro.f1 == pytest.approx(f1_score(gold, predicted, average="micro"))
    by_type = precision_recall_fscore_support(gold, predicted, average=None)
    for i, label in enumerate("XYZ"):
        score = found.types[label]
        wanted = [column[i] for column in by_type]
        assert [score.precision, score.recall, score.f1, score.support] == pytest.approx(wanted)

    strategies = Evaluator(gold, predicted, tags=["X", "Y", "Z"], loader="list").evaluate()["overall"]
    for mine, theirs in ((found.micro, strategies["strict"]), (found.spans, strategies["exact"])):
        assert mine.true_positives == theirs.correct
        assert [mine.precision, mine.recall, mine.f1] == pytest.approx([theirs.precision, theirs.recall, theirs.f1])


def test_core_imports_no_engine() -> None:
    code = "import sys, el4ner_ray.core.evaluation; print({'ray', 'torch', 'vllm'} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


# --- Reading a run back


def entity_row(start: int, end: int, text: str, type_: str) -> dict[str, Any]:
    votes = [{"model": "m1", "type": type_}, {"model": "m2", "type": None}]
    fields = {"start": start, "end": end, "text": text, "type": type_, "score": 0.5, "votes": votes}
    return fields | {"extracted_by": ["m1"], "verified": True}


def row(doc_id: str, text: str | None, *entities: dict[str, Any], part: int = 0, start: int = 0, **more: Any) -> Any:
    fields = {"doc_id": doc_id, "part": part, "text_start": start, "text": text, "status": "ok", "error": None}
    return fields | {"entities": list(entities)} | more


def write_run(
    folder: Path, *files: list[dict[str, Any]], status: str | None = "finished", models: Sequence[str] = ()
) -> str:
    """A run's folder; without run.json where `status` is None."""
    if status:
        run = {"status": status, "config": {"models": [{"name": name, "source": "x"} for name in models]}}
        (folder / "run.json").write_text(json.dumps(run | {"engine": "fake"}))
    (folder / "annotations").mkdir()
    for number, rows in enumerate(files):
        pq.write_table(pa.Table.from_pylist(rows, ANNOTATION_SCHEMA), folder / "annotations" / f"{number}.parquet")
    return str(folder)


def test_documents_are_read_back_and_parts_put_together(tmp_path: Path) -> None:
    late = entity_row(11, 15, "Oslo", "LOC")
    directory = write_run(
        tmp_path,
        [row("long", "in 👋 Oslo ", part=1, start=6, status="failed", error="slow"), row("a", "Ann", author="x")],
        [],
        [row("none", None, status="failed", error="no text", entities=None)],
        [row("long", "now", late, part=2, start=16), row("long", "Ann is", entity_row(0, 3, "Ann", "PER"))],
    )
    (tmp_path / "annotations" / "_SUCCESS").touch()
    documents = {document.doc_id: document for document in read_annotations(directory)}
    assert sorted(documents) == ["a", "long", "none"]
    long = documents["long"]
    assert (long.text, long.status, long.error) == ("Ann isin 👋 Oslo now", "partial", "slow")
    assert [entity.text for entity in long.entities] == ["Ann", "Oslo"]
    votes = (("m1", "PER"), ("m2", None))
    assert long.entities[0] == AnnotatedEntity(0, 3, "Ann", "PER", 0.5, votes, ("m1",), True)
    assert all(long.text[entity.start : entity.end] == entity.text for entity in long.entities)
    assert (documents["a"].status, documents["a"].entities, documents["a"].error) == ("ok", (), None)
    assert (documents["none"].text, documents["none"].status, documents["none"].error) == ("", "failed", "no text")


@pytest.mark.parametrize(
    "rows",
    [
        [row("d", "b", part=1, start=1)],
        [row("d", "a"), row("d", "c", part=2, start=2)],
        [row("d", "a"), row("d", "b", part=1, start=1), row("d", "b", part=1, start=1)],
        [row("d", "a"), row("d", "b", part=1, start=5)],
    ],
)
def test_a_gap_in_a_document_is_named(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match=r"document 'd': part [012], which starts at"):
        list(read_annotations(write_run(tmp_path, rows)))


@pytest.mark.parametrize("status", ["running", None])
def test_a_document_of_an_unfinished_run_is_read_to_its_first_gap(tmp_path: Path, status: str | None) -> None:
    rows = [
        *(row("gap", "ab", part=part, start=2 * part) for part in (3, 0, 1)),
        row("no beginning", "b", part=1, start=1),
        row("whole", "a"),
    ]
    found = {document.doc_id: document.text for document in read_annotations(write_run(tmp_path, rows, status=status))}
    assert found == {"gap": "abab", "whole": "a"}


def test_a_part_that_is_there_twice_is_named_in_an_unfinished_run_too(tmp_path: Path) -> None:
    rows = [row("d", "a"), row("d", "b", part=1, start=1), row("d", "b", part=1, start=1)]
    with pytest.raises(UsageError, match=r"document 'd': part 2, which starts at"):
        list(read_annotations(write_run(tmp_path, rows, status="running")))


@pytest.mark.parametrize("status", ["finished", "running"])
def test_a_document_that_is_there_twice_is_named(tmp_path: Path, status: str) -> None:
    # As where the files of two runs were copied together; the report could not put two texts of one id in order.
    files = [row("a", "Ann"), row("long", "a")], [row("long", "b", part=1, start=1), row("a", "Ann left")]
    told = r"1\.parquet: document 'a': stands in .*/0\.parquet already; if files of two runs lie there together, remove"
    with pytest.raises(UsageError, match=told):
        list(read_annotations(write_run(tmp_path, *files, status=status)))


def test_ids_that_share_a_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "hash", len, raising=False)
    directory = write_run(tmp_path, [row("a", "Ann"), row("b", "Ben")], [row("c", "Cleo")])
    assert [document.doc_id for document in read_annotations(directory)] == ["a", "b", "c"]


def test_a_folder_without_annotations_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no annotations/"):
        read_annotations(str(tmp_path / "nowhere"))
    (tmp_path / "annotations").mkdir()
    with pytest.raises(UsageError, match="no annotations/"):
        read_annotations(str(tmp_path))
    pq.write_table(pa.table({"doc_id": ["a"]}), tmp_path / "annotations" / "0.parquet")
    with pytest.raises(
        UsageError, match="no annotations: dropped, entities, error, part, status, text, text_start missing; give"
    ):
        read_annotations(str(tmp_path))
    (tmp_path / "annotations" / "0.parquet").write_bytes(b"no parquet")
    with pytest.raises(UsageError, match="not Parquet"):
        read_annotations(str(tmp_path))


def write_gold(folder: Path, *texts: tuple[str, str, list[Typed]]) -> str:
    path = folder / "gold.jsonl"
    with path.open("w") as file:
        for id_, text, entities in texts:
            spans = [dict(zip(("start", "end", "type"), each, strict=True)) for each in entities]
            file.write(json.dumps({"id": id_, "text": text, "entities": spans}) + "\n")
    return str(path)


def test_a_run_is_measured_against_gold(tmp_path: Path) -> None:
    directory = write_run(
        tmp_path,
        [row("1", "Ann in Oslo", entity_row(0, 3, "Ann", "PER"), entity_row(7, 11, "Oslo", "ORG"))],
        [row("2", None, status="failed"), row("more", "Ann", entity_row(0, 3, "Ann", "PER"))],
    )
    gold = write_gold(
        tmp_path,
        ("1", "Ann in Oslo", [(0, 3, "PER"), (7, 11, "LOC")]),
        ("2", "Bob", [(0, 3, "PER")]),
        ("3", "Bob", [(0, 3, "PER")]),
    )
    found = evaluate_run(directory, gold).ensemble
    assert found.micro == Score(true_positives=1, false_positives=1, false_negatives=3)
    assert (found.missing_documents, found.ignored_documents) == (("3",), 1)

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(evaluation_table(found, "run"))
    lines = console.export_text()
    assert "95% interval" in lines
    rows = {line.split("│")[1].strip(): line for line in lines.splitlines() if line.count("│") > 2}
    assert list(rows) == ["all types", "span only", "PER", "LOC", "ORG"]
    assert " to " in rows["all types"]
    assert all(number in rows["PER"] for number in ("1.000", "0.333", "0.500", "3"))


def test_types_of_the_gold_and_models_of_the_run_control_no_terminal(tmp_path: Path) -> None:
    found = entity_row(0, 3, "Ann", "PER") | {"extracted_by": ["m\x9b31m"]}
    directory = write_run(tmp_path, [row("1", "Ann", found)])
    evaluation = evaluate_run(directory, write_gold(tmp_path, ("1", "Ann", [(0, 3, "P\x1b[2J\u2028ER")])))
    console = Console(width=100, record=True, file=io.StringIO())
    for table in evaluation_tables(evaluation):
        console.print(table)
    shown = console.export_text()
    assert "P [2J ER" in shown
    assert "m 31m" in shown
    assert [note.split(":")[0] for note in notes(evaluation)] == ["m 31m"]


def test_gold_of_other_documents_is_refused(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [row("1", "Ann  left", entity_row(0, 3, "Ann", "PER"))])
    with pytest.raises(UsageError, match=r"gold.jsonl: id: none of its ids is in .*'x' in the gold, '1' in the run"):
        evaluate_run(directory, write_gold(tmp_path, ("x", "Ann left", [(0, 3, "PER")])))
    with pytest.raises(UsageError, match=r"gold.jsonl, id '1': text: differs from that in"):
        evaluate_run(directory, write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")])))


UNFINISHED = [("running", "not finished, its state is “running”:.*finishes it"), (None, r"no run\.json tells")]


@pytest.mark.parametrize(("status", "told"), UNFINISHED)
def test_a_run_that_is_not_finished_is_named_as_the_cause(tmp_path: Path, status: str | None, told: str) -> None:
    directory = write_run(tmp_path, [row("1", "Ann left")], status=status)
    with pytest.raises(UsageError, match=f"text: differs from that in .*{told}"):
        evaluate_run(directory, write_gold(tmp_path, ("1", "Ann left for Oslo", [(0, 3, "PER")])))
    with pytest.raises(UsageError, match=f"none of its ids is in .*{told}"):
        evaluate_run(directory, write_gold(tmp_path, ("2", "Ann", [(0, 3, "PER")])))


@pytest.mark.parametrize(("status", "told"), UNFINISHED)
def test_evaluate_warns_of_a_run_that_is_not_finished(
    tmp_path: Path,
    status: str | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = write_run(tmp_path, [row("1", "Ann left")], status=status)
    gold = write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")]))
    monkeypatch.setattr(sys, "argv", ["el4ner", "evaluate", directory, "--gold", gold, "--json"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr()
    assert json.loads(printed.out).keys() == {"union", "ensemble"}
    assert re.match(f"el4ner: warning: .*{told}", printed.err)
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished", "config": {"models": []}}))
    with pytest.raises(SystemExit):
        main()
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"status": 1}', b'{"status": "finished", "config": {}}'])
def test_a_run_json_of_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"/run\.json: .*; give the folder that `el4ner annotate` wrote"):
        read_account(str(tmp_path))


def test_models_that_found_nothing_are_measured_in_the_order_of_the_run(tmp_path: Path) -> None:
    ann = entity_row(0, 3, "Ann", "PER") | {"extracted_by": ["late", "found"]}
    directory = write_run(tmp_path, [row("1", "Ann left", ann)], models=("silent", "found", "late"))
    gold = write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")]))
    found = evaluate_run(directory, gold)
    assert list(found.to_json()) == ["silent", "found", "late", "m1", "m2", "union", "ensemble"]
    silent = found.models["silent"]
    assert (silent.micro, silent.spans, silent.type_accuracy) == (Score(false_negatives=1),) * 2 + (None,)
    assert "silent" in {column for table in evaluation_tables(found) for column in table.columns[0].cells}


def candidate(start: int, text: str, type_: str, by: str, votes: dict[str, str | None]) -> dict[str, Any]:
    """A row that the models of the letters `by` found."""
    ballots = [{"model": model, "type": vote} for model, vote in votes.items()]
    return entity_row(start, start + len(text), text, type_) | {"extracted_by": list(by), "votes": ballots}


def printed(found: RunEvaluation, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in evaluation_tables(found):
        console.print(table)
    return console.export_text()


def test_each_model_and_step_is_measured(tmp_path: Path) -> None:
    text = "Ann in Oslo met Bob"
    kept = candidate(0, "Ann", "PER", "ab", {"a": "PER", "b": "ORG", "c": "PER"})
    # The third model was not asked for a type: the vote was decided.
    true_but_dropped = candidate(16, "Bob", "PER", "c", {"a": "PER", "b": "PER"})
    false_and_dropped = candidate(4, "in", "LOC", "b", {"a": "LOC", "b": None, "c": "LOC"})
    rows = row("1", text, kept) | {"dropped": [true_but_dropped, false_and_dropped]}
    directory = write_run(tmp_path, [rows, row("2", "none")], models=("a", "b", "c"))
    gold = write_gold(tmp_path, ("1", text, [(0, 3, "PER"), (7, 11, "LOC"), (16, 19, "PER")]), ("2", "none", []))

    found = evaluate_run(directory, gold)
    a, b, c = found.models.values()
    assert (a.micro, a.spans) == (Score(1, 0, 2), Score(1, 0, 2))
    assert (b.micro, b.spans) == (Score(0, 2, 3), Score(1, 1, 2))
    assert (c.micro, c.micro_f1_interval, c.types, c.spans) == (None, None, None, Score(1, 0, 2))
    assert [(m.type_accuracy, m.type_accuracy_of) for m in (a, b, c)] == [(1.0, 2), (0.5, 2), (1.0, 1)]
    assert [(m.votes, m.put_to_vote, m.asked_everywhere) for m in (a, b, c)] == [(3, 3, True)] * 2 + [(2, 3, False)]
    assert (found.union.micro, found.ensemble.micro) == (Score(2, 1, 1), Score(1, 0, 2))
    for step in (found.union, found.ensemble):
        assert (step.documents, step.missing_documents) == (2, ())
        assert step.reliability

    shown = [line.replace("│", " ").split() for line in printed(found).splitlines()]
    lines = {words[0]: words[1:] for words in shown if words and words[0] in ("a", "b", "c", "union")}
    assert lines["union"] == ["2", "1", "0.667", "0.667", "0.667", "0.667", "0.667", "0.667", "1.000", "2"]
    assert lines["b"] == ["0", "2", "0.000", "0.000", "0.000", "0.500", "0.333", "0.400", "0.500", "2"]
    assert lines["c"] == ["1.000", "0.333", "0.500", "1.000", "1"]  # the rest is blank
    (note,) = notes(found)
    assert note.startswith("c: asked for a type only where the others disagreed")


@pytest.mark.parametrize("votes", [{"a": "PER", "b": "PER"}, {}])
def test_no_model_is_credited_with_a_type_that_it_was_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], votes: dict[str, str | None]
) -> None:
    # The paper's method asks the last model where the vote is open; the calibrated one has spans that nobody voted on.
    ann = candidate(0, "Ann", "PER", "abc", votes)
    directory = write_run(tmp_path, [row("1", "Ann left", ann)], models=("a", "b", "c"))
    gold = write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")]))
    monkeypatch.setattr(sys, "argv", ["el4ner", "evaluate", directory, "--gold", gold, "--json"])
    with pytest.raises(SystemExit):
        main()
    found = json.loads(capsys.readouterr().out)
    assert {name: of_step["micro"] is not None for name, of_step in found.items()} == {
        "a": bool(votes),
        "b": bool(votes),
        "c": False,
        "union": True,
        "ensemble": True,
    }
    assert (found["c"]["types"], found["c"]["type_accuracy"], found["c"]["spans"]["f1"]) == (None, None, 1.0)


def test_models_that_are_equally_good_and_asked_alike_get_equal_accuracies(tmp_path: Path) -> None:
    """Three models whose answers differ by chance alone; the last one is asked only where the vote is open."""
    chance = np.random.default_rng(0)
    rows, gold = [], []
    for number in range(600):
        right = chance.integers(4)
        a, b, c = ("wxyz"[right if chance.random() < 0.6 else chance.integers(4)] for _ in range(3))
        votes: dict[str, str | None] = {"a": a, "b": b} | ({} if a == b else {"c": c})
        rows.append(row(str(number), "Xx", candidate(0, "Xx", a if a == b else c, "abc", votes)))
        gold.append((str(number), "Xx", [(0, 2, "wxyz"[right])]))
    found = evaluate_run(write_run(tmp_path, rows, models=("a", "b", "c")), write_gold(tmp_path, *gold))
    first, second, last = found.models.values()
    for model in (first, second):
        assert (model.type_accuracy, model.type_accuracy_of) == (pytest.approx(0.7, abs=0.05), 600)
        assert model.micro is not None
    assert last.micro is None
    assert last.type_accuracy_of == last.votes < last.put_to_vote == 600
    assert last.type_accuracy == pytest.approx(0.7, abs=0.05)  # 0.828 with the ensemble's type on the others
    assert len(list(notes(found))) == 1


def test_a_model_that_was_not_asked_about_all_that_it_found_is_told_so(tmp_path: Path) -> None:
    # As in calibrated runs: all are asked about what was extracted, and nobody about what was listed alone.
    extracted = candidate(0, "Ann", "PER", "ab", {"a": "PER", "b": "ORG"})
    directory = write_run(tmp_path, [row("1", "Ann met Bob", extracted, candidate(8, "Bob", "PER", "b", {}))])
    found = evaluate_run(directory, write_gold(tmp_path, ("1", "Ann met Bob", [(0, 3, "PER"), (8, 11, "PER")])))
    assert (found.models["a"].micro, found.models["b"].micro) == (Score(1, 0, 1), None)
    assert [(m.type_accuracy, m.asked_everywhere) for m in found.models.values()] == [(1.0, True), (0.0, True)]
    assert list(notes(found)) == [
        "b: not asked for the type of every span found, so P, R and F1 with types are unknown"
    ]


def test_the_steps_fit_a_terminal(tmp_path: Path) -> None:
    found = {"extracted_by": ["qwen2.5-coder-0.5b"]}
    rows = [row(f"{number}", "Ann", entity_row(0, 3, "Ann", "PER") | found) for number in range(500)]
    gold = write_gold(tmp_path, *((f"{number}", "Ann", [(0, 3, "PER")]) for number in range(500)))
    shown = printed(evaluate_run(write_run(tmp_path, rows), gold), width=100)
    assert max(map(len, shown.splitlines())) <= 100
    assert "qwen2.5-coder-0.5b" in shown
    assert "…" not in shown


def test_a_model_that_abstained_has_no_type_right(tmp_path: Path) -> None:
    ann = candidate(0, "Ann", "PER", "ab", {"a": None, "c": "PER"})
    directory = write_run(tmp_path, [row("1", "Ann left", ann)])
    found = evaluate_run(directory, write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")]))).models
    assert found["a"].micro == Score(false_positives=1, false_negatives=1)
    assert (found["a"].spans, found["a"].type_accuracy) == (Score(true_positives=1), 0.0)
    assert (found["b"].micro, found["b"].spans, found["b"].type_accuracy) == (None, Score(true_positives=1), None)


def test_the_calibration_error_is_told_with_what_it_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = candidate(0, "Ann", "PER", "a", {"a": "PER"}) | {"score": 0.25}
    directory = write_run(tmp_path, [row("1", "Ann left") | {"dropped": [dropped]}])
    gold = write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")]))
    monkeypatch.setattr(sys, "argv", ["el4ner", "evaluate", directory, "--gold", gold])
    with pytest.raises(SystemExit):
        main()
    told = [line for line in capsys.readouterr().out.splitlines() if "calibration error" in line]
    assert len(told) == 1  # nothing was kept: an error of 0.000 would look like perfect scores
    assert told[0].startswith("expected calibration error of the score, over all candidates, 1 entities: 0.750 (")
    assert evaluate_run(directory, gold).ensemble.reliability is None


def test_documents_that_the_gold_lacks_are_counted_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(name, "Ann left", entity_row(0, 3, "Ann", "PER")) for name in ("x", "1", "y")]
    kept: list[set[str]] = []

    def evaluated(gold: Any, predicted: Any) -> Any:
        kept.append(set(predicted))
        return evaluate(gold, predicted)

    monkeypatch.setattr(measure, "evaluate", evaluated)
    found = evaluate_run(write_run(tmp_path, rows), write_gold(tmp_path, ("1", "Ann left", [(0, 3, "PER")])))
    assert kept[:2] == [{"1"}] * 2  # the union and the ensemble
    assert set().union(*kept) == {"1"}
    assert (found.union.ignored_documents, found.ensemble.ignored_documents) == (2, 2)
