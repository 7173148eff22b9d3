"""The discrete-event model agrees with what can be reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from el4ner_ray.config import load

scale_sim = pytest.importorskip("benchmarks.scale_sim", reason="simpy is not installed: requirements/dev.txt")
PAPER = load(profile="paper")
FREE = scale_sim.Costs(stage=dict.fromkeys(scale_sim.Costs().stage, 0.0), task=0.0, call=0.0)


def test_engines_alone_are_the_limit_where_nothing_else_costs() -> None:
    result = scale_sim.simulate(PAPER, gpus=4, sentences=160, in_flight=32, retrievers=1, costs=FREE)
    assert result.limit in PAPER.model_names
    assert result.sentences_per_second == pytest.approx(result.engines_alone, rel=0.05)


def test_slow_retrieval_is_the_limit_until_more_actors_share_it() -> None:
    slow = replace(FREE, stage=FREE.stage | {"retrieve": 0.2})
    one, four = (scale_sim.simulate(PAPER, 4, 160, 32, retrievers, slow) for retrievers in (1, 4))
    assert one.limit == "retrieve"
    assert one.sentences_per_second == pytest.approx(5, rel=0.05)
    assert four.sentences_per_second == pytest.approx(four.engines_alone, rel=0.05)


def test_few_batches_in_flight_leave_engines_idle() -> None:
    result = scale_sim.simulate(PAPER, gpus=24, sentences=160, in_flight=1, retrievers=1, costs=FREE)
    assert result.limit == "batches in flight"
    assert result.sentences_per_second < 0.7 * result.engines_alone


def test_what_grows_with_the_documents() -> None:
    grows = scale_sim.grows_with_documents(PAPER, 10**9, scale_sim.Costs())
    assert grows["driver, rows when it resumes"] == "196 GB"
    assert grows["output files"] == "500,000"
