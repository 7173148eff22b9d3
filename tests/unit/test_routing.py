"""Which replica a batch's calls go to: all stages agree without talking, and no replica gets more than another."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import RequestRouterConfig

from el4ner_ray.engines.routing import TurnRouter
from el4ner_ray.labelled import LabelledText
from el4ner_ray.pipeline import pool_blocks
from el4ner_ray.schema import BATCH

DEPLOYMENT = DeploymentID("qwen", "el4ner-01000000-qwen")


def router(ids: list[str], kind: type[Any] = TurnRouter) -> Any:
    """As a process of its own sees these replicas; Serve's own set-up needs a cluster."""
    made = object.__new__(kind)
    made._deployment_id, made._num_virtual_nodes, made._num_fallback_replicas = DEPLOYMENT, 100, 2
    made._rebuild_ring(frozenset(ReplicaID(name, DEPLOYMENT) for name in ids))
    return made


def first(router: Any, session: int | str) -> str:
    name: str = router._lookup_ranked_replicas(str(session))[0].unique_id
    return name


@pytest.mark.parametrize("count", [1, 2, 3, 16])
@pytest.mark.parametrize("files", [1, 48])
def test_replicas_get_the_same_number_of_blocks(count: int, files: int) -> None:
    seen = router([f"r{number:02}" for number in range(count)])
    sessions = [file << 32 | block for file in range(files) for block in range(48 * 5 // files or 1)]
    of_replica = Counter(first(seen, session) for session in sessions)
    assert len(of_replica) == count
    assert max(of_replica.values()) - min(of_replica.values()) <= 1


@pytest.mark.parametrize("count", [2, 3, 4, 16])
def test_sentences_of_a_pool_use_all_replicas(count: int) -> None:
    pool = [LabelledText(f"p{number}", "Anna met Ben.", ()) for number in range(16 * 16)]
    sessions = [block[BATCH][0].as_py() for block in pool_blocks(pool, range(len(pool)))]
    seen = router([f"r{number:02}" for number in range(count)])
    assert len({first(seen, session) for session in sessions}) == count


def test_every_process_chooses_the_same() -> None:
    ids = [f"{number:x}" for number in random.Random(0).sample(range(1 << 30), 7)]
    one, other = router(ids), router(list(reversed(ids)))
    assert [first(one, session) for session in range(50)] == [first(other, session) for session in range(50)]


def test_a_full_replica_gives_way_to_those_that_follow() -> None:
    seen = router(["a", "b", "c", "d"])
    assert [replica.unique_id for replica in seen._lookup_ranked_replicas("3")] == ["d", "a", "b"]
    assert [replica.unique_id for replica in router(["a"])._lookup_ranked_replicas("3")] == ["a"]
    assert router([])._lookup_ranked_replicas("3") == []


def test_calls_without_a_session_are_spread() -> None:
    seen = router(["a", "b", "c"])
    assert {first(seen, f"4f1c-{number}") for number in range(60)} == {"a", "b", "c"}


def test_serve_takes_it_along() -> None:
    config = RequestRouterConfig(request_router_class="el4ner_ray.engines.routing.TurnRouter")
    assert first(router(["a", "b"], config.get_request_router_class()), 1) == "b"
