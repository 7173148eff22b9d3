"""A session of its own on this machine."""

import logging
import threading

import pytest
import ray

from el4ner_ray import cluster


@pytest.mark.timeout(120)
def test_what_rays_memory_monitor_ends_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.01")

    def waits() -> None:
        threading.Event().wait()

    with (
        caplog.at_level(logging.WARNING, "el4ner_ray.cluster"),
        pytest.raises(ray.exceptions.OutOfMemoryError),
        cluster.session(),
    ):
        ray.get(ray.remote(waits).options(max_retries=0).remote())
    (told,) = [record.getMessage() for record in caplog.records if record.name == "el4ner_ray.cluster"]
    assert "for want of memory, 1 in all (the last time with " in told
    assert "GB used / " in told
