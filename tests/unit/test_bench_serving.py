"""What measures the overhead of the API: the same rounds of calls on both sides, and a server that nothing holds up."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

from benchmarks import bare_calls, serve_load
from benchmarks.serve_load import Took


def test_every_bare_request_makes_the_calls_that_a_served_one_makes() -> None:
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(3)]
    engines = [spawn.Process(target=bare_calls._engine, args=(told, 0.01), daemon=True) for _, told in pipes]
    for engine in engines:
        engine.start()
    try:
        ports = [heard.recv() for heard, _ in pipes]
        took = asyncio.run(bare_calls._measured(ports, clients=4, seconds=1.0, spread=0.0))
    finally:
        for engine in engines:
            engine.terminate()
            engine.join()
    asked = {"requests": 1, "seconds": 0.01}
    all_of_them = {"fake-a": asked, "fake-b": asked, "fake-c": asked}
    served = serve_load.rounds({"extract": all_of_them, "classify": all_of_them, "verify": {"fake-a": asked}})
    assert len(took) >= 4
    assert {one.calls for one in took} == {len(served)}


def test_rates_are_of_all_the_time_until_the_last_answer() -> None:
    told = bare_calls.figures([Took(0.5, 0.5, 0.4, 4)] * 30, seconds=12.0, latency=0.1)
    assert told["requests_per_second"] == 2.5
    assert told["overhead_ms"]["p50"] == told["beyond_latency_ms"]["p50"] == 100.0


def test_a_server_that_tells_much_is_not_held_up(tmp_path: Path) -> None:
    says = "import sys; print('listening', file=sys.stderr, flush=True); sys.stderr.write('x' * 1_000_000)"
    with serve_load.listening([sys.executable, "-c", says], dict(os.environ), tmp_path / "log") as server:
        assert server.wait(timeout=20) == 0


def test_a_server_that_does_not_start_is_told_with_its_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no room for it')"]
    with (
        pytest.raises(SystemExit, match="no room for it"),
        serve_load.listening(command, dict(os.environ), tmp_path / "log"),
    ):
        pass
