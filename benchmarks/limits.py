"""Scenario `limits`: inputs of sizes that nobody should hold in memory, and what memory they take."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import running, scripted
from benchmarks.measured import Figure

# For many short documents: characters bound a batch of long ones.
_CONFIG = {
    "demonstrations": {"pool_spans": "gold", "tagger": "none"},
    "limits": {"batch_documents": 512, "documents_per_file": 8000},
}


class Workload(msgspec.Struct, forbid_unknown_fields=True):
    """Megabytes of one document's text, and of one sentence without a break; a number of documents without text.

    `ordinary` documents of eight sentences are what these are compared with, in a run to its end. One of these that
    takes more than `seconds` is stopped: what it took until then counts.
    """

    document_mb: int
    line_mb: int
    empty: int
    ordinary: int
    seconds: float


def measure(workload: Workload, scratch: Path) -> list[Figure]:
    """Peak memory of each input; over that of ordinary documents; and whether it still grew in the last third."""
    names = scripted.names(2000)
    index = scripted.build_index(scratch, scripted.write_pool(scratch / "pool.jsonl", 300, names), _CONFIG)
    ordinary = scripted.write_corpus(scratch / "ordinary.jsonl", workload.ordinary, 8, names)
    text = _text(workload.document_mb, names)
    inputs = {
        f"a document of {workload.document_mb} MB": _write(scratch / "long.jsonl", [text]),
        f"a sentence of {workload.line_mb} MB": _write(scratch / "line.jsonl", ["x" * workload.line_mb * 1_000_000]),
        f"{workload.empty:,} empty documents": _write(scratch / "empty.jsonl", [""] * workload.empty),
    }
    reference = scripted.annotate(scratch, ordinary, index, ordinary.stem, _CONFIG).watched.peak_bytes
    figures = [Figure("memory, ordinary documents", "GB", (reference / 1e9,))]
    for what, corpus in inputs.items():
        run = scripted.annotate(scratch, corpus, index, corpus.stem, _CONFIG, workload.seconds)
        figures += [
            Figure(f"memory, {what}", "GB", (run.watched.peak_bytes / 1e9,)),
            Figure(f"against ordinary, {what}", "", (run.watched.peak_bytes / reference,)),
            Figure(f"last third against the middle, {what}", "", (running.growth(run.watched.memory),)),
        ]
    return figures


def _text(megabytes: int, names: list[str]) -> str:
    shuffled = random.Random(3)
    return "\n".join(_sentences(shuffled, names, megabytes * 1_000_000))


def _sentences(shuffled: random.Random, names: list[str], characters: int) -> Iterator[str]:
    while characters > 0:
        sentence, _ = scripted.sentence(shuffled, names)
        characters -= len(sentence) + 1
        yield sentence


def _write(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)), "utf-8")
    return file
