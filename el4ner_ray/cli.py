"""The command line: `el4ner COMMAND --help` shows each command with an example."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from el4ner_ray.config import PROFILES, JobConfig, load
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
errors = Console(stderr=True, highlight=False, markup=False)
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)

ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; its fields win over the profile's.")]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Packaged configuration: paper, single-gpu (default with a GPU), tiny-cpu (without), fake.",
        autocompletion=lambda: list(PROFILES),
    ),
]
Models = Annotated[str | None, typer.Option(help="Use only these models of the configuration: A,B")]
Method = Annotated[
    str | None,
    typer.Option(
        help="paper: vote and verify (default); calibrated: a probability learnt from the labelled pool.",
        autocompletion=lambda: ["paper", "calibrated"],
    ),
]
MaxFailed = Annotated[float, typer.Option(min=0, help="Documents that may fail: a share below 1, else a number.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print run.json in place of the tables.")]
PoolSpans = Annotated[
    str | None,
    typer.Option(
        help="What stands for a pool sentence: extracted (default) or gold spans.",
        autocompletion=lambda: ["extracted", "gold"],
    ),
]


def _be_quiet(wanted: bool) -> None:
    if wanted:
        progress.quiet = True
        logging.getLogger().setLevel(logging.ERROR)
        os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"  # read when ray.data is imported


def _be_verbose(wanted: bool) -> None:
    if wanted:
        logging.getLogger("el4ner_ray").setLevel(logging.INFO)


# Their callbacks do what they ask for, before the command runs.
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Tell only what went wrong.", callback=_be_quiet)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside, too.", callback=_be_verbose)]


def say(message: str) -> None:
    """One line about what is being done."""
    progress.print(f"el4ner: {message}", soft_wrap=True)


def complain(message: object) -> None:
    """One line about what went wrong, whatever --quiet says."""
    errors.print(f"el4ner: {message}", soft_wrap=True)


@app.command()
def annotate(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="Files, folders, globs or URIs.")],
    pool: Annotated[str, typer.Option(help="Labelled sentences, or the folder of an index built by `el4ner index`.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for annotations, errors and run.json.")],
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    method: Method = None,
    target_precision: Annotated[
        float | None, typer.Option(help="With --method calibrated: keep as much as this precision allows.")
    ] = None,
    target_recall: Annotated[
        float | None, typer.Option(help="With --method calibrated: keep as little as this recall allows.")
    ] = None,
    pool_spans: PoolSpans = None,
    k: Annotated[int | None, typer.Option(help="Demonstrations in a prompt.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Input column with the text.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Input column with a unique id.")] = None,
    segmenter: Annotated[str | None, typer.Option(help="sentencex, or none: each text is one sentence.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Skip what OUTPUT holds already.")] = True,
    force: Annotated[bool, typer.Option(help="Start anew; what OUTPUT holds is moved aside.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first documents.")] = None,
    max_failed: MaxFailed = 0.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Annotate documents with named entities.

    Example: `el4ner annotate examples/corpus.jsonl --pool examples/pool.jsonl --output out/demo`
    """
    from el4ner_ray import job

    settings = _load(
        config,
        profile,
        models,
        {"method": method, "text_column": text_column, "id_column": id_column, "segmenter": segmenter},
        demonstrations={"k": k, "pool_spans": pool_spans},
        calibration={"target_precision": target_precision, "target_recall": target_recall},
    )
    # On a cluster Ray prints what workers print, and standard output belongs to the result.
    with redirect_stdout(sys.stderr):
        run = job.annotate(settings, inputs, pool, output, resume=resume, force=force, limit=limit, say=say)
    _conclude(run, output, max_failed, as_json)


@app.command()
def retry(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    config: Annotated[
        str | None, typer.Option(help="YAML file over the run's own configuration, for what decides no annotation.")
    ] = None,
    max_failed: MaxFailed = 0.0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Annotate the documents again that failed in whole or part, and merge them into DIR.

    Example: `el4ner retry out/demo`
    """
    from el4ner_ray.retry import retry as run_again

    with redirect_stdout(sys.stderr):
        run = run_again(directory, config, say=say)
    _conclude(run, directory, max_failed, as_json)


def _conclude(run: dict[str, Any], output: str, max_failed: float, as_json: bool) -> None:
    """Show a finished run; exit with 1 if too much of it failed."""
    from el4ner_ray.show import run_tables

    if as_json:
        typer.echo(json.dumps(run, indent=2, ensure_ascii=False))
    else:
        for table in run_tables(run, output):
            out.print(table)
        out.print(f"annotations: {output.rstrip('/')}/annotations/*.parquet")
    documents = run["documents"]
    not_ok = documents["failed"] + documents["partial"]
    allowed = max_failed * documents["total"] if max_failed < 1 else max_failed
    if not_ok > allowed:
        complain(
            f"{not_ok} of {documents['total']} documents failed in whole or part, more than --max-failed "
            f"{max_failed:g} allows; reasons are in {output.rstrip('/')}/errors/*.parquet"
        )
        raise typer.Exit(1)


@app.command()
def index(
    pool: Annotated[str, typer.Argument(help="Labelled sentences: JSONL, CoNLL/BIO, or a Hugging Face data set.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the index.")],
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    method: Method = None,
    pool_spans: PoolSpans = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build the demonstration index of a pool once, and calibrate on it; `annotate --pool DIR` then uses both.

    Example: `el4ner index examples/pool.jsonl --output out/index`
    """
    from el4ner_ray import job

    settings = _load(config, profile, models, {"method": method}, demonstrations={"pool_spans": pool_spans})
    built = job.build_index(settings, pool, output, say=say)
    out.print(f"index of {built['sentences']} sentences: {output}")


@app.command()
def evaluate(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    gold: Annotated[str, typer.Option(help="The same documents with their entities.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers to this file, too; - prints them, and no table.")
    ] = None,
) -> None:
    """Precision, recall and F1 of exact spans and types against gold: by type, and of each model and step.

    Example: `el4ner evaluate out/demo --gold examples/gold.jsonl`
    """
    from el4ner_ray.measure import ENSEMBLE, UNION, evaluate_run, evaluation_tables

    evaluations = evaluate_run(directory, gold)
    content = json.dumps({name: evaluation.to_json() for name, evaluation in evaluations.items()}, indent=2)
    if json_file == Path("-"):
        typer.echo(content)
        return
    for table in evaluation_tables(evaluations):
        out.print(table)
    ensemble = evaluations[ENSEMBLE]
    for what, step in (("what was kept", ENSEMBLE), ("all candidates", UNION)):
        if found := evaluations[step].reliability:
            out.print(
                f"expected calibration error of the score, over {what}: {found.error:.3f} "
                f"(a perfect one would show {found.by_chance:.3f} on so many, by chance)",
                soft_wrap=True,
            )
    if ensemble.missing_documents:
        missing = len(ensemble.missing_documents)
        out.print(f"{missing} gold documents are not in {directory}: their entities count as missed")
    if ensemble.ignored_documents:
        out.print(f"{ensemble.ignored_documents} annotated documents are not in the gold and do not count")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(content, "utf-8")


@app.command()
def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    compare: Annotated[
        str | None, typer.Option(metavar="GOLD", help="The same documents with their entities: marks errors.")
    ] = None,
    sample: Annotated[int, typer.Option(min=0, help="Show the texts of at most so many documents.")] = 2000,
) -> None:
    """One HTML file with a run's figures and its texts with their entities; it needs no network.

    Example: `el4ner report out/demo -o out/demo/report.html --compare examples/gold.jsonl`
    """
    from el4ner_ray.report.build import write_report

    written = write_report(directory, output, compare, sample)
    shown, size = len(written.data.documents), output.stat().st_size / 1e6
    out.print(f"report with the texts of {shown} of {written.total} documents, {size:.1f} MB: {output}")


@app.command()
def export(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; for spacy and brat, a folder.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="jsonl, conll, spacy, label-studio, brat, or web-annotation.",
            autocompletion=lambda: ["jsonl", "conll", "spacy", "label-studio", "brat", "web-annotation"],
        ),
    ],
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Leave entities with a lower score out.")] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier export wrote.")] = False,
    language: Annotated[str, typer.Option(help="Of the texts; where sentences end in conll.")] = "en",
    quiet: Quiet = False,
) -> None:
    """Write the annotations in a format that other tools read; docs/export.md says what each keeps.

    Example: `el4ner export out/demo --format label-studio -o out/tasks.json`
    """
    from el4ner_ray.export.registry import export_run

    summary = export_run(directory, format_, output, min_score=min_score, overwrite=overwrite, language=language)
    for note in summary.notes:
        say(note)
    out.print(f"from {summary.documents} documents with {summary.entities} entities: {output}", soft_wrap=True)


@app.command()
def plan(
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs for the engines.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of the machine, for models without a GPU.")] = None,
    run: Annotated[
        str | None, typer.Option(metavar="DIR", help="Output of a finished run: the speed that it measured.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="Documents of the corpus.")] = None,
    sentences_per_document: Annotated[
        float | None, typer.Option(min=0.001, help="Of the corpus; default: those of --run.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of a GPU; with --cores, of the machine. Any currency.")
    ] = None,
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML file to write, for `annotate --config`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the tables.")] = False,
) -> None:
    """How many replicas of each model, how fast, how long and for how much; starts nothing.

    Example: `el4ner plan --gpus 8 --profile paper --documents 1000000 --sentences-per-document 20 --price-per-hour 3`
    """
    from el4ner_ray.plan import Wanted, config_of, plan_tables, planned, planned_fields

    wanted = Wanted(gpus, cores, documents, sentences_per_document, price_per_hour)
    settings = config_of(run) if run and not (config or profile or models) else _load(config, profile, models, {})
    layout, corpus = planned(wanted, settings, run)
    if as_json:
        told = {"plan": layout.to_json(), "corpus": corpus and corpus.to_json()}
        typer.echo(json.dumps(told, indent=2))
    else:
        for table in plan_tables(layout, corpus):
            out.print(table)
        for note in layout.notes:
            out.print(f"note: {note}", soft_wrap=True)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(yaml.safe_dump(planned_fields(settings, layout), sort_keys=False), "utf-8")


@app.command()
def serve(
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    method: Method = None,
    pool: Annotated[
        str | None, typer.Option(metavar="INDEX", help="Folder of an index: demonstrations for requests without any.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    sentences: Annotated[int, typer.Option(min=1, help="Sentences in flight or waiting; 429 beyond.")] = 500,
    seconds: Annotated[float, typer.Option(min=0.1, help="What a request may take; 503 beyond.")] = 120.0,
) -> None:
    """An HTTP API and a page to try label sets on texts; EL4NER_API_KEY in the environment asks for a key.

    Example: `el4ner serve --profile fake`, then open http://127.0.0.1:8000/
    """
    from el4ner_ray.serve.application import Address, run
    from el4ner_ray.serve.limits import Limits

    settings = _load(config, profile, models, {"method": method})
    run(settings, pool, Address(host, port), Limits(sentences=sentences, seconds=seconds), say)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the tables.")] = False,
) -> None:
    """What is installed, what this machine has, which profiles it can run, what to do next; 1 if not the default one.

    Example: `el4ner doctor`
    """
    from el4ner_ray.doctor import examine, findings_tables

    findings = examine()
    if as_json:
        typer.echo(findings.to_json())
    else:
        for table in findings_tables(findings):
            out.print(table)
        for note in findings.notes:
            out.print(f"note: {note}", soft_wrap=True)
        for step in findings.next:
            out.print(f"next: {step}", soft_wrap=True)
    if not findings.ok:
        raise typer.Exit(1)


@models_app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")] = False,
) -> None:
    """The bundled assets and whether they are ready.

    Example: `el4ner models list`
    """
    if as_json:
        assets = [
            {"name": name, "kind": asset.kind, "parameters": asset.parameters, "licence": asset.licence}
            | {"ready": bundled.is_ready(name)}
            for name, asset in bundled.ASSETS.items()
        ]
        typer.echo(json.dumps(assets, indent=2))
        return
    table = Table("name", "kind", "parameters", "licence", "ready")
    for name, asset in bundled.ASSETS.items():
        table.add_row(name, asset.kind, asset.parameters, asset.licence, "yes" if bundled.is_ready(name) else "no")
    out.print(table)


@models_app.command("prepare")
def prepare_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Default: all.", autocompletion=lambda: list(bundled.ASSETS)),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download, check and convert bundled assets.

    Example: `el4ner models prepare smollm2-135m`
    """
    bundled.prepare_all(names or list(bundled.ASSETS), say)


def _load(
    config: Path | None, profile: str | None, models: str | None, top: dict[str, Any], **sections: dict[str, Any]
) -> JobConfig:
    """The configuration with the options that were given over it: `top` level ones and those of `sections`."""
    overrides = _given(top) | {name: given for name, fields in sections.items() if (given := _given(fields))}
    chosen = tuple(name.strip() for name in models.split(",")) if models is not None else ()
    return load(config, profile, chosen, overrides)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def main() -> None:
    """Run the command line; exit status 0, 1 (the run failed) or 2 (wrong use)."""
    # Read when ray.data is imported: without a terminal for bars, it logs 20 lines each time.
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    progress.quiet = False
    try:
        app(prog_name="el4ner")
    except UsageError as error:
        complain(error)
        sys.exit(2)
    except El4nerError as error:
        complain(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
