"""The commands to prepare a run with: plan, doctor, models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.table import Table

from el4ner_ray.commands.console import Quiet, Verbose, out, say
from el4ner_ray.commands.options import AsJson, ConfigFile, Models, Profile, configured, finite
from el4ner_ray.engines import bundled
from el4ner_ray.files import write_text


def plan(
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs for the engines.")] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of the machine, for models without a GPU.")] = None,
    run: Annotated[
        str | None, typer.Option(metavar="DIR", help="Output of a finished run: the speed that it measured.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="Documents of the corpus.")] = None,
    sentences_per_document: Annotated[
        float | None, typer.Option(min=0.001, help="Of the corpus; default: those of --run.", callback=finite)
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Of a GPU; with --cores, of the machine. Any currency.", callback=finite)
    ] = None,
    config: ConfigFile = None,
    profile: Profile = None,
    models: Models = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="YAML file to write, for `annotate --config`.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """How many replicas of each model, how fast, how long and for how much; starts nothing.

    Example: `el4ner plan --gpus 8 --profile paper --documents 1000000 --sentences-per-document 20 --price-per-hour 3`
    """
    from el4ner_ray.plan import Wanted, config_of, plan_tables, planned, planned_fields

    wanted = Wanted(gpus, cores, documents, sentences_per_document, price_per_hour)
    settings = config_of(run) if run and not (config or profile or models) else configured(config, profile, models, {})
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
        write_text(output, yaml.safe_dump(planned_fields(settings, layout), sort_keys=False), "--output")


def doctor(
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
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


def list_models(
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
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


def prepare_models(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Default: all.", autocompletion=lambda: list(bundled.ASSETS)),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Download, check and convert bundled assets.

    Example: `el4ner models prepare smollm2-135m`
    """
    bundled.prepare_all(names or list(bundled.ASSETS), say)
