"""Run the scenarios of `scenarios.yaml`, compare them with their floors, and keep what was measured.

    python -m benchmarks.bench [--only NAME …] [--set NAME.FIELD=VALUE …] [--out DIR]

Prints a table, writes `DIR/results.json` (with the environment, and every single measurement) and a picture a scenario.
Exit status 1 when a floor is missed. Each scenario runs in a process of its own, which its memory ends with.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.environment import as_line, environment, to_json
from benchmarks.fresh import in_fresh_process
from benchmarks.measured import Figure, Floor
from benchmarks.plots import draw_scenario

SCENARIOS = Path(__file__).with_name("scenarios.yaml")


class Scenario(msgspec.Struct, forbid_unknown_fields=True):
    """An entry of the file; `workload` has the fields of Workload in the module of the scenario's name."""

    about: str
    workload: dict[str, Any]
    floors: list[Floor]


class Result(msgspec.Struct):
    """A scenario as it ran."""

    workload: dict[str, Any]
    figures: list[Figure]
    missed: list[Floor]


def main(
    only: Annotated[list[str] | None, typer.Option(help="A scenario; may be given several times.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="A field of a workload: naive.models=[smollm2-135m]")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json, pictures and scratch files.")] = Path("out/bench"),
) -> None:
    """Run scenarios and say which floors are missed."""
    try:
        scenarios = chosen(read(SCENARIOS), only or [], changes or [])
        for name, scenario in scenarios.items():
            workload(name, scenario.workload)
    except (ValueError, msgspec.ValidationError) as error:
        raise typer.BadParameter(str(error)) from None
    out.mkdir(parents=True, exist_ok=True)
    where, results = environment(), {}
    console = Console()
    console.print(as_line(where))
    for name, scenario in scenarios.items():
        console.print(f"{name}: {scenario.about}")
        results[name] = run(name, scenario, out, changed=any(change.startswith(f"{name}.") for change in changes or []))
        # After each, so that a later one that ends in an error costs none of them.
        (out / "results.json").write_bytes(to_json({"environment": where, "scenarios": results}))
        draw_scenario(out / f"{name}.png", name, results[name].figures, scenario.floors)
        console.print(table(results[name].figures, scenario.floors, results[name].missed))
    if any(result.missed for result in results.values()):
        raise typer.Exit(1)


def read(file: Path) -> dict[str, Scenario]:
    """The scenarios of a file. Raises msgspec.ValidationError, naming the field."""
    return msgspec.convert(yaml.safe_load(file.read_text("utf-8")), dict[str, Scenario])


def chosen(scenarios: Mapping[str, Scenario], only: Sequence[str], changes: Sequence[str]) -> dict[str, Scenario]:
    """The scenarios to run, with changed workloads. Raises ValueError for a name or a field that there is not."""
    for name in only:
        if name not in scenarios:
            raise ValueError(f"there is no scenario {name!r}; there are {', '.join(scenarios)}")
    kept = {name: scenario for name, scenario in scenarios.items() if not only or name in only}
    for change in changes:
        key, separator, value = change.partition("=")
        name, _, field = key.partition(".")
        if not separator or name not in kept or field not in kept[name].workload:
            raise ValueError(f"{change!r}: give SCENARIO.FIELD=VALUE, with a field of a scenario that runs")
        kept[name].workload[field] = yaml.safe_load(value)
    return kept


def workload(name: str, fields: Mapping[str, Any]) -> Any:
    """The Workload of a scenario. Raises ValueError, naming both, for a field that it does not take so."""
    module = importlib.import_module(f"benchmarks.{name}")
    try:
        return msgspec.convert(fields, module.Workload)
    except msgspec.ValidationError as error:
        raise ValueError(f"the workload of {name}: {str(error).replace('$.', f'{name}.')}") from None


def run(name: str, scenario: Scenario, out: Path, *, changed: bool) -> Result:
    """Measure in a fresh process. `changed` is as in `missed`."""
    figures = in_fresh_process(_measure, name, scenario.workload, out)
    return Result(scenario.workload, figures, missed(scenario.floors, figures, changed=changed))


def missed(floors: Sequence[Floor], figures: Sequence[Figure], *, changed: bool) -> list[Floor]:
    """Floors that are not kept. A workload that was `changed` may lack a floor's figure; one as it stands has all."""
    return [floor for floor in floors if not floor.met(figures) and not (changed and floor.of(figures) is None)]


def _measure(name: str, fields: dict[str, Any], out: Path) -> list[Figure]:
    scratch = out / name
    scratch.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"benchmarks.{name}")
    figures: list[Figure] = module.measure(workload(name, fields), scratch)
    return figures


def table(figures: Sequence[Figure], floors: Sequence[Floor], missed: Sequence[Floor]) -> Table:
    """Medians with their spread, and whether they keep their floors."""
    rows = Table("figure", "at", "median", "smallest to largest", "floor", "")
    for figure in figures:
        of_figure = [floor for floor in floors if floor.of(figures) is figure]
        rows.add_row(
            f"{figure.name} ({figure.unit})" if figure.unit else figure.name,
            f"{figure.at:,g}" if figure.at is not None else "",
            f"{figure.median:,.4g}",
            f"{figure.low:,.4g} to {figure.high:,.4g} ({len(figure.values)})",
            ", ".join(map(str, of_figure)),
            "" if not of_figure else "missed" if any(floor in missed for floor in of_figure) else "kept",
        )
    for floor in floors:
        if floor.of(figures) is None:
            at = f"{floor.at:,g}" if floor.at is not None else ""
            rows.add_row(floor.figure, at, "", "", str(floor), "missed" if floor in missed else "not measured")
    return rows


if __name__ == "__main__":
    typer.run(main)
