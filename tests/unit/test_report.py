"""A report: what it counts, how it cuts texts, what it says is wrong, and that nothing in it can run."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from el4ner_ray.cli import main
from el4ner_ray.core.evaluation import evaluate
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.files import write_text
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.report import palette
from el4ner_ray.report import passages as cutting
from el4ner_ray.report.build import write_report
from el4ner_ray.report.comparison import Comparison
from el4ner_ray.report.passages import lanes, passages, segments
from el4ner_ray.report.render import duration
from el4ner_ray.report.sample import Sample, natural
from el4ner_ray.report.shown import SHOWN_CHARACTERS, Mark, show
from el4ner_ray.report.statistics import BINS, Frequent, Histogram, Statistics
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity
from el4ner_ray.schema import ANNOTATION_SCHEMA, ERROR_SCHEMA, Usage
from el4ner_ray.sink import FileSummary, to_parquet
from tests.conftest import write_jsonl

MODELS = ("a", "b", "c")
HOSTILE = (
    "</script><script>ran=1</script>",
    "<img src=x onerror=ran=1>",
    '"><svg onload=ran=1>',
    "' onmouseover='ran=1",
    "{{7*7}}{% raw %}",
    "<!--<script>",
    "</style><style>*{display:none}",
    "javascript:ran=1",
    "&lt;script&gt;ran=1&lt;/script&gt;",
    "\u2028\u2029ran=1//\u202e\x00",
    "</title><iframe srcdoc='<script>parent.ran=1</script>'>",
    "<a href=javascript:ran=1 autofocus onfocus=ran=1>",
)
SUMMARY = FileSummary(sentences=7, entities=2, stages={"extract": {"a": Usage(requests=3, prompt_tokens=10)}})


def entity(text: str, start: int, end: int, type_: str, score: float = 0.5, **fields: Any) -> dict[str, Any]:
    votes = [{"model": model, "type": type_} for model in MODELS[:2]]
    row = {"start": start, "end": end, "text": text[start:end], "type": type_, "score": score, "verified": True}
    return row | {"votes": votes, "extracted_by": ["a"]} | fields


def document(doc_id: str, text: str, entities: Sequence[dict[str, Any]] = (), **fields: Any) -> dict[str, Any]:
    row = {"doc_id": doc_id, "part": 0, "text_start": 0, "text": text, "status": "ok", "entities": list(entities)}
    return row | {"error": None} | fields


def run_json(rows: Sequence[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    status = {row["doc_id"]: row["status"] for row in rows}
    counts = Counter(status.values())
    documents = {"total": len(status)} | {name: counts[name] for name in ("ok", "partial", "failed")}
    config = {"method": "paper", "models": [{"name": name, "source": f"hub/{name}"} for name in MODELS]}
    content = {
        "status": "finished",
        "engine": "vllm",
        "started": "2026-01-02T03:04:05+00:00",
        "config": config,
        "fingerprint": "0123456789abcdef0123",
        "versions": {"el4ner-ray": "0.1.0"},
        "documents": documents,
        "sentences": len(rows),
        "entities": sum(len(row["entities"]) for row in rows),
        "startup_seconds": 12.5,
        "wall_seconds": 100.0,
        "sentences_per_second": 0.5,
        "stages": {"extract": {"a": msgspec.to_builtins(Usage(requests=5, prompt_tokens=200, cached_tokens=50))}},
    }
    return content | fields


def write_run(
    folder: Path, rows: Sequence[dict[str, Any]], errors: Sequence[dict[str, Any]] = (), **fields: Any
) -> Path:
    """A run's folder as `el4ner annotate` leaves it, the rows dealt out to two files."""
    for number, part in enumerate((rows[::2], rows[1::2])):
        if part:
            (folder / "annotations").mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(part, ANNOTATION_SCHEMA)
            footer = {b"el4ner": msgspec.json.encode(SUMMARY)}
            (folder / "annotations" / f"{number}.parquet").write_bytes(
                to_parquet(table.replace_schema_metadata(footer))
            )
    if errors:
        (folder / "errors").mkdir(parents=True)
        (folder / "errors" / "0.parquet").write_bytes(to_parquet(pa.Table.from_pylist(errors, ERROR_SCHEMA)))
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run_json(rows, **fields)), "utf-8")
    return folder


class Page(HTMLParser):
    """The elements of a page, and the text inside script and style."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._open = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag if tag in self.inside else ""
        if self._open:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open][-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.inside["script"][0])
        return content


def report(folder: Path, **arguments: Any) -> Page:
    output = folder / "report.html"
    write_report(str(folder), output, **arguments)
    return Page(output)


# -- cutting ----------------------------------------------------------------------------------------------------------


def marks_of(spans: Sequence[tuple[int, int]]) -> list[Mark]:
    return [Mark(start, end, "t", None) for start, end in spans]


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("abcdef", [], ["abcdef"]),
        ("abcdef", [(1, 3)], ["a", ("bc", [0]), "def"]),
        ("abcdef", [(0, 6), (2, 4)], [("ab", [0]), ("cd", [0, 1]), ("ef", [0])]),
        ("abcdef", [(0, 4), (2, 6)], [("ab", [0]), ("cd", [1, 0]), ("ef", [1])]),
        ("a👩‍👩‍👧b", [(1, 6)], ["a", ("👩‍👩‍👧", [0]), "b"]),
        ("x\r\ny 北京", [(5, 7)], ["x\r\ny ", ("北京", [0])]),
        ("ב שלום", [(2, 6)], ["ב ", ("שלום", [0])]),
        ("", [], []),
    ],
)
def test_segments(text: str, spans: list[tuple[int, int]], expected: list[Any]) -> None:
    marks = marks_of(spans)
    assert segments(text, 0, len(text), marks, lanes(marks)) == expected


texts = st.text(st.sampled_from("ab é́👩‍🏽北。.\n\r ש"), max_size=200)


@given(texts, st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=12))
def test_cutting_loses_nothing(text: str, pairs: list[tuple[int, int]]) -> None:
    spans = [(start, min(start + length, len(text))) for start, length in pairs if start < len(text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PASSAGE_CHARACTERS", 5)
        cut = list(passages(text, marks_of(spans)))
    assert cut[0][0] == 0
    assert cut[-1][1] == len(text)
    assert all(before[1] == after[0] < after[1] for before, after in pairwise(cut))
    assert sorted((m.start, m.end) for _, _, marks in cut for m in marks) == sorted(spans)
    for start, end, marks in cut:
        lane_of = lanes(marks)
        pieces = [
            piece if isinstance(piece, tuple) else (piece, []) for piece in segments(text, start, end, marks, lane_of)
        ]
        assert "".join(piece for piece, _ in pieces) == text[start:end]
        for number, mark in enumerate(marks):
            assert "".join(piece for piece, over in pieces if number in over) == text[mark.start : mark.end]
        assert all(len({lane_of[number] for number in over}) == len(over) for _, over in pieces)


def test_long_documents_are_cut_off() -> None:
    text = "word " * 20_000
    entities = (found(0, 4, "p", {}, ()), found(SHOWN_CHARACTERS - 2, SHOWN_CHARACTERS + 2, "p", {}, ()))
    shown = show(AnnotatedDocument("1", text, "ok", entities, None))
    assert (shown.text, shown.characters) == (text[:SHOWN_CHARACTERS], len(text))
    assert [mark.end for mark in shown.marks] == [4]


# -- counting ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 20)), st.integers(1, 5))
def test_frequent_is_never_too_high(keys: list[int], capacity: int) -> None:
    frequent: Frequent[int] = Frequent(capacity)
    for key in keys:
        frequent.add(key)
    true = Counter(keys)
    found = dict(frequent.top(100))
    assert len(frequent) <= 2 * capacity
    assert all(true[key] - frequent.missing <= found.get(key, 0) <= true[key] for key in true)
    assert frequent.missing * capacity <= len(keys)


@pytest.mark.parametrize(
    ("score", "at"), [(0.0, 0), (1.0, BINS - 1), (0.949999988079071, 19), (0.05, 1), (0.0499, 0), (0.5, 10)]
)
def test_histogram(score: float, at: int) -> None:
    histogram = Histogram()
    histogram.add(score)
    assert histogram.bins.index(1) == at


def found(start: int, end: int, type_: str, votes: dict[str, str | None], by: tuple[str, ...]) -> AnnotatedEntity:
    return AnnotatedEntity(start, end, "x" * (end - start), type_, 0.5, tuple(votes.items()), by, True)


def test_agreement() -> None:
    statistics = Statistics()
    entities = (
        found(0, 1, "p", {"b": "p", "a": "p"}, ("a", "b")),
        found(1, 2, "p", {"a": "p", "b": "q"}, ("b",)),
        found(2, 3, "p", {"a": "p", "b": None}, ("c",)),
    )
    statistics.add(AnnotatedDocument("1", "xxx", "ok", entities, None))
    first, _, last = statistics.agreements(("a", "b", "c"))
    assert (first.both, first.either, first.voted, first.same) == (1, 2, 2, 1)
    assert (first.shared_spans, first.shared_types) == (0.5, 0.5)
    assert (last.first, last.second, last.both, last.either, last.shared_types) == ("b", "c", 0, 3, 0.0)


def test_agreement_in_types_is_told_of_models_that_were_asked_alike(tmp_path: Path) -> None:
    # The last model is asked where the others disagree, and cannot agree with both there: 0.5 and 0.5, where all three
    # may well be of one mind on the rest.
    asked: list[dict[str, str | None]] = [{"a": "p", "b": "p"}] * 8 + [
        {"a": "p", "b": "q", "c": "q"},
        {"a": "p", "b": "q", "c": "p"},
    ]
    rows = [
        document("1", "Oslo" * 10, [
            entity("Oslo" * 10, 4 * at, 4 * at + 4, "p", votes=[{"model": m, "type": t} for m, t in votes.items()])
            for at, votes in enumerate(asked)
        ])
    ]  # fmt: skip
    write_report(str(write_run(tmp_path / "run", rows)), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("Same type, ") == 2  # a title and a label: of one pair
    assert "Same type, a and b: 8 of 10" in page
    assert page.count("not known: one was asked only where the others disagreed") == 2
    statistics = Statistics()
    statistics.add(AnnotatedDocument("1", "x", "ok", tuple(found(0, 1, "p", votes, ("a",)) for votes in asked), None))
    assert [pair.asked_alike for pair in statistics.agreements(MODELS)] == [True, False, False]


def test_models_that_were_asked_alike_agree_where_nobody_was_asked_about_the_rest() -> None:
    # As in calibrated runs: spans that were listed alone have no votes.
    entities = (found(0, 1, "p", {"a": "p", "b": None}, ("a", "b")), found(1, 2, "p", {}, ("a", "b")))
    statistics = Statistics()
    statistics.add(AnnotatedDocument("1", "xx", "ok", entities, None))
    (pair,) = statistics.agreements(("a", "b"))
    assert (pair.asked_alike, pair.voted) == (True, 0)


def test_sample_does_not_depend_on_order() -> None:
    documents = [AnnotatedDocument(f"d-{number}", "", "ok", (), None) for number in range(40)]
    ids = []
    for order in (documents, documents[::-1]):
        sample = Sample(7)
        for one in order:
            sample.add(one.doc_id, partial(show, one), preferred=one.doc_id in ("d-3", "d-30"))
        ids.append([one.doc_id for one in sample.documents()])
    assert ids[0] == ids[1] == sorted(ids[0], key=natural)
    assert len(ids[0]) == 7
    assert {"d-3", "d-30"} < set(ids[0])
    assert sorted(["d-10", "d-9"], key=natural) == ["d-9", "d-10"]


@given(st.lists(st.integers(0, 30), max_size=12), st.randoms())
def test_a_sample_is_what_fits_of_the_first_by_rank(lengths: list[int], chance: random.Random) -> None:
    documents = [
        AnnotatedDocument(f"d-{number}", "x" * length, "ok", (), None) for number, length in enumerate(lengths)
    ]

    def chosen(order: list[AnnotatedDocument], characters: int) -> set[str]:
        sample = Sample(8, characters)
        for one in order:
            sample.add(one.doc_id, partial(show, one), preferred=False)
        return {one.doc_id for one in sample.documents()}

    found = chosen(documents, 60)
    assert found == chosen(chance.sample(documents, len(documents)), 60)
    assert found <= chosen(documents, 1000)
    assert sum(len(one.text) for one in documents if one.doc_id in found) <= 60
    if len(documents) <= 8 and sum(lengths) <= 60:
        assert len(found) == len(documents)


@pytest.mark.parametrize(
    ("size", "characters", "bound"), [(3, 12, None), (2, 12, "documents"), (0, 12, "documents"), (3, 11, "characters")]
)
def test_a_sample_knows_what_kept_documents_out(size: int, characters: int, bound: str | None) -> None:
    sample = Sample(size, characters)
    for name in "abc":
        sample.add(name, partial(show, AnnotatedDocument(name, "Oslo", "ok", (), None)), preferred=False)
    assert sample.bound == bound


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.4, "0.4 s"), (98.4, "98 s"), (2760, "46 min"), (12240, "3.4 h")]
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


# -- comparing --------------------------------------------------------------------------------------------------------

spans = st.dictionaries(st.tuples(st.integers(0, 4), st.integers(5, 7)), st.sampled_from("pqr"), max_size=6)


@given(spans, spans)
def test_verdicts_add_up_to_the_evaluation(gold: dict[tuple[int, int], str], run: dict[tuple[int, int], str]) -> None:
    labelled = LabelledText("1", "x" * 8, tuple(LabelledSpan(*span, type_) for span, type_ in gold.items()))
    comparison = Comparison([labelled])
    entities = tuple(found(*span, type_, {}, ()) for span, type_ in run.items())
    comparison.add(AnnotatedDocument("1", labelled.text, "ok", entities, None))
    score = evaluate({"1": labelled.typed}, {"1": {(*span, type_) for span, type_ in run.items()}}).micro
    verdicts = comparison.verdicts
    assert verdicts["right"] == score.true_positives
    assert verdicts["type"] + verdicts["wrong"] == score.false_positives
    assert verdicts["type"] + verdicts["missed"] == score.false_negatives
    assert comparison.confusions.total() == verdicts["type"]


def test_a_span_with_two_types() -> None:
    labelled = LabelledText("1", "Paris", (LabelledSpan(0, 5, "city"), LabelledSpan(0, 5, "person")))
    comparison = Comparison([labelled])
    right = comparison.show(AnnotatedDocument("1", "Paris", "ok", (found(0, 5, "city", {}, ()),), None))
    assert [(mark.type, mark.verdict) for mark in right.marks] == [("city", "right"), ("person", "missed")]
    wrong = comparison.show(AnnotatedDocument("1", "Paris", "ok", (found(0, 5, "date", {}, ()),), None))
    assert [(mark.type, mark.verdict, mark.gold_types) for mark in wrong.marks] == [
        ("date", "type", ("city", "person"))
    ]


# -- whole reports ----------------------------------------------------------------------------------------------------


def test_texts_of_all_kinds(tmp_path: Path) -> None:
    texts = ["Bank of 👩‍👩‍👧 England\r\nin 北京市", "שלום עולם", "", "first part, second part"]
    rows = [
        document("d-10", texts[0], [entity(texts[0], 0, 21, "organization"), entity(texts[0], 14, 21, "place")]),
        document("d-9", texts[1], [entity(texts[1], 5, 9, "place", votes=[{"model": "a", "type": None}])]),
        document("d-11", texts[2], status="failed", error="read: not UTF-8"),
        document("d-12", texts[3][12:], [entity(texts[3], 12, 18, "place")], part=1, text_start=12),
        document("d-12", texts[3][:12], [entity(texts[3], 0, 5, "place")], status="partial"),
    ]
    rows[3]["entities"][0]["text"] = "second"
    errors = [{"doc_id": "d-9", "kind": "parse", "stage": "extract", "model": "a", "reason": "empty"}] * 3
    page = report(write_run(tmp_path / "run", rows, errors))
    data = page.data
    assert [(d[0], d[1], d[2]) for d in data["documents"]] == [
        ("d-9", "ok", None),
        ("d-10", "ok", None),
        ("d-11", "failed", "read: not UTF-8"),
        ("d-12", "partial", None),
    ]
    shown = ["".join(s if isinstance(s, str) else s[0] for s in segments) for _, segments, _ in data["passages"]]
    assert shown == [texts[1], texts[0], texts[2], texts[3]]
    assert data["types"] == ["organization", "place"]
    assert data["passages"][0][2][0][3] == [[0, None]]
    nested = data["passages"][1][1]
    assert [piece[1] for piece in nested if not isinstance(piece, str)] == [[0], [0, 1]]
    for expected in ("2 ok, 1 partial, 1 failed", "25%", "empty", "0123456789ab", "0.1.0"):
        assert expected in page.text


def test_statistics_cover_what_the_sample_leaves_out(tmp_path: Path) -> None:
    rows = [document(str(n), "Oslo", [entity("Oslo", 0, 4, "place", score=0.97)]) for n in range(12)]
    page = report(write_run(tmp_path / "run", rows), sample=5)
    assert len(page.data["documents"]) == 5
    assert "sample of 5 of 12 documents" in page.text
    assert "--sample N shows more" in page.text
    assert "12 entities in 12 documents" in page.text
    assert "0.95 to 1.00: 12" in page.text
    assert report(tmp_path / "run", sample=5).source == page.source
    assert not report(tmp_path / "run", sample=0).data["passages"]


def test_compare(tmp_path: Path) -> None:
    text = "Anna met Ben in Oslo on Monday"
    rows = [
        document("1", text, [entity(text, 0, 4, "person"), entity(text, 9, 12, "place"), entity(text, 5, 8, "date")]),
        document("2", "", status="failed", error="read: broken"),
        document("9", "Oslo", [entity("Oslo", 0, 4, "place")]),
    ]
    gold = [(0, 4, "person"), (9, 12, "person"), (16, 20, "place")]
    labelled = [
        {"id": "1", "text": text, "entities": [{"start": s, "end": e, "type": t} for s, e, t in gold]},
        {"id": "2", "text": "Rome", "entities": [{"start": 0, "end": 4, "type": "place"}]},
        {"id": "3", "text": "Paris", "entities": [{"start": 0, "end": 5, "type": "city"}]},
    ]
    folder = write_run(tmp_path / "run", rows)
    page = report(folder, gold_source=str(write_jsonl(tmp_path / "gold.jsonl", labelled)))
    types = page.data["types"]
    assert types == ["city", "date", "person", "place"]
    first, failed, absent, other = page.data["passages"]
    assert [(types[m[0]], m[6], [types[t] for t in m[7]]) for m in first[2]] == [
        ("person", "right", []),
        ("date", "wrong", []),
        ("place", "type", ["person"]),
        ("place", "missed", []),
    ]
    assert [[m[6] for m in passage[2]] for passage in (failed, absent, other)] == [["missed"], ["missed"], [""]]
    assert [d[1] for d in page.data["documents"]] == ["ok", "failed", "absent", "ok"]
    assert any(attributes.get("id") == "errors" for _, attributes in page.elements)
    for expected in (
        "1 gold documents are not in the run",
        "1 documents of the run are not in the gold",
        "0.333",
        "0.200",
    ):
        assert expected in page.text


def test_gold_that_the_run_lacks_comes_before_other_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [document(str(number), "Oslo") for number in range(12)]
    ids = ["11", "20", "21", "22"]
    gold = str(write_jsonl(tmp_path / "gold.jsonl", [{"id": id_, "text": "Oslo", "entities": []} for id_ in ids]))
    folder = write_run(tmp_path / "run", rows)
    page = report(folder, gold_source=gold, sample=5)
    shown = [d[0] for d in page.data["documents"]]
    assert len(shown) == 5
    assert shown[1:] == ids
    assert {d[0] for d in report(folder, gold_source=gold, sample=2).data["documents"]} < set(ids)
    # They count against the characters, too.
    monkeypatch.setattr("el4ner_ray.report.build.Sample", partial(Sample, characters=2 * len("Oslo")))
    page = report(folder, gold_source=gold, sample=5)
    assert len(page.data["documents"]) == 2
    assert "has room for no more, whatever --sample is" in page.text
    assert "--sample N" not in page.text
    assert "3 gold documents are not in the run" in page.text


def test_a_surface_with_line_breaks_leads_to_its_texts(tmp_path: Path) -> None:
    surfaces = ["New\r\nYork", "São\rPaulo", 'a\n"b&#13;"']
    rows = [document(surface, surface, [entity(surface, 0, len(surface), "place")]) for surface in surfaces]
    page = report(write_run(tmp_path / "run", rows))  # reads line ends as HTML does: each is LF unless written as &#13;
    searched = {attributes["data-search"] for _, attributes in page.elements if "data-search" in attributes}
    assert searched == set(surfaces)
    assert {segments[0][0] for _, segments, _ in page.data["passages"]} == searched


def test_nothing_can_run(tmp_path: Path) -> None:
    rows = [
        document(
            payload,
            payload,
            [
                entity(
                    payload,
                    0,
                    len(payload),
                    payload,
                    votes=[{"model": payload, "type": payload}],
                    extracted_by=[payload],
                )
            ],
            error=payload,
            status="partial",
        )
        for payload in HOSTILE
    ]
    errors = [dict.fromkeys(("doc_id", "kind", "stage", "model", "reason", "raw"), payload) for payload in HOSTILE]
    usage = {payload: msgspec.to_builtins(Usage(requests=1)) for payload in HOSTILE}
    config = {
        "models": [{"name": payload, "source": payload} for payload in HOSTILE],
        "labels": {payload: payload for payload in HOSTILE},
        "demonstrations": {"k": HOSTILE[0], "embedder": HOSTILE[1]},
    } | dict.fromkeys(("method", "profile", "prompts", "verifier", "segmenter", "language"), HOSTILE[0])
    fields = {"stages": dict.fromkeys(HOSTILE, usage), "versions": {payload: payload for payload in HOSTILE}}
    head = dict.fromkeys(("status", "engine", "started", "fingerprint"), HOSTILE[0])
    folder = write_run(tmp_path / "<img src=x onerror=ran=1>", rows, errors, config=config, **fields, **head)
    gold = [
        {"id": payload, "text": payload, "entities": [{"start": 0, "end": len(payload), "type": payload}]}
        for payload in HOSTILE
    ]
    page = report(folder, gold_source=str(write_jsonl(tmp_path / "gold.jsonl", gold)))
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == 2
    assert tags["style"] == 1
    assert not tags.keys() & {"img", "iframe", "link", "object", "embed", "base"}
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"style", "src", "srcdoc"}
    assert all(attributes["href"].startswith("#") for tag, attributes in page.elements if tag == "a")
    assert not re.search(r"[<>&\u2028\u2029]", page.inside["script"][0])
    assert {document[0] for document in page.data["documents"]} == set(HOSTILE)
    assert page.text.count("{{7*7}}") > 10


def test_the_policy_names_style_and_script(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run", [document("1", "Oslo")]))
    policy = next(a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for directive, content in (("script-src", page.inside["script"][1]), ("style-src", page.inside["style"][0])):
        hash_ = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{hash_}'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b", page.inside["script"][1])
    assert not re.search(r"https?://|@import|url\(", page.source)


def test_what_a_run_may_be(tmp_path: Path) -> None:
    empty = report(write_run(tmp_path / "empty", []))
    assert not empty.data["documents"]
    assert "0 entities in 0 documents" in empty.text
    fake = report(write_run(tmp_path / "fake", [document("1", "Oslo")], engine="fake"))
    assert "Scripted answers, no model." in fake.text
    rows = [document("1", "Oslo"), document("2", "Oslo", status="failed")]
    folder = write_run(tmp_path / "stopped", rows)
    kept = ("engine", "started", "config", "fingerprint", "versions")
    run = {"status": "running"} | {name: value for name, value in run_json(rows).items() if name in kept}
    (folder / "run.json").write_text(json.dumps(run))
    stopped = report(folder)
    for expected in ("This run is not finished.", "1 ok, 0 partial, 1 failed", "Sentences14"):
        assert expected in stopped.text


def test_wrong_use(tmp_path: Path) -> None:
    rows = [document("1", "Oslo")]
    no_run = write_run(tmp_path / "no-run", rows)
    (no_run / "run.json").unlink()
    no_method = write_run(tmp_path / "no-method", rows, config={"models": []})
    not_json = write_run(tmp_path / "not-json", rows)
    (not_json / "run.json").write_text("{")
    lost = write_run(tmp_path / "lost", [], documents={"total": 3, "ok": 3, "partial": 0, "failed": 0})
    whole = write_run(tmp_path / "whole", rows)
    for folder, gold, output, named in [
        (tmp_path / "none", None, "r.html", ["none", "run.json", "el4ner annotate"]),
        (no_run, None, "r.html", ["no-run", "run.json", "el4ner annotate"]),
        (no_method, None, "r.html", ["run.json", "method", "$.config"]),
        (not_json, None, "r.html", ["run.json"]),
        (lost, None, "r.html", ["lost", "annotations"]),
        (whole, str(tmp_path / "gold.jsonl"), "r.html", ["gold.jsonl"]),
        (whole, None, "whole", ["--output", "whole"]),
    ]:
        with pytest.raises(UsageError) as error:
            write_report(str(folder), tmp_path / output, gold)
        assert all(name in str(error.value) for name in named), str(error.value)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "run", [document("1", "Oslo")])
    output = tmp_path / "deeper" / "report.html"
    monkeypatch.setattr(sys, "argv", ["el4ner", "report", str(folder), "-o", str(output)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    assert "1 of 1 documents" in capsys.readouterr().out
    assert output.exists()


def test_a_name_that_is_not_utf_8_is_shown_with_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / os.fsdecode(b"caf\xe9"), [document("1", "Oslo")])
    output = folder / "report.html"
    monkeypatch.setattr(sys, "argv", ["el4ner", "report", str(folder), "-o", str(output)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None)
    assert r"caf\udce9" in capsys.readouterr().out
    assert r"<h1>caf\udce9</h1>" in output.read_text("utf-8")


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, output = write_run(tmp_path / "run", [document("1", "Oslo")]), tmp_path / "r" / "report.html"
    write_report(str(folder), output)
    before, write = output.read_bytes(), Path.write_bytes

    def full(path: Path, content: bytes) -> None:
        write(path, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FatalError, match=rf"--output {output}: writing failed, .*No space left on device"):
        write_report(str(folder), output)
    assert output.read_bytes() == before
    assert list(output.parent.iterdir()) == [output]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "numbers", "--output")
    assert os.read(reader, 100) == b"numbers"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_colours_can_be_read_and_told_apart() -> None:
    chosen = palette.colours(palette.MOST)
    assert len(set(chosen)) == palette.MOST
    for colour in chosen:
        assert _contrast(colour.strong, colour.tint) >= 4.5
        assert _contrast(colour.dark_strong, colour.dark_tint) >= 4.5
        assert _contrast("#1c1e21", colour.tint) >= 7
        assert _contrast("#e8eaee", colour.dark_tint) >= 7
    # In OKLab, where 0.02 can just be seen: strong and tint together.
    places = np.array([palette._place(colour) for colour in chosen])
    distances = np.array([palette._distances(places, place) for place in places])
    assert distances[~np.eye(palette.MOST, dtype=bool)].min() > 0.06
    assert chosen[:7] == palette.colours(7)


def test_more_types_than_colours(tmp_path: Path) -> None:
    text = " ".join(f"E{number}" for number in range(60))
    spans = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]
    entities = [entity(text, *span, f"T{number}") for number, span in enumerate(spans)]
    output = tmp_path / "report.html"
    write_report(str(write_run(tmp_path / "run", [document("1", text, entities)])), output)
    page = output.read_text()
    assert f"const COLOURS = {palette.MOST};" in page
    assert f".type-{palette.MOST - 1} {{" in page
    assert f".type-{palette.MOST} {{" not in page


def _contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(_luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
