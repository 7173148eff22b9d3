"""What `el4ner serve` adds to the engines, with scripted engines of a known latency.

    benchmarks/serve_load.py --clients 1 50 --rates 5 10 20 --latency-ms 500

Loads follow each other on one server: so many clients that each send one sentence after another, and sentences that
arrive at random, so many a second, whatever became of those before. The engines alone would take what each stage's
calls took them, which wait for those of the stage before; what a request takes longer is the overhead: HTTP, Serve's
handles, the stages, and waiting for a core. An engine's own time is from a call's arrival to its answer, as the answer
says; it sleeps for its latency, and is woken up some tenths of a millisecond to some milliseconds late, which
`beyond_latency_ms` counts, too. The client runs on the same machine, so its work counts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import psutil

LABELS = {"person": "named people", "place": "cities and rivers"}
WARM_UP = 100


class Took(NamedTuple):
    """Of a request: seconds at the client, in the stages and in the engines; engine calls that followed each other."""

    client: float
    stages: float
    engines: float
    calls: int


Ask = Callable[[int], Coroutine[Any, Any, Took]]


@dataclass
class Load:
    """What one load measured."""

    name: str
    took: list[Took]
    seconds: float
    cpu_seconds: dict[str, float]
    cores_of_others: float


def main() -> None:
    """Start a server, load it, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 50], help="clients at once, of each load")
    parser.add_argument("--rates", type=float, nargs="*", default=[10.0], help="requests/s, of each further load")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--latency-ms", type=float, default=500.0, help="of every call to an engine")
    parser.add_argument("--pool", help="folder of an index: demonstrations are retrieved for each sentence")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "job.yaml"
        config.write_text(f"fake: {{latency_ms: {arguments.latency_ms}}}\n", "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "el4ner_ray", "serve", "--profile", "fake", "--config", str(config)]
        command += ["--port", str(port), *(["--pool", arguments.pool] if arguments.pool else [])]
        open_to_all = {name: value for name, value in os.environ.items() if name != "EL4NER_API_KEY"}
        with listening(command, open_to_all, Path(folder) / "server.log") as server:
            loads = asyncio.run(measured(f"http://127.0.0.1:{port}", server.pid, arguments))
    for load in loads:
        print(json.dumps(figures(load, arguments.latency_ms), indent=2))


@contextmanager
def listening(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server from when it says that it listens; it is ended afterwards. Exits with its words where it does not start.

    What it tells goes into a file: a pipe that nobody reads would hold it up once it is full.
    """
    with log.open("wb") as told:
        server = subprocess.Popen(command, stderr=told, env=environment)
    try:
        while b"listening" not in log.read_bytes():
            if server.poll() is not None:
                sys.exit(f"the server does not start:\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.1)
        yield server
    finally:
        server.terminate()
        server.wait(timeout=60)


async def measured(url: str, server: int, arguments: argparse.Namespace) -> list[Load]:
    """All loads, on a server that has answered before."""
    pool = None if arguments.pool else LABELS
    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=limits, timeout=aiohttp.ClientTimeout(120)) as session:

        async def ask(number: int) -> Took:
            body = {"texts": [f"Anna{number} met Ben{number + 7} in Oslo."], "labels": pool}
            began = time.perf_counter()
            async with session.post("/v1/annotate", json=body) as response:
                answer = await response.json()
                seconds = time.perf_counter() - began
                response.raise_for_status()
            followed = rounds(answer["stages"])
            return Took(seconds, answer["seconds"], sum(followed), len(followed))

        await asyncio.gather(*map(ask, range(WARM_UP)))
        runs = [
            (f"{clients} clients", closed(ask, clients, arguments.seconds, 3 * arguments.latency_ms / 1000))
            for clients in arguments.clients
        ] + [(f"{rate:g} requests/s", opened(ask, rate, arguments.seconds)) for rate in arguments.rates]
        return [await observed(name, server, run) for name, run in runs]


async def closed(ask: Ask, clients: int, seconds: float, spread: float) -> list[Took]:
    """Clients that wait for an answer before they ask again, for so many seconds."""
    took: list[Took] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        # Clients that start as one would go on as one: every engine call of all 50 would end at the same time.
        await asyncio.sleep(number / clients * spread)
        while time.perf_counter() < end:
            took.append(await ask(next(numbers)))

    numbers = itertools.count()
    await asyncio.gather(*map(client, range(clients)))
    return took


async def opened(ask: Ask, rate: float, seconds: float) -> list[Took]:
    """Requests that arrive independently of each other (a Poisson process), for so many seconds."""
    gaps = random.Random(0)
    asked: list[asyncio.Task[Took]] = []
    arrival = began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        while (arrival := arrival + gaps.expovariate(rate)) < began + seconds:
            await asyncio.sleep(arrival - time.perf_counter())
            asked.append(tasks.create_task(ask(len(asked))))
    return [task.result() for task in asked]


async def observed(name: str, server: int, run: Awaitable[list[Took]]) -> Load:
    """Run a load, and count the CPU time of each kind of process meanwhile."""
    before, all_before, began = cpu_seconds(server), busy_seconds(), time.perf_counter()
    took = await run
    seconds = time.perf_counter() - began
    spent = {name: after - before.get(name, 0.0) for name, after in cpu_seconds(server).items()}
    return Load(name, took, seconds, spent, (busy_seconds() - all_before - sum(spent.values())) / seconds)


def cpu_seconds(server: int) -> dict[str, float]:
    """CPU seconds so far of the server's processes, by what they do, and of this one."""
    found: dict[str, float] = defaultdict(float, client=time.process_time())
    for process in [psutil.Process(server), *psutil.Process(server).children(recursive=True)]:
        try:
            times = process.cpu_times()
            found[kind(process.cmdline())] += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return found


def kind(command: list[str]) -> str:
    """What a process of the server does, by its command line."""
    title = command[0] if command else ""
    if title.startswith("ray::ServeReplica"):
        return "api" if title.split(":")[-1].split(".")[0] == "api" else "engines"
    return "rest of Ray"


def busy_seconds() -> float:
    """CPU seconds of the machine so far that were not idle."""
    times = psutil.cpu_times()
    return float(sum(times[:3]) + times.irq + times.softirq)


def rounds(stages: dict[str, dict[str, dict[str, float]]]) -> list[float]:
    """Engine seconds of the calls that followed each other, of each the longest beside it: one a stage, and another
    where the last model had to vote, too.
    """
    found = []
    for stage, models in stages.items():
        if stage == "retrieve":  # asks the embedder, no engine
            continue
        # All questions of a sentence are one call, and each says how long that took.
        took = {name: usage["seconds"] / usage["requests"] for name, usage in models.items() if usage["requests"]}
        if stage == "classify" and "fake-c" in took:
            found.append(took.pop("fake-c"))
        if took:
            found.append(max(took.values()))
    return found


def figures(load: Load, latency_ms: float) -> dict[str, Any]:
    """Percentiles in ms of the overhead above the engines and of the part that the stages see; CPU ms a request."""
    above = [1000 * (took.client - took.engines) for took in load.took]
    inside = [1000 * (took.stages - took.engines) for took in load.took]
    late = [1000 * took.client - took.calls * latency_ms for took in load.took]
    requests = len(load.took)
    return {
        "load": load.name,
        "requests": requests,
        "requests_per_second": round(requests / load.seconds, 1),
        "overhead_ms": percentiles(above),
        "in_stages_ms": percentiles(inside),
        "beyond_latency_ms": percentiles(late),
        "cpu_ms_per_request": {
            name: round(1000 * seconds / requests, 1) for name, seconds in sorted(load.cpu_seconds.items())
        },
        "cores_busy": round(sum(load.cpu_seconds.values()) / load.seconds, 2),
        "cores_of_others": round(load.cores_of_others, 2),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """The 50th and the 95th."""
    return {f"p{which}": round(float(np.percentile(values, which)), 1) for which in (50, 95)}


if __name__ == "__main__":
    main()
