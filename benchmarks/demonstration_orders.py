"""How much of an extraction prompt sentences share, by the order of their demonstrations.

    python -m benchmarks.demonstration_orders DATA/train.jsonl DATA/dev.jsonl [--pool-sentences 300] [--k 3]

Demonstrations are chosen by whole sentences, which needs no model to list spans first. The prompts are those of the
first model of `tiny-cpu`. The prefix cache is simulated: it knows every prompt as soon as it was asked and forgets
none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.prefixes import PromptCounter
from el4ner_ray.config import load
from el4ner_ray.core.prompting import LabelledSentence, Prompts
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.labelled import LabelledText, labels_of, read_labelled
from el4ner_ray.text_models import Embedder


def main(
    pool: str,
    texts: str,
    pool_sentences: Annotated[int, typer.Option()] = 300,
    sentences: Annotated[int, typer.Option()] = 1000,
    k: Annotated[int, typer.Option()] = 3,
) -> None:
    """Print prompt tokens a sentence, and how many of them are computed."""
    config = load(profile="tiny-cpu")
    known, asked = read_labelled(pool, "pool")[:pool_sentences], read_labelled(texts, "texts")[:sentences]
    prompts = Prompts(config.prompts, labels_of(known))
    shown = [prompts.demonstration(LabelledSentence(text.text, text.mentions)) for text in known]
    table = Table("order", "prompt tokens a sentence", "computed", "share")
    for name, order in _orders(_most_similar(config.demonstrations.embedder, known, asked, k)).items():
        counter, total, computed = PromptCounter.of(config.models[0]), 0, 0
        for text, numbers in zip(asked, order, strict=True):
            turns = prompts.extraction(text.text, [shown[number] for number in numbers])
            counted = counter.counted(Request(turns), Completion(""))
            total += counted.prompt_tokens
            computed += counted.prompt_tokens - counted.cached_tokens
        table.add_row(name, f"{total / len(asked):.0f}", f"{computed / len(asked):.0f}", f"{computed / total:.3f}")
    Console().print(table)


def _most_similar(
    embedder: str, known: Sequence[LabelledText], asked: Sequence[LabelledText], k: int
) -> list[list[int]]:
    """Numbers of each sentence's demonstrations, the most similar first."""
    embed = Embedder(embedder).embed
    similarities = embed([text.text for text in asked]) @ embed([text.text for text in known]).T
    return np.argsort(-similarities, axis=1, kind="stable")[:, :k].tolist()


def _orders(chosen: list[list[int]]) -> dict[str, list[list[int]]]:
    popularity = Counter(number for numbers in chosen for number in numbers)
    return {
        "most similar last": [numbers[::-1] for numbers in chosen],
        "most similar first": chosen,
        "in the pool's order": [sorted(numbers) for numbers in chosen],
        "most often chosen first": [sorted(numbers, key=lambda i: (-popularity[i], i)) for numbers in chosen],
    }


if __name__ == "__main__":
    typer.run(main)
