"""Where the commands print, and the options that decide how much."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

# What happens goes to standard error, what was asked for to standard output.
# Names of files, types and models are data: nothing in them is markup.
progress = Console(stderr=True, highlight=False, markup=False)
errors = Console(stderr=True, highlight=False, markup=False)
out = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 120)


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
