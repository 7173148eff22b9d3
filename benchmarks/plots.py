"""Draw what was measured: by `bench.py`, which calls `draw_scenario`, and by `ablation.py`.

    python -m benchmarks.plots OUT SET=FILE.json [SET=FILE.json …]

`OUT/ablation-STUDY.png` for each study: F1 of its variants, one bar a set, with 95 % intervals; `OUT/reliability.png`:
how often entities of a score are right.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.measured import Figure, Floor

_PANELS_A_ROW = 3

STUDIES = {
    "steps": "what each step is worth",
    "models": "which models: union and vote",
    "verifiers": "which verifier",
    "retrieval": "how demonstrations are chosen: union and vote",
    "k": "how many demonstrations: union and vote",
}


def main(out: Path, sets: dict[str, dict]) -> None:
    """Write the figures of all studies that at least one set has."""
    _set_style()
    for study, title in STUDIES.items():
        having = {name: content for name, content in sets.items() if study in content}
        if having:
            _bars(out / f"ablation-{study}.png", title, study, having)
    calibrated = {name: c["steps"]["reliability"] for name, c in sets.items() if "steps" in c}
    if calibrated:
        _reliability(out / "reliability.png", calibrated)


def draw_scenario(file: Path, name: str, figures: Sequence[Figure], floors: Sequence[Floor]) -> None:
    """A panel a figure with several sizes of the workload, one for all others of a unit; floors in red."""
    _set_style()
    by_name: dict[str, list[Figure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    curves = [of_name for of_name in by_name.values() if len(of_name) > 1]
    bars: dict[str, list[Figure]] = {}
    for of_name in by_name.values():
        if len(of_name) == 1:
            bars.setdefault(of_name[0].unit, []).append(of_name[0])
    count = len(curves) + len(bars)
    columns = min(count, _PANELS_A_ROW)
    rows = -(-count // columns)
    height = 1.2 + 0.3 * max((len(of_unit) for of_unit in bars.values()), default=0)
    drawn, panels = plt.subplots(
        rows, columns, figsize=(4.2 * columns, max(2.8, height) * rows), layout="constrained", squeeze=False
    )
    for axes, of_name in zip(panels.flat, curves, strict=False):
        _curve(axes, of_name, floors)
    for axes, (unit, of_unit) in zip(panels.flat[len(curves) :], bars.items(), strict=False):
        _row_of_bars(axes, unit, of_unit, floors)
    for unused in panels.flat[count:]:
        unused.set_axis_off()
    drawn.suptitle(name)
    drawn.savefig(file)
    plt.close(drawn)


def _curve(axes: Axes, figures: Sequence[Figure], floors: Sequence[Floor]) -> None:
    figures = sorted(figures, key=lambda figure: figure.at or 0)  # a line joins them; measured in any order
    at = [figure.at for figure in figures]
    axes.errorbar(at, [figure.median for figure in figures], _spread(figures), marker="o", ms=4, lw=1, capsize=3)
    axes.set_xscale("log")
    axes.set_xticks(at, [f"{size:,g}" if size < 1e6 else f"{size / 1e6:g} M" for size in at])
    axes.minorticks_off()
    for floor in floors:
        if floor.of(figures):
            _mark(axes, floor.at, _bound(floor), "_", floor)
    axes.set(title=figures[0].name, ylabel=figures[0].unit)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def _row_of_bars(axes: Axes, unit: str, figures: Sequence[Figure], floors: Sequence[Floor]) -> None:
    places = range(len(figures))
    medians = [figure.median for figure in figures]
    bars = axes.barh(
        places, medians, 0.6, xerr=_spread(figures), color="lightsteelblue", error_kw={"lw": 0.8, "capsize": 2}
    )
    axes.bar_label(bars, [f" {median:,.4g}" for median in medians], padding=3, fontsize=7)
    for place, figure in enumerate(figures):
        for floor in floors:
            if floor.of([figure]):
                _mark(axes, _bound(floor), place, "|", floor)
    names = [figure.name if figure.at is None else f"{figure.name}, {figure.at:,.0f}" for figure in figures]
    axes.set_yticks(places, ["\n".join(wrap(name, 24)) for name in names])
    axes.set_xlabel(unit)
    axes.margins(x=0.2)
    axes.invert_yaxis()


def _mark(axes: Axes, x: float, y: float, shape: str, floor: Floor) -> None:
    axes.plot(x, y, marker=shape, ms=16, mew=2, color="tab:red", ls="")
    axes.annotate(
        f"{floor}", (x, y), (0, 10), textcoords="offset points", ha="center", va="bottom", fontsize=7, color="tab:red"
    )


def _spread(figures: Sequence[Figure]) -> list[list[float]]:
    return [[f.median - f.low for f in figures], [f.high - f.median for f in figures]]


def _bound(floor: Floor) -> float:
    bound = floor.at_least if floor.at_least is not None else floor.at_most
    assert bound is not None
    return bound


def _set_style() -> None:
    matplotlib.use("agg")
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 150})


def _bars(file: Path, title: str, study: str, sets: dict[str, dict]) -> None:
    variants = list(dict.fromkeys(variant for content in sets.values() for variant in content[study]["rows"]))
    height = 0.8 / len(sets)
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.24 * len(variants) * (len(sets) + 1)), layout="constrained")
    for number, (name, content) in enumerate(sets.items()):
        rows = content[study]["rows"]
        places, values, below, above = [], [], [], []
        for place, variant in enumerate(variants):
            if variant in rows:
                f1, interval = rows[variant]["micro"]["f1"], rows[variant]["micro_f1_interval"]
                places.append(place + (number - (len(sets) - 1) / 2) * height)
                values.append(f1)
                below.append(f1 - interval["low"])
                above.append(interval["high"] - f1)
        label = f"{name}: {content[study]['sentences']} sentences, {content[study]['pool_sentences']} labelled"
        bars = axes.barh(places, values, height, xerr=[below, above], label=label, error_kw={"lw": 0.8, "capsize": 2})
        axes.bar_label(bars, [f" {value:.3f}" for value in values], label_type="edge", padding=2, fontsize=7)
    axes.set(yticks=range(len(variants)), yticklabels=variants, xlabel="micro F1, 95 % interval", title=title)
    axes.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=len(sets), frameon=False, fontsize=7)
    figure.savefig(file)
    plt.close(figure)


def _reliability(file: Path, sets: dict[str, dict]) -> None:
    figure, axes = plt.subplots(figsize=(4.2, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--")
    for name, found in sets.items():
        bins = [b for b in found["bins"] if b["count"]]
        label = f"{name}: error {found['error']:.3f} (by chance {found['by_chance']:.3f})"
        axes.plot([b["score"] for b in bins], [b["right"] for b in bins], marker="o", ms=4, lw=1, label=label)
    axes.set(xlabel="mean score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1), title="the calibrated score")
    axes.legend(loc="upper left", frameon=False, fontsize=7)
    figure.savefig(file)
    plt.close(figure)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        {name: json.loads(Path(file).read_text()) for name, file in (a.split("=") for a in sys.argv[2:])},
    )
