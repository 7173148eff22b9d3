"""Runs of the pipeline with scripted engines, on texts that are made up for them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import running

_SYLLABLES = ("ba", "den", "ko", "lin", "mar", "no", "ri", "sel", "ta", "ver", "wo", "zu")
_FILLERS = ("the", "new", "office", "of", "was", "opened", "by", "near", "with", "and", "visited", "last", "year", "in")


def annotate(
    folder: Path,
    corpus: Path,
    index: Path,
    output: str,
    config: Mapping[str, Any],
    seconds: float = math.inf,
    watched: running.Watched | None = None,
) -> running.Run:
    """`el4ner annotate` of the corpus with the scripted engine; stopped when it takes more than `seconds`.

    Raises CalledProcessError when it fails.
    """
    config = {"profile": "fake", **config}
    return running.annotate(folder, corpus, index, output, config, seconds=seconds, watched=watched)


def build_index(folder: Path, pool: Path, config: Mapping[str, Any]) -> Path:
    """The pool's index, by its gold entities; that of an earlier run, where it is of the same pool."""
    index = folder / "index"
    running.el4ner(folder, "index", {"profile": "fake", **config}, "index", pool, "--output", index)
    return index


def write_corpus(file: Path, documents: int, sentences: int, names: list[str]) -> Path:
    """Documents of so many sentences each, one a line of the text."""
    shuffled = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for number in range(documents):
            text = "\n".join(sentence(shuffled, names)[0] for _ in range(sentences))
            lines.write(json.dumps({"id": f"d{number}", "text": text}) + "\n")
    return file


def write_pool(file: Path, sentences: int, names: list[str]) -> Path:
    """Labelled sentences of the same kind; every name has one of three types."""
    shuffled = random.Random(1)
    rows = []
    for number in range(sentences):
        text, mentioned = sentence(shuffled, names)
        entities = [
            {
                "start": text.index(name),
                "end": text.index(name) + len(name),
                "type": ("person", "place", "work")[len(name) % 3],
            }
            for name in dict.fromkeys(mentioned)
        ]
        rows.append(json.dumps({"id": f"p{number}", "text": text, "entities": entities}))
    file.write_text("\n".join(rows) + "\n", "utf-8")
    return file


def names(count: int) -> list[str]:
    """Capitalised words, which the scripted engine takes for names; none begins another."""
    shuffled = random.Random(2)
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(shuffled.choices(_SYLLABLES, k=4)).capitalize() + "x"] = None
    return list(found)


def sentence(shuffled: random.Random, names: list[str]) -> tuple[str, list[str]]:
    """A sentence of some 17 words, and the two names in it."""
    mentioned = shuffled.sample(names, 2)
    words = shuffled.choices(_FILLERS, k=15)
    words.insert(3, mentioned[0])
    words.insert(11, mentioned[1])
    return " ".join(words) + ".", mentioned
