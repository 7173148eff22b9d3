"""Each export read back by the library that it is for, over texts, ids and types that break naive writers."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import datasets
import jsonschema
import msgspec
import pandas
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate.evaluator import Evaluator
from seqeval.metrics.sequence_labeling import get_entities
from spacy.tokens import DocBin
from spacy.training import Corpus

from el4ner_ray.cli import main
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.export import brat, conll, jsonl, label_studio, shared, spacy_docbin, spreadsheet, web_annotation
from el4ner_ray.export.registry import FORMATS, Summary, export_run
from el4ner_ray.export.shared import Export, Names, Tokenizer, flat, replacing
from el4ner_ray.labelled import read_labelled
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity, read_annotations
from tests.unit.test_evaluation import entity_row, row, write_run

# --- The run: id, text, mentions with their types (the first occurrence, or that after `~`)

CASES: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("plain", "Ann flew to Oslo.", [("Ann", "person"), ("Oslo", "place")]),
    ("emoji", "👩‍👩‍👧 𝒳 met Zoë 👋🏽 in Óslo 🇳🇴 with 👋🏽Bo.", [("Zoë", "person"), ("👋🏽", "x\ty"), ("Bo", "person")]),
    (
        "crlf",
        "One\r\nNew\r\nYork.\r\n\r\nBonn\rand Rome",
        [("New\r\nYork", "place"), ("Bonn", "place"), ("Rome", "a b")],
    ),
    ("lf", "in New  \n\n  York and a\u2028b\x0cc\x85d", [("New  \n\n  York", "place"), ("a\u2028b\x0cc\x85d", "<b>")]),
    ("combining", "José and a\u0301e\u0301 left.", [("José", "person"), ("a\u0301", "a_b"), ("e\u0301", "a b")]),
    (
        "chinese",
        "2023年9月8日，星河汽车在成都。好的",
        [("9月", "date"), ("星河汽车", "人名"), ("汽", "place"), ("好", "人名")],
    ),
    ("thai", "สวัสดีกรุงเทพ ครับ", [("กรุงเทพ", "place")]),
    ("rtl", "غادرت السفينة لؤلؤة البحر ميناء جدة", [("لؤلؤة البحر", "n\nl"), ("ميناء جدة", "place"), ("جدة", "place")]),
    (
        "nested",
        "At University of Bergen Library, Dr. Ann Lee.",
        [("University of Bergen", "org"), ("Bergen", "place"), ("Bergen Library", "org"), ("Dr. Ann", "q\"&'")],
    ),
    ("twice", "Bergen", [("Bergen", "org"), ("Bergen", "place")]),
    ("inside", "pre-Oslo-based antiOsloism", [("Oslo", "place"), ("pre", "../../x"), ("~Oslo", "-")]),
    ("spaces", " a  b   c ", [(" a", "org"), ("b  ", "org"), ("  ", "blank"), ("c ", "org")]),
    ("../../x", "-DOCSTART- of -DOCSTART-", [("-DOCSTART-", "org")]),
    ("a b", "<b>Ann</b> & \"Bo\" 'C'", [("Ann", "B-x"), ('"Bo"', "person")]),
    ("<b>&", "tab\there", [("tab\there", "org")]),
    ("tab\tid", "no entity here", []),
    ("new\nline", "", []),
    ("a/b\\c.txt", "\n\n", []),
    ("nul\x7f", "a\x01b \ufeffc", [("a\x01b", "org"), ("\ufeffc", "org")]),
]


def mention_rows(text: str, mentions: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for number, (mention, type_) in enumerate(mentions):
        if mention.startswith("~"):
            mention = mention[1:]
            start = text.rindex(mention)
        else:
            start = text.index(mention)
        yield entity_row(start, start + len(mention), mention, type_) | {"score": round(0.9 - number / 8, 3)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    rows = [row(id_, text, *mention_rows(text, mentions)) for id_, text, mentions in CASES]
    parts = [
        row("parts", "Bo.👋", entity_row(19, 21, "Bo", "person"), part=1, start=19, status="partial", error="slow"),
        row("parts", "Ann 👋 flew to Oslo\n", entity_row(14, 18, "Oslo", "place"), part=0, status="partial"),
    ]
    failed = [
        row("failed", None, status="failed", error="no text", entities=None),
        row("failed too", "Ann", entity_row(0, 3, "Ann", "person"), status="failed", error="slow"),
    ]
    return write_run(folder, [*rows, parts[0]], [parts[1], *failed])


@pytest.fixture(scope="module")
def documents(run: str) -> dict[str, AnnotatedDocument]:
    """What every export must hold, by id."""
    read = {document.doc_id: document for document in read_annotations(run)}
    return read | {"failed too": msgspec.structs.replace(read["failed too"], entities=())}


@pytest.fixture
def write(run: str, tmp_path: Path) -> Callable[..., tuple[Path, Summary]]:
    def write(format_: str, **options: Any) -> tuple[Path, Summary]:
        out = tmp_path / f"out-{format_}"
        chosen = {"min_score": 0.0, "overwrite": False, "language": "en"} | options
        return out, export_run(run, format_, str(out), **chosen)

    return write


def typed(document: AnnotatedDocument) -> set[tuple[int, int, str]]:
    return {(entity.start, entity.end, entity.type) for entity in document.entities}


def one(text: str, *spans: tuple[int, int], type_: str = "t") -> AnnotatedDocument:
    entities = [AnnotatedEntity(s, e, text[s:e], type_, 0.5, (("m", type_),), ("m",), True) for s, e in spans]
    return AnnotatedDocument("d", text, "ok", tuple(entities), None)


def ask(path: Path, *documents: AnnotatedDocument) -> Export:
    return Export(iter(documents), path, overwrite=True, language="en", labels=("t",))


# --- jsonl


def test_jsonl_in_datasets_and_in_el4ner(write: Any, documents: dict[str, AnnotatedDocument], tmp_path: Path) -> None:
    out, summary = write("jsonl")
    out = out.rename(tmp_path / "out.jsonl")
    loaded = datasets.load_dataset("json", data_files=str(out), cache_dir=str(tmp_path / "cache"), split="train")
    assert list(loaded["id"]) == list(documents)
    for line in loaded:
        document = documents[line["id"]]
        assert (line["text"], line["status"], line["error"]) == (document.text, document.status, document.error or "")
        for found, entity in zip(line["entities"], document.entities, strict=True):
            assert line["text"][found["start"] : found["end"]] == found["text"] == entity.text
            assert (found["type"], found["score"]) == (entity.type, entity.score)
            assert found["votes"] == [{"model": model, "type": type_} for model, type_ in entity.votes]
            assert (found["extracted_by"], found["verified"]) == (["m1"], True)
    with pytest.raises(UsageError, match="is white space only"):  # no run finds such an entity
        read_labelled(str(out), "gold")
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(line for line in lines if b'"blank"' not in line))
    gold = {text.id: text for text in read_labelled(str(out), "gold")}
    assert {id_: (text.text, set(text.typed)) for id_, text in gold.items()} == {
        id_: (document.text, typed(document)) for id_, document in documents.items() if id_ != "spaces"
    }
    assert summary.notes == ("documents that failed, written without entities: 2", "documents annotated in part: 1")
    assert (summary.documents, summary.entities) == (len(documents), sum(len(d.entities) for d in documents.values()))


def test_jsonl_can_be_the_pool_of_a_next_run(tmp_path: Path) -> None:
    jsonl.write(ask(tmp_path / "pool.jsonl", one("Ann 👋 met Bo", (0, 3), (10, 12))))
    (text,) = read_labelled(str(tmp_path / "pool.jsonl"), "pool")
    assert [text.text[entity.start : entity.end] for entity in text.entities] == ["Ann", "Bo"]


@pytest.mark.parametrize(
    ("status", "told"), [("running", "this run is not finished, its state is “running”"), (None, "no run.json tells")]
)
def test_that_a_run_is_not_finished_is_told(tmp_path: Path, status: str | None, told: str) -> None:
    directory = write_run(tmp_path, [row("long", "the first part of")], status=status)
    options: dict[str, Any] = {"min_score": 0.0, "overwrite": True, "language": "en"}
    (note,) = export_run(directory, "jsonl", str(tmp_path / "out.jsonl"), **options).notes
    assert note.startswith(told)
    assert "long ones may lack their last parts" in note
    (tmp_path / "run.json").write_text('{"status": "finished", "config": {"models": []}}')
    assert export_run(directory, "jsonl", str(tmp_path / "out.jsonl"), **options).notes == ()


# --- conll


def columns(path: Path) -> list[list[list[tuple[str, str]]]]:
    """Documents as sentences as (token, tag)."""
    read: list[list[list[tuple[str, str]]]] = []
    for block in path.read_bytes().decode().rstrip("\n").split("\n\n"):
        sentence = [tuple(line.split("\t")) for line in block.split("\n")]
        assert all(len(each) == 2 for each in sentence)
        if sentence == [(conll.BOUNDARY, "O")]:
            read.append([])
        else:
            read[-1].append(sentence)  # type: ignore[arg-type]
    return read


def test_conll_in_seqeval_nervaluate_and_el4ner(
    write: Any, documents: dict[str, AnnotatedDocument], tmp_path: Path
) -> None:
    out, summary = write("conll")
    out = out.rename(tmp_path / "out.conll")
    read = columns(out)
    names: dict[str, str] = {}
    wanted, sentences = [], []
    annotated = [document for document in documents.values() if document.status != "failed"]
    for document, found in zip(annotated, read, strict=True):
        tokens = [token for sentence in found for token, _ in sentence]
        assert "".join(tokens) == "".join(document.text.split()), document.doc_id
        assert not any(re.search(r"\s", token) for token in tokens)
        kept = [entity for entity in flat(document.entities) if not entity.text.isspace()]
        mentions = []
        for sentence in found:
            for name, first, last in get_entities([tag for _, tag in sentence]):
                mentions.append(("".join(token for token, _ in sentence[first : last + 1]), name))
        assert [mention for mention, _ in mentions] == ["".join(entity.text.split()) for entity in kept]
        for entity, (_, name) in zip(kept, mentions, strict=True):
            assert names.setdefault(entity.type, name) == name  # each type has one name
        wanted += mentions
        sentences += found
    assert len(set(names.values())) == len(names)
    assert (names["a b"], names["a_b"], names["x\ty"], names["人名"], names["-"]) == (
        "a_b",
        "a_b_2",
        "x_y",
        "人名",
        "type",
    )

    own = [text for text in read_labelled(str(out), "gold") if text.entities]
    spans = [(text.text[span.start : span.end].replace(" ", ""), span.type) for text in own for span in text.entities]
    assert spans == wanted

    content = out.read_text("utf-8")
    labels = sorted(set(names.values()))
    overall = Evaluator(content, content, tags=labels, loader="conll").evaluate()["overall"]["strict"]
    assert (overall.correct, overall.spurious, overall.missed) == (len(wanted), 0, 0)

    total = sum(len(document.entities) for document in documents.values())
    left_out = total - sum(len(flat(document.entities)) for document in documents.values())
    assert f"entities nested in or overlapping a longer one, left out: {left_out} of {total}" in summary.notes
    assert "entities of white space only, left out: 1" in summary.notes
    assert "documents that failed, left out: 2" in summary.notes
    assert "type 'a_b': written as 'a_b_2'" in summary.notes


def test_conll_sentences_and_scripts_without_spaces(tmp_path: Path) -> None:
    text = "Dr. Ann came. She met Bo. Lee there.\n星河汽车 สวัสดี"
    conll.write(ask(tmp_path / "out", one(text, (22, 29))))  # an entity across what looks like a sentence's end
    found = [[token for token, _ in sentence] for sentence in columns(tmp_path / "out")[0]]
    assert [sentence[-1] for sentence in found[:2]] == [".", "."]
    assert found[1][2:6] == ["Bo", ".", "Lee", "there"]
    assert [token for sentence in found for token in sentence][-8:] == [*"星河汽车", "ส", "วั", "ส", "ดี"]


# --- spacy


def test_spacy_has_all_spans_and_their_evidence(write: Any, documents: dict[str, AnnotatedDocument]) -> None:
    out, summary = write("spacy")
    nlp = spacy.blank("xx")
    docs = [doc for path in sorted(out.glob("*.spacy")) for doc in DocBin().from_disk(path).get_docs(nlp.vocab)]
    for doc, document in zip(docs, documents.values(), strict=True):
        assert doc.text == document.text
        kept = {"doc_id": document.doc_id, "status": document.status, "error": document.error}
        assert doc.user_data == kept
        group = doc.spans["el4ner"]
        found = [(span.start_char, span.end_char, span.label_) for span in group]
        assert found == [(entity.start, entity.end, entity.type) for entity in document.entities]
        assert [span.text for span in group] == [entity.text for entity in document.entities]
        assert group.attrs["scores"] == [entity.score for entity in document.entities]
        assert group.attrs["votes"] == [[list(vote) for vote in entity.votes] for entity in document.entities]
        assert group.attrs["verified"] == [True] * len(group)
        ents = [(span.start_char, span.end_char, span.label_) for span in doc.ents]
        assert ents == [(entity.start, entity.end, entity.type) for entity in flat(document.entities)]
    assert any("but not in doc.ents: " in note for note in summary.notes)
    corpus = list(Corpus(out)(nlp))  # as `spacy train` reads it; it skips texts without a token
    assert len(corpus) == sum(bool(document.text) for document in documents.values())


@pytest.mark.parametrize(("status", "others"), [("ok", "O"), ("partial", ""), ("failed", "")])
def test_what_nobody_looked_at_teaches_spacy_nothing(tmp_path: Path, status: str, others: str) -> None:
    found = [(0, 3)] if status != "failed" else []
    document = msgspec.structs.replace(one("Ann met Ben", *found), status=status)
    spacy_docbin.write(ask(tmp_path / "out", document))
    (doc,) = DocBin().from_disk(tmp_path / "out" / "docs-000001.spacy").get_docs(spacy.blank("xx").vocab)
    assert [token.ent_iob_ for token in doc] == (["B"] if found else [others]) + [others] * 2
    assert [ent.text for ent in doc.ents] == ["Ann"] * bool(found)


def test_spacy_is_cut_into_files_that_fit_in_memory(
    write: Any, documents: dict[str, AnnotatedDocument], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spacy_docbin, "_TOKENS_IN_FILE", 20)
    out, _ = write("spacy")
    files = sorted(out.glob("*.spacy"))
    sizes = [len(DocBin().from_disk(path)) for path in files]
    assert len(files) > 3
    assert sum(sizes) == len(documents)


# --- label-studio

# After https://labelstud.io/guide/task_format and https://labelstud.io/guide/predictions
TASKS_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "additionalProperties": False,
        "properties": {
            "data": {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["model_version", "result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "result": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["id", "from_name", "to_name", "type", "value"],
                                "properties": {
                                    "id": {"type": "string"},
                                    "type": {"const": "labels"},
                                    "score": {"type": "number", "minimum": 0, "maximum": 1},
                                    "value": {
                                        "type": "object",
                                        "required": ["start", "end", "labels"],
                                        "additionalProperties": False,
                                        "properties": {
                                            "start": {"type": "integer", "minimum": 0},
                                            "end": {"type": "integer", "minimum": 1},
                                            "text": {"type": "string"},
                                            "labels": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def in_the_editor(text: str, start: int, end: int) -> str:
    """What Label Studio's editor marks: a `<br>` for each CR and each LF counts one, other text its code points.

    The code points are put together from UTF-16 units, as a browser's `[...string]` does it.
    """
    content: list[str] = []
    for number, line in enumerate(re.split(r"[\n\r]", text)):
        content += ["<br>"] if number else []
        units = memoryview(line.encode("utf-16-le")).cast("H").tolist()
        while units:
            size = 2 if 0xD800 <= units[0] < 0xDC00 else 1
            content.append(b"".join(unit.to_bytes(2, "little") for unit in units[:size]).decode("utf-16-le"))
            units = units[size:]
    return "".join(content[start:end])


def test_label_studio_tasks_and_configuration(write: Any, documents: dict[str, AnnotatedDocument]) -> None:
    out, summary = write("label-studio")
    tasks = json.loads(out.read_bytes())
    jsonschema.Draft202012Validator(TASKS_SCHEMA).validate(tasks)
    configuration = ElementTree.parse(out.with_suffix(".config.xml")).getroot()
    control, shown = configuration.find("Labels"), configuration.find("Text")
    assert control is not None
    assert shown is not None
    labels = [label.get("value") for label in control]
    assert set(labels) == {entity.type for document in documents.values() for entity in document.entities}
    assert len(labels) == len(set(labels))
    assert shown.get("value") == "$text"
    for task, document in zip(tasks, documents.values(), strict=True):
        assert (task["data"]["text"], task["data"]["doc_id"]) == (document.text, document.doc_id)
        assert len(task["predictions"]) == (document.status != "failed")
        results = [result for prediction in task["predictions"] for result in prediction["result"]]
        assert len({result["id"] for result in results}) == len(results)
        for result, entity in zip(results, document.entities, strict=True):
            value = result["value"]
            assert (result["from_name"], result["to_name"]) == (control.get("name"), shown.get("name"))
            assert value["labels"] == [entity.type]
            assert value["text"] == entity.text == document.text[value["start"] : value["end"]]
            seen = in_the_editor(document.text, value["start"], value["end"])
            assert seen == re.sub(r"[\n\r]", "<br>", entity.text)
    assert any(str(out.with_suffix(".config.xml")) in note for note in summary.notes)


LABELS = ["date", "person", "人名"]


def labelled_run(folder: Path, *rows: dict[str, Any], **account: Any) -> str:
    """A run with a `run.json` that has these fields beside what readers need."""
    directory = write_run(folder, list(rows))
    config = {"models": [], **account.pop("config", {})}
    (folder / "run.json").write_text(json.dumps({"status": "finished", "config": config, **account}))
    return directory


@pytest.mark.parametrize(
    "account",
    [
        {"config": {"labels": dict.fromkeys(LABELS, "what it is")}},
        # Of the pool: where the configuration names no labels.
        {"config": {"labels": None}, "fingerprint_fields": {"label_order": LABELS}},
        {"config": {"labels": dict.fromkeys(sorted(LABELS)[::-1])}, "fingerprint_fields": {"label_order": LABELS}},
    ],
)
@pytest.mark.parametrize("entities", [[], [entity_row(0, 3, "Ann", "person"), entity_row(8, 12, "Oslo", "place")]])
def test_labels_that_were_never_predicted_can_be_given_by_hand(
    tmp_path: Path, account: dict[str, Any], entities: list[dict[str, Any]]
) -> None:
    directory = labelled_run(tmp_path, row("1", "Ann and Oslo", *entities), **account)
    extra = ["place"] if entities else []
    options: dict[str, Any] = {"min_score": 0, "overwrite": False}
    summary = export_run(directory, "label-studio", str(tmp_path / "tasks.json"), **options)
    control = ElementTree.parse(tmp_path / "tasks.config.xml").getroot().find("Labels")
    assert control is not None
    assert [label.get("value") for label in control] == [*LABELS, *extra]
    assert len(summary.notes) == 1
    export_run(directory, "brat", str(tmp_path / "brat"), **options)
    names = (tmp_path / "brat" / "annotation.conf").read_text().split("\n\n")[0].splitlines()
    assert names == ["[entities]", "date", "person", "type", *extra]
    assert json.loads((tmp_path / "brat" / "export.json").read_bytes())["types"]["type"] == "人名"


@pytest.mark.parametrize("format_", ["label-studio", "brat"])
def test_that_no_run_tells_the_labels_is_told(tmp_path: Path, format_: str) -> None:
    directory = write_run(tmp_path, [row("1", "Ann", entity_row(0, 3, "Ann", "person"))], status=None)
    notes = export_run(directory, format_, str(tmp_path / "out"), min_score=0, overwrite=False).notes
    assert "no run.json tells the labels of the run: the configuration has those only that occur" in notes


def test_a_label_of_the_run_that_cannot_be_one_is_named(tmp_path: Path) -> None:
    directory = labelled_run(tmp_path, row("1", "Ann"), config={"labels": {"$text": ""}})
    with pytest.raises(UsageError, match=r"--format label-studio: type .* cannot be a label"):
        export_run(directory, "label-studio", str(tmp_path / "out.json"), min_score=0, overwrite=False)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("type_", ["$text", "cost $x", "a\x00b", "\ufffe"])
def test_a_type_that_cannot_be_a_label_is_named(tmp_path: Path, type_: str) -> None:
    with pytest.raises(UsageError, match=r"--format label-studio: type .* cannot be a label"):
        label_studio.write(ask(tmp_path / "out.json", one("Ann", (0, 3), type_=type_)))
    assert list(tmp_path.iterdir()) == []


def test_no_document_is_still_json(tmp_path: Path) -> None:
    label_studio.write(ask(tmp_path / "out.json"))
    assert json.loads((tmp_path / "out.json").read_bytes()) == []


# --- brat


def brat_annotations(path: Path) -> dict[str, tuple[list[tuple[int, int]], str, str]]:
    """Spans, type and text by id, with the checks of brat's own reader (server/src/annotation.py)."""
    text = Path(f"{path}.txt").read_bytes().decode()
    found: dict[str, tuple[list[tuple[int, int]], str, str]] = {}
    for line in Path(f"{path}.ann").read_bytes().decode().splitlines():
        id_, data, tail = line.split("\t", 2)
        type_, rest = data.split(" ", 1)
        assert re.fullmatch(r"[A-Za-z0-9_-]+", type_)
        if id_.startswith("#"):
            assert (type_, rest) == ("AnnotatorNotes", f"T{id_[1:]}")
            assert re.fullmatch(r"score [01]\.\d{4}", tail)
            continue
        spans = [(int(start), int(end)) for start, end in (each.split(" ") for each in rest.split(";"))]
        assert all(0 <= start < end <= len(text) for start, end in spans)
        assert all(end < start for (_, end), (start, _) in pairwise(spans))
        assert " ".join(text[start:end] for start, end in spans) == tail
        assert id_ not in found
        found[id_] = (spans, type_, tail)
    return found


def test_brat_read_as_brat_does(write: Any, documents: dict[str, AnnotatedDocument]) -> None:
    out, summary = write("brat")
    index = [json.loads(line) for line in (out / "documents.jsonl").read_bytes().splitlines()]
    types = json.loads((out / "export.json").read_bytes())["types"]
    assert [entry["id"] for entry in index] == list(documents)
    assert [entry["name"] for entry in index] == [f"doc-{number:06}" for number in range(1, len(documents) + 1)]
    written = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    named = {f"{entry['name']}.{suffix}" for entry in index for suffix in ("txt", "ann")}
    assert written == named | {"documents.jsonl", "export.json", "annotation.conf"}
    for entry in index:
        document = documents[entry["id"]]
        text = (out / f"{entry['name']}.txt").read_bytes().decode()
        assert text == document.text.replace("\r", " ").replace("\t", " ")
        found = brat_annotations(out / entry["name"])
        whole = {(spans[0][0], spans[-1][1], types[type_]) for spans, type_, _ in found.values()}
        assert whole == typed(document)
    crlf = brat_annotations(out / "doc-000003")
    assert crlf["T1"][0] == [(5, 8), (10, 14)]
    conf = (out / "annotation.conf").read_text().split("\n\n")
    assert conf[0].splitlines() == ["[entities]", *types]
    assert [section.strip() for section in conf[1:]] == ["[relations]", "[events]", "[attributes]"]
    assert "type '人名': written as 'type'" in summary.notes
    assert "documents with carriage returns or tabs, written as spaces to keep offsets: 2" in summary.notes


def test_no_tab_of_a_mention_begins_another_field_of_brats(tmp_path: Path) -> None:
    notes = brat.write(ask(tmp_path / "out", one("A\tfoo\tbar", (2, 9), (1, 2))))
    assert notes == ["documents with carriage returns or tabs, written as spaces to keep offsets: 1"]
    found = brat_annotations(tmp_path / "out" / "doc-000001")
    assert {id_: (spans, text) for id_, (spans, _, text) in found.items()} == {
        "T1": ([(2, 9)], "foo bar"),
        "T2": ([(1, 2)], " "),
    }
    lines = (tmp_path / "out" / "doc-000001.ann").read_bytes().splitlines()
    assert [line.count(b"\t") for line in lines] == [2, 2, 2, 2]


def test_brat_mentions_with_breaks_at_their_ends_are_counted(tmp_path: Path) -> None:
    notes = brat.write(ask(tmp_path / "out", one("\nAnn\n \nBo", (0, 4), (4, 5), (1, 9))))
    assert notes == ["mentions that begin or end with a line break, marked without it, or left out if blank: 2"]
    found = brat_annotations(tmp_path / "out" / "doc-000001")
    assert {id_: spans for id_, (spans, _, _) in found.items()} == {"T1": [(1, 4)], "T3": [(1, 4), (7, 9)]}


# --- web-annotation

# After https://www.w3.org/TR/annotation-model/ (3.1, 3.2.4, 3.3.4, 4.2.4, 4.2.5)
IRI = {"type": "string", "pattern": r"^[a-z][a-z0-9+.-]*:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+$"}
ANNOTATION_SCHEMA = {
    "type": "object",
    "required": ["@context", "id", "type", "target"],
    "properties": {
        "@context": {"type": "array", "contains": {"const": "http://www.w3.org/ns/anno.jsonld"}},
        "id": IRI,
        "type": {"const": "Annotation"},
        "motivation": {"const": "classifying"},
        "body": {
            "type": "object",
            "required": ["type", "value"],
            "properties": {"type": {"const": "TextualBody"}, "value": {"type": "string"}},
        },
        "target": {
            "type": "object",
            "required": ["source", "selector"],
            "properties": {
                "source": IRI,
                "selector": {
                    "type": "array",
                    "prefixItems": [
                        {
                            "required": ["type", "start", "end"],
                            "properties": {
                                "type": {"const": "TextPositionSelector"},
                                "start": {"type": "integer", "minimum": 0},
                                "end": {"type": "integer", "minimum": 0},
                            },
                        },
                        {
                            "required": ["type", "exact", "prefix", "suffix"],
                            "properties": {"type": {"const": "TextQuoteSelector"}},
                        },
                    ],
                    "minItems": 2,
                    "maxItems": 2,
                },
            },
        },
    },
}


def test_web_annotation_selectors_resolve(write: Any, documents: dict[str, AnnotatedDocument]) -> None:
    out, summary = write("web-annotation")
    annotations = [json.loads(line) for line in out.read_bytes().split(b"\n")[:-1]]
    validator = jsonschema.Draft202012Validator(ANNOTATION_SCHEMA)
    found: dict[str, set[tuple[int, int, str]]] = {}
    for annotation in annotations:
        validator.validate(annotation)
        prefix, source = "urn:el4ner:document:", annotation["target"]["source"]
        assert "/" not in source  # no part of it can be taken for a path
        document = documents[unquote(source.removeprefix(prefix))]
        position, quotation = annotation["target"]["selector"]
        start, end, text = position["start"], position["end"], document.text
        assert text[start:end] == quotation["exact"]
        around = quotation["prefix"] + quotation["exact"] + quotation["suffix"]
        assert text[start - len(quotation["prefix"]) :].startswith(around)
        assert len(quotation["prefix"]) == min(start, 32)
        found.setdefault(document.doc_id, set()).add((start, end, annotation["body"]["value"]))
    assert found == {id_: typed(document) for id_, document in documents.items() if document.entities}
    assert len({annotation["id"] for annotation in annotations}) == len(annotations) == summary.entities
    assert "documents that failed, left out: 2" in summary.notes
    silent = sum(not document.entities and document.status != "failed" for document in documents.values())
    assert f"documents without entities, which nothing in the file names: {silent}" in summary.notes


# --- csv

COLUMNS = ["id", "start", "end", "type", "text", "score", "context"]
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "\uff0b", "\uff0d", "\uff1d", "\uff20")
# What docs/export.md says: one apostrophe is taken away there.
OURS = re.compile(r"(?:^|(?<=[;\t\r\n]))'(?=[ ']*[-=+@\uff0b\uff0d\uff1d\uff20\0])|^'(?='*[\t\r\n])")


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_csv_has_a_row_for_each_entity(write: Any, documents: dict[str, AnnotatedDocument]) -> None:
    out, summary = write("csv")
    rows = read_rows(out)
    wanted = [(document, entity) for document in documents.values() for entity in document.entities]
    assert len(rows) == summary.entities == len(wanted)
    for found, (document, entity) in zip(rows, wanted, strict=True):
        assert list(found) == COLUMNS
        plain = {name: OURS.sub("", cell) for name, cell in found.items()}
        start, end = int(found["start"]), int(found["end"])
        assert (plain["id"], plain["type"], plain["text"]) == (document.doc_id, entity.type, entity.text)
        assert document.text[start:end] == plain["text"]
        assert float(found["score"]) == pytest.approx(entity.score, abs=5e-5)
        around = document.text[max(0, start - 40) : end + 40]
        assert plain["context"] == " ".join(around.split())
        assert len(found["context"].splitlines()) <= 1
    assert "documents that failed, left out: 2" in summary.notes
    silent = sum(not document.entities and document.status != "failed" for document in documents.values())
    assert f"documents without entities, which nothing in the file names: {silent}" in summary.notes
    changed = sum(any(OURS.search(cell) for cell in found.values()) for found in rows)
    assert any(note.endswith(f"what a spreadsheet would compute: {changed}") for note in summary.notes)


def test_csv_in_pandas_and_for_excel(write: Any) -> None:
    out, summary = write("csv")
    content = out.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfid,start,end,type,text,score,context\r\n")  # Excel asks for the mark
    assert content.endswith(b"\r\n")
    table = pandas.read_csv(out, keep_default_na=False)
    assert list(table.columns) == COLUMNS
    assert len(table) == summary.entities
    assert table["start"].dtype == table["end"].dtype == "int64"
    assert "星河汽车" in set(table["text"])


@pytest.mark.parametrize("sign", STARTS)
@pytest.mark.parametrize("column", ["id", "type", "text", "context"])
def test_no_cell_begins_like_a_formula(tmp_path: Path, sign: str, column: str) -> None:
    hostile = f"{sign}1+1"
    document = one(
        hostile if column in ("text", "context") else "x", (0, 1), type_=hostile if column == "type" else "t"
    )
    if column == "id":
        document = msgspec.structs.replace(document, doc_id=hostile)
    if column == "text":
        document = one(hostile, (0, len(hostile)))
    (note,) = spreadsheet.write(ask(tmp_path / "out.csv", document))
    assert note == "entities in whose row an apostrophe stands before what a spreadsheet would compute: 1"
    (found,) = read_rows(tmp_path / "out.csv")
    cell = found[column]
    if column == "context":
        assert OURS.sub("", cell) == " ".join(hostile.split())
    else:
        assert (cell[0], OURS.sub("", cell)) == ("'", hostile)
    assert not any(cell.startswith(STARTS) for cell in found.values())


@pytest.mark.parametrize("border", [";", "\t", "\r", "\n", "\r\n"])
def test_no_formula_begins_behind_what_may_be_a_border_of_cells(tmp_path: Path, border: str) -> None:
    text = f"a{border} =cmd|' /C calc'!A0{border}b"
    spreadsheet.write(ask(tmp_path / "out.csv", one(text, (0, len(text)))))
    (found,) = read_rows(tmp_path / "out.csv")
    assert f"{border}' =cmd" in found["text"]
    assert OURS.sub("", found["text"]) == text


def test_what_is_no_formula_stays_as_it_is(tmp_path: Path) -> None:
    text = "Ann-Lee's a=b, \"C+\"; 'quoted' and x@y.org"
    assert spreadsheet.write(ask(tmp_path / "out.csv", one(text, (0, len(text))))) == []
    assert read_rows(tmp_path / "out.csv")[0]["text"] == text


@given(st.lists(st.text("=+-@;' \t\r\n\0a\",", max_size=12), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_every_cell_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("csv") / "out.csv"
    spreadsheet.write(ask(path, *(one(text, (0, len(text)), type_=text) for text in texts)))
    found = read_rows(path)
    assert [OURS.sub("", each["text"]) for each in found] == texts
    assert not any(each["text"].startswith(STARTS) for each in found)
    parts = (part.strip(" ") for each in found for part in re.split(r"[;\t\r\n]", each["text"]))
    assert not any(part.startswith(STARTS) for part in parts)


# --- What all formats share


def test_the_least_score_is_kept(write: Any) -> None:
    # As float32, in which scores are stored, 0.9 is a little less than 0.9.
    _, all_of_them = write("jsonl", min_score=0.0)
    _, summary = write("jsonl", min_score=0.9, overwrite=True)
    assert 0 < summary.entities < all_of_them.entities


@pytest.mark.parametrize("format_", FORMATS)
def test_an_output_that_exists_is_replaced_only_on_request(write: Any, tmp_path: Path, format_: str) -> None:
    out, _ = write(format_)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"--output .*: exists; name another place, or replace it with --overwrite"):
        write(format_)
    _, summary = write(format_, overwrite=True, min_score=0.95)
    assert summary.entities == 0
    assert any(note.startswith("entities with a score below 0.95, left out: ") for note in summary.notes)
    assert {path for path in before if path.is_dir()} == {path for path in tmp_path.rglob("*") if path.is_dir()}
    assert out.exists()


@pytest.mark.parametrize("format_", FORMATS)
def test_an_export_that_fails_leaves_nothing(tmp_path: Path, format_: str) -> None:
    def documents(error: type[Exception]) -> Iterator[AnnotatedDocument]:
        yield one("Ann", (0, 3))
        raise error("no more")

    for error, raised in ((KeyError, KeyError), (OSError, FatalError)):
        with pytest.raises(raised):
            FORMATS[format_](Export(documents(error), tmp_path / "out", overwrite=False, language="en", labels=()))
        assert list(tmp_path.iterdir()) == []
    FORMATS[format_](ask(tmp_path / "out", one("Ann", (0, 3))))
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(KeyError):
        FORMATS[format_](Export(documents(KeyError), tmp_path / "out", overwrite=True, language="en", labels=()))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


@pytest.mark.parametrize("format_", FORMATS)
def test_what_was_read_is_written_before_the_next_is_read(
    tmp_path: Path, format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spacy_docbin, "_TOKENS_IN_FILE", 500)
    written: list[int] = []

    def documents() -> Iterator[AnnotatedDocument]:
        for number in range(400):
            if number % 100 == 0:
                files = [path for path in tmp_path.rglob("*") if path.is_file() and "config" not in path.name]
                written.append(sum(path.stat().st_size for path in files))
            yield one(f"Ann met {number} 👋 in Oslo. " * 4, (0, 3), (8, 9))

    FORMATS[format_](Export(documents(), tmp_path / "out", overwrite=False, language="en", labels=()))
    assert 0 == written[0] < written[1] < written[2] < written[3]


def test_a_folder_of_someone_else_is_never_replaced(run: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for format_ in ("brat", "jsonl"):
        with pytest.raises(UsageError, match="is a folder that `el4ner export` did not write"):
            export_run(run, format_, str(tmp_path / "mine"), min_score=0, overwrite=True, language="en")
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "thesis.tex"]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"format": "xml"}', b'{"version": 1}'])
def test_a_folder_with_an_export_json_of_something_else_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "export.json").write_bytes(content)
    with pytest.raises(UsageError, match="is a folder that `el4ner export` did not write"):
        brat.write(ask(tmp_path / "mine", one("Ann", (0, 3))))
    assert (tmp_path / "mine" / "export.json").read_bytes() == content


def test_a_file_gives_way_to_a_folder_and_back(tmp_path: Path) -> None:
    for format_ in ("jsonl", "brat", "spacy", "jsonl"):
        FORMATS[format_](ask(tmp_path / "out", one("Ann", (0, 3))))
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_between_two_renames_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brat.write(ask(tmp_path / "out", one("Ann", (0, 3))))
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(FatalError, match=r"--output .*out: writing failed, nothing of it is left: no"):
        brat.write(ask(tmp_path / "out", one("Bo", (0, 2))))
    assert (tmp_path / "out" / "doc-000001.txt").read_text() == "Ann"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UsageError, match=r"--output .*/file/out: cannot be written: .*; name a place that can"),
        replacing(tmp_path / "file" / "out", overwrite=False),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["--format", "xml", "-o", "out"],
            ["--format xml", "jsonl, conll, spacy, label-studio, brat, web-annotation, csv"],
        ),
        (["--format", "jsonl", "-o", "s3://bucket/out"], ["--output s3://bucket/out", "local path"]),
        (["--format", "jsonl", "-o", ""], ["--output ''", "names no file"]),
        (["--format", "brat", "-o", "."], ["--output '.'", "names no file"]),
        (["--format", "jsonl", "-o", "there"], ["--output there", "--overwrite"]),
        (["--format", "conll", "-o", "out", "--language", "English"], ["--language: 'English'", "ISO 639", "leave it"]),
        (["--format", "conll", "-o", "out", "--language", ""], ["--language: ''", "ISO 639", "leave it out"]),
        (["--format", "conll", "-o", "out", "--language", "xx"], ["--language: 'xx'", "ISO 639", "leave it out"]),
    ],
)
def test_wrong_use_is_one_line(
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    named: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    monkeypatch.setattr(sys, "argv", ["el4ner", "export", run, *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert message.count("\n") == 1
    assert all(name in message for name in named), message
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(
    ("language", "sentences"), [(None, 2), ("de", 2), ("deu", 2), ("ger", 2), ("en", 3), ("sv", 3)]
)
def test_sentences_end_as_in_the_language_of_the_run(tmp_path: Path, language: str | None, sentences: int) -> None:
    directory = write_run(tmp_path, [row("1", "Er kam bzw. Anna kam. Sie blieb.")])
    config = {"models": [], "language": "de"}
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished", "config": config}))
    out = tmp_path / "out.conll"
    told = export_run(directory, "conll", str(out), min_score=0, overwrite=False, language=language).notes
    assert any("language sv: sentencex has no rules" in note for note in told) == (language == "sv")
    assert out.read_text().rstrip().count("\n\n") == sentences


def test_the_command_tells_what_is_not_in_the_output(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out.conll"
    monkeypatch.setattr(sys, "argv", ["el4ner", "export", run, "--format", "conll", "-o", str(out)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    told = capsys.readouterr()
    assert "el4ner: documents that failed, left out: 2\n" in told.err
    assert "el4ner: entities nested in or overlapping a longer one, left out: " in told.err
    assert told.out.startswith(f"from {len(CASES) + 3} documents with ")
    assert out.is_file()


def test_offsets_that_do_not_fit_the_text_are_refused(tmp_path: Path) -> None:
    directory = write_run(tmp_path, [row("d", "Ann", entity_row(1, 3, "Ann", "person"))])
    with pytest.raises(UsageError, match=r"document 'd': entities: text: 'Ann' is not at \[1:3\]; .* annotate again"):
        export_run(directory, "jsonl", str(tmp_path / "out"), min_score=0, overwrite=False, language="en")
    assert not (tmp_path / "out").exists()


# --- Properties

ALPHABET = st.sampled_from("ab.,-'   \t\n\r\u2028é\u0301星河ส\u0e31🙂👩\u200d👧🏽ش")
TEXTS = st.text(ALPHABET, max_size=40)


@st.composite
def marked(draw: st.DrawFn) -> AnnotatedDocument:
    text = draw(TEXTS)
    bounds = st.lists(st.tuples(st.integers(0, len(text)), st.integers(0, len(text))), max_size=8)
    spans = [(start, end) for start, end in draw(bounds) if start < end]
    document = one(text, *spans)
    scores = draw(st.lists(st.sampled_from([0.25, 0.5]), min_size=len(spans), max_size=len(spans)))
    entities = (
        msgspec.structs.replace(entity, score=score) for entity, score in zip(document.entities, scores, strict=True)
    )
    return msgspec.structs.replace(document, entities=tuple(entities))


@given(marked())
@settings(max_examples=300, deadline=None)
def test_flat_keeps_the_longest_and_all_that_fits_beside(document: AnnotatedDocument) -> None:
    kept = flat(document.entities)
    assert all(first.end <= second.start for first, second in pairwise(kept))
    for entity in document.entities:
        if entity not in kept:
            rivals = [other for other in kept if other.start < entity.end and entity.start < other.end]
            better = [(other.end - other.start, other.score) for other in rivals]
            assert max(better) >= (entity.end - entity.start, entity.score)
    assert flat(kept) == kept


tokenizer = Tokenizer()


@given(marked())
@settings(max_examples=300, deadline=None)
def test_tokens_cover_the_text_and_carry_every_span(document: AnnotatedDocument) -> None:
    text = document.text
    tokens = tokenizer(text, document.entities)
    position = 0
    for token in tokens:
        assert text[position : token.start] in ("", " ")
        assert token.start < token.end
        position = token.end
    assert text[position:] in ("", " ")
    for entity in document.entities:
        assert entity.start in {token.start for token in tokens}
        assert entity.end in {token.end for token in tokens}


@given(marked())
@settings(max_examples=200, deadline=None)
def test_tagged_sentences_lose_no_word_and_no_entity(document: AnnotatedDocument) -> None:
    entities = flat(document.entities)
    tokens = tokenizer(document.text, entities)
    sentences = list(conll.tagged_sentences(document.text, entities, tokens, "en"))
    assert all(sentences)
    assert "".join(word for sentence in sentences for word, _, _ in sentence) == "".join(document.text.split())
    tags = [[f"{tag}-{type_}" if type_ else tag for _, tag, type_ in sentence] for sentence in sentences]
    found = [
        "".join(word for word, _, _ in sentence[first : last + 1])
        for sentence, tagged in zip(sentences, tags, strict=True)
        for _, first, last in get_entities(tagged)
    ]
    assert found == ["".join(entity.text.split()) for entity in entities if not entity.text.isspace()]


@given(documents=st.lists(marked(), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_spacy_and_brat_give_every_span_back(
    tmp_path_factory: pytest.TempPathFactory, documents: list[AnnotatedDocument]
) -> None:
    folder = tmp_path_factory.mktemp("property")
    spacy_docbin.write(ask(folder / "spacy", *documents))
    (path,) = (folder / "spacy").glob("*.spacy")
    for doc, document in zip(DocBin().from_disk(path).get_docs(spacy.vocab.Vocab()), documents, strict=True):
        assert doc.text == document.text
        assert {(span.start_char, span.end_char, span.label_) for span in doc.spans["el4ner"]} == typed(document)
    brat.write(ask(folder / "brat", *documents))
    for number, document in enumerate(documents, 1):
        found = brat_annotations(folder / "brat" / f"doc-{number:06}")
        for position, entity in enumerate(document.entities, 1):
            fragments = re.split(r"\s*[\n\r\u2028]\s*", entity.text)
            if any(fragments):
                spans = found[f"T{position}"][0]
                assert [document.text[start:end] for start, end in spans] == [each for each in fragments if each]
                assert entity.start <= spans[0][0] < spans[-1][1] <= entity.end
            else:
                assert f"T{position}" not in found


@given(marked())
@settings(max_examples=200, deadline=None)
def test_label_studios_editor_marks_the_same_text(document: AnnotatedDocument) -> None:
    for entity in document.entities:
        seen = in_the_editor(document.text, entity.start, entity.end)
        assert seen == re.sub(r"[\n\r]", "<br>", entity.text)


@given(st.lists(st.text(max_size=6), max_size=12))
@settings(max_examples=200, deadline=None)
def test_names_are_allowed_unique_and_stable(types: list[str]) -> None:
    names = Names(r"[^A-Za-z0-9_-]+")
    given = {type_: names[type_] for type_ in types}
    assert len(set(given.values())) == len(given)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]*[A-Za-z0-9][A-Za-z0-9_-]*", name) for name in given.values())
    assert {type_: names[type_] for type_ in types} == given
    assert len(names.notes()) == sum(type_ != name for type_, name in given.items())


def test_the_tokenizer_is_renewed_and_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_RENEW_AFTER", 10)
    each = Tokenizer()
    assert len({tuple(each("Ann met Bo.", ())) for _ in range(5)}) == 1


def test_no_long_run_of_characters_reaches_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    # They take quadratic time for brackets in a row.
    each = Tokenizer()
    before = each("Ann met (Bo).", ())
    asked: list[str] = []
    rules = each._rules

    def noted(text: str) -> Any:
        asked.append(text)
        return rules(text)

    monkeypatch.setattr(each, "_rules", noted)
    assert each("Ann met (Bo).", ()) == before
    assert asked == ["Ann met (Bo)."]
    text = f"in {'(' * 1700} Oslo {'x' * 500} {'y' * 501}"
    tokens = each(text, ())
    assert max(len(run) for piece in asked for run in piece.split()) == 500
    assert "".join(asked[1:]) == text
    assert "".join(text[token.start : token.end] for token in tokens) == text.replace(" ", "")
    assert all(first.end <= second.start for first, second in pairwise(tokens))


def test_web_annotation_of_nothing_is_empty(tmp_path: Path) -> None:
    assert web_annotation.write(ask(tmp_path / "out")) == []
    assert (tmp_path / "out").read_bytes() == b""
