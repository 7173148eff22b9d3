"""CPU time to make a question's prompt: every token encoded anew, and what earlier questions did not have alone.

    python -m benchmarks.prompt_tokens [--rounds N] [--out FILE]

Needs the bundled models' tokenizers (`el4ner models prepare`), and no engine. The two ways take turns, question by
question, so that whatever else the machine does slows both alike. A round has sentences of its own: its questions are
classifications of 3 names each, after 5 short demonstrations from a pool of 40.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from benchmarks.environment import as_line, environment
from el4ner_ray.config import ModelConfig
from el4ner_ray.core.prompting import LabelledSentence, Prompts
from el4ner_ray.engines.bundled import path_of
from el4ner_ray.engines.tokens import PromptEncoder

_MODELS = (
    ("smollm2-135m", True), ("smollm2-135m", False), ("qwen2.5-coder-0.5b", True), ("qwen2.5-coder-0.5b", False),
    ("gemma3-270m", False),
)  # fmt: skip
_LABELS = {"person": "a person", "location": "a place", "organization": "a body", "product": "a product"}
_SENTENCE = (
    "The minister {0} said in {1} on day {2} that {3} would not sell its phones of type {4} in Norway this year ."
)
_DEMONSTRATIONS, _POOL, _SENTENCES, _NAMES = 5, 40, 40, 3


def main(
    rounds: Annotated[int, typer.Option(help="Runs of 40 sentences with three questions each.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Where to write every round as JSON.")] = None,
) -> None:
    """Print medians and ranges of the rounds."""
    busy = os.getloadavg()[0]
    table = Table("model", "prompt", "tokens", "whole, ms", "in pieces, ms", "whole / pieces")
    measured = {}
    for name, chat in _MODELS:
        encoder = _encoder(name, chat)
        results = [_round(encoder, seed) for seed in range(rounds)]
        tokens, whole, pieced = zip(*results, strict=True)
        ratio = [a / b for a, b in zip(whole, pieced, strict=True)]
        measured[f"{name} {'chat' if chat else 'text'}"] = results
        cells = (_spread(whole, 2), _spread(pieced, 2), _spread(ratio, 1))
        table.add_row(name, "chat template" if chat else "running text", f"{statistics.median(tokens):.0f}", *cells)
    console = Console(width=120)
    console.print(as_line(environment()))
    console.print(f"load of the machine at the beginning: {busy:.1f}")
    console.print(table)
    if out:
        out.write_text(json.dumps({"environment": environment(), "load": busy, "rounds": measured}, indent=2))


def _encoder(name: str, chat: bool) -> PromptEncoder:
    tokenizer = AutoTokenizer.from_pretrained(path_of(name))
    return PromptEncoder(ModelConfig(name=name, source=f"bundled:{name}", chat_template=chat), tokenizer)


def _round(encoder: PromptEncoder, seed: int) -> tuple[float, float, float]:
    """Tokens a prompt; milliseconds of CPU time a question, whole and in pieces."""
    whole = pieced = 0.0
    lengths = []
    for number, turns in enumerate(_questions(random.Random(seed))):
        # Whoever comes second finds the text in the processor's caches.
        ways: Sequence[Callable[[], list[int]]] = (lambda: encoder.whole(turns), lambda: encoder.ids(turns))  # noqa: B023
        took = [0.0, 0.0]
        ids: list[list[int]] = [[], []]
        for way in (0, 1) if number % 2 else (1, 0):
            began = time.process_time()
            ids[way] = ways[way]()
            took[way] = time.process_time() - began
        assert ids[0] == ids[1], turns
        whole, pieced = whole + took[0], pieced + took[1]
        lengths.append(len(ids[0]))
    scale = 1000 / len(lengths)
    return statistics.mean(lengths), whole * scale, pieced * scale


def _questions(chance: random.Random) -> Iterator[tuple[str, ...]]:
    """The classifications of the names of sentences, those of a sentence one after another."""
    prompts = Prompts("v1", _LABELS)
    pool = [prompts.demonstration(_labelled(chance)) for _ in range(_POOL)]
    for _ in range(_SENTENCES):
        sentence = _labelled(chance)
        extraction = prompts.extraction(sentence.text, chance.sample(pool, _DEMONSTRATIONS))
        surfaces = [surface for surface, _ in sentence.entities[:_NAMES]]
        for surface in surfaces:
            yield prompts.classification(extraction, surfaces, surface)


def _labelled(chance: random.Random) -> LabelledSentence:
    person, place, body, product = (_name(chance) for _ in range(4))
    text = _SENTENCE.format(person, place, chance.randrange(1000), body, product)
    types = ((person, "person"), (place, "location"), (body, "organization"), ("Norway", "location"))
    return LabelledSentence(text, types)


def _name(chance: random.Random) -> str:
    return " ".join("".join(chance.choices("aeioulmnrst", k=6)).capitalize() for _ in range(2))


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    typer.run(main)
