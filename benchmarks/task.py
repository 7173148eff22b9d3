"""Real text for the scenarios that need it: a labelled pool and sentences to annotate, and the job over them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import running
from el4ner_ray.config import JobConfig, load
from el4ner_ray.core.evaluation import evaluate
from el4ner_ray.labelled import LabelledText, read_labelled
from el4ner_ray.measure import evaluate_run
from el4ner_ray.schema import Entity

DATA = Path(os.environ.get("EL4NER_DATA", "data"))


@dataclass(frozen=True)
class Task:
    """Each text is one sentence. `fields` are those of the job's configuration file."""

    fields: dict[str, Any]
    config: JobConfig
    pool: list[LabelledText]
    gold: list[LabelledText]

    @classmethod
    def of(
        cls,
        data: str,
        profile: str,
        models: Sequence[str],
        sentences: int,
        pool: int,
        config: Mapping[str, Any] | None = None,
        **demonstrations: Any,
    ) -> Task:
        """The first sentences of `$EL4NER_DATA/DATA/{train,dev}.jsonl`.

        `config` lies over the profile, `demonstrations` over both. All models are used if none is named.
        """
        chosen = load(profile=profile, models=tuple(models), overrides=dict(config or {}))
        fields: dict[str, Any] = {
            **(config or {}),
            "profile": profile,
            "segmenter": "none",
            "models": [model.model_dump(mode="json", exclude_unset=True) for model in chosen.models],
            "verifier": chosen.verifier,
            "demonstrations": {**(config or {}).get("demonstrations", {}), **demonstrations},
        }
        return cls(
            fields,
            load(profile=profile, overrides=fields),
            read_labelled(str(DATA / data / "train.jsonl"), "pool")[:pool],
            read_labelled(str(DATA / data / "dev.jsonl"), "gold")[:sentences],
        )

    def build_index(self, folder: Path) -> Path:
        """The pool's index; that of an earlier run, where it is of the same pool and configuration."""
        index, pool = folder / "index", _write(folder / "pool.jsonl", self.pool)
        running.el4ner(folder, "build-index", self.fields, "index", pool, "--output", index)
        return index

    def annotate(self, folder: Path, output: str, program: str = "el4ner_ray") -> running.Run:
        """The pipeline over the sentences, as users run it."""
        index, corpus = self.build_index(folder), _write(folder / "gold.jsonl", self.gold)
        return running.annotate(folder, corpus, index, output, self.fields, program)

    def f1_of_run(self, run: running.Run, folder: Path) -> float:
        """Micro F1 of what `annotate` wrote."""
        return evaluate_run(str(run.output), str(folder / "gold.jsonl")).ensemble.micro.f1

    def f1(self, entities: Sequence[Sequence[Entity]]) -> float:
        """Micro F1 of the entities of each sentence that are kept."""
        predicted = {
            text.id: {(e.span.start, e.span.end, e.label) for e in found if e.kept}
            for text, found in zip(self.gold, entities, strict=True)
        }
        return evaluate({text.id: text.typed for text in self.gold}, predicted).micro.f1


class OfText(msgspec.Struct, forbid_unknown_fields=True):
    """The workload of a scenario over one data set. `config` lies over the profile's; no `models` means all of them."""

    data: str
    sentences: int
    pool: int
    profile: str
    models: list[str]
    config: dict[str, Any]
    repeats: int

    def task(self) -> Task:
        """Its task. An index with the pool's gold spans is built in a minute, and what is measured starts after it."""
        return Task.of(
            self.data, self.profile, self.models, self.sentences, self.pool, self.config, pool_spans="gold"
        )  # fmt: skip


def _write(file: Path, texts: Sequence[LabelledText]) -> Path:
    rows: list[Mapping[str, Any]] = [
        {
            "id": text.id,
            "text": text.text,
            "entities": [{"start": e.start, "end": e.end, "type": e.type} for e in text.entities],
        }
        for text in texts
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file
