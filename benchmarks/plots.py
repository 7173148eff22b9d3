"""Draw what was measured: by `bench.py`, which calls `draw_scenario`, and by `ablation.py`.

    python -m benchmarks.plots OUT SET=FILE.json [SET=FILE.json …]

`OUT/ablation-STUDY.png` for each study: F1 of its variants, one bar a set, with 95 % intervals; `OUT/reliability.png`:
how often entities of a score are right.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from benchmarks.measured import Figure, Floor

_PANELS_A_ROW = 5

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
    """A panel a name of the figures: a curve over the size of the workload, or a bar; floors as dashed lines."""
    _set_style()
    by_name: dict[str, list[Figure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, []).append(figure)
    columns = min(len(by_name), _PANELS_A_ROW)
    rows = -(-len(by_name) // columns)
    drawn, panels = plt.subplots(
        rows, columns, figsize=(3.2 * columns, 2.8 * rows), layout="constrained", squeeze=False
    )
    for unused in panels.flat[len(by_name) :]:
        unused.set_axis_off()
    for axes, (title, of_name) in zip(panels.flat, by_name.items(), strict=False):
        medians = [figure.median for figure in of_name]
        spread = [[f.median - f.low for f in of_name], [f.high - f.median for f in of_name]]
        if of_name[0].at is None:
            axes.bar([title], medians, 0.4, yerr=spread, capsize=3)
            axes.set_xticks([])
        else:
            axes.errorbar([figure.at for figure in of_name], medians, spread, marker="o", ms=4, lw=1, capsize=3)
            axes.set_xscale("log")
        for floor in floors:
            if floor.figure == title:
                bound = floor.at_least if floor.at_least is not None else floor.at_most
                at = f" at {floor.at:,g}" if floor.at is not None else ""
                axes.axhline(bound, color="grey", lw=0.8, ls="--", label=f"{floor}{at}")
                axes.legend(frameon=False, fontsize=7)
        axes.set(title=title, ylabel=of_name[0].unit)
        axes.set_ylim(bottom=min(0, *medians))
    drawn.suptitle(name)
    drawn.savefig(file)
    plt.close(drawn)


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
        label = f"{name}: {content['sentences']} sentences, {content['pool_sentences']} labelled"
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
