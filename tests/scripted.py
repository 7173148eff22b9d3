"""What stands for models in unit tests: an ensemble that answers as a test says, and an embedder of a few numbers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from el4ner_ray.core.similarity import Floats
from el4ner_ray.demonstrations import FORMAT, write_index
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.labelled import LabelledText
from el4ner_ray.parts import table_of_parts
from el4ner_ray.schema import Column, Span
from el4ner_ray.text_models import Embedder

Answer = Callable[[str, Request], Completion]
"""What a model, by its name, answers to a request."""


class Scripted:
    """An ensemble whose answers a function gives. It keeps what it was asked, by model."""

    def __init__(self, answer: Answer, slow: str = "") -> None:
        """The model `slow` answers after the others, whatever order they are asked in."""
        self.answer, self._slow = answer, slow
        self.asked: dict[str, list[Request]] = {}
        self._answering = 0
        self.at_once = 0
        """How many calls were being answered at the same time, at most."""

    async def ask(self, model: str, requests: list[Request], session: str) -> list[Completion]:
        """One completion a request, in order."""
        self.asked.setdefault(model, []).extend(requests)
        self._answering += 1
        self.at_once = max(self.at_once, self._answering)
        await asyncio.sleep(0.01 if model == self._slow else 0)
        self._answering -= 1
        return [self.answer(model, request) for request in requests]

    @property
    def counts(self) -> Counter[str]:
        """How many requests each model had."""
        return Counter({model: len(requests) for model, requests in self.asked.items()})


class ByFirstLetter:
    """Unit vectors; texts are alike that begin with the same letter."""

    def embed(self, texts: Sequence[str]) -> Floats:
        """(n, 26), one a text."""
        return np.array([np.eye(26, dtype=np.float32)[ord(text[0].lower()) - 97] for text in texts]).reshape(-1, 26)


class EqualWeights:
    """A tagger to which all spans are alike."""

    def weights(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[Floats]:
        """One weight for each span of each text."""
        return [np.ones(len(of_sentence), np.float32) for of_sentence in spans]


def index_of(folder: Path, pool: Sequence[LabelledText], surfaces: Sequence[Sequence[str]]) -> str:
    """Write the index of a pool for which these surfaces stand; its folder."""
    types = sorted({type_ for text in pool for _, type_ in text.mentions})
    built_from = {"format": FORMAT, "types": types}
    write_index(str(folder), pool, surfaces, cast(Embedder, ByFirstLetter()), built_from)
    return str(folder)


def table_of(
    texts: Sequence[str], columns: Mapping[Column[Any], Sequence[Any]], starts: Sequence[int] = ()
) -> pa.Table:
    """Rows with these texts, each a part of its own document `d0`, `d1`, …, and what stages would have written."""
    ids = [f"d{number}" for number in range(len(texts))]
    errors = [None] * len(texts)
    table = table_of_parts(ids, list(range(len(texts))), starts or [0] * len(texts), texts, errors, batch=0)
    for column, records in columns.items():
        table = table.append_column(column.name, column.encode(records))
    return table
