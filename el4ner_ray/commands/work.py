"""The commands that start engines: annotate, retry, index, serve."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from el4ner_ray.commands.console import Quiet, Verbose, complain, out, say
from el4ner_ray.commands.options import (
    AsJson,
    ConfigFile,
    MaxFailed,
    Method,
    Models,
    PoolSpans,
    Profile,
    configured,
    finite,
)
from el4ner_ray.errors import UsageError


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

    settings = configured(
        config,
        profile,
        models,
        {"method": method, "text_column": text_column, "id_column": id_column, "segmenter": segmenter},
        demonstrations={"k": k, "pool_spans": pool_spans},
        calibration={"target_precision": target_precision, "target_recall": target_recall},
    )
    for option, target in (("--target-precision", target_precision), ("--target-recall", target_recall)):
        if target is not None and settings.method != "calibrated":
            raise UsageError(f"{option}: only a calibrated score can be held to it; add --method calibrated")
    # On a cluster Ray prints what workers print, and standard output belongs to the result.
    with redirect_stdout(sys.stderr):
        run = job.annotate(settings, inputs, pool, output, resume=resume, force=force, limit=limit, say=say)
    _conclude(run, output, max_failed, as_json)


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
    from el4ner_ray.show import run_tables, strangers

    if as_json:
        typer.echo(json.dumps(run, indent=2, ensure_ascii=False))
    else:
        for table in run_tables(run, output):
            out.print(table)
        out.print(f"annotations: {output.rstrip('/')}/annotations/*.parquet", soft_wrap=True)
    for warning in strangers(run["stages"]):
        complain(warning)
    documents = run["documents"]
    not_ok = documents["failed"] + documents["partial"]
    # As a quotient: 0.29 * 100 is less than 29.
    if (not_ok / max(documents["total"], 1) if max_failed < 1 else not_ok) > max_failed:
        complain(
            f"{not_ok} of {documents['total']} documents failed in whole or part, more than --max-failed "
            f"{max_failed:g} allows; reasons are in {output.rstrip('/')}/errors/*.parquet"
        )
        raise typer.Exit(1)


def index(
    pool: Annotated[str, typer.Argument(help="Labelled sentences: JSONL, CoNLL/BIO, or a Hugging Face data set.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the index.")],
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    method: Method = None,
    pool_spans: PoolSpans = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build the demonstration index of a pool once, and calibrate on it; `annotate --pool DIR` then uses both.

    Example: `el4ner index examples/pool.jsonl --output out/index`
    """
    from el4ner_ray import job

    settings = configured(config, profile, models, {"method": method}, demonstrations={"pool_spans": pool_spans})
    with redirect_stdout(sys.stderr):
        built = job.build_index(settings, pool, output, say=say)
    if as_json:
        typer.echo(json.dumps(built | {"output": output}, indent=2, ensure_ascii=False))
    else:
        out.print(f"index of {built['sentences']} sentences: {output}", soft_wrap=True)


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
    seconds: Annotated[
        float, typer.Option(min=0.1, help="What a request may take; 503 beyond.", callback=finite)
    ] = 120.0,
    verbose: Verbose = False,
) -> None:
    """An HTTP API and a page to try label sets on texts; EL4NER_API_KEY in the environment asks for a key.

    Example: `el4ner serve --profile fake`, then open http://127.0.0.1:8000/
    """
    from el4ner_ray.serve.application import run
    from el4ner_ray.serve.limits import Limits
    from el4ner_ray.serve.listening import Address

    settings = configured(config, profile, models, {"method": method})
    run(settings, pool, Address(host, port), Limits(sentences=sentences, seconds=seconds), say)
