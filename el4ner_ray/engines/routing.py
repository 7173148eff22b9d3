"""Which replica of a model gets a batch's calls: Ray Serve's router with sessions that take the replicas in turn.

All stages of a batch go to one replica, which has their prefixes cached. Which one must be clear to each stage's
process by itself. By a hash of the session, as Serve's router chooses, some replicas get more batches than others, and
the pipeline, which keeps a bounded number in flight, waits for those.
"""

from __future__ import annotations

from ray.serve._private.common import ReplicaID
from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter


class TurnRouter(ConsistentHashRouter):  # type: ignore[misc]
    """Sessions are numbers of batches (`schema.BATCH`): the number of a read task, and 32 bits for a block of it.

    Blocks that follow each other, and tasks that do, go to replicas that follow each other. When one is full, the next
    ones are asked, as by the hash. A replica that dies or joins moves most sessions, which then compute their prefix
    once more. Calls without a session are spread by the hash.
    """

    def _rebuild_ring(self, new_snapshot: frozenset[ReplicaID]) -> None:
        super()._rebuild_ring(new_snapshot)
        self._in_turn = sorted(new_snapshot, key=lambda replica: replica.unique_id)

    def _lookup_ranked_replicas(self, routing_key: str) -> list[ReplicaID]:
        count = len(self._replica_set_snapshot)
        if not count or not routing_key.isdecimal():
            ranked: list[ReplicaID] = super()._lookup_ranked_replicas(routing_key)
            return ranked
        task, block = divmod(int(routing_key), 1 << 32)
        return [
            self._in_turn[(task + block + rank) % count] for rank in range(min(count, 1 + self._num_fallback_replicas))
        ]
