"""The runner of the benchmarks: floors decide its exit status, and everything that was measured is kept."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import msgspec
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import bench, cluster, commits, plots, replicas, retrieval, running
from benchmarks.measured import Figure, Floor, ratios

FIGURES = [
    Figure("rate", "1/s", (90.0, 110.0, 100.0), 10),
    Figure("rate", "1/s", (50.0,), 20),
    Figure("loss", "", (0.5,)),
]


@pytest.mark.parametrize(
    ("floor", "met"),
    [
        (Floor("rate", 10, at_least=100), True),
        (Floor("rate", 10, at_least=100.1), False),
        (Floor("rate", 20, at_least=100), False),
        (Floor("loss", at_most=0.5), True),
        (Floor("loss", at_most=0.4), False),
        (Floor("loss", 10, at_most=1), False),
        (Floor("rate", at_least=0), False),
        (Floor("never measured", at_least=0), False),
    ],
)
def test_floors(floor: Floor, met: bool) -> None:
    assert floor.met(FIGURES) is met


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}])
def test_a_floor_has_one_bound(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="either at_least or at_most"):
        Floor("rate", **bounds)


def test_ratios_pair_the_repetitions() -> None:
    assert ratios((2.0, 9.0), (1.0, 3.0)) == (2.0, 3.0)


def test_the_file_holds_what_the_scenarios_take() -> None:
    for name, scenario in bench.read(bench.SCENARIOS).items():
        module = importlib.import_module(f"benchmarks.{name}")
        assert set(msgspec.to_builtins(msgspec.convert(scenario.workload, module.Workload))) == set(scenario.workload)


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::MapWorker(MapBatches(PreExtract)).submit", "PreExtract"),
        ("ray::MapWorker(MapBatches(Retrieve))", "Retrieve"),
        ("ray::ServeReplica:el4ner-01000000-fake-a:fake-a.handle_request_with_rejection", "engines"),
        ("VLLM::EngineCore", "engines"),
        ("ray::Readcorpus", "read and write"),
        ("ray::Write", "read and write"),
        ("ray::ServeController.listen_for_change", "ray"),
        ("/site-packages/ray/core/src/ray/raylet/raylet", "ray"),
    ],
)
def test_kinds_of_processes(title: str, kind: str) -> None:
    assert running.kind_of(title) == kind


def test_cpu_time_is_counted_by_kind() -> None:
    watched = running.Watched()
    watched.look(os.getpid())
    assert watched.cpu_seconds["driver"] > 0
    assert watched.peak_bytes > 0


def test_cores_are_busy_between_the_looks_that_are_nearest_to_two_times() -> None:
    course = [(10.0, {1: 5.0}), (20.0, {1: 5.0, 2: 1.0}), (30.0, {1: 8.0, 2: 6.0, 3: 7.0}), (40.0, {1: 90.0})]
    watched = running.Watched(course=course, names={1: "driver", 2: "engines", 3: "engines"})
    assert watched.cores_busy(19.0, 31.0) == 1.5
    assert watched.cpu_shares(19.0, 31.0) == {"driver": 0.3, "engines": 1.2}


def test_the_middle_half_of_a_run_is_told_by_its_commits(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for number, (seconds, rows) in enumerate([(60, 4), (10, 30), (25, 20), (30, 20), (50, 26)]):
        file = tmp_path / "annotations" / f"{number}.parquet"
        pq.write_table(pa.table({"doc_id": ["d"] * rows}), file)
        os.utime(file, (seconds, seconds))
    assert commits.middle_half(tmp_path) == (10, 30, 40)  # of 100 rows, those after 30 and up to 70


def test_one_file_has_no_middle(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    pq.write_table(pa.table({"doc_id": ["d"]}), tmp_path / "annotations" / "0.parquet")
    with pytest.raises(ValueError, match="1 files, which are too few"):
        commits.middle_half(tmp_path)


def test_memory_is_watched_on_the_driver_and_on_each_node() -> None:
    here = SimpleNamespace(all_processes={"raylet": [SimpleNamespace(process=SimpleNamespace(pid=os.getpid()))]})
    watched = cluster.OnNodes([here, here])
    watched.look(os.getpid())
    assert list(watched.by_place) == ["driver", "head", "node 1"]
    assert all(memory[0] > 0 for memory in watched.by_place.values())


@pytest.mark.parametrize(
    ("times", "ratio"),
    [
        (range(0, 100, 10), 1.0),
        ((0, 1, 2, 3, 4, 5, 6, 8, 10, 12), 0.5),
        (range(9), None),
        (range(3), None),
        ((), None),
    ],
)
def test_how_fast_a_run_was_late(tmp_path: Path, times: Sequence[int], ratio: float | None) -> None:
    (tmp_path / "annotations").mkdir()
    for number, seconds in enumerate(times):
        file = tmp_path / "annotations" / f"{number}.parquet"
        file.touch()
        os.utime(file, (seconds, seconds))
    assert cluster.late_speed(tmp_path) == (ratio and pytest.approx(ratio))


def test_growth_is_the_peak_of_the_last_third_against_the_middle() -> None:
    assert running.growth([9, 1, 2, 4, 3, 5]) == 5 / 4


@pytest.mark.parametrize(
    ("only", "changes", "named"),
    [
        (["nothing"], [], "'nothing'"),
        ([], ["retrieval.seeds=1"], "retrieval.seeds"),
        ([], ["retrieval.seed"], "retrieval.seed"),
        (["retrieval"], ["replicas.repeats=1"], "replicas.repeats"),
    ],
)
def test_wrong_names_are_told(only: list[str], changes: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        bench.chosen(bench.read(bench.SCENARIOS), only, changes)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("replicas.repeats=three", "the workload of replicas: .*`replicas.repeats`"),
        ("replicas.replicas=[1, 4.5]", "the workload of replicas: .*`replicas.replicas"),
    ],
)
def test_wrong_values_are_told_before_anything_runs(tmp_path: Path, change: str, told: str) -> None:
    with pytest.raises(bench.typer.BadParameter, match=told):
        bench.main(["retrieval", "replicas"], [change], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_choices_must_be_all_that_were_asked_for() -> None:
    similarities = [0.1, 0.9, 0.8, 0.7, 0.6, 0.5]
    assert retrieval._are_the_best([1, 2, 3, 4, 5], similarities)
    assert not retrieval._are_the_best([], similarities)
    assert not retrieval._are_the_best([1, 2, 3, 4], similarities)
    assert not retrieval._are_the_best([1, 1, 2, 3, 4], [0.1, 0.9, 0.9, 0.8, 0.7])
    assert not retrieval._are_the_best([1, 2, 3, 4, 0], similarities)
    assert retrieval._are_the_best([1, 0], similarities[:2])


def test_memory_of_a_pool_does_not_depend_on_those_before_it(tmp_path: Path) -> None:
    # The same size three times, since names of figures are of sizes.
    workload = retrieval.Workload(pools=[20_000] * 3, sentences=64, checked=0, repeats=1, seed=0)
    taken = [figure.values[0] for figure in retrieval.measure(workload, tmp_path) if figure.name == "memory"]
    assert min(taken) > 0.8 * max(taken) > 0


def test_share_of_linear_is_of_the_smallest_number_of_replicas() -> None:
    found = replicas.figures({16: [80.0], 1: [10.0], 4: [38.0]}, {16: [1.5], 1: [0.1], 4: [0.4]})
    assert {f.at: f.values for f in found if f.name == "share of linear"} == {16: (0.5,), 4: (0.95,)}
    assert {f.at: f.values for f in found if f.name == "cores busy"} == {16: (1.5,), 1: (0.1,), 4: (0.4,)}


def test_curves_go_from_the_smallest_to_the_largest() -> None:
    figures = [Figure("rate", "1/s", (float(at),), at) for at in (16, 1, 32, 4)]
    _, axes = plt.subplots()
    plots._curve(axes, figures, [])
    assert list(axes.lines[0].get_xdata()) == [1, 4, 16, 32]
    plt.close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that `running.el4ner` takes for el4ner: it notes its process and waits to be ended."""
    (tmp_path / "waiting_program.py").write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n", "utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return "waiting_program"


def test_what_is_watched_ends_with_the_watching(tmp_path: Path, program: str) -> None:
    class Failing(running.Watched):
        def look(self, pid: int) -> None:
            if Path("pid").exists() and Path("pid").read_text("utf-8"):
                raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        running.el4ner(tmp_path, "name", {}, program=program, watched=Failing())
    assert not psutil.pid_exists(int(Path("pid").read_text("utf-8")))


def test_a_run_leaves_nothing_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program_that_writes.py").write_text(
        "import pathlib, sys\nout = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])\n"
        "out.mkdir()\n(out / 'run.json').write_text('{}')\n",
        "utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(running, "_POLL_SECONDS", 0.05)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text('{"of": "another"}', "utf-8")
    run = running.annotate(tmp_path, tmp_path / "corpus", tmp_path / "pool", "out", {}, program="program_that_writes")
    assert run.content == {}
    assert [file.name for file in run.output.iterdir()] == ["run.json"]


@pytest.mark.parametrize(("changed", "of_gone"), [(False, "missed"), (True, "not measured")])
def test_table_tells_what_is_missed_and_what_was_not_measured(changed: bool, of_gone: str) -> None:
    console = Console(width=140, record=True)
    rate, loss, gone = Floor("rate", 10, at_least=200), Floor("loss", at_most=1), Floor("gone", at_most=1)
    missed = bench.missed([rate, loss, gone], FIGURES, changed=changed)
    assert missed == ([rate] if changed else [rate, gone])
    console.print(bench.table(FIGURES, [rate, loss, gone], missed))
    lines = [line for line in console.export_text().splitlines() if line.startswith("│")]
    ends = [line.split("│")[-2].strip() for line in lines]
    assert ends == ["missed", "", "kept", of_gone]
    assert "100" in lines[0]
    assert "90 to 110 (3)" in lines[0]


@pytest.mark.parametrize(("at_least", "size", "status"), [(1, 20, 0), (10**12, 20, 1), (10**12, 10, 0)])
def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_least: int, size: int, status: int) -> None:
    file = tmp_path / "scenarios.yaml"
    workload = "{pools: [20], sentences: 8, checked: 8, repeats: 2, seed: 1}"
    floor = f"{{figure: sentences a second, at: 20, at_least: {at_least}}}"
    file.write_text(f"retrieval: {{about: a small one, workload: {workload}, floors: [{floor}]}}", "utf-8")
    monkeypatch.setattr(bench, "SCENARIOS", file)
    app = bench.typer.Typer()
    app.command()(bench.main)
    done = CliRunner().invoke(
        app, ["--only", "retrieval", "--set", f"retrieval.pools=[{size}]", "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == status, done.output
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert {"cpu", "cores", "versions", "commit"} <= results["environment"].keys()
    [scenario] = results["scenarios"].values()
    assert scenario["workload"]["pools"] == [size]
    assert len(scenario["missed"]) == status
    by_name = {figure["name"]: figure["values"] for figure in scenario["figures"]}
    assert len(by_name["sentences a second"]) == 2
    assert by_name["different from the reference"] == [0.0]
    assert (tmp_path / "out" / "retrieval.png").read_bytes().startswith(b"\x89PNG")
