"""What a finished run looks like in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import regex
from rich.table import Table
from rich.text import Text

from el4ner_ray.results import AnnotatedDocument, read_annotations

# Below, a model may have been unlucky; a good one's share is some percent.
_ENOUGH_SURFACES, _HARDLY_ANY = 50, 0.9
_SAMPLE_DOCUMENTS, _SAMPLE_CHARACTERS = 5, 200
_CONTROLS = regex.compile(r"(?![\n\t])\p{Cc}")
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def run_tables(run: Mapping[str, Any], directory: str) -> Iterator[Table]:
    """A sample of annotated texts, the costs of each stage and model, before and while annotating, and the totals."""
    yield sample_table(directory)
    if preparation := run.get("preparation"):
        yield cost_table(preparation, "costs of index and calibration")
    yield cost_table(run["stages"], "costs")
    yield totals_table(run)


def strangers(stages: Mapping[str, Any]) -> Iterator[str]:
    """A warning for each model that hardly ever named what is in the texts: it was not asked in a way that it follows.

    `stages` are the costs by stage and model of run.json.
    """
    surfaces, unaligned = Counter[str](), Counter[str]()
    for models in stages.values():
        for model, usage in models.items():
            surfaces[model] += usage.get("surfaces", 0)  # none in runs of earlier versions
            unaligned[model] += usage["unaligned"]
    for model, number in surfaces.items():
        if number >= _ENOUGH_SURFACES and _HARDLY_ANY * number < unaligned[model] <= number:
            yield (
                f"warning: {unaligned[model]} of the {number} names that {model} gave are not in the texts: it has no "
                "say. Try `chat_template` the other way round; a model that thinks before it answers is told not to "
                "with `chat_template_kwargs: {enable_thinking: false}` (Qwen3)"
            )


def sample_table(directory: str) -> Table:
    """The beginnings of the first documents with their entities marked."""
    table = Table(title="a sample of the annotations", show_lines=True)
    table.add_column("document", no_wrap=True)
    table.add_column("text")
    table.add_column("entities", no_wrap=True)
    colours: dict[str, str] = {}
    for document in islice(read_annotations(directory), _SAMPLE_DOCUMENTS):
        listed = Text("\n").join(
            Text(f"{_plain(entity.text)} ")
            .append(on_one_line(entity.type), style=_colour(colours, entity.type))
            .append(f" {entity.score:.2f}")
            for entity in document.entities
            if entity.end <= _SAMPLE_CHARACTERS
        )
        table.add_row(Text(_plain(document.doc_id)), _marked(document, colours), listed)
    return table


def _marked(document: AnnotatedDocument, colours: dict[str, str]) -> Text:
    shown = Text(_plain(document.text[:_SAMPLE_CHARACTERS]))
    for entity in document.entities:
        if entity.end <= _SAMPLE_CHARACTERS:
            shown.stylize(f"bold {_colour(colours, entity.type)}", entity.start, entity.end)
    if len(document.text) > _SAMPLE_CHARACTERS:
        shown.append(" …")
    return shown


def _plain(text: str) -> str:
    """The text, as long as it was, with a space for what controls a terminal and for what rich would take out."""
    return str(_CONTROLS.sub(" ", text))


def on_one_line(text: str) -> str:
    """The text without line breaks and control characters: neither documents nor types may steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _colour(colours: dict[str, str], type_: str) -> str:
    return colours.setdefault(type_, _COLOURS[len(colours) % len(_COLOURS)])


def cost_table(stages: Mapping[str, Any], title: str) -> Table:
    """Requests and tokens by stage and model."""
    table = Table(title=title)
    for column in ("stage", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("requests", "prompt tokens", "cached", "generated", "unparsed", "not in text"):
        table.add_column(column, justify="right")
    for stage, models in stages.items():
        for model, usage in models.items():
            prompt = usage["prompt_tokens"]
            cached = f"{usage['cached_tokens'] / prompt:.0%}" if prompt else "-"
            numbers = (usage["requests"], prompt, cached, usage["generated_tokens"])
            problems = (usage["parse_failures"], usage["unaligned"])
            table.add_row(stage, model, *(str(n) for n in (*numbers, *problems)))
    return table


def totals_table(run: Mapping[str, Any]) -> Table:
    """Documents, sentences, entities and time."""
    documents = run["documents"]
    table = Table("", "", title="run", show_header=False)
    table.add_row("engine", run["engine"] if run["engine"] != "fake" else "fake (scripted answers, no model)")
    table.add_row(
        "documents",
        f"{documents['total']}: {documents['ok']} ok, {documents['partial']} partial, {documents['failed']} failed",
    )
    table.add_row("sentences, entities", f"{run['sentences']}, {run['entities']}")
    table.add_row("start-up", f"{run['startup_seconds']:.0f} s")
    table.add_row("annotation", f"{run['wall_seconds']:.1f} s, {run['sentences_per_second']:.2f} sentences/s")
    return table
