"""Damaged files are refused in a line that names the file, or every document is accounted for, untouched."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from el4ner_ray.corpus import read_blocks, survey
from el4ner_ray.errors import UsageError
from el4ner_ray.labelled import read_labelled
from tests.conftest import ROOT
from tests.hostile import cut_lines, damaged, documents

FILES = 200
LINES = (ROOT / "examples" / "pool.jsonl").read_bytes().splitlines(keepends=True)[:6]
CONLL = b"Anna B-person\nmet O\nBen B-person\n\nOslo B-place\n. O\n\n"
CSV = b'id,text,n\n1,"Anna, Ben",2\n2,"a ""quoted"" one",3\n3,Oslo,4\n'


@pytest.mark.parametrize(
    ("name", "content"), [("pool.jsonl", b"".join(LINES)), ("pool.conll", CONLL), ("pool.jsonl.gz", b"".join(LINES))]
)
def test_a_damaged_pool_is_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    chance = random.Random(name)
    refused = []
    for _ in range(FILES):
        bad = damaged(gzip.compress(content), chance) if name.endswith(".gz") else damaged(content, chance)
        (tmp_path / name).write_bytes(bad)
        try:
            texts = read_labelled(str(tmp_path / name), "pool")
        except UsageError as error:
            refused.append(str(error))
            continue
        for text in texts:
            assert all(0 <= entity.start < entity.end <= len(text.text) for entity in text.entities)
    assert refused
    assert all(name in told and "\n" not in told for told in refused)


@pytest.mark.parametrize(("name", "content"), [("in.jsonl", b"".join(LINES)), ("in.csv", CSV), ("in.txt", CSV)])
def test_a_damaged_input_is_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    chance = random.Random(name)
    refused = []
    for _ in range(FILES):
        (tmp_path / name).write_bytes(damaged(content, chance))
        try:
            corpus = survey([str(tmp_path / name)], "text")
        except UsageError as error:
            refused.append(str(error))
            continue
        rows = [row for table in read_blocks(corpus, corpus.files, 4, 100) for row in table.to_pylist()]
        assert len({row["doc_id"] for row in rows}) == corpus.documents
        assert all(row["text"] == "" for row in rows if row["error"])
    assert len(refused) < FILES
    assert all(name in told and "\n" not in told for told in refused)


def test_hostile_documents_arrive_untouched(tmp_path: Path) -> None:
    texts = documents(1000, seed=3)
    lines = [json.dumps({"id": key, "text": text}).encode() for key, text in texts.items()]
    cut = cut_lines(50, seed=3)
    (tmp_path / "in.jsonl").write_bytes(b"\n".join([*lines, *cut]))
    corpus = survey([str(tmp_path / "in.jsonl")], "text")
    assert corpus.documents == len(texts) + len(cut)
    rows = [row for table in read_blocks(corpus, corpus.files, 16, 100) for row in table.to_pylist()]
    arrived: dict[str, str] = {}
    for row in rows:
        if row["error"] is None:
            assert row["text_start"] == len(arrived.get(row["doc_id"], ""))
            arrived[row["doc_id"]] = arrived.get(row["doc_id"], "") + row["text"]
    assert arrived == texts
