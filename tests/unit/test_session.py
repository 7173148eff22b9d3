"""Joining Ray; `ray.init` itself is replaced here, the real one runs in tests/integration and tests/faults."""

import os
import signal
from typing import Any

import pytest
import ray

from el4ner_ray import cluster, orphans


@pytest.mark.parametrize(("raised", "status"), [(15, 143), (1, 1)])
def test_a_signal_while_ray_starts_ends_with_the_usual_status(
    monkeypatch: pytest.MonkeyPatch, raised: int, status: int
) -> None:
    def init(**_: Any) -> None:
        raise SystemExit(raised)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(orphans, "end", lambda _: 0)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, cluster.session():
        pass
    assert ended.value.code == status
    assert signal.getsignal(signal.SIGTERM) == handler
    assert orphans.MARK not in os.environ
