"""The index of a pool and what the retrieval reads from it, with an embedder of a few numbers."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from el4ner_ray import demonstrations
from el4ner_ray.config import load
from el4ner_ray.core.lexicon import NOT_AN_ENTITY
from el4ner_ray.demonstrations import DemonstrationIndex, read_metadata
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.parts import sentence_rows
from el4ner_ray.schema import DEMONSTRATIONS, QUERY_SPANS, SENTENCES, Candidate, Span, usage_column
from el4ner_ray.stages import retrieve
from tests.scripted import ByFirstLetter, EqualWeights, index_of, table_of

TWICE = "Washington met in Washington."


def retriever(monkeypatch: pytest.MonkeyPatch, folder: str, k: int, without_itself: bool = False) -> retrieve.Retrieve:
    """The stage over an index, with models that need no files."""
    monkeypatch.setattr(retrieve, "Embedder", lambda _: ByFirstLetter())
    monkeypatch.setattr(retrieve, "Tagger", lambda *_: EqualWeights())
    config = load(profile="fake", overrides={"demonstrations": {"k": k}})
    return retrieve.Retrieve(config, folder, without_itself)


def test_a_surface_of_two_types_in_a_sentence_stands_for_both(tmp_path: Path) -> None:
    entities = (LabelledSpan(0, 10, "person"), LabelledSpan(18, 28, "place"))
    other = LabelledText("2", "Anna met Ben.", (LabelledSpan(0, 4, "person"),))
    folder = index_of(tmp_path / "index", [LabelledText("1", TWICE, entities), other], [["Washington", "met"], ["met"]])
    index = DemonstrationIndex.open(folder)
    person, place, washington, met, anna = 0, 1, 0, 1, 2
    assert sorted(map(tuple, index.occurrences.tolist())) == [
        (NOT_AN_ENTITY, met, 0),
        (NOT_AN_ENTITY, met, 1),
        (person, washington, 0),
        (person, anna, 1),
        (place, washington, 0),
    ]


def test_without_a_span_in_the_pool_whole_sentences_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = [
        LabelledText(name, f"{name} met Ben.", (LabelledSpan(0, 4, "person"),)) for name in ("Anna", "Cleo", "Dora")
    ]
    folder = index_of(tmp_path / "index", pool, [[], [], []])  # the models listed nothing
    stage = retriever(monkeypatch, folder, k=1)
    rows = sentence_rows(["a"], [0], ["Dirk met Eve."], batch=0)
    asked: Any = [[[Candidate(Span(0, 4), ("fake-a",))]]]
    found = asyncio.run(stage.annotate(rows.append_column(QUERY_SPANS.name, QUERY_SPANS.encode(asked))))
    assert DEMONSTRATIONS.decode(found) == [[[2]]]
    (usage,) = usage_column("retrieve").decode(found)
    assert [of_embedder.fallbacks for of_embedder in usage.values()] == [1]


PERSON = (LabelledSpan(0, 4, "person"),)


def named(name: str, number: int) -> LabelledText:
    return LabelledText(str(number), f"{name} met Ben.", PERSON)


@pytest.mark.parametrize("spans", [[Span(0, 4)], []], ids=["by spans", "by the sentence"])
def test_a_pool_sentence_is_shown_neither_itself_nor_its_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spans: list[Span]
) -> None:
    # What is learnt from it would else be learnt from its own answer.
    names = ("Anna", "Cleo", "Anna", "Abel", "Anna", "Aron")
    pool = [named(name, number) for number, name in enumerate(names)]
    folder = index_of(tmp_path / "index", pool, [[name] for name in names])
    asked = table_of(
        [pool[0].text, "Anna left.", "Anna met Ben. "],
        {SENTENCES: [[Span(0, 13)], [Span(0, 10)], [Span(0, 13)]]}
        | {QUERY_SPANS: [[[Candidate(span, ("fake-a",)) for span in spans]]] * 3},
    )

    def found(without_itself: bool) -> list[list[list[int]]]:
        stage = retriever(monkeypatch, folder, k=2, without_itself=without_itself)
        chosen: list[list[list[int]]] = DEMONSTRATIONS.decode(asyncio.run(stage.annotate(asked)))
        return chosen

    assert found(without_itself=True) == [[[3, 5]], [[0, 2]], [[3, 5]]]
    assert found(without_itself=False) == [[[0, 2]]] * 3


def test_no_more_demonstrations_come_than_are_asked_for_where_copies_are_far_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("Anna", "Anna", "Mark", "Mila", "Mona")
    pool = [named(name, number) for number, name in enumerate(names)]
    folder = index_of(tmp_path / "index", pool, [[name] for name in names])
    met = Candidate(Span(5, 8), ("fake-a",))
    asked = table_of([pool[0].text], {SENTENCES: [[Span(0, 13)]], QUERY_SPANS: [[[met]]]})
    stage = retriever(monkeypatch, folder, k=1, without_itself=True)
    assert DEMONSTRATIONS.decode(asyncio.run(stage.annotate(asked))) == [[[2]]]


def test_each_sentence_of_a_row_is_sought_for_by_its_own_spans_and_the_best_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("Cleo", "Anna", "Dora", "Ezra")
    pool = [named(name, number) for number, name in enumerate(names)]
    folder = index_of(tmp_path / "index", pool, [["Cleo"], ["Anna"], ["Dora", "Anna"], ["Ezra"]])
    text = "Dirk met Abel. Anna slept. Eli saw Carl."
    spans = [Span(0, 14), Span(15, 26), Span(27, 40)]
    by = ("fake-a",)
    queries = [[Candidate(Span(0, 4), by), Candidate(Span(9, 13), by)], [], [Candidate(Span(35, 39), by)]]
    asked = table_of([text], {SENTENCES: [spans], QUERY_SPANS: [queries]})
    found = asyncio.run(retriever(monkeypatch, folder, k=2).annotate(asked))
    # Both of the first's spans stand in pool sentence 2; the second is compared as a whole, by its first letter.
    assert DEMONSTRATIONS.decode(found) == [[[2, 1], [1, 0], [0, 1]]]
    (usage,) = usage_column("retrieve").decode(found)
    assert [(u.requests, u.fallbacks) for u in usage.values()] == [(3, 1)]


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff"])
def test_a_damaged_index_is_named_with_the_mend(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"index\.json: damaged: .*; remove its folder and build the index again$"):
        read_metadata(str(tmp_path))
    with pytest.raises(UsageError, match="no demonstration index here"):
        read_metadata(str(tmp_path / "nowhere"))


def test_an_index_is_written_in_utf8_whatever_the_machine_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "text_encoding", lambda encoding, _=2: encoding or "ascii")
    pool = [LabelledText("1", "Ana slept.", (LabelledSpan(0, 3, "人"),))]
    assert read_metadata(index_of(tmp_path / "index", pool, [["Ana"]]))["types"] == ["人"]


def test_two_tries_of_one_index_do_not_touch_each_others_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = [LabelledText("1", "Anna met Ben.", (LabelledSpan(0, 4, "person"),))]
    save = np.save

    def overtaken(*arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(np, "save", save)
        index_of(tmp_path / "index", pool, [["Anna"]])
        save(*arguments, **options)

    monkeypatch.setattr(np, "save", overtaken)
    folder = index_of(tmp_path / "index", pool, [["Anna", "met"]])
    assert len(DemonstrationIndex.open(folder).span_of) == 2
    assert DemonstrationIndex.read_pool(folder) == pool
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_an_index_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    replace = Path.replace

    def replaced(path: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(path, target)

    monkeypatch.setattr(demonstrations, "to_disk", lambda path: calls.append(Path(path).name))
    monkeypatch.setattr(Path, "replace", replaced)
    folder = Path(index_of(tmp_path / "named", [LabelledText("1", "Ana slept.", ())], [[]]))
    *files, building, replaced_, parent = calls
    assert sorted(files) == sorted(path.name for path in folder.iterdir())
    assert [building, replaced_, parent] == ["index", "replace", tmp_path.name]
