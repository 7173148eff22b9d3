"""Where the limits lie with 1,000 GPUs and 10^9 documents: a discrete-event model of the pipeline, in batches.

    pip install simpy==4.1.2
    python benchmarks/scale_sim.py --profile paper --gpus 8 64 256 1000 --documents 1000000000

A batch goes through the stages; in each it holds a place of that stage, computes on its actor, and waits for its
replica of every model. Replicas are as `el4ner plan` lays them out. What Python costs was measured (see `Costs`), what
the engines cost is the plan's, and nothing else of a cluster is in it: no network, no stragglers, no lost nodes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import simpy

from el4ner_ray.config import PROFILES, JobConfig, load
from el4ner_ray.costs import stated
from el4ner_ray.plan import Plan, plan_gpus


@dataclass(frozen=True)
class Costs:
    """What a cluster spends beside the engines. Times are seconds of one core."""

    # A sentence of examples/corpus.jsonl (13 words) in each stage, scripted engine, 201 pool sentences, one thread.
    # Stage retrieve tags it, which is nearly all of its time, and has embedded its names before.
    stage: dict[str, float] = field(
        default_factory=lambda: {
            "segment": 11e-6,
            "pre_extract": 200e-6,
            "retrieve": 1539e-6,
            "extract": 196e-6,
            "classify": 107e-6,
            "verify": 103e-6,
        }
    )
    # Assumed: what a task costs Ray Data's scheduler in the driver, and a call the router in the actor that makes it.
    task: float = 2e-3
    call: float = 2e-3
    # Python's objects for a row that is committed (`accounting.Committed`), and for an id (`corpus.survey`).
    bytes_a_committed_row: int = 196
    bytes_an_id: int = 90
    # Assumed: what one process reads of JSON lines, in documents a second.
    surveyed: float = 100_000.0


# How an engine's work on a sentence is spread over the stages that ask: computed prompt tokens and answers of the plan.
SHARES = {"pre_extract": 0.35, "extract": 0.45, "classify": 0.1, "verify": 0.1}
WARM, COUNTED = 6, 20  # times the batches that a stage may hold
OPERATORS = 8  # tasks of a batch: read, six stages, write


@dataclass(frozen=True)
class Result:
    """What a layout reaches. `busy` are the shares of time in [0, 1] of what may be the limit."""

    gpus: int
    batches_in_flight: int
    retrievers: int
    sentences_per_second: float
    engines_alone: float
    busy: dict[str, float]

    @property
    def limit(self) -> str:
        """What is busy nearly always; where nothing is, too few batches are in flight."""
        name, share = max(self.busy.items(), key=lambda item: item[1])
        return name if share > 0.9 else "batches in flight"


class Cluster:
    """The pipeline in a simulated cluster."""

    def __init__(
        self, config: JobConfig, plan: Plan, sentences: int, in_flight: int, retrievers: int, costs: Costs
    ) -> None:
        """`sentences` are those of a batch, `in_flight` the batches of each stage."""
        self.environment = simpy.Environment()
        self._numbers = itertools.count()
        self._costs, self._sentences, self._call_requests = costs, sentences, config.limits.call_requests
        self._cost = {model.model: model.cost_seconds for model in plan.models}
        self._verifier = config.verifier
        one = self.environment
        self._replicas = {m.model: [simpy.Resource(one) for _ in range(m.replicas)] for m in plan.models}
        actors = dict.fromkeys(costs.stage, 1) | {"retrieve": retrievers}
        self._places = {stage: simpy.Resource(one, in_flight) for stage in costs.stage}
        self._cores = {stage: simpy.Resource(one, actors[stage]) for stage in costs.stage}
        self._driver = simpy.Resource(one)
        self._capacity = {
            **{m.model: m.replicas for m in plan.models},
            **actors,
            "driver": 1,
        }
        self.worked = dict.fromkeys(self._capacity, 0.0)
        self.done = 0

    def feed(self) -> Iterator[simpy.Event]:
        """Batches without end, each as soon as the first stage has a place."""
        first = next(iter(self._places.values()))
        while True:
            place = first.request()
            yield place
            self.environment.process(self._batch(place))

    def busy(self, seconds: float) -> dict[str, float]:
        """The share of that time that each model's replicas, each stage's actors and the driver worked."""
        return {name: min(1.0, self.worked[name] / seconds / of) for name, of in self._capacity.items()}

    def _batch(self, place: simpy.Event) -> Iterator[simpy.Event]:
        number, stages = next(self._numbers), list(self._places)
        yield from self._work(self._driver, "driver", OPERATORS * self._costs.task)
        for position, stage in enumerate(stages):
            models = list(self._cost) if stage in SHARES and stage != "verify" else []
            models = [self._verifier] if stage == "verify" else models
            calls = len(models) * -(-self._sentences // self._call_requests)
            core = self._costs.stage[stage] * self._sentences + self._costs.call * calls
            yield from self._work(self._cores[stage], stage, core)
            answers = [self.environment.process(self._ask(model, stage, number)) for model in models]
            yield self.environment.all_of(answers)
            # The batch keeps its place until the next stage has one: back-pressure.
            if position + 1 < len(stages):
                following = self._places[stages[position + 1]].request()
                yield following
                self._places[stage].release(place)
                place = following
        self._places[stages[-1]].release(place)
        self.done += self._sentences

    def _ask(self, model: str, stage: str, number: int) -> Iterator[simpy.Event]:
        replicas = self._replicas[model]
        chosen = replicas[number % len(replicas)]
        if len(chosen.queue) > 1:  # full: the call spills over to the one with the shortest queue
            chosen = min(replicas, key=lambda replica: replica.count + len(replica.queue))
        # The verifier's share of verification is its own; for the others it lies in what they do before.
        share = SHARES[stage] if model == self._verifier else SHARES[stage] / (1 - SHARES["verify"])
        yield from self._work(chosen, model, self._cost[model] * share * self._sentences)

    def _work(self, resource: simpy.Resource, name: str, seconds: float) -> Iterator[simpy.Event]:
        with resource.request() as mine:
            yield mine
            yield self.environment.timeout(seconds)
            self.worked[name] += seconds


def simulate(config: JobConfig, gpus: int, sentences: int, in_flight: int, retrievers: int, costs: Costs) -> Result:
    """The steady state: `COUNTED` fillings of the pipeline after `WARM` others, at the speed of the engines alone."""
    plan = plan_gpus(config, stated(config), gpus)
    cluster = Cluster(config, plan, sentences, in_flight, retrievers, costs)
    longest = sentences * max(model.cost_seconds for model in plan.models)  # that a batch is computed, not waiting
    filling = max(longest, in_flight * sentences / plan.sentences_per_second)
    cluster.environment.process(cluster.feed())
    cluster.environment.run(until=WARM * filling)
    before, worked = cluster.done, dict(cluster.worked)
    cluster.environment.run(until=(WARM + COUNTED) * filling)
    cluster.worked = {name: cluster.worked[name] - worked[name] for name in worked}
    seconds = COUNTED * filling
    rate = (cluster.done - before) / seconds
    return Result(gpus, in_flight, retrievers, rate, plan.sentences_per_second, cluster.busy(seconds))


def grows_with_documents(config: JobConfig, documents: int, costs: Costs) -> dict[str, str]:
    """What no GPU changes: memory of the driver, files, and the time before the first document."""
    files = -(-documents // config.limits.documents_per_file)
    return {
        "driver, ids while it surveys": f"{documents * costs.bytes_an_id / 1e9:.0f} GB",
        "driver, rows when it resumes": f"{documents * costs.bytes_a_committed_row / 1e9:.0f} GB",
        "hours of surveying": f"{documents / costs.surveyed / 3600:.1f}",
        "output files": f"{files:,}",
        "requests to list them in S3": f"{-(-files // 1000):,}",
    }


def main() -> None:
    """Print a table for each number of GPUs, and what grows with the documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper", choices=PROFILES)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 256, 1000])
    parser.add_argument("--documents", type=int, default=10**9)
    parser.add_argument("--sentences-per-document", type=int, default=5)
    parser.add_argument("--retrievers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    config, costs = load(profile=given.profile), Costs()
    sentences = config.limits.batch_documents * given.sentences_per_document
    results = []
    for gpus in given.gpus:
        replicas = max(model.replicas for model in plan_gpus(config, stated(config), gpus).models)
        for in_flight, retrievers in {
            (config.limits.batches_in_flight, 1),
            *((4 * replicas, n) for n in given.retrievers),
        }:
            results.append(simulate(config, gpus, sentences, in_flight, retrievers, costs))
    grows = grows_with_documents(config, given.documents, costs)
    if given.json:
        told = [asdict(result) | {"limit": result.limit} for result in results]
        print(json.dumps({"results": told, "documents": given.documents, "grows": grows}, indent=2))
        return
    print("GPUs  retrievers  in flight  sentences/s  of the engines'  limit")
    for r in sorted(results, key=lambda r: (r.gpus, r.sentences_per_second)):
        share, rate = r.sentences_per_second / r.engines_alone, r.sentences_per_second
        numbers = f"{r.gpus:4d}  {r.retrievers:10d}  {r.batches_in_flight:9d}  {rate:11.1f}  {share:15.0%}"
        print(f"{numbers}  {r.limit}")
    for name, amount in grows.items():
        print(f"{name}: {amount}")


if __name__ == "__main__":
    main()
