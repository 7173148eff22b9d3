"""Runs of the pipeline with scripted engines, in a process of their own whose memory is watched."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

_POLL_SECONDS = 1.0
_SYLLABLES = ("ba", "den", "ko", "lin", "mar", "no", "ri", "sel", "ta", "ver", "wo", "zu")
_FILLERS = ("the", "new", "office", "of", "was", "opened", "by", "near", "with", "and", "visited", "last", "year", "in")


@dataclass(frozen=True)
class Run:
    """What a run did, and the most memory that its processes held together, without what they share."""

    content: dict[str, Any]
    peak_bytes: int


def annotate(folder: Path, corpus: Path, index: Path, output: str, config: Mapping[str, Any]) -> Run:
    """`el4ner annotate` of the corpus with the scripted engine. Raises CalledProcessError when it fails."""
    target = folder / output
    arguments = ("annotate", corpus, "--pool", index, "--output", target, "--force")
    peak = _el4ner(folder, f"{output}.log", config, *arguments)
    return Run(json.loads((target / "run.json").read_text("utf-8")), peak)


def build_index(folder: Path, pool: Path, config: Mapping[str, Any]) -> Path:
    """The pool's index, by its gold entities."""
    index = folder / "index"
    if not (index / "index.json").is_file():
        _el4ner(folder, "index.log", config, "index", pool, "--output", index)
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


def _el4ner(folder: Path, log: str, config: Mapping[str, Any], *arguments: str | Path) -> int:
    """Run the command line to its end; the peak of `_private_bytes`."""
    file = folder / "job.yaml"
    file.write_text(yaml.safe_dump(dict(config)), "utf-8")
    command = [sys.executable, "-m", "el4ner_ray", *map(str, arguments), "--profile", "fake", "--config", str(file)]
    with (folder / log).open("w") as told:
        process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(_private_bytes(process.pid)))
            time.sleep(_POLL_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, (folder / log).read_text("utf-8"))
    return peak


def _private_bytes(pid: int) -> Iterator[int]:
    try:
        driver = psutil.Process(pid)
        family = [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            memory = process.memory_info()
            yield memory.rss - memory.shared
        except psutil.NoSuchProcess:
            continue
