"""Whether each model of a profile fits its card, and its `rates` there, before anything is downloaded.

    python -m benchmarks.card_rates [--profile NAME] [--config FILE] [--card-gb N] [--out FILE] …

Weights are made up (vLLM's `load_format: dummy`), which takes them to a card as large and as fast as real ones: of each
source only config.json is read. A model has the card to itself while it is measured, within its share of the memory:
where three share a card, each gets a third of these rates. `--card-gb` leaves free what a smaller card would not have.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.engine_limit import offline_arguments
from benchmarks.environment import as_line, environment
from benchmarks.fresh import in_fresh_process
from el4ner_ray.config import ModelConfig, load

# As long as the prompts of an ensemble with five demonstrations are, and answers of a line.
_PROMPT_TOKENS, _ANSWER_TOKENS = 800, 48
_TOKENS = range(10, 30_000)  # ids that every tokenizer has


def main(
    profile: Annotated[str | None, typer.Option()] = None,
    config: Annotated[str | None, typer.Option(help="Job configuration, over the profile's.")] = None,
    prompts: Annotated[int, typer.Option(help="Prompts that are read, for `prompt`.")] = 256,
    at_once: Annotated[int, typer.Option(help="Requests that are answered at once, for `generated`.")] = 64,
    card_gb: Annotated[float | None, typer.Option(help="Memory of a smaller card to measure for, 10^9 bytes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the table as JSON.")] = None,
) -> None:
    """Print a row for each model, as it is measured."""
    models = load(config, profile).models
    console = Console()
    console.print(as_line(environment()))
    rows = []
    for model in models:
        rows.append({"model": model.name} | in_fresh_process(_try, model, prompts, at_once, card_gb))
        console.print(rows[-1])
        if out:
            out.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
    console.print(_table(rows))


def _try(model: ModelConfig, prompts: int, at_once: int, card_gb: float | None) -> dict[str, Any]:
    try:
        return _measure(model, prompts, at_once, card_gb)
    except (ValueError, RuntimeError) as error:  # vLLM's, whose reason stands in what its engine process printed
        return {"problem": " ".join(str(error).split())}


def _measure(model: ModelConfig, prompts: int, at_once: int, card_gb: float | None) -> dict[str, Any]:
    from vllm import LLM
    from vllm.platforms import current_platform

    arguments = offline_arguments(model) | {"load_format": "dummy", "skip_tokenizer_init": True}
    if card_gb:
        arguments["gpu_memory_utilization"] *= card_gb * 1e9 / current_platform.get_device_total_memory()
    began = time.perf_counter()
    llm = LLM(**arguments)
    started = time.perf_counter() - began
    config = llm.llm_engine.vllm_config
    _seconds(llm, 8, _PROMPT_TOKENS, 4)  # what is compiled or captured at first use
    prompt = _seconds(llm, prompts, _PROMPT_TOKENS, 1)
    few, many = (_seconds(llm, at_once, 16, tokens) for tokens in (1, 1 + _ANSWER_TOKENS))
    return {
        "start_seconds": round(started, 1),
        "cache_tokens": config.cache_config.kv_cache_size_tokens,
        "tokens_a_step": config.scheduler_config.max_num_batched_tokens,
        "prompt": round(prompts * _PROMPT_TOKENS / prompt),
        "generated": round(at_once * _ANSWER_TOKENS / (many - few)),
    }


def _seconds(llm: Any, prompts: int, prompt_tokens: int, tokens: int) -> float:
    """Time for prompts that share nothing and answers of exactly so many tokens."""
    from vllm import SamplingParams

    ids = [{"prompt_token_ids": random.choices(_TOKENS, k=prompt_tokens)} for _ in range(prompts)]
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    began = time.perf_counter()
    llm.generate(ids, sampling, use_tqdm=False)
    return time.perf_counter() - began


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("model", "start, s", "KV cache, tokens", "tokens a step", "prompt tokens/s", "generated tokens/s")
    for row in rows:
        if "problem" in row:
            table.add_row(row["model"], row["problem"])
        else:
            table.add_row(*(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()))
    return table


if __name__ == "__main__":
    typer.run(main)
