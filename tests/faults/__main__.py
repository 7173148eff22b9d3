"""`make faults`: hurt runs at random moments, let them recover, and compare with a run that was left alone.

    python -m tests.faults [--only FAULT,…] [--share 0.1] [--seed 7] [--folder out/faults]

Prints a table and writes it as FOLDER/faults.json. Each fault is a function below; `FAULTS` says how often it strikes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from tests.conftest import ROOT
from tests.faults.bench import ENGINE_REPLICA, STAGE_ACTOR, Annotation, Bench, compare, files, rows

DOCUMENTS = 240
REAL_DOCUMENTS = 24
ANNOTATING_SECONDS = 25.0  # about what an undisturbed run takes
RUNS_UNTIL_DONE = 8  # kills of one run's driver before it is let through


@dataclass
class Outcome:
    """What a fault did: `moments` are seconds since annotation began, `recovery` seconds until the next commit.

    With SIGTERM, `recovery` has the seconds until all processes had ended; with engines that hang, those of whole runs.
    `differing` are rows of real models that are not as in the undisturbed run.
    """

    fault: str
    tried: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    moments: list[float] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)
    note: str = ""
    differing: int | None = None

    def judge(self, output: Path, undisturbed: Path) -> None:
        """Add what an output has wrong."""
        difference = compare(output, undisturbed)
        self.lost += difference.lost
        self.duplicated += difference.duplicated
        self.wrong += difference.wrong


@dataclass
class Suite:
    """What the faults share."""

    bench: Bench
    undisturbed: Path
    chance: random.Random
    outputs: int = 0

    @cached_property
    def real(self) -> Suite:
        """The same with fewer documents and the three real models of `tiny-cpu`."""
        bench = Bench(self.bench.folder / "real", REAL_DOCUMENTS, self.bench.index, profile="tiny-cpu")
        bench.finish(bench.folder / "undisturbed")
        return Suite(bench, bench.folder / "undisturbed", self.chance)

    def output(self) -> Path:
        """A new output folder."""
        self.outputs += 1
        return self.bench.folder / f"out-{self.outputs}"


def driver(suite: Suite, outcome: Outcome, times: int, how: signal.Signals) -> None:
    """The driver is ended at a random moment, start-up included; so is the run that resumes, and so on."""
    while outcome.tried < times and not outcome.note:
        output = suite.output()
        for _ in range(min(RUNS_UNTIL_DONE, times - outcome.tried)):
            # One in five dies while it starts.
            moment = (
                suite.chance.uniform(-15, 0)
                if suite.chance.random() < 0.2
                else suite.chance.uniform(0, ANNOTATING_SECONDS)
            )
            with suite.bench.start(output) as run:
                if moment < 0:
                    alive = run.sleep(15 + moment)
                else:
                    alive = run.until("el4ner: engines are ready") and run.sleep(moment)
                if not alive:
                    _must_end_well(run, outcome)
                    break
                run.process.send_signal(how)
                killed = time.monotonic()
                status = run.wait(60)
                if how == signal.SIGTERM:
                    outcome.recovery.append(time.monotonic() - killed)
                    # Before Python's handler is there, the signal itself ends it. Ray's agents follow within seconds.
                    _, left = psutil.wait_procs(run.processes(""), timeout=30)
                    if status not in (128 + how, -how) or left:
                        outcome.note = f"exit {status}, {len(left)} processes left"
            outcome.tried += 1
            outcome.moments.append(moment)
            outcome.duplicated += rows(output)[1]
        began = time.monotonic()
        with suite.bench.start(output) as last:
            if how == signal.SIGKILL:
                outcome.recovery.append(_next_commit(last, len(files(output)), began))
            _must_end_well(last, outcome)
        outcome.judge(output, suite.undisturbed)


def killed(suite: Suite, outcome: Outcome, times: int, title: str) -> None:
    """A process of the run is killed every few seconds while the run goes on."""
    while outcome.tried < times and not outcome.note:
        output = suite.output()
        with suite.bench.start(output, latency_ms=1500) as run:
            alive = run.until("el4ner: engines are ready")
            began = time.monotonic()
            while alive and outcome.tried < times:
                alive = run.sleep(suite.chance.uniform(1, 6))
                victims = run.processes(title)
                if not alive or not victims:
                    continue
                try:
                    suite.chance.choice(victims).kill()
                except psutil.NoSuchProcess:
                    continue  # it ended by itself meanwhile
                outcome.tried += 1
                outcome.moments.append(time.monotonic() - began)
                outcome.recovery.append(_next_commit(run, len(files(output)), time.monotonic()))
            _must_end_well(run, outcome)
        outcome.judge(output, suite.undisturbed)


def node(suite: Suite, outcome: Outcome, times: int) -> None:
    """A worker node of a cluster of three dies with all its processes, and another joins."""
    from ray.cluster_utils import Cluster

    while outcome.tried < times and not outcome.note:
        output = suite.output()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        try:
            workers = [cluster.add_node(num_cpus=2) for _ in range(2)]
            with suite.bench.start(output, environment={"RAY_ADDRESS": cluster.address}, latency_ms=1500) as run:
                alive = run.until("el4ner: engines are ready")
                began = time.monotonic()
                while alive and outcome.tried < times:
                    alive = run.sleep(suite.chance.uniform(3, 12))
                    if not alive:
                        break
                    cluster.remove_node(workers[0], allow_graceful=False)
                    workers = [*workers[1:], cluster.add_node(num_cpus=2)]
                    outcome.tried += 1
                    outcome.moments.append(time.monotonic() - began)
                    outcome.recovery.append(_next_commit(run, len(files(output)), time.monotonic()))
                _must_end_well(run, outcome)
        finally:
            cluster.shutdown()
        outcome.judge(output, suite.undisturbed)


def hang(suite: Suite, outcome: Outcome, times: int) -> None:
    """Each engine stops answering, its health check too, after some calls; Serve restarts it, and it does so again."""
    for _ in range(times):
        output, began = suite.output(), time.monotonic()
        with suite.bench.start(output, hang_after=100) as run:
            _must_end_well(run, outcome)
        outcome.tried += 1
        outcome.recovery.append(time.monotonic() - began)
        outcome.judge(output, suite.undisturbed)


def garbage(suite: Suite, outcome: Outcome, times: int) -> None:
    """30 % of the answers are nonsense, and the driver is killed."""
    reference = suite.output()
    suite.bench.finish(reference, garbage_rate=0.3)
    for _ in range(times):
        output = suite.output()
        with suite.bench.start(output, garbage_rate=0.3) as run:
            if run.until("el4ner: engines are ready") and run.sleep(suite.chance.uniform(5, ANNOTATING_SECONDS / 2)):
                run.process.kill()
                run.wait()
                outcome.tried += 1
        began = time.monotonic()
        with suite.bench.start(output, garbage_rate=0.3) as last:
            outcome.recovery.append(_next_commit(last, len(files(output)), began))
            _must_end_well(last, outcome)
        outcome.judge(output, reference)


def failing(suite: Suite, outcome: Outcome, times: int) -> None:
    """20 % of the calls fail."""
    for _ in range(times):
        output = suite.output()
        with suite.bench.start(output, failure_rate=0.2) as run:
            _must_end_well(run, outcome)
        outcome.tried += 1
        outcome.judge(output, suite.undisturbed)


def disk_full(suite: Suite, outcome: Outcome, times: int) -> None:
    """The disk is full in the middle of the run: a line, exit status 1; with more room, the same command goes on."""
    for _ in range(times):
        with _small_disk(suite.output(), "200k") as output:
            with suite.bench.start(output) as run:
                status = run.wait()
            last = run.told().splitlines()[-1]
            if status != 1 or "No space left on device" not in last or not files(output):
                outcome.note = f"exit {status} after {len(files(output))} files: {last}"
            outcome.duplicated += rows(output)[1]
            _mount("remount,size=50m", output)
            began = time.monotonic()
            with suite.bench.start(output) as again:
                outcome.recovery.append(_next_commit(again, len(files(output)), began))
                _must_end_well(again, outcome)
            outcome.tried += 1
            outcome.judge(output, suite.undisturbed)


def read_only(suite: Suite, outcome: Outcome, times: int) -> None:
    """The output folder cannot be written to: a line, exit status 2, no model is loaded."""
    for _ in range(times):
        with _small_disk(suite.output(), "50m") as output:
            _mount("remount,ro", output)
            with suite.bench.start(output) as run:
                if run.wait() != 2 or "Read-only file system" not in run.told() or "starting engines" in run.told():
                    outcome.note = f"exit {run.process.returncode}: {run.told()}"
            _mount("remount,rw", output)
            with suite.bench.start(output) as again:
                _must_end_well(again, outcome)
            outcome.tried += 1
            outcome.judge(output, suite.undisturbed)


def input_changed(suite: Suite, outcome: Outcome, times: int) -> None:
    """A text changes between a killed run and its resumption: refused, naming the document; restored, it goes on."""
    original = suite.bench.corpus.read_bytes()
    for _ in range(times):
        output = suite.output()
        shutil.copytree(suite.undisturbed, output)
        files(output)[0].unlink()
        number, _ = suite.chance.choice(sorted(rows(output)[0]))
        suite.bench.corpus.write_bytes(original.replace(f"year {number}.".encode(), f"year {number}!".encode()))
        with suite.bench.start(output) as run:
            if run.wait() != 2 or f"the text of document '{number}'" not in run.told():
                outcome.note = f"exit {run.process.returncode}: {run.told()}"
        suite.bench.corpus.write_bytes(original)
        began = time.monotonic()
        with suite.bench.start(output) as again:
            outcome.recovery.append(_next_commit(again, len(files(output)), began))
            _must_end_well(again, outcome)
        outcome.tried += 1
        outcome.judge(output, suite.undisturbed)


def real(suite: Suite, outcome: Outcome, times: int, strike: Callable[[Suite, Outcome, int], None]) -> None:
    """The fault with real models, whose answers may differ by rounding: that is told, and no error."""
    strike(suite.real, outcome, times)
    outcome.differing, outcome.wrong = outcome.wrong, 0


FAULTS: dict[str, tuple[int, Callable[[Suite, Outcome, int], None]]] = {
    "SIGKILL of the driver": (20, lambda s, o, n: driver(s, o, n, signal.SIGKILL)),
    "SIGKILL of an engine replica": (20, lambda s, o, n: killed(s, o, n, ENGINE_REPLICA)),
    "SIGKILL of a stage actor": (20, lambda s, o, n: killed(s, o, n, STAGE_ACTOR)),
    "death of a node": (5, node),
    "SIGTERM": (10, lambda s, o, n: driver(s, o, n, signal.SIGTERM)),
    "engines that hang": (1, hang),
    "30 % garbage, and SIGKILL": (1, garbage),
    "20 % of calls fail": (1, failing),
    "disk full": (1, disk_full),
    "output read-only": (1, read_only),
    "input changed": (1, input_changed),
    "real models: driver": (1, lambda s, o, n: real(s, o, n, lambda *r: driver(*r, signal.SIGKILL))),
    "real models: replica": (1, lambda s, o, n: real(s, o, n, lambda *r: killed(*r, ENGINE_REPLICA))),
    "real models: stage actor": (1, lambda s, o, n: real(s, o, n, lambda *r: killed(*r, STAGE_ACTOR))),
}


def _next_commit(run: Annotation, before: int, since: float) -> float:
    """Seconds from `since` until the run has committed another file, or has ended."""
    while len(files(run.output)) <= before and run.process.poll() is None:
        run.sleep(0.2)
    return time.monotonic() - since


def _must_end_well(run: Annotation, outcome: Outcome) -> None:
    if run.wait() != 0:
        outcome.note = f"exit {run.process.returncode}: {run.told().splitlines()[-1]}"


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    _mount(f"size={size}", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)


def table(outcomes: list[Outcome]) -> Table:
    """The outcomes, a row each."""
    shown = Table("fault", "times", "lost", "duplicated", "wrong", "seconds to recover", "note")
    for o in outcomes:
        seconds = sorted(o.recovery)
        span = f"{seconds[len(seconds) // 2]:.1f} (at most {seconds[-1]:.1f})" if seconds else "-"
        note = o.note or ("" if o.differing is None else f"{o.differing} rows differ")
        shown.add_row(o.fault, str(o.tried), str(o.lost), str(o.duplicated), str(o.wrong), span, note)
    return shown


def main() -> int:
    """Run the suite; 0 if nothing was lost, duplicated or wrong and every run ended as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="faults to try, by their beginnings, with commas between")
    parser.add_argument("--share", type=float, default=1.0, help="of the times that each fault is tried")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path("out/faults"))
    options = parser.parse_args()
    folder = options.folder.absolute() / f"{os.getpid()}"
    chosen = [n for n in FAULTS if options.only is None or any(n.startswith(o) for o in options.only.split(","))]
    if not chosen:
        parser.error(f"--only: there is no such fault; name some of {', '.join(FAULTS)}")
    pool, index = ROOT / "examples" / "pool.jsonl", folder / "index"
    command = [sys.executable, "-m", "el4ner_ray", "index", pool, "--output", index, "--profile", "fake"]
    subprocess.run([*command, "--pool-spans", "gold"], cwd=ROOT, check=True, capture_output=True)
    bench = Bench(folder, DOCUMENTS, index)
    suite = Suite(bench, folder / "undisturbed", random.Random(options.seed))
    # As an exception, so that what is running is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    began = time.monotonic()
    bench.finish(suite.undisturbed)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    outcomes = []
    for name in chosen:
        times, strike = FAULTS[name]
        outcome, began = Outcome(name), time.monotonic()
        try:
            strike(suite, outcome, math.ceil(times * options.share))
        except (AssertionError, OSError, psutil.Error, subprocess.CalledProcessError) as error:
            outcome.note = f"{type(error).__name__}: {error}"
        outcomes.append(outcome)
        print(f"{name}: {time.monotonic() - began:.0f} s, {asdict(outcome)}", flush=True)
        (folder / "faults.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=2))
    Console(width=160).print(table(outcomes))
    return int(any(o.lost or o.duplicated or o.wrong or o.note or not o.tried for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
