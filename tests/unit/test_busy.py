"""How long engines worked, apart from how long requests waited in them; on a clock that nobody waits for."""

from __future__ import annotations

import asyncio
import selectors
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
import pytest

from el4ner_ray.config import FakeEngine, JobConfig, load
from el4ner_ray.costs import measured
from el4ner_ray.engines.base import Completion, Request
from el4ner_ray.engines.fake import ScriptedEngine
from el4ner_ray.engines.vllm import VllmEngine
from el4ner_ray.plan import plan_gpus
from el4ner_ray.schema import Usage
from el4ner_ray.stages.base import Ledger

PAPER = load(profile="paper")
STAGES = ("pre_extract", "extract", "classify")


class _NoWaiting(selectors.SelectSelector):
    """Where an event loop would wait, its clock goes on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class _Simulated(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _NoWaiting()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def simulated(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Run it to its end; the seconds that it took by the simulated clock."""
    with asyncio.Runner(loop_factory=_Simulated) as runner:
        loop = runner.get_loop()
        monkeypatch.setattr(time, "perf_counter", loop.time)
        runner.run(run())
        took = loop.time()
        monkeypatch.undo()
    return took


def engine(model: str, seconds: float) -> ScriptedEngine:
    """One that takes so long for a call, one after another."""
    return ScriptedEngine(model, FakeEngine(latency_ms=seconds * 1000, calls_at_once=1))


def closed_pipeline(
    monkeypatch: pytest.MonkeyPatch, costs: Mapping[str, float], replicas: Mapping[str, int], batches: int
) -> dict[str, Any]:
    """run.json of so many batches of one sentence, each asked in each stage of every model.

    As in a run, a stage has 16 batches in flight. `costs` are seconds of a replica for a sentence in all stages.
    """
    engines = {name: [engine(name, costs[name] / len(STAGES)) for _ in range(replicas[name])] for name in costs}
    ledgers = {stage: Ledger(stage) for stage in STAGES}
    room = {stage: asyncio.Semaphore(16) for stage in STAGES}

    async def ask(stage: str, name: str, batch: int) -> None:
        replica = engines[name][batch % replicas[name]]
        for completion in await replica.generate([Request((f"Sentence: Anna {batch}",))]):
            ledgers[stage].count(name, completion)

    async def travel(batch: int) -> None:
        for stage in STAGES:
            async with room[stage]:
                await asyncio.gather(*(ask(stage, name, batch) for name in costs))

    async def all_travel() -> None:
        await asyncio.gather(*map(travel, range(batches)))

    wall = simulated(monkeypatch, all_travel)
    models = [m.model_copy(update={"replicas": replicas[m.name]}) for m in PAPER.models]
    return {
        "status": "finished",
        "config": PAPER.model_copy(update={"models": tuple(models)}).model_dump(mode="json"),
        "documents": {"total": batches},
        "sentences": batches,
        "sentences_per_second": batches / wall,
        "startup_seconds": 0.0,
        "sessions": [{"sentences": batches}],
        "stages": {stage: msgspec.to_builtins(dict(ledger.usage)) for stage, ledger in ledgers.items()},
        "cores": 2,
    }


@pytest.mark.parametrize("replicas", [(1, 1, 1), (2, 1, 1), (1, 1, 2)])
def test_a_plan_sees_what_models_cost_and_not_how_long_requests_wait(
    monkeypatch: pytest.MonkeyPatch, replicas: tuple[int, ...]
) -> None:
    # Once nearly all in flight waited at the bottleneck: it seemed to cost several times as much as any other model.
    costs = dict(zip(PAPER.model_names, (1.0, 0.8, 0.5), strict=True))
    run = closed_pipeline(monkeypatch, costs, dict(zip(costs, replicas, strict=True)), batches=200)
    known = measured(run, "out").costs
    first = PAPER.model_names[0]
    assert {name: known[name] / known[first] for name in costs} == pytest.approx(costs, rel=0.02)
    plan = plan_gpus(PAPER, known, 8)
    assert [model.replicas for model in plan.models] == [3, 3, 2]
    true = min(model.replicas / costs[model.model] for model in plan.models)
    assert plan.sentences_per_second == pytest.approx(true, rel=0.05)


def test_busy_time_is_that_in_which_there_is_any_request(monkeypatch: pytest.MonkeyPatch) -> None:
    total: dict[str, Usage] = defaultdict(Usage)

    async def work() -> None:
        busy = ScriptedEngine("a", FakeEngine(latency_ms=2000))

        async def ask(after: float) -> None:
            await asyncio.sleep(after)
            for completion in await busy.generate([Request(("Sentence: Anna",)), Request(("Sentence: Ben",))]):
                ledger = Ledger("extract", total)
                ledger.count("a", completion)

        async def give_up() -> None:
            await asyncio.sleep(10)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ask(0), 1)

        # From 0 to 3.5 without a gap, from 10 to 11 for one that nobody waits for, and from 20 to 22.
        await asyncio.gather(ask(0), ask(1.5), give_up(), ask(20))

    simulated(monkeypatch, work)
    assert total["a"].busy_seconds == pytest.approx(3.5 + 1 + 2)
    assert total["a"].seconds == pytest.approx(3 * 2 * 2.0)


def test_an_engine_of_vllm_tells_how_long_it_was_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[Completion] = []

    async def work() -> None:
        async def asked(_: VllmEngine, request: Request) -> Completion:
            await asyncio.sleep(request.max_tokens)
            return Completion("", error="too long" if request.max_tokens == 2 else "")

        monkeypatch.setattr(VllmEngine, "_asked", asked)
        answered.extend(await _unloaded().generate([Request(("x",), max_tokens=n) for n in (1, 2, 5)]))

    simulated(monkeypatch, work)
    assert [completion.busy_seconds for completion in answered] == pytest.approx([1, 1, 3])


def _unloaded() -> VllmEngine:
    from el4ner_ray.engines.busy import BusyTime

    engine = object.__new__(VllmEngine)
    engine._busy = BusyTime()
    return engine


def shared(config: JobConfig, cores: int) -> tuple[str, ...]:
    usage = {name: {"busy_seconds": 10.0} for name in config.model_names}
    run = {
        "status": "finished",
        "config": config.model_dump(mode="json"),
        "documents": {"total": 1},
        "sentences": 1,
        "sentences_per_second": 1.0,
        "startup_seconds": 0.0,
        "sessions": [{"sentences": 1}],
        "stages": {"extract": usage},
        "cores": cores,
    }
    return measured(run, "out").notes


def test_what_engines_shared_in_the_measured_run_is_told() -> None:
    assert shared(PAPER, 2) == ()
    assert "shared a card" in shared(load(profile="single-gpu"), 2)[0]
    assert shared(load(profile="paper-one-gpu"), 2) == ()  # of models in turns, one at a time works
    cpu = load(profile="tiny-cpu")
    assert "shared a core" in shared(cpu, 2)[0]
    assert shared(cpu, 3) == ()
