"""What is told while a run goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from ray.data.exceptions import ExecutionTimeoutError

from el4ner_ray import job, watch
from el4ner_ray.accounting import Committed
from el4ner_ray.errors import FatalError, UsageError
from el4ner_ray.results import AnnotatedDocument, AnnotatedEntity
from el4ner_ray.schema import ANNOTATION_SCHEMA
from el4ner_ray.sink import FileSummary, Place, commit
from el4ner_ray.watch import Progress, marked, watched


def entity(text: str, start: int, end: int, type_: str) -> dict[str, Any]:
    found = {"start": start, "end": end, "text": text[start:end], "type": type_, "score": 0.5}
    return found | {"votes": [], "extracted_by": [], "verified": True}


def document(text: str, *entities: tuple[int, int, str]) -> AnnotatedDocument:
    found = [AnnotatedEntity(**entity(text, *e) | {"votes": (), "extracted_by": ()}) for e in entities]
    return AnnotatedDocument("d", text, "ok", tuple(found), None)


def put(place: Place, name: str, *rows: tuple[str, int, str, list[dict[str, Any]]]) -> None:
    table = pa.Table.from_pylist(
        [
            {"doc_id": i, "part": part, "text_start": 0, "text": text, "status": "ok", "entities": found, "error": None}
            for i, part, text, found in rows
        ],
        ANNOTATION_SCHEMA,
    )
    commit(place, f"{name}.parquet", table, FileSummary(), [])


@pytest.mark.parametrize(
    ("shown", "given"),
    [
        ("[Ada | person] met [Bob | person].", document("Ada met Bob.", (8, 11, "person"), (0, 3, "person"))),
        ("[Bank of Rome | org]!", document("Bank of Rome!", (8, 12, "place"), (0, 12, "org"))),
        ("no name here", document("no name here")),
        ("a [❤️ | x] b", document("a\r\n❤️ \x1b\u202eb"[:3] + "❤️ b", (3, 5, "x"))),
        ("[31m red", document("\x1b[31m\u202ered\x07")),
        ("[甲乙 | org]公司", document("甲乙公司", (0, 2, "org"))),
        ("0123456789 …", document("0123456789abc", (8, 12, "x"))),
    ],
)
def test_the_beginning_of_a_document_on_one_line(shown: str, given: AnnotatedDocument) -> None:
    assert marked(given, 10 if given.text.startswith("0") else 160) == shown


def test_progress_counts_documents_not_parts_and_shows_the_first(tmp_path: Path) -> None:
    place, told = Place(str(tmp_path)), list[str]()
    put(place, "earlier", ("old", 0, "Old", []))
    progress = Progress(place, 5, told.append, Committed.of(place))
    progress.look()
    assert told == []
    put(place, "a", ("one", 0, "Ada", [entity("Ada", 0, 3, "person")]), ("one", 1, "and on", []), ("two", 0, "", []))
    progress.look()
    assert told[:2] == ["one: [Ada | person]", "two: "]
    assert told[2].startswith("3 of 5 documents after ")
    progress.look()
    put(place, "b", ("three", 0, "x", []), ("four", 0, "y", []))
    progress.look()
    # A third document is shown and no fourth; the next numbers come later.
    assert told[3:] == ["three: x"]


def test_a_file_that_cannot_be_read_for_once_is_counted_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, told = Place(str(tmp_path)), list[str]()
    progress = Progress(place, 4, told.append, Committed())
    for name in ("a", "b", "c"):
        put(place, name, (name, 0, "x", []))

    opened = Place.open

    def fails_for_b(place: Place, path: str) -> Any:
        if path.endswith("b.parquet"):
            raise OSError("try again")
        return opened(place, path)

    with monkeypatch.context() as once:
        once.setattr(Place, "open", fails_for_b)
        with pytest.raises(OSError, match="try again"):
            progress.look()
    progress.look()
    assert told[:3] == ["a: x", "b: x", "c: x"]
    assert told[3].startswith("3 of 4 documents after ")


def test_a_run_without_output_yet_is_watched(tmp_path: Path) -> None:
    told: list[str] = []
    with watched(Place(str(tmp_path / "none")), 1, told.append, Committed()):
        pass
    assert told == []


def test_what_cannot_be_read_for_once_does_not_end_the_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked, again = [UsageError("no"), OSError("no")], threading.Event()

    def look(_: Progress) -> None:
        if looked:
            raise looked.pop()
        again.set()

    monkeypatch.setattr(watch, "_LEAST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(Progress, "look", look)
    with watched(Place(str(tmp_path)), 1, print, Committed()):
        assert again.wait(30)
    assert caplog.messages == ["progress cannot be read: no"] * 2


def test_a_stuck_run_ends_with_the_stages_that_stand_still() -> None:
    message = (
        "Dataset execution made no progress for at least 2400s of scheduling time (timeout: 2400s). No output …\n"
        "Operators still running:\n"
        "  - MapBatches(Extract): 3 active task(s), 5 finished, 5 outputs taken\n"
        "  - sink: 0 active task(s), 1 finished, 0 outputs taken\n"
        "If this is expected, …"
    )
    with pytest.raises(FatalError) as raised, job._told_in_a_line():
        raise ExecutionTimeoutError(message)
    assert "\n" not in str(raised.value)
    assert "MapBatches(Extract): 3 active" in str(raised.value)
    assert "sink" in str(raised.value)
    assert "the same command goes on from there" in str(raised.value)
