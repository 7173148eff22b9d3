"""The commands that look at a finished run: evaluate, report, export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from el4ner_ray.commands.console import Quiet, Verbose, out, say
from el4ner_ray.commands.options import AsJson, finite
from el4ner_ray.files import write_text


def evaluate(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    gold: Annotated[str, typer.Option(help="The same documents with their entities.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the numbers to.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Precision, recall and F1 of exact spans and types against gold: by type, and of each model and step.

    Example: `el4ner evaluate out/demo --gold examples/gold.jsonl`
    """
    from el4ner_ray.evaluation_tables import evaluation_tables, notes
    from el4ner_ray.measure import evaluate_run
    from el4ner_ray.results import read_account, unfinished

    if state := unfinished(read_account(directory)):
        say(f"warning: {state}")
    evaluation = evaluate_run(directory, gold)
    content = json.dumps(evaluation.to_json(), indent=2)
    if output is not None:
        write_text(output, content, "--output")
    if as_json:
        typer.echo(content)
        return
    for table in evaluation_tables(evaluation):
        out.print(table)
    for note in notes(evaluation):
        out.print(note, soft_wrap=True)
    ensemble = evaluation.ensemble
    for what, step in (("what was kept", ensemble), ("all candidates", evaluation.union)):
        if found := step.reliability:
            out.print(
                f"expected calibration error of the score, over {what}, {found.count} entities: {found.error:.3f} "
                f"(a perfect one would show {found.by_chance:.3f} on so many, by chance)",
                soft_wrap=True,
            )
    if ensemble.missing_documents:
        missing = len(ensemble.missing_documents)
        told = f"{missing} gold documents are not in {directory}: their entities count as missed"
        out.print(told, soft_wrap=True)
    if ensemble.ignored_documents:
        out.print(f"{ensemble.ignored_documents} annotated documents are not in the gold and do not count")


def report(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")],
    compare: Annotated[
        str | None, typer.Option(metavar="GOLD", help="The same documents with their entities: marks errors.")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Show the texts of at most so many documents, as far as a page has room.")
    ] = 2000,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """One HTML file with a run's figures and its texts with their entities; it needs no network.

    Example: `el4ner report out/demo -o out/demo/report.html --compare examples/gold.jsonl`
    """
    from el4ner_ray.report.build import write_report

    written = write_report(directory, output, compare, sample)
    shown, size = len(written.data.documents), output.stat().st_size
    if as_json:
        counts = {"documents": written.total, "shown": shown, "bound": written.bound, "bytes": size}
        typer.echo(json.dumps(counts | {"output": str(output)}))
    else:
        room = " (a page has room for no more)" if written.bound == "characters" else ""
        told = f"report with the texts of {shown} of {written.total} documents{room}, {size / 1e6:.1f} MB: {output}"
        out.print(told, soft_wrap=True)


def export(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Output folder of `el4ner annotate`.")],
    output: Annotated[str, typer.Option("--output", "-o", help="File to write; for spacy and brat, a folder.")],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            help="jsonl, conll, spacy, label-studio, brat, web-annotation, or csv.",
            autocompletion=lambda: ["jsonl", "conll", "spacy", "label-studio", "brat", "web-annotation", "csv"],
        ),
    ],
    min_score: Annotated[
        float, typer.Option(min=0, max=1, help="Leave entities with a lower score out.", callback=finite)
    ] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier export wrote.")] = False,
    language: Annotated[
        str | None, typer.Option(help="Of the texts; where sentences end in conll. Default: the run's.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the annotations in a format that other tools read; docs/export.md says what each keeps.

    Example: `el4ner export out/demo --format label-studio -o out/tasks.json`
    """
    from el4ner_ray.export.registry import export_run

    summary = export_run(directory, format_, output, min_score=min_score, overwrite=overwrite, language=language)
    if as_json:
        typer.echo(json.dumps(asdict(summary) | {"output": output}))
        return
    for note in summary.notes:
        say(note)
    out.print(f"from {summary.documents} documents with {summary.entities} entities: {output}", soft_wrap=True)
