"""Options that several commands share, and the configuration that they make."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from el4ner_ray.config import PROFILES, JobConfig, load


def finite(value: float | None) -> float | None:
    """Callback of an option with bounds: infinity passes an open one, and `nan` any where Typer has them of Click.

    Raises typer.BadParameter.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file; its fields win over the profile's.")]
Profile = Annotated[
    str | None,
    typer.Option(
        help="Packaged configuration: paper, paper-one-gpu, single-gpu (default with a GPU), tiny-cpu (without), fake.",
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
MaxFailed = Annotated[
    float, typer.Option(min=0, help="Documents that may fail: a share below 1, else a number.", callback=finite)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing beside it.")]
PoolSpans = Annotated[
    str | None,
    typer.Option(
        help="What stands for a pool sentence: extracted (default) or gold spans.",
        autocompletion=lambda: ["extracted", "gold"],
    ),
]


def configured(
    config: Path | None, profile: str | None, models: str | None, top: dict[str, Any], **sections: dict[str, Any]
) -> JobConfig:
    """The configuration with the options that were given over it: `top` level ones and those of `sections`."""
    overrides = _given(top) | {name: given for name, fields in sections.items() if (given := _given(fields))}
    chosen = tuple(name.strip() for name in models.split(",")) if models is not None else ()
    return load(config, profile, chosen, overrides)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
