"""Reading archives: what is found, what is refused, and that texts arrive code point for code point."""

from __future__ import annotations

import datetime
import gzip
import json
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from el4ner_ray import readers, splitting
from el4ner_ray.core.graphemes import ends_of_graphemes
from el4ner_ray.corpus import Corpus, CorpusFile, files_together, read_blocks, survey
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.schema import BATCH, PART_SCHEMA
from el4ner_ray.source import PADDING, pad
from el4ner_ray.splitting import each_piece, split_parts

UGLY = [
    "",
    "Ada 👩‍👩‍👧 met Grace 👍🏽 in 🇩🇪🇫🇷",
    "one\r\ntwo\rthree\nfour",
    "e\u0301 n\u0303 क्षि",
    "قال أحمد: مرحبا؟ نعم",
    "nul \x00 inside",
    "line\u2028paragraph\u2029next\x85line\x0bvt",
    "𝔸𝕝𝕒𝕟 \U0010ffff",
    " \t surrounded \n",
    "\ufeffbom",
    "東京。大阪！京都？",
    'quotes " and \\ and , and ;',
]


def lines(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSON lines; bytes go in as they are."""
    encoded = (row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


def look(*inputs: Path | str, text: str = "text", id: str | None = None, limit: int | None = None) -> Corpus:
    return survey([str(given) for given in inputs], text, id, limit)


def read(corpus: Corpus, batch: int = 8, part: int = 8_000, done: Any = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for table in read_blocks(corpus, corpus.files, batch, part, done):
        assert table.schema.equals(pa.schema([*PART_SCHEMA, *corpus.extra_schema]))
        table.validate(full=True)
        rows += table.to_pylist()
    return rows


def texts(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {row["doc_id"]: row["text"] for row in rows}


# Splitting

pieces = st.sampled_from(
    ["a", "b ", ". ", "\n", "\r\n", "\r", "\n\n", "e\u0301", "👩‍👩‍👧", "🇩🇪🇫🇷", "。", "؟", "\u200d", "\ufe0f", "क्षि"]
)
ragged = st.one_of(st.text(), st.lists(pieces, max_size=80).map("".join))


@given(ragged, st.integers(1, 40))
def test_parts_partition_the_text(text: str, limit: int) -> None:
    parts = split_parts(text, limit)
    assert "".join(text[start:end] for start, end in parts) == text
    assert parts[0][0] == 0
    assert all(left[1] == right[0] for left, right in pairwise(parts))
    assert all(0 < end - start <= limit for start, end in parts) or parts == [(0, 0)]


@given(ragged, st.integers(40, 60))
def test_parts_keep_graphemes_whole(text: str, limit: int) -> None:
    inside = {i for match in regex.finditer(r"\X", text) for i in range(match.start() + 1, match.end())}
    longest = max((len(match.group()) for match in regex.finditer(r"\X", text)), default=0)
    cuts = {start for start, _ in split_parts(text, limit)}
    assert not cuts & inside or longest > limit // 2


@pytest.mark.parametrize(
    ("text", "limit", "first"),
    [
        ("Aaaa. Bbbb.\n\nCc\nDd. Ee ff", 20, "Aaaa. Bbbb.\n\n"),
        ("Aaaa. Bbbb.\r\n\r\nCc\r\nDd. Ee ff", 20, "Aaaa. Bbbb.\r\n\r\n"),
        ("Aaaa. Bbbbbbb\nCc. Dd ee ff", 20, "Aaaa. Bbbbbbb\n"),
        ("Aaaaaaaaaa bb. “Cc!” Dd ee ff", 22, "Aaaaaaaaaa bb. “Cc!” "),
        ("ああああああああ。いいいいいいい", 12, "ああああああああ。"),
        ("كككككككككك؟ نعم نعم نعم", 16, "كككككككككك؟ "),
        ("aaaa bbbb cccc dddd", 12, "aaaa bbbb "),
        ("a" * 30, 12, "a" * 12),
        ("a" * 11 + "\r\n" + "b" * 9, 12, "a" * 11),
        ("a" * 11 + "e\u0301" + "b" * 9, 12, "a" * 11),
        ("a. " + "b" * 30, 12, "a. " + "b" * 9),  # looks back at most half the limit
        ("a" * 10 + "🇩🇪🇫🇷🇮🇹", 13, "a" * 10 + "🇩🇪"),
        ("a" + "\u0301" * 30, 12, "a" + "\u0301" * 11),
    ],
)
def test_where_a_text_is_cut(text: str, limit: int, first: str) -> None:
    start, end = split_parts(text, limit)[0]
    assert text[start:end] == first


@given(st.text(st.sampled_from("🇩🇪🇫a\u0301\u200d\u0903\u0600\r\n👩🏽\u1100\u1161")))
def test_graphemes_are_those_of_unicode(text: str) -> None:
    assert ends_of_graphemes(text, 0, len(text)) == {match.end() for match in regex.finditer(r"\X", text)}


@pytest.mark.parametrize("piece", ["\u1100", " \u200c", ". \u200c", "\u0301", "🇩"])
def test_graphemes_are_looked_for_once_a_cut(monkeypatch: pytest.MonkeyPatch, piece: str) -> None:
    # Once for each place that may be one for a cut: a megabyte of U+1100, which is one grapheme, took 1.5 s.
    looks = []

    def counted(text: str, start: int, stop: int) -> frozenset[int]:
        looks.append(start)
        return ends_of_graphemes(text, start, stop)

    monkeypatch.setattr(splitting, "ends_of_graphemes", counted)
    text = piece * (30_000 // len(piece))
    parts = split_parts(text, 8_000)
    assert "".join(text[start:end] for start, end in parts) == text
    assert len(looks) < len(parts)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a" * 30 + " " + "b" * 30, "a" * 30 + " "),
        ("x" * 40 + " \u0301" + "y" * 40, "x" * 40 + " \u0301" + "y" * 8),
        ("a. " * 9 + "b" * 40, "a. " * 9),
        ("a. " + "b" * 60, "a. " + "b" * 47),
        ("🇩🇪" * 40, "🇩🇪" * 25),
    ],
)
def test_where_a_long_sentence_is_cut(text: str, first: str) -> None:
    pieces = [("  " + text)[start:end] for start, end in each_piece("  " + text, 2, 2 + len(text), 50)]
    assert "".join(pieces) == text
    assert pieces[0] == first


def test_long_document_in_parts(tmp_path: Path) -> None:
    text = "The quick brown fox — naïve 🦊 — jumps.\nOver the lazy dog! " * 9_000
    corpus = look(lines(tmp_path / "a.jsonl", [{"text": text, "year": 1999}, {"text": "short", "year": 2000}]))
    rows = read(corpus, batch=3)
    long = rows[:-1]
    assert len(text) > 500_000
    assert [row["part"] for row in long] == list(range(len(long)))
    assert "".join(row["text"] for row in long) == text
    assert all(text[row["text_start"] :].startswith(row["text"]) for row in long[:5])
    assert {row["year"] for row in long} == {1999}
    assert max(len(row["text"]) for row in long) <= 8_000


# Round trips


@settings(max_examples=40)
@given(st.lists(st.one_of(st.text(), st.sampled_from(UGLY)), min_size=1, max_size=6), st.booleans())
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, given_texts: list[str], ascii: bool) -> None:
    path = tmp_path_factory.mktemp("corpus") / "a.jsonl"
    rows = [json.dumps({"id": i, "text": text}, ensure_ascii=ascii).encode() for i, text in enumerate(given_texts)]
    read_back = read(look(lines(path, rows)))
    assert texts(read_back) == {str(i): text for i, text in enumerate(given_texts)}
    assert all(row["error"] is None and row["part"] == 0 for row in read_back)


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSON", "a.jsonl.gz", "a.json.zst", "a.parquet", "a.csv"])
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    ids, values = [f"d{i}" for i in range(len(UGLY))], {"kind": ["x"] * len(UGLY)}
    rows = [{"id": id, "text": text, "kind": "x"} for id, text in zip(ids, UGLY, strict=True)]
    data = b"".join(json.dumps(row).encode() + b"\r\n" for row in rows)
    path = tmp_path / name
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    elif name.endswith("zst"):  # two frames, as parallel compressors write
        path.write_bytes(zstandard.compress(data[:100]) + zstandard.compress(data[100:]))
    elif name.endswith("parquet"):
        pq.write_table(pa.table({"id": ids, "text": UGLY, **values}), path)
    elif name.endswith("csv"):
        quoted = ("{},{}".format(id, '"' + text.replace('"', '""') + '"') for id, text in zip(ids, UGLY, strict=True))
        path.write_text("\ufeffid,text,kind\r\n" + "".join(row + ",x\r\n" for row in quoted), "utf-8", newline="")
    else:
        path.write_bytes(data)
    corpus = look(path)
    assert corpus.documents == len(UGLY)
    rows_read = read(corpus)
    assert texts(rows_read) == dict(zip(ids, UGLY, strict=True))
    assert {(row["error"], row["kind"]) for row in rows_read} == {(None, "x")}


def test_txt_is_one_document_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffTitle\r\n\nBody\x00".encode())
    (tmp_path / "b.txt").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    rows = read(look(tmp_path, text="whatever"))
    assert texts(rows) == {"a.txt": "\ufeffTitle\r\n\nBody\x00", "b.txt": "", "c.txt": ""}
    assert [row["error"] and row["error"].partition("c.txt")[2] for row in rows] == [
        None,
        None,
        ":1: not UTF-8 at byte 4",
    ]


def test_ten_megabyte_line(tmp_path: Path) -> None:
    text = "word " * 2_000_000
    corpus = look(lines(tmp_path / "a.jsonl", [{"text": text}]))
    assert "".join(row["text"] for row in read(corpus, part=1_000_000)) == text


# What the inputs name


def test_folders_are_searched_sorted_and_ids_tell_files_apart(tmp_path: Path) -> None:
    for name in ["b/x.jsonl", "a/x.jsonl", "a.jsonl", ".hidden/x.jsonl", "notes.md"]:
        lines(tmp_path / name, [{"text": name}])
    assert list(texts(read(look(tmp_path)))) == ["a.jsonl:1", "a/x.jsonl:1", "b/x.jsonl:1"]
    assert list(texts(read(look(tmp_path / "b", tmp_path / "a")))) == ["b/x.jsonl:1", "a/x.jsonl:1"]
    assert list(texts(read(look(tmp_path / "*/x.jsonl")))) == ["a/x.jsonl:1", "b/x.jsonl:1"]
    assert list(texts(read(look(tmp_path / "?")))) == ["a/x.jsonl:1", "b/x.jsonl:1"]
    assert list(texts(read(look(tmp_path / "**/x.jsonl")))) == ["a/x.jsonl:1", "b/x.jsonl:1"]


def test_uris(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/el4ner/in/a.jsonl", b'{"text": "one"}\n')
    memory.pipe("/el4ner/in/b.txt", b"two")
    expected = {"a.jsonl:1": "one", "b.txt": "two"}
    assert texts(read(look("memory://el4ner/in"))) == expected
    assert texts(read(look("memory://el4ner/in/*"))) == expected
    assert texts(read(look("memory://el4ner/in/a.jsonl"))) == {"a.jsonl:1": "one"}
    path = lines(tmp_path / "odd [1] name.jsonl", [{"text": "three"}])
    assert texts(read(look(f"file://{path}"))) == {"odd [1] name.jsonl:1": "three"}
    assert texts(read(look(path))) == {"odd [1] name.jsonl:1": "three"}


def test_a_name_with_colons_is_that_of_its_own_file(tmp_path: Path) -> None:
    # To fsspec `a::b.jsonl` is something in `a`, which was read in its place.
    lines(tmp_path / "a", [{"text": "another"}])
    path = lines(tmp_path / "a::b.jsonl", [{"text": "this"}])
    for place in (tmp_path, path, tmp_path / "*::b.jsonl", f"file://{tmp_path}"):
        assert texts(read(look(place))) == {"a::b.jsonl:1": "this"}


def test_limit_counts_over_files(tmp_path: Path) -> None:
    for name in "abc":
        lines(tmp_path / f"{name}.jsonl", [{"text": f"{name}{i}"} for i in range(3)])
    corpus = look(tmp_path, limit=4)
    assert (corpus.documents, [file.documents for file in corpus.files]) == (4, [3, 1])
    assert [row["text"] for row in read(corpus)] == ["a0", "a1", "a2", "b0"]


# Ids and extra columns


def test_ids(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"id": 7, "url": "u1", "text": "x"}, {"id": None, "url": "u2", "text": "y"}])
    rows = read(look(path))
    assert [(row["doc_id"], bool(row["error"])) for row in rows] == [("7", False), ("a.jsonl:2", True)]
    rows = read(look(path, id="url"))
    assert [(row["doc_id"], row["id"], row["error"]) for row in rows] == [("u1", 7, None), ("u2", None, None)]


def test_extra_columns_have_one_type_over_all_files(tmp_path: Path) -> None:
    lines(
        tmp_path / "a.jsonl",
        [
            {"text": "x", "n": 1, "f": 1, "flag": True, "mixed": 1, "tags": ["ü"], "big": 2**70, "none": None},
            {"text": "y", "n": 2, "f": 0.5, "mixed": "s", "status": "new", "el4ner.x": "r"},
        ],
    )
    (tmp_path / "b.csv").write_text("text,when\nz,now\n")
    pq.write_table(pa.table({"text": ["w"], "n": ["no number"]}), tmp_path / "c.parquet")
    with pytest.raises(UsageError, match=r"c\.parquet: a column has another type than in other files .*n has"):
        look(tmp_path)
    stamps = pa.array([datetime.datetime(2024, 5, 1)], pa.timestamp("ns", "UTC"))
    nested = pa.array([[{"a": 1}]], pa.list_(pa.struct([("a", pa.int16())])))
    category = pa.array(["c"]).dictionary_encode()
    table = pa.table(
        {"text": ["w"], "n": pa.array([9], pa.int8()), "at": stamps, "nested": nested, "category": category}
    )
    pq.write_table(table, tmp_path / "c.parquet")
    corpus = look(tmp_path)
    types = {field.name: str(field.type) for field in corpus.extra_schema}
    assert types == {
        "n": "int64",
        "f": "double",
        "flag": "bool",
        "mixed": "string",
        "tags": "string",
        "big": "string",
        "none": "string",
        "input_status": "string",
        "input_el4ner.x": "string",
        "when": "string",
        "at": "timestamp[ns, tz=UTC]",
        "nested": "list<element: struct<a: int16>>",
        "category": "string",
    }
    assert corpus.renamed == {"status": "input_status", "el4ner.x": "input_el4ner.x"}
    x, y, z, w = read(pickle.loads(pickle.dumps(corpus)))
    assert (x["n"], x["f"], x["flag"], x["mixed"], x["tags"], x["big"]) == (1, 1.0, True, "1", '["ü"]', str(2**70))
    assert (y["flag"], y["mixed"], y["input_status"], y["input_el4ner.x"]) == (None, '"s"', "new", "r")
    assert (z["when"], z["n"]) == ("now", None)
    assert (w["n"], w["nested"], w["category"]) == (9, [{"a": 1}], "c")


def test_a_column_of_list_views_may_be_missing_in_other_files(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", [{"text": "x"}])
    pq.write_table(pa.table({"text": ["y"], "n": pa.array([[1]], pa.list_view(pa.int64()))}), tmp_path / "b.parquet")
    assert [row["n"] for row in read(look(tmp_path))] == [None, [1]]


def test_json_text_is_json(tmp_path: Path) -> None:
    rows = [{"text": "x", "meta": {"a": [1, "ü"]}}, b'{"text": "y", "meta": {"a": [NaN, -Infinity, 0.5], "b": 1e999}}']
    lines(tmp_path / "a.jsonl", [*rows, b'{"text": "z", "meta": NaN}', {"text": "w", "meta": None}])
    strings = pa.array([b"hello", None, b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": ["u", "v", "t"], "meta": strings}), tmp_path / "b.parquet")
    values = [row["meta"] and json.loads(row["meta"]) for row in read(look(tmp_path))]
    assert values == [{"a": [1, "ü"]}, {"a": [None, None, 0.5], "b": None}, None, None, "hello", None, "caf\ufffd"]
    assert [row["meta"] for row in read(look(tmp_path))][2:4] == ["null", None]
    pq.write_table(pa.table({"text": ["u"], "meta": [b"hello"]}), tmp_path / "b.parquet")
    assert "(Field meta: JSON text does not hold binary); convert it" in refused(tmp_path)


@pytest.mark.parametrize(
    ("types", "united"),
    [
        (["timestamp[us]", "timestamp[ns]"], "timestamp[us]"),
        (["timestamp[ns]", "timestamp[s]", "timestamp[ns]"], "timestamp[us]"),
        (["timestamp[ns]", "null"], "timestamp[ns]"),
        (["duration[ms]", "duration[ns]"], "duration[us]"),
        (["timestamp[s]", "timestamp[ms]"], "timestamp[ms]"),
        (["uint64", "uint64"], "uint64"),
        (["uint32", "int64"], "int64"),
        (["int64", "float"], "double"),
        (["float", "null", "int32"], "double"),
        (["float", "decimal128(5, 1)"], "double"),
        (["float", "float"], "float"),
    ],
)
def test_types_unite_to_one_that_holds_all_values(tmp_path: Path, types: list[str], united: str) -> None:
    by_name = {
        str(type_): type_ for make in (pa.timestamp, pa.duration) for type_ in map(make, ("s", "ms", "us", "ns"))
    }
    numbers = (pa.uint32(), pa.uint64(), pa.int32(), pa.int64(), pa.float32(), pa.decimal128(5, 1))
    by_name |= {str(type_): type_ for type_ in (pa.null(), *numbers)}
    year_9999 = 253_370_764_800
    for i, name in enumerate(types):
        many = {"timestamp[us]": year_9999 * 10**6, "timestamp[s]": year_9999, "timestamp[ms]": year_9999 * 10**3}
        value = pa.array([None if name == "null" else many.get(name, 7)], by_name[name])
        pq.write_table(pa.table({"text": ["x"], "value": value}), tmp_path / f"{i}.parquet")
    corpus = look(tmp_path)
    assert str(corpus.extra_schema.field("value").type) == united
    assert len(read(corpus)) == len(types)


def test_numbers_that_no_type_holds_together_are_refused(tmp_path: Path) -> None:
    for name, type_ in (("a", pa.int64()), ("b", pa.uint64())):
        pq.write_table(pa.table({"text": ["x"], "n": pa.array([1], type_)}), tmp_path / f"{name}.parquet")
    assert "b.parquet: a column has another type than in other files (Field n: int64 does not hold" in refused(tmp_path)


class HostedFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no type stubs
    """A file system whose URIs name a host, as webhdfs and sftp have it."""

    protocol = "hosted"

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("hosted://").split("/", 1)[-1].strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        host = path.removeprefix("hosted://").split("/", 1)[0]
        return {"host": host} if path.startswith("hosted://") and host else {}


def test_an_address_keeps_its_host() -> None:
    fsspec.register_implementation("hosted", HostedFileSystem, clobber=True)
    with fsspec.open("hosted://there:9870/data/a.jsonl", "wb") as file:
        file.write(b'{"id": "a", "text": "x"}\n')
    for address in ("hosted://there:9870/data", "hosted://there:9870/data/*.jsonl", "hosted://there:9870/data/a.jsonl"):
        corpus = look(address)
        assert [file.uri for file in corpus.files] == ["hosted://there:9870/data/a.jsonl"]
        assert [row["doc_id"] for row in read(corpus)] == ["a"]


def test_an_archive_in_an_address_is_refused_in_a_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a.jsonl", '{"id": "a", "text": "x"}')
    assert "single files of such an address cannot be opened" in refused(f"zip://in/*.jsonl::{tmp_path}/a.zip")


def test_a_runs_output_is_no_input(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}])
    lines(tmp_path / "out" / "run.json", [{"id": "r", "text": "x"}])
    lines(tmp_path / "output.jsonl", [{"id": "o", "text": "x"}])
    for place in (tmp_path, tmp_path / "**/*.json*"):
        files = survey([str(place)], "text", without=str(tmp_path / "out")).files
        assert [Path(file.uri).name for file in files] == ["a.jsonl", "output.jsonl"]
    assert len(survey([str(tmp_path)], "text", without="nosuch://out").files) == 3
    (tmp_path / "link").symlink_to(".")
    for place, out in (("link", "out"), ("out/..", "out"), ("", "link/out")):
        files = survey([f"{tmp_path}/{place}"], "text", without=f"{tmp_path}/{out}").files
        assert [Path(file.uri).name for file in files] == ["a.jsonl", "output.jsonl"]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    given = tmp_path / "in"
    lines(given / "b" / "x.jsonl", [{"text": "x"}])
    lines(tmp_path / "far" / "y.jsonl", [{"text": "y"}])
    for link, target in (("in/a", "b"), ("in/c", "../far"), ("in/b/up", ".."), ("far/back", "../in")):
        (tmp_path / link).symlink_to(target)
    # What is found without a link keeps the id that it has without it.
    for place in (given, given / "*/*.jsonl", given / "**/*.jsonl"):
        assert list(texts(read(look(place)))) == ["b/x.jsonl:1", "c/y.jsonl:1"]
    assert list(texts(read(look(given / "*")))) == ["b/x.jsonl:1", "c/y.jsonl:1"]
    assert list(texts(read(look(given / "a*/*.jsonl")))) == ["a/x.jsonl:1"]


def test_folders_that_link_to_each_other_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By every way through them, seven would be listed 13,700 times.
    for folder in "abcdefg":
        lines(tmp_path / "in" / folder / "x.jsonl", [{"text": folder}])
        for other in "abcdefg".replace(folder, ""):
            (tmp_path / "in" / folder / f"to-{other}").symlink_to(f"../{other}")
    (tmp_path / "in" / "b-1").symlink_to("b")
    listed: list[str] = []
    scandir = os.scandir

    def counted(path: str) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    for place, most in (("", 8), ("*", 1 + 8 * 7), ("*/*.jsonl", 9), ("**/x.jsonl", 16), ("**", 16 + 50 * 7)):
        listed.clear()
        assert [Path(file.uri).relative_to(tmp_path / "in") for file in look(tmp_path / "in" / place).files] == [
            Path(folder, "x.jsonl") for folder in "abcdefg"
        ]
        assert len(listed) <= most


def test_of_ways_with_as_many_links_the_first_by_name_counts(tmp_path: Path) -> None:
    lines(tmp_path / "far" / "deep" / "x.jsonl", [{"text": "x"}])
    (tmp_path / "in" / "a").mkdir(parents=True)
    for link, target in (("in/a/far", "far"), ("in/a-1", "far/deep"), ("in/b", "far/deep")):
        (tmp_path / link).symlink_to(tmp_path / target)
    assert list(texts(read(look(tmp_path / "in")))) == ["a-1/x.jsonl:1"]
    (tmp_path / "in" / "a-1").unlink()
    assert list(texts(read(look(tmp_path / "in")))) == ["a/far/deep/x.jsonl:1"]


def test_links_that_a_pattern_names_are_followed(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "b" / "x.jsonl", [{"text": "x"}])
    for link, target in (("in/a", "b"), ("in/up", "."), ("in/self", "self")):
        (tmp_path / link).symlink_to(target)
    for pattern in ("a*/*.jsonl", "a*/**", "**/a/*.jsonl", "?/../a/*.jsonl", "[a]*"):
        if ".." in pattern:
            assert "no file matches" in refused(tmp_path / "in" / pattern)
        else:
            assert list(texts(read(look(tmp_path / "in" / pattern)))) == ["a/x.jsonl:1"]
    assert list(texts(read(look(tmp_path / "in/up/b/*.jsonl")))) == ["x.jsonl:1"]
    assert list(texts(read(look(tmp_path / "in/up")))) == ["b/x.jsonl:1"]
    assert "'**' can only be an entire path component" in refused(tmp_path / "in" / "b**")


def test_a_wildcard_goes_through_no_link_that_leads_up(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "a" / "b" / "x.jsonl", [{"text": "x"}])
    lines(tmp_path / "in" / "other.jsonl", [{"text": "other"}])
    (tmp_path / "in" / "a" / "b" / "up").symlink_to("../..")
    assert list(texts(read(look(tmp_path / "in/a/*/*")))) == ["b/x.jsonl:1"]
    assert "no file matches" in refused(tmp_path / "in/a/b/u*/*.jsonl")
    assert list(texts(read(look(tmp_path / "in/a/b/up/*.jsonl")))) == ["other.jsonl:1"]


def test_a_link_that_leads_nowhere_is_told_so(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "a.jsonl", [{"text": "x"}])
    (tmp_path / "in" / "current").symlink_to("/nowhere")
    assert "in/current: a link that leads nowhere" in refused(tmp_path / "in/*")
    assert look(tmp_path / "in").documents == 1


def test_a_link_to_a_file_is_a_file_of_a_pattern(tmp_path: Path) -> None:
    lines(tmp_path / "far" / "a.txt", ["x"])
    (tmp_path / "far" / "notes.md").write_text("# Notes")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").symlink_to("../far/a.txt")
    assert look(tmp_path / "in/*").documents == look(tmp_path / "*/*.txt").documents / 2 == 1
    (tmp_path / "in" / "notes.md").symlink_to("../far/notes.md")
    assert "in/notes.md: unknown suffix" in refused(tmp_path / "in/*")
    assert "in/notes.md: unknown suffix" in refused(tmp_path / "in/**")
    (tmp_path / "in" / "b.txt").symlink_to("nowhere.txt")  # whoever reads it tells that
    for place in ("in", "in/*.txt", "i*/**/?.txt"):
        assert [Path(file.uri).name for file in look(tmp_path / place).files] == ["a.txt", "b.txt"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "locked/b.jsonl", ".hidden/c.jsonl"):
        lines(tmp_path / name, [{"text": name}])
    scandir = os.scandir

    def denied(path: str) -> Any:
        if Path(path).name in ("locked", ".hidden"):  # modes do not keep root out
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    for place in (tmp_path, tmp_path / "*", tmp_path / "**/*.jsonl"):
        assert f"{tmp_path}/locked: the folder cannot be listed: Permission denied; make it readable" in refused(place)
    assert look(tmp_path / "*.jsonl").documents == 1


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    lines(tmp_path / "in" / "a.jsonl", [{"text": "x"}])
    os.mkfifo(tmp_path / "in" / "b.jsonl")
    for place in ("in", "in/*.jsonl", "**/b.jsonl"):
        assert f"{tmp_path}/in/b.jsonl: a pipe, socket or device, not a file; move it" in refused(tmp_path / place)


def test_a_file_is_one_however_it_is_spelled(tmp_path: Path) -> None:
    path = lines(tmp_path / "in" / "a.jsonl", [{"text": "x"}])
    (tmp_path / "link").symlink_to("in")
    for other in ("in/../in/a.jsonl", "link/a.jsonl", "link", "in/../in/*"):
        assert f"named by two inputs, {path} and {tmp_path}/{other}" in refused(path, f"{tmp_path}/{other}")
    (tmp_path / "in" / "b.jsonl").symlink_to("a.jsonl")
    assert look(tmp_path / "in").documents == 2


# Wrong use


def refused(*inputs: Path | str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        look(*inputs, **options)
    return str(caught.value)


def test_inputs_that_name_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.docx").write_bytes(b"x")
    (tmp_path / "a.jsonl").write_bytes(b"\n \n")
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "b.csv").write_text("")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "no such file" in refused(tmp_path / "missing.jsonl")
    assert "missing.jsonl" in refused(tmp_path / "missing.jsonl")
    assert "no file matches" in refused(tmp_path / "*.zst")
    assert "unknown suffix" in refused(tmp_path / "a.docx")
    assert "a.docx: unknown suffix" in refused(tmp_path / "*")
    assert "holds no file" in refused(tmp_path / "empty")
    assert "nosuch://a.jsonl: cannot be opened" in refused("nosuch://a.jsonl")
    for name in ["a.jsonl", "a.csv", "b.csv", "a.parquet"]:
        assert f"{name}: holds no document" in refused(tmp_path / name)
    assert "named by two inputs" in refused(tmp_path / "a.jsonl", tmp_path / "*.jsonl")
    assert "--limit 0" in refused(tmp_path / "a.jsonl", limit=0)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    paths = [lines(tmp_path / "a.jsonl", [{"body": "x", "n": 1}]), tmp_path / "a.csv", tmp_path / "a.parquet"]
    paths[1].write_text("body,n\nx,1\n")
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), paths[2])
    for path in paths:
        assert f"{path}: there is no column 'text'; set text_column to one of its columns: 'body', 'n'" in refused(path)
        assert "no column 'key'; set id_column" in refused(path, text="body", id="key")
        assert look(path, text="body").documents == 1
    assert "holds int64, not strings" in refused(paths[2], text="n")
    (tmp_path / "b.csv").write_text("text,n,n\nx,1,2\n")
    assert "two columns 'n'" in refused(tmp_path / "b.csv")
    (tmp_path / "c.csv").write_bytes(b"text,\xff\nx,1\n")
    assert "c.csv: the column name '\\udcff' is not UTF-8" in refused(tmp_path / "c.csv")


def test_columns_that_are_not_separated_by_commas_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for header in ("id;text", "id\ttext"):
        path.write_text(f"{header}\n1;Anna\n")
        said = refused(path)
        assert said.startswith(
            f"{path}: there is no column 'text' but only {header!r}: columns are separated by commas"
        )
        assert "; write the file with commas" in said
    for header in ("id", "id;text,n"):
        path.write_text(f"{header}\n1;Anna\n")
        assert "; set text_column to one of its columns: " in refused(path)
    path.write_text("id;text\n1;Anna\n")
    assert look(path, text="id;text").documents == 1


def test_names_of_columns_do_not_steer_the_terminal(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"n\n\x1b[2J": "x"}])
    assert refused(path).endswith(r"its columns: 'n\n\x1b[2J'")
    for name, value in (("a", 1), ("b", "x")):
        pq.write_table(pa.table({"text": ["x"], "n\x1b[2J": [value]}), tmp_path / f"{name}.parquet")
    message = refused(tmp_path / "*.parquet")
    assert "b.parquet: a column has another type" in message
    assert message.isprintable()


def test_duplicate_ids_are_told_with_both_places(tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", [{"id": "d1", "text": "x"}, b"", {"id": 2, "text": "y"}])
    b = lines(tmp_path / "b.jsonl", [{"id": "2", "text": "z"}])
    message = refused(a, b)
    assert "'2'" in message
    assert f"{a}:3" in message
    assert f"{b}:1" in message
    assert look(a, b, limit=2).documents == 2


def test_not_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content in ['[{"text": "x"}]', '[\n {\n  "text": "x"\n }\n]', "text,id\nx,1\n"]:
        path.write_text(content)
        assert "a.json: not JSON lines" in refused(path)


def test_packed_lines_are_unpacked_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress((b'{"text": "' + b"x" * 1_000 + b'"}\n') * 50_000))
    tracemalloc.start()
    try:
        with readers.open_bytes(str(path)) as file:
            count = sum(1 for _ in file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 50_000
    assert peak < 16 << 20


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    data = b"".join(b'{"text": "%d"}\n' % i for i in range(20_000))
    whole = gzip.compress(data) if name.endswith("gz") else zstandard.compress(data)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert f"{name}: cannot be read" in refused(tmp_path / name)


def test_file_that_shrinks_under_the_job(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "y"}])
    corpus = look(path)
    lines(path, [{"text": "x"}])
    with pytest.raises(FatalError, match="had 2 documents when the job started and has 1 now"):
        read(corpus)
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        read(corpus)


# Rows that cannot be read


@pytest.mark.parametrize(
    ("bad", "reason", "doc_id"),
    [
        (b'{"id": "b", "text": "x"', "broken JSON", "a.jsonl:3"),
        (b'{"id": "b", "text": "caf\xe9"}', "not UTF-8 at byte 25", "a.jsonl:3"),
        (b'{"id": "b", "text": "\xed\xa0\x80"}', "not UTF-8", "a.jsonl:3"),
        (rb'{"id": "b", "text": "\ud800"}', "lone surrogate", "b"),
        (rb'{"id": "b", "text": "fine", "extra": "\uDC00"}', "lone surrogate", "b"),
        (rb'{"id": "\ud800", "text": "fine"}', "lone surrogate", "a.jsonl:3"),
        (b'{"id": "b", "text": null}', "column 'text' holds null, not a string", "b"),
        (b'{"id": "b", "text": ["x"]}', "column 'text' holds a list, not a string", "b"),
        (b'{"id": "b"}', "column 'text' is missing", "b"),
        (b'{"text": "x"}', "column 'id' holds no id", "a.jsonl:3"),
        (b'{"id": {}, "text": "x"}', "column 'id' holds no id", "a.jsonl:3"),
        (b'{"id": "b", "text": "x", "text": "y"}', "the key 'text' stands twice in an object", "a.jsonl:3"),
        (b'{"id": "b", "text": "x", "m": [{"k": 1, "k": 2}]}', "the key 'k' stands twice in an object", "a.jsonl:3"),
        (b'["x"]', "not a JSON object but a list", "a.jsonl:3"),
        (b"[" * 200_000, "nested too deeply", "a.jsonl:3"),
        (b'{"id": "b", "text": "x", "meta": ' + b"[" * 200 + b"]" * 200 + b"}", "nested too deeply", "a.jsonl:3"),
        (b'"' + rb"\"" * 200_000 + b"[" * 300, "broken JSON", "a.jsonl:3"),  # in linear time
    ],
)
@pytest.mark.parametrize("first", [True, False], ids=["at the start", "in the middle"])
def test_a_bad_line_costs_one_document(tmp_path: Path, bad: bytes, reason: str, doc_id: str, first: bool) -> None:
    good = [{"id": "g1", "text": "eins"}, {"id": "g2", "text": "zwei"}]
    rows = [b"", b" \t\r", bad, *good] if first else [good[0], b"", bad, good[1]]
    path = lines(tmp_path / "a.jsonl", rows)
    corpus = look(path)
    assert corpus.documents == 3
    by_id = {row["doc_id"]: row for row in read(corpus)}
    assert by_id.keys() == {"g1", "g2", doc_id}
    assert (by_id["g1"]["text"], by_id["g2"]["text"]) == ("eins", "zwei")
    assert by_id["g1"]["error"] is by_id["g2"]["error"] is None
    assert by_id[doc_id]["text"] == ""
    assert by_id[doc_id]["error"].startswith(f"{path}:3: ")
    assert reason in by_id[doc_id]["error"]


def test_brackets_in_strings_are_no_levels(tmp_path: Path) -> None:
    meta: Any = "x"
    for _ in range(198):
        meta = [meta]
    rows = [{"id": "a", "text": '["{' * 500, "meta": [[]] * 500}, {"id": "b", "text": "x", "meta": meta}]
    assert [row["error"] for row in read(look(lines(tmp_path / "a.jsonl", rows)))] == [None, None]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_ids_that_are_no_text_are_not_the_same_id(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_bytes("id,text\nMüller,x\nMöller,y\n".encode("latin-1"))
    lines(tmp_path / "a.jsonl", [{"id": "0", "text": "x"}, *(b'{"id": "\\ud80%d", "text": "x"}' % i for i in (0, 1))])
    assert [row["doc_id"] for row in read(look(tmp_path / name))][-2:] == [f"{name}:2", f"{name}:3"]


def test_bad_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"two\nlines"\n2\n3,caf\xe9\n\n,no id\n4,fine\n5,"a\n6,b\n7,"c"\n8,x\n9,"a"b\n')
    rows = {
        row["doc_id"]: (row["text"], row["error"] and row["error"].removeprefix(str(path))) for row in read(look(path))
    }
    assert rows == {
        "1": ("two\nlines", None),
        "a.csv:4": ("", ":4: 1 fields where the header has 2"),
        "3": ("", ":5: not UTF-8"),
        "a.csv:7": ("", ":7: column 'id' holds no id"),
        "4": ("fine", None),
        "a.csv:9": ("", ":9: broken CSV in lines 9 to 11: ',' expected after '\"'"),
        "8": ("x", None),
        "a.csv:13": ("", ":13: broken CSV: ',' expected after '\"'"),
    }


@pytest.mark.parametrize("content", ['id,text\n1,x\n2,"a\n3,b\n4,c\n', 'id,text\n1,x\n2,"a\n3,b\n4,""c""\n'])
def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path, content: str) -> None:
    # The rows that it swallowed were no documents: none of them in any count, nor in the output.
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert f"{path}:3: broken CSV: a quote of the row that starts here is never closed; close it" in refused(path)
    assert look(path, limit=1).documents == 1


@pytest.mark.parametrize(("header", "reason"), [('id,"te"xt', "',' expected after"), ('id,"text', "never closed")])
def test_what_is_wrong_with_a_csv_header_is_told(tmp_path: Path, header: str, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"\n{header}\n1,x\n")
    message = refused(path)
    assert message.startswith(f"{path}:2: broken CSV: ")
    assert reason in message
    assert "no column" not in message


def test_bad_parquet_rows(tmp_path: Path) -> None:
    latin1 = pa.array([b"ok", b"caf\xe9", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["1", "2", "3"], "text": latin1}), tmp_path / "a.parquet")
    rows = read(look(tmp_path / "a.parquet"))
    assert [row["text"] for row in rows] == ["ok", "", ""]
    assert [row["error"] and row["error"].partition("parquet:")[2] for row in rows] == [
        None,
        "2: column 'text': not UTF-8",
        "3: column 'text' holds null, not a string",
    ]


# Blocks


def test_blocks_are_bounded_numbered_and_repeatable(tmp_path: Path) -> None:
    for name in "ab":
        lines(tmp_path / f"{name}.jsonl", [{"text": "x" * (i * 37 % 400)} for i in range(60)])
    corpus = look(tmp_path)
    blocks, again = (list(read_blocks(corpus, corpus.files, 5, 100, first_batch=7)) for _ in range(2))
    assert all(left.equals(right) for left, right in zip(blocks, again, strict=True))
    assert max(table.num_rows for table in blocks) == 5
    assert max(sum(map(len, table.column("text").to_pylist())) for table in blocks) <= 400
    numbers = [set(table.column(BATCH).to_pylist()) for table in blocks]
    assert all(len(number) == 1 for number in numbers)
    assert set().union(*numbers) == set(range(7, 7 + len(blocks)))


def test_files_of_a_document_each_are_read_and_travel_together(tmp_path: Path) -> None:
    for number in range(2_500):
        (tmp_path / f"{number:04}.txt").write_text(f"document {number}", "utf-8")
    corpus = look(tmp_path)
    groups = files_together(corpus.files)
    assert [len(group) for group in groups] == [1_000, 1_000, 500]
    blocks = list(read_blocks(corpus, groups[2], 200, 8_000))
    assert [table.num_rows for table in blocks] == [200, 200, 100]
    assert blocks[0].column("doc_id")[0].as_py() == "2000.txt"
    assert [file for group in groups for file in group] == list(corpus.files)


def test_large_files_are_read_by_themselves(tmp_path: Path) -> None:
    documents = [600, 400, 1, 5_000, 1, 999]
    files = [CorpusFile(f"{count}.jsonl", "jsonl", f"{count}.jsonl", count, None) for count in documents]
    groups = files_together(files)
    assert [[file.documents for file in group] for group in groups] == [[600, 400], [1], [5_000], [1, 999]]


def test_done_parts_are_left_out(tmp_path: Path) -> None:
    corpus = look(lines(tmp_path / "a.jsonl", [{"id": "d", "text": "x" * 250}, {"id": "e", "text": "y"}]))
    rows = read(corpus, part=100, done={("d", 0), ("d", 2), ("e", 1)})
    assert [(row["doc_id"], row["part"], row["text_start"]) for row in rows] == [("d", 1, 100), ("e", 0, 0)]
    assert read(corpus, done={("d", 0), ("e", 0)}) == []


@pytest.mark.parametrize("length", [0, 10, 900, 5_000])
def test_padded_blocks_fit_between_merging_and_cutting(length: int) -> None:
    table = pa.table({"n": list(range(7)), "text": ["x" * length] * 7})
    padded = list(pad(table, 4_096))
    assert pa.concat_tables(padded).drop_columns([PADDING]).equals(table)
    assert all(block.nbytes > 4_096 and (block.nbytes < 1.5 * 4_096 or block.num_rows == 1) for block in padded)
