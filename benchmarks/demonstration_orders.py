"""How much of an extraction prompt sentences share, by the order of their demonstrations.

    benchmarks/demonstration_orders.py DATA/train.jsonl DATA/dev.jsonl [--pool-sentences 300] [--k 3]

Demonstrations are chosen by whole sentences, which needs no model to list spans first. The prefix cache is simulated:
in blocks of 32 tokens, it knows every prompt as soon as it was asked and forgets none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from el4ner_ray.config import load
from el4ner_ray.core.prompting import LabelledSentence, Prompts, running_text
from el4ner_ray.engines.bundled import resolve
from el4ner_ray.labelled import LabelledText, labels_of, read_labelled
from el4ner_ray.text_models import Embedder

_BLOCK = 32


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
    tokenizer = AutoTokenizer.from_pretrained(resolve(config.models[0].source))

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False))

    shown = [tokens(running_text(prompts.demonstration(LabelledSentence(s.text, s.mentions)))) for s in known]
    questions = [tokens(prompts.extraction(s.text, [])[0]) for s in asked]
    table = Table("order", "prompt tokens a sentence", "computed", "share")
    for name, order in _orders(_most_similar(config.demonstrations.embedder, known, asked, k)).items():
        total, computed = _counted(order, shown, questions, tokens(prompts.prefix))
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


def _counted(orders: list[list[int]], shown: list[int], questions: list[int], instructions: int) -> tuple[int, int]:
    """Tokens of all prompts, and those that no earlier prompt had in its beginning."""
    total = computed = 0
    asked: set[tuple[int, ...]] = set()
    for numbers, question in zip(orders, questions, strict=True):
        lengths = list(accumulate((shown[number] for number in numbers), initial=instructions))
        beginnings = [tuple(numbers[:length]) for length in range(len(numbers) + 1)]
        shared = max((n for n, start in zip(lengths, beginnings, strict=True) if start in asked), default=0)
        total += lengths[-1] - instructions + question
        computed += lengths[-1] - instructions + question - shared // _BLOCK * _BLOCK
        asked.update(beginnings)
    return total, computed


if __name__ == "__main__":
    typer.run(main)
