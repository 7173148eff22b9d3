"""The index of a pool and what the retrieval reads from it, with an embedder of a few numbers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from el4ner_ray import demonstrations
from el4ner_ray.config import load
from el4ner_ray.core.lexicon import NOT_AN_ENTITY
from el4ner_ray.core.similarity import Floats
from el4ner_ray.demonstrations import FORMAT, DemonstrationIndex, read_metadata, write_index
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import LabelledSpan, LabelledText
from el4ner_ray.parts import sentence_rows
from el4ner_ray.schema import DEMONSTRATIONS, QUERY_SPANS, Candidate, Span, usage_column
from el4ner_ray.stages import retrieve
from el4ner_ray.text_models import Embedder

TWICE = "Washington met in Washington."


class ByFirstLetter:
    """Unit vectors; texts are alike that begin with the same letter."""

    def embed(self, texts: Sequence[str]) -> Floats:
        return np.array([np.eye(26, dtype=np.float32)[ord(text[0].lower()) - 97] for text in texts]).reshape(-1, 26)


class EqualWeights:
    def weights(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[Floats]:
        return [np.ones(len(of_sentence), np.float32) for of_sentence in spans]


def index_of(folder: Path, pool: Sequence[LabelledText], surfaces: Sequence[Sequence[str]]) -> str:
    types = sorted({type_ for text in pool for _, type_ in text.mentions})
    built_from = {"format": FORMAT, "types": types}
    write_index(str(folder), pool, surfaces, cast(Embedder, ByFirstLetter()), built_from)
    return str(folder)


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
    monkeypatch.setattr(retrieve, "Embedder", lambda _: ByFirstLetter())
    monkeypatch.setattr(retrieve, "Tagger", lambda *_: EqualWeights())
    config = load(profile="fake", overrides={"demonstrations": {"k": 1}})
    stage = retrieve.Retrieve(config, folder)
    rows = sentence_rows(["a"], [0], ["Dirk met Eve."], batch=0)
    asked: Any = [[[Candidate(Span(0, 4), ("fake-a",))]]]
    found = asyncio.run(stage.annotate(rows.append_column(QUERY_SPANS.name, QUERY_SPANS.encode(asked))))
    assert DEMONSTRATIONS.decode(found) == [[[2]]]
    (usage,) = usage_column("retrieve").decode(found)
    assert [of_embedder.fallbacks for of_embedder in usage.values()] == [1]


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
