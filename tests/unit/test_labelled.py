"""Reading labelled sentences: every form, every offset, and a message that says where and what to do."""

import gzip
import itertools
import json
import os
import random
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledSpan, LabelledText, check_against, labels_of, read_labelled
from el4ner_ray.readers import suffix
from tests.conftest import DATA

GOOD = {"id": "a", "text": "Ann left", "entities": [{"start": 0, "end": 3, "type": "PER"}]}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def surfaces(text: LabelledText) -> list[tuple[str, str]]:
    return [(text.text[entity.start : entity.end], entity.type) for entity in text.entities]


def message(source: str, role: str = "pool") -> str:
    with pytest.raises(UsageError) as caught:
        read_labelled(source, role)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"--{role} {source}")
    return str(caught.value)


# --- JSON lines


def test_json_lines_are_read_in_order(tmp_path: Path) -> None:
    source = write(tmp_path / "pool.jsonl", GOOD, "", {"text": "no one", "entities": []}, {**GOOD, "id": 7, "more": 1})
    first, second, third = read_labelled(source, "pool")
    assert first == LabelledText("a", "Ann left", (LabelledSpan(0, 3, "PER"),))
    assert (second.id, second.entities) == ("3", ())
    assert third.id == "7"
    assert first.typed == {(0, 3, "PER")}


def test_nested_entities_stay_and_duplicates_count_once(tmp_path: Path) -> None:
    spans = [(0, 6, "cell"), (0, 2, "protein"), (0, 6, "cell"), (0, 2, "DNA")]
    row = {"text": "T2 one", "entities": [{"start": s, "end": e, "type": t} for s, e, t in spans]}
    (text,) = read_labelled(write(tmp_path / "g.jsonl", row), "gold")
    assert text.entities == tuple(LabelledSpan(*span) for span in dict.fromkeys(spans))


def test_mentions_are_in_the_order_of_the_text(tmp_path: Path) -> None:
    spans = [(12, 16, "place"), (0, 3, "person"), (0, 8, "team"), (0, 3, "name")]
    row = {"text": "Ann Lees in Oslo", "entities": [{"start": s, "end": e, "type": t} for s, e, t in spans]}
    (text,) = read_labelled(write(tmp_path / "p.jsonl", row), "pool")
    assert text.mentions == (("Ann Lees", "team"), ("Ann", "person"), ("Ann", "name"), ("Oslo", "place"))


@pytest.mark.parametrize(
    ("text", "surface"),
    [
        ("hi 👩‍👩‍👧 Zoë 👋🏽 there", "Zoë"),
        ("line\r\nend of\r\nParis\r\n", "Paris"),
        ("قالت ليلى في القاهرة", "القاهرة"),
        ("Café Zoe\u0301 x", "Zoe\u0301"),
        ("İstanbul and Ankara", "Ankara"),
        ("a\u2028b\u0085c NATO\x0b", "NATO"),
        ("𝔘nicode 😀😀", "😀😀"),
    ],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_offsets_are_code_points_of_the_unchanged_text(tmp_path: Path, text: str, surface: str, escaped: bool) -> None:
    start = text.index(surface)
    entity = {"start": start, "end": start + len(surface), "type": "X", "text": surface}
    line = json.dumps({"text": text, "entities": [entity]}, ensure_ascii=escaped)
    (read,) = read_labelled(write(tmp_path / "p.jsonl", line), "pool")
    assert read.text == text
    assert surfaces(read) == [(surface, "X")]


def test_line_ends_and_byte_order_mark_of_the_file_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (json.dumps(GOOD) + "\r\n\r\n").encode())
    assert [text.text for text in read_labelled(str(path), "pool")] == ["Ann left"]


def entity(**fields: object) -> dict[str, object]:
    fields = {"start": 0, "end": 3, "type": "PER", **fields}
    return {"text": "Ann left", "entities": [{name: value for name, value in fields.items() if value is not None}]}


BAD_ROWS = {
    "not JSON": ("{text: Ann}", "JSON is malformed"),
    "cut off": ('{"text": "Ann', "truncated"),
    "nested without end": ("[" * 100_000, "line 2: "),
    "not an object": ("[1]", "Expected `object`"),
    "text missing": ({"entities": []}, "missing required field `text`"),
    "text null": ({"text": None, "entities": []}, "`$.text`"),
    "text a number": ({"text": 3, "entities": []}, "`$.text`"),
    "text empty": ({"text": " ", "entities": []}, "text: is empty"),
    "entities missing": ({"text": "Ann"}, "missing required field `entities`"),
    "entities no list": ({"text": "Ann", "entities": {"start": 0}}, "`$.entities`"),
    "entity no object": ({"text": "Ann", "entities": [[0, 3, "PER"]]}, "`$.entities[0]`"),
    "start missing": (entity(start=None), "missing required field `start`"),
    "start a string": (entity(start="0"), "`$.entities[0].start`"),
    "start a bool": (entity(start=True), "`$.entities[0].start`"),
    "end a float": (entity(end=3.0), "`$.entities[0].end`"),
    "start negative": (entity(start=-1), "entities[0].start: -1 is outside the text of 8 characters"),
    "end past the text": (entity(end=9), "entities[0].end: 9 is outside the text of 8 characters"),
    "end huge": (entity(end=10**30), "entities[0].end: 1000000"),
    "start at end": (entity(start=3), "entities[0].start: 3 is not before the end 3"),
    "start after end": (entity(start=5), "entities[0].start: 5 is not before the end 3"),
    "text differs": (entity(text="Anne"), "entities[0].text: 'Anne' is not text[0:3], which is 'Ann'"),
    "entity of white space": (entity(text=None, start=3, end=4), "entities[0].start: text[3:4] is white space only"),
    "type missing": (entity(type=None), "missing required field `type`"),
    "type a number": (entity(type=1), "`$.entities[0].type`"),
    "type empty": (entity(type=""), "entities[0].type: is empty"),
    "type blank": (entity(type=" "), "entities[0].type: is empty"),
    "type with |": (entity(type="a|b"), "entities[0].type: 'a|b'"),
    "type with =": (entity(type="a=b"), "entities[0].type: 'a=b'"),
    "type with line end": (entity(type="a\nb"), r"entities[0].type: 'a\nb'"),
    "type with an escape": (entity(type="a\x1b[31m"), r"entities[0].type: 'a\x1b[31m'"),
    "type with a line separator": (entity(type="a\u2028b"), r"entities[0].type: 'a\u2028b'"),
    "type like a token": (entity(type="<eos>"), "entities[0].type: '<eos>' must be a single line without"),
    "type with margin": (entity(type=" a"), "entities[0].type: ' a'"),
    "id a list": ({**GOOD, "id": [1]}, "`$.id`"),
    "id a bool": ({**GOOD, "id": True}, "`$.id`"),
    "id empty": ({**GOOD, "id": ""}, "id: is empty"),
    "id taken": (GOOD, "id: 'a' is taken by line 1"),
    "text twice": ('{"text": "Ann", "text": "Bob", "entities": []}', "the key 'text' stands twice in an object"),
    "type twice": (
        '{"text": "a", "entities": [{"start": 0, "end": 1, "type": "X", "type": "Y"}]}',
        "the key 'type' stands twice in an object",
    ),
    "half a surrogate pair": (r'{"text": "a\ud83d", "entities": []}', "surrogate"),
    "half a pair in a type": (r'{"text": "a", "entities": [{"start": 0, "end": 1, "type": "\ude00"}]}', "surrogate"),
}


@pytest.mark.parametrize(("row", "wanted"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_line_is_named_with_its_field_and_the_mend(tmp_path: Path, row: object, wanted: str) -> None:
    said = message(write(tmp_path / "pool.jsonl", GOOD, row))
    assert ", line 2: " in said
    assert wanted in said
    assert "; " in said  # the mend


def test_what_only_prompts_forbid_is_allowed_in_gold(tmp_path: Path) -> None:
    rows = [{"text": "", "entities": []}, entity(type="a|b"), entity(type="<eos>\x1b")]
    assert len(read_labelled(write(tmp_path / "gold.jsonl", *rows), "gold")) == 3


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("empty.jsonl", b"", "there is no labelled text"),
        ("blank.jsonl", b"\n \n", "there is no labelled text"),
        ("empty.conll", b"-DOCSTART- -X- O O\n\n", "there is no labelled text"),
        ("bare.jsonl", b'{"text": "a", "entities": []}', "none of its 1 texts holds an entity"),
        ("latin.jsonl", b'\n{"text": "Zo\xeb", "entities": []}', "line 2: 'utf-8' codec"),
        ("latin.conll", b"Zo\xeb O\n", "line 1: 'utf-8' codec"),
        ("pool.docx", b"PK", "the ending '.docx'"),
        ("pool", b"", "the ending ''"),
        ("not.jsonl.gz", b"no gzip", "cannot be unpacked"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(GOOD).encode(), mtime=0)[:-9], "cannot be unpacked"),
        ("not.jsonl.zst", b"no zstd", "cannot be unpacked"),
        ("cut.jsonl.zst", zstandard.compress(os.urandom(500))[:-9], "its last frame is cut off"),
        ("not.parquet", b"no parquet", "no data set can be loaded"),
        ("folder/x.txt", b"", "no data set can be loaded"),
    ],
)
def test_a_bad_file_is_named_with_the_mend(tmp_path: Path, name: str, content: bytes, wanted: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    said = message(str(path.parent if path.parent.name == "folder" else path))
    assert wanted in said
    assert "; " in said


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("no.jsonl", "no.conll", "no.parquet", "no", "no.docx"):
        assert "there is no such file or folder; " in message(str(tmp_path / name), "gold")
    assert "cannot be read" in message("memory://no-such.jsonl")
    assert "cannot be read" in message("nosuchprotocol://a.jsonl")


def long_frame(content: bytes) -> bytes:
    """A frame as `zstd --long=28` writes it: a header that wants a window of 256 MiB, and here one block as it is."""
    return b"\x28\xb5\x2f\xfd\x00\x90" + (len(content) << 3 | 1).to_bytes(3, "little") + content


def test_names_are_read_as_those_of_a_corpus_are(tmp_path: Path) -> None:
    line = (json.dumps(GOOD) + "\n").encode()
    packed = {"": line, ".gz": gzip.compress(line), ".zst": zstandard.compress(line), ".GZ": gzip.compress(line)}
    for stem, end in itertools.product(("p.json", "p.jsonl", "P.JSONL", "p.Json"), packed):
        name = stem + end
        (tmp_path / name).write_bytes(packed[end])
        assert suffix(name), name
        for role in ("pool", "gold"):
            assert [text.id for text in read_labelled(str(tmp_path / name), role)] == ["a"], name
    (tmp_path / "P.CoNLL.Gz").write_bytes(gzip.compress(b"Ann B-P\n"))
    assert [text.text for text in read_labelled(str(tmp_path / "P.CoNLL.Gz"), "pool")] == ["Ann"]
    pq.write_table(labelled_dataset().data.table, tmp_path / "C.PARQUET")
    check_rows(read_labelled(str(tmp_path / "C.PARQUET"), "gold"))


def test_json_over_several_lines_is_told_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([GOOD], indent=1))
    said = message(str(tmp_path / "p.json"))
    assert ", line 1: " in said
    assert "on one line" in said


def test_packed_and_remote_files(tmp_path: Path) -> None:
    line = (json.dumps(GOOD) + "\n").encode()
    other = line.replace(b'"a"', b'"b"')
    contents = {
        "p.jsonl.gz": gzip.compress(line) + gzip.compress(other),
        "p.jsonl.zst": zstandard.compress(line) + zstandard.compress(other),
        "p.jsonl": line + other,
        "long.jsonl.zst": long_frame(line + other),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert [text.id for text in read_labelled(str(tmp_path / name), "pool")] == ["a", "b"]
    with fsspec.open("memory://labelled/p.jsonl.gz", "wb") as file:
        file.write(contents["p.jsonl.gz"])
    assert len(read_labelled("memory://labelled/p.jsonl.gz", "pool")) == 2


# --- CoNLL columns

WANTED = [("U.N.", "ORG"), ("Rolf Ekeus", "PER"), ("Ann", "PER"), ("Bob", "PER"), ("Baghdad", "LOC")]
TOKENS = ["U.N.", "official", "Rolf", "Ekeus", "met", "Ann", "Bob", "in", "Baghdad"]
SCHEMES = {
    "BIO": "B-ORG O B-PER I-PER O B-PER B-PER O B-LOC",
    "IOB1": "I-ORG O I-PER I-PER O I-PER B-PER O I-LOC",
    "BIOES": "S-ORG O B-PER E-PER O S-PER S-PER O S-LOC",
    "BILOU": "U-ORG O B-PER L-PER O U-PER U-PER O U-LOC",
}


@pytest.mark.parametrize("tags", SCHEMES.values(), ids=SCHEMES)
def test_tag_schemes_mean_the_same(tmp_path: Path, tags: str) -> None:
    rows = [f"{token} NN {tag}" for token, tag in zip(TOKENS, tags.split(), strict=True)]
    source = write(tmp_path / "p.conll", "-DOCSTART- -X- O", "", *rows, "", "Bye . O")
    first, second = read_labelled(source, "pool")
    assert first.text == " ".join(TOKENS)
    assert surfaces(first) == WANTED
    assert (first.id, second.id, second.entities) == ("3", str(4 + len(TOKENS)), ())


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("I-A I-B O", [("x", "A"), ("y", "B")]),
        ("B-A I-B O", [("x", "A"), ("y", "B")]),
        ("B-A B-A I-A", [("x", "A"), ("y z", "A")]),
        ("E-A I-A O", [("x", "A"), ("y", "A")]),
        ("S-A E-A O", [("x", "A"), ("y", "A")]),
        ("B-A O I-A", [("x", "A"), ("z", "A")]),
        ("B-a-b I-a-b O", [("x y", "a-b")]),
        ("O O B-A", [("z", "A")]),
    ],
)
def test_ill_formed_tags_are_read_as_conlleval_does(tmp_path: Path, tags: str, wanted: list[tuple[str, str]]) -> None:
    source = write(tmp_path / "p.bio", *map(" ".join, zip("xyz", tags.split(), strict=True)))
    (text,) = read_labelled(source, "pool")
    assert surfaces(text) == wanted


def test_agrees_with_seqeval_on_random_tags(tmp_path: Path) -> None:
    from seqeval.metrics.sequence_labeling import get_entities

    generator = random.Random(0)
    tags = ["O", *(f"{prefix}-{label}" for prefix in "BIES" for label in "XY")]
    sentences = [generator.choices(tags, k=generator.randint(1, 12)) for _ in range(300)]
    lines = [line for sentence in sentences for line in [*(f"w{i} {tag}" for i, tag in enumerate(sentence)), ""]]
    for text, sentence in zip(read_labelled(write(tmp_path / "g.iob", *lines), "gold"), sentences, strict=True):
        starts = [text.text.index(f"w{i}") for i in range(len(sentence))]
        ends = [start + len(f"w{i}") for i, start in enumerate(starts)]
        wanted = {(starts[first], ends[last], label) for label, first, last in get_entities(sentence)}
        assert text.typed == wanted, sentence


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("Ann\tB-P\r\nleft\tO\r\n\r\nBob\tB-P", ["Ann left", "Bob"]),
        ("New York\tB-P\n \t \nBob\tB-P\n", ["New York", "Bob"]),
        ("10\u00a0km O\nAnn B-P\n\n\n\n", ["10\u00a0km Ann"]),
        ("# O\n👋🏽 O\nليلى B-P\n", ["# 👋🏽 ليلى"]),
        ("Ann   NNP  B-P  \n-DOCSTART- -X- O\nBob B-P\n", ["Ann", "Bob"]),
        ("\ufeffAnn B-P\n", ["Ann"]),
    ],
)
def test_columns_and_line_ends(tmp_path: Path, content: str, texts: list[str]) -> None:
    path = tmp_path / "p.tsv"
    path.write_bytes(content.encode())
    read = read_labelled(str(path), "pool")
    assert [text.text for text in read] == texts
    assert {surface for text in read for surface, _ in surfaces(text)} <= {"Ann", "Bob", "New York", "ليلى"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("Ann", "line 3: tag: there is one column only"),
        ("Ann PER", "line 3: tag: 'PER' is no tag"),
        ("Ann B-", "line 3: tag: 'B-' is no tag"),
        ("Ann X-PER", "line 3: tag: 'X-PER' is no tag"),
        ("Ann B-a|b", "line 2: entities[0].type: 'a|b'"),
        ("Ann B-[INST]", "line 2: entities[0].type: '[INST]'"),
        ("Ann b-per", "line 3: tag: 'b-per' is no tag"),
        ("Ann B-PER\rleft O\r\rBob B-PER\r", "line 3: there is a carriage return in the line"),
    ],
)
def test_a_bad_conll_line_is_named(tmp_path: Path, line: str, wanted: str) -> None:
    said = message(write(tmp_path / "p.conll", "", "Hi O", line))
    assert f", {wanted}" in said
    assert "; " in said


def test_a_column_that_counts_is_not_taken_for_tokens(tmp_path: Path) -> None:
    rows = ["1\tAnna\tB-PER", "2\tleft\tO"]
    for path in (tmp_path / "p.conll", tmp_path / "last.conll"):
        before = ["Hi there O", ""] if path.name == "p.conll" else []
        said = message(write(path, *before, *rows, *([""] if before else [])))
        assert f", line {len(before) + 1}: token: " in said
        assert "the first column only counts: 1, 2; write the token first and its tag last" in said


@pytest.mark.parametrize(
    "rows",
    [
        ["1 O", "2 O"],  # there is no other column that could hold the token
        ["1 CD O", "2 CD O", "3 CD O"],  # numbers have the same word class, tokens are not all the same
        ["1 CD O"],
        ["1 CD O", "2nd JJ O"],
        ["2 CD O", "3 X O"],
        ["1 CD O", "2 O"],
        ["1 CD O", "2 X O", "goals NNS O"],
    ],
)
def test_numbers_can_be_tokens(tmp_path: Path, rows: list[str]) -> None:
    (text,) = read_labelled(write(tmp_path / "g.conll", *rows), "gold")
    assert text.text.split() == [row.split()[0] for row in rows]


# --- Hugging Face data sets

CLASSES = ["O", "B-PER", "I-PER", "B-LOC"]
ROWS = {"id": ["a", "b"], "tokens": [["Ann", "Lee", "left"], ["in", "Oslo"]], "ner_tags": [[1, 2, 0], [0, 3]]}
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "tokens": datasets.Sequence(datasets.Value("string")),
        "ner_tags": datasets.Sequence(datasets.ClassLabel(names=CLASSES)),
    }
)


def labelled_dataset() -> datasets.Dataset:
    return datasets.Dataset.from_dict(ROWS, features=FEATURES)


def check_rows(texts: list[LabelledText]) -> None:
    assert [(text.id, text.text) for text in texts] == [("a", "Ann Lee left"), ("b", "in Oslo")]
    assert [surfaces(text) for text in texts] == [[("Ann Lee", "PER")], [("Oslo", "LOC")]]


def test_folder_of_save_to_disk(tmp_path: Path) -> None:
    labelled_dataset().save_to_disk(str(tmp_path / "one"))
    check_rows(read_labelled(str(tmp_path / "one"), "pool"))
    datasets.DatasetDict(train=labelled_dataset()).save_to_disk(str(tmp_path / "single"))
    check_rows(read_labelled(str(tmp_path / "single"), "pool"))
    datasets.DatasetDict(train=labelled_dataset(), dev=labelled_dataset()).save_to_disk(str(tmp_path / "two"))
    check_rows(read_labelled(str(tmp_path / "two" / "dev"), "pool"))
    assert f"name one: {tmp_path}/two/train, {tmp_path}/two/dev" in message(str(tmp_path / "two"))


def test_parquet_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    latin1 = pa.ListArray.from_arrays([0, 1], pa.array([b"Zo\xeb"], pa.binary()).view(pa.string()))
    pq.write_table(pa.table({"tokens": latin1, "ner_tags": [["B-PER"]]}), tmp_path / "p.parquet")
    said = message(str(tmp_path / "p.parquet"))
    assert "no data set can be loaded from it: " in said
    assert "Invalid UTF8" in said


def test_parquet_with_class_labels_and_with_strings(tmp_path: Path) -> None:
    pq.write_table(labelled_dataset().data.table, tmp_path / "c.parquet")
    check_rows(read_labelled(str(tmp_path / "c.parquet"), "gold"))
    named = [[CLASSES[tag] for tag in tags] for tags in ROWS["ner_tags"]]
    pq.write_table(pa.table({"tokens": ROWS["tokens"], "ner_tags": named}), tmp_path / "s.parquet")
    texts = read_labelled(str(tmp_path / "s.parquet"), "gold")
    assert [text.id for text in texts] == ["1", "2"]
    assert [surfaces(text) for text in texts] == [[("Ann Lee", "PER")], [("Oslo", "LOC")]]


def test_hub_names_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, split: str | None = None) -> object:
        asked.append((name, split))
        if name == "no/such":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/such'\ndoesn't exist")
        splits = datasets.DatasetDict(train=labelled_dataset(), test=labelled_dataset())
        return splits[split] if split else splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check_rows(read_labelled("hf://owner/name:test", "gold"))
    assert "name one: hf://owner/name:train, hf://owner/name:test" in message("hf://owner/name", "gold")
    assert "Dataset 'no/such' doesn't exist; give " in message("hf://no/such")
    assert asked == [("owner/name", "test"), ("owner/name", None), ("no/such", None)]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({"tokens": [["a"]]}, ": ner_tags: there is no such column among 'tokens'"),
        ({"a\x1b\nb": [["a"]]}, r": tokens: there is no such column among 'a\x1b\nb'"),
        ({"words": [["a"]], "ner_tags": [["O"]]}, ": tokens: there is no such column among 'words', 'ner_tags'"),
        ({"tokens": [["a"]], "ner_tags": [[1]]}, ", row 1: ner_tags[0]: 1 has no name"),
        ({"tokens": [["a"], ["b", "c"]], "ner_tags": [["B-X"], ["O"]]}, ", row 2: ner_tags: must be a list of 2"),
        ({"tokens": [["a"], None], "ner_tags": [["B-X"], ["O"]]}, ", row 2: tokens: must be a list of strings"),
        ({"tokens": [["a"]], "ner_tags": [["PER"]]}, ", row 1: ner_tags[0]: 'PER' is no tag"),
        ({"tokens": ["a b"], "ner_tags": ["O O"]}, ", row 1: tokens: must be a list of strings"),
        ({"tokens": [["", "a"]], "ner_tags": [["B-X", "O"]]}, ", row 1: entities[0].start: 0 is not before the end 0"),
        ({"tokens": [["a"]], "ner_tags": [["B-\x00"]]}, r", row 1: entities[0].type: '\x00' must be a single line"),
        ({"id": ["x", "x"], "tokens": [["a"]] * 2, "ner_tags": [["B-X"]] * 2}, ", row 2: id: 'x' is taken by row 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, columns: dict[str, list[object]], wanted: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    said = message(str(tmp_path / "p.parquet"))
    assert wanted in said
    assert "; " in said


# --- Label sets


def test_labels_come_by_frequency_then_name() -> None:
    spans = [LabelledSpan(0, 1, name) for name in "BCAC"]
    texts = [LabelledText("1", "abc", tuple(spans[:2])), LabelledText("2", "abc", tuple(spans[2:]))]
    assert list(labels_of(texts).items()) == [("C", ""), ("A", ""), ("B", "")]
    assert labels_of([]) == {}


def test_a_type_outside_the_label_set_is_named() -> None:
    texts = [LabelledText("s-9", "ab", (LabelledSpan(0, 1, "PER"), LabelledSpan(1, 2, "LOC")))]
    check_against(texts, {"PER": "", "LOC": ""}, "pool.jsonl")
    with pytest.raises(UsageError) as caught:
        check_against(texts, {"PER": "", "ORG": ""}, "pool.jsonl")
    said = str(caught.value)
    assert said.startswith("--pool pool.jsonl, id 's-9': entities[1].type: 'LOC' is not in the label set (PER, ORG); ")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}; set EL4NER_DATA")
@pytest.mark.parametrize(("name", "count", "total"), [("wnut17", 1009, 836), ("genia", 1669, 4337)])
def test_real_data(name: str, count: int, total: int) -> None:
    source = DATA / name / "dev.jsonl"
    texts = read_labelled(str(source), "pool")
    assert (len(texts), sum(len(text.entities) for text in texts)) == (count, total)
    given = [json.loads(line) for line in source.read_text("utf-8").split("\n") if line]
    assert [[surface for surface, _ in surfaces(text)] for text in texts] == [
        [entity["text"] for entity in row["entities"]] for row in given
    ]
    check_against(texts, labels_of(texts), str(source))
