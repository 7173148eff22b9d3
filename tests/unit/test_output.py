"""An output folder: what is refused, what killed writers left, and a retry's rows in the place of the failed ones."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import re
import shutil
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import RayError, RayTaskError

from el4ner_ray import accounting, job, parquet, retry, sink
from el4ner_ray.accounting import Committed, Parts, Retried, take_stock
from el4ner_ray.config import load, restored
from el4ner_ray.corpus import Corpus, Done, check_unchanged, read_blocks, survey
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.fingerprint import fingerprint
from el4ner_ray.output import alone, check_columns, open_output, read_run, write_run
from el4ner_ray.pool import open_pool
from el4ner_ray.report.statistics import count_failures
from el4ner_ray.results import first_parts, read_annotations
from el4ner_ray.schema import (
    ANNOTATION_SCHEMA,
    DECIDED,
    SENTENCES,
    Entity,
    Span,
    Usage,
    failures_column,
    usage_column,
)  # fmt: skip
from el4ner_ray.show import run_tables
from el4ner_ray.sink import AnnotationSink, FileSummary, Place, commit, file_name
from tests.conftest import ROOT, write_empty_index, write_jsonl
from tests.scripted import table_of

FIELDS = {"k": 5}
Row = tuple[str, int, str, str]  # doc_id, part, text, status
Unanswered = tuple[str, str, int]  # stage, model, start of the sentence


def put(
    place: Place,
    *rows: Row,
    requests: int = 1,
    retry: int = 0,
    reason: str = "no answer",
    unanswered: Sequence[Unanswered] = (("extract", "m", 0),),
) -> str:
    """Commit a file with these rows, these errors for each that is not ok; its name."""
    table = pa.Table.from_pylist(
        [
            {
                "doc_id": doc_id, "part": part, "text_start": 0, "text": text, "status": status,
                "entities": [], "dropped": [],
                "error": None if status == "ok" else "no answer",
            }
            for doc_id, part, text, status in rows
        ],
        ANNOTATION_SCHEMA,
    )  # fmt: skip
    errors = [
        {
            "doc_id": doc_id, "part": part, "kind": "engine", "stage": stage, "model": model,
            "sentence_start": start, "sentence_end": start + 1, "reason": reason,
        }
        for doc_id, part, _, status in rows
        if status != "ok"
        for stage, model, start in unanswered
    ]  # fmt: skip
    summary = FileSummary(len(rows), 0, {"extract": {"m": Usage(requests=requests)}}, retry)
    commit(place, file_name(table), table, summary, errors)
    return file_name(table)


def held(place: Place) -> dict[tuple[str, int], tuple[str, str]]:
    columns = ["doc_id", "part", "text", "status"]
    files = place.files("annotations", ".parquet")
    rows = [row for path in files for row in pq.read_table(path, columns=columns).to_pylist()]
    keys = [(row["doc_id"], row["part"]) for row in rows]
    assert len(keys) == len(set(keys))
    return {key: (row["text"], row["status"]) for key, row in zip(keys, rows, strict=True)}


def errors_of(place: Place) -> set[tuple[str, int]]:
    rows = [row for path in place.files("errors", ".parquet") for row in pq.read_table(path).to_pylist()]
    return {(row["doc_id"], row["part"]) for row in rows}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(str(tmp_path / "out"))
    write_run(place, {"fingerprint": fingerprint(FIELDS), "fingerprint_fields": FIELDS})
    return place


def test_what_killed_writers_left_is_removed_and_nothing_else(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place, ("a", 0, "A", "failed"))
    write = Place.write

    def killed(self: Place, name: str, content: bytes) -> None:
        if name.startswith("annotations"):
            raise KeyboardInterrupt
        write(self, name, content)

    monkeypatch.setattr(Place, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        put(place, ("b", 0, "B", "failed"))
    monkeypatch.undo()
    (Path(place.uri) / "annotations" / ".c.parquet.part").write_bytes(b"half a file")
    mine = Path(place.uri, ".notes.part")  # of someone else
    for name in (".run.json.0a.part", ".index.x_1.building", mine.name):
        Path(place.uri, name).touch()
    assert errors_of(place) == {("a", 0), ("b", 0)}
    assert open_output(place, FIELDS, resume=True, force=False).texts == {("a", 0): hash("A")}
    assert errors_of(place) == {("a", 0)}
    assert sorted(path.name for path in (Path(place.uri) / "annotations").iterdir()) == [file_name_of(place)]
    assert sorted(path.name for path in Path(place.uri).glob(".*")) == [mine.name]


def test_what_killed_writers_left_is_removed_where_paths_do_not_begin_with_a_slash(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on an object store, whose paths begin with the bucket.
    bucket = DirFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr(sink, "file_system", lambda _: (bucket, "out"))
    name = put(place, ("a", 0, "A", "failed"))
    place.remove(f"annotations/{name}")
    place.write("annotations/.b.parquet.part", b"half a file")
    assert open_output(place, FIELDS, resume=True, force=False) == Committed()
    assert not [*place.files("errors", ".parquet"), *place.unfinished("annotations")]


@pytest.mark.parametrize("uri", ["s4://bucket/out", "gs://bucket/out"])
def test_a_file_system_that_is_not_installed_is_told(uri: str) -> None:
    with pytest.raises(UsageError, match=rf"{uri}: cannot be opened: "):
        Place(uri).read("run.json")
    with pytest.raises(UsageError, match=rf"{uri}: cannot be opened: "):
        read_annotations(uri)


def file_name_of(place: Place) -> str:
    (path,) = place.files("annotations", ".parquet")
    return Path(path).name


def test_rows_written_again_without_a_failure_leave_no_error_behind(place: Place) -> None:
    assert put(place, ("a", 0, "A", "failed")) == put(place, ("a", 0, "A", "ok"))
    assert held(place) == {("a", 0): ("A", "ok")}
    assert errors_of(place) == set()


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "annotations").symlink_to("/proc")  # where nobody, not even root, can make a file
    with pytest.raises(UsageError, match=r"--output .*annotations/.*cannot be written: .*name another"):
        open_output(Place(str(out)), FIELDS, resume=True, force=False)


def test_a_failed_write_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(str(tmp_path))
    monkeypatch.setattr(LocalFileSystem, "mv", full)
    with pytest.raises(FatalError, match=r"annotations/x\.parquet: cannot be written: No space left on device"):
        place.write("annotations/x.parquet", b"x")
    assert list((tmp_path / "annotations").iterdir()) == []


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, move = os.fsync, shutil.move

    def synced(descriptor: int) -> None:
        calls.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        sync(descriptor)

    def moved(source: str, target: str) -> None:
        calls.append("move")
        move(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(shutil, "move", moved)
    Place(str(tmp_path)).write("annotations/x.parquet", b"x")
    assert calls == ["file", "move", "folder"]
    assert [path.name for path in (tmp_path / "annotations").iterdir()] == ["x.parquet"]


def test_two_tries_of_one_commit_do_not_touch_each_others_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, move = Place(str(tmp_path)), LocalFileSystem.mv

    def overtaken(self: LocalFileSystem, source: str, target: str) -> None:
        monkeypatch.setattr(LocalFileSystem, "mv", move)
        place.write("annotations/x.parquet", b"the second")
        assert Path(source).read_bytes() == b"the first"
        move(self, source, target)

    monkeypatch.setattr(LocalFileSystem, "mv", overtaken)
    place.write("annotations/x.parquet", b"the first")
    assert (tmp_path / "annotations" / "x.parquet").read_bytes() == b"the first"
    assert not place.unfinished("annotations")


def test_a_damaged_file_is_named_with_the_mend(place: Place) -> None:
    put(place, ("a", 0, "A", "ok"))
    (Path(place.uri) / "annotations" / "x.parquet").touch()  # after the other: its name is no hexadecimal number
    told = r"annotations/x\.parquet: not Parquet: [^\n]*; remove it, and run the same `el4ner annotate` command again$"
    reads: list[Callable[[], object]] = [
        lambda: open_output(place, FIELDS, resume=True, force=False),
        lambda: take_stock(place),
        lambda: list(read_annotations(place.uri)),
    ]
    change(place, status="running", config={"models": []})
    for read in reads:
        with pytest.raises(UsageError, match=told):
            read()
    Path(place.files("annotations", ".parquet")[0]).unlink()  # now it is the first
    with pytest.raises(UsageError, match=told):
        read_annotations(place.uri)


def test_a_flipped_byte_is_read_over_or_named(place: Place) -> None:
    # Arrow tells it in many ways, and some not before the strings are looked at.
    put(place, *((name, 0, f"{name} met Ben.", "partial") for name in ("Anna", "Cleo", "Dora")))
    reads: dict[str, list[Callable[[], object]]] = {
        "annotations": [
            lambda: Committed.of(place),
            lambda: take_stock(place),
            lambda: list(read_annotations(place.uri)),
        ],
        "errors": [lambda: retry._error_rows(place, name), lambda: count_failures(place)],
    }
    name = file_name_of(place)
    for folder, of_folder in reads.items():
        path = Path(place.uri, folder, name)
        whole, told = path.read_bytes(), 0
        for at in range(0, len(whole), 41):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            for read in of_folder:
                with suppress(UsageError):
                    read()
                    continue
                told += 1
        assert told > 20
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (TimeoutError("the store is silent"), "the store is silent"),
        (FileNotFoundError(), "FileNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_reached_is_not_called_damaged(error: OSError, told: str) -> None:
    with pytest.raises(UsageError) as caught, parquet.whole("x.parquet"):
        raise error
    wanted = f"x.parquet: cannot be read: {told}; make it readable, or name the folder of another run"
    assert str(caught.value) == wanted


@pytest.mark.parametrize("refused", ["ls", "cat_file"])
def test_a_folder_that_cannot_be_read_is_named(place: Place, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    put(place, ("a", 0, "A", "partial"))
    change(place, status="running", config={"models": []})

    def no(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(LocalFileSystem, refused, no)
    reads: dict[str, list[Callable[[], object]]] = {
        "ls": [lambda: read_annotations(place.uri), lambda: take_stock(place), lambda: count_failures(place)],
        "cat_file": [lambda: read_annotations(place.uri), lambda: read_run(place)],
    }
    told = r"/(run\.json|annotations|errors): cannot be read: Permission denied; make it readable"
    for read in reads[refused]:
        with pytest.raises(UsageError, match=told):
            read()


def test_what_a_store_refuses_without_a_number_is_not_told_to_be_damaged() -> None:
    told = r"x\.parquet: cannot be read: Forbidden: 403; if it is damaged, remove it"
    with pytest.raises(UsageError, match=told), parquet.whole("x.parquet"):
        raise OSError("Forbidden: 403")  # as gcsfs


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "give the folder that"), ("[]", "give the folder that"), ("{}", "has no fingerprint; name another folder")],
)
def test_a_run_json_of_something_else_is_named(place: Place, content: str, told: str) -> None:
    put(place, ("a", 0, "A", "ok"))
    Path(place.uri, "run.json").write_text(content)
    with pytest.raises(UsageError, match=rf"run\.json.*{told}"):
        open_output(place, FIELDS, resume=True, force=False)
    assert held(place)
    assert open_output(place, FIELDS, resume=True, force=True) == Committed()
    (aside,) = Path(place.uri).glob("superseded-*")
    assert (aside / "run.json").read_text() == content


CHANGES = [
    # what the input holds now, what is told
    ([("a", "Anna."), ("b", "Ben.")], None),
    ([("b", "Ben."), ("new", "Carl."), ("a", "Anna.")], None),
    ([("a", "Anna."), ("b", "Ben!")], r"in.jsonl:2: the text of document 'b'"),
    ([("a", "Anna.")], r"1 rows of out are not in the input any more, the first is part 0 of document 'b'"),
    ([("a", "Anna."), ("b", None)], r"in.jsonl:2: the text of document 'b'"),
]


@pytest.mark.parametrize(("now", "told"), CHANGES)
def test_a_changed_input_is_noticed(tmp_path: Path, now: list[tuple[str, Any]], told: str | None) -> None:
    corpus = survey([str(write_jsonl(tmp_path / "in.jsonl", [{"id": i, "text": t} for i, t in now]))], "text")
    texts = {("a", 0): hash("Anna."), ("b", 0): hash("Ben.")}
    if told is None:
        check_unchanged(corpus, 100, texts, "out", whole=True)
    else:
        with pytest.raises(UsageError, match=told):
            check_unchanged(corpus, 100, texts, "out", whole=True)


def test_documents_in_parts_are_compared_part_by_part(tmp_path: Path) -> None:
    text = "Anna met Ben in Oslo. " * 20
    corpus = survey([str(write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": text}]))], "text")
    place = Place(str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"2 rows .* part 0 of document 'b'"):
        check_unchanged(corpus, 100, {("b", 0): 1, ("b", 1): 2}, "out", whole=True)
    check_unchanged(corpus, 100, {("b", 0): 1}, "out", whole=False)
    # A line of which not even the id could be read may have got one.
    check_unchanged(corpus, 100, {("in.jsonl:2", 0): None}, "out", whole=True)
    put(place, ("a", 1, "something else", "ok"))
    with pytest.raises(UsageError, match="the text of document 'a'"):
        check_unchanged(corpus, 100, Committed.of(place).texts, "out", whole=True)


def test_a_document_that_could_not_be_read_may_be_mended(place: Place) -> None:
    put(place, ("a", 0, "", "failed"), ("b", 0, "", "ok"), ("c", 0, "C", "failed"))
    assert Committed.of(place).texts == {("a", 0): None, ("b", 0): hash(""), ("c", 0): hash("C")}
    # It stands failed until a retry, all of it: with its first part missing, nothing could read the others.
    parts = Parts.of(Committed.of(place).texts)
    assert [key for key in [("a", 0), ("a", 1), ("b", 1), ("c", 1), ("d", 0)] if key in parts] == [("a", 0), ("a", 1)]
    assert ("a", 1) in take_stock(place, parts.unread).done


def test_columns_of_another_type_are_refused(place: Place) -> None:
    # Half of the files could not be read together with the others.
    check_columns(place, {}, {"year": "int64"})
    check_columns(place, {"year": "int64"}, {"year": "int64", "new": "string"})
    with pytest.raises(UsageError, match="its column 'year' holds int64, that of the input JSON text now; convert it"):
        check_columns(place, {"year": "int64"}, {"year": "JSON text"})


@pytest.mark.parametrize(
    ("earlier", "limit", "kept"), [(None, 3, 3), (3, 5, 5), (5, 3, 5), ("all", 3, None), (3, None, None)]
)
def test_a_resumed_run_keeps_the_widest_limit(earlier: Any, limit: int | None, kept: int | None) -> None:
    # A retry reads as far as that: beyond a smaller one, documents that failed would stay failed.
    run = {} if earlier is None else {"source": {"limit": None if earlier == "all" else earlier}}
    assert job._source(["in.jsonl"], "pool.jsonl", limit, run)["limit"] == kept


class WhoReads(io.BytesIO):
    """A file that knows the threads that read it."""

    threads: ClassVar[set[int]] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.threads.add(threading.get_ident())
        return super().read(size)


@pytest.mark.parametrize(
    "read",
    [
        lambda file: parquet.table(file, ["doc_id"]),
        lambda file: list(parquet.batches(file, rows=10)),
        lambda file: list(first_parts(file)),
    ],
)
def test_arrow_reads_output_in_the_calling_thread(place: Place, read: Callable[[IO[bytes]], object]) -> None:
    # Arrow's own threads drop what Python gave them while the interpreter ends, which aborts the process.
    put(place, *((f"d{i}", 0, "A", "ok") for i in range(100)))
    with place.open(place.files("annotations", ".parquet")[0]) as file:
        WhoReads.threads.clear()
        read(WhoReads(file.read()))
    assert WhoReads.threads == {threading.get_ident()}


def test_what_is_retried(place: Place) -> None:
    put(place, ("a", 0, "A", "ok"), ("b", 0, "B0", "ok"), ("b", 1, "B1", "partial"))
    put(place, ("c", 0, "", "failed"))
    retried = Retried.of(place, {})
    assert retried.documents == {"b", "c"}
    assert retried.texts == {("b", 0): hash("B0"), ("b", 1): hash("B1"), ("c", 0): None}
    left = {key for key in [("a", 0), ("b", 0), ("b", 1), ("c", 0), ("c", 1), ("new", 0)] if key not in retried}
    assert left == {("b", 1), ("c", 0), ("c", 1)}
    assert ("c", 0) in retried.without({("c", 0)})


@pytest.fixture
def failed(place: Place) -> Place:
    """Three files, two of them with rows that are not ok."""
    put(place, ("a", 0, "A", "ok"), ("b", 0, "B", "failed"), ("c", 0, "C", "ok"), requests=3)
    put(place, ("d", 0, "", "failed"), ("e", 0, "E", "partial"), requests=2)
    put(place, ("f", 0, "F", "ok"), requests=1)
    return place


@pytest.fixture
def staged(failed: Place) -> Place:
    """What a retry found: b is ok now, d was mended and has two parts, e was annotated in part and has failed."""
    staged = Place(f"{failed.uri}/retry/2")
    put(staged, ("b", 0, "B", "ok"), ("d", 0, "D0", "ok"), requests=10)
    put(staged, ("d", 1, "D1", "ok"), ("e", 0, "E", "failed"), requests=10)
    return staged


ROWS = st.tuples(
    st.sampled_from(["a", "b", "é🙂", " "]),
    st.integers(0, 3),
    st.just("T"),
    st.sampled_from(["ok", "partial", "failed"]),
)


@given(st.lists(st.lists(ROWS, min_size=1, max_size=6), max_size=4))
@settings(max_examples=50)
def test_accounts_are_those_of_a_plain_count(files: list[list[Row]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder)
        for rows in files:
            put(place, *rows)
        committed = [row for path in place.files("annotations", ".parquet") for row in pq.read_table(path).to_pylist()]
        accounts, before = take_stock(place), Committed.of(place)
    parts = accounts.done
    keys = Counter((row["doc_id"], row["part"]) for row in committed)
    statuses = defaultdict(set)
    for row in committed:
        statuses[row["doc_id"]].add(row["status"])
    documents = Counter(found.pop() if len(found) == 1 else "partial" for found in statuses.values())
    assert (accounts.ok, accounts.partial, accounts.failed) == tuple(documents[s] for s in ("ok", "partial", "failed"))
    assert (accounts.parts, accounts.duplicated_parts) == (len(keys), len(committed) - len(keys))
    assert len(parts) == len(keys)
    assert all(((doc_id, part) in parts) == ((doc_id, part) in keys) for doc_id in "abc" for part in range(5))
    assert before.texts.keys() == keys.keys() == {key for key in keys if key in Parts.of(before.texts)}
    assert before.documents == sum(part == 0 for _, part in keys)
    assert before.sentences == len(committed)


def assert_merged(place: Place) -> None:
    ok = {("a", 0): "A", ("b", 0): "B", ("c", 0): "C", ("d", 0): "D0", ("d", 1): "D1", ("f", 0): "F"}
    assert held(place) == {key: (text, "ok") for key, text in ok.items()} | {("e", 0): ("E", "partial")}
    assert errors_of(place) == {("e", 0)}
    accounts = take_stock(place)
    assert (accounts.ok, accounts.partial, accounts.failed, accounts.duplicated_parts) == (5, 1, 0, 0)
    assert accounts.summary.stages["extract"]["m"].requests == 3 + 2 + 1 + 20


def test_a_merge_puts_new_rows_in_the_place_of_the_old(failed: Place, staged: Place) -> None:
    retry.merge(staged, failed, 2)
    assert_merged(failed)
    first = [row["doc_id"] for row in pq.read_table(failed.files("annotations", ".parquet")[0]).to_pylist()]
    assert first == sorted(first)


def test_a_merge_leaves_other_columns_as_they_are(failed: Place, staged: Place) -> None:
    # The input may have had them in Latin-1.
    for place in (failed, staged):
        for path in place.files("annotations", ".parquet"):
            table = pq.read_table(path)
            raw = pa.array([b"caf\xe9"] * table.num_rows, pa.binary()).view(pa.string())
            pq.write_table(table.append_column("author", raw), path)
    retry.merge(staged, failed, 2)
    assert_merged(failed)
    (path, *_) = failed.files("annotations", ".parquet")
    assert pq.read_table(path, columns=["author"])["author"][0].as_buffer().to_pybytes() == b"caf\xe9"


def test_a_merge_killed_before_any_write_goes_on(failed: Place, staged: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Place.write
    before = held(failed).keys()
    for survive in range(12):
        writes = 0

        def killed(self: Place, name: str, content: bytes, survive: int = survive) -> None:
            nonlocal writes
            if writes == survive:
                raise KeyboardInterrupt
            writes += 1
            write(self, name, content)

        monkeypatch.setattr(Place, "write", killed)
        try:
            retry.merge(staged, failed, 2)
        except KeyboardInterrupt:
            assert before <= held(failed).keys()
            continue
        finally:
            monkeypatch.undo()
        break
    assert survive > 2
    assert_merged(failed)
    files = {path: Path(path).read_bytes() for path in failed.files("annotations", ".parquet")}
    retry.merge(staged, failed, 2)
    assert {path: Path(path).read_bytes() for path in files} == files


def test_a_retry_that_fails_altogether_leaves_what_was_found_in_part(place: Place) -> None:
    put(place, ("a", 0, "A", "partial"), ("b", 0, "B", "failed"), reason="slow")
    staged = Place(f"{place.uri}/retry/2")
    put(staged, ("a", 0, "A", "failed"), ("b", 0, "B", "failed"), requests=10, reason="dead")
    retry.merge(staged, place, 2)
    assert held(place) == {("a", 0): ("A", "partial"), ("b", 0): ("B", "failed")}
    errors = [row for path in place.files("errors", ".parquet") for row in pq.read_table(path).to_pylist()]
    assert {(row["doc_id"], row["reason"]) for row in errors} == {("a", "slow"), ("b", "dead")}
    assert take_stock(place).summary.stages["extract"]["m"].requests == 1 + 10
    again = Place(f"{place.uri}/retry/3")
    put(again, ("a", 0, "A", "failed"), requests=5)
    retry.merge(again, place, 3)
    assert held(place)["a", 0] == ("A", "partial")
    assert take_stock(place).summary.stages["extract"]["m"].requests == 1 + 10 + 5


EXTRACT, CLASSIFY = ("extract", "m", 0), ("classify", "m", 0)
EVERY_MODEL = [("extract", model, 0) for model in "abc"]


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        ([EXTRACT], [EXTRACT], "now"),
        ([EXTRACT], [CLASSIFY], "now"),
        ([CLASSIFY], [CLASSIFY, CLASSIFY], "before"),
        # Where no model extracts anything, nobody is asked about it: few requests, and nothing found.
        ([CLASSIFY] * 20, EVERY_MODEL, "before"),
        (EVERY_MODEL, [CLASSIFY] * 20, "now"),
        ([EXTRACT], [("classify", model, 0) for model in "abm"], "before"),
        ([CLASSIFY] * 20, [("verify", "m", start) for start in range(2)], "before"),
    ],
)
def test_a_retry_leaves_what_lacks_less(
    place: Place, before: list[Unanswered], now: list[Unanswered], kept: str
) -> None:
    put(place, ("a", 0, "A", "partial"), reason="before", unanswered=before)
    staged = Place(f"{place.uri}/retry/2")
    put(staged, ("a", 0, "A", "partial"), requests=10, reason="now", unanswered=now)
    retry.merge(staged, place, 2)
    (errors,) = place.files("errors", ".parquet")
    assert {row["reason"] for row in pq.read_table(errors).to_pylist()} == {kept}
    assert held(place) == {("a", 0): ("A", "partial")}
    assert take_stock(place).summary.stages["extract"]["m"].requests == 1 + 10


def test_a_second_retry_replaces_what_failed_again(failed: Place, staged: Place) -> None:
    retry.merge(staged, failed, 2)
    again = Place(f"{failed.uri}/retry/3")
    put(again, ("e", 0, "E", "ok"))
    retry.merge(again, failed, 3)
    assert held(failed)["e", 0] == ("E", "ok")
    assert errors_of(failed) == set()
    parts = take_stock(failed).done
    assert len(parts) == len(held(failed))
    assert all(key in parts for key in held(failed))
    assert ("e", 1) not in parts
    assert ("x", 0) not in parts


@pytest.fixture
def finished(tmp_path: Path) -> Place:
    """A finished run of the scripted engine, as far as run.json goes, with a document that failed."""
    write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "A"}])
    config = load(profile="fake", overrides={"demonstrations": {"pool_spans": "gold"}})
    pool = str(ROOT / "examples" / "pool.jsonl")
    place = Place(str(tmp_path / "out"))
    fields = job.deciding_fields(config, open_pool(config, pool, job.index_of(place.uri)))
    put(place, ("a", 0, "A", "failed"))
    source = {"inputs": [str(tmp_path / "in.jsonl")], "pool": pool, "limit": None}
    run = {"status": "finished", "source": source, "sessions": [], "config": config.model_dump(mode="json")}
    write_run(place, run | {"fingerprint": fingerprint(fields), "fingerprint_fields": fields})
    return place


def change(place: Place, **fields: Any) -> None:
    write_run(place, (read_run(place) or {}) | fields)


def test_a_retry_needs_a_finished_run(finished: Place, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run.json in it; give the folder"):
        retry.retry(str(tmp_path / "nowhere"))
    change(finished, status="running")
    with pytest.raises(UsageError, match="has not finished; run the same `el4ner annotate` command again first"):
        retry.retry(finished.uri)


def recorded(place: Place, **engine: Any) -> None:
    """The fields as earlier versions recorded them: with all engine arguments, here those of the first model."""
    fields = (read_run(place) or {})["fingerprint_fields"]
    fields["models"][0]["engine"] = engine
    change(place, fingerprint_fields=fields, fingerprint=fingerprint(fields))


def test_a_retry_with_engines_that_hold_less_goes_on(finished: Place, tmp_path: Path) -> None:
    models = [model.model_dump(mode="json", exclude_defaults=True) for model in load(profile="fake").models]
    write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "another"}])
    for engine, told in (
        ({"max_num_seqs": 128, "enforce_eager": True}, "the text of document 'a'"),  # it has come as far as that
        ({"dtype": "float16"}, "different models"),
    ):
        (tmp_path / "job.yaml").write_text(yaml.safe_dump({"models": [models[0] | {"engine": engine}, *models[1:]]}))
        with pytest.raises(UsageError, match=told):
            retry.retry(finished.uri, str(tmp_path / "job.yaml"))


def test_a_run_of_an_earlier_version_is_resumed_whatever_its_engines_held(finished: Place) -> None:
    fields = (read_run(finished) or {})["fingerprint_fields"]
    recorded(finished, max_num_seqs=256, gpu_memory_utilization=0.9)
    assert len(open_output(finished, fields, resume=True, force=False).texts) == 1
    recorded(finished, max_num_seqs=256, dtype="float16")
    with pytest.raises(UsageError, match="was written with a different models"):
        open_output(finished, fields, resume=True, force=False)


def test_a_retry_needs_what_the_run_had(finished: Place, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("demonstrations: {k: 2}")
    with pytest.raises(UsageError, match=r"different demonstrations\.k"):
        retry.retry(finished.uri, str(tmp_path / "job.yaml"))
    write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "another"}])
    with pytest.raises(UsageError, match="the text of document 'a'"):
        retry.retry(finished.uri)
    write_jsonl(tmp_path / "in.jsonl", [{"id": "b", "text": "A"}])
    with pytest.raises(UsageError, match="not in the input any more"):
        retry.retry(finished.uri)
    (tmp_path / "in.jsonl").unlink()
    with pytest.raises(UsageError, match=r"in\.jsonl: no such file"):
        retry.retry(finished.uri)
    change(finished, source=read_source(finished) | {"pool": str(tmp_path / "pool.jsonl")})
    with pytest.raises(UsageError, match=r"pool\.jsonl"):
        retry.retry(finished.uri)
    assert held(finished) == {("a", 0): ("A", "failed")}


def test_a_retry_takes_the_index_that_the_run_was_given(finished: Place, tmp_path: Path) -> None:
    # That of a run before it lies in the folder still: `--force` leaves it there.
    given, left = tmp_path / "index", Path(finished.uri) / "index"
    config = restored((read_run(finished) or {})["config"])
    built_from = open_pool(config, read_source(finished)["pool"], str(given)).built_from
    write_empty_index(left, built_from | {"pool": "another"})
    write_empty_index(given, built_from)
    change(finished, source=read_source(finished) | {"pool": str(given)})
    put(finished, ("a", 0, "A", "ok"))
    assert retry.retry(finished.uri)["documents"]["ok"] == 1


def test_a_retry_takes_a_configuration_with_any_tagger(finished: Place, tmp_path: Path) -> None:
    # As a run does: the one that was chosen when it was started.
    (tmp_path / "job.yaml").write_text("demonstrations: {tagger: auto}")
    config = restored((read_run(finished) or {})["config"], str(tmp_path / "job.yaml"))
    assert config == restored((read_run(finished) or {})["config"])


def read_source(place: Place) -> dict[str, Any]:
    source: dict[str, Any] = (read_run(place) or {})["source"]
    return source


def test_a_retry_reads_nothing_of_the_output(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It lies below the input here, and the folder of the retry's answers below it.
    surveyed: list[str] = []

    def noted(*arguments: Any, **options: Any) -> Corpus:
        corpus = survey(*arguments, **options)
        surveyed.extend(Path(file.uri).name for file in corpus.files)
        raise FatalError("surveyed")

    monkeypatch.setattr(job, "survey", noted)
    change(finished, source=read_source(finished) | {"inputs": [str(tmp_path)]})
    with pytest.raises(FatalError, match="surveyed"):
        retry.retry(finished.uri)
    assert surveyed == ["in.jsonl"]


def without_engines(monkeypatch: pytest.MonkeyPatch, annotate: Callable[..., None]) -> None:
    """Let `annotate` stand for the pipeline; what it gets as documents is the corpus and what is done."""

    @contextmanager
    def engines(*_: Any) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(ended_at=0.0)

    monkeypatch.setattr(job, "engines", engines)
    monkeypatch.setattr(job, "prepare", lambda *_: (None, FileSummary()))
    monkeypatch.setattr(job, "CorpusSource", lambda corpus, _, done: (corpus, done))
    monkeypatch.setattr(job.pipeline, "annotate", annotate)


@pytest.mark.parametrize(
    ("files", "told"), [([], "not every document is in the output"), (["bc", "b"], "1 rows stand twice in the output")]
)
def test_a_run_that_does_not_account_for_every_document_is_not_finished(
    finished: Place, monkeypatch: pytest.MonkeyPatch, files: list[str], told: str
) -> None:
    # Once run.json said that it was: the same command then had nothing left to do.
    def annotate(*_: Any) -> None:
        for documents in files:
            put(finished, *((name, 0, name.upper(), "ok") for name in documents))

    corpus = Path(read_source(finished)["inputs"][0])
    write_jsonl(corpus, [{"id": key, "text": key.upper()} for key in "abc"])
    change(finished, status="running")
    without_engines(monkeypatch, annotate)
    config = load(profile="fake", overrides={"demonstrations": {"pool_spans": "gold"}})
    with pytest.raises(FatalError, match=told):
        job.annotate(config, [str(corpus)], read_source(finished)["pool"], finished.uri)
    assert (read_run(finished) or {})["status"] == "running"


@pytest.fixture
def annotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`job.annotate` of these inputs into one folder, where each document is found to hold nothing."""
    place = Place(str(tmp_path / "out"))

    def commit_all(documents: tuple[Corpus, Done], *_: Any) -> None:
        corpus, done = documents
        tables = list(read_blocks(corpus, corpus.files, 8, 8_000, done))
        rows = [row for table in tables for row in table.to_pylist()]
        put(place, *((row["doc_id"], row["part"], row["text"], "ok") for row in rows))

    without_engines(monkeypatch, commit_all)
    config = load(profile="fake", overrides={"demonstrations": {"pool_spans": "gold"}})
    pool = str(ROOT / "examples" / "pool.jsonl")
    return lambda *inputs, **options: job.annotate(config, [str(each) for each in inputs], pool, place.uri, **options)


def test_a_run_with_a_limit_does_not_finish_a_wider_one(
    tmp_path: Path, annotate: Callable[..., dict[str, Any]]
) -> None:
    # What the wider one was killed in the middle of would pass as whole.
    corpus = tmp_path / "in.jsonl"
    write_jsonl(corpus, [{"id": "a", "text": "A"}, {"id": "b", "text": "B. " * 5_000}, {"id": "c", "text": "C"}])
    assert annotate(corpus, limit=1)["status"] == "finished"
    place = Place(str(tmp_path / "out"))
    put(place, ("b", 0, "B. " * 2_666, "ok"))
    for wider, mend in ((None, "read all documents and has not finished; leave --limit out"), (3, "give --limit 3")):
        change(place, status="running", source=read_source(place) | {"limit": wider})
        with pytest.raises(UsageError, match=f"--limit 2: .*{mend}"):
            annotate(corpus, limit=2)
        assert (read_run(place) or {})["status"] == "running"
    assert annotate(corpus)["documents"]["total"] == 3


def test_a_run_that_committed_nothing_leaves_no_limit(tmp_path: Path, annotate: Callable[..., dict[str, Any]]) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": key, "text": key.upper()} for key in "abc"])
    place = Place(str(tmp_path / "out"))
    session = {"started": "", "sentences": 0, "startup_seconds": 1.0, "wall_seconds": 1.0}
    write_run(place, {"status": "running", "source": {"limit": None}, "sessions": [session]})
    run = annotate(corpus, limit=2)
    assert run["source"]["limit"] == 2  # as far as a retry reads
    [only] = run["sessions"]
    assert only.keys() >= {"cores", "replicas"}
    change(place, status="running")
    assert annotate(corpus, limit=2)["documents"]["total"] == 2


def test_each_session_tells_what_it_added(tmp_path: Path, annotate: Callable[..., dict[str, Any]]) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": key, "text": key.upper()} for key in "abcde"])
    annotate(corpus, limit=2)
    run = annotate(corpus)
    assert [session["sentences"] for session in run["sessions"]] == [2, 3]
    assert run["sentences"] == 5
    wall = sum(session["wall_seconds"] for session in run["sessions"])
    assert run["sentences_per_second"] == pytest.approx(5 / max(wall, 0.01), abs=0.001)


def test_an_output_is_not_resumed_against_the_wish(tmp_path: Path, annotate: Callable[..., dict[str, Any]]) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": key, "text": key.upper()} for key in "abc"])
    assert annotate(corpus, limit=1, resume=False)["documents"]["total"] == 1  # there is nothing yet
    told = "holds annotations; resume them, name another folder, or use --force"
    with pytest.raises(UsageError, match=told):
        annotate(corpus, resume=False)
    assert len(held(Place(str(tmp_path / "out")))) == 1
    assert annotate(corpus, resume=False, force=True)["documents"]["total"] == 3
    assert len(list(tmp_path.glob("out/superseded-*/annotations/*.parquet"))) == 1


def test_a_file_of_annotations_tells_what_it_cost(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "out"))
    kept, dropped = (Entity(Span(0, 1), "x", 0.5, (), ("m",), kept=kept) for kept in (True, False))
    columns = {
        SENTENCES: [[Span(0, 1), Span(1, 2)], [], [Span(0, 2)]],
        DECIDED: [[[kept, dropped], [kept]], [], [[dropped]]],
        usage_column("extract"): [{"m": Usage(requests=2)}, {}, {"m": Usage(requests=1)}],
        failures_column("extract"): [[], [], []],
    }
    tables = [table_of(["ab", "", "cd"], columns), table_of([], {column: [] for column in columns})]
    tables += [tables[0].slice(0, 1).set_column(0, "doc_id", pa.array(["other"]))]
    AnnotationSink(place, ["extract"], pa.schema([]), documents_per_file=8).write(tables, None)
    summary = take_stock(place).summary
    assert (summary.sentences, summary.entities) == (3 + 2, 2 + 2)
    assert summary.stages == {"extract": {"m": Usage(requests=3 + 2)}}


def test_what_a_worker_wrote_is_listed_where_a_file_system_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Remembering(LocalFileSystem):
        """Lists a folder as it was when it was first listed, as those of object stores do."""

        cachable = False
        seen: ClassVar[dict[str, list[str]]] = {}

        def ls(self, path: str, detail: bool = False, **_: Any) -> list[str]:
            return self.seen.setdefault(path, super().ls(path, detail))

        def invalidate_cache(self, path: str | None = None) -> None:
            self.seen.clear()

    place = Place(str(tmp_path / "out"))
    remembering = Remembering()
    monkeypatch.setattr(sink, "file_system", lambda _: (remembering, place.uri))
    place.write("annotations/a.parquet", b"")
    assert len(place.files("annotations", ".parquet")) == 1
    (Path(place.uri) / "annotations" / "b.parquet").touch()  # by another process
    assert len(place.files("annotations", ".parquet")) == 2


def test_what_preparing_took_outlives_a_run_that_went_no_further(
    tmp_path: Path, annotate: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next one finds the index, and asks nothing for it.
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "A"}])
    asked = iter([2, 0, 3])
    monkeypatch.setattr(
        job, "prepare", lambda *_: (None, FileSummary(stages={"pre_extract": {"m": Usage(requests=next(asked))}}))
    )

    def killed(*_: Any) -> None:
        raise FatalError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(job.pipeline, "annotate", killed)
        with pytest.raises(FatalError, match="killed"):
            annotate(corpus)
    assert annotate(corpus)["preparation"]["pre_extract"]["m"]["requests"] == 2
    write_jsonl(corpus, [{"id": "a", "text": "A"}, {"id": "b", "text": "B"}])
    run = annotate(corpus)
    assert run["preparation"]["pre_extract"]["m"]["requests"] == 5
    titles = [table.title for table in run_tables(run, str(tmp_path / "out"))]
    assert titles[1:3] == ["costs of index and calibration", "costs"]


def test_a_wider_limit_names_documents_as_before(tmp_path: Path, annotate: Callable[..., dict[str, Any]]) -> None:
    # Another input of the same name changes made-up ids: the first documents would be there twice.
    for folder in "xy":
        (tmp_path / folder).mkdir()
        write_jsonl(tmp_path / folder / "a.jsonl", [{"text": f"{folder}{i}"} for i in range(7)])
    x, y = tmp_path / "x" / "a.jsonl", tmp_path / "y" / "a.jsonl"
    assert annotate(x, limit=5)["documents"]["total"] == 5
    with pytest.raises(UsageError, match=r"5 rows of .* the first is part 0 of document 'a\.jsonl:1'; restore"):
        annotate(x, y, limit=10)
    assert annotate(x, limit=3)["documents"]["total"] == 5
    assert annotate(x, limit=6)["source"]["limit"] == 6
    with pytest.raises(UsageError, match="6 rows of"):
        annotate(x, y)


def test_the_type_of_a_column_outlives_an_input_without_it(
    tmp_path: Path, annotate: Callable[..., dict[str, Any]]
) -> None:
    path = write_jsonl(tmp_path / "in.jsonl", [{"id": "a", "text": "A", "year": 1931}])
    assert annotate(path)["columns"] == {"year": "int64"}
    write_jsonl(path, [{"id": "a", "text": "A"}, {"id": "b", "text": "B", "page": 1}])
    assert annotate(path)["columns"] == {"year": "int64", "page": "int64"}
    write_jsonl(path, [{"id": key, "text": key.upper(), "year": "unknown"} for key in "abc"])
    with pytest.raises(UsageError, match="its column 'year' holds int64, that of the input string now"):
        annotate(path)
    assert annotate(path, force=True)["columns"] == {"year": "string"}


def test_one_run_at_a_time_writes_into_an_output(finished: Place) -> None:
    unfinished = Path(finished.uri, "annotations", ".x.parquet.part")
    unfinished.touch()
    source = read_source(finished)
    config = load(profile="fake", overrides={"demonstrations": {"pool_spans": "gold"}})
    told = re.escape(f"--output {finished.uri}: another run writes into it; wait for it or give another folder")
    with FileLock(Path(finished.uri, ".lock")):
        with pytest.raises(UsageError, match=told):
            job.annotate(config, source["inputs"], source["pool"], finished.uri, force=True)
        with pytest.raises(UsageError, match=told):
            retry.retry(finished.uri)
    assert unfinished.exists()
    assert held(finished) == {("a", 0): ("A", "failed")}
    with pytest.raises(KeyError), alone(finished):
        raise KeyError
    with alone(finished):  # the lock is let go of, and its file, which stays, is nobody's output
        assert not finished.unfinished("")


def test_a_file_system_without_locks_is_told_and_nothing_outlives_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # A file that stands for a lock would keep out the run that is to go on after a kill.
    def missing(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    place = Place(str(tmp_path / "out"))
    with alone(place), alone(place):
        pass
    assert [message for message in caplog.messages if "let no other run write into it" in message] == caplog.messages
    assert len(caplog.messages) == 2


def test_a_folder_that_cannot_be_written_to_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = r"--output .*file/out/annotations/.*cannot be written: .*; make the folder writable, or name another"
    with pytest.raises(UsageError, match=told), alone(Place(str(tmp_path / "file" / "out"))):
        pass


def test_a_retry_of_nothing_counts_anew(finished: Place) -> None:
    put(finished, ("a", 0, "A", "ok"))
    told: list[str] = []
    run = retry.retry(finished.uri, say=told.append)
    assert told == ["no document has failed"]
    assert run["documents"] == {"total": 1, "ok": 1, "partial": 0, "failed": 0}


def test_a_merge_that_was_killed_is_finished_without_an_engine(finished: Place) -> None:
    """The new answers are there, and run.json tells that the retry that found them finished; the merge is missing."""
    staged = Place(f"{finished.uri}/retry/1")
    put(staged, ("a", 0, "A", "ok"))
    session = {"started": "", "sentences": 1, "startup_seconds": 1.0, "wall_seconds": 1.0}
    write_run(staged, (read_run(finished) or {}) | {"sessions": [session]})
    run = retry.retry(finished.uri)
    assert held(finished) == {("a", 0): ("A", "ok")}
    assert run["sessions"] == [session]
    assert not Path(staged.uri).exists()


def test_a_merge_that_was_killed_before_its_last_file_is_finished(finished: Place) -> None:
    """No document is left that failed, but the later parts of one lie in the retry's folder alone."""
    finished.remove("annotations")
    put(finished, ("a", 0, "A", "ok"))
    staged = Place(f"{finished.uri}/retry/1")
    put(staged, ("a", 0, "A", "ok"), ("a", 1, "B", "ok"))
    session = {"started": "", "sentences": 2, "startup_seconds": 1.0, "wall_seconds": 1.0}
    write_run(staged, (read_run(finished) or {}) | {"sessions": [session]})
    retry.retry(finished.uri)
    assert held(finished) == {("a", 0): ("A", "ok"), ("a", 1): ("B", "ok")}


ADVICE = (
    "Failed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, configure it."
)


def test_what_ended_a_run_is_told_without_what_ray_adds() -> None:
    full = FatalError(f"out/annotations/x.parquet: cannot be written: No space left on device\n{ADVICE}")
    chained = (
        f"Traceback:\nValueError: bad\n\nThe above exception was the direct cause of it:\n\nUserError: x\n{ADVICE}"
    )
    cases = [
        (
            RayTaskError("write", f"Traceback:\nOSError: 28\n{ADVICE}", full),
            "out/annotations/x.parquet: cannot be written",
        ),
        (RayTaskError("stage", chained, ValueError("bad")), "ValueError: bad;"),
        (RayTaskError("write", f"Traceback:\nKeyError: 'a'\n{ADVICE}", KeyError("a")), "KeyError: 'a';"),
        (RayError("Traceback:\nlast line"), "last line;"),
    ]
    for error, wanted in cases:
        with pytest.raises(FatalError) as raised, job._told_in_a_line():
            raise error
        assert str(raised.value).startswith(f"the run ended: {wanted}")
        assert "\n" not in str(raised.value)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of an output was opened for reading."""
    counted: Counter[str] = Counter()
    open_ = Place.open

    def counting(place: Place, path: str) -> Any:
        counted[Path(path).name] += 1
        return open_(place, path)

    monkeypatch.setattr(Place, "open", counting)
    return counted


def test_a_resumed_run_opens_each_file_once_before_and_once_after(
    tmp_path: Path, annotate: Callable[..., dict[str, Any]], opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Once seven times, one of them while the engines waited: hours, of 100,000 files on an object store.
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"id": key, "text": key.upper()} for key in "abc"])
    annotate(corpus, limit=1)
    place = Place(str(tmp_path / "out"))
    [earlier] = (Path(path).name for path in place.files("annotations", ".parquet"))
    opened.clear()
    prepared: list[int] = []
    monkeypatch.setattr(job, "prepare", lambda *_: (prepared.append(opened[earlier]), (None, FileSummary()))[1])
    run = annotate(corpus)
    assert prepared == [1]
    assert run["documents"]["total"] == 3
    assert [session["sentences"] for session in run["sessions"]] == [1, 2]
    assert opened.pop(earlier) == 2
    assert list(opened.values()) == [1]


def test_what_a_folder_holds_is_read_by_opening_each_file_once(failed: Place, opened: Counter[str]) -> None:
    reads: list[Callable[[], object]] = [
        lambda: take_stock(failed),
        lambda: Committed.of(failed),
        lambda: Retried.of(failed, {}),
        lambda: list(accounting.summaries(failed)),
    ]
    for read in reads:
        opened.clear()
        read()
        assert list(opened.values()) == [1, 1, 1]


def test_files_are_read_side_by_side(failed: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    together, open_ = threading.Barrier(3, timeout=30), Place.open

    def waiting(place: Place, path: str) -> Any:
        together.wait()
        return open_(place, path)

    monkeypatch.setattr(Place, "open", waiting)
    assert take_stock(failed).documents == len(Committed.of(failed).texts) == 6


def test_no_more_files_are_read_than_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "_AT_ONCE", 3)
    begun: list[str] = []
    names = [str(number) for number in range(20)]

    def read(name: str) -> str:
        begun.append(name)
        return name

    taken = []
    for name in accounting._in_threads(read, names):
        taken.append(name)
        assert len(begun) <= len(taken) + 3
    assert taken == names
    for name in accounting._in_threads(read, names):  # whoever asks for no more is not read for
        assert name == "0"
        break
    assert len(begun) <= 20 + 4
