"""The command line: `el4ner COMMAND --help` shows each command with an example."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from el4ner_ray.commands import preparation, results, work
from el4ner_ray.commands.console import complain, progress
from el4ner_ray.errors import El4nerError, UsageError

app = typer.Typer(
    help="Named entities for document archives: an ensemble of small LLMs as a batch job on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
models_app = typer.Typer(help="The bundled small models.", no_args_is_help=True)
app.add_typer(models_app, name="models")

for command in (
    *(work.annotate, work.retry, work.index),
    *(results.evaluate, results.report, results.export),
    *(preparation.plan, work.serve, preparation.doctor),
):
    app.command()(command)
models_app.command("list")(preparation.list_models)
models_app.command("prepare")(preparation.prepare_models)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"el4ner-ray {version('el4ner-ray')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; exit status 0, 1 (the run failed) or 2 (wrong use)."""
    # Read when ray.data is imported: without a terminal for bars, it logs 20 lines each time.
    os.environ.setdefault("RAY_DATA_NON_TTY_PROGRESS_LOG_INTERVAL", "60")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    progress.quiet = False
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no UTF-8, and are printed with escapes then
        sys.stdout.reconfigure(errors="backslashreplace")
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
